"""Absorption: where a latent that stands for a class is silent because latents of the class's parts have taken its place.

Two forms with one score (`score.py`): words of the vocabulary by their first letter, as published, and any annotation with the tokens
that carry it. Probes, rankings and belonging to a child come from the fit side; every value is of the held-out side. Refuses, as values
that are not defined: too few classes, coders without decoder directions, and latents that never fire.
"""

from sparselight.evaluate.absorption.config import AbsorptionConfig
from sparselight.evaluate.absorption.measure import measure_absorption
from sparselight.evaluate.family import Family

FAMILY = Family("absorption", "Absorption of a class's latent by latents of its parts", measure_absorption, AbsorptionConfig, needs=("examples",))

__all__ = ["FAMILY", "AbsorptionConfig", "measure_absorption"]
