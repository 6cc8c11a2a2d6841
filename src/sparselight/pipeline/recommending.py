"""The recommender of a recipe that trains its own (`subject.source = "train"`): in the run's folder, once, before the stages that study it.

Its folder is named by the hash of all that determines it: the corpus with its sources, and `subject.recommender`. All users are trained on, their dev and test
interactions left out; which users the SAE sees is another split. Refuses: a corpus that is no table of interactions.
"""

import hashlib
from pathlib import Path

from sparselight.config import canonical_json
from sparselight.corpus import load_corpus, source_fingerprint
from sparselight.corpus.interactions.items import ItemTable
from sparselight.errors import ConfigError
from sparselight.files import write_bytes
from sparselight.pipeline.engine import Watcher
from sparselight.pipeline.recipe import Recipe
from sparselight.subjects import RecommenderSubject, train_recommender
from sparselight.subjects.recommender.models import make_model

TRAIN = "train"


def trains_own(recipe: Recipe) -> bool:
    """Whether the recipe's subject is a recommender that the run trains."""
    return recipe.subject.kind == "recommender" and recipe.subject.source == TRAIN


def trained_subject(recipe: Recipe, run_folder: Path, watcher: Watcher | None = None, plans_only: bool = False) -> RecommenderSubject:
    """The recommender of a run, trained where it is not there yet; called inside the run's lock.

    Args:
        plans_only: where it is not there yet, one of its shape with random weights, and nothing is written.

    Raises:
        ConfigError: when the corpus holds no interactions.
    """
    if recipe.corpus.kind != "interactions":
        raise ConfigError(asked="train a recommender (subject.source = 'train')", why=f"the corpus is of kind {recipe.corpus.kind}",
                          instead="set corpus.kind = 'interactions'")
    settings = recipe.corpus.model_dump(mode="json", exclude={"held_out_frac", "seed"} if recipe.corpus.max_examples is None else {"held_out_frac"})
    content = [settings, source_fingerprint(recipe.corpus), recipe.subject.recommender.model_dump(mode="json")]
    folder = run_folder / f"subject-{hashlib.sha256(canonical_json(content).encode()).hexdigest()[:10]}"
    finished = (folder / "recommender.json").exists()
    if plans_only and not finished:
        corpus = load_corpus(recipe.corpus)
        items = ItemTable.from_examples(corpus)
        return RecommenderSubject(make_model(recipe.subject.recommender, len(corpus), len(items)), items, TRAIN, [example.group for example in corpus])
    if not (run_folder / "run.json").exists():
        write_bytes(run_folder / "run.json", b"{}\n")  # marks the folder as a run, so that an interrupted training can be gone on with
    watcher = watcher or Watcher()
    if not finished:
        watcher.stage_begins("subject", False)
    return train_recommender(load_corpus(recipe.corpus), folder, recipe.subject.recommender, watcher.progress("subject"))
