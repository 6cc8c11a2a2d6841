"""The versioned records that stages leave on disk: the only thing a later stage reads of an earlier one.

Each record is one JSON file with its own kind and version, written atomically. A reader refuses a newer version by name.
"""

from sparselight.records.base import CheckedRecord, MetricValue, Part, Record
from sparselight.records.cards import Card, Context, Evidence, Explanation
from sparselight.records.corpus import BadRow, CorpusRecord, DuplicateCluster, Duplicates, LabelCount, SourceFile
from sparselight.records.edits import Edit, EditResult, InterventionRecord, NextToken
from sparselight.records.evaluation import EvalRecord, EvalRow, EvaluatedCoder, EvaluatedData, FamilyRun, UndefinedValue
from sparselight.records.run import RunRecord, StageRecord
from sparselight.records.sae import SaeRecord
from sparselight.records.store import Rounding, Shard, SkippedExample, StoreManifest, StorePart
from sparselight.records.subject import Masking, SubjectRef, TokenPolicy

__all__ = [
    "BadRow",
    "Card",
    "CheckedRecord",
    "Context",
    "CorpusRecord",
    "DuplicateCluster",
    "Duplicates",
    "Edit",
    "EditResult",
    "EvalRecord",
    "EvalRow",
    "EvaluatedCoder",
    "EvaluatedData",
    "Evidence",
    "Explanation",
    "FamilyRun",
    "InterventionRecord",
    "LabelCount",
    "Masking",
    "MetricValue",
    "NextToken",
    "Part",
    "Record",
    "Rounding",
    "RunRecord",
    "SaeRecord",
    "Shard",
    "SkippedExample",
    "SourceFile",
    "StageRecord",
    "StoreManifest",
    "StorePart",
    "SubjectRef",
    "TokenPolicy",
    "UndefinedValue",
]
