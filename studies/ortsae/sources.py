"""What the study trains on: planted features with known truth, the demo language model, and stories260K reading Wikipedia.

A source is a training store, a dataset for the evaluation, the subject where there is one, and the settings that all variants share. Data are
made once in the study's folder and found again.
"""

import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sparselight.config import load_toml
from sparselight.corpus import CLASSES, ListCorpus
from sparselight.evaluate.case import Dataset
from sparselight.evaluate.planted import SITE, PlantedConfig, plant
from sparselight.protocols import Example, Subject
from sparselight.records import RunRecord
from sparselight.store import FolderStore, HarvestConfig, harvest
from sparselight.subjects import SubjectConfig, load_subject

ROOT = Path(__file__).resolve().parents[2]
HELD_OUT_ARTICLES = 0.15
EVALUATED_EXAMPLES = 1500  # about so many sections of Python files a side: annotating all of a training store takes minutes


@dataclass(frozen=True)
class Source:
    """Where activations come from, and what every variant trained on them shares."""

    name: str
    site: str
    store: FolderStore
    dataset: Callable[[], Dataset]
    """For the evaluation; made when it is needed."""
    settings: dict[str, Any]
    """Of `train`."""
    l1: float
    """First guess of the L1 weight at which a ReLU SAE has as many active latents."""
    subject: Subject | None = None
    families: tuple[str, ...] = ("reconstruction", "geometry", "composition", "stability", "absorption")
    evaluate: dict[str, Any] = field(default_factory=dict)
    """Of `evaluate`, beside the defaults."""
    apart: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Families with settings of `evaluate` that only they have, measured by themselves: those that count examples need more of them than of tokens."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    out: Path
    data_root: Path
    demo_run: Path | None
    quick: bool
    width: int | None
    n_tokens: int | None
    device: str

    def settings(self, n_latents: int, k: int, n_tokens: int, **more: Any) -> dict[str, Any]:
        """Of `train`; quick runs take a tenth of the tokens."""
        n_tokens = self.n_tokens or (n_tokens // 10 if self.quick else n_tokens)
        return {"n_latents": self.width or n_latents, "k": k, "n_tokens": n_tokens, "device": self.device, "log_every_steps": 10, **more}


def planted(request: Request) -> Source:
    """512 features in 128 dimensions, 8 on at a token: 16 hierarchies of 5 children, 40 compositions, 8 groups of 6, 24 dark features."""
    table = load_toml(ROOT / "recipes" / "synthetic" / "hierarchies.toml") | ({"fit_tokens": 100_000} if request.quick else {})
    data = plant(PlantedConfig.parse(table, "plant"), request.out / "planted-data")
    return Source(
        "planted", SITE, data.fit, lambda: data.dataset(kinds=("parent", "child")), request.settings(1024, 8, 800_000, batch_tokens=1024, lr=8e-3), l1=0.05,
        families=("reconstruction", "geometry", "composition", "stability", "absorption", "synthetic"),
        evaluate={"absorption": {"forms": ["hierarchy"], "parents": ["parent"], "child": "child"}},
    )


def demo(request: Request) -> Source:
    """The demo subject after its third layer, on the standard library, from a finished run of the demo."""
    if request.demo_run is None:
        sys.exit("--demo-run must name the folder of a finished `sparselight demo` to train on its activations, or leave demo out of --only")
    record = RunRecord.load(request.demo_run / "run.json")
    corpus, stores = (request.demo_run / record.stages[stage] for stage in ("corpus", "harvest"))
    open_side = {side: FolderStore.open(stores / f"general_{side}") for side in ("train", "held_out")}
    store, held_out = open_side.values()

    def dataset() -> Dataset:
        fit, rest = (some_annotated(own, CLASSES["python_source"].load(corpus / f"{side}.parquet", "the standard library")) for side, own in open_side.items())
        return Dataset("demo", fit, rest, store, held_out)

    subject = load_subject(SubjectConfig.parse(record.recipe["subject"]))
    return Source(
        "demo", next(iter(store.manifest.sites)), store, dataset, request.settings(2048, 32, 600_000),
        l1=0.011, subject=subject, families=("reconstruction", "behaviour", "geometry", "composition", "stability", "absorption", "probing"),
        evaluate={"absorption": {"forms": ["hierarchy"], "parents": ["token_class"]}, "probing": {"kinds": ["role", "content", "package"]}},
        apart={"scr_tpp": {"n_tokens": 200_000, "scr_tpp": {"concept": "content", "attribute": "role", "kinds": ["package"], "n": [2, 5, 10, 20, 50, 100]}}},
    )


def some_annotated(store: FolderStore, corpus: ListCorpus) -> list[Example]:
    """Stored sections of whole files, evenly over the files, up to EVALUATED_EXAMPLES, with their spans and labels."""
    by_id, files = {example.id: example for example in corpus}, {}
    for identifier in store.examples().column("id").to_pylist():
        files.setdefault(by_id[identifier].group, []).append(by_id[identifier])
    chosen = list(files.values())[::max(1, -(-sum(map(len, files.values())) // EVALUATED_EXAMPLES))]
    return [labelled(example) for example in corpus.annotate([example for sections in chosen for example in sections])]


def labelled(example: Example) -> Example:
    """The example with two labels that have nothing to do with each other: whether it stands in a test, and whether it begins a class."""
    role = "test" if "test" in example.group else "library"
    return replace(example, labels={**example.labels, "role": role, "content": "class" if re.search(r"^class \w", example.text, re.M) else "functions"})


def stories(request: Request) -> Source:
    """stories260K (64 dimensions) after its third layer, on WikiText-2."""
    model = request.out / "stories-model"
    if not (model / "config.json").exists():
        convert(request.data_root / "stories260k", model)
    subject = load_subject(SubjectConfig.parse({"source": str(model), "context_tokens": 256, "device": "cpu"}))
    corpus = wikitext(request.data_root / "wikitext2", n_files=1 if request.quick else 2)
    site, sides = "resid_post.2", []
    for name, part in zip(("fit", "held_out"), corpus.split(HELD_OUT_ARTICLES), strict=True):
        store = harvest(subject, part.examples, [site], request.out / "stories-data" / name, HarvestConfig(site=site), part.fingerprint())
        sides.append((part.examples, store))
    (fit, store), (held_out, held_out_store) = sides
    return Source(
        "stories", site, store, lambda: Dataset("stories", fit, held_out, store, held_out_store), request.settings(1024, 16, 800_000), l1=0.02, subject=subject,
        families=("reconstruction", "behaviour", "geometry", "composition", "stability"),
    )


SOURCES: dict[str, Callable[[Request], Source]] = {"planted": planted, "demo": demo, "stories": stories}


def convert(source: Path, out: Path) -> None:
    """Make a Hugging Face folder of stories260K by the repository's script."""
    spec = importlib.util.spec_from_file_location("convert_stories260k", ROOT / "scripts" / "convert_stories260k.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.convert(source, out)


def wikitext(folder: Path, n_files: int) -> ListCorpus:
    """Articles of WikiText-2; paragraphs are examples, an article is a group."""
    examples = []
    for path in [folder / "valid.txt", folder / "test.txt"][:n_files]:
        article, n_articles = f"{path.stem} 0", 0
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            if re.fullmatch(r"\s*= ([^=].*[^=]|[^=]) =\s*", line):
                n_articles += 1
                article = f"{path.stem} {n_articles}: {line.strip(' =')}"  # names repeat where words are unknown
            elif len(line) > 80:
                examples.append(Example(f"{path.stem}#{number}", line.strip(), article))
    return ListCorpus(examples, str(folder))
