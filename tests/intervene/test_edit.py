import pytest
import torch
from torch import Tensor

from sparselight.errors import ConfigError, SaeError
from sparselight.intervene import edit_function, fire_rates, pick_control
from sparselight.protocols import Codes
from sparselight.records import Card, Edit
from sparselight.testing import check_sparse_coder, tiny_corpus, tiny_subject
from sparselight.vocab import EDIT_OPERATIONS

SITE = "resid_post.1"


class HandMadeCoder:
    """Latent i is relu(x[i] - threshold); its decoder direction is row i of a known matrix."""

    def __init__(self, d_in: int, n_latents: int, threshold: float = 0.0):
        self.d_in, self.n_latents, self.threshold = d_in, n_latents, threshold
        self.W_dec = torch.randn(n_latents, d_in, generator=torch.Generator().manual_seed(0))

    def encode(self, x: Tensor) -> Codes:
        z = torch.relu(x[:, :self.n_latents] - self.threshold)
        tokens, latents = z.nonzero().unbind(1)
        return Codes(z[tokens, latents], latents, torch.nn.functional.pad((z != 0).sum(1).cumsum(0), (1, 0)), self.n_latents)

    def decode(self, codes: Codes) -> Tensor:
        return codes.to_dense() @ self.W_dec


def make_x(n_tokens: int = 20, d_in: int = 8) -> Tensor:
    return torch.randn(n_tokens, d_in, generator=torch.Generator().manual_seed(1))


def make_edit(operation: str, amount: float = 0.0, latents: tuple[int, ...] = (3, 1)) -> Edit:
    return Edit(site=SITE, latents=list(latents), operation=operation, amount=amount)


def test_the_hand_made_coder_is_a_sparse_coder() -> None:
    check_sparse_coder(HandMadeCoder(8, 6), make_x())


@pytest.mark.parametrize(("operation", "amount", "change"), [
    ("ablate", 0.0, lambda z: -z),
    ("clamp", 2.0, lambda z: 2.0 - z),
    ("scale", 3.0, lambda z: 2.0 * z),
    ("add", 0.5, lambda z: 0.5 + 0 * z),
])
def test_operations_in_closed_form(operation: str, amount: float, change) -> None:
    coder, x = HandMadeCoder(8, 6), make_x()
    kept = x.clone()
    z = coder.encode(x).to_dense()
    expected = x + change(z[:, 1])[:, None] * coder.W_dec[1] + change(z[:, 3])[:, None] * coder.W_dec[3]
    torch.testing.assert_close(edit_function(make_edit(operation, amount), coder)(x), expected)
    torch.testing.assert_close(edit_function(make_edit(operation, amount, (1, 3, 3)), coder)(x), expected)
    assert torch.equal(x, kept), "an edit does not write into the activations it is given"


def test_the_cases_cover_every_operation() -> None:
    """The other two are measured first: tests/intervene/test_splice.py."""
    assert set(EDIT_OPERATIONS) == {"ablate", "clamp", "scale", "add"} | {"ablate_mean", "swap"}


def test_an_edit_keeps_what_the_dictionary_does_not_explain() -> None:
    coder, x = HandMadeCoder(8, 6), make_x()
    coder.W_dec = torch.eye(6, 8)  # latents are then read off again exactly
    edited = edit_function(make_edit("clamp", 5.0, (2,)), coder)(x)
    torch.testing.assert_close(coder.encode(edited).to_dense()[:, 2], torch.where(x[:, 2] > 0, 5.0, 5.0 + x[:, 2]))
    assert torch.equal(edited[:, [0, 1, 3, 4, 5, 6, 7]], x[:, [0, 1, 3, 4, 5, 6, 7]])


def test_nothing_to_change_changes_no_bit() -> None:
    coder, x = HandMadeCoder(8, 6), make_x()
    for edit in (make_edit("clamp", 9.0, ()), make_edit("scale", 1.0), make_edit("add", 0.0)):
        assert edit_function(edit, coder)(x) is x
    silent = HandMadeCoder(8, 6, threshold=100.0)
    assert edit_function(make_edit("ablate"), silent)(x) is x
    half = x.clone()
    half[::2, [1, 3]] = -1.0
    edited = edit_function(make_edit("ablate"), coder)(half)
    assert torch.equal(edited[::2], half[::2])


def test_ablating_a_silent_latent_leaves_every_prediction_as_it_is() -> None:
    subject = tiny_subject()
    batch = subject.prepare(tiny_corpus(3).examples)
    before = subject.predict(batch)
    silent = edit_function(make_edit("ablate"), HandMadeCoder(32, 32, threshold=1e6))
    assert torch.equal(subject.predict(batch, {SITE: silent}), before)
    active = edit_function(make_edit("ablate"), HandMadeCoder(32, 32))
    assert not torch.equal(subject.predict(batch, {SITE: active}), before)


def test_edited_generation_is_the_same_with_and_without_cache() -> None:
    subject, coder = tiny_subject(), HandMadeCoder(32, 32)
    edits = {SITE: edit_function(make_edit("clamp", 4.0), coder)}
    assert subject.generate("def make_", 20, edits) == subject.generate("def make_", 20, edits, use_cache=False)


@pytest.mark.parametrize(("edit", "words"), [
    (make_edit("abblate"), "'ablate'"),
    (make_edit("ablate", latents=(1, 6)), "latent 6 is out of range"),
    (make_edit("ablate", latents=(-1,)), "latent -1 is out of range"),
    (make_edit("add", float("nan")), "not finite"),
])
def test_edits_that_do_not_fit_are_refused(edit: Edit, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        edit_function(edit, HandMadeCoder(8, 6))


def test_a_dictionary_of_another_site_is_refused() -> None:
    coder = HandMadeCoder(8, 6)
    coder.record = type("Record", (), {"site": "resid_post.0"})()
    with pytest.raises(ConfigError, match=r"trained at resid_post\.0"):
        edit_function(make_edit("ablate"), coder)


def test_a_transcoder_is_refused() -> None:
    coder = HandMadeCoder(8, 6)
    coder.is_transcoder = True
    with pytest.raises(ConfigError, match="its directions belong to other activations"):
        edit_function(make_edit("ablate"), coder)


def test_the_control_fires_about_as_often_and_is_another_latent() -> None:
    rates = {latent: 10.0 ** (-latent / 10) for latent in range(60)} | {60: 0.0, 61: 0.0}
    picks = {pick_control(rates, 30, seed, n_nearest=4) for seed in range(40)}
    assert picks == {28, 29, 31, 32}
    assert pick_control(rates, 30, 7) == pick_control(rates, 30, 7)
    assert {pick_control(rates, 60, seed, n_nearest=2) for seed in range(20)} == {58, 59}
    with pytest.raises(SaeError, match="no other latent"):
        pick_control({1: 0.5, 2: 0.0}, 1, 0)


def test_fire_rates_are_those_of_one_source() -> None:
    cards = [Card(latent=latent, source=source, fire_rate=rate, domain_fire_rate=0.5, max_activation=1.0, explanation=None,
                  contexts=[], promotes=[], suppresses=[])
             for latent, source, rate in ((0, "base", 0.1), (1, "base", 0.2), (0, "residual", 0.3))]
    assert fire_rates(cards, "base") == {0: 0.1, 1: 0.2}
