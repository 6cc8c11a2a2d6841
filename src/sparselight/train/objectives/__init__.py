"""The objective: a weighted sum of named terms over one forward pass. The target may differ from the input.

Convention: targets come scaled so that E||t - mean||^2 = d, so `mse`, the mean over all elements, begins near 1 and is the fraction
of variance unexplained up to sampling. A new term is one function and one row of TERMS.
"""

from sparselight.train.objectives.objective import Objective, Term, TermInputs, make_objective
from sparselight.train.objectives.terms import TERMS

__all__ = ["TERMS", "Objective", "Term", "TermInputs", "make_objective"]
