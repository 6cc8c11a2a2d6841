"""The select stage: which examples of a corpus belong to the domain.

Owns: the ranking of examples by likeness to seeds (bm25.py), what counts as a term (terms.py), and the outcome (selection.py).
"""

from sparselight.select.bm25 import select_examples
from sparselight.select.config import SelectConfig
from sparselight.select.selection import Selection

__all__ = ["SelectConfig", "Selection", "select_examples"]
