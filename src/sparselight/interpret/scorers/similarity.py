"""Scores without a language model: is the explanation more like the firing examples than like the silent ones?

auroc = P(sim(explanation, firing) > sim(explanation, silent)) + P(equal) / 2, sim the cosine of two vectors, held-out examples only. `embedding` takes the
vectors of any sentence encoder (the embedding score of EleutherAI's delphi, arXiv 2410.13928, without its simulation); `keywords` takes TF-IDF vectors of
words and parts of words, fitted on the examples at hand, which needs no model at all: it sees shared words, not shared meaning.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float

from sparselight.interpret.contexts import LatentExamples
from sparselight.interpret.llm.config import ScorersConfig
from sparselight.interpret.llm.reading import Reading
from sparselight.interpret.llm.show import unmarked
from sparselight.interpret.scorers.binary import auroc
from sparselight.interpret.scorers.plan import Plan, pick, too_few
from sparselight.protocols import Renderer
from sparselight.records import Score

Vectors = Callable[[Sequence[str]], Float[np.ndarray, "text d"]]
TAGS = re.compile(r"<<|>>")


class Similarity:
    """The score of one kind of vectors.

    Args:
        name: `embedding` or `keywords`.
        vectors: of texts, one row each.
    """

    uses_explanation = True

    def __init__(self, name: str, config: ScorersConfig, renderer: Renderer, vectors: Vectors):
        self.name, self.config, self.renderer, self.vectors = name, config, renderer, vectors

    def plan(self, item: LatentExamples, explanation: str) -> Plan:
        """A plan without questions."""
        if why_not := too_few(item, self.config.min_examples):
            return Plan(self.name, why_not=why_not)
        return Plan(self.name, [], partial(self._score, item, explanation))

    def _score(self, item: LatentExamples, explanation: str, _readings: Sequence[Reading]) -> Score:
        config = self.config
        sides = [pick(item.score_positive, config.n_positive), pick(item.score_negative, config.n_negative)]
        texts = [plain(self.renderer.prompt(unmarked(context))) for contexts in sides for context in contexts]
        vectors = unit(self.vectors([explanation, *texts]))
        similarity = vectors[1:] @ vectors[0]
        groups = [[context.group for context in contexts] for contexts in sides]
        found = auroc(similarity[: len(sides[0])], similarity[len(sides[0]) :], groups[0], groups[1], config.n_bootstrap, config.seed)
        return Score(scorer=self.name, values={"auroc": found} if found else {}, n_positive=len(sides[0]), n_negative=len(sides[1]))


def plain(text: str) -> str:
    return TAGS.sub("", text)


def unit(vectors: Float[np.ndarray, "text d"]) -> Float[np.ndarray, "text d"]:
    """Rows of length 1; a row of zeros stays one, and is like nothing."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors, dtype=np.float64), where=lengths > 0)


def tfidf_vectors(texts: Iterable[str]) -> Vectors:
    """TF-IDF of parts of words (3 to 5 letters within a word, scikit-learn's `char_wb`), so that forms of one word are alike; fitted on these texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    model = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, lowercase=True)
    model.fit([*texts, "a text so that there is one"])

    def vectors(wanted: Sequence[str]) -> Float[np.ndarray, "text d"]:
        found: Float[np.ndarray, "text d"] = model.transform(wanted).toarray()
        return found

    return vectors
