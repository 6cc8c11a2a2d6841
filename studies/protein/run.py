"""Protein latents and annotations, by rule, architecture and layer; then steering towards what was found. Run again, it goes on where it stopped.

    python studies/protein/planting.py --data DATA/tmbed --out runs/protein/planted
    python studies/protein_subject/train.py --data runs/protein/planted --out runs/protein/subject --minutes 60
    python studies/protein/run.py --data runs/protein/planted --subject runs/protein/subject/model --out runs/protein
    python studies/protein/run.py ... --quick                 # a tenth of everything, in a folder of its own

Steps: harvest (all layers in one pass), train (each architecture at each layer), evaluate (association by our protocol, and the published rules on the same
activations; raw neurons, an untrained SAE and shuffled labels beside it), steer. `results.json` holds a row a value.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from steering import steer_towards

import sparselight as sl
from sparselight.corpus import ListCorpus
from sparselight.evaluate import Case, Contender, Dataset, EvaluateConfig, run_suite
from sparselight.files import write_bytes
from sparselight.store import FolderStore, HarvestConfig, harvest
from sparselight.subjects import MaskedLM

KINDS = ["transmembrane region", "signal peptide", "topological domain", "pattern"]
HELD_OUT_FOLD = "cv_04_a.fasta"
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "batch_topk": {"architecture": "batch_topk"}, "topk": {"architecture": "topk"}, "matryoshka": {"architecture": "matryoshka"},
    "ortsae": {"architecture": "batch_topk", "objective": {"orthogonal": 0.25}}, "relu": {"architecture": "relu", "objective": {"l1": 0.02}},
}
GOALS = ("transmembrane region=helix", "pattern=zinc")
STEPS = ("harvest", "train", "evaluate", "steer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cv_00_a.fasta to cv_04_a.fasta, planted or not")
    parser.add_argument("--subject", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/protein"))
    parser.add_argument("--layers", default="", help="such as 1,3,5; all by default")
    parser.add_argument("--architectures", default=",".join(ARCHITECTURES))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--quick", action="store_true")
    chosen = parser.parse_args()
    out = chosen.out / "quick" if chosen.quick else chosen.out
    subject = sl.load_subject(chosen.subject, context_tokens=302 if chosen.quick else 1002)
    assert isinstance(subject, MaskedLM)
    train, held_out = load(chosen.data, 300 if chosen.quick else 1000).split()
    sites = [site for site in subject.sites() if site.startswith("resid_post.") and (not chosen.layers or site.rpartition(".")[2] in chosen.layers.split(","))]
    sizes = Sizes(chosen.quick)
    stores = {side: stored(subject, corpus.sample(n, subject.n_tokens), sites, out / "stores" / side) for side, corpus, n in (
        ("fit", train, sizes.train_tokens), ("held_out", held_out, sizes.held_out_tokens))}
    rows: list[dict[str, Any]] = []
    for site in sites:
        for seed in map(int, chosen.seeds.split(",")):
            rows += work(subject, site, seed, chosen.architectures.split(","), stores, {"fit": train, "held_out": held_out}, out / site / f"seed-{seed}", sizes)
            write_bytes(out / "results.json", (json.dumps({"quick": chosen.quick, "subject": subject.name, "rows": rows}, indent=1) + "\n").encode())
    print(f"{len(rows):,} rows in {out / 'results.json'}")


class Sizes:
    """How much of everything."""

    def __init__(self, quick: bool):
        self.train_tokens, self.held_out_tokens = (60_000, 30_000) if quick else (2_500_000, 700_000)
        self.n_latents, self.k, self.training_tokens = (256, 8, 100_000) if quick else (4096, 24, 5_000_000)
        self.evaluated, self.n_bootstrap, self.n_permutations = (20_000, 60, 39) if quick else (400_000, 1000, 200)
        self.n_sequences, self.length = (8, 40) if quick else (180, 100)


def load(data: Path, longest: int) -> ListCorpus:
    protein = {"patterns": {"zinc": "zinc_finger_C2H2"}, "max_residues": longest, "on_long": "skip"}
    return sl.load_corpus(str(data), kind="protein", split="_file", held_out_values=[HELD_OUT_FOLD], protein=protein)


def stored(subject: MaskedLM, corpus: ListCorpus, sites: list[str], folder: Path) -> FolderStore:
    return harvest(subject, corpus.examples, sites, folder, HarvestConfig(site=sites[0]), corpus.fingerprint())


def work(
    subject: MaskedLM, site: str, seed: int, architectures: list[str], stores: dict[str, FolderStore], corpora: dict[str, ListCorpus], folder: Path,
    sizes: Sizes,
) -> list[dict[str, Any]]:
    """Train, evaluate and steer at one layer with one seed."""
    settings = {"n_latents": sizes.n_latents, "n_tokens": sizes.training_tokens, "seed": seed}
    saes = {}
    for name in architectures:
        own = {**ARCHITECTURES[name], **({} if name == "relu" else {"k": sizes.k})}
        done = folder / name / "sae"
        saes[name] = sl.load_sae(done) if (done / "sparselight.json").is_file() else sl.train(stores["fit"], folder / name, site=site, **settings, **own)
    config = EvaluateConfig.parse({
        "suite": "reconstruction,association,association_rules", "n_tokens": sizes.evaluated, "n_bootstrap": sizes.n_bootstrap, "seed": seed,
        "association": {"kinds": KINDS, "n_permutations": sizes.n_permutations, "f1_floor": 0.5}, "association_rules": {"kinds": KINDS}}, "evaluate")
    sides = {side: in_store(corpus, stores[side]) for side, corpus in corpora.items()}
    dataset = Dataset("tmbed", sides["fit"], sides["held_out"], stores["fit"], stores["held_out"])
    case = Case(site, {"tmbed": dataset}, config, subject)
    record = run_suite(case, {name: Contender(sae, is_control=False) for name, sae in saes.items()}, config, folder=folder / "evaluation")
    rows = [{"site": site, "seed": seed, "step": "evaluate", "coder": row.coder, "is_control": row.is_control, "metric": row.metric, "setting": row.setting,
             **row.value.model_dump(mode="json", exclude_defaults=True)} for row in record.rows]
    for name, sae in saes.items():
        for goal in GOALS:
            rows += [{"site": site, "seed": seed, "step": "steer", "coder": name, "goal": goal, **found}
                     for found in steer_towards(subject, sae, site, goal, name, folder / "evaluation", dataset, sizes.n_sequences, sizes.length, seed)]
    return rows


def in_store(corpus: ListCorpus, store: FolderStore) -> list:
    known = store.number_of()
    return [example for example in corpus if example.id in known]


if __name__ == "__main__":
    main()
