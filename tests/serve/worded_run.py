"""A run in which every string that comes from outside is given by a function: with payloads, or with plain words for comparison."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from payloads import PAYLOADS

from sparselight.interpret.evidence import graded
from sparselight.records import (
    Association,
    Card,
    Context,
    EditResult,
    EvalRecord,
    EvalRow,
    Evidence,
    Explanation,
    MetricValue,
    Neighbour,
    NextToken,
    SaeRecord,
    Score,
    SubjectRef,
    TokenPolicy,
)
from sparselight.testing.run_folder import MadeRun, make_run_folder

Words = Callable[[int], str]
N_CARDS = 24
MODALITIES = ("text", "residues", "items", "image")
PNG = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010806000000"
                    "1f15c4890000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082")


def hostile(number: int) -> str:
    """A payload, in turn; what the catalogue's file cannot hold is left out."""
    return PAYLOADS[number % len(PAYLOADS)].replace("\0", "\x01")


def plain(number: int) -> str:
    return f"word{number % len(PAYLOADS)}"


def value(number: float) -> MetricValue:
    return MetricValue(value=number, low=number - 0.05, high=number + 0.05, n=9, unit="groups", seeds=[0])


def make_worded_run(folder: Path, word: Words, modality: str = "text", n_cards: int = N_CARDS) -> Path:
    """Write the run. All strings of all records are words, each payload used at least once among the cards."""
    words = _numbers()
    picture = f"{word(next(words))[:40]}.png".replace("/", "").replace("\0", "")
    cards = [_card(number, word, words, modality, picture) for number in range(n_cards)]
    name = word(0)
    made = MadeRun(
        name=name, modality=modality, subject=word(1), site=word(2), machine=word(3), version=word(4)[:50],
        recipe={"select": {"seeds": [word(5), word(6)], "query": word(7)}, word(8)[:50]: {word(9)[:50]: word(10)}},
        summaries={"corpus": {"origin": word(11), "n_examples": 3, "n_groups": 2, word(12)[:40]: word(13)},
                   "select": {"n_examples": 3, "n_tokens": 9, "terms": [word(14), word(15)], "groups": [word(16)]}},
        evaluation=_evaluation(word), edits=[_edit(cards[0], word, words, modality)],
        saes={source: _sae(source, word) for source in ("base", "residual")},
        logs={"base": [{"step": step, "tokens": 10 * step, "fvu": 1 / step, "l0": 3.0, "note": word(17)} for step in range(1, 5)]},
    )
    make_run_folder(folder, iter([cards]), made)
    (folder / "media").mkdir()
    (folder / "media" / picture).write_bytes(PNG)
    (folder / "llm").mkdir()
    told = {"questions": {word(18)[:60]: 3}, "grades": {"A": 1}, "controls": {word(19)[:60]: word(20)}, "capped": word(21), "latents": []}
    (folder / "llm" / "naming.json").write_text(json.dumps(told))
    lines = [{"id": f"n{number}", "when": "2026-01-01T00:00:00+00:00", "who": word(22 + number), "source": "base", "latent": 0,
              "label": word(25 + number)[:100], "text": word(28 + number)} for number in range(3)]
    (folder / "annotations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def _numbers() -> Iterator[int]:
    number = 0
    while True:
        yield number
        number += 1


def _context(word: Words, words: Iterator[int], kind: str, quantile: int | None, modality: str, picture: str) -> Context:
    tokens = [word(next(words)) for _ in range(6)]
    marks = [word(next(words)) if number % 2 else "" for number in range(6)] if modality != "text" else []
    image = {"media": f"media/{picture}", "grid": (1, 2)} if modality == "image" else {}
    return Context(example=word(next(words)), group=word(next(words)), tokens=tokens, activations=[0.5, 0.0, 1.0, 0.25, 0.0, 0.0], peak=2, kind=kind,
                   quantile=quantile, start=3, marks=marks, **image)


def _card(number: int, word: Words, words: Iterator[int], modality: str, picture: str) -> Card:
    evidence = Evidence(precision=value(0.8), recall=value(0.7), f1=value(0.75), control_f1=value(0.1), threshold=0.2, n_fires=40, n_labelled=50)
    score = Score(scorer="detection", values={"balanced_accuracy": value(0.9)}, controls={"shuffled": {"balanced_accuracy": value(0.5)}}, n_positive=9,
                  n_negative=9, note=word(next(words)))
    missing = Score(scorer="fuzzing", why_not=word(next(words)))
    explanations = [
        Explanation(text=word(next(words)), label=f"kind={word(next(words))}", explainer="statistical", evidence=evidence),
        Explanation(text=word(next(words)), explainer=word(40 + number)[:40], scores=[score, missing],
                    made_with={word(next(words))[:40]: word(next(words))}),
    ]
    contexts = [_context(word, words, kind, quantile, modality, picture) for kind, quantile in (("top", None), ("quantile", 0), ("random", None))]
    source = "base" if number % 3 else "residual"
    return graded(Card(
        latent=number if number else 0, source="base" if number == 0 else source, fire_rate=0.01, domain_fire_rate=0.2, max_activation=2.0,
        explanation=explanations[0], explanations=explanations, contexts=contexts, promotes=[word(next(words)) for _ in range(3)],
        suppresses=[word(next(words)) for _ in range(2)], n_fires=9, n_tokens=900, quantiles=[0.1 * step for step in range(1, 12)],
        neighbours=[Neighbour(source="base", latent=1, cosine=0.5), Neighbour(source=word(60 + number)[:40], latent=999, cosine=0.25)],
        parents=[Neighbour(source="base", latent=2, cosine=0.5)] if source == "residual" else [],
        associations=[Association(kind=word(next(words)), label=word(next(words)), dataset=word(next(words)), level="spans", f1=value(0.5), null_f1=0.1, q=0.01,
                                  supported=True)],
    ))


def _evaluation(word: Words) -> EvalRecord:
    coders = [("base", False), ("base+residual", False), (word(30)[:60], True)]
    rows = [EvalRow(coder=coder, is_control=is_control, dataset=dataset, metric=metric, value=value(0.3), family="reconstruction")
            for coder, is_control in coders for dataset in ("general", "domain") for metric in ("fvu", "ce_recovered_mean", "l0")]
    rows.append(EvalRow(coder="base", is_control=False, dataset=word(31)[:60], metric=word(32)[:60], value=value(0.1), setting=word(33), family=word(34)[:60]))
    differences = [EvalRow(coder="base+residual", is_control=False, dataset="domain", metric="fvu", value=value(-0.2), reference="base"),
                   EvalRow(coder="base", is_control=False, dataset="domain", metric="fvu", value=value(-0.2), reference=word(35)[:60])]
    return EvalRecord(rows=rows, differences=differences, n_tokens={"general": 9, "domain": 9}, notes=[word(36), word(37)], n_bootstrap=10)


def _edit(card: Card, word: Words, words: Iterator[int], modality: str) -> EditResult:
    return EditResult(
        card=card.key, edit={"operation": "ablate", "site": word(next(words)), "latents": [0]}, context=_context(word, words, "top", None, modality, "x.png"),
        next_tokens=[NextToken(text=word(next(words)), before=0.5, after=0.1) for _ in range(4)], next_actual=word(next(words)), kl_nats=0.3,
        side_effect_kl_nats=value(0.1), control_kl_nats=value(0.01))


def _sae(source: str, word: Words) -> SaeRecord:
    subject = SubjectRef(name=word(38), fingerprint="0" * 64, token_policy=TokenPolicy(prepend_bos=True, context_tokens=16))
    return SaeRecord(architecture=word(39), role=source, site="resid_post.0", subject=subject, store_fingerprint="0" * 64, d_in=4, n_latents=24, k=2.0, l0=2.0,
                     n_dead=0, dead_after_tokens=10, n_tokens_seen=40, normalization="none", loss_scale="none", config={"seed": 0})
