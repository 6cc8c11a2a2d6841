"""A recommender-like network that is no language model: rows are users, positions their items."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from sparselight.errors import SubjectError
from sparselight.protocols import Batch, Example
from sparselight.subjects import ModuleSubject
from sparselight.testing import check_subject

N_ITEMS = 20


class Ranker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(N_ITEMS, 8)
        self.hidden = nn.Sequential(nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 8))
        self.score = nn.Linear(8, N_ITEMS)

    def forward(self, items, ratings):
        return self.score(self.hidden(torch.cat([self.items(items), ratings[..., None]], -1)))


def prepare(examples) -> Batch:
    """A text such as `3 17 5`: item numbers."""
    words = [[(int(word), at) for at, word in enumerate(example.text.split())] for example in examples]
    width = max(map(len, words), default=0)
    ids, counts = torch.zeros(len(words), width, dtype=torch.int64), torch.zeros(len(words), width, dtype=torch.bool)
    columns = []
    for number, row in enumerate(words):
        at = 0
        for position, (item, _) in enumerate(row):
            ids[number, position], counts[number, position] = item, True
            columns.append((number, position, item, at, at + len(str(item))))
            at += len(str(item)) + 1
    inputs = {"items": ids, "ratings": (ids % 5).float()}
    return Batch(ids, counts, counts, *torch.tensor(columns, dtype=torch.int64).reshape(-1, 5).T, inputs=inputs)


def next_item_loss(output, batch):
    log_p = output.log_softmax(-1)
    nats = torch.full(batch.counts.shape, float("nan"))
    nats[:, 1:] = -log_p[:, :-1].gather(-1, batch.input_ids[:, 1:, None])[..., 0]
    return nats[batch.counts]


EXAMPLES = [Example("u1", "3 17 5", "g"), Example("u2", "1 2 3 4 5 6", "g"), Example("u3", "9", "g")]


def make(**settings) -> ModuleSubject:
    torch.manual_seed(0)
    given = {"prepare": prepare, "version": "1", "probe": EXAMPLES, "predict": lambda output, batch: output[batch.counts], "loss": next_item_loss}
    return ModuleSubject(Ranker(), name="ranker", **{**given, **settings})


def test_a_module_passes_the_battery() -> None:
    subject = make()
    assert subject.sites() == ["items:output", "hidden:output", "hidden.0:output", "hidden.1:output", "hidden.2:output", "score:output"]
    assert subject.d_site("hidden.1:output") == 12
    assert subject.d_site("hidden.0:input") == 9
    check_subject(subject, EXAMPLES)
    check_subject(make(predict=None, loss=None), EXAMPLES)
    assert subject.ref().kind == "module"


def test_edits_act_in_the_module() -> None:
    subject = make()
    batch = subject.prepare(EXAMPLES)
    logits = subject.predict(batch, {"hidden:output": torch.zeros_like})
    torch.testing.assert_close(logits, subject.module.score.bias.expand(10, N_ITEMS))


def test_the_fingerprint_follows_weights_and_version() -> None:
    assert make().fingerprint == make().fingerprint
    assert make(version="2").fingerprint != make().fingerprint


def test_vectors_without_positions_are_rows_of_one() -> None:
    def features(examples) -> Batch:
        ids = torch.arange(len(examples))[:, None]
        ones = torch.ones_like(ids, dtype=torch.bool)
        number = torch.arange(len(examples))
        ends = torch.tensor([len(example.text) for example in examples])
        return Batch(ids, ones, ones, number, torch.zeros_like(number), number, torch.zeros_like(ends), ends,
                     inputs={"input": torch.randn(len(examples), 4, generator=torch.Generator().manual_seed(0))})

    subject = ModuleSubject(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), features, "mlp", "1", EXAMPLES)
    x = subject.capture(subject.prepare(EXAMPLES), ["1:output"])["1:output"]
    assert x.shape == (3, 6)
    assert (x >= 0).all()
    assert subject.n_tokens(EXAMPLES) == [1, 1, 1]


@pytest.mark.parametrize(("change", "why"), [
    ({"counts": torch.ones(3, 6, dtype=torch.bool)}, "one true position"),
    ({"position": torch.zeros(3, dtype=torch.int64)}, "position has shape"),
    ({"token_id": torch.zeros(10, dtype=torch.int64)}, "not input_ids at the counted"),
    ({"example": torch.arange(10).flip(0)}, "order of the examples"),
    ({"attention_mask": torch.ones(3, 2, dtype=torch.bool)}, "not of one"),
])
def test_batches_that_do_not_fit_together_are_refused(change, why: str) -> None:
    with pytest.raises(SubjectError, match=why):
        make(prepare=lambda examples: replace(prepare(examples), **change))


def test_refusals() -> None:
    batch = make().prepare(EXAMPLES)
    with pytest.raises(SubjectError, match="made without"):
        make(loss=None).loss(batch)
    with pytest.raises(SubjectError, match="1 values for 10 tokens"):
        make(loss=lambda output, batch: output.sum()[None]).loss(batch)
    with pytest.raises(SubjectError, match="no module 'hiden'"):
        make().d_site("hiden:output")
    with pytest.raises(SubjectError, match="one vector a position"):
        ModuleSubject(nn.Sequential(nn.Flatten(0)), lambda examples: replace(prepare(examples), inputs={"input": torch.zeros(2)}), "flat", "1", EXAMPLES)
