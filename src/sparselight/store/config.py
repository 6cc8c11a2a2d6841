"""The settings of a harvest."""

from typing import Literal

from pydantic import Field

from sparselight.config import Config


class HarvestConfig(Config):
    """Which activations are stored, and how."""

    site: str = "resid_post.2"
    """The site whose activations are stored (vocab.SITES)."""
    dtype: Literal["bfloat16", "float32", "float16", "int8"] = "bfloat16"
    """Number format on disk; readers always get float32. int8 has one scale a row. The manifest says how much variance the format costs."""
    shard_tokens: int = Field(default=65536, gt=0)
    """A shard is closed after the example with which it reaches this many tokens; an interruption costs at most one shard."""
    batch_tokens: int = Field(default=8192, gt=0)
    """Positions in one forward pass, padding included; a single longer example still gets one of its own."""
    max_skipped_frac: float = Field(default=0.01, ge=0, le=1)
    """Examples whose activations are not finite are skipped and named in the manifest, up to this share of the examples; beyond it the harvest is refused."""
