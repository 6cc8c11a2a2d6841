"""The protein recipes: they load, and what they ask of a corpus is what TMbed's folds and UniProt's files give."""

import pytest

from sparselight.pipeline import load_recipe


@pytest.mark.parametrize("name", ["protein_small", "protein_esm2_8m"])
def test_recipes_load_by_name(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.corpus.kind == "protein"
    assert recipe.harvest.site.startswith("resid_post.")
    assert recipe.corpus.protein.max_residues is not None
    assert recipe.subject.context_tokens == recipe.corpus.protein.max_residues + 2, "a whole protein between <cls> and <eos> fits into one row"
    assert {"association", "association_rules"} < set(recipe.evaluate.suite.split(","))
