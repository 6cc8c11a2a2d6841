"""Cards: what is known of one latent, with the evidence for each thing that is said of it."""

from typing import Literal

from pydantic import Field

from sparselight.records.base import MetricValue, Part
from sparselight.records.display import Shown, drawn

ContextKind = Literal["top", "quantile", "importance", "random", "near_miss", "neighbour"]
Grade = Literal["A", "B", "C", "D"]


class OtherImage(Part):
    """A further image of a context's example."""

    media: str
    """Its file, relative to the run folder."""
    grid: tuple[int, int] | None = None
    """Rows and columns of patches, where these are tokens."""
    activations: list[float] = Field(default_factory=list)
    """Of the card's latent, one a patch, row by row; empty where it is silent on all of them."""


class Context(Part):
    """A window of tokens, for a page or a prompt: around a firing, or one on which the latent is silent."""

    example: str
    group: str
    tokens: list[str]
    activations: list[float]
    """Of the card's latent, one a token of the window."""
    peak: int
    """Index of the token that the window is about."""
    kind: ContextKind = "top"
    """How it was chosen. `top`: strongest firings; `quantile`: evenly over the strength of firings; `importance`: at random, weighted by activation;
    `random`: at random, silent; `near_miss`: the token of a firing, silent here; `neighbour`: where a latent of similar direction fires, silent here."""
    quantile: int | None = None
    """Of a `quantile` context: which of the equal parts of the firings it comes from, 0 the weakest."""
    start: int = 0
    """Position of the first token of the window in its example; beside a picture, of the peak less its index."""
    marks: list[str] = Field(default_factory=list)
    """Annotation of each token (values of spans, joined by `; `), empty where it carries none; the list is empty where nothing is annotated."""
    media: str | None = None
    """Of an example with images: the file of the one that is shown, relative to the run folder."""
    grid: tuple[int, int] | None = None
    """Of that image: rows and columns of patches, where these are tokens. The first rows x columns tokens are they, row by row; text follows."""
    others: list[OtherImage] = Field(default_factory=list)
    """The example's other images, where it has several."""

    @property
    def is_silent(self) -> bool:
        """Whether the latent fires nowhere in it."""
        return not any(value > 0 for value in self.activations)


class Evidence(Part):
    """How well an explanation predicts where a latent fires, on held-out examples, beside the shuffled-label control."""

    precision: MetricValue
    recall: MetricValue
    f1: MetricValue
    control_f1: MetricValue
    """Best F1 of the same search after the labels are shuffled against the tokens; high = its largest value over the shuffles."""
    threshold: float
    """The latent counts as firing above this activation; chosen on the explain split."""
    n_fires: int
    """Held-out tokens on which the latent fires."""
    n_labelled: int
    """Held-out tokens that carry the label."""


class Score(Part):
    """How well an explanation does in one test on held-out examples, beside the same test of controls."""

    scorer: str
    """`label_rule`, `detection`, `fuzzing`, `intruder`, `level_prediction`, `embedding`, `keywords`, or one of a plugin."""
    values: dict[str, MetricValue] = Field(default_factory=dict)
    """By metric: `f1`, `balanced_accuracy`, ...; empty where there is no score."""
    controls: dict[str, dict[str, MetricValue]] = Field(default_factory=dict)
    """The same metrics of each control. `shuffled`: explanations of other latents given to this one; `random_latent`: a latent of an untrained
    SAE; `raw_neuron`: a channel of the activations; `rolled_labels`: the search repeated on labels that are shifted against the tokens."""
    n_positive: int = 0
    """Held-out examples (tokens, for `label_rule`) on which the latent fires."""
    n_negative: int = 0
    """Held-out examples (tokens, for `label_rule`) on which it does not."""
    n_unanswered: int = 0
    """Examples left out because a language model gave no answer that can be read."""
    note: str = ""
    """What a reader must know of the score, in words; empty where nothing."""
    why_not: str = ""
    """Why no score exists, in words that go on from "there is no score: "; empty where there is one."""


class Explanation(Part):
    """What a latent is said to stand for, with its evidence."""

    text: str
    """In words, as shown."""
    label: str = ""
    """Machine form, `kind=value`; empty for one in free words."""
    explainer: str
    """`statistical`, or the one that made it, `llm` for example; one a card."""
    evidence: Evidence | None = None
    """Of a statistical explanation."""
    scores: list[Score] = Field(default_factory=list)
    """One a scorer."""
    made_with: dict[str, str] = Field(default_factory=dict)
    """What a rerun needs to know: model, hash of the prompt, seed."""

    def score(self, scorer: str) -> Score | None:
        """The score of that scorer, None where it has none."""
        return next((score for score in self.scores if score.scorer == scorer), None)


class Neighbour(Part):
    """A latent with a similar decoder direction."""

    source: str
    latent: int
    cosine: float

    @property
    def key(self) -> str:
        return f"{self.source}/{self.latent}"


class Association(Part):
    """An annotation that goes with a latent, as the evaluation measured it (family `association`)."""

    kind: str
    """Name of the span or label."""
    label: str
    dataset: str
    level: str
    """`spans`, or `examples, max` and the like."""
    f1: MetricValue
    """Held-out; latent and threshold were chosen on the fit side."""
    null_f1: float
    """The largest F1 that the latent reached with shuffled labels."""
    q: float | None = None
    """Benjamini-Hochberg over all pairs; null where it is above the level asked for."""
    supported: bool = False
    """Whether q is at most the level and F1 lies above the null."""


class Card(Part):
    """All that is known of one latent."""

    latent: int
    source: str
    """`base` or `residual`: the SAE that it belongs to."""
    fire_rate: float
    """Fraction of general held-out tokens on which it fires."""
    domain_fire_rate: float
    """The same on domain tokens."""
    max_activation: float
    explanation: Explanation | None
    """The best one: the highest grade, and among equal grades the one made first."""
    contexts: list[Context]
    promotes: list[str]
    """Next tokens whose logits the decoder direction raises most."""
    suppresses: list[str]
    explanations: list[Explanation] = Field(default_factory=list)
    """All of them, one an explainer."""
    grade: Grade = "D"
    """Of the best explanation; the rule stands in interpret/evidence.py."""
    grade_why: str = ""
    """The numbers that decided it; of a latent without explanation, why there is none."""
    neighbours: list[Neighbour] = Field(default_factory=list)
    """Latents of the same SAE with the nearest decoder directions, the nearest first."""
    parents: list[Neighbour] = Field(default_factory=list)
    """Of a latent of a residual SAE: the nearest ones of the base SAE."""
    associations: list[Association] = Field(default_factory=list)
    """The annotations with the highest held-out F1, where the evaluation measured them."""
    edits: list[str] = Field(default_factory=list)
    """Keys of the edits tried with it (table `edits` of the catalogue)."""
    n_fires: int = 0
    """Tokens on which it fires, of all that were read."""
    n_tokens: int = 0
    """Tokens that were read."""
    quantiles: list[float] = Field(default_factory=list)
    """Of its positive activations, at 0, 0.1, ... 1; from a sample of the firings, one an example, where it fires in many."""

    @property
    def key(self) -> str:
        return f"{self.source}/{self.latent}"

    @property
    def evidence(self) -> Evidence | None:
        """Of the best explanation, where it is a statistical one."""
        return self.explanation.evidence if self.explanation else None

    def show(self, modality: str | None = None) -> Shown:
        """The card as a notebook shows it.

        Args:
            modality: how contexts are shown: text, residues, items or image; guessed where left out.
        """
        return drawn("card", self, modality=modality)

    def _repr_html_(self) -> str:
        return self.show()._repr_html_()
