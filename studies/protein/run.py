"""Protein latents and annotations, by rule, architecture and layer; then steering towards what was found. Run again, it goes on where it stopped.

    python studies/protein/planting.py --data DATA/tmbed --out runs/protein/planted
    python studies/protein_subject/train.py --data runs/protein/planted --out runs/protein/subject --minutes 60
    python studies/protein/run.py --data runs/protein/planted --subject runs/protein/subject/model --out runs/protein
    python studies/protein/collect.py runs/protein            # results.json, figure and tables of the README
    python studies/protein/run.py ... --quick                 # a tenth of everything, in a folder of its own

Steps: harvest (all layers in one pass), train (each architecture at each layer), evaluate (association by our protocol, and the published rules on the same
activations; an untrained SAE, PCA and shuffled labels beside it), steer (one layer, some architectures). `--full` takes the sizes for a machine of
one's own; the default fits into ten minutes of one core.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

import sparselight as sl
from sparselight.corpus import ListCorpus
from sparselight.errors import SparselightError
from sparselight.evaluate import Case, Contender, Dataset, EvaluateConfig, run_suite
from sparselight.files import write_bytes
from sparselight.intervene.sequence_goals import sequence_goal
from sparselight.intervene.sequence_study import SequenceSetting, SequenceSteerConfig, study_sequences
from sparselight.protocols import Example
from sparselight.report.steering_sequences import write_sequence_study
from sparselight.sae import Sae
from sparselight.store import FolderStore, HarvestConfig, harvest
from sparselight.subjects import MaskedLM

KINDS = ["transmembrane region", "signal peptide", "topological domain", "pattern"]
HELD_OUT_FOLD = "cv_04_a.fasta"
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "relu": {"architecture": "relu", "objective": {"l1": 0.02}}, "topk": {"architecture": "topk"}, "matryoshka": {"architecture": "matryoshka"},
    "ortsae": {"architecture": "batch_topk", "objective": {"orthogonal": 0.25}},
}
GOALS = {"helix": ("transmembrane region=helix", "label: transmembrane region=helix"), "zinc": ("pattern=zinc", "pattern: zinc_finger_C2H2")}


class Sizes(NamedTuple):
    """How much of everything; tokens are residues."""

    train_tokens: int
    held_out_tokens: int
    n_latents: int
    k: int
    training_tokens: int
    evaluated: int
    n_bootstrap: int
    n_permutations: int
    n_shuffles: int
    n_sequences: int
    length: int
    strengths: list[float]


SIZES = {
    "quick": Sizes(60_000, 30_000, 256, 8, 100_000, 20_000, 100, 39, 5, 8, 40, [1.0, 3.0]),
    "default": Sizes(150_000, 60_000, 768, 24, 500_000, 50_000, 200, 199, 20, 48, 50, [1.0, 3.0]),
    "full": Sizes(2_500_000, 700_000, 4096, 24, 10_000_000, 400_000, 1000, 499, 20, 180, 100, [1.0, 2.0, 5.0]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cv_00_a.fasta to cv_04_a.fasta, planted or not, and blacklist.txt")
    parser.add_argument("--subject", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/protein"))
    parser.add_argument("--layers", default="1,3")
    parser.add_argument("--architectures", default=",".join(ARCHITECTURES))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--steer", default="relu,topk", help="architectures that are steered; --steer '' for none")
    parser.add_argument("--steer-layer", type=int, default=3)
    parser.add_argument("--size", choices=sorted(SIZES), default="default")
    parser.add_argument("--quick", action="store_const", const="quick", dest="size", help="a tenth of everything, in a folder of its own")
    parser.add_argument("--full", action="store_const", const="full", dest="size")
    chosen = parser.parse_args()
    sizes, out = SIZES[chosen.size], chosen.out / "quick" if chosen.size == "quick" else chosen.out
    subject = sl.load_subject(chosen.subject, context_tokens=1002)
    assert isinstance(subject, MaskedLM)
    train, held_out = load(chosen.data).split()
    sites = [f"resid_post.{layer}" for layer in chosen.layers.split(",")]
    corpora = {"fit": train.sample(sizes.train_tokens, subject.n_tokens), "held_out": held_out.sample(sizes.held_out_tokens, subject.n_tokens)}
    stores = {side: harvest(subject, corpus.examples, sites, out / "stores" / side, HarvestConfig(site=sites[0]), corpus.fingerprint())
              for side, corpus in corpora.items()}
    dataset = Dataset("tmbed", *(list(corpora[side]) for side in ("fit", "held_out")), stores["fit"], stores["held_out"])
    wanted = chosen.architectures.split(",")
    for site in sites:
        for seed in map(int, chosen.seeds.split(",")):
            folder = out / site / f"seed-{seed}"
            saes = {name: trained(stores["fit"], site, folder / name, name, seed, sizes) for name in wanted}
            evaluate(subject, site, seed, saes, dataset, folder / "evaluation", sizes)
            if site == f"resid_post.{chosen.steer_layer}":
                for name in filter(None, chosen.steer.split(",")):
                    for goal in GOALS:
                        steer(subject, saes[name], site, seed, name, goal, dataset, folder, sizes)
    write_bytes(out / "settings.json", (json.dumps({"size": chosen.size, "subject": subject.name, **sizes._asdict()}, indent=1) + "\n").encode())


def load(data: Path) -> ListCorpus:
    protein = {"patterns": {"zinc": "zinc_finger_C2H2"}, "max_residues": 1000, "on_long": "skip", "exclude_ids": str(data / "blacklist.txt")}
    return sl.load_corpus(str(data), kind="protein", split="_file", held_out_values=[HELD_OUT_FOLD], protein=protein)


def trained(store: FolderStore, site: str, folder: Path, name: str, seed: int, sizes: Sizes) -> Sae:
    """The SAE in the folder, trained if it is not there yet."""
    if (folder / "sae" / "sparselight.json").is_file():
        return sl.load_sae(folder / "sae")
    own = {**ARCHITECTURES[name], **({} if name == "relu" else {"k": sizes.k})}
    return sl.train(store, folder, site=site, n_latents=sizes.n_latents, n_tokens=sizes.training_tokens, seed=seed, **own)


def evaluate(subject: MaskedLM, site: str, seed: int, saes: dict[str, Sae], dataset: Dataset, folder: Path, sizes: Sizes) -> None:
    """All architectures at one site in one record; families that are there are not measured again."""
    config = EvaluateConfig.parse({
        "suite": "reconstruction,association,association_rules", "n_tokens": sizes.evaluated, "n_bootstrap": sizes.n_bootstrap, "seed": seed,
        "association": {"kinds": KINDS, "n_permutations": sizes.n_permutations, "f1_floor": 0.5},
        "association_rules": {"kinds": KINDS, "n_shuffles": sizes.n_shuffles}}, "evaluate")
    case = Case(site, {"tmbed": dataset}, config, subject)
    run_suite(case, {name: Contender(sae, is_control=False) for name, sae in saes.items()}, config, folder=folder).save(folder / "evaluation.json")


def steer(subject: MaskedLM, sae: Sae, site: str, seed: int, name: str, goal: str, dataset: Dataset, folder: Path, sizes: Sizes) -> None:
    """Record and page of one steering study: the best latent of the goal's label by F1 on the fit side."""
    out = folder / "steering" / f"{name}-{goal}"
    if (out / "steering.json").is_file():
        return
    best, (label, text) = best_latents(folder / "evaluation", name), GOALS[goal]
    other = next((latent for known, latent in best.items() if known != label and latent != best.get(label)), None)
    if label not in best:
        print(f"{name}, {goal}: no latent was found for {label}", flush=True)
        return
    try:
        fit = some(subject, dataset.fit, 60_000, seed)
        setting = SequenceSetting(
            subject, sae, site, name, best[label], sequence_goal(text, subject, site, fit), some(subject, fit, 30_000, seed), dataset.held_out, other=other,
            other_title=next((known for known, latent in best.items() if latent == other), ""), title=label)
        study = study_sequences(setting, SequenceSteerConfig(
            n_sequences=sizes.n_sequences, length=sizes.length, strengths=sizes.strengths, sample_tokens=30_000, seed=seed))
    except SparselightError as err:
        print(f"{name}, {goal}: {err}", flush=True)
        return
    study.save(out / "steering.json")
    write_sequence_study(study, out / "steering.html")
    print(f"{name}, {goal}: {[(arm.kind, arm.strength, round(arm.success.value, 3)) for arm in study.arms]}", flush=True)


def best_latents(evaluation: Path, coder: str) -> dict[str, int]:
    """Label to its best latent by F1 on the fit side."""
    rows = pq.read_table(evaluation / "tables" / "association.association_labels.parquet").to_pylist()
    return {f"{row['kind']}={row['label']}": row["latent"] for row in rows if row["coder"] == coder and row["criterion"] == "f1" and row["rank"] == 1
            and row["level"] == "spans"}


def some(subject: MaskedLM, examples: list[Example], n_tokens: int, seed: int) -> list[Example]:
    """Proteins in a random order, up to a number of residues."""
    order = np.random.default_rng(seed).permutation(len(examples)).tolist()
    sizes = np.cumsum(subject.n_tokens([examples[index] for index in order]))
    return [examples[index] for index in order[: int(np.searchsorted(sizes, n_tokens)) + 1]]


if __name__ == "__main__":
    main()
