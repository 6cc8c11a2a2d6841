"""The versioned records that stages leave on disk: the only thing a later stage reads of an earlier one.

Each record is one JSON file with its own kind and version, written atomically. A reader refuses a newer version by name.
"""

from sparselight.records.base import CheckedRecord, MetricValue, Part, Record
from sparselight.records.cards import Association, Card, Context, ContextKind, Evidence, Explanation, Grade, Neighbour, OtherImage, Score
from sparselight.records.corpus import BadRow, CorpusRecord, DuplicateCluster, Duplicates, FetchedPage, LabelCount, SourceFile, UniprotFetch
from sparselight.records.edits import Condition, Edit, EditResult, EditSet, InterventionRecord, NextToken, Where
from sparselight.records.evaluation import EvalRecord, EvalRow, EvaluatedCoder, EvaluatedData, FamilyRun, UndefinedValue
from sparselight.records.item_concepts import ConceptDictionaryRecord, ConceptSummary, LatentConcept
from sparselight.records.layers import LayerDimension, LayersRecord
from sparselight.records.notes import Note
from sparselight.records.recommendations import EditedList, ListedItem, RecommendationLists
from sparselight.records.recommender import RankingValue, RecommenderRecord
from sparselight.records.run import RunRecord, StageRecord
from sparselight.records.sae import SaeRecord
from sparselight.records.sequences import ArmKind, SequenceArm, SequenceJudge, SequenceSteeringRecord, WrittenSequence
from sparselight.records.specialisation import Drift, NewLatents, SpecialisationRecord, VariantRecord
from sparselight.records.steering import Dose, FindingRate, MatchedEffect, OffTarget, OffTargets, Response, SteeredText, SteeringRecord, TextQuality
from sparselight.records.store import Rounding, Shard, SkippedExample, StoreManifest, StorePart
from sparselight.records.subject import ImagePolicy, Masking, SubjectRef, TokenPolicy
from sparselight.records.tuning import BalanceDose, BalanceRecord, TuningDose, TuningRecord

__all__ = [
    "ArmKind",
    "Association",
    "BadRow",
    "BalanceDose",
    "BalanceRecord",
    "Card",
    "CheckedRecord",
    "ConceptDictionaryRecord",
    "ConceptSummary",
    "Condition",
    "Context",
    "ContextKind",
    "CorpusRecord",
    "Dose",
    "Drift",
    "DuplicateCluster",
    "Duplicates",
    "Edit",
    "EditResult",
    "EditSet",
    "EditedList",
    "EvalRecord",
    "EvalRow",
    "EvaluatedCoder",
    "EvaluatedData",
    "Evidence",
    "Explanation",
    "FamilyRun",
    "FetchedPage",
    "FindingRate",
    "Grade",
    "ImagePolicy",
    "InterventionRecord",
    "LabelCount",
    "LatentConcept",
    "LayerDimension",
    "LayersRecord",
    "ListedItem",
    "Masking",
    "MatchedEffect",
    "MetricValue",
    "Neighbour",
    "NewLatents",
    "NextToken",
    "Note",
    "OffTarget",
    "OffTargets",
    "OtherImage",
    "Part",
    "RankingValue",
    "RecommendationLists",
    "RecommenderRecord",
    "Record",
    "Response",
    "Rounding",
    "RunRecord",
    "SaeRecord",
    "Score",
    "SequenceArm",
    "SequenceJudge",
    "SequenceSteeringRecord",
    "Shard",
    "SkippedExample",
    "SourceFile",
    "SpecialisationRecord",
    "StageRecord",
    "SteeredText",
    "SteeringRecord",
    "StoreManifest",
    "StorePart",
    "SubjectRef",
    "TextQuality",
    "TokenPolicy",
    "TuningDose",
    "TuningRecord",
    "UndefinedValue",
    "UniprotFetch",
    "VariantRecord",
    "Where",
    "WrittenSequence",
]
