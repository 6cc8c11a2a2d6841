"""Renders a SpecialisationData as one HTML file: no script, nothing loaded from outside, readable in light, dark, small and in print.

The style sheets are those of the report and of the comparison. Contexts of cards are left out, the last first, when the page would be too large.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparselight.evaluate import undefined_lines
from sparselight.files import write_bytes
from sparselight.interpret.evidence import MIN_F1
from sparselight.records import EvalRecord, MetricValue
from sparselight.report import specialisation_figures as figures
from sparselight.report.compare_marks import Look, key
from sparselight.report.html import page_that_fits
from sparselight.report.numbers import DASH, Format, count, interval, number, percent, seconds
from sparselight.report.prose import recipe_toml, short_hash
from sparselight.report.select_cards import best_cards, enriched_cards, tally
from sparselight.report.specialisation_data import BASE, DATASETS, SpecialisationData, Values, is_clear, looks
from sparselight.report.specialisation_words import headline, lead, limits, signed, tokens_sentence
from sparselight.report.views import card_view
from sparselight.vocab import METRICS

__all__ = ["SpecialisationData", "render_specialisation", "write_specialisation"]

MAX_BYTES = 2_000_000
N_CONTEXTS = (6, 4, 2, 1)
MOST_CARDS = 8
COLUMNS: tuple[tuple[str, str, Format], ...] = (
    ("fvu", "fvu", number), ("explained_variance", "explained variance", percent), ("ce_increase_nats", "CE added, nats", number),
    ("kl_nats", "KL, nats", number), ("l0", "l0", number),
)
TAIL = (("coverage_frac", "covered"), ("coverage_tail_frac", "covered, rarest tenth"), ("coverage_tail_recall", "recall, rarest tenth"))
USED = ("fvu", "explained_variance", "fvu_change_frac", "ce_increase_nats", "kl_nats", "l0", *(metric for metric, _ in TAIL))
BETTER = {"lower": -1, "higher": 1}


@dataclass(frozen=True, slots=True)
class Cell:
    """A value of a table with what stands beneath it."""

    value: str
    interval: str = ""
    difference: str = ""
    """To the base; its interval stands apart."""
    difference_interval: str = ""
    verdict: str = ""
    """`better` or `worse` than the base, where the interval of the difference leaves out 0 and one direction is better."""


@dataclass(frozen=True, slots=True)
class Row:
    """A variant of a table."""

    name: str
    is_control: bool
    cells: list[Cell]


def write_specialisation(data: SpecialisationData, path: Path) -> None:
    """Render the page and write it atomically.

    Raises:
        StoreError: when the disk is full or the folder cannot be written.
    """
    write_bytes(path, render_specialisation(data).encode("utf-8", errors="replace"))


def render_specialisation(data: SpecialisationData) -> str:
    """The page as text."""
    return page_that_fits("specialisation.html.j2", lambda n_contexts: page_values(data, n_contexts), N_CONTEXTS, MAX_BYTES)


def page_values(data: SpecialisationData, n_contexts: int) -> dict[str, Any]:
    """All that the template refers to."""
    record, look = data.record, looks(data.record.variants)
    names = [*(name for name, one in record.variants.items() if not one.is_control), *(name for name, one in record.variants.items() if one.is_control)]
    trained, equal = Values.of(data.evaluation), Values.of(data.equal)
    cards = enriched_cards(data.cards, record.explained or "", MOST_CARDS)
    shown = {card.key for card in cards}
    others = [card for card in best_cards(data.cards) if card.key not in shown][:MOST_CARDS]
    sentences = headline(data)
    return {
        "record": record, "title": record.name, "lead": lead(data), "sentences": sentences, "tokens": tokens_sentence(data), "names": names,
        "keys": {name: key(own) for name, own in look.items()}, "columns": COLUMNS, "tiles": tiles(data, trained),
        "trained": table(trained, data, names), "equal": table(equal, data, names) if data.equal is not None else [],
        "equal_words": [(name, record.variants[name].equal_l0, record.variants[name].has_equal_l0) for name in names],
        "tail": tail_tables(trained, names, data.evaluation), "drift": drift_rows(data, names), "new": new_rows(data, names), "cost": cost_rows(data, names),
        "figures": page_figures(data, trained, equal, names, look), "cards": [card_view(card, "new", n_contexts) for card in cards],
        "others": [card_view(card, "best", n_contexts) for card in others], "tally": tally(data.cards), "min_f1": f"{MIN_F1:g}",
        "notes": [*data.evaluation.notes, *undefined_lines(data.evaluation, ("reconstruction", "behaviour"))], "metrics": [METRICS[name] for name in USED],
        "limits": limits(data), "provenance": provenance(data), "recipe_toml": recipe_toml(record.config), "next_command": data.next_command,
        "n_new": record.config.get("specialise", {}).get("n_new", 0), "curves": figures.shown_coders(data),
    }


def page_figures(data: SpecialisationData, trained: Values, equal: Values, names: Sequence[str], look: dict[str, Look]) -> dict[str, Any]:
    """All figures by name."""
    levels = [] if data.coverage_bins is None else list(dict.fromkeys(data.coverage_bins.column("level").to_pylist()))
    shown = figures.shown_coders(data)
    coverage = [figures.coverage_by_frequency(data, level, shown, look) for level in levels]
    return {
        "trained": figures.trade_off(trained, names, look, "trained", "as trained"),
        "equal": None if data.record.l0 is None else figures.trade_off(equal, names, look, "equal", f"all at l0 {number(data.record.l0)}"),
        "coverage": [figure for figure in coverage if figure is not None], "more_text": figures.more_text(data),
    }


def tiles(data: SpecialisationData, found: Values) -> list[tuple[str, str, str]]:
    """Up to four numbers for the top of the page: title, value, note."""
    if data.main is None:
        return []
    result = []
    for dataset in DATASETS:
        change = found.change(data.main, dataset)
        if change is not None:
            result.append((f"{dataset} fvu, {data.main}", signed(change).partition(" [")[0], interval(change, percent) or "no interval"))
    off = {one.dataset: one for one in data.record.variants[data.main].new_latents}
    if "general" in off and "domain" in off:
        result.append(("new latents a token", f"{number(off['domain'].active.value)} : {number(off['general'].active.value)}", "domain : general text"))
    if data.cards:
        result.append(("new latents with evidence", f"{sum(item.n_supported for item in tally(data.cards)):,}", f"of {len(data.cards):,}, by held-out F1"))
    return result


def table(found: Values, data: SpecialisationData, names: Sequence[str]) -> list[Row]:
    """Every variant by dataset and metric, with intervals and differences to the base."""
    rows = []
    for name in names:
        cells = [_cell(found, name, dataset, metric, form) for dataset in DATASETS for metric, _, form in COLUMNS]
        if any(cell.value != DASH for cell in cells):
            rows.append(Row(name, data.record.variants[name].is_control, cells))
    return rows


def _cell(found: Values, name: str, dataset: str, metric: str, form: Format) -> Cell:
    value, change = found.value(name, dataset, metric), found.change(name, dataset, metric)
    if value is None:
        return Cell(DASH)
    words = interval(value, form)
    if name == BASE or change is None or metric == "explained_variance":  # whose difference is that of fvu
        return Cell(form(value.value), words)
    sign, better = "+" if change.value > 0 else "", BETTER.get(METRICS[metric].better, 0)
    verdict = "" if not is_clear(change) or not better else "better" if change.value * better > 0 else "worse"
    return Cell(form(value.value), words, f"{sign}{form(change.value)}", interval(change, form), verdict)


def tail_tables(found: Values, names: Sequence[str], evaluation: EvalRecord) -> list[tuple[str, list[Row]]]:
    """Coverage of concepts on the domain, a table a level."""
    levels = list(dict.fromkeys(row.setting for row in evaluation.rows if row.metric == TAIL[0][0] and row.dataset == "domain"))
    result = []
    for level in levels:
        rows = []
        for name in names:
            values = [found.value(name, "domain", metric, level) for metric, _ in TAIL]
            if any(value is not None for value in values):
                rows.append(Row(name, False, [_plain(value, percent) for value in values]))
        result.append((level, rows))
    return result


def _plain(value: MetricValue | None, form: Format) -> Cell:
    return Cell(DASH) if value is None else Cell(form(value.value), interval(value, form))


def drift_rows(data: SpecialisationData, names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """What became of the base's latents."""
    rows = []
    for name in names:
        drift = data.record.variants[name].drift
        if drift is not None:
            rates = [percent(drift.fire_rate_change.get(dataset)) for dataset in DATASETS]
            rows.append((name, [number(drift.mean_cosine, 4), number(drift.low_cosine, 4), percent(drift.turned_frac), *rates]))
    return rows


def new_rows(data: SpecialisationData, names: Sequence[str]) -> list[Row]:
    """What the added latents do on each dataset."""
    rows = []
    for name in names:
        by = {one.dataset: one for one in data.record.variants[name].new_latents}
        if by:
            own = [by.get(dataset) for dataset in DATASETS]
            cells = [_plain(None if one is None else one.active, number) for one in own]
            cells += [_plain(None if one is None else one.token_frac, percent) for one in own]
            rows.append(Row(name, data.record.variants[name].is_control, [*cells, Cell(DASH if own[0] is None else count(own[0].n_dead))]))
    return rows


def cost_rows(data: SpecialisationData, names: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    """What each variant is and what its training took."""
    rows = []
    for name in names:
        one = data.record.variants[name]
        trained = [one.trained_on, count(one.n_latents), count(one.n_tokens_seen) if one.n_tokens_seen else DASH, seconds(one.seconds)]
        rows.append((name, one.what, trained))
    return rows


def provenance(data: SpecialisationData) -> list[tuple[str, str]]:
    """Where everything came from."""
    record = data.record
    n = record.n_tokens
    pairs = [
        ("created", record.created), ("sparselight", record.sparselight_version), ("machine", record.machine),
        ("time of this call", seconds(sum(record.wall_s.values()))),
        ("model", f"{record.subject.name}, fingerprint {short_hash(record.subject.fingerprint)}"), ("site", f"{record.site}, width {record.d_in:,}"),
        ("base SAE", f"{record.base}, weights {short_hash(record.variants[BASE].weights)}"),
        ("stores", "; ".join(f"{name} {count(value)} tokens" for name, value in n.items())),
        ("domain", ", ".join(f"{count(record.selection[name])} {words}" for name, words in (("n_examples", "examples"), ("n_tokens", "tokens"))
                             if record.selection.get(name) is not None)),
    ]
    if "origin" in record.corpus:
        pairs.append(("corpus", str(record.corpus["origin"])))
    return [*pairs, *((f"note on {name}", note) for name, one in record.variants.items() if name != BASE for note in one.notes)]
