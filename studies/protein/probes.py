"""What can be read off at a layer at all: linear probes of every label, and the same without the model, from letters and places alone.

A latent is one direction with a threshold, a probe the best one that labels can choose: where the probe fails, no latent can succeed, and where the letters
do as well, the model was not needed. Probes are fitted on three of four proteins of the fit side, thresholds set on the fourth, F1 is of the held-out side.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from sparselight.corpus.protein.residues import AMINO_ACIDS
from sparselight.errors import CorpusError
from sparselight.evaluate import Case
from sparselight.evaluate.case import SideName, Tokens
from sparselight.evaluate.concepts.marks import Concepts, find_concepts
from sparselight.evaluate.probes import auroc, fit_logistic
from sparselight.evaluate.sequences import KYTE_DOOLITTLE
from sparselight.evaluate.statistics import Resamples, ratio
from sparselight.files import write_bytes
from sparselight.intervene.sequence_goals import best_threshold

TUNED_EVERY = 4  # every fourth protein of the fit side sets thresholds
MIN_POSITIVES, MIN_GROUPS = 20, 2  # as evaluate.association
WINDOWS = (5, 9, 19)  # residues over which hydropathy is averaged; 19 is a transmembrane helix
TERMINUS = 30  # residues that count as near the beginning
Row = dict[str, Any]
Features = Float[np.ndarray, "unit feature"]


def measure_probes(case: Case, dataset: str, kinds: list[str], path: Path) -> None:
    """Rows of both readers in a file, if it is not there."""
    if path.is_file():
        return
    concepts = find_concepts(case, dataset, "spans", kinds, MIN_POSITIVES, MIN_GROUPS, labelled_only=True)
    assert concepts is not None
    sides: tuple[SideName, SideName] = ("fit", "held_out")
    tokens = [case.tokens(dataset, side).only(concepts.units[side]) if side in concepts.units else case.tokens(dataset, side) for side in sides]
    readers = {"probe": [part.read(slice(None)).double().numpy() for part in tokens], "letters": [letters(part) for part in tokens]}
    rows = [{"reader": reader, **row} for reader, (fit, held_out) in readers.items() for row in probed(fit, held_out, concepts, case.resamples(dataset))]
    write_bytes(path, (json.dumps(rows, indent=1) + "\n").encode())


def probed(fit: Features, held_out: Features, concepts: Concepts, resamples: Resamples) -> list[Row]:
    """One row a label."""
    mean, deviation = fit.mean(0), fit.std(0) + 1e-9
    fit, held_out, tunes = (fit - mean) / deviation, (held_out - mean) / deviation, concepts.fit.group % TUNED_EVERY == 0
    rows = []
    for number, (kind, label) in enumerate(zip(concepts.kinds, concepts.names, strict=True)):
        y_fit, y = (marks.ones[:, [number]].toarray()[:, 0].astype(bool) for marks in (concepts.fit, concepts.held_out))
        try:
            probe = fit_logistic(fit[~tunes], y_fit[~tunes])
        except CorpusError:
            continue  # no protein of those that it is fitted on carries the label
        threshold = best_threshold(probe.scores(fit[tunes])[:, 0], y_fit[tunes])
        scores = probe.scores(held_out)[:, 0]
        rows.append({"kind": kind, "label": label, **scored(scores > threshold, y, concepts.held_out.group, resamples),
                     "auroc": float(auroc(scores, y, np.ones((1, len(y))))[0])})
    return rows


def scored(fires: Bool[np.ndarray, " unit"], y: Bool[np.ndarray, " unit"], group: Int[np.ndarray, " unit"], resamples: Resamples) -> Row:
    """F1 with its interval over proteins, precision and recall."""
    sums = np.stack([np.bincount(group, part, resamples.n_groups) for part in (fires & y, fires, y)], axis=1)
    hits, n_fires, labelled = resamples.totals(sums).T
    f1, _ = resamples.summarize(ratio(2 * hits, n_fires + labelled))
    assert f1 is not None
    return {"f1": f1.value, "f1_low": f1.low, "f1_high": f1.high, "precision": float(hits[0] / max(n_fires[0], 1)), "recall": float(hits[0] / labelled[0])}


def letters(tokens: Tokens) -> Features:
    """Of each residue: composition of the 19 residues about it, hydropathy over windows, and how near the protein's beginning it is."""
    parts = [features_of(example.text) for example in tokens.examples]
    starts = np.cumsum([0, *(len(part) for part in parts)])
    return np.concatenate(parts)[starts[tokens.example] + tokens.char_start]


def features_of(text: str) -> Features:
    one_hot = np.array([[letter == known for known in AMINO_ACIDS] for letter in text], dtype=np.float64)
    index = np.array([KYTE_DOOLITTLE.get(letter, 0.0) for letter in text])[:, None]
    at = np.arange(len(text))
    near = np.stack([at < TERMINUS, np.maximum(0, 1 - at / TERMINUS), np.log1p(at)], axis=1)
    averages = [smoothed(index, window) for window in WINDOWS]
    return np.concatenate([smoothed(one_hot, WINDOWS[-1]), *averages, near, *(average * near[:, :1] for average in averages)], axis=1)


def smoothed(values: Float[np.ndarray, "residue column"], window: int) -> Float[np.ndarray, "residue column"]:
    """Means over windows about each residue, shorter at the ends."""
    total = np.concatenate([np.zeros((1, values.shape[1])), values.cumsum(0)])
    at = np.arange(len(values))
    low, high = np.maximum(0, at - window // 2), np.minimum(len(values), at + window // 2 + 1)
    return (total[high] - total[low]) / (high - low)[:, None]
