"""Scorers of explanations: each a file, each a test on held-out examples that the explainer has not seen."""

from collections.abc import Mapping

from sparselight.errors import ConfigError
from sparselight.interpret.llm.chat import Sampling
from sparselight.interpret.llm.config import ScorersConfig
from sparselight.interpret.llm.pictures import PromptPictures
from sparselight.interpret.llm.prompts import Prompts
from sparselight.interpret.scorers.detection import Detection, Fuzzing
from sparselight.interpret.scorers.intruder import Intruder
from sparselight.interpret.scorers.level_prediction import Edges, LevelPrediction, global_deciles
from sparselight.interpret.scorers.plan import Plan, Scorer
from sparselight.interpret.scorers.similarity import Similarity, Vectors, tfidf_vectors
from sparselight.protocols import Renderer

__all__ = [
    "ASKS", "Detection", "Fuzzing", "Intruder", "LevelPrediction", "Plan", "Scorer", "Similarity", "Vectors", "global_deciles", "make_scorers", "tfidf_vectors",
]

ASKS = ("detection", "fuzzing", "intruder", "level_prediction")
"""Scorers that ask a language model."""


def make_scorers(config: ScorersConfig, prompts: Prompts, renderer: Renderer, sampling: Sampling, vectors: Mapping[str, Vectors] | None = None,
                 deciles: Mapping[str, Edges] | None = None, pictures: PromptPictures | None = None) -> list[Scorer]:
    """The scorers of explain.scorers.names, in that order.

    Args:
        vectors: of texts, for `embedding` and `keywords`.
        deciles: of the activations of each source, for `level_prediction`.
        pictures: of contexts, where the model takes them; `detection` shows them.

    Raises:
        ConfigError: for a scorer whose vectors are missing.
    """
    found: list[Scorer] = []
    for name in dict.fromkeys(config.names):
        if name == "detection":
            found.append(Detection(config, prompts, renderer, sampling, pictures))
        elif name == "fuzzing":
            found.append(Fuzzing(config, prompts, renderer, sampling))
        elif name == "intruder":
            found.append(Intruder(config, prompts, renderer, sampling))
        elif name == "level_prediction":
            found.append(LevelPrediction(config, prompts, renderer, sampling, deciles))
        elif (vectors or {}).get(name) is None:
            raise ConfigError(asked=f"score explanations by {name}", why="there is no sentence encoder to make vectors of texts",
                              instead="give explain.scorers.encoder, a folder or a Hugging Face name, or take the scorer keywords, which needs none")
        else:
            found.append(Similarity(name, config, renderer, (vectors or {})[name]))
    return found
