"""The tables of a catalogue: their columns, and the rows that cards make.

Owns the schema. `cards` has the numbers that people filter and sort by as columns; `contexts` one row a context; `explanations` and `scores` what is
said and how well it does, controls included; `neighbours`, `associations` and `edits` what goes with a latent; `controls` the held-out F1 of every control
latent with its own best explanation. Explanations and edits stand also whole, as JSON, in the column `record`: that is what is read back, unchanged
to the last bit.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from sparselight.interpret.evidence import domain_ratio, grade_explanation, graded, is_supported
from sparselight.records import Card, Context, EditResult

Rows = list[dict[str, Any]]
TEXT, WHOLE, NUMBER, TRUTH = pa.string(), pa.int64(), pa.float64(), pa.bool_()
LATENT = (("card", WHOLE), ("source", TEXT), ("latent", WHOLE))

SCHEMAS: dict[str, pa.Schema] = {
    "cards": pa.schema([
        ("number", WHOLE), ("source", TEXT), ("latent", WHOLE), ("grade", TEXT), ("grade_why", TEXT), ("supported", TRUTH), ("text", TEXT), ("label", TEXT),
        ("explainer", TEXT), ("fire_rate", NUMBER), ("domain_fire_rate", NUMBER), ("domain_ratio", NUMBER), ("n_fires", WHOLE), ("n_tokens", WHOLE),
        ("max_activation", NUMBER), ("quantiles", pa.list_(NUMBER)), ("f1", NUMBER), ("f1_low", NUMBER), ("f1_high", NUMBER), ("control_f1", NUMBER),
        ("control_f1_high", NUMBER), ("precision", NUMBER), ("recall", NUMBER), ("threshold", NUMBER), ("n_fires_held_out", WHOLE), ("n_labelled", WHOLE),
        ("promotes", pa.list_(TEXT)), ("suppresses", pa.list_(TEXT)), ("search_text", TEXT),
    ]),
    "contexts": pa.schema([
        ("card", WHOLE), ("shown", WHOLE), ("kind", TEXT), ("quantile", WHOLE), ("example", TEXT), ("group", TEXT), ("tokens", pa.list_(TEXT)),
        ("activations", pa.list_(NUMBER)), ("peak", WHOLE), ("start", WHOLE), ("marks", pa.list_(TEXT)), ("media", TEXT), ("grid", pa.list_(WHOLE)),
        ("others", pa.list_(pa.struct([("media", TEXT), ("grid", pa.list_(WHOLE)), ("activations", pa.list_(NUMBER))]))),
    ]),
    "explanations": pa.schema([*LATENT, ("shown", WHOLE), ("explainer", TEXT), ("text", TEXT), ("label", TEXT), ("grade", TEXT), ("is_best", TRUTH),
                               ("record", TEXT)]),
    "scores": pa.schema([*LATENT, ("explainer", TEXT), ("scorer", TEXT), ("metric", TEXT), ("control", TEXT), ("value", NUMBER), ("low", NUMBER),
                         ("high", NUMBER), ("n", WHOLE), ("unit", TEXT), ("n_positive", WHOLE), ("n_negative", WHOLE), ("why_not", TEXT)]),
    "neighbours": pa.schema([*LATENT, ("relation", TEXT), ("shown", WHOLE), ("to_source", TEXT), ("to_latent", WHOLE), ("cosine", NUMBER)]),
    "associations": pa.schema([*LATENT, ("shown", WHOLE), ("kind", TEXT), ("label", TEXT), ("dataset", TEXT), ("level", TEXT), ("f1", NUMBER),
                               ("null_f1", NUMBER), ("q", NUMBER), ("supported", TRUTH), ("record", TEXT)]),
    "edits": pa.schema([*LATENT, ("key", TEXT), ("operation", TEXT), ("amount", NUMBER), ("site", TEXT), ("kl_nats", NUMBER), ("side_effect_kl_nats", NUMBER),
                        ("control_kl_nats", NUMBER), ("record", TEXT)]),
    "controls": pa.schema([("source", TEXT), ("control", TEXT), ("n_explain", WHOLE), ("f1", NUMBER)]),
}


def rows_of(cards: Sequence[tuple[int, Card]]) -> dict[str, Rows]:
    """The rows of all tables but `edits` and `controls` for cards with their running numbers; a card that names its explanation only once is graded."""
    cards = [(number, card if card.explanations or not card.explanation else graded(card)) for number, card in cards]
    return {
        "cards": [_card_row(number, card) for number, card in cards],
        "contexts": [_context_row(number, shown, context) for number, card in cards for shown, context in enumerate(card.contexts)],
        "explanations": [row for number, card in cards for row in _explanation_rows(number, card)],
        "scores": [row for number, card in cards for row in _score_rows(number, card)],
        "neighbours": [
            {**_latent(number, card), "relation": relation, "shown": shown, "to_source": near.source, "to_latent": near.latent, "cosine": near.cosine}
            for number, card in cards for relation, listed in (("neighbour", card.neighbours), ("parent", card.parents)) for shown, near in enumerate(listed)
        ],
        "associations": [
            {**_latent(number, card), "shown": shown, **found.model_dump(exclude={"f1"}), "f1": found.f1.value, "record": found.model_dump_json()}
            for number, card in cards for shown, found in enumerate(card.associations)
        ],
    }


def table(name: str, rows: Rows) -> pa.Table:
    """Rows as an Arrow table of that name's schema."""
    return pa.Table.from_pylist(rows, schema=SCHEMAS[name])


def edit_row(number: int, card: Card, key: str, result: EditResult) -> dict[str, Any]:
    """The row of an edit that was tried."""
    edit = result.edit
    return {
        **_latent(number, card), "key": key, "operation": edit.get("operation"), "amount": edit.get("amount"), "site": edit.get("site"),
        "kl_nats": result.kl_nats, "side_effect_kl_nats": result.side_effect_kl_nats.value, "control_kl_nats": result.control_kl_nats.value,
        "record": result.model_dump_json(),
    }


def _latent(number: int, card: Card) -> dict[str, Any]:
    return {"card": number, "source": card.source, "latent": card.latent}


def _card_row(number: int, card: Card) -> dict[str, Any]:
    row: dict[str, Any] = {
        "number": number, "supported": is_supported(card), "domain_ratio": domain_ratio(card),
        **card.model_dump(include={"source", "latent", "grade", "grade_why", "fire_rate", "domain_fire_rate", "n_fires", "n_tokens", "max_activation",
                                   "quantiles", "promotes", "suppresses"}),
    }
    words = [*card.promotes, *card.suppresses, *(found.label for found in card.associations)]
    words = [part for explanation in card.explanations for part in (explanation.text, explanation.label)] + words
    if card.explanation is not None:
        row |= {"label": card.explanation.label, "text": card.explanation.text, "explainer": card.explanation.explainer}
    evidence = next((explanation.evidence for explanation in card.explanations if explanation.evidence is not None), None)
    if evidence is not None:
        row |= {
            "f1": evidence.f1.value, "f1_low": evidence.f1.low, "f1_high": evidence.f1.high, "control_f1": evidence.control_f1.value,
            "control_f1_high": evidence.control_f1.high, "precision": evidence.precision.value, "recall": evidence.recall.value,
            "threshold": evidence.threshold, "n_fires_held_out": evidence.n_fires, "n_labelled": evidence.n_labelled,
        }
    return row | {"search_text": "\n".join(words)}


def _context_row(number: int, shown: int, context: Context) -> dict[str, Any]:
    fields = {name: getattr(context, name) for name in Context.model_fields}
    return {"card": number, "shown": shown, **fields, "others": [other.model_dump() for other in context.others]}


def _explanation_rows(number: int, card: Card) -> Rows:
    return [
        {**_latent(number, card), "shown": shown, "explainer": explanation.explainer, "text": explanation.text, "label": explanation.label,
         "grade": grade_explanation(explanation).grade, "is_best": explanation == card.explanation, "record": explanation.model_dump_json()}
        for shown, explanation in enumerate(card.explanations)
    ]


def _score_rows(number: int, card: Card) -> Rows:
    rows: Rows = []
    for explanation in card.explanations:
        for score in explanation.scores:
            head = {**_latent(number, card), "explainer": explanation.explainer, "scorer": score.scorer, "n_positive": score.n_positive,
                    "n_negative": score.n_negative, "why_not": score.why_not}
            values = [("", score.values), *score.controls.items()]
            found = [{**head, "metric": metric, "control": control, **value.model_dump(include={"value", "low", "high", "n", "unit"})}
                     for control, metrics in values for metric, value in metrics.items()]
            rows += found or [head]
    return rows
