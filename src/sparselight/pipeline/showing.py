"""What a finished run shows: which features are edited as examples, the headline in words, the data of the report."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sparselight.corpus import ListCorpus
from sparselight.errors import SubjectError
from sparselight.interpret import domain_cards, is_supported
from sparselight.intervene import edit_function, edit_result, fire_rates, kl_nats, pick_control
from sparselight.pipeline.recommender_evidence import read_findings
from sparselight.protocols import Example, Progress
from sparselight.records import Card, Edit, EditResult, EvalRecord
from sparselight.report import ReportData, RunInfo, write_report
from sparselight.report.headline import headline_sentences
from sparselight.sae import Sae
from sparselight.select import seed_names
from sparselight.subjects import HuggingFaceSubject
from sparselight.train.log import read_log

if TYPE_CHECKING:
    from sparselight.pipeline.engine import Run
    from sparselight.pipeline.recipe import InterveneConfig, Recipe

headline = headline_sentences


def pick_edits(
    subject: HuggingFaceSubject, coders: Mapping[str, Sae], cards: Sequence[Card], examples: Mapping[str, Example], held_out: Sequence[Example],
    site: str, config: "InterveneConfig", progress: Progress,
) -> list[EditResult]:
    """Ablate features and show those whose ablation changes a prediction most.

    Candidates are the `n_candidates` best-evidenced features, domain features first, one a label. Each is ablated at its strongest
    firing in every context of its card; the largest KL there ranks it and is the place that is shown. The side effect is not chosen:
    it is measured on the same general text for all. A subject without predictions has no edits to show.
    """
    supported = sorted(filter(is_supported, cards), key=_f1_low, reverse=True)
    domain = {card.key for card in domain_cards(supported)}
    ranked = sorted(supported, key=lambda card: card.key not in domain)  # stable: evidence orders within each half
    candidates = list(_one_a_label(ranked))[:config.n_candidates]
    if why_no_predictions(subject, held_out):
        return []
    strongest = []
    for number, card in enumerate(candidates):
        progress(number, 2 * len(candidates), "candidates")
        texts = [examples[name] for name in dict.fromkeys(context.example for context in card.contexts)]
        strongest.append(strongest_effect(subject, coders[card.source], card, texts, site))
    order = sorted(range(len(candidates)), key=lambda index: -strongest[index][0])[:config.n_features]
    side_text = ListCorpus(held_out, "held-out text").sample(config.side_effect_tokens, subject.n_tokens, config.seed).examples
    results = []
    for number, index in enumerate(order):
        progress(len(order) + number, 2 * len(order), "side effects")
        card, (_, example, position) = candidates[index], strongest[index]
        control = pick_control(fire_rates(cards, card.source), card.latent, config.seed)
        edit = ablation(card, site)
        results.append(edit_result(subject, coders[card.source], edit, card, example, position, side_text, control, seed=config.seed))
    progress(1, 1)
    return results


def why_no_predictions(subject: HuggingFaceSubject, examples: Sequence[Example]) -> str:
    """Why nothing can be shown of an edit: the subject predicts nothing. Empty where it does."""
    try:
        subject.predict(subject.prepare(examples[:1]))
    except SubjectError as err:
        return err.why
    return ""


def ablation(card: Card, site: str) -> Edit:
    return Edit(site=site, latents=[card.latent], operation="ablate")


def strongest_effect(subject: HuggingFaceSubject, coder: Sae, card: Card, texts: Sequence[Example], site: str) -> tuple[float, Example, int]:
    """The largest KL(before || after) of ablating a card's latent, over the token of each text where it fires most: (KL, text, token)."""
    best = (-1.0, texts[0], 0)
    for text in texts:
        batch = subject.prepare([text])
        activations = coder.encode(subject.capture(batch, [site])[site].to(coder.W_dec)).to_dense()[:, card.latent]
        if text.images and bool((batch.char_start >= 0).any()):
            activations = torch.where(batch.char_start.to(activations.device) >= 0, activations, -1.0)  # nothing uses predictions at patches of an image
        position = int(activations[:-1].argmax()) if len(activations) > 1 else 0  # the last token has no next one to show
        before, after = (subject.predict(batch, edits)[position:position + 1].log_softmax(-1)
                         for edits in (None, {site: edit_function(ablation(card, site), coder)}))
        best = max(best, (float(kl_nats(before, after)), text, position), key=lambda found: found[0])
    return best


def _f1_low(card: Card) -> float:
    return (card.evidence.f1.low if card.evidence else None) or 0.0


def _one_a_label(cards: Sequence[Card]) -> Iterator[Card]:
    seen = set()
    for card in cards:
        if card.explanation and card.contexts and card.explanation.label not in seen:
            seen.add(card.explanation.label)
            yield card


def write_run_report(
    run: "Run", recipe: "Recipe", evaluation: EvalRecord, cards: list[Card], edits: list[EditResult], saes: Mapping[str, Sae], path: Path, next_command: str,
    modality: str = "text",
) -> None:
    """Collect what the stages left and write the page."""
    records = {name: sae.record for name, sae in saes.items() if sae.record is not None}
    last = run.records["intervene"]
    info = RunInfo(
        name=recipe.name, recipe=recipe.model_dump(mode="json"), wall_s={stage: record.wall_s for stage, record in run.records.items()},
        machine=last.machine, sparselight_version=last.sparselight_version, created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    logs = {"base": read_log(run.path("train") / "log.jsonl"), "residual": read_log(run.path("residual") / "log.jsonl")}
    summary = {**run.records["select"].summary, "seeds": seed_names(recipe.select)}
    data = ReportData(
        run=info, evaluation=evaluation, cards=cards, sae_records=records, logs=logs, selection=summary,
        corpus={**run.records["corpus"].summary, "fingerprint": run.records["corpus"].output}, edits=edits, next_command=next_command, modality=modality,
        harvest=run.records["harvest"].summary, recommender=read_findings(run.path("intervene")), folder=run.folder,
    )
    write_report(data, path)
