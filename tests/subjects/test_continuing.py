"""Texts continued by reading them again at every step: the same as by hand, row by row, with edits where they say."""

from typing import Any

import pytest
import torch
from torch import nn

from sparselight.errors import SubjectError
from sparselight.intervene import edit_functions
from sparselight.intervene.generate import can_generate, generate_with
from sparselight.protocols import Batch, Example
from sparselight.records import Edit, Where
from sparselight.sae import Sae
from sparselight.subjects import ModuleSubject

LETTERS = "abcdefgh."
STOP = LETTERS.index(".")


class Reader(nn.Module):
    """Sums of what was read, so that order and every letter matter."""

    def __init__(self) -> None:
        super().__init__()
        self.letters, self.mix, self.head = nn.Embedding(len(LETTERS), 6), nn.Linear(6, 6), nn.Linear(6, len(LETTERS))

    def forward(self, ids):
        return self.head(3 * self.mix(self.letters(ids).cumsum(1)).sin())


def prepare(examples) -> Batch:
    sizes = torch.tensor([len(example.text) for example in examples])
    ids = torch.zeros(len(examples), max(int(sizes.max()), 1), dtype=torch.int64)
    for row, example in enumerate(examples):
        ids[row, :len(example.text)] = torch.tensor([LETTERS.index(letter) for letter in example.text], dtype=torch.int64)
    counts = torch.arange(ids.shape[1]) < sizes[:, None]
    row, place = counts.nonzero().T
    return Batch(ids, counts, counts, row, place, ids[counts], place, place + 1)


def make(**settings: Any) -> ModuleSubject:
    torch.manual_seed(1)
    given = {"predict": lambda output, batch: output[batch.counts], "token_text": lambda number: LETTERS[number], "continues": True}
    return ModuleSubject(Reader(), prepare, "reader", "1", [Example("x", "abc", "x")], **{**given, **settings})


def by_hand(subject: ModuleSubject, text: str, n: int) -> str:
    for _ in range(n):
        ids = torch.tensor([[LETTERS.index(letter) for letter in text]])
        text += LETTERS[int(subject.module(ids)[0, -1].argmax())]
    return text


def test_the_likeliest_letters_follow() -> None:
    subject = make()
    found = subject.generate_many(["a", "bcd", "h"], 6, max_rows=2)
    for text, one in zip(["a", "bcd", "h"], found, strict=True):
        assert text + one.text == by_hand(subject, text, 6)
        assert [LETTERS[token] for token in one.token_ids] == list(one.text)
        assert not one.ended
    assert subject.generate("bcd", 6) == found[1].text


def test_a_row_depends_on_its_text_and_seed_alone() -> None:
    subject, said = make(), []
    alone = subject.generate_many(["ab"], 8, temperature=1.0, seeds=3)[0]
    many = subject.generate_many(["h", "ab", "ab"], 8, temperature=1.0, seeds=[1, 3, 4], on_text=lambda row, text: said.append((row, text)))
    assert many[1].text == alone.text
    assert many[2].text != alone.text
    assert ["".join(text for row, text in said if row == number) for number in range(3)] == [one.text for one in many]


def test_a_stop_ends_a_text_and_is_no_part_of_it() -> None:
    subject = make(stop_ids=(STOP,))
    found = subject.generate_many(["a"] * 40, 30, temperature=2.0, seeds=range(40))
    ended = [one for one in found if one.ended]
    assert ended
    assert all(one.token_ids[-1] == STOP and len(one.text) == len(one.token_ids) - 1 and "." not in one.text for one in ended)
    assert all(len(one.text) == 30 for one in found if not one.ended)


def test_edits_are_of_rows_and_places() -> None:
    subject, site = make(), "mix:output"
    zero = {site: torch.zeros_like}
    bias = LETTERS[int(subject.module.head.bias.argmax())]
    plain, edited = subject.generate_many(["abc", "abc"], 4, [None, zero])
    assert plain.text == by_hand(subject, "abc", 4)[3:]
    assert edited.text == 4 * bias

    sae = Sae(6, 3)
    torch.manual_seed(0)
    with torch.no_grad():
        sae.W_dec.copy_(torch.randn(3, 6))
    everywhere, written = (edit_functions(Edit(site=site, latents=[0], operation="add", amount=40.0, where=where), sae)
                           for where in (Where(), Where(tokens="generated")))
    seen: list[int] = []
    handle = subject.module.head.register_forward_hook(lambda _module, given, _output: seen.append(int((given[0].abs().sum(-1) > 0).sum())))
    texts = [one.text for one in subject.generate_many(["abc"] * 3, 4, [None, everywhere, written])]
    handle.remove()
    assert seen == [9, 12, 15, 18]
    assert texts[0] == plain.text
    assert texts[1] != texts[0]
    assert texts[2][0] == texts[0][0], "the first letter is predicted from what was given"


def test_whoever_asks_for_text_gets_it() -> None:
    subject = make()
    assert can_generate(subject)
    assert not can_generate(make(continues=False))
    written = generate_with(subject, ["ab"], [None], Sae(6, 3), 3)
    assert written[0].text == subject.generate("ab", 3)


@pytest.mark.parametrize(("settings", "text", "why"), [
    ({"continues": False}, "ab", "has none"),
    ({"predict": None}, "ab", "made without predict="),
    ({}, "", "no token stands before"),
    ({"token_text": lambda _number: "ab"}, "ab", "does not read as the token"),
    ({"token_text": lambda number: LETTERS[(number + 1) % 9]}, "ab", "does not read as the token"),
])
def test_what_cannot_be_continued_is_refused(settings: dict[str, Any], text: str, why: str) -> None:
    with pytest.raises(SubjectError, match=why):
        make(**settings).generate_many(["ab", text], 3)


def test_numbers_that_mean_nothing_are_refused() -> None:
    with pytest.raises(SubjectError, match="negative"):
        make().generate_many(["a"], -1)
    with pytest.raises(SubjectError, match="2 seeds are given"):
        make().generate_many(["a"], 1, seeds=[1, 2])
