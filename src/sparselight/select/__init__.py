"""The select stage: which examples of a corpus belong to the domain.

Owns: what a seed is (seeds.py), likeness to seeds by terms (bm25.py, terms.py) and by vectors (dense.py), near copies and leaks (copies.py), how a
budget is filled from all of it (choose.py), and the outcome (selection.py). Sees no model: vectors and influence are handed in.
"""

from sparselight.select.choose import Influence, select_examples
from sparselight.select.config import SelectConfig
from sparselight.select.dense import Vectors
from sparselight.select.seeds import Seeds, find_seeds, labels_of, seed_names
from sparselight.select.selection import Selection

__all__ = ["Influence", "Seeds", "SelectConfig", "Selection", "Vectors", "find_seeds", "labels_of", "seed_names", "select_examples"]
