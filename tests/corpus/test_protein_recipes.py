"""The protein recipes: they load, and what they ask of a corpus is what TMbed's folds and UniProt's files give."""

import pytest

from sparselight.pipeline import load_recipe
from sparselight.subjects.own_code import OURS


@pytest.mark.parametrize("name", ["protein_small", "protein_own_model", "protein_esm2_8m"])
def test_recipes_load_by_name(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.corpus.kind == "protein"
    assert recipe.corpus.protein.max_residues is not None
    if recipe.subject.kind == "module":
        assert recipe.subject.source in OURS, "a recipe of ours asks nobody to trust it"
    else:
        assert recipe.harvest.site.startswith("resid_post.")
        assert recipe.subject.context_tokens == recipe.corpus.protein.max_residues + 2, "a whole protein between <cls> and <eos> fits into one row"
    assert {"association", "association_rules"} < set(recipe.evaluate.suite.split(","))
