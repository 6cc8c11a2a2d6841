"""SHIFT on Bias in Bios as published: professors against nurses, from the Hugging Face data set. Not run for the README: it needs the hub.

    python -m studies.ssae.bias_in_bios --device cuda --out runs/bias-in-bios
    python -m studies.ssae.bias_in_bios --base hf://OWNER/NAME/PATH --site resid_post.3 --probe-site resid_post.4

The data, splits, probe and thresholds are those of Marks et al. (arXiv 2403.19647, section 4), which SSAE (arXiv 2411.00743, table 1) follows: male
professors and female nurses to fit on, mean-pooled activations of Pythia-70m-deduped after its fifth layer, one epoch of AdamW, latents kept above 0.1.
What differs: one SAE at one site in place of dictionaries at 16 places, and the judge is the attribution to gender (`judge = skyline`) in place of a
person.
"""

import argparse
from pathlib import Path

from datasets import load_dataset
from studies.common.benches import store_of

from sparselight.corpus import CorpusConfig, ListCorpus, load_corpus
from sparselight.evaluate import Case, Contender, Dataset, EvaluateConfig, run_suite
from sparselight.pipeline.specialise import SpecialiseConfig, train_variants
from sparselight.protocols import Example
from sparselight.sae import Sae
from sparselight.sae.formats import load_sae
from sparselight.store import FolderStore
from sparselight.subjects import SubjectConfig, load_subject
from sparselight.train import TrainConfig, train_sae

DATA, PROFESSIONS, GENDERS = "LabHC/bias_in_bios", {21: "professor", 13: "nurse"}, {0: "male", 1: "female"}
VARIANTS = ["base", "boost", "boost_general", "finetune", "finetune_tilted"]
SHIFT = {"concept": "profession", "concept_values": ["professor", "nurse"], "attribute": "gender", "attribute_values": ["male", "female"], "keep_effect": 0.1,
         "judge_effect": 0.1107, "neuron_effect": 0.2135, "probe": {"solver": "adamw", "lr": 0.01, "n_epochs": 1, "batch_size": 128, "l1": 0.0}}


def biographies(split: str, most: int) -> list[Example]:
    """The biographies of both professions in one split, up to `most`."""
    found = []
    for number, row in enumerate(load_dataset(DATA, split=split)):
        if row["profession"] in PROFESSIONS:
            name = f"{split}-{number}"
            found.append(Example(name, row["hard_text"], name, {"profession": PROFESSIONS[row["profession"]], "gender": GENDERS[row["gender"]]}))
            if len(found) == most:
                break
    return found


def general_sae(given: argparse.Namespace, store: FolderStore) -> Sae:
    """The one that is named, or one trained on general text."""
    if given.base:
        return load_sae(given.base)
    config = TrainConfig.parse({"n_latents": 32_768, "k": 64, "n_tokens": 200_000_000, "batch_tokens": 4096, "lr": 4e-4, "device": given.device,
                                "seed": given.seed, "data_seed": given.seed}, "train")
    return train_sae(store, None, given.site, config, given.out / f"seed-{given.seed}" / "base", store.manifest.subject)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bias-in-bios"))
    parser.add_argument("--subject", default="EleutherAI/pythia-70m-deduped")
    parser.add_argument("--site", default="resid_post.3", help="where the SAEs read and write")
    parser.add_argument("--probe-site", default="resid_post.4", help="where the classifier reads")
    parser.add_argument("--base", default="", help="a general SAE of that site; without one it is trained")
    parser.add_argument("--general", default="hf://Skylion007/openwebtext", help="general text, as corpus.root")
    parser.add_argument("--general-tokens", type=int, default=100_000_000)
    parser.add_argument("--examples", type=int, default=50_000, help="most biographies a side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    subject = load_subject(SubjectConfig.parse({"source": given.subject, "device": given.device}))
    fit, held_out = biographies("train", given.examples), biographies("test", given.examples)
    corpus: ListCorpus = load_corpus(CorpusConfig.parse({"root": given.general}, "corpus")).sample(given.general_tokens, subject.n_tokens)
    parts = {"fit": fit, "held-out": held_out, "general": list(corpus)}
    stores = {name: store_of(subject, examples, given.site, given.out / "data" / name) for name, examples in parts.items()}
    base = general_sae(given, stores["general"])
    config = SpecialiseConfig.parse({"variants": VARIANTS, "n_new": 1024, "k_new": 5, "n_tokens": 20_000_000, "batch_tokens": 4096, "budgets": [],
                                     "seed": given.seed, "data_seed": given.seed, "device": given.device}, "specialise")
    saes = train_variants(base, stores["fit"], stores["general"], config, given.out / f"seed-{given.seed}" / "bios")
    settings = EvaluateConfig.parse({"suite": "shift", "controls": False, "n_tokens": 10**9, "shift": {**SHIFT, "probe_site": given.probe_site}}, "evaluate")
    case = Case(given.site, {"bios": Dataset("bios", fit, held_out, stores["fit"], stores["held-out"])}, settings, subject)
    contenders = {name: Contender(sae, is_control=False) for name, sae in saes.items()}
    record = run_suite(case, contenders, settings, folder=given.out / f"seed-{given.seed}" / "shift")
    for row in record.rows:
        print(f"{row.coder:18} {row.metric:28} {row.setting:18} {row.value.value:.3f}")


if __name__ == "__main__":
    main()
