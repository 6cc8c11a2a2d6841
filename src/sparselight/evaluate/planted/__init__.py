"""Activations with known ground truth: planted features with power-law frequencies, co-firing, hierarchies, compositions and dark features.

Owns: the planted world, its activations as an ordinary subject and ordinary stores, and its truth. What is measured with it stands in `synthetic.py`.
"""

from sparselight.evaluate.planted.config import PlantedConfig
from sparselight.evaluate.planted.folder import PlantedData, open_planted, plant, planted_behind
from sparselight.evaluate.planted.subject import SITE, PlantedSubject
from sparselight.evaluate.planted.world import KINDS, World

__all__ = ["KINDS", "SITE", "PlantedConfig", "PlantedData", "PlantedSubject", "World", "open_planted", "plant", "planted_behind"]
