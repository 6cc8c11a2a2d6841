"""The page of a tuned recommender: the curve of effect and cost, the strength that was kept, one user's list before and after.

Owns the values of `tuning.html.j2`; tables and figures are those of the report of a run. Refuses nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparselight.files import write_bytes
from sparselight.records.recommendations import RecommendationLists
from sparselight.records.tuning import BalanceRecord, TuningDose, TuningRecord
from sparselight.report.html import environment
from sparselight.report.numbers import number, percent
from sparselight.report.recommender import balance_verdict, balance_view, lists_view, name_of, tuning_view


@dataclass(frozen=True, slots=True)
class TunedPage:
    """All that the page shows."""

    run: str
    goal: str
    kept: float
    why_kept: str
    record: TuningRecord | BalanceRecord
    lists: RecommendationLists
    created: str
    version: str


def write_tuning(data: TunedPage, path: Path) -> None:
    """Render the page and write it atomically.

    Raises:
        StoreError: when the disk is full or the folder cannot be written.
    """
    page = environment().get_template("tuning.html.j2").render(tuning_values(data))
    write_bytes(path, page.encode("utf-8", errors="replace"))


def tuning_values(data: TunedPage) -> dict[str, Any]:
    """All that the template refers to."""
    record = data.record
    direction, _, label = data.goal.partition(" ")
    title = f"Recommend {direction} " + (name_of(label) if isinstance(record, TuningRecord) else "of what is popular")
    return {
        "run": data.run, "title": title, "kept": number(data.kept), "why_kept": data.why_kept, "lead": verdict(record, data.kept), "site": record.site,
        "latents": ", ".join(map(str, record.latents)), "n_users": f"{record.n_users:,}", "version": data.version, "created": data.created,
        "tuning": tuning_view(record) if isinstance(record, TuningRecord) else None,
        "balance": {**balance_view(record), "verdict": ""} if isinstance(record, BalanceRecord) else None,
        "lists": lists_view(data.lists), "recommender": None,
    }


def verdict(record: TuningRecord | BalanceRecord, kept: float) -> str:
    """What the edit at the kept strength, or at the smallest where that is none, does on held-out users, and what it costs."""
    if isinstance(record, BalanceRecord):
        return balance_verdict(record)
    doses = {dose.strength: dose for dose in record.doses}
    before = record.doses[0]
    if kept == before.strength:
        kept = record.doses[1].strength  # nothing was changed: say what the smallest change would have done
    after, controls = doses[kept], [dose for run in record.controls for dose in run if dose.strength == kept]
    beside = f"; random latents take it to {percent(_mean(controls))}" if controls else ""
    return (f"At strength {number(kept)} the share of the concept's items in the first {record.k} goes from {percent(before.share.value)} to "
            f"{percent(after.share.value)}{beside}. NDCG@{record.k} goes from {number(before.ndcg.value)} to {number(after.ndcg.value)}.")


def _mean(doses: list[TuningDose]) -> float:
    return sum(dose.share.value for dose in doses) / len(doses)
