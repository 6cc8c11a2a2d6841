"""Cards and edits as the templates show them: text chosen, numbers written, contexts rendered.

Owns what is left out so that the page keeps its size: windows are cut to a few tokens around the peak, very long tokens are
shortened, and only so many contexts of a card are shown.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from sparselight.interpret import domain_ratio
from sparselight.interpret.renderers import ImageRenderer, renderer_for, visible
from sparselight.records import Card, Context, EditResult, Evidence, MetricValue
from sparselight.report.figures import f1_strip
from sparselight.report.numbers import count, fixed, interval, number, percent, with_interval
from sparselight.report.svg import shorten
from sparselight.vocab import EDIT_OPERATIONS

WINDOW = (24, 12)  # tokens shown before and after the peak
WINDOWS = {"items": (8, 3)}  # of modalities whose tokens take a line each
MAX_TOKEN_CHARS = 60
OPEN_CONTEXTS = 4
MAX_PROMOTED = 8
SPACE = "\u2423"
Address = Callable[[str], str]
"""Where a page finds a picture, from its path relative to the run."""


@dataclass(frozen=True, slots=True)
class ContextView:
    """A context as HTML, with where it comes from."""

    group: str
    html: Markup


@dataclass(frozen=True, slots=True)
class CardView:
    """A card as shown."""

    anchor: str
    source: str
    latent: int
    name: str
    label: str
    grade: str
    grade_why: str
    scores: list[tuple[str, str, str]]
    """Title, value, interval."""
    counts: str
    fires_general: str
    fires_domain: str
    ratio: str
    promotes: list[str]
    suppresses: list[str]
    strip: Markup | None
    contexts: list[ContextView]
    more: list[ContextView]


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One candidate of a prediction, before and after; widths in percent of the largest probability."""

    text: str
    is_actual: bool
    before: str
    after: str
    change: str
    before_width: str
    after_width: str


@dataclass(frozen=True, slots=True)
class EditView:
    """One example of an edit as shown; `actual` is empty where the text ends."""

    card: str
    name: str
    anchor: str | None
    what: str
    context: ContextView
    actual: str
    rows: list[TokenRow]
    kl: str
    side_effect: str
    control: str
    verdict: str


def _counts(evidence: Evidence) -> str:
    return f"above the threshold of {number(evidence.threshold)} on {count(evidence.n_fires)} held-out tokens, {count(evidence.n_labelled)} carry the label"


def card_view(card: Card, place: str, n_contexts: int, modality: str = "text", address: Address | None = None) -> CardView:
    """Prepare a card.

    Args:
        place: the list it stands in; makes its anchor unique.
        n_contexts: the most contexts to show, hidden ones included.
        modality: how contexts are shown.
        address: of pictures; without it, their path relative to the run.
    """
    contexts = [context_view(context, modality, address) for context in card.contexts[:n_contexts]]
    evidence = card.evidence
    scores = [] if evidence is None else [
        ("F1, held out", number(evidence.f1.value), interval(evidence.f1)),
        ("precision", number(evidence.precision.value), interval(evidence.precision)),
        ("recall", number(evidence.recall.value), interval(evidence.recall)),
        ("F1, shuffled labels", number(evidence.control_f1.value), _largest(evidence.control_f1)),
    ]
    ratio = domain_ratio(card)
    return CardView(
        anchor=f"{place}-{card.source}-{card.latent}", source=card.source, latent=card.latent,
        name=shorten(card.explanation.text, 160) if card.explanation else "no explanation found",
        label=shorten(visible(card.explanation.label), 80) if card.explanation else "",
        grade=card.grade, grade_why=card.grade_why, scores=scores,
        counts=". ".join([*([] if evidence is None else [_counts(evidence)]), *annotation_words(card)]),
        fires_general=percent(card.fire_rate), fires_domain=percent(card.domain_fire_rate),
        ratio=f"{number(ratio, 2)}\u00d7" if ratio < 1000 else "over 1000\u00d7",
        promotes=[token_text(token) for token in card.promotes[:MAX_PROMOTED]], suppresses=[token_text(token) for token in card.suppresses[:MAX_PROMOTED]],
        strip=f1_strip(card), contexts=contexts[:OPEN_CONTEXTS], more=contexts[OPEN_CONTEXTS:],
    )


def annotation_words(card: Card) -> list[str]:
    """The annotation of spans that a card fits best, where the evaluation searched for such, with its held-out F1 and the largest one of shuffled labels."""
    best = max((one for one in card.associations if one.supported and one.level == "spans"), key=lambda one: one.f1.value, default=None)
    if best is None:
        return []
    label = best.label if best.kind == best.label else f"{best.kind} {best.label}"
    return [f"Annotation that fits best ({best.dataset}): {shorten(visible(label), 60)}, F1 held out {with_interval(best.f1)}; shuffled labels at most "
            f"{number(best.null_f1)}"]


def context_view(context: Context, modality: str = "text", address: Address | None = None) -> ContextView:
    """Cut a context to its window (a picture stays whole) and render it. The renderer escapes: what it returns is safe markup."""
    before, after = WINDOWS.get(modality, WINDOW)
    start, stop = (0, len(context.tokens)) if context.grid else (max(0, context.peak - before), context.peak + after + 1)
    renderer = ImageRenderer(address) if modality == "image" else renderer_for(modality)
    window = context.model_copy(update={
        "tokens": [shorten(token, MAX_TOKEN_CHARS) for token in context.tokens[start:stop]], "activations": context.activations[start:stop],
        "marks": context.marks[start:stop], "peak": context.peak - start, "start": context.start + start})
    return ContextView(shorten(context.group, 80), Markup(renderer.html(window)))


def edit_view(result: EditResult, cards: Mapping[str, Card], anchors: Mapping[str, str], modality: str = "text", address: Address | None = None) -> EditView:
    """Prepare an edit.

    Args:
        cards: by key.
        anchors: card key to where the page shows that card.
    """
    card = cards.get(result.card)
    largest = max((max(token.before, token.after) for token in result.next_tokens), default=0.0) or 1.0
    rows = [
        TokenRow(
            text=token_text(token.text), is_actual=bool(token.text) and token.text == result.next_actual, before=percent(token.before),
            after=percent(token.after), change=_points(token.after - token.before), before_width=f"{100 * token.before / largest:.1f}",
            after_width=f"{100 * token.after / largest:.1f}",
        )
        for token in result.next_tokens
    ]
    name = shorten(card.explanation.text, 160) if card and card.explanation else f"latent {result.card}"
    return EditView(
        card=result.card, name=name, anchor=anchors.get(result.card), what=_what(result), context=context_view(result.context, modality, address),
        actual=token_text(result.next_actual) if result.next_actual else "", rows=rows, kl=number(result.kl_nats),
        side_effect=with_interval(result.side_effect_kl_nats), control=with_interval(result.control_kl_nats), verdict=_verdict(result),
    )


def token_text(token: str) -> str:
    """A single token, its spaces shown as open boxes."""
    return shorten(visible(token), MAX_TOKEN_CHARS).replace(" ", SPACE) or "(empty)"


def anchors_of(*lists: Sequence[CardView]) -> dict[str, str]:
    """Card key to the first place where it is shown."""
    return {f"{view.source}/{view.latent}": view.anchor for views in reversed(lists) for view in views}


def _largest(control: MetricValue) -> str:
    return "" if control.high is None else f"largest {number(control.high)}"


def _points(change: float) -> str:
    """A change of a probability in percentage points."""
    return ("+" if change > 0 else "") + fixed(100 * change, 1)


def _what(result: EditResult) -> str:
    operation = str(result.edit.get("operation", "edit"))
    amount = f" (amount {number(result.edit['amount'])})" if operation != "ablate" and isinstance(result.edit.get("amount"), int | float) else ""
    site = f" at {result.edit['site']}" if "site" in result.edit else ""
    return f"{operation}{amount}{site}: {EDIT_OPERATIONS.get(operation, 'as recorded')}"


def _verdict(result: EditResult) -> str:
    """How much more the edit does here than elsewhere, and than a random latent does."""
    here, elsewhere, control = result.kl_nats, result.side_effect_kl_nats.value, result.control_kl_nats.value
    if elsewhere <= 0:
        return "On general text the same edit changes nothing that can be measured."
    words = f"At this token the edit changes the prediction {number(here / elsewhere, 2)} times as much as it does on average over general text."
    if control <= 0:
        return words
    return f"{words} A random latent of like firing rate changes general text {number(control / elsewhere, 2)} times as much as this edit does."
