"""The settings of a training and what follows from them."""

from pydantic import Field, ValidationInfo, field_validator

from sparselight.config import Config
from sparselight.errors import ConfigError, nearest
from sparselight.sae import ARCHITECTURES

CHANGES_NO_RESULT = {"checkpoint_every_s", "log_every_steps"}
MAX_AUX_K = 512  # arXiv 2412.06410, section 3


class TrainConfig(Config):
    """How an SAE is trained; the defaults suit a small language model on a laptop."""

    architecture: str = "batch_topk"
    """How latents are selected while training (sparselight.sae.ARCHITECTURES)."""
    n_latents: int | None = Field(None, gt=0)
    """Width of the dictionary; leave out to have expansion * d_in."""
    expansion: float = Field(8.0, gt=0)
    """Latents per input dimension, where n_latents is not given."""
    k: float = Field(32.0, gt=0)
    """Mean active latents a token."""
    n_tokens: int = Field(1_500_000, gt=0)
    """Training tokens in all, rounded down to whole batches; past the end of the store the next epoch begins, in another order."""
    batch_tokens: int = Field(2048, gt=0)
    """Tokens in one step."""
    lr: float = Field(4e-3, gt=0)
    """Peak learning rate of Adam. High because a small run takes few steps; a larger dictionary and more tokens want less, about 3e-4 at 1e9."""
    warmup_frac: float = Field(0.05, ge=0, le=1)
    """Share of the steps over which the learning rate rises linearly."""
    decay_frac: float = Field(0.3, ge=0, le=1)
    """Share of the steps, the last ones, over which it falls linearly to 0."""
    clip_norm: float = Field(1.0, gt=0)
    """Largest norm of the whole gradient."""
    aux_weight: float = Field(1 / 32, ge=0)
    """Weight of the dead latents' loss; 0 leaves it out."""
    aux_k: int | None = Field(None, gt=0)
    """Dead latents that the dead latents' loss uses a token; leave out to have d_in / 2, at most 512 and half the latents."""
    dead_after_tokens: int = Field(100_000, gt=0)
    """A latent is dead once it has not fired for this many training tokens."""
    seed: int = Field(0, ge=0)
    """Of the first weights and the order of the tokens."""
    checkpoint_every_s: float = Field(20.0, ge=0)
    """Seconds between checkpoints: what an interruption costs at most. Changes no result."""
    log_every_steps: int = Field(10, gt=0)
    """Steps between lines of log.jsonl. Changes no result."""

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

    @property
    def n_steps(self) -> int:
        return self.n_tokens // self.batch_tokens


def n_latents_for(config: TrainConfig, d_in: int, table: str = "train") -> int:
    """The width of the dictionary that a config asks for at a site of width d_in.

    Args:
        table: name of the config in its recipe, for messages.

    Raises:
        ConfigError: when k is larger than that.
    """
    n_latents = config.n_latents or round(config.expansion * d_in)
    if config.k > n_latents:
        raise ConfigError(asked=f"set {table}.k to {config.k:g}", why=f"the dictionary has {n_latents} latents ({table}.expansion * d_in)",
                          instead=f"make {table}.k smaller, or {table}.expansion or {table}.n_latents larger")
    return n_latents


def aux_k_for(config: TrainConfig, d_in: int, n_latents: int) -> int:
    """How many dead latents a token the dead latents' loss uses: d_in / 2 as in Gao et al. 2024 (arXiv 2406.04093, appendix A.2)."""
    return config.aux_k or max(1, min(MAX_AUX_K, d_in // 2, n_latents // 2))
