"""The settings of a training and what follows from them."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sparselight.config import Config
from sparselight.errors import ConfigError, nearest
from sparselight.sae import ARCHITECTURES, SPECIFIC, SaeConfig, group_ends

CHANGES_NO_RESULT = {"checkpoint_every_s", "keep_checkpoints", "best_every_steps", "log_every_steps", "log_to"}
MAX_AUX_K = 512  # arXiv 2412.06410, section 3
SERVES = {  # settings that mean something only beside one of these weights
    "l1_decoder_norm": ("l1", "l0"), "l0_form": ("l0",), "l0_target": ("l0",), "l0_scale": ("l0",), "sparsity_warmup_frac": ("l1", "l0"),
    "aux_k": ("aux",), "orthogonal_chunk": ("orthogonal",), "orthogonal_every": ("orthogonal",), "tilt_unit": ("tilt",),
}


class ObjectiveConfig(Config):
    """Weights of the objective's terms (0 leaves one out) and what they need; formulas stand in sparselight.train.objectives."""

    mse: Literal["mean", "sum"] = "mean"
    """Squared error averaged over dimensions, or summed; over tokens it is always averaged. All other weights are relative to it."""
    l1: float = Field(0.0, ge=0)
    """Weight of the L1 norm of the latents, summed over latents, averaged over tokens."""
    l1_decoder_norm: bool = False
    """Weigh each latent's activation in l1, and in the tanh form of l0, by the norm of its decoder row. For decoder_norm = "free", which needs it."""
    l0: float = Field(0.0, ge=0)
    """Weight of the number of active latents."""
    l0_form: Literal["step", "tanh"] = "step"
    """Count by a step with a straight-through gradient to the thresholds (jump_relu only), or by tanh(l0_scale * z)."""
    l0_target: float | None = Field(None, gt=0)
    """Pull l0 towards this number: the term is (l0 / l0_target - 1)^2 (step form only)."""
    l0_scale: float = Field(4.0, gt=0)
    """Of the tanh form."""
    aux: float = Field(1 / 32, ge=0)
    """Weight of the dead latents' loss."""
    aux_k: int | None = Field(None, gt=0)
    """Dead latents that the dead latents' loss uses a token; leave out to have d_in / 2, at most 512 and half the latents."""
    orthogonal: float = Field(0.0, ge=0)
    """Weight of the orthogonality penalty (0.25 in the paper)."""
    orthogonal_chunk: int = Field(8192, ge=2)
    """Latents that are compared with each other, at most; a dictionary of fewer is one chunk."""
    orthogonal_every: int = Field(1, ge=1)
    """Steps between penalties; each then weighs this many times as much."""
    tilt: float = Field(0.0, ge=0, le=1e9)
    """t of tilted empirical risk: 0 is the mean over tokens, large t their maximum. Means something only together with the loss scale (record: loss_scale)."""
    tilt_unit: Literal["token", "example"] = "token"
    """What is weighed up: tokens, or examples by their mean over the batch's tokens."""
    sparsity_warmup_frac: float = Field(0.0, ge=0, le=1)
    """Share of the steps over which l1 and l0 rise linearly from 0."""

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Self:
        given = self.model_dump()
        for name, weights in SERVES.items():
            if given[name] != type(self).model_fields[name].default and not any(given[weight] for weight in weights):
                raise ValueError(f"{name} = {given[name]} means nothing while {' and '.join(weights)} {'is' if len(weights) == 1 else 'are'} 0")
        if self.l0_form == "tanh" and self.l0_target is not None:
            raise ValueError(f"l0_target = {self.l0_target:g} is for l0_form = 'step'")
        if self.l0_form == "step" and self.l0_scale != type(self).model_fields["l0_scale"].default:
            raise ValueError(f"l0_scale = {self.l0_scale:g} is for l0_form = 'tanh'")
        return self

    @property
    def reads_magnitudes(self) -> bool:
        """Whether smaller activations make it smaller, all else being equal."""
        return self.l1 > 0 or (self.l0 > 0 and self.l0_form == "tanh")


class OptimizerConfig(Config):
    """Adam, its state always in float32."""

    kind: Literal["adam", "adamw"] = "adam"
    """adamw is adam with weight_decay."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay rate of the gradient's moving mean, a step."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Decay rate of its square's moving mean."""
    eps: float = Field(1e-10, gt=0)
    """Below Adam's usual 1e-8: a rare latent's gradient is a mean over all elements of a batch."""
    weight_decay: float = Field(0.0, ge=0)
    """Of adamw, decoupled."""
    clip_norm: float = Field(1.0, ge=0)
    """Largest norm of the whole gradient; 0 is no limit."""

    @model_validator(mode="after")
    def _decay_needs_adamw(self) -> Self:
        if self.weight_decay and self.kind != "adamw":
            raise ValueError(f"weight_decay = {self.weight_decay:g} is for kind = 'adamw'")
        return self


class ScheduleConfig(Config):
    """The learning rate over the steps: a linear rise, a plateau, a fall to final_frac. Lengths are shares of the steps, steps, or tokens."""

    warmup_frac: float = Field(0.05, ge=0, le=1)
    """Share of the steps over which the learning rate rises linearly."""
    warmup_steps: int | None = Field(None, ge=0)
    """In place of warmup_frac: in steps."""
    warmup_tokens: int | None = Field(None, ge=0)
    """In place of warmup_frac: in training tokens."""
    decay: Literal["linear", "cosine", "none"] = "linear"
    """How it falls at the end; none keeps it constant."""
    decay_frac: float = Field(0.3, ge=0, le=1)
    """Share of the steps, the last ones, over which it falls."""
    decay_steps: int | None = Field(None, ge=0)
    """In place of decay_frac: in steps."""
    decay_tokens: int | None = Field(None, ge=0)
    """In place of decay_frac: in training tokens."""
    final_frac: float = Field(0.0, ge=0, le=1)
    """The learning rate at the end, relative to the peak."""

    @model_validator(mode="after")
    def _one_length_each(self) -> Self:
        for name in ("warmup", "decay"):
            fields = (f"{name}_frac", f"{name}_steps", f"{name}_tokens")
            given = [field for field in fields if getattr(self, field) != type(self).model_fields[field].default]
            if len(given) > 1:
                raise ValueError(f"{' and '.join(given)} say the same thing: give one")
        return self


class FinetuneConfig(Config):
    """Of a training that goes on from an SAE (`init`): latents added to it, and what is trained."""

    n_new: int = Field(0, ge=0)
    """Latents added to the dictionary (an extended SAE); its width is then that of the SAE and these."""
    new_init: Literal["random", "most_active"] = "random"
    """Their first weights: random directions, or copies of the latents that fire most on the first batches, with noise."""
    new_noise: float = Field(0.1, ge=0)
    """Of most_active: length of the noise relative to a row's."""
    train_only: Literal["all", "new"] = "all"
    """Train everything, or only the added latents: all others are saved bit for bit as they were."""

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Self:
        fields = type(self).model_fields
        for name in ("new_init", "train_only"):
            if not self.n_new and getattr(self, name) != fields[name].default:
                raise ValueError(f"{name} = {getattr(self, name)!r} means nothing while n_new is 0")
        if self.new_init == "random" and self.new_noise != fields["new_noise"].default:
            raise ValueError(f"new_noise = {self.new_noise:g} is for new_init = 'most_active'")
        return self


class TrainConfig(SaeConfig):
    """How an SAE is trained; the defaults suit a small language model on a laptop."""

    n_tokens: int = Field(1_500_000, gt=0)
    """Training tokens in all, rounded down to whole batches; past the end of the store the next epoch begins, in another order."""
    batch_tokens: int = Field(2048, gt=0)
    """Tokens in one step."""
    lr: float = Field(4e-3, gt=0)
    """Peak learning rate. High because a small run takes few steps; a larger dictionary and more tokens want less, about 3e-4 at 1e9."""
    normalize: Literal["none", "scalar", "per_dimension", "whiten"] = "scalar"
    """How input and target are scaled while training: not at all, by one number (E||x - mean||^2 = d_in), each dimension to unit variance, or to
    unit covariance. It is folded into the saved weights."""
    autocast: Literal["none", "bf16"] = "none"
    """Precision of the encoder's product; weights, Adam's moments, decoding and gradients stay float32."""
    dead_after_tokens: int = Field(100_000, gt=0)
    """A latent is dead once it has not fired for this many training tokens."""
    device: str = "auto"
    """Where to train: auto (cuda if there is one), cpu, cuda, cuda:1, ..."""
    seed: int = Field(0, ge=0)
    """Of the first weights and of random partitions."""
    data_seed: int = Field(0, ge=0)
    """Of the order of the tokens; the same for all that train on one stream."""
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    silent_frac: float = Field(0.0, ge=0, lt=1)
    """Share of each batch that is rows of a second store, where a residual SAE shall give back 0, so that it learns to stay silent there."""
    checkpoint_every_s: float = Field(20.0, ge=0)
    """Seconds between checkpoints: what an interruption costs at most. Changes no result."""
    keep_checkpoints: int = Field(2, ge=1)
    """How many of the last checkpoints are kept while training. Changes no result."""
    best_every_steps: int = Field(0, ge=0)
    """Every so many steps the state is kept in best.safetensors when the moving mean of the loss (over about 100 steps) is the lowest so far; 0 keeps none.
    Only steps after sparsity_warmup_frac count. Changes no result."""
    log_every_steps: int = Field(10, gt=0)
    """Steps between lines of log.jsonl. Changes no result."""
    log_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where the lines of log.jsonl go as well. Changes no result."""

    @field_validator("architecture")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ARCHITECTURES:
            raise ValueError(f"is no architecture; {nearest(value, ARCHITECTURES)}")
        return value

    @field_validator("k")
    @classmethod
    def _fits(cls, value: float, info: ValidationInfo) -> float:
        n_latents = info.data.get("n_latents")
        if n_latents is not None and value > n_latents:
            raise ValueError(f"is more than n_latents = {n_latents}")
        return value

    @field_validator("batch_tokens")
    @classmethod
    def _one_batch(cls, value: int, info: ValidationInfo) -> int:
        if value > info.data.get("n_tokens", value):
            raise ValueError(f"is more than n_tokens = {info.data['n_tokens']}: not one step")
        return value

    @model_validator(mode="after")
    def _only_what_the_architecture_knows(self) -> Self:
        given = {name for name in SPECIFIC & self.model_fields_set if getattr(self, name) != type(self).model_fields[name].default}
        if unknown := given - ARCHITECTURES[self.architecture].settings:
            raise ValueError(f"{', '.join(sorted(unknown))} means nothing to the architecture {self.architecture!r}")
        if self.architecture == "topk" and self.k != round(self.k):
            raise ValueError(f"k = {self.k:g} must be whole for the architecture 'topk'")
        return self

    @model_validator(mode="after")
    def _terms_fit(self) -> Self:
        objective, settings = self.objective, ARCHITECTURES[self.architecture].settings
        if "k" not in settings and not (objective.l1 or objective.l0):
            raise ValueError(f"nothing keeps the latents of the architecture {self.architecture!r} few: set objective.l1 or objective.l0")
        if objective.l0 and objective.l0_form == "step" and "first_threshold" not in settings:
            raise ValueError(f"objective.l0 = {objective.l0:g} counts by thresholds that learn: use the architecture 'jump_relu' or objective.l0_form = 'tanh'")
        if objective.l1_decoder_norm and not (objective.reads_magnitudes and self.decoder_norm == "free"):
            raise ValueError("objective.l1_decoder_norm means nothing without decoder_norm = 'free' and a term that reads it (l1, or l0 in the tanh form)")
        if objective.reads_magnitudes and self.decoder_norm == "free" and not objective.l1_decoder_norm:
            raise ValueError("decoder_norm = 'free' needs objective.l1_decoder_norm = true: else small activations on long rows lower the loss")
        return self

    @model_validator(mode="after")
    def _both_shares_have_rows(self) -> Self:
        if self.silent_frac and not 0 < self.n_silent < self.batch_tokens:
            raise ValueError(f"silent_frac = {self.silent_frac:g} of batch_tokens = {self.batch_tokens} leaves one of both without a row")
        return self

    @property
    def n_steps(self) -> int:
        return self.n_tokens // self.batch_tokens

    @property
    def n_silent(self) -> int:
        """Rows of the second store in a batch."""
        return round(self.silent_frac * self.batch_tokens)


def n_latents_for(config: TrainConfig, d_in: int, table: str = "train") -> int:
    """The width of the dictionary that a config asks for at a site of width d_in.

    Args:
        table: name of the config in its recipe, for messages.

    Raises:
        ConfigError: when k is larger than that, or nested groups would be empty.
    """
    n_latents = config.n_latents or round(config.expansion * d_in)
    if "k" in ARCHITECTURES[config.architecture].settings and config.k > n_latents:
        raise ConfigError(asked=f"set {table}.k to {config.k:g}", why=f"the dictionary has {n_latents} latents ({table}.expansion * d_in)",
                          instead=f"make {table}.k smaller, or {table}.expansion or {table}.n_latents larger")
    if "group_fracs" in ARCHITECTURES[config.architecture].settings:
        group_ends(config.group_fracs, n_latents)
    return n_latents


def aux_k_for(config: TrainConfig, d_in: int, n_latents: int) -> int:
    """How many dead latents a token the dead latents' loss uses: d_in / 2 as in Gao et al. 2024 (arXiv 2406.04093, appendix A.2)."""
    return config.objective.aux_k or max(1, min(MAX_AUX_K, d_in // 2, n_latents // 2))


def same_stream(configs: Sequence[TrainConfig]) -> str | None:
    """Why several trainings cannot share one stream of activations; None when they can."""
    for name in ("batch_tokens", "data_seed", "device", "silent_frac"):
        values = sorted({getattr(config, name) for config in configs})
        if len(values) > 1:
            return f"their {name} differ ({', '.join(map(str, values))})"
    return None
