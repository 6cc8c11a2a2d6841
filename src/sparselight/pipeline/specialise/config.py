"""The settings of a specialization: which variants are made of a base SAE, and on what equal terms.

Owns: SpecialiseConfig (`specialise` in a recipe) and VARIANTS, the table of all variants. Refuses: names that are no variant, budgets that are no
sizes, and a base SAE left out of a comparison (it is always part of it).
"""

from typing import Literal, NamedTuple

from pydantic import Field, field_validator

from sparselight.config import Config
from sparselight.errors import nearest
from sparselight.train import ObjectiveConfig


class Variant(NamedTuple):
    """One way of making an SAE that knows the domain."""

    what: str
    """In words, for the report."""
    trained_on: Literal["nothing", "domain", "general", "domain and general"]
    is_control: bool = False
    in_default: bool = True


VARIANTS: dict[str, Variant] = {
    "base": Variant("the general SAE as it is", "nothing"),
    "boost": Variant("the base and a residual SAE trained on what it leaves of the domain, as one (SAE Boost, arXiv 2507.12990)", "domain"),
    "boost_silent": Variant("the same, with rows of general text in each batch on which the residual SAE learns to give back 0", "domain and general"),
    "boost_general": Variant("the same residual SAE trained on general text: what more latents alone bring", "general", is_control=True),
    "finetune": Variant("the base trained on with the domain, all weights", "domain"),
    "finetune_tilted": Variant("the same by tilted risk, where badly explained tokens weigh more (SSAE, arXiv 2411.00743)", "domain"),
    "extended_random": Variant("the base with new latents from random directions; only these are trained", "domain"),
    "extended_most_active": Variant("the base with new latents from its most active ones; only these are trained", "domain"),
    "extended_random_all": Variant("the base with new latents from random directions; everything is trained", "domain", in_default=False),
    "extended_most_active_all": Variant("the base with new latents from its most active ones; everything is trained", "domain", in_default=False),
    "grafted": Variant("the base, and the latents of the fine-tuned one that changed most beside its own", "domain"),
    "scratch_domain": Variant("an SAE of that width trained from scratch on the domain", "domain"),
}
"""In the order in which they are trained and shown."""

DEFAULT_VARIANTS = tuple(name for name, variant in VARIANTS.items() if variant.in_default)


class SpecialiseConfig(Config):
    """What is made of the base SAE: every variant gets as many new latents, training tokens and active latents as the others."""

    variants: tuple[str, ...] = DEFAULT_VARIANTS
    """Which are made, by name (docs/guides/specialising.md); `base` is always among them."""
    budgets: tuple[int, ...] | None = None
    """Sizes of the domain, in tokens, on which the residual SAE is trained besides, to see what more text of the domain would bring: the first so many
    tokens of the domain's store. Leave out to have a quarter and half of it; an empty list has none."""
    n_new: int = Field(512, gt=0)
    """Latents added to the base: of a residual SAE, an extended SAE, a graft; an SAE from scratch is as wide as the base and these."""
    k_new: float = Field(4.0, gt=0)
    """Active latents a token beyond those of the base."""
    k_from: Literal["record", "domain"] = "domain"
    """What counts as the base's active latents: as many as its thresholds let through on training text of the domain, or k of its record. Where the
    domain makes the base use more latents than its k, only the former gives the other variants as many as boost has."""
    n_tokens: int = Field(600_000, gt=0)
    """Training tokens of each variant, on the text that it is trained on; past the end of the store the next epoch begins."""
    batch_tokens: int = Field(2048, gt=0)
    """Tokens of that text in one step."""
    lr: float = Field(4e-3, gt=0)
    """Peak learning rate of weights that begin fresh: residual SAEs, new latents trained alone, an SAE from scratch."""
    finetune_lr: float = Field(5e-4, gt=0)
    """Peak learning rate where the base's own weights are trained on."""
    tilt: float = Field(1.0, gt=0, le=1e9)
    """Of finetune_tilted: t of the tilted risk (train.objective.tilt)."""
    silent_frac: float = Field(0.25, gt=0, lt=1)
    """Of boost_silent: share of each batch that is general text; it comes on top of batch_tokens."""
    objective: ObjectiveConfig | None = None
    """Where the base's own way of selecting latents needs a penalty (relu, gated, jump_relu): the objective of the variants that train it on. Leave out to
    take that of its record."""
    equal_l0: bool = True
    """Whether every variant is also measured with thresholds moved so that all have one l0, that of the base and k_new, on training text of the domain."""
    equal_l0_tokens: int = Field(8192, gt=0)
    """Training tokens of the domain on which those thresholds are found and, with k_from = "domain", the base's active latents are counted."""
    min_domain_tokens: int = Field(20_000, gt=0)
    """A domain with fewer training tokens is refused."""
    seed: int = Field(0, ge=0)
    """Of first weights; the same for all."""
    data_seed: int = Field(0, ge=0)
    """Of the order of the tokens; the same for all."""
    device: str = "auto"
    """Where to train: auto (cuda if there is one), cpu, cuda, cuda:1, ..."""
    checkpoint_every_s: float = Field(20.0, ge=0)
    """Seconds between checkpoints: what an interruption costs at most. Changes no result."""

    @field_validator("variants")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in VARIANTS:
                raise ValueError(f"{name!r} is no variant; {nearest(name, VARIANTS)}")
        return tuple(name for name in VARIANTS if name in value or name == "base")

    @field_validator("budgets")
    @classmethod
    def _ascending(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (min(value, default=1) <= 0 or list(value) != sorted(set(value))):
            raise ValueError(f"{list(value)} are not sizes above 0, each once and the smallest first")
        return value


CHANGES_NO_WEIGHTS = {"variants", "budgets", "equal_l0", "min_domain_tokens", "checkpoint_every_s"}
"""Settings on which the weights of a single variant do not depend."""
