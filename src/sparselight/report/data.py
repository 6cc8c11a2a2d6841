"""What the report shows. Every number and word on the page that is not a fixed sentence comes from a `ReportData`.

Owns the list of inputs and which of their keys are read. Keys of the summaries may be missing: the page then leaves out the
number that would have come from there, and nothing else. Refuses nothing: checks belong to the stages that wrote the records.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparselight.records import Card, EditResult, EvalRecord, SaeRecord
from sparselight.report.recommender import RecommenderFindings


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run as its record and its stages describe it."""

    name: str
    recipe: dict[str, Any]
    """As resolved, defaults included."""
    wall_s: dict[str, float]
    """Stage of vocab.STAGES to its seconds of work; a stage that is missing is shown without a time."""
    machine: str
    sparselight_version: str
    created: str
    """ISO date, or date and time."""


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything that one report shows."""

    run: RunInfo
    evaluation: EvalRecord
    cards: list[Card]
    """All cards of all SAEs, with or without an explanation."""
    sae_records: dict[str, SaeRecord]
    """`base` and, where one was trained, `residual`."""
    logs: dict[str, list[dict[str, Any]]]
    """Training log lines of each SAE: `tokens` and `fvu` are read."""
    selection: dict[str, Any]
    """How the domain was chosen: n_examples, n_tokens, seeds, terms, groups are read."""
    corpus: dict[str, Any]
    """What the corpus is: origin, n_examples, n_groups, fingerprint are read."""
    edits: list[EditResult]
    next_command: str
    """What to run next, as typed in a terminal."""
    modality: str = "text"
    """How contexts are shown (`interpret.renderers`)."""
    recommender: RecommenderFindings | None = None
    """Concepts, lists and curves of a recommender; None for other subjects."""
    folder: Path | None = None
    """Of the run, where its pictures lie; None: pages go without."""
    harvest: dict[str, Any] = field(default_factory=dict)
    """Stored tokens: general_train_tokens, domain_train_tokens, general_held_out_tokens, domain_held_out_tokens, bytes are read."""
