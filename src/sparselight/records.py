"""The versioned records that stages leave on disk: the only thing a later stage reads of an earlier one.

Each record is one JSON file with its own kind and version, written atomically. A reader refuses a newer version by name.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

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
            kind, version = content["record"], content["version"]
        except FileNotFoundError:
            raise RunError(asked=asked, why="there is no such file", instead="run the stage that writes it, or give the folder of a finished one") from None
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise RunError(asked=asked, why=f"it is damaged ({err})", instead="delete that file and run the same command again") from None
        if kind != cls.KIND:
            raise RunError(asked=asked, why=f"it is a {kind} record", instead=f"give the path of a {cls.KIND} record")
        if version > cls.VERSION:
            raise RunError(asked=asked, why=f"it has version {version}, this sparselight reads up to {cls.VERSION}", instead="upgrade sparselight")
        try:
            return cls.model_validate(cls._fields(content))
        except ValidationError as err:
            raise RunError(asked=asked, why=f"it is damaged ({err.errors()[0]['msg']} at {err.errors()[0]['loc']})",
                           instead="delete that file and run the same command again") from None
        except ValueError as err:
            raise RunError(asked=asked, why=f"it is damaged ({err})", instead="delete that file and run the same command again") from None

    @classmethod
    def _fields(cls, content: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in content.items() if name not in ("record", "version")}


class CheckedRecord(Record):
    """A record that carries the SHA-256 of its own content, so that a changed byte is noticed; older versions without one are read as they are."""

    def save(self, path: Path) -> None:
        content = {"record": self.KIND, "version": self.VERSION, "sha256": "", **self.model_dump(mode="json")}
        content["sha256"] = _content_hash(content)
        write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())

    @classmethod
    def _fields(cls, content: dict[str, Any]) -> dict[str, Any]:
        fields = super()._fields(content)
        expected = fields.pop("sha256", None)
        if expected is None and content["version"] >= cls.VERSION:
            raise ValueError("its checksum is missing")
        if expected is not None and expected != _content_hash(content):
            raise ValueError("its content does not match its checksum")
        return fields


def _content_hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps({**content, "sha256": ""}, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class TokenPolicy(Part):
    """Which positions a subject sees and which count as tokens: the same at training, evaluation and steering."""

    prepend_bos: bool
    """Every row starts with the BOS token ([CLS] in BERT's kind); it counts only where count_specials says so."""
    context_tokens: int
    """Longest row in positions, BOS and all else that belongs to no example included."""
    count_specials: bool = False
    """Whether special tokens count: those inside a text, and those at the ends of each row."""
    append_eos: bool = False
    """Every row ends with the tokenizer's end token ([SEP], </s>, <eos>)."""
    padding_side: Literal["right", "left"] = "right"
    """Where shorter rows of a batch are filled up; padding never counts."""
    long_examples: Literal["split", "cut"] = "split"
    """Whether what does not fit into one row goes on in further rows or is left out."""
    overlap_tokens: int = 0
    """Tokens of the row before with which each further row of an example begins: context only, they count in the row before."""
    skip_start_tokens: int = 0
    """Tokens at the start of each row, after BOS, that do not count."""
    pack: bool = False
    """Several short examples share a row; attention and positions start anew with each."""
    chat_prefix: str = ""
    """What the tokenizer's chat template writes before the text of an example; it does not count."""
    chat_suffix: str = ""
    """What it writes after it; it does not count."""
    template_tokens: int = 0
    """Positions a row that belong to no example, beside one start and one end token: the chat template's, and further start or end tokens."""
    pooling: Literal["none", "mean", "cls", "max", "last"] = "none"
    """Other than `none`: an example is one token, the pooled vector of its row."""
    unit_pooled: bool = False
    """Pooled vectors are scaled to length 1."""
    max_norms: dict[str, float] = Field(default_factory=dict)
    """Site to the largest norm that an activation may have there; tokens above it are neither harvested nor edited at that site."""

    @property
    def body_tokens(self) -> int:
        """How many tokens of an example one row holds."""
        return self.context_tokens - self.prepend_bos - self.append_eos - self.template_tokens

    def canonical(self) -> str:
        """JSON for fingerprints. Fields that came later enter only where they differ from their default, so that older fingerprints stay."""
        later = type(self).model_fields.keys() - {"prepend_bos", "context_tokens", "count_specials"}
        plain = TokenPolicy(prepend_bos=self.prepend_bos, context_tokens=self.context_tokens)
        return self.model_dump_json(exclude={name for name in later if getattr(self, name) == getattr(plain, name)})


class Masking(Part):
    """How the loss of a masked language model hides tokens."""

    n_groups: int
    """The tokens of an example are divided into so many groups; one forward pass masks one group."""
    rounds: int
    """Groups that are masked in turn and scored; the other tokens have no loss."""
    seed: int


class SubjectRef(Part):
    """Which model, exactly."""

    name: str
    fingerprint: str
    """SHA-256 over weights, tokenizer and token policy."""
    token_policy: TokenPolicy
    kind: Literal["causal_lm", "masked_lm", "encoder", "module"] = "causal_lm"
    masking: Masking | None = None
    """Of a masked language model's loss."""


class Rounding(Part):
    """What the number format of a store changed, summed over evenly spaced rows: fraction of variance lost = error / spread."""

    n_rows: int
    error: float
    """Sum of squared differences between captured and stored values."""
    spread: float
    """Sum of squared distances of captured rows from their mean in the shard."""


class SkippedExample(Part):
    """An example that a store holds no activations of."""

    id: str
    n_tokens: int
    why: str


class Shard(Part):
    """One pair of files of a store: shard-NNNNN.safetensors and tokens-NNNNN.parquet."""

    name: str
    n_tokens: int
    """Rows in it; tokens of skipped examples are not among them."""
    n_examples: int
    sha256: str
    """Of the safetensors file."""
    tokens_sha256: str
    """Of the Parquet file."""
    n_bytes: int = 0
    """Size of the safetensors file; 0 in stores of version 1."""
    tokens_bytes: int = 0
    """Size of the Parquet file; 0 in stores of version 1."""
    rounding: dict[str, Rounding] = Field(default_factory=dict)
    """By site; empty for float32 and in stores of version 1."""
    skipped: list[SkippedExample] = Field(default_factory=list)
    """Examples whose activations were not finite."""
    n_massive_tokens: int = 0
    """Tokens left out because their norm is above the token policy's max_norms."""

    @property
    def planned_tokens(self) -> int:
        """Tokens of its examples, stored or not."""
        return self.n_tokens + self.n_massive_tokens + sum(example.n_tokens for example in self.skipped)


class StorePart(Part):
    """What one harvest, append or merged store brought: consecutive shards and an example table of their own."""

    corpus_fingerprint: str
    first_example: int
    n_examples: int
    n_shards: int
    """As planned; shards that a repair dropped are among them."""
    shard_tokens: int
    examples: str
    """Name of its example table."""
    examples_sha256: str


class StoreManifest(CheckedRecord):
    """What an activation store holds and where it came from."""

    KIND: ClassVar[str] = "store"
    VERSION: ClassVar[int] = 2
    subject: SubjectRef
    corpus_fingerprint: str
    """Content hash of the examples; of several parts, the hash over theirs."""
    sites: dict[str, int]
    """Site name to its width d_in."""
    dtype: str
    shards: list[Shard]
    n_tokens: int
    n_examples: int
    harvest_s: float
    parts: list[StorePart] = Field(default_factory=list)
    """Empty in stores of version 1, which have one."""
    dropped: list[str] = Field(default_factory=list)
    """Shards that were damaged and that a repair gave up."""

    @property
    def skipped(self) -> list[SkippedExample]:
        return [example for shard in self.shards for example in shard.skipped]

    def rounding_fvu(self) -> dict[str, float]:
        """Fraction of variance that the number format costs, by site: sum ||x - stored(x)||^2 / sum ||x - mean||^2, means taken in each shard."""
        totals = {site: [shard.rounding[site] for shard in self.shards if site in shard.rounding] for site in self.sites}
        return {site: sum(one.error for one in found) / max(sum(one.spread for one in found), 1e-300) for site, found in totals.items() if found}


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
    """base, residual, stitched or grafted."""
    site: str
    subject: SubjectRef
    store_fingerprint: str
    """Hash of the training activations' manifest."""
    d_in: int
    n_latents: int
    k: float | None
    """Mean active latents a token that training aimed at; None for an architecture that aims at none."""
    l0: float
    """Mean active latents a token at the end of training, in the inference form."""
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
    """Hashes of weights. For a residual SAE: the base SAE. For one that was trained on from another (fine-tuned, extended): that one, last.
    For a stitched or grafted one: one entry a part."""
    part_sizes: list[int] = Field(default_factory=list)
    """For a stitched or grafted SAE: how many latents each parent contributes, in order."""
    target_site: str | None = None
    """For a transcoder: the site whose activations it gives back."""
    topk_threshold: float | None = None
    """For an SAE that keeps the k largest of each token: the threshold that k a token exceed on average, in the units of the stored weights."""
    notes: list[str] = Field(default_factory=list)
    """What a reader must know beside the numbers, in sentences."""


class EvalRow(Part):
    """One metric of one coder on one set of held-out tokens."""

    coder: str
    """`base`, `base+residual`, or the name of a control."""
    is_control: bool
    dataset: str
    """`general` or `domain`; empty for what depends on weights alone."""
    metric: str
    """A row of vocab.METRICS."""
    value: MetricValue
    reference: str | None = None
    """For a difference: the coder that it is taken to."""
    setting: str = ""
    """Which form of the metric, where it has several: `k=5`, `n=20`, `alive`."""
    family: str = ""
    """The metric family that it comes from; empty in records of version 1."""


class UndefinedValue(Part):
    """A value that does not exist, and why; there is no row for it."""

    coder: str
    dataset: str
    metric: str
    setting: str = ""
    family: str = ""
    why: str
    """In words that go on from "is not defined: "."""
    reference: str | None = None
    """For a difference: the coder that it would be taken to."""


class FamilyRun(Part):
    """One family of metrics in an evaluation."""

    title: str
    not_measured: str = ""
    """Why there is nothing of it, where something that it needs was missing; else empty."""
    seconds: float = 0.0
    """Of its work, when it was done; one that was found finished keeps the time that it took then."""
    passed_tokens: int = 0
    """Tokens that went through the subject for it. Passes shared with an earlier family count there."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Its settings, defaults included."""
    hash: str = ""
    """Of coders, data, settings and source code: equal hashes, equal results."""
    folder: str | None = None
    """Where its resamples and tables lie, relative to the record; null where nothing was kept."""
    tables: list[str] = Field(default_factory=list)
    """Details as Parquet, relative to the record."""


class EvaluatedCoder(Part):
    """A coder of an evaluation."""

    is_control: bool
    n_latents: int | None = None
    """Null for one without latents."""
    weights: str | None = None
    """Hash of the weights; null where they have none."""
    source: str | None = None
    """The folder that it was read from."""
    site: str | None = None
    """Where it was trained, by its record."""


class EvaluatedData(Part):
    """One dataset of an evaluation."""

    n_tokens: int
    """Held-out tokens measured."""
    n_groups: int
    """Groups of the held-out tokens, which intervals resample."""
    held_out: str
    """Hash of the held-out examples offered (id, group, text, labels, spans), in any order."""
    fit: str
    """Hash of the examples that probes and thresholds are fitted on; of none where there are none."""
    held_out_store: str | None = None
    """Fingerprint of the store that the activations come from; null where the subject gave them."""
    fit_store: str | None = None


class EvalRecord(Record):
    """All measurements of one evaluation, controls included."""

    KIND: ClassVar[str] = "evaluation"
    VERSION: ClassVar[int] = 2
    rows: list[EvalRow]
    differences: list[EvalRow]
    """Paired: coder minus reference, resampled over the same groups."""
    n_tokens: dict[str, int]
    """Held-out tokens a dataset."""
    notes: list[str] = Field(default_factory=list)
    site: str = ""
    """Where in the subject; this and all below are empty in records of version 1."""
    subject: SubjectRef | None = None
    suite: str = ""
    base: str = ""
    """The coder to which differences are taken where nothing else is said."""
    n_bootstrap: int = 0
    seed: int = 0
    """Of the choice of examples and of the resamples."""
    undefined: list[UndefinedValue] = Field(default_factory=list)
    families: dict[str, FamilyRun] = Field(default_factory=dict)
    """By name, in the order of the suite; also those that were not measured."""
    coders: dict[str, EvaluatedCoder] = Field(default_factory=dict)
    datasets: dict[str, EvaluatedData] = Field(default_factory=dict)


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


class SourceFile(Part):
    """A file that a corpus was read from."""

    name: str
    """Its path inside the corpus root, or its name."""
    n_bytes: int
    sha256: str


class BadRow(Part):
    """A row of a source that could not become an example."""

    where: str
    why: str


class DuplicateCluster(Part):
    """Examples whose texts are equal or nearly so."""

    kind: Literal["exact", "near"]
    ids: list[str]
    """In corpus order, the first few."""
    n_examples: int
    n_chars: int
    """Length of the first one's text."""
    text: str
    """How the first one begins."""


class Duplicates(Part):
    """What deduplication found and did."""

    method: Literal["exact", "near"]
    action: Literal["drop", "group"]
    n_clusters: int
    n_exact: int
    """Examples whose text equals that of an earlier one (case, white space and Unicode form aside)."""
    n_near: int
    """Further examples that are similar to an earlier one."""
    n_dropped: int
    n_groups_joined: int
    """Groups that became part of another one, so that no split divides duplicates."""
    n_unchecked: int
    """Texts that were too alike to too many others to be compared with all of them; 0 in all but heavily templated corpora."""
    largest: list[DuplicateCluster]
    """The largest clusters."""


class LabelCount(Part):
    """One label of examples, or one name of spans."""

    name: str
    n: int
    """Examples that carry the label, or spans of that name."""
    n_values: int
    top: dict[str, int]
    """The most frequent values with their counts."""


class CorpusRecord(Record):
    """What a corpus holds and where it came from."""

    KIND: ClassVar[str] = "corpus"
    origin: str
    kind: str
    fingerprint: str
    n_examples: int
    n_groups: int
    n_chars: int
    longest_chars: int
    median_chars: float
    labels: list[LabelCount]
    spans: list[LabelCount]
    n_held_out: int | None
    """Examples that the settings would hold out; null when they would leave one side empty."""
    n_groups_held_out: int | None
    n_bad_rows: int
    """Rows left out because they could not become examples."""
    bad_rows: list[BadRow]
    """The first few of them."""
    notes: list[str]
    """What was left aside on purpose, with counts."""
    duplicates: Duplicates | None
    """Null when no deduplication was asked for."""
    sources: list[SourceFile]
    settings: dict[str, Any]
    """Settings of the reader that are not at their default."""
