"""Renders a `ReportData` as one HTML file: no script, nothing loaded from outside, at most 2 MB.

The templates escape everything; the only ready markup that they get are the figures of this package and the contexts of
renderers of `interpret`, which escape what they are given. A content security policy in the page forbids whatever slips through.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sparselight.evaluate import undefined_lines
from sparselight.files import write_bytes
from sparselight.interpret.evidence import MIN_F1
from sparselight.places import at_home, without_paths
from sparselight.report import figures, prose
from sparselight.report.data import ReportData
from sparselight.report.headline import COLUMNS, headline_sentences, interval_sentence, key_numbers, loss_warnings, subject_sentence, table_rows
from sparselight.report.numbers import percent
from sparselight.report.pictures import InlinePictures
from sparselight.report.recommender import recommender_values
from sparselight.report.run_picture import run_picture
from sparselight.report.select_cards import best_cards, enriched_cards, tally
from sparselight.report.views import anchors_of, card_view, edit_view
from sparselight.report.words import words_of
from sparselight.vocab import METRICS

MAX_BYTES = 2_000_000
SHOWN_FAMILIES = ("reconstruction", "behaviour")  # whose values the page shows, and so what of them is not defined
N_CONTEXTS = (10, 6, 4, 2, 1)  # contexts a card, fewer when the page would be too large


def write_report(data: ReportData, path: Path) -> None:
    """Render the report and write it atomically.

    Raises:
        StoreError: when the disk is full or the folder cannot be written.
    """
    write_bytes(path, render(data).encode("utf-8", errors="replace"))


def render(data: ReportData) -> str:
    """The page as text, with as many contexts a card as its size allows."""
    return page_that_fits("report.html.j2", lambda n_contexts: page_values(data, n_contexts), N_CONTEXTS, MAX_BYTES)


def page_that_fits(template: str, values: Callable[[int], Mapping[str, Any]], sizes: Sequence[int], max_bytes: int) -> str:
    """A page with as much on it as it can hold.

    Args:
        values: what the template refers to, for one of the sizes.
        sizes: how much to show, the most first; the last one where none fits.
    """
    chosen, page = environment().get_template(template), ""
    for size in sizes:
        page = chosen.render(values(size))
        if len(page.encode("utf-8", errors="replace")) <= max_bytes:
            break
    return page


@cache
def environment() -> Environment:
    loader = PackageLoader("sparselight.report", "templates")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"without_paths": without_paths, "at_home": at_home}
    return made


def page_values(data: ReportData, n_contexts: int) -> dict[str, Any]:
    """All that the templates refer to."""
    address = None if data.folder is None else InlinePictures(data.folder)
    best = [card_view(card, "best", n_contexts, data.modality, address) for card in best_cards(data.cards)]
    added, known = ([card_view(card, "domain", n_contexts, data.modality, address) for card in enriched_cards(data.cards, source)]
                    for source in ("residual", "base"))
    by_key, anchors = {card.key: card for card in data.cards}, anchors_of(best, [*added, *known])
    counts = tally(data.cards)
    n_supported, n_added = sum(item.n_supported for item in counts), sum(item.n_domain for item in counts if item.source == "residual")
    words, n_bootstrap = words_of(data.run.recipe), prose.setting(data, "evaluate.n_bootstrap")
    return {
        "run": data.run, "what_was_done": prose.what_was_done(data), "sentences": headline_sentences(data.evaluation, words),
        "warnings": loss_warnings(data.evaluation, words),
        "words": words,
        "key_numbers": key_numbers(data.evaluation, n_supported, n_added),
        "columns": COLUMNS, "rows": table_rows(data.evaluation), "notes": [*data.evaluation.notes, *undefined_lines(data.evaluation, SHOWN_FAMILIES)],
        "intervals": interval_sentence(data.evaluation, n_bootstrap if isinstance(n_bootstrap, int) else None, words),
        "subject_sentence": subject_sentence(data.evaluation),
        "figures": page_figures(data), "terms": [str(term) for term in data.selection.get("terms") or []], "seeds": prose.seeds(data),
        "groups": list(data.selection.get("groups") or data.selection.get("groups_held_out") or []),
        "best": best, "added": added, "known": known, "tally": counts,
        "edits": [edit_view(result, by_key, anchors, data.modality, address) for result in data.edits],
        "metrics": list(METRICS.values()), "min_f1": f"{MIN_F1:g}", "limits": prose.limits(data), "provenance": prose.provenance(data),
        "recipe_toml": prose.recipe_toml(data.run.recipe), "next_command": data.next_command, "has_residual": "residual" in data.sae_records,
        "recommender": recommender_values(data.recommender, data.evaluation),
    }


def page_figures(data: ReportData) -> Mapping[str, Any]:
    """All figures by name; a list where there is one for each SAE, without those that have nothing to draw."""
    sources = list(dict.fromkeys([*data.sae_records, *data.logs]))
    curves = [figures.training_curve(source, data.logs.get(source, [])) for source in sources]
    rates = [figures.fire_rate_histogram(source, data.cards) for source in sources]
    return {
        "run": Markup("").join([run_picture(data, wide=True), run_picture(data, wide=False)]),
        "fvu": figures.metric_by_coder(data.evaluation, "fvu"), "ce": figures.metric_by_coder(data.evaluation, "ce_recovered_mean", percent),
        "training": [curve for curve in curves if curve is not None], "evidence": figures.evidence_plot(data.cards),
        "fire_rates": [rate for rate in rates if rate is not None],
    }
