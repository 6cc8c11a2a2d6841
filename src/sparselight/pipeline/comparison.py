"""SAEs side by side: from evaluations to one comparison, with its page, its JSON and its flat table.

Refuses: evaluations that were not measured alike, unless they are asked for `anyway`; then nothing is paired across them and the page
begins with what differs.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq

from sparselight import __version__
from sparselight.errors import RunError
from sparselight.files import atomic_path
from sparselight.pipeline.comparison_columns import Built, build_columns
from sparselight.pipeline.comparison_curves import make_curves, make_histograms
from sparselight.pipeline.comparison_sources import Source, check_alike, open_sources
from sparselight.pipeline.comparison_values import make_rows
from sparselight.records import Part
from sparselight.report.compare import write_comparison
from sparselight.report.compare_data import Comparison, to_table

PAGE, DATA, TABLE = "comparison.html", "comparison.json", "comparison.parquet"


class CompareResult(Part):
    """What a comparison came to: the one object that `--json` prints."""

    folder: str
    page: str
    data: str
    table: str
    comparison: Comparison
    next_command: str


def compare(places: Sequence[str], anyway: bool = False) -> Comparison:
    """Put evaluated SAEs side by side.

    Args:
        places: evaluation files or folders, run folders, SAE folders.
        anyway: also where they were not measured alike.

    Raises:
        RunError: when a place holds no evaluation, there are fewer than two coders, or the evaluations were not measured alike.
    """
    if not places:
        raise RunError(asked="compare nothing", why="no evaluation was given", instead="give evaluations, runs or evaluated SAEs")
    sources = open_sources(places)
    check = check_alike(sources)
    if check.mismatches and not anyway:
        raise RunError(asked=f"compare {', '.join(source.name for source in sources)}", why=f"they were not measured alike: {'. '.join(check.mismatches)}",
                       instead="evaluate all with the same subject, site, data, seed and settings, or give --anyway to see them with a warning")
    columns = build_columns(sources)
    if sum(not built.column.is_control for built in columns) == 0 or len(columns) < 2:
        raise RunError(asked=f"compare {', '.join(places)}", why=f"there is {'only one coder' if len(columns) == 1 else 'no SAE'} in it",
                       instead="give the evaluations of two SAEs or more")
    rows = make_rows(columns, sources, can_pair=not check.mismatches and not check.unpaired)
    return Comparison(
        subject=_each(source.record.subject.name if source.record.subject is not None else "a subject that is not recorded" for source in sources),
        site=_each(source.record.site or "a site that is not recorded" for source in sources),
        n_tokens={name: n for source in reversed(sources) for name, n in source.record.n_tokens.items()},
        columns=[built.column for built in columns], rows=rows,
        families={name: family.title for source in reversed(sources) for name, family in source.record.families.items()},
        histograms=make_histograms(columns), curves=make_curves(columns), mismatches=check.mismatches, notes=_notes(sources, columns, check.unpaired),
        sources={source.name: str(source.path) for source in sources}, facts=_facts(sources), sparselight_version=__version__,
        created=datetime.now(UTC).date().isoformat(),
    )


def write(comparison: Comparison, folder: Path) -> CompareResult:
    """Write page, JSON and table into a folder; the page comes last."""
    comparison.save(folder / DATA)
    with atomic_path(folder / TABLE) as temporary:
        pq.write_table(to_table(comparison), temporary, compression="zstd")
    write_comparison(comparison, folder / PAGE)
    return CompareResult(
        folder=str(folder), page=str(folder / PAGE), data=str(folder / DATA), table=str(folder / TABLE), comparison=comparison,
        next_command=f"python -c \"import duckdb; duckdb.sql('FROM \\'{folder / TABLE}\\' WHERE is_clear').show()\"",
    )


def default_folder(comparison: Comparison) -> Path:
    """comparisons/A-B, by the names of the first few evaluations."""
    names = [name.replace("/", "-") for name in comparison.sources]
    return Path("comparisons") / "-".join(names[:3])[:80]


def _each(values: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(values))


def _notes(sources: Sequence[Source], columns: Sequence[Built], unpaired: Sequence[str]) -> list[str]:
    """What a reader must know: notes of the evaluations, families that were not measured, coders that stand for the same weights."""
    several = len(sources) > 1
    found = [f"Not paired across evaluations, because they differ in this: {line}." for line in unpaired]
    for source in sources:
        who = f"{source.name}: " if several else ""
        found += [f"{who}{family.title} was not measured: {family.not_measured}." for family in source.record.families.values() if family.not_measured]
        found += [f"{who}{note}" for note in source.record.notes]
    for built in columns:
        found += [f"{built.column.name} was evaluated {len(part.places)} times with the same weights; values come from {part.places[0][0].name} where it has "
                  "them." for part in built.parts if len(part.places) > 1 and not built.column.is_control]
    return list(dict.fromkeys(found))


def _facts(sources: Sequence[Source]) -> dict[str, str]:
    """Fingerprints of what was measured."""
    first = sources[0].record
    found = {"suite": ", ".join(dict.fromkeys(source.record.suite for source in sources if source.record.suite))}
    if first.subject is not None:
        found["subject fingerprint"] = first.subject.fingerprint
        found["seed, resamples"] = f"{first.seed}, {first.n_bootstrap:,}"
    for name, data in first.datasets.items():
        found[f"held-out examples of {name}"] = f"{data.held_out} ({data.n_groups:,} groups)"
    return {name: value for name, value in found.items() if value}
