"""What the studies of specialisation train on: activations of general data, of domains, and held-out sides of both.

A bench is one subject at one site. Everything is made once in the study's folder and found again. Planted features have a known truth; the demo
language model reads the standard library with three rare domains in it; stories260K reads its own stories and, as a far domain, Wikipedia; any
model of a hub reads what the command line names. Sentences with labels stand in `sentences`.
"""

import argparse
import hashlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from studies.ortsae.sources import convert, wikitext
from transformers import AutoTokenizer

from sparselight.config import load_toml
from sparselight.corpus import CLASSES, CorpusConfig, ListCorpus, load_corpus
from sparselight.evaluate.planted import SITE, PlantedConfig, PlantedData, plant
from sparselight.protocols import Example, Subject
from sparselight.records import RunRecord
from sparselight.sae import Sae
from sparselight.store import FolderStore, HarvestConfig, harvest
from sparselight.store.plan import MANIFEST
from sparselight.subjects import SubjectConfig, load_subject
from sparselight.train import TrainConfig, train_sae

ROOT = Path(__file__).resolve().parents[2]
HELD_OUT_FRAC = 0.25
N_DARK_IN_DOMAIN = 32
DOMAIN_TOKENS, HELD_OUT_TOKENS = 60_000, 30_000
# Files of the standard library by domain: seeds first, then a pattern of all files that are of the domain. The split into sides is the demo run's.
STDLIB_DOMAINS: dict[str, tuple[tuple[str, ...], str]] = {
    "security": (("ssl.py", "hmac.py", "hashlib.py", "secrets.py"),
                 r"(ssl|hmac|hashlib|secrets|crypt|getpass)\.py|asyncio/sslproto\.py|test/(test_asyncio/)?test_(ssl|hmac|hashlib|secrets|crypt|sslproto|getpass)\.py"),
    "email": (("email/message.py", "smtplib.py", "mimetypes.py"),
              r"email/.*|(smtplib|mimetypes|quopri|base64|mailbox|imaplib|poplib|nntplib)\.py|test/test_email/.*"
              r"|test/test_(smtplib|mimetypes|quopri|base64|mailbox|imaplib|poplib|nntplib)\.py"),
    "dates": (("calendar.py", "_strptime.py", "zoneinfo/_zoneinfo.py"),
              r"(datetime|_pydatetime|calendar|_strptime)\.py|zoneinfo/.*|test/datetimetester\.py|test/test_(datetime|calendar|strptime|time)\.py"
              r"|test/test_zoneinfo/.*"),
}


@dataclass(frozen=True)
class Sides:
    """Activations to train on, and activations that no training sees."""

    train: FolderStore
    held_out: FolderStore


@dataclass(frozen=True)
class Bench:
    """Where activations come from, and how SAEs are trained on them."""

    name: str
    site: str
    general: Sides
    domains: Mapping[str, Sides]
    base: Mapping[str, Any]
    """Settings of `train` of the general SAE."""
    new: Mapping[str, Any]
    """n_latents and k of what is added for a domain."""
    domain_tokens: int
    """Training tokens of everything that is trained on a domain."""
    subject: Subject | None = None
    examples: Mapping[str, Example] = field(default_factory=dict)
    """By id, those of the held-out stores at least, where the subject predicts something."""
    planted: PlantedData | None = None


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    out: Path
    data_root: Path
    demo_run: Path | None = None
    quick: bool = False
    device: str = "cpu"
    subject: str = ""
    site: str = ""
    general: str = ""
    domain: tuple[str, ...] = ()

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Those of both studies."""
        parser.add_argument("--out", type=Path, default=Path("runs/specialisation"), help="the same for both studies: data and general SAEs are made once")
        parser.add_argument("--data-root", type=Path, default=Path("data"), help="folder with clinc150/, biasbios_sample/, stories260k/, wikitext2/")
        parser.add_argument("--demo-run", type=Path, help="folder of a finished `sparselight demo`")
        parser.add_argument("--seeds", default="0,1,2")
        parser.add_argument("--domains", default="", help="some of a bench's domains; all where left out")
        parser.add_argument("--quick", action="store_true", help="a tenth of the data and of the training, in a folder of its own")
        parser.add_argument("--device", default="cpu")
        own = parser.add_argument_group("a model of your own (--only hub)")
        own.add_argument("--subject", default="", help="a Hugging Face name or a folder")
        own.add_argument("--site", default="", help="such as resid_post.12")
        own.add_argument("--general", default="", help="what corpus.root takes: a folder, a file, hf://NAME")
        own.add_argument("--domain", action="append", default=[], metavar="NAME=CORPUS")

    @classmethod
    def of(cls, given: argparse.Namespace) -> "Request":
        return cls(given.out, given.data_root, given.demo_run, given.quick, given.device, given.subject, given.site, given.general, tuple(given.domain))

    def sized(self, n: int) -> int:
        """A tenth of it for a quick run."""
        return n // 10 if self.quick else n


def train_base(bench: Bench, folder: Path, seed: int) -> Sae:
    """The general SAE of a seed; one that is there is loaded."""
    config = TrainConfig.parse({**bench.base, "seed": seed, "data_seed": seed}, "train")
    return train_sae(bench.general.train, None, bench.site, config, folder, bench.general.train.manifest.subject)


def settings(request: Request, n_latents: int, k: float, n_tokens: int, batch_tokens: int = 1024, **more: Any) -> dict[str, Any]:
    return {"n_latents": n_latents, "k": k, "n_tokens": request.sized(n_tokens), "batch_tokens": batch_tokens, "device": request.device,
            "log_every_steps": 50, **more}


def store_of(subject: Subject, examples: Sequence[Example], site: str, folder: Path) -> FolderStore:
    """Activations of examples; the store in the folder when it is of these."""
    digest = hashlib.sha256("\0".join(f"{example.id}\0{example.text}" for example in examples).encode()).hexdigest()
    if (folder / MANIFEST).exists() and (store := FolderStore.open(folder)).manifest.corpus_fingerprint == digest:
        return store  # without a look at its rows, and so beside other processes
    return harvest(subject, examples, [site], folder, HarvestConfig(site=site), digest)


def planted(request: Request) -> Bench:
    """512 features in 128 dimensions, half of them dark; the domain is the examples in which one of 32 dark features is on."""
    table = load_toml(ROOT / "recipes" / "synthetic" / "dark.toml")
    table |= {"dark_rate": 5e-4, "example_tokens": 8, "fit_tokens": request.sized(300_000), "held_out_tokens": request.sized(80_000)}
    folder = request.out / "planted" / "data"
    data = plant(PlantedConfig.parse(table, "plant"), folder / "world")
    domain = Sides(*(store_of(data.subject, domain_examples(data, side), SITE, folder / f"domain-{side}") for side in ("fit", "held_out")))
    return Bench("planted", SITE, Sides(data.fit, data.held_out), {"dark": domain}, settings(request, 512, 8, 400_000, lr=8e-3), {"n_latents": 128, "k": 2},
                 request.sized(150_000), planted=data)


def domain_features(data: PlantedData) -> np.ndarray:
    """The dark features that make the domain."""
    return data.subject.world.roles.of("dark")[:N_DARK_IN_DOMAIN]


def domain_examples(data: PlantedData, side: str) -> list[Example]:
    """Examples of a side in which a feature of the domain is on."""
    active = pq.read_table(data.folder / f"{side}.active.parquet", columns=["example", "feature"])
    chosen = np.unique(active.column("example").to_numpy()[np.isin(active.column("feature").to_numpy(), domain_features(data))])
    examples = data.subject.examples(side)
    return [examples[number] for number in chosen.tolist()]


def demo(request: Request) -> Bench:
    """The demo subject after its third layer, on a finished run of the demo; domains are files of the standard library, by name."""
    if request.demo_run is None:
        sys.exit("--demo-run must name the folder of a finished `sparselight demo` to train on its activations, or leave demo out of --only")
    run = RunRecord.load(request.demo_run / "run.json")
    corpus, stores = (request.demo_run / run.stages[stage] for stage in ("corpus", "harvest"))
    general = Sides(FolderStore.open(stores / "general_train"), FolderStore.open(stores / "general_held_out"))
    subject, site = load_subject(SubjectConfig.parse(run.recipe["subject"])), next(iter(general.train.manifest.sites))
    sides = {side: list(CLASSES["python_source"].load(corpus / f"{side}.parquet", "the standard library")) for side in ("train", "held_out")}
    known = {side: set(store.examples().column("id").to_pylist()) for side, store in (("train", general.train), ("held_out", general.held_out))}
    domains = {}
    for name, (seeds, pattern) in STDLIB_DOMAINS.items():
        chosen = [some_of_domain(sides[side], seeds, pattern, known[side], subject, request.sized(size))
                  for side, size in (("train", DOMAIN_TOKENS), ("held_out", HELD_OUT_TOKENS))]
        domains[name] = Sides(*(store_of(subject, part, site, request.out / "demo" / "data" / f"{name}-{side}")
                                for side, part in zip(sides, chosen, strict=True)))
    return Bench("demo", site, general, domains, settings(request, 768, 16, 600_000), {"n_latents": 192, "k": 4}, request.sized(120_000), subject,
                 {example.id: example for side in sides.values() for example in side})


def is_of_domain(group: str, name: str) -> bool:
    """Whether a file of the standard library is of a domain."""
    return re.fullmatch(STDLIB_DOMAINS[name][1], group) is not None


def some_of_domain(examples: list[Example], seeds: Sequence[str], pattern: str, known: set[str], subject: Any, n_tokens: int) -> list[Example]:
    """Sections of a domain's files that are not in the general store yet: those of the seeds, then others at random up to a number of tokens."""
    own = [example for example in examples if re.fullmatch(pattern, example.group) and example.id not in known]
    order = [own[index] for index in np.random.default_rng(0).permutation(len(own))]
    order.sort(key=lambda example: example.group not in seeds)
    sizes = np.cumsum(subject.n_tokens(order))
    return order[: int(np.searchsorted(sizes, n_tokens)) + 1]


def stories(request: Request) -> Bench:
    """stories260K (64 dimensions) after its third layer: general is text that it writes itself, the domain is WikiText-2."""
    model, folder = request.out / "stories" / "model", request.out / "stories" / "data"
    if not (model / "config.json").exists():
        convert(request.data_root / "stories260k", model)
    subject = load_subject(SubjectConfig.parse({"source": str(model), "context_tokens": 256, "device": "cpu"}))
    corpora = {"general": own_stories(subject, model, request.sized(800)), "wikipedia": wikitext(request.data_root / "wikitext2", 1)}
    made, examples = {}, {}
    for name, corpus in corpora.items():
        train, held_out = corpus.split(HELD_OUT_FRAC)
        parts = [part.sample(request.sized(n_tokens), subject.n_tokens) for part, n_tokens in ((train, 150_000), (held_out, HELD_OUT_TOKENS))]
        made[name] = Sides(*(store_of(subject, part.examples, "resid_post.2", folder / f"{name}-{side}")
                             for side, part in zip(("train", "held_out"), parts, strict=True)))
        examples |= {example.id: example for example in parts[1]}
    return Bench("stories", "resid_post.2", made["general"], {"wikipedia": made["wikipedia"]}, settings(request, 512, 12, 500_000),
                 {"n_latents": 128, "k": 3}, request.sized(150_000), subject, examples)


@torch.no_grad()
def own_stories(subject: Any, folder: Path, n_stories: int, n_tokens: int = 220, batch: int = 100) -> ListCorpus:
    """Texts that a causal language model writes from nothing, drawn token by token at temperature 1."""
    texts, generator, tokenizer = [], torch.Generator().manual_seed(0), AutoTokenizer.from_pretrained(folder)
    for _ in range(-(-n_stories // batch)):
        ids, cache = torch.full((batch, 1), 1), None
        for _ in range(n_tokens):
            output = subject.model(input_ids=ids[:, -1:] if cache is not None else ids, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            ids = torch.cat([ids, torch.multinomial(output.logits[:, -1].float().softmax(-1), 1, generator=generator)], 1)
        texts += [tokenizer.decode(row.tolist(), skip_special_tokens=True) for row in ids]
    return ListCorpus.from_texts([text.strip() for text in texts if len(text) > 80], origin="stories that stories260K writes")


def hub(request: Request) -> Bench:
    """Any causal language model with text as named: `--general` and `--domain NAME=...` are what `corpus.root` takes, hf://... included."""
    if not (request.subject and request.site and request.general and request.domain):
        sys.exit("a subject of your own needs --subject, --site, --general and --domain NAME=CORPUS")
    subject = load_subject(SubjectConfig.parse({"source": request.subject, "device": request.device}))
    folder, made, examples = request.out / "hub" / "data", {}, {}
    for name, root in {"general": request.general, **dict(item.split("=", 1) for item in request.domain)}.items():
        train, held_out = load_corpus(CorpusConfig.parse({"root": root}, "corpus")).split(HELD_OUT_FRAC)
        sizes = (100_000_000, 500_000) if name == "general" else (20_000_000, 200_000)
        parts = [part.sample(request.sized(n_tokens), subject.n_tokens) for part, n_tokens in zip((train, held_out), sizes, strict=True)]
        made[name] = Sides(*(store_of(subject, part.examples, request.site, folder / f"{name}-{side}")
                             for side, part in zip(("train", "held_out"), parts, strict=True)))
        examples |= {example.id: example for example in parts[1]}
    general = made.pop("general")
    return Bench("hub", request.site, general, made, settings(request, 16_384, 50, 200_000_000, 4096, lr=3e-4), {"n_latents": 1024, "k": 5},
                 request.sized(40_000_000), subject, examples)


BENCHES: dict[str, Callable[[Request], Bench]] = {"planted": planted, "demo": demo, "stories": stories, "hub": hub}
