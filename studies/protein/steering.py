"""Steering of the study: for each goal the latent that the fit side chose, held up while sequences are written, judged and set beside four controls.

The judge of a label is a probe of the unedited subject; its own F1 on held-out proteins is part of the result. Refuses signal peptides where no latent fires
with them on the fit side already.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from sparselight.errors import SparselightError
from sparselight.evaluate import Dataset
from sparselight.intervene.sequence_goals import carries, sequence_goal
from sparselight.intervene.sequence_study import SequenceSetting, SequenceSteerConfig, study_sequences
from sparselight.protocols import Example
from sparselight.report.steering_sequences import write_sequence_study
from sparselight.sae import Sae
from sparselight.subjects import MaskedLM

PROBE_TOKENS, SAMPLE_TOKENS = 120_000, 30_000


class Goal(NamedTuple):
    """A label, its form as a goal, and what F1 a latent must have on the fit side to be held up."""

    label: str
    text: str
    least_f1: float = 0.0


GOALS = {
    "helix": Goal("transmembrane region=helix", "label: transmembrane region=helix"), "zinc": Goal("pattern=zinc", "pattern: zinc_finger_C2H2"),
    "signal": Goal("signal peptide=signal peptide", "label: signal peptide=signal peptide", 0.2),
}


class Best(NamedTuple):
    """A label's latent by F1 on the fit side."""

    latent: int
    fit_f1: float


def steer(subject: MaskedLM, sae: Sae, site: str, seed: int, name: str, goal: str, dataset: Dataset, folder: Path, config: SequenceSteerConfig) -> None:
    """Record and page of one study in the folder."""
    out = folder / "steering" / f"{name}-{goal}"
    if (out / "steering.json").is_file():
        return
    best, (label, text, least) = best_latents(folder / "evaluation", name), GOALS[goal]
    if label not in best or best[label].fit_f1 < least:
        print(f"{name}, {goal}: no latent, or none with an F1 of {least} on the fit side ({best.get(label)})", flush=True)
        return
    other = next((own.latent for known, own in best.items() if known != label and own.latent != best[label].latent), None)
    try:
        judge = sequence_goal(text, subject, site, half_carriers(subject, dataset, label, seed))
        setting = SequenceSetting(
            subject, sae, site, name, best[label].latent, judge, some(subject, dataset.fit, SAMPLE_TOKENS, seed), dataset.held_out, other=other,
            other_title=next((known for known, own in best.items() if own.latent == other), ""), title=label)
        study = study_sequences(setting, config)
    except SparselightError as err:
        print(f"{name}, {goal}: {err}", flush=True)
        return
    study.save(out / "steering.json")
    write_sequence_study(study, out / "steering.html")
    print(f"{name}, {goal}: {[(arm.kind, arm.strength, round(arm.success.value, 3)) for arm in study.arms]}", flush=True)


def best_latents(evaluation: Path, coder: str) -> dict[str, Best]:
    """Label to its best latent."""
    rows = pq.read_table(evaluation / "tables" / "association.association_labels.parquet").to_pylist()
    return {f"{row['kind']}={row['label']}": Best(row["latent"], row["fit_score"]) for row in rows
            if row["coder"] == coder and row["criterion"] == "f1" and row["rank"] == 1 and row["level"] == "spans"}


def half_carriers(subject: MaskedLM, dataset: Dataset, label: str, seed: int) -> list[Example]:
    """Proteins of the fit side for a probe: half of the residues of proteins that carry the label."""
    kind, _, value = label.partition("=")
    with_it = [example for example in dataset.fit if carries(example, kind, value)]
    without = [example for example in dataset.fit if not carries(example, kind, value)]
    return [example for side in (with_it, without) for example in some(subject, side, PROBE_TOKENS // 2, seed)]


def some(subject: MaskedLM, examples: list[Example], n_tokens: int, seed: int) -> list[Example]:
    """Proteins in a random order, up to a number of residues."""
    order = np.random.default_rng(seed).permutation(len(examples)).tolist()
    sizes = np.cumsum(subject.n_tokens([examples[index] for index in order]))
    return [examples[index] for index in order[: int(np.searchsorted(sizes, n_tokens)) + 1]]
