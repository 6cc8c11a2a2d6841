"""The settings of a selection."""

from typing import Annotated, Literal

from pydantic import Field

from sparselight.config import Config


class SelectConfig(Config):
    """Which examples make up the domain: those most like the seeds."""

    method: Literal["bm25"] = "bm25"
    """How likeness is measured."""
    seeds: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    """Groups (files) that are known to be of the domain: exact paths, or patterns with * and ?."""
    max_tokens: int = Field(default=200_000, gt=0)
    """Tokens of the selection, seeds included."""
    query_terms: int = Field(default=32, gt=0)
    """Distinctive terms taken from each seed example as its query."""
    pool: int = Field(default=3, gt=0)
    """An example's score is the mean of its best `pool` scores over the seed queries."""
    common_frac: float = Field(default=0.2, gt=0, le=1)
    """Terms in more than this share of the examples are dropped."""
    k1: float = Field(default=1.5, gt=0)
    """BM25: how soon repeating a term stops to count."""
    b: float = Field(default=0.75, ge=0, le=1)
    """BM25: how much long examples are marked down."""
