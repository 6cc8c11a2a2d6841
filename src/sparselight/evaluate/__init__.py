"""Evaluation of coders on held-out text: families of metrics, controls, intervals, paired differences.

Owns: what is measured, on which tokens, and with which uncertainty. Its one output is a records.EvalRecord.
"""

from sparselight.evaluate.case import Case, Dataset
from sparselight.evaluate.config import CaseConfig
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.controls import CONTROL_ROWS, MeanCoder, ZeroCoder, mean_only, standard_controls, untrained
from sparselight.evaluate.linear_coders import LinearCoder, pca
from sparselight.evaluate.runner import evaluate, run_suite, unmet
from sparselight.evaluate.sheet import undefined_lines
from sparselight.evaluate.suite import FAMILIES, SUITES, EvaluateConfig, choose

__all__ = [
    "CONTROL_ROWS", "FAMILIES", "SUITES", "Case", "CaseConfig", "Contender", "Dataset", "EvaluateConfig", "LinearCoder", "MeanCoder", "ZeroCoder", "choose",
    "evaluate", "mean_only", "pca", "run_suite", "standard_controls", "undefined_lines", "unmet", "untrained",
]
