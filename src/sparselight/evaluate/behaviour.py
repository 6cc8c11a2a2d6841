"""What a coder does to the subject's predictions: cross entropy, divergence, agreement and ranking with activations replaced by their reconstruction.

Formulas are those of vocab.METRICS. Predictions are those that the subject's loss scores: the next token, or a hidden token of a masked language
model, in the rounds that its record names. Only counted tokens are replaced, and among them only those within the token policy's max_norms.
What is recovered is stated against both ablations, because which of them costs more depends on the site. Refuses nothing by itself: for subjects
without predictions ce_nats is reported as not defined and stands for all.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from sparselight.errors import SubjectError
from sparselight.evaluate.case import Case, Tokens
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.family import MEAN, SUBJECT, ZERO, Family
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.held_out import HeldOut
from sparselight.evaluate.predictions import BehaviourConfig, PredictionSums, Splice, sum_predictions
from sparselight.evaluate.statistics import Resampled, Resamples, ratio
from sparselight.protocols import Progress, no_progress

LEAST_GAP_NATS = 1e-6  # an ablation that costs less tells nothing of what a coder recovers
LEAST_GAP = f"the ablation costs the subject less than {LEAST_GAP_NATS:g} nats"
NO_PREDICTION = "no token has a prediction (nothing stands before any)"

Values = dict[tuple[str, str], Resampled]  # by metric and setting


def measure_behaviour(
    case: Case, contenders: Mapping[str, Contender], config: BehaviourConfig, findings: Findings, progress: Progress = no_progress,
) -> None:
    """Every contender spliced in, and the unedited subject, on the held-out examples of every dataset.

    ZERO and MEAN among the contenders are what recovered values are taken against; without them, those values are not defined.
    """
    subject = case.need_subject("measure what coders do to predictions")
    total, done = sum(case.tokens(dataset, "held_out").n_tokens for dataset in case.datasets), 0
    for dataset in case.datasets:
        part = held_out_part(case.tokens(dataset, "held_out"))
        why = _why_no_loss(case, part)
        if why:
            for name in (SUBJECT, *contenders):
                findings.lacks(Cell(name, "ce_nats", dataset), why)
            continue

        def step(n_tokens: int, dataset: str = dataset) -> None:
            nonlocal done
            done += n_tokens
            case.count_pass(n_tokens * (len(contenders) + 1))
            progress(done, total, f"{dataset}: predictions with {len(contenders)} coders")

        splices = {name: _splice(contender, f"evaluate the coder {name!r} on the dataset {dataset!r}") for name, contender in contenders.items()}
        sums = sum_predictions(subject, case.site, part, splices, config, case.config.batch_tokens, step)
        if not sums.sums:
            for name in (SUBJECT, *contenders):
                findings.lacks(Cell(name, "ce_nats", dataset), NO_PREDICTION)
            continue
        if sums.n_unscored:
            findings.notes.append(f"{dataset}: {sums.n_unscored} of {part.n_tokens} tokens have no prediction (nothing stands before them, or they are never "
                                  "hidden) and are left out of cross entropy and divergence")
        for name in (SUBJECT, *contenders):
            _report(name, dataset, sums, case.resamples(dataset), findings)


def held_out_part(tokens: Tokens) -> HeldOut:
    """The examples of a case's tokens, for batches."""
    number = {group: index for index, group in enumerate(tokens.groups)}
    return HeldOut(tokens.name, tokens.examples, np.diff(tokens.bounds()).tolist(), [number[example.group] for example in tokens.examples], tokens.groups)


def values_of(sums: PredictionSums, coder: str, resamples: Resamples) -> Values:
    """Every value of a coder, or of the unedited subject, over all resamples."""
    scored = resamples.totals(sums.scored.numpy())

    def mean(name: str, quantity: str) -> Resampled:
        return ratio(resamples.totals(sums.sums[name][quantity].numpy()), scored)

    ce, own = mean(coder, "ce"), mean(SUBJECT, "ce")
    with np.errstate(over="ignore"):
        result: Values = {("ce_nats", ""): ce, ("perplexity", ""): np.exp(ce)}
    if "right" in sums.sums[coder]:
        result["top1_accuracy", ""] = mean(coder, "right")
    for quantity in sums.sums[coder]:
        name, at, k = quantity.partition("@")
        if at:
            result["hit_rate" if name == "hit" else "ndcg", f"k={k}"] = mean(coder, quantity)
    if coder == SUBJECT:
        return result
    result["ce_increase_nats", ""] = ce - own
    if "kl" in sums.sums[coder]:
        result |= {("kl_nats", ""): mean(coder, "kl"), ("top1_agreement", ""): mean(coder, "agree")}
    for ablation, name in ((ZERO, "zero"), (MEAN, "mean")):
        if ablation in sums.sums:
            ablated = mean(ablation, "ce")
            result[f"ce_recovered_{name}", ""] = ratio(ablated - ce, ablated - own, LEAST_GAP_NATS)
            if "kl" in sums.sums[coder]:
                ablated = mean(ablation, "kl")
                result[f"kl_recovered_{name}", ""] = ratio(ablated - mean(coder, "kl"), ablated, LEAST_GAP_NATS)
    return result


def _report(coder: str, dataset: str, sums: PredictionSums, resamples: Resamples, findings: Findings) -> None:
    for (metric, setting), values in values_of(sums, coder, resamples).items():
        cell = Cell(coder, metric, dataset, setting)
        if np.isfinite(values[0]):
            findings.add(cell, values)
        else:
            findings.lacks(cell, LEAST_GAP if "recovered" in metric else "its size is beyond what a number holds" if metric == "perplexity"
                           else NO_PREDICTION)
    if coder != SUBJECT:
        for metric, why in _not_measured(sums):
            findings.lacks(Cell(coder, metric, dataset), why)


def _not_measured(sums: PredictionSums) -> Iterator[tuple[str, str]]:
    for ablation, name in ((ZERO, "zero"), (MEAN, "mean")):
        if ablation not in sums.sums:
            yield f"ce_recovered_{name}", f"{ablation} is not among the coders"
    if "kl" in sums.lacks:
        yield from (("kl_nats", sums.lacks["kl"]), ("top1_agreement", sums.lacks["kl"]))
    if "right" in sums.lacks:
        yield "top1_accuracy", sums.lacks["right"]
    if "rank" in sums.lacks:
        yield from (("hit_rate", sums.lacks["rank"]), ("ndcg", sums.lacks["rank"]))


def _why_no_loss(case: Case, part: HeldOut) -> str:
    """Why the subject has no predictions, in words; empty where it has."""
    subject = case.need_subject("measure what coders do to predictions")
    shortest = min(range(len(part.examples)), key=lambda index: part.lengths[index])
    try:
        subject.loss(subject.prepare([part.examples[shortest]]))
    except SubjectError as err:
        return err.why
    return ""


def _splice(contender: Contender, asked: str) -> Splice:
    return Splice(lambda x: contender.apply(x, asked)[0], asked)


FAMILY = Family("behaviour", "Behaviour of the subject", measure_behaviour, BehaviourConfig, needs=("subject", "examples"), suites=("core", "full"),
                ablations=True, plain=True, passes=1)
