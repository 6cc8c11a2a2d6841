"""Evaluation of coders on held-out text: reconstruction, behaviour of the subject, controls, intervals, paired differences.

Owns: what is measured, on which tokens, and with which uncertainty. Its one output is a records.EvalRecord.
"""

from sparselight.evaluate.config import EvaluateConfig
from sparselight.evaluate.controls import CONTROL_ROWS, MeanCoder, PcaCoder, ZeroCoder, mean_only, pca, standard_controls, untrained
from sparselight.evaluate.reconstruction import Contender
from sparselight.evaluate.runner import evaluate

__all__ = [
    "CONTROL_ROWS", "Contender", "EvaluateConfig", "MeanCoder", "PcaCoder", "ZeroCoder", "evaluate", "mean_only", "pca", "standard_controls", "untrained",
]
