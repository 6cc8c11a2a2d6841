"""Real latents of Gemma Scope with the descriptions that Neuronpedia gives them: scored without any model, they must beat each other's descriptions."""

import json
from pathlib import Path

import numpy as np
import pytest

from sparselight.interpret.contexts import LatentExamples
from sparselight.interpret.llm import ScorersConfig
from sparselight.interpret.renderers import TextRenderer
from sparselight.interpret.scorers import Similarity, tfidf_vectors
from sparselight.records import Context

DATA = Path(__file__).parents[4] / "shared" / "data" / "gemmascope_slices"
BEFORE, AFTER = 20, 12  # tokens of a window around its strongest token

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the slices of Gemma Scope (../shared/data/gemmascope_slices) are not here")


def window(row, index, name):
    activations = [float(value) for value in row["acts"]]
    start, stop = max(0, index - BEFORE), min(len(activations), index + AFTER)
    tokens = [token.replace("\u2581", " ") for token in row["tokens"][start:stop]]
    return Context(example=name, group=name, tokens=tokens, activations=activations[start:stop], peak=index - start)


def latents():
    """Each latent's firing windows around their peaks, and windows drawn at random in which it is silent."""
    import pyarrow.parquet as pq

    found, texts = [], {}
    for layer in (10, 20):
        folder = DATA / f"layer_{layer}"
        concepts = [json.loads(line)["concept"] for line in (folder / "metadata.jsonl").read_text().splitlines()]
        rows = pq.read_table(folder / "latent_data.parquet", columns=["concept_id", "sae_id", "tokens", "GemmaScopeSAE_acts"]).to_pylist()
        by_latent = {}
        for number, row in enumerate(rows):
            row |= {"acts": as_list(row["GemmaScopeSAE_acts"]), "tokens": as_list(row["tokens"]), "name": f"{layer}/{number}"}
            by_latent.setdefault(int(row["concept_id"]), []).append(row)
        for concept, mine in by_latent.items():
            firing = [window(row, int(np.argmax(row["acts"])), row["name"]) for row in mine if max(row["acts"]) > 0]
            rng = np.random.default_rng(concept)
            drawn = [window(row, int(rng.integers(len(row["acts"]))), f"{row['name']} silent") for row in mine for _ in range(3)]
            silent = [context for context in drawn if context.is_silent]
            item = LatentExamples(int(mine[0]["sae_id"]), f"layer_{layer}", score_positive=firing, score_negative=silent)
            found.append(item)
            texts[item.key] = concepts[concept]
    return found, texts


def as_list(value):
    import ast

    return ast.literal_eval(value) if isinstance(value, str) else value


def test_reference_descriptions_beat_those_of_other_latents():
    items, texts = latents()
    assert len(items) == 20
    items = [item for item in items if len(item.score_positive) >= 3]  # the others hardly fire in these texts
    renderer, config = TextRenderer(), ScorersConfig(n_positive=50, n_negative=300, n_bootstrap=10)
    corpus = [renderer.prompt(context) for item in items for context in (*item.score_positive, *item.score_negative)]
    scorer = Similarity("keywords", config, renderer, tfidf_vectors([*corpus, *texts.values()]))

    def auroc(item, other):
        return scorer.plan(item, texts[other.key]).score([]).values["auroc"].value

    own = np.array([auroc(item, item) for item in items])
    others = np.array([np.mean([auroc(item, items[(number + step) % len(items)]) for step in (1, 3, 6)]) for number, item in enumerate(items)])
    print(f"\nkeywords, AUROC over {len(items)} latents: own description {own.mean():.3f}, another's {others.mean():.3f}; own above for {np.sum(own > others)}")
    assert own.mean() > others.mean() + 0.05
    assert np.mean(own > others) >= 0.7
