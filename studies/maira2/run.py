"""Features of a small radiology vision-language model: what they stand for beside controls, by size and Matryoshka level, in picture and text; steering.

    python studies/radiology_subject/train.py --data DATA --out runs/radiology
    python studies/maira2/run.py --radiology runs/radiology --out runs/maira2

Runs recipes/radiology_small.toml once an expansion (stores are shared), counts the latents whose explanation is proven by family of concepts, and steers some.
What is finished is not done again. Ends with OUT/results.json; `--install` copies it beside this file and writes the README's tables.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from families import FAMILIES, family_of, finding_of
from steering import choose, steer_one, summary_of

from sparselight.evaluate.statistics import wilson
from sparselight.files import write_bytes
from sparselight.interpret import load_catalogue
from sparselight.interpret.evidence import MIN_F1, is_supported
from sparselight.pipeline import load_recipe, run_pipeline
from sparselight.pipeline.opened import open_run
from sparselight.pipeline.steer_place import Place
from sparselight.records import Card
from sparselight.sae import load_sae
from sparselight.store import FolderStore

HERE = Path(__file__).parent
RECIPE = HERE.parents[1] / "recipes" / "radiology_small.toml"
EXPANSIONS = (2, 4, 8)  # as the paper released; the last one is the run that is steered
WIDTH = 160
CONTROLS = ("rolled_labels", "shuffled", "random_latent", "raw_neuron")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--radiology", type=Path, required=True, help="what studies/radiology_subject/train.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steered", type=int, default=6, help="features that are chosen by their explanation; those chosen by their output come on top")
    parser.add_argument("--install", action="store_true", help="copy the results beside this file and fill the README")
    chosen = parser.parse_args()
    results: dict[str, Any] = {"subject": json.loads((chosen.radiology / "results.json").read_text()), "expansions": {}}
    for expansion in EXPANSIONS:
        kept = chosen.out / f"expansion-{expansion}.json"
        until = None if expansion == EXPANSIONS[-1] else "explain"
        if not kept.is_file() or until is None:
            recipe = load_recipe(RECIPE, [f"corpus.root={chosen.radiology / 'pairs.csv'}", f"subject.source={chosen.radiology / 'model'}",
                                          f"train.n_latents={expansion * WIDTH}"])
            run_pipeline(recipe, chosen.out / "run", until)
        if not kept.is_file():
            write_bytes(kept, json.dumps(measure(chosen.out / "run"), indent=1).encode())
        results["expansions"][str(expansion)] = json.loads(kept.read_text())
        print(f"expansion {expansion}: {results['expansions'][str(expansion)]['all']}", flush=True)
    place = Place(chosen.out / "run")
    results["steering"] = []
    for latent, goal, way in choose(place.cards, chosen.steered):
        results["steering"].append(summary_of(steer_one(place, latent, goal, chosen.out / "steering"), way))
        print(f"base/{latent} {goal}: {results['steering'][-1]['verdict']}", flush=True)
    write_bytes(chosen.out / "results.json", (json.dumps(results, indent=1) + "\n").encode())
    if chosen.install:
        from tables import fill

        write_bytes(HERE / "results.json", (json.dumps(results, indent=1) + "\n").encode())
        write_bytes(HERE / "README.md", fill((HERE / "README.md").read_text(), results).encode())


def measure(folder: Path) -> dict[str, Any]:
    """Counts of the base SAE's latents: all, by family, by Matryoshka level, by where they fire."""
    run = open_run(folder)
    cards = {card.latent: card for card in load_catalogue(run.catalogue.path) if card.source == "base"}
    alive = [card for card in cards.values() if card.n_fires]
    shares = patch_shares(folder)
    sae = run.stages.recipe.train
    edges = np.cumsum(np.round(np.array(sae.group_fracs) * run.sae("base").n_latents)).astype(int).tolist()
    levels = [[card for card in alive if low <= card.latent < high] for low, high in zip([0, *edges[:-1]], edges, strict=True)]
    sides = {"patches": [card for card in alive if shares[card.latent] > 0.9], "text": [card for card in alive if shares[card.latent] < 0.1],
             "both": [card for card in alive if 0.1 <= shares[card.latent] <= 0.9]}
    evaluation = run.stages.run.records["evaluate"].summary
    return {
        "n_latents": len(cards), "all": counts(alive), "levels": [counts(level) for level in levels],
        "sides": {name: counts(own) for name, own in sides.items()},
        "families": {name: counts([card for card in alive if family_of(card) == name]) for name in FAMILIES},
        "patch_share_of_firings": float(np.mean([shares[card.latent] for card in alive])), "evaluation": evaluation,
    }


def counts(cards: list[Card]) -> dict[str, Any]:
    """Living latents, those explained and proven (grade A or B), and how often a control reaches the same F1."""
    proven = [card for card in cards if is_supported(card)]
    controls: dict[str, list[float]] = defaultdict(list)
    own = []
    for card in cards:
        score = card.explanation.score("label_rule") if card.explanation else None
        if score is not None and score.values:
            own.append(score.values["f1"].value)
            for name in CONTROLS:
                if name in score.controls:
                    controls[name].append(score.controls[name]["f1"].value)
    return {
        "n_alive": len(cards), "n_explained": sum(card.explanation is not None for card in cards), "n_proven": len(proven),
        "proven_frac": wilson(len(proven), len(cards), "latents").model_dump(exclude_none=True) if cards else None,
        "f1_at_least_half": {"own": sum(f1 >= MIN_F1 for f1 in own), **{name: sum(f1 >= MIN_F1 for f1 in found) for name, found in controls.items()}},
        "mean_f1": {"own": float(np.mean(own)) if own else None, **{name: float(np.mean(found)) for name, found in controls.items()}},
        "median_fire_rate": float(np.median([card.fire_rate for card in cards])) if cards else None,
        "findings": sorted({finding for card in proven if (finding := finding_of(card))}),
        "examples": [f"{card.latent}: {card.explanation.text}" for card in sorted(proven, key=lambda card: -card.evidence.f1.value)[:8]
                     if card.explanation and not card.explanation.label.startswith(("word", "token", "piece", "label", "words", "tokens"))],
    }


def patch_shares(folder: Path) -> np.ndarray:
    """Of each latent: the share of its firings, on held-out tokens, that lie on patches; 0 where it fires nowhere."""
    stages = open_run(folder).stages
    store, sae = FolderStore.open(stages.run.path("harvest") / "general_held_out"), load_sae(stages.run.path("train") / "sae")
    is_patch = store.tokens().column("char_start").to_numpy() < 0
    on_patches, everywhere = np.zeros((2, sae.n_latents))
    for start in range(0, store.n_tokens, 8192):
        rows = np.arange(start, min(start + 8192, store.n_tokens))
        codes = sae.encode(store.read(rows, stages.site))
        token, latent, fires = codes.tokens().numpy(), codes.latents.numpy(), (codes.values > 0).numpy()
        everywhere += np.bincount(latent[fires], minlength=sae.n_latents)
        on_patches += np.bincount(latent[fires & is_patch[rows][token]], minlength=sae.n_latents)
    return on_patches / np.maximum(everywhere, 1)


if __name__ == "__main__":
    main()
