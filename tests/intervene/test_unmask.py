import pytest
import torch
from torch import Tensor

from sparselight.errors import ConfigError, SubjectError
from sparselight.intervene import edit_functions, unmask
from sparselight.records import Edit, Where
from sparselight.subjects import MaskedLM
from sparselight.testing import tiny_subject
from sparselight.testing.families import tiny_family

AMINO_ACIDS = "LAGVSERTIDPKQNFYMHWC"
STARTS = [12, 20, "MK<mask>AY<mask>", 5]


@pytest.fixture(scope="module")
def esm() -> MaskedLM:
    subject = tiny_family("esm")
    assert isinstance(subject, MaskedLM)
    return subject


@pytest.mark.parametrize("order", ["random", "confident"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_all_masks_are_filled_with_what_is_allowed(esm: MaskedLM, order: str, temperature: float) -> None:
    found = unmask(esm, STARTS, order=order, temperature=temperature, seeds=(0, 1), allowed=AMINO_ACIDS)
    assert [(one.start, one.seed) for one in found] == [(start, seed) for start in range(4) for seed in (0, 1)]
    for one in found:
        start = STARTS[one.start]
        assert len(one.text) == (start if isinstance(start, int) else 6)
        assert set(one.text) <= set(AMINO_ACIDS)
        if isinstance(start, str):
            assert (one.text[:2], one.text[3:5]) == ("MK", "AY")


def test_a_row_depends_on_its_start_and_seed_alone(esm: MaskedLM) -> None:
    settings = {"order": "random", "allowed": AMINO_ACIDS, "sweeps": 1}
    together = unmask(esm, STARTS, seeds=(3, 4), **settings)
    for number, start in enumerate(STARTS):
        alone = unmask(esm, [start], seeds=(4,), **settings)
        assert alone[0].text == together[2 * number + 1].text
    assert unmask(esm, STARTS, seeds=(3, 4), max_rows=3, **settings) == together
    assert together[0].text != together[1].text
    own = unmask(esm, STARTS[:2], seeds=(3, 4), paired=True, **settings)
    assert [(one.start, one.seed, one.text) for one in own] == [(0, 3, together[0].text), (1, 4, together[3].text)]


def test_the_likeliest_token_is_taken_from_what_stands_there(esm: MaskedLM) -> None:
    text = "MK<mask>AYV"
    from sparselight.protocols import Example

    batch = esm.prepare([Example("a", text, "g")])
    logits = esm.predict(batch)[2]
    letters = {letter: esm._tokens.vocabulary.backend.token_to_id(letter) for letter in AMINO_ACIDS}
    best = max(letters, key=lambda letter: float(logits[letters[letter]]))
    assert unmask(esm, [text], temperature=0.0, allowed=AMINO_ACIDS)[0].text == text.replace("<mask>", best)


def test_fewer_passes_when_several_are_written_at_once(esm: MaskedLM) -> None:
    passes = []
    handle = esm.model.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        for n, expected in ((1, 12), (5, 3)):
            passes.clear()
            unmask(esm, [12, 7], tokens_a_step=n)
            assert len(passes) == expected
        passes.clear()
        unmask(esm, [12], begin_with="random", sweeps=2, sweep_frac=0.25)
        assert len(passes) == 8
    finally:
        handle.remove()


def test_sweeps_change_natural_text_but_only_masks_beside_given_text(esm: MaskedLM) -> None:
    natural = unmask(esm, ["MKAYVLAGG"], sweeps=1, allowed=AMINO_ACIDS)[0].text
    assert natural != "MKAYVLAGG"
    assert len(natural) == 9
    for seed in range(3):
        kept = unmask(esm, ["MK<mask>AYV"], sweeps=3, seeds=(seed,), allowed=AMINO_ACIDS)[0].text
        assert (kept[:2], kept[3:]) == ("MK", "AYV")


def test_edits_act_at_what_is_written(esm: MaskedLM, make_sae) -> None:
    """A readout of the last layer that says W everywhere, at generated positions only."""
    sae, seen = make_sae(16), []
    edit = Edit(site="resid_post.1", latents=[3], operation="clamp", amount=40.0, where=Where(tokens="generated"))
    functions = edit_functions(edit, sae)

    class Noting:
        needs_places = True

        def __call__(self, x: Tensor) -> Tensor:
            raise AssertionError

        def during(self, phase: str):
            return self

        def at(self, places):
            seen.append(places)
            return functions["resid_post.1"].at(places)

    plain = unmask(esm, ["MK<mask>AY<mask>"], temperature=0.0, allowed=AMINO_ACIDS)
    edited = unmask(esm, ["MK<mask>AY<mask>"], {"resid_post.1": Noting()}, temperature=0.0, allowed=AMINO_ACIDS)
    assert all(places.generated.tolist() == [False, False, True, False, False, True] for places in seen)
    assert edited == unmask(esm, ["MK<mask>AY<mask>"], functions, temperature=0.0, allowed=AMINO_ACIDS)
    everywhere = unmask(esm, ["MK<mask>AY<mask>"], edit_functions(edit.model_copy(update={"where": Where()}), sae), temperature=0.0, allowed=AMINO_ACIDS)
    assert len({one[0].text for one in (plain, edited, everywhere)}) > 1


def test_words_come_out_as_text() -> None:
    bert = tiny_family("bert")
    found = unmask(bert, ["for [MASK] in items:"], seeds=(0, 1))
    assert all(one.text.startswith("for ") and "[MASK]" not in one.text for one in found)
    assert all(torch.tensor(one.token_ids).ne(bert._tokens.vocabulary.mask_id).all() for one in found)


@pytest.mark.parametrize(("arguments", "words"), [
    ({"starts": ["MKAY"]}, "no mask in it"), ({"starts": [10_000]}, "a row holds 1 to 62"), ({"starts": [0]}, "has 0 tokens"),
    ({"starts": [4], "allowed": "LZ*"}, r"'\*' is no token"), ({"starts": [4], "order": "left"}, "no such order"),
    ({"starts": [4, 5], "seeds": (1,), "paired": True}, "there are 1 seeds"),
    ({"starts": [4], "tokens_a_step": 0}, "tokens_a_step = 0"), ({"starts": [4], "sweep_frac": 0.0}, "sweep_frac"), ({"starts": [4], "allowed": ""}, "none"),
])
def test_what_means_nothing_is_refused(esm: MaskedLM, arguments: dict, words: str) -> None:
    with pytest.raises((ConfigError, SubjectError), match=words):
        unmask(esm, **arguments)


def test_other_subjects_are_refused() -> None:
    with pytest.raises(SubjectError, match="no masked language model"):
        unmask(tiny_subject(), [4])
