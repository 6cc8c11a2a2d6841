"""One feature: its explanations with scores, contexts rendered and grouped, neighbors by name, edits and studies that turned it.

Owns how contexts are grouped and named and where their pictures are addressed. Text is rendered by `interpret.renderers`, which escape it. Refuses: latents
without a card.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from sparselight.errors import RunError
from sparselight.interpret.evidence import grade_explanation
from sparselight.interpret.renderers import visible
from sparselight.records import Card, Context, EditResult, Neighbour, SteeringRecord
from sparselight.report.figures import f1_strip
from sparselight.report.steering_figures import effect_by_kl, effect_by_strength, kl_by_strength
from sparselight.report.steering_words import curve_sentences, headline, page_title, verdicts
from sparselight.report.views import context_view, edit_view, token_text
from sparselight.serve.data.columns import Columns, number_or_none
from sparselight.serve.data.quantiles import quantile_figure
from sparselight.serve.data.served import ServedRun, slug, stamp
from sparselight.serve.figure_ids import owned
from sparselight.serve.models import (
    ContextGroup,
    ContextView,
    EditTried,
    ExplanationView,
    FeatureCard,
    FeatureKey,
    Figure,
    NeighbourView,
    NextTokenView,
    NoteView,
    StudyView,
)

TITLES = {
    "top": "Strongest firings", "importance": "Firings, drawn by strength", "random": "Silent, at random", "near_miss": "Silent on a token of a firing",
    "neighbour": "Silent where a similar latent fires",
}
KINDS = ("top", "quantile", "importance", "near_miss", "neighbour", "random")
STUDIES = "steering"
MOST_STUDIES = 200  # of a run that are looked through


def feature_card(run: ServedRun, columns: Columns, source: str, latent: int, notes: Sequence[NoteView] = ()) -> FeatureCard:
    """All that is known of one latent.

    Raises:
        NotFoundError: when it has no card.
    """
    row = columns.row(source, latent)
    if row is None:
        raise run.missing(f"show the feature {source[:80]}/{latent}")
    catalogue = run.catalogue()
    card = catalogue.card(source, latent)
    numbers = {name: values[row] for name, values in columns.numbers.items()}
    before, after = columns.beside(row)
    edits = catalogue.edits(source, latent) if card.edits else []
    words = visible if catalogue.modality == "items" else token_text  # a title's spaces need no marks
    return FeatureCard(
        run=run.id, modality=catalogue.modality, text=card.explanation.text if card.explanation else "",
        label=card.explanation.label if card.explanation else "", supported=bool(columns.supported[row]), domain_ratio=float(numbers["domain_ratio"]),
        **card.model_dump(include={"source", "latent", "grade", "grade_why", "fire_rate", "domain_fire_rate", "max_activation", "n_fires", "n_tokens",
                                   "quantiles"}),
        explanations=explanations(card), contexts=context_groups(run.id, card.contexts, catalogue.modality), associations=card.associations,
        promotes=[words(token) for token in card.promotes], suppresses=[words(token) for token in card.suppresses],
        neighbours=[neighbour(columns, near) for near in card.neighbours], parents=[neighbour(columns, near) for near in card.parents],
        edits=[edit_tried(run.id, edit, catalogue.modality) for edit in edits], studies=studies(run, source, latent), notes=list(notes),
        figures=figures(card), previous=key_of(columns, before), next=key_of(columns, after),
    )


def explanations(card: Card) -> list[ExplanationView]:
    """Each explanation with the grade that its scores give it."""
    found = []
    for explanation in card.explanations:
        verdict = grade_explanation(explanation)
        found.append(ExplanationView(explanation=explanation, grade=verdict.grade, grade_why=verdict.why, is_best=explanation == card.explanation))
    return found


def context_groups(run: str, contexts: Iterable[Context], modality: str) -> list[ContextGroup]:
    """Contexts by how they were chosen, firing ones first, the strongest quantile before weaker ones; each place of an example once."""
    groups: dict[tuple[int, int], list[Context]] = {}
    seen: set[tuple[str, int | None, str, int, int]] = set()
    for context in contexts:
        place = (context.kind, context.quantile, context.example, context.start, context.peak)
        if place not in seen:  # what is of the domain and of the general side as well was found twice
            groups.setdefault((KINDS.index(context.kind), -1 if context.quantile is None else context.quantile), []).append(context)
        seen.add(place)
    highest = max((quantile for _, quantile in groups), default=0)
    return [
        ContextGroup(kind=KINDS[kind], quantile=None if quantile < 0 else quantile, title=group_title(KINDS[kind], quantile, highest),
                     contexts=[shown_context(run, context, modality) for context in groups[kind, quantile]])
        for kind, quantile in sorted(groups, key=lambda key: (key[0], -key[1]))
    ]


def group_title(kind: str, quantile: int, highest: int) -> str:
    if kind != "quantile":
        return TITLES[kind]
    where = " (strongest)" if quantile == highest else " (weakest)" if quantile == 0 else ""
    return f"Firings, part {quantile + 1} of {highest + 1} by strength{where}"


def shown_context(run: str, context: Context, modality: str) -> ContextView:
    """A context cut to its window and rendered; its pictures at this server's address."""
    address = picture_address(run)
    html = str(context_view(context, modality, address).html)
    peak = context.tokens[context.peak] if 0 <= context.peak < len(context.tokens) else ""
    return ContextView(example=context.example, group=context.group, kind=context.kind, quantile=context.quantile, peak_token=visible(peak),
                       max_activation=max(context.activations, default=0.0), start=context.start, n_tokens=len(context.tokens), html=html,
                       media=address(context.media or "") or None)


def picture_address(run: str) -> Callable[[str], str]:
    """What gives the address of a picture on this server, from its path in the run; empty for what is no picture of it."""
    def address(media: str) -> str:
        name = media_name(media)
        return f"/api/runs/{run}/media/{quote(name)}" if name else ""

    return address


def media_name(media: str | None) -> str:
    """Name of a picture that lies directly in the run's folder `media`, empty for any other."""
    path = PurePosixPath(media or "")
    return path.name if path.parts == ("media", path.name) and path.name not in ("", "..") else ""


def neighbour(columns: Columns, near: Neighbour) -> NeighbourView:
    row = columns.row(near.source, near.latent)
    if row is None:
        return NeighbourView(source=near.source, latent=near.latent, cosine=near.cosine, text="", grade="", fire_rate=None)
    return NeighbourView(source=near.source, latent=near.latent, cosine=near.cosine, text=columns.texts["text"][row].as_py(),
                         grade="ABCD"[columns.grade[row]], fire_rate=number_or_none(columns.numbers["fire_rate"][row]))


def key_of(columns: Columns, row: int | None) -> FeatureKey | None:
    return None if row is None else FeatureKey(source=columns.sources[columns.source[row]], latent=int(columns.latent[row]))


def edit_tried(run: str, result: EditResult, modality: str) -> EditTried:
    """An edit that was tried, in numbers and in words."""
    view, edit = edit_view(result, {}, {}, modality), result.edit
    amount = edit.get("amount")
    return EditTried(
        what=view.what, operation=str(edit.get("operation", "")), amount=float(amount) if isinstance(amount, int | float) else None,
        unit=str(edit.get("unit", "absolute")), site=str(edit.get("site", "")), context=shown_context(run, result.context, modality),
        next_actual=view.actual, kl_nats=result.kl_nats, side_effect_kl_nats=result.side_effect_kl_nats, control_kl_nats=result.control_kl_nats,
        verdict=view.verdict, next_tokens=[
            NextTokenView(text=token_text(token.text), before=token.before, after=token.after, is_actual=bool(token.text) and token.text == result.next_actual)
            for token in result.next_tokens
        ],
    )


def figures(card: Card) -> dict[str, Figure]:
    """What a card has to draw."""
    strip, quantiles = f1_strip(card), quantile_figure(card)
    found = {}
    if strip is not None:
        found["evidence"] = Figure(name="evidence", title="Held-out F1 with its interval, above the F1 of shuffled labels", svg=str(strip))
    if quantiles is not None:
        found["quantiles"] = Figure(name="quantiles", title="How strongly it fires", svg=str(quantiles))
    return found


def studies(run: ServedRun, source: str, latent: int) -> list[StudyView]:
    """Steering studies of the run that turned the latent."""
    folder = run.folder / STUDIES
    files = sorted(folder.glob("*/steering.json"))[:MOST_STUDIES] if folder.is_dir() else []
    index: dict[Path, tuple[str, int]] = run.kept("studies", tuple((path, stamp(path)) for path in files), lambda: _index(files))
    return [_study(run, SteeringRecord.load(path)) for path, key in index.items() if key == (source, latent)]


def _index(files: Sequence[Path]) -> dict[Path, tuple[str, int]]:
    found = {}
    for path in files:
        try:
            study = SteeringRecord.load(path)
        except RunError:
            continue
        found[path] = (study.source, study.latent)
    return found


def _study(run: ServedRun, study: SteeringRecord) -> StudyView:
    pictures = {"effect-strength": ("Goal over strength", effect_by_strength), "effect-kl": ("Change of the goal over side effect", effect_by_kl),
                "kl-strength": ("Side effect over strength", kl_by_strength)}
    drawn = [Figure(name=name, title=title, svg=owned(str(svg), slug(study.name))) for name, (title, draw) in pictures.items() if (svg := draw(study))]
    sentences = [headline(study), *curve_sentences(study), *(f"{kind}: {sentence}" for kind, sentence in verdicts(study)), *study.notes]
    return StudyView(name=study.name, title=page_title(study), operation=study.operation, sentences=[run.words(sentence) for sentence in sentences],
                     figures=drawn)
