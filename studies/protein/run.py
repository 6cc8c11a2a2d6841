"""Protein latents and annotations, by rule, architecture and layer; then steering towards what was found. Run again, it goes on where it stopped.

    python studies/protein/planting.py --data DATA/tmbed --out runs/protein/planted
    python studies/protein_subject/train.py --data runs/protein/planted --out runs/protein/subject --minutes 60
    python studies/protein/run.py --data runs/protein/planted --subject runs/protein/subject/model --out runs/protein/study
    python studies/protein/collect.py runs/protein/study      # results.json, figures and tables of the README
    python studies/protein/run.py ... --quick                 # a tenth of everything, in a folder of its own

Steps: harvest (all layers in one pass), then layer by layer train (each architecture), evaluate (association by our protocol, beside neurons, principal
components, an untrained SAE and shuffled labels) and probe. One layer comes first: there the published rules are applied to the same activations, latents are
steered, and SAEs are trained with further seeds. `--full` takes the sizes for a machine of one's own; the default takes about a quarter of an hour on one core.
"""

import argparse
import json
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from studies.protein.coders import ARCHITECTURES, FIT_ROWS, WHITENED, components, neurons, trained
from studies.protein.probes import measure_probes
from studies.protein.steering import GOALS, steer

import sparselight as sl
from sparselight.corpus import ListCorpus
from sparselight.evaluate import Case, Contender, Dataset, EvaluateConfig, run_suite
from sparselight.evaluate.controls import untrained
from sparselight.files import write_bytes
from sparselight.intervene.sequence_study import SequenceSteerConfig
from sparselight.sae import Sae
from sparselight.store import FolderStore, HarvestConfig, harvest
from sparselight.subjects import MaskedLM

KINDS = ["transmembrane region", "signal peptide", "topological domain", "pattern"]
HELD_OUT_FOLD = "cv_04_a.fasta"
NAME = "tmbed"
MAX_RESIDUES = 500  # as arXiv 2502.09135: more proteins for as many residues, and signal peptides stand in short ones
THRESHOLDS = [0.0, 0.15, 0.3, 0.45, 0.6, 0.8]  # finer than the default: a neuron's largest activation is often far out


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
    "quick": Sizes(40_000, 20_000, 256, 8, 60_000, 20_000, 60, 39, 3, 8, 40, [3.0]),
    "default": Sizes(400_000, 120_000, 1024, 24, 1_000_000, 80_000, 200, 99, 6, 48, 60, [1.0, 3.0]),
    "full": Sizes(2_500_000, 700_000, 4096, 24, 10_000_000, 600_000, 1000, 499, 20, 180, 100, [1.0, 2.0, 5.0]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cv_00_a.fasta to cv_04_a.fasta, planted or not, and blacklist.txt")
    parser.add_argument("--subject", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/protein/study"))
    parser.add_argument("--layer", type=int, default=3, help="the one with rules, steering and all seeds")
    parser.add_argument("--other-layers", default="1,5", help="trained with the first seed; --other-layers '' for none")
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--architectures", default=",".join(ARCHITECTURES))
    parser.add_argument("--steer", default="topk", help="architectures that are steered; --steer '' for none")
    parser.add_argument("--size", choices=sorted(SIZES), default="default")
    parser.add_argument("--quick", action="store_const", const="quick", dest="size", help="a tenth of everything, in a folder of its own")
    parser.add_argument("--full", action="store_const", const="full", dest="size")
    chosen = parser.parse_args()
    sizes, out = SIZES[chosen.size], chosen.out / "quick" if chosen.size == "quick" else chosen.out
    subject = sl.load_subject(chosen.subject, context_tokens=MAX_RESIDUES + 2)
    assert isinstance(subject, MaskedLM)
    seeds, layers = list(map(int, chosen.seeds.split(","))), [chosen.layer, *(int(layer) for layer in chosen.other_layers.split(",") if layer)]
    wanted = chosen.architectures.split(",")
    dataset, store = harvested(subject, load(chosen.data), [f"resid_post.{layer}" for layer in layers], out, sizes)
    settings = {"size": chosen.size, "subject": subject.name, **sizes._asdict(), "seeds": seeds, "train": {**WHITENED, **ARCHITECTURES}}
    write_bytes(out / "settings.json", (json.dumps(settings, indent=1) + "\n").encode())
    for layer, seed in [*((layer, seeds[0]) for layer in layers), *((chosen.layer, seed) for seed in seeds[1:])]:
        site = f"resid_post.{layer}"
        folder, is_first = out / site / f"seed-{seed}", (layer, seed) == (chosen.layer, seeds[0])
        saes = {name: trained(store, site, folder / name, name, seed, sizes.n_latents, sizes.k, sizes.training_tokens) for name in wanted}
        evaluate(subject, site, saes, dataset, folder / "evaluation", sizes, "reconstruction,association" + (",association_rules" if is_first else ""))
        if seed == seeds[0]:
            measure_probes(Case(site, {NAME: dataset}, evaluation_config(sizes)), NAME, KINDS, out / site / "probes.json")
            evaluate_feed_forward(subject, layer, dataset, out / site / "feed_forward", sizes)
        for name, goal in product(filter(None, chosen.steer.split(",")), GOALS) if is_first else ():
            steer(subject, saes[name], site, seed, name, goal, dataset, folder, SequenceSteerConfig(
                n_sequences=sizes.n_sequences, length=sizes.length, strengths=sizes.strengths, sample_tokens=30_000, seed=seed))


def load(data: Path) -> ListCorpus:
    protein = {"patterns": {"zinc": "zinc_finger_C2H2"}, "max_residues": MAX_RESIDUES, "on_long": "skip", "exclude_ids": str(data / "blacklist.txt")}
    return sl.load_corpus(str(data), kind="protein", split="_file", held_out_values=[HELD_OUT_FOLD], protein=protein)


def harvested(subject: MaskedLM, corpus: ListCorpus, sites: list[str], out: Path, sizes: Sizes) -> tuple[Dataset, FolderStore]:
    """Both sides with their activations at all sites, and the store to train on."""
    train, held_out = corpus.split()
    sides = {"fit": train.sample(sizes.train_tokens, subject.n_tokens), "held_out": held_out.sample(sizes.held_out_tokens, subject.n_tokens)}
    stores = {side: harvest(subject, part.examples, sites, out / "stores" / side, HarvestConfig(site=sites[0]), part.fingerprint())
              for side, part in sides.items()}
    return Dataset(NAME, *(list(part) for part in sides.values()), stores["fit"], stores["held_out"]), stores["fit"]


def evaluation_config(sizes: Sizes, **more: Any) -> EvaluateConfig:
    """The same proteins and resamples for everything that is measured; no seed of a training has a part in it."""
    return EvaluateConfig.parse({
        "suite": "reconstruction,association", "n_tokens": sizes.evaluated, "n_bootstrap": sizes.n_bootstrap, "controls": False,
        "association": {"kinds": KINDS, "n_permutations": sizes.n_permutations, "f1_floor": 0.5, "thresholds": THRESHOLDS},
        "association_rules": {"kinds": KINDS, "n_shuffles": sizes.n_shuffles}, **more}, "evaluate")


def evaluate(subject: MaskedLM, site: str, saes: dict[str, Sae], dataset: Dataset, folder: Path, sizes: Sizes, suite: str) -> None:
    """All architectures and controls at one site in one record; families that are there are not measured again."""
    config, first = evaluation_config(sizes, suite=suite), next(iter(saes))
    case = Case(site, {NAME: dataset}, config, subject)
    tokens = case.tokens(NAME, "fit")
    x = tokens.read(slice(None))[:: max(1, tokens.n_tokens // FIT_ROWS)]
    controls = {"untrained": untrained(saes[first], x, seed=1_000_003), "neurons": neurons(x), "components": components(x)}
    coders = {**{name: Contender(sae, is_control=False) for name, sae in saes.items()},
              **{name: Contender(coder, is_control=True) for name, coder in controls.items()}}
    pairs = [(name, control) for name in saes for control in controls]
    run_suite(case, coders, config, base=first, pairs=pairs, folder=folder)


def evaluate_feed_forward(subject: MaskedLM, layer: int, dataset: Dataset, folder: Path, sizes: Sizes) -> None:
    """The neurons of the layer's feed-forward block, on the same proteins."""
    if (folder / "evaluation.json").is_file():
        return
    site = f"mlp_act.{layer}"
    config = evaluation_config(sizes, suite="association")
    case = Case(site, {NAME: replace(dataset, fit_store=None, held_out_store=None)}, config, subject)
    x = case.tokens(NAME, "fit").read(slice(0, FIT_ROWS))
    run_suite(case, {"feed-forward neurons": Contender(neurons(x), is_control=True)}, config, folder=folder)


if __name__ == "__main__":
    main()
