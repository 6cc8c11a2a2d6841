"""A run at a glance: stages, SAEs, the headline with controls and intervals, every metric, and the figures.

Owns what is left out where a stage is not finished: the page shows the rest. Words and pictures are those of the report. Plots with a mark a latent draw
a seeded sample of large catalogues and say so. Refuses nothing beyond what the records refuse.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple, cast

import numpy as np

from sparselight.errors import RunError
from sparselight.interpret.evidence import GRADES
from sparselight.records import Card, EvalRecord, EvalRow, SaeRecord
from sparselight.report import figures
from sparselight.report.data import ReportData, RunInfo
from sparselight.report.headline import COLUMNS, headline_sentences, interval_sentence, key_numbers, subject_sentence, table_rows
from sparselight.report.numbers import compact, count, interval, number, percent
from sparselight.report.run_picture import TITLES, run_picture, stage_words
from sparselight.report.words import words_of
from sparselight.serve.data.columns import Columns
from sparselight.serve.data.features import DOMAIN_RATIO
from sparselight.serve.data.served import ServedRun, read_json
from sparselight.serve.models import (
    Curve,
    Curves,
    Figure,
    HeadlineColumn,
    HeadlineRow,
    KeyNumberView,
    MetricCell,
    MetricView,
    Overview,
    SourceView,
    StageView,
)
from sparselight.vocab import METRICS, STAGES

LOGS = {"base": "train", "residual": "residual"}
CURVES = ("fvu", "mse", "aux", "l0", "n_dead", "lr")
MOST_POINTS = 400
MOST_DOTS = 4_000


def overview(run: ServedRun, columns: Columns | None, problem: str = "") -> Overview:
    """Everything of the first page.

    Args:
        columns: of its cards, None where the stage explain is not finished.
        problem: why there are none.
    """
    evaluation = run.evaluation() or EvalRecord(rows=[], differences=[], n_tokens={})
    saes, record = sae_records(run), run.record
    data = report_data(run, evaluation, saes)
    words = stage_words(data) | {"explain": explain_words(columns), "intervene": intervene_words(run)}
    speech, finished = words_of(record.recipe), run.finished()
    last = next((found for stage in reversed(finished) if (found := run.stage(stage)) is not None), None)
    n_supported = int(columns.supported.sum()) if columns else 0
    return Overview(
        id=run.id, name=record.name, modality=run.modality, subject=run.subject, site=run.site, corpus=corpus_words(run.summary("corpus")),
        created_with=last.sparselight_version if last else "", machine=last.machine if last else "", sources=sources(columns, saes), stages=[
            StageView(name=stage, title=TITLES[stage], is_finished=stage in finished, wall_s=record.wall_s.get(stage), words=words[stage] if stage in finished
                      else []) for stage in STAGES
        ],
        headline=headline_sentences(evaluation, speech) if evaluation.rows else [], notes=evaluation.notes,
        key_numbers=[KeyNumberView(title=one.title, value=one.value, note=one.note)
                     for one in key_numbers(evaluation, n_supported, n_domain_supported(columns, "residual"))] if columns and evaluation.rows else [],
        columns=[HeadlineColumn(dataset=column.dataset, metric=column.metric, title=column.title) for column in COLUMNS] if evaluation.rows else [],
        rows=[HeadlineRow(coder=row.coder, is_control=row.is_control, cells=[MetricCell(value=cell.value, interval=cell.interval) for cell in row.cells])
              for row in table_rows(evaluation)],
        interval_sentence=interval_sentence(evaluation, evaluation.n_bootstrap or None, speech) if evaluation.rows else "",
        subject_sentence=subject_sentence(evaluation), metrics=[metric_view(row) for row in evaluation.rows],
        differences=[metric_view(row) for row in evaluation.differences], n_features=columns.n if columns else 0,
        n_explained=int(columns.has_explanation.sum()) if columns else 0, n_supported=n_supported, n_domain_supported=n_domain_supported(columns),
        figures=drawn(data, words, columns), selection=run.summary("select"), problem=problem,
    )


def report_data(run: ServedRun, evaluation: EvalRecord, saes: dict[str, SaeRecord]) -> ReportData:
    """The run as the report's figures read it, without its cards."""
    info = RunInfo(name=run.record.name, recipe=run.record.recipe, wall_s=run.record.wall_s, machine="", sparselight_version="", created="")
    logs = {source: run.training_log(stage) for source, stage in LOGS.items() if run.path(stage) is not None}
    return ReportData(run=info, evaluation=evaluation, cards=[], sae_records=saes, logs=logs, selection=run.summary("select"), corpus=run.summary("corpus"),
                      edits=[], next_command="", modality=run.modality, harvest=run.summary("harvest"))


def sae_records(run: ServedRun) -> dict[str, SaeRecord]:
    """sparselight.json of each SAE that is trained."""
    found = {}
    for source in LOGS:
        folder = run.weights(source)
        if folder is not None:
            try:
                found[source] = SaeRecord.load(folder / "sparselight.json")
            except RunError:
                continue
    return found


def sources(columns: Columns | None, saes: Mapping[str, SaeRecord]) -> list[SourceView]:
    """Every SAE, with what is known of it and of its cards."""
    views = []
    for source in dict.fromkeys([*saes, *(columns.sources if columns else ())]):
        fields: dict[str, Any] = {}
        if source in saes:
            fields = saes[source].model_dump(include={"architecture", "n_latents", "d_in", "l0", "n_dead", "n_tokens_seen"})
        if columns is not None and source in columns.sources:
            own = columns.source == columns.sources.index(source)
            fields |= {"n_cards": int(own.sum()), "n_supported": int((own & columns.supported).sum()),
                       "n_domain_supported": n_domain_supported(columns, source),
                       "grades": {grade: int((own & (columns.grade == number)).sum()) for number, grade in enumerate(GRADES)}}
        views.append(SourceView(source=source, **fields))
    return views


def n_domain_supported(columns: Columns | None, source: str | None = None) -> int:
    """Supported latents that fire more often in the domain, of one SAE or all."""
    if columns is None or (source is not None and source not in columns.sources):
        return 0
    found = columns.supported & (columns.numbers["domain_ratio"] >= DOMAIN_RATIO)
    return int((found & (columns.source == columns.sources.index(source))).sum() if source is not None else found.sum())


def explain_words(columns: Columns | None) -> list[str]:
    if columns is None:
        return []
    return [f"{compact(columns.n)} latents", f"{compact(int(columns.has_explanation.sum()))} explained", f"{compact(int(columns.supported.sum()))} supported"]


def intervene_words(run: ServedRun) -> list[str]:
    folder = run.path("intervene")
    if folder is None:
        return []
    content = read_json(folder / "interventions.json")
    results = content.get("results") if isinstance(content, Mapping) else None
    return [f"{len(results)} edit{'s' if len(results) != 1 else ''}"] if isinstance(results, list) else []


def corpus_words(summary: Mapping[str, Any]) -> str:
    """The corpus in a few words."""
    origin = PurePath(str(summary.get("origin", ""))).name
    parts = [f"{count(summary[name])} {noun}" for name, noun in (("n_examples", "examples"), ("n_groups", "groups")) if name in summary]
    return ": ".join(part for part in (origin, ", ".join(parts)) if part)


def metric_view(row: EvalRow) -> MetricView:
    """A measurement, as number and as shown."""
    metric = METRICS.get(row.metric)
    form = percent if row.metric in SHARES else number
    return MetricView(family=row.family, coder=row.coder, is_control=row.is_control, dataset=row.dataset, metric=row.metric,
                      title=metric.title if metric else row.metric, setting=row.setting, value=row.value, text=form(row.value.value),
                      interval=interval(row.value, form), reference=row.reference)


SHARES = {column.metric for column in COLUMNS if column.form is percent}


def drawn(data: ReportData, words: Mapping[str, list[str]], columns: Columns | None) -> dict[str, list[Figure]]:
    """All figures that have something to draw."""
    found: dict[str, list[Figure]] = {
        "run": [Figure(name=name, title="The run", svg=str(run_picture(data, wide=wide, words=words))) for name, wide in (("wide", True), ("narrow", False))],
        "training": [Figure(name=source, title=f"Training of the {source} SAE", svg=str(svg))
                     for source, log in data.logs.items() if (svg := figures.training_curve(source, log)) is not None],
    }
    for name, metric, form in (("fvu", "fvu", number), ("ce", "ce_recovered_mean", percent)):
        if (svg := figures.metric_by_coder(data.evaluation, metric, form)) is not None:
            found[name] = [Figure(name=name, title=METRICS[metric].title, svg=str(svg))]
    if columns is not None:
        found |= latent_figures(columns)
    return {name: listed for name, listed in found.items() if listed}


class LightValue(NamedTuple):
    """What the plots read of a measured value."""

    value: float
    high: float | None = None


class LightEvidence(NamedTuple):
    """What the plots read of a card's evidence."""

    f1: LightValue
    control_f1: LightValue


class LightCard(NamedTuple):
    """What the plots read of a card."""

    source: str
    fire_rate: float
    domain_fire_rate: float
    evidence: LightEvidence | None = None


def latent_figures(columns: Columns) -> dict[str, list[Figure]]:
    """The plots over all latents: evidence, a dot each, and firing rates."""
    explained = np.flatnonzero(np.isfinite(columns.numbers["f1"]))
    shown = explained if len(explained) <= MOST_DOTS else np.sort(np.random.default_rng(0).choice(explained, MOST_DOTS, replace=False))
    svg = figures.evidence_plot(cast("Sequence[Card]", list(_explained(columns, shown))))
    some = "" if len(shown) == len(explained) else f" ({len(shown):,} of {len(explained):,} latents, drawn at random)"
    rates = []
    for index, source in enumerate(columns.sources):
        own = cast("Sequence[Card]", list(_fired(columns, np.flatnonzero(columns.source == index))))
        if (drawn := figures.fire_rate_histogram(source, own)) is not None:
            rates.append(Figure(name=source, title=f"Firing rates of the {source} SAE's latents", svg=str(drawn)))
    evidence = [] if svg is None else [Figure(name="evidence", title=f"Held-out F1 against F1 with shuffled labels{some}", svg=str(svg))]
    return {"evidence": evidence, "fire_rates": rates}


def _fired(columns: Columns, rows: np.ndarray) -> Iterator[LightCard]:
    """What the plots of firing rates read."""
    rates = [np.nan_to_num(columns.numbers[name][rows]).tolist() for name in ("fire_rate", "domain_fire_rate")]
    return map(LightCard, [columns.sources[number] for number in columns.source[rows]], *rates)


def _explained(columns: Columns, rows: np.ndarray) -> Iterator[LightCard]:
    """What the plot of the evidence reads."""
    values = [np.nan_to_num(columns.numbers[name][rows]).tolist() for name in ("f1", "control_f1", "control_f1_high")]
    for card, f1, control, high in zip(_fired(columns, rows), *values, strict=True):
        yield card._replace(evidence=LightEvidence(LightValue(f1), LightValue(control, high)))


def curves(run: ServedRun) -> Curves:
    """Training logs, thinned."""
    found = []
    for source, stage in LOGS.items():
        lines = [line for line in run.training_log(stage) if isinstance(line.get("tokens"), int | float)]
        lines = lines[::max(1, -(-len(lines) // MOST_POINTS))]
        names = Counter(name for line in lines for name in line)
        found += [Curve(source=source, name=name, tokens=[line["tokens"] for line in lines],
                        values=[value if isinstance(value := line.get(name), int | float) else None for line in lines]) for name in CURVES if names[name]]
    return Curves(curves=found)
