"""The splice: what is read, what is left alone, several dictionaries at once, and the places where an edit acts."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sparselight.errors import ConfigError
from sparselight.intervene import edit_function, edit_functions, measure_scales
from sparselight.intervene.reading import activation_reader
from sparselight.protocols import Places
from sparselight.records import Condition, Edit, EditSet, Where
from sparselight.sae import Sae, stitch

SITE = "resid_post.1"


def make_x(n_tokens: int = 40, d_in: int = 32, seed: int = 1) -> Tensor:
    return torch.randn(n_tokens, d_in, generator=torch.Generator().manual_seed(seed))


def make_edit(operation: str = "clamp", amount: float = 2.0, latents: tuple[int, ...] = (3, 11), **fields: object) -> Edit:
    return Edit(site=SITE, latents=list(latents), operation=operation, amount=amount, **fields)


def given_places(n: int, n_examples: int = 1) -> Places:
    size = n // n_examples
    index, nowhere = torch.arange(n), torch.full((n,), -1)
    return Places(index // size, index % size, index % 7, nowhere, nowhere, torch.zeros(n, dtype=torch.bool), torch.full((n,), size))


def dense(sae: Sae, x: Tensor) -> Tensor:
    return sae.encode(x).to_dense()


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("k", [None, 8])
def test_activations_of_a_few_latents_are_those_of_a_whole_encoding(make_sae: Callable[..., Sae], k: int | None, subtract: bool) -> None:
    sae, x = make_sae(k=k, subtract_b_dec=subtract), make_x()
    latents = torch.tensor([0, 3, 11, 47])
    torch.testing.assert_close(activation_reader(sae, latents)(x), dense(sae, x)[:, latents], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [None, 8])
@pytest.mark.parametrize(("operation", "amount", "after"), [
    ("ablate", 0.0, lambda z: 0 * z), ("clamp", 2.0, lambda z: 0 * z + 2), ("scale", 3.0, lambda z: 3 * z), ("add", 0.5, lambda z: z + 0.5),
])
def test_every_operation_changes_x_by_its_change_of_the_latents(make_sae, k, operation, amount, after) -> None:
    sae, x = make_sae(k=k), make_x()
    z = dense(sae, x)[:, [3, 11]]
    expected = x + (after(z) - z) @ sae.W_dec[[3, 11]]
    torch.testing.assert_close(edit_function(make_edit(operation, amount), sae)(x), expected, rtol=1e-4, atol=1e-5)


def test_replacing_gives_the_reconstruction_from_the_edited_latents(make_sae) -> None:
    for k in (None, 8):
        sae, x = make_sae(k=k), make_x()
        z = dense(sae, x)
        z[:, [3, 11]] = 2.0
        edited = edit_function(make_edit(splice="replace"), sae)(x)
        torch.testing.assert_close(edited, z @ sae.W_dec + sae.b_dec, rtol=1e-4, atol=1e-5)
        nothing = edit_function(make_edit("ablate", 0.0, (), splice="replace"), sae)(x)
        torch.testing.assert_close(nothing, sae.reconstruct(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match="some keep what the dictionary misses"):
        edit_functions([make_edit(), make_edit(splice="replace")], sae)


def test_edits_of_base_and_residual_are_edits_of_the_stitched_sae(make_sae) -> None:
    base, residual, x = make_sae(seed=0), make_sae(n_latents=20, seed=1), make_x()
    both = stitch(base, residual)
    apart = edit_functions([make_edit(source="base"), make_edit("scale", 4.0, (5,), source="residual")], {"base": base, "residual": residual})[SITE](x)
    together = edit_functions([make_edit(), make_edit("scale", 4.0, (48 + 5,))], both)[SITE](x)
    torch.testing.assert_close(apart, together, rtol=1e-4, atol=1e-5)


def test_edits_of_one_dictionary_act_one_after_another(make_sae) -> None:
    sae, x = make_sae(), make_x()
    z = dense(sae, x)[:, 3]
    edited = edit_functions(EditSet(edits=[make_edit("add", 1.0, (3,)), make_edit("scale", 2.0, (3,))]), sae)[SITE](x)
    torch.testing.assert_close(edited, x + (2 * (z + 1) - z)[:, None] * sae.W_dec[3], rtol=1e-4, atol=1e-5)


def test_several_sites_get_a_function_each(make_sae) -> None:
    other = make_edit().model_copy(update={"site": "resid_post.0", "source": "b"})
    assert list(edit_functions([make_edit(source="a"), other], {"a": make_sae(), "b": make_sae(seed=2)})) == [SITE, "resid_post.0"]


def test_a_condition_on_another_latent(make_sae) -> None:
    sae, x = make_sae(), make_x()
    z = dense(sae, x)
    for fires in (True, False):
        edited = edit_function(make_edit(condition=Condition(latent=7, above=0.4, fires=fires)), sae)(x)
        acts = (z[:, 7] > 0.4) == fires
        assert acts.any()
        assert not acts.all()
        assert torch.equal(edited[~acts], x[~acts])
        torch.testing.assert_close(edited[acts], edit_function(make_edit(), sae)(x)[acts])
    other = make_sae(n_latents=20, seed=1)
    edit = make_edit(source="base", condition=Condition(latent=5, source="residual"))
    edited = edit_functions(edit, {"base": sae, "residual": other})[SITE](x)
    assert torch.equal((edited != x).any(1), dense(other, x)[:, 5] > 0)
    with pytest.raises(ConfigError, match="latent 20 is out of range"):
        edit_functions(make_edit(condition=Condition(latent=20, source="residual"), source="base"), {"base": sae, "residual": other})


def test_amounts_in_units_of_a_latents_own_activations(make_sae) -> None:
    sae, x = make_sae(), make_x(400)
    z = dense(sae, x)[:, [3, 11]]
    references = {
        "max": z.amax(0), "mean": z.mean(0), "active_mean": torch.stack([own[own > 0].mean() for own in z.T]),
        "q90": torch.stack([own[own > 0].quantile(0.9) for own in z.T]),
    }
    for unit, scales in references.items():
        edit = measure_scales(make_edit(amount=2.0, unit=unit), sae, x.split(64))
        assert edit.scales == pytest.approx(scales.tolist(), rel=1e-4)
        torch.testing.assert_close(edit_function(edit, sae)(x), x + (2 * scales - z) @ sae.W_dec[[3, 11]], rtol=1e-3, atol=1e-4)
    mean = measure_scales(make_edit("ablate_mean", 0.0), sae, x)
    torch.testing.assert_close(edit_function(mean, sae)(x), x + (references["mean"] - z) @ sae.W_dec[[3, 11]], rtol=1e-3, atol=1e-4)


def test_a_swap_gives_the_activations_of_another_example(make_sae) -> None:
    sae, x, donor = make_sae(), make_x(10), dense(make_sae(), make_x(4, seed=9))[:, [3, 11]]
    swapped = edit_function(make_edit("swap", 0.0, values=donor.tolist()), sae).at(given_places(10))(x)
    z = dense(sae, x)[:, [3, 11]]
    torch.testing.assert_close(swapped[:4], x[:4] + (donor - z[:4]) @ sae.W_dec[[3, 11]], rtol=1e-4, atol=1e-5)
    assert torch.equal(swapped[4:], x[4:])
    everywhere = edit_function(make_edit("swap", 0.0, values=donor[:1].tolist()), sae)(x)
    torch.testing.assert_close(everywhere, x + (donor[:1] - z) @ sae.W_dec[[3, 11]], rtol=1e-4, atol=1e-5)


def test_an_edit_at_some_tokens_refuses_to_run_blindly(make_sae) -> None:
    function = edit_function(make_edit(where=Where(positions=[0])), make_sae())
    assert function.needs_places
    with pytest.raises(ConfigError, match="does not say which tokens"):
        function(make_x())
    x = make_x(12)
    edited = function.at(given_places(12, 3))(x)
    assert (edited != x).any(1).nonzero()[:, 0].tolist() == [0, 4, 8]


def test_what_is_left_of_an_edit_during_generation(make_sae) -> None:
    sae = make_sae()
    everywhere, generated, prompt = (edit_function(make_edit(where=Where(tokens=tokens)), sae) for tokens in ("counted", "generated", "prompt"))
    assert everywhere.during("prompt") is everywhere
    assert everywhere.during("generated") is everywhere
    assert generated.during("prompt") is None
    assert not generated.during("generated").needs_places
    assert prompt.during("generated") is None
    assert generated.during("generated") is generated.during("generated"), "one object, so that rows can share it"


def test_rows_with_their_own_edits_are_one_product(make_sae) -> None:
    sae, x = make_sae(), make_x(12)
    functions = [edit_function(make_edit(), sae), None, edit_functions([make_edit("scale", 3.0, (4,)), make_edit("add", 1.0, (4, 5))], sae)[SITE], None]
    stacked = type(functions[0]).stack(functions)
    edited = stacked.at(given_places(12, 4))(x)
    torch.testing.assert_close(edited[:3], functions[0](x[:3]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(edited[6:9], functions[2](x[6:9]), rtol=1e-5, atol=1e-5)
    assert torch.equal(edited[3:6], x[3:6])
    assert torch.equal(edited[9:], x[9:])
    conditional = edit_function(make_edit(condition=Condition(latent=7)), sae)
    assert type(conditional).stack([conditional, functions[0]]) is None
    assert type(conditional).stack([functions[0], edit_function(make_edit(), make_sae(seed=4))]) is None


def test_records_come_back_from_json_and_older_ones_too(make_sae, tmp_path) -> None:
    edits = EditSet(edits=[make_edit(where=Where(chars=[(1, 4)], token_ids=[3]), condition=Condition(latent=2), unit="q99", scales=[1.0, 2.0])], title="a")
    edits.save(tmp_path / "edits.json")
    assert EditSet.load(tmp_path / "edits.json") == edits
    (tmp_path / "old.json").write_text('{"record": "edit", "version": 1, "site": "resid_post.1", "latents": [3], "operation": "clamp", "amount": 2.0}')
    old, sae, x = edit_functions(tmp_path / "old.json", make_sae()), make_sae(), make_x()
    assert torch.equal(old[SITE](x), edit_function(make_edit(latents=(3,)), sae)(x))


@pytest.mark.parametrize(("edit", "words"), [
    (make_edit("ablate", 1.0), "ablate takes no amount"),
    (make_edit(unit="q999"), "no unit 'q999'"),
    (make_edit(unit="max"), "nobody measured"),
    (make_edit(unit="max", scales=[1.0]), "1 are given for 2 latents"),
    (make_edit(unit="max", scales=[1.0, 0.0]), "the max of latent 11 is 0"),
    (make_edit("scale", 2.0, unit="max", scales=[1.0, 1.0]), "measured in nothing"),
    (make_edit("ablate_mean", 0.0), "the mean of each latent"),
    (make_edit("swap", 0.0), "needs the activations of another example"),
    (make_edit("swap", 0.0, values=[[1.0]]), "does not hold 2 finite numbers"),
    (make_edit(where=Where(positions=[])), "empty list"),
    (make_edit(where=Where(chars=[(4, 4)])), "holds none"),
    (make_edit(where=Where(tokens="generated", chars=[(0, 4)])), "act nowhere"),
    (make_edit(where=Where(token_ids=[3], except_token_ids=[3])), "takes away all"),
    (make_edit(where=Where(annotation="=x")), "names none"),
    (make_edit(weights="0" * 64), "other weights"),
    (make_edit(source="residual"), "no dictionary 'residual'"),
    (make_edit(), "names no dictionary"),
])
def test_edits_that_cannot_be_honored_are_refused(make_sae, edit: Edit, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        edit_functions(edit, {"base": make_sae(), "other": make_sae(seed=1)} if "dictionary" in words else make_sae())


def test_a_latent_that_never_fires_has_no_unit(make_sae) -> None:
    sae = make_sae()
    sae.b_enc[3] = -100.0
    with pytest.raises(ConfigError, match="fires at none of 40 tokens"):
        measure_scales(make_edit(unit="q99"), sae, make_x())
