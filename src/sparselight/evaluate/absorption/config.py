"""Settings of the absorption metrics; the constants of the score are SAEBench's by default."""

from typing import Literal

from pydantic import Field

from sparselight.config import Config


class AbsorptionConfig(Config):
    """Which classes are looked at, how probes are fitted, and what counts as absorbed."""

    forms: tuple[Literal["first_letter", "hierarchy"], ...] = ("first_letter", "hierarchy")
    """`first_letter`: words of the subject's vocabulary in spelling prompts. `hierarchy`: annotated tokens of the datasets."""
    parents: tuple[str, ...] = ()
    """Kinds of annotation whose values are the parent classes; by default every kind with least_classes to max_classes values."""
    child: str = "token"
    """What divides a parent class: `token` (which token it is), a kind of annotation, or empty for nothing."""
    child_share: float = Field(0.5, gt=0, le=1)
    """A latent belongs to a child if at least this share of the parent's fit units on which it fires are that child's."""
    least_classes: int = Field(2, ge=1)
    """Classes with a good enough probe that a mean needs, in the form `hierarchy`."""
    max_classes: int = Field(50, ge=1)
    """Kinds with more values are not taken by default."""
    least_letters: int = Field(20, ge=1, le=26)
    """Letters with a good enough probe that a mean needs, in the form `first_letter`."""
    least_units: int = Field(10, ge=2)
    """Units of a class that each part of the data needs: fitting, choosing and held out."""
    n_units: int = Field(10_000, ge=100)
    """Most tokens of each side that are used; drawn evenly."""
    n_words: int = Field(5000, ge=100)
    """Most words of the vocabulary that are used; drawn evenly."""
    n_shots: int = Field(10, ge=0)
    """Solved examples in front of each word in a spelling prompt."""
    probe_l2: float = Field(1e-4, gt=0)
    """Penalty of the ground truth probe: mean loss + probe_l2 / 2 ||w||^2."""
    l1: float = Field(0.01, gt=0)
    """Penalty of the probe that ranks latents: mean loss + l1 ||w||_1, in units of 1 / activation of a latent."""
    max_k: int = Field(10, ge=1)
    """Most main latents of a class."""
    split_f1_gain: float = Field(0.03, ge=0)
    """A further latent is a main one if it raises the F1 of the k-sparse probe by more than this."""
    choose_on: Literal["fit", "held_out"] = "fit"
    """Where that F1 is measured: on a fifth of the fit side's groups, set apart for it, or, as SAEBench does, on the held-out side."""
    least_f1: float = Field(0.6, ge=0, le=1)
    """Classes count if the held-out F1 of their ground truth probe is above this."""
    full_cos: float = 0.025
    """Full absorption: least cosine of the top projecting latent's direction with the probe."""
    fraction_cos: float = 0.1
    """Absorption fraction: least cosine of an absorbing latent's direction with the probe."""
    projection_frac: float = Field(0.4, gt=0)
    """Both: least share of the activation's projection on the probe that the absorbing latents bring."""
    max_absorbing: int = Field(3, ge=1)
    """Absorption fraction: most latents that absorb together."""
    seed: int = 0
    """Of the draws of units and words, of the prompts, and of the groups set apart for choosing."""
