"""Settings that every metric family shares. Refuses, when read: no tokens, and too few resamples for a 95 % interval.

The whole table `evaluate` of a recipe, with one table a family, is `suite.EvaluateConfig`: it knows the families, which know this.
"""

from pydantic import Field

from sparselight.config import Config


class CaseConfig(Config):
    """How much held-out text is measured, and how intervals are made."""

    n_tokens: int = Field(40_000, gt=0)
    """Held-out tokens a dataset; every metric uses the same ones. Examples are taken whole, evenly over groups."""
    n_bootstrap: int = Field(1000, ge=40)
    """Resamples of the groups behind each 95 % interval; with fewer than 40 the 2.5 % point does not exist."""
    batch_tokens: int = Field(4096, gt=0)
    """Tokens that the subject sees at once, padding included; one longer example still goes as a whole."""
    seed: int = 0
    """Of the choice of examples and of the resamples."""
