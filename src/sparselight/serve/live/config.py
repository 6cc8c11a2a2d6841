"""Settings of the live part: where and in which numbers the model runs, and how much one request may ask of it.

Owns the numbers alone; `inputs.py` and `work.py` keep them. What is beyond a limit is refused and says which one, it is never cut silently.
"""

from typing import Literal

from pydantic import Field

from sparselight.config import Config


class LiveConfig(Config):
    """How the model runs that people try, and what one live request may ask of it."""

    device: str | None = None
    """`auto`, or a torch device name such as `cuda:1`; left out, as the run's recipe has it."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Number format in which the model computes; left out, as the run's recipe has it. Not for a recommender, whose format is its file's."""
    trust_remote_code: bool = False
    """Whether Python code may run that a run's recipe trusts (subject.trust_remote_code): who serves a run did not always make it."""
    max_chars: int = Field(default=20_000, ge=1)
    """Longest text or sequence, in characters."""
    max_tokens: int = Field(default=1024, ge=1)
    """Longest input as the model sees it, patches of images included, in tokens."""
    max_history: int = Field(default=200, ge=1)
    """Longest history, in items."""
    max_new_tokens: int = Field(default=128, ge=1)
    """Longest continuation, and most residues that are written anew, in tokens."""
    max_edits: int = Field(default=32, ge=1)
    """Most features that are turned together."""
    max_top: int = Field(default=200, ge=1)
    """Most features that are given back with their activations."""
    time_limit_s: float = Field(default=30.0, gt=0)
    """Longest computation of one request, waiting for earlier ones not counted, in seconds."""
    max_waiting: int = Field(default=16, ge=1)
    """Requests that may wait for one model; more are refused."""
    max_logits: int = Field(default=2**26, ge=1)
    """Most values of predictions (tokens x vocabulary) that are compared for the KL divergence; above it, it is left out with the reason."""
