"""Specialization: variants of a base SAE for a domain, on equal terms, measured beside each other."""

from sparselight.pipeline.specialise.config import DEFAULT_VARIANTS, VARIANTS, SpecialiseConfig
from sparselight.pipeline.specialise.equal_l0 import at_l0, l0_on
from sparselight.pipeline.specialise.variants import budgets_of, train_budgets, train_variants

__all__ = ["DEFAULT_VARIANTS", "VARIANTS", "SpecialiseConfig", "at_l0", "budgets_of", "l0_on", "train_budgets", "train_variants"]
