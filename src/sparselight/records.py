"""The versioned records that stages leave on disk: the only thing a later stage reads of an earlier one.

Each record is one JSON file with its own kind and version, written atomically. A reader refuses a newer version by name.
"""

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sparselight.errors import RunError
from sparselight.files import write_bytes


class Part(BaseModel):
    """Plain data inside a record."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Record(Part):
    """A record with a kind and a version, one JSON file."""

    KIND: ClassVar[str]
    VERSION: ClassVar[int] = 1

    def save(self, path: Path) -> None:
        content = {"record": self.KIND, "version": self.VERSION, **self.model_dump(mode="json")}
        write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a record.

        Raises:
            RunError: when the file is missing, damaged, of another kind, or written by a newer version.
        """
        asked = f"read the {cls.KIND} record {path}"
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            kind, version = content.pop("record"), content.pop("version")
        except FileNotFoundError:
            raise RunError(asked=asked, why="there is no such file", instead="run the stage that writes it, or give the folder of a finished one") from None
        except (OSError, ValueError, KeyError, AttributeError) as err:
            raise RunError(asked=asked, why=f"it is damaged ({err})", instead="delete that file and run the same command again") from None
        if kind != cls.KIND:
            raise RunError(asked=asked, why=f"it is a {kind} record", instead=f"give the path of a {cls.KIND} record")
        if version > cls.VERSION:
            raise RunError(asked=asked, why=f"it has version {version}, this sparselight reads up to {cls.VERSION}", instead="upgrade sparselight")
        try:
            return cls.model_validate(content)
        except ValidationError as err:
            raise RunError(asked=asked, why=f"it is damaged ({err.errors()[0]['msg']} at {err.errors()[0]['loc']})",
                           instead="delete that file and run the same command again") from None


class TokenPolicy(Part):
    """Which positions a subject sees and which count as tokens: the same at training, evaluation and steering."""

    prepend_bos: bool
    """Every row starts with the BOS token, which never counts."""
    context_tokens: int
    """Longest row, BOS included; a longer example goes on in a further row."""
    count_specials: bool = False
    """Whether special tokens inside a row count."""


class SubjectRef(Part):
    """Which model, exactly."""

    name: str
    fingerprint: str
    """SHA-256 over weights, tokenizer and token policy."""
    token_policy: TokenPolicy


class Shard(Part):
    """One pair of files of a store: shard-NNNNN.safetensors and tokens-NNNNN.parquet."""

    name: str
    n_tokens: int
    n_examples: int
    sha256: str
    """Of the safetensors file."""
    tokens_sha256: str
    """Of the Parquet file."""


class StoreManifest(Record):
    """What an activation store holds and where it came from."""

    KIND: ClassVar[str] = "store"
    subject: SubjectRef
    corpus_fingerprint: str
    sites: dict[str, int]
    """Site name to its width d_in."""
    dtype: str
    shards: list[Shard]
    n_tokens: int
    n_examples: int
    harvest_s: float


class MetricValue(Part):
    """A measured number with its uncertainty."""

    value: float
    low: float | None = None
    """Lower end of the 95 % interval."""
    high: float | None = None
    n: int
    """How many independent units (groups of examples) the interval resamples, or observations where there is no interval."""
    unit: str = "groups"
    seeds: list[int] = Field(default_factory=list)

    def __str__(self) -> str:
        interval = "" if self.low is None else f" [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.value:.4g}{interval}"


class SaeRecord(Record):
    """sparselight.json: what the SAELens files beside it do not say."""

    KIND: ClassVar[str] = "sae"
    architecture: str
    """Of the training (batch_topk, ...); cfg.json holds the inference form."""
    role: str
    """"base" or "residual"."""
    site: str
    subject: SubjectRef
    store_fingerprint: str
    """Hash of the training activations' manifest."""
    d_in: int
    n_latents: int
    k: float
    """Mean active latents a token that training aimed at."""
    l0: float
    """Mean active latents a token at the end of training, with the inference threshold."""
    n_dead: int
    """Latents that did not fire in the last dead_after_tokens training tokens."""
    dead_after_tokens: int
    n_tokens_seen: int
    normalization: str
    """How inputs were scaled while training; always folded into the stored weights."""
    loss_scale: str
    """What the logged loss is divided by."""
    config: dict[str, Any]
    parents: list[str] = Field(default_factory=list)
    """For a residual SAE: hash of the base SAE's weights. For a stitched one: one entry a part."""
    part_sizes: list[int] = Field(default_factory=list)
    """For a stitched SAE: how many latents each parent contributes, in order."""


class EvalRow(Part):
    """One metric of one coder on one set of held-out tokens."""

    coder: str
    """`base`, `base+residual`, or the name of a control."""
    is_control: bool
    dataset: str
    """`general` or `domain`."""
    metric: str
    """A row of vocab.METRICS."""
    value: MetricValue
    reference: str | None = None
    """For a difference: the coder that it is taken to."""


class EvalRecord(Record):
    """All measurements of one evaluation, controls included."""

    KIND: ClassVar[str] = "evaluation"
    rows: list[EvalRow]
    differences: list[EvalRow]
    """Paired: coder minus reference, resampled over the same groups."""
    n_tokens: dict[str, int]
    """Held-out tokens a dataset."""
    notes: list[str] = Field(default_factory=list)


class Context(Part):
    """A window of tokens around a firing, for a page or a prompt."""

    example: str
    group: str
    tokens: list[str]
    activations: list[float]
    """Of the card's latent, one a token of the window."""
    peak: int
    """Index of the token that the window is about."""


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


class Explanation(Part):
    """What a latent is said to stand for: a label of tokens, with its evidence."""

    text: str
    """In words, as shown."""
    label: str
    """Machine form, `kind=value`."""
    explainer: str
    evidence: Evidence


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
    contexts: list[Context]
    promotes: list[str]
    """Next tokens whose logits the decoder direction raises most."""
    suppresses: list[str]

    @property
    def key(self) -> str:
        return f"{self.source}/{self.latent}"


class Edit(Record):
    """What an intervention does: an operation on latents at a site."""

    KIND: ClassVar[str] = "edit"
    site: str
    latents: list[int]
    operation: str
    """ablate (to 0), clamp (to `amount`), scale (by `amount`), add (`amount`)."""
    amount: float = 0.0


class NextToken(Part):
    """One candidate of a prediction."""

    text: str
    before: float
    """Probability without the edit."""
    after: float


class EditResult(Part):
    """One example of an edit: what the subject predicts at a position before and after, and what else changed."""

    card: str
    edit: dict[str, Any]
    context: Context
    next_tokens: list[NextToken]
    next_actual: str
    kl_nats: float
    """KL(before || after) at the shown position."""
    side_effect_kl_nats: MetricValue
    """Mean KL a token over general held-out text with the same edit."""
    control_kl_nats: MetricValue
    """The same for a random latent of the nearest firing rate."""


class InterventionRecord(Record):
    """The edits that a run tried."""

    KIND: ClassVar[str] = "interventions"
    results: list[EditResult]


class StageRecord(Record):
    """A finished stage of a run. The stage's folder is complete if and only if this file stands in it."""

    KIND: ClassVar[str] = "stage"
    stage: str
    hash: str
    """Of the stage's resolved config, its inputs' outputs, the record version and, for some stages, their code; names the folder."""
    output: str
    """Fingerprint of what the stage made where it has one (a corpus, a subject), else its hash: what later stages hash in."""
    inputs: dict[str, str]
    config: dict[str, Any]
    wall_s: float
    """Seconds of work, summed over interrupted attempts."""
    machine: str
    sparselight_version: str
    summary: dict[str, Any] = Field(default_factory=dict)
    """A few numbers for people: counts, sizes, headline metrics."""
    files: dict[str, int]
    """Every file of the folder with its size in bytes: the stage counts as finished while they are all there."""


class RunRecord(Record):
    """A run folder: the recipe as resolved and the stages in order."""

    KIND: ClassVar[str] = "run"
    name: str
    recipe: dict[str, Any]
    stages: dict[str, str]
    """Stage name to its folder."""
    wall_s: dict[str, float]
    report: str | None = None
