"""Disentanglement in the manner of RAVEL: whether a set of latents carries one attribute of a thing and leaves its other attributes alone.

Interchange interventions through a trained mask over latents, without the reconstruction error. What the subject says is read by linear
probes, or by letting it complete prompts. Masks are trained on the fit side; values are of the held-out side. Refuses, as values that
are not defined: fewer than two attributes, coders without decoder directions, subjects that know too little.
"""

from sparselight.evaluate.family import Family
from sparselight.evaluate.ravel.config import RavelConfig
from sparselight.evaluate.ravel.measure import measure_ravel

FAMILY = Family("ravel", "Disentanglement of attributes by exchanged latents", measure_ravel, RavelConfig, needs=("examples", "annotations"))

__all__ = ["FAMILY", "RavelConfig", "measure_ravel"]
