"""What notebooks show: a run as its frozen page, small, and a card as the report draws one.

Imported by the public API, so that `run.show()` and `card.show()` find who draws them. Everything else is imported when something is drawn. Refuses
what the drawing refuses.
"""

from typing import TYPE_CHECKING, Any

from sparselight.records import Card
from sparselight.records.display import DRAWN_BY, Shown

if TYPE_CHECKING:
    from sparselight.pipeline.opened import OpenRun

N_FEATURES = 24
MAX_BYTES = 1_500_000  # a notebook keeps what it shows
N_CONTEXTS = 8
RUN_HEIGHT_PX, CARD_HEIGHT_PX = 720, 460
SHORT_TOKEN = 2  # characters: tokens that carry annotations and are no longer are residues


def show_run(run: "OpenRun", n_features: int = N_FEATURES, features: tuple[str, ...] = ()) -> Shown:
    """The overview, the list and some pages of a run.

    Args:
        n_features: pages.
        features: which features have pages in any case.
    """
    from sparselight.serve.frozen import render_frozen

    page, *_ = render_frozen(run.folder, n_features, features, MAX_BYTES)
    return Shown(page.decode("utf-8"), f"run {run.folder.name}", RUN_HEIGHT_PX, with_script=True)


def show_card(card: Card, modality: str | None = None) -> Shown:
    """A card.

    Args:
        modality: how contexts are shown: text, residues, items or image; guessed where left out.
    """
    from markupsafe import Markup

    from sparselight.report.html import environment
    from sparselight.report.views import card_view

    made: Any = environment()
    view = card_view(card, "shown", N_CONTEXTS, modality or guess_modality(card))
    body = made.get_template("pieces.html.j2").module.card(view)
    style = Markup(made.get_template("style.css.j2").render())
    page = made.from_string(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        "<title>{{ title }}</title><style>{{ style }}</style></head><body><main>{{ body }}</main></body></html>"
    ).render(title=card.key, style=style, body=body)
    return Shown(page, f"card {card.key}", CARD_HEIGHT_PX)


def guess_modality(card: Card) -> str:
    """How a card's contexts look best, by what they carry."""
    first = next((context for context in card.contexts if context.tokens), None)
    if first is None:
        return "text"
    if any(context.grid for context in card.contexts):
        return "image"
    if not any(context.marks for context in card.contexts):
        return "text"
    return "residues" if all(len(token.strip()) <= SHORT_TOKEN for token in first.tokens) else "items"


DRAWN_BY |= {"run": show_run, "card": show_card}
