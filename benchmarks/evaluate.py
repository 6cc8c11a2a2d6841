"""Our core suite beside SAEBench core and SAELens' run_evals: the same SAE (read from our files by SAELens), the same subject, the same tokens.

Candidates take turns: `ours` measures what SAEBench does (the SAE and zero ablation; reconstruction, cross entropy, divergence, fire rates), with
1000 bootstrap resamples; `ours, with controls` adds mean ablation, an untrained SAE and PCA, as `sparselight evaluate` does by default; `saebench` and
`saelens` are `run_evals` of both, all metrics on, in SAELens' environment (`make bench-setup`). Rows of 128 tokens without special tokens, so
that all mean the same tokens. Seconds exclude loading, and each has run one batch before. Every value is kept side by side, with the reason where
one differs.
Run: `python benchmarks/evaluate.py [--tokens 100000] [--rounds 3] [--small]`; writes results/evaluate.json.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from sparselight import __version__, harvest, load_corpus, train
from sparselight.evaluate.behaviour import BehaviourConfig, measure_behaviour
from sparselight.evaluate.case import Case, Dataset
from sparselight.evaluate.config import CaseConfig
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.controls import MeanCoder, ZeroCoder, standard_controls
from sparselight.evaluate.family import MEAN, SUBJECT, ZERO
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.reconstruction import ReconstructionConfig, measure_reconstruction
from sparselight.pipeline.engine import machine
from sparselight.protocols import Example
from sparselight.sae import Sae
from sparselight.sae.disk import save_sae
from sparselight.store import FolderStore
from sparselight.subjects import HuggingFaceSubject, SubjectConfig, load_subject

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "evaluate.json"
PEERS = ROOT / ".venv-bench-saelens" / "bin" / "python"
SITE, LAYER, HOOK, CONTEXT, BATCH_ROWS = "resid_post.2", 2, "model.layers.2", 128, 32
SAME = 1e-3  # values that differ by less, relative to their size, count as the same

POSITIONS = "SAEBench and SAELens take the divergence at every position, the last of a row included; ours at those that the cross entropy scores"
# Our metric and setting, or the value of the unedited subject -> their name, and why theirs may differ.
VALUES: dict[tuple[str, str], tuple[str, str]] = {
    ("ce_nats", ""): ("ce_loss_with_sae", ""), ("subject ce_nats", ""): ("ce_loss_without_sae", ""), ("ce_recovered_zero", ""): ("ce_loss_score", ""),
    ("kl_nats", ""): ("kl_div_with_sae", POSITIONS), ("kl_recovered_zero", ""): ("kl_div_score", POSITIONS),
    ("explained_variance", ""): ("explained_variance", "SAEBench takes the mean of squared activations where the squared mean belongs "
                                 "(docs/decisions/0005-explained-variance.md)"),
    ("cosine", ""): ("cossim", ""), ("norm_ratio", ""): ("l2_ratio", ""),
    ("reconstruction_bias", ""): ("relative_reconstruction_bias", "theirs is a mean of ratios, one a batch; ours one ratio of sums"),
    ("l0", ""): ("l0", ""), ("alive_frac", ""): ("frac_alive", ""),
    ("dense_frac", "> 0.01"): ("freq_over_1_percent", ""), ("dense_frac", "> 0.1"): ("freq_over_10_percent", ""),
}


class Setup(NamedTuple):
    """What all candidates are given."""

    subject: HuggingFaceSubject
    examples: list[Example]
    sae: Sae
    fit: torch.Tensor
    settings: dict[str, Any]


def prepare(folder: Path, options: argparse.Namespace) -> Setup:
    """An SAE of 2048 latents trained on one half of the files, and rows of 128 tokens from the other."""
    subject = load_subject(SubjectConfig(context_tokens=CONTEXT, bos="never", long_examples="cut"))
    corpus = load_corpus("stdlib")
    groups = sorted(corpus.groups())
    fit = corpus.subset([index for index, example in enumerate(corpus) if groups.index(example.group) % 2])
    store: FolderStore = harvest(subject, fit.sample(min(options.tokens, 200_000), subject.n_tokens, 0), SITE, folder / "store")
    sae = train(store, folder / "training", n_latents=2048, k=32, n_tokens=options.train_tokens)
    assert sae.record is not None
    save_sae(sae, sae.record, folder / "sae")
    rest = [example for example in corpus if not groups.index(example.group) % 2]
    whole = [example for example, n in zip(rest, subject.n_tokens(rest), strict=True) if n == CONTEXT]
    n_rows = min(options.tokens // CONTEXT, len(whole)) // BATCH_ROWS * BATCH_ROWS
    examples = whole[:: max(1, len(whole) // max(n_rows, 1))][:n_rows]
    rows = subject.prepare(examples).input_ids
    assert rows.shape == (n_rows, CONTEXT)
    np.save(folder / "rows.npy", rows.numpy())
    subject.model.save_pretrained(folder / "model")
    source = Path(str(importlib.util.find_spec("sparselight").submodule_search_locations[0])) / "assets" / "demo_subject"  # type: ignore[union-attr, index]
    for path in source.glob("token*"):
        (folder / "model" / path.name).write_bytes(path.read_bytes())
    settings = {"rows": str(folder / "rows.npy"), "model": str(folder / "model"), "sae": str(folder / "sae"), "hook": HOOK, "layer": LAYER,
                "threads": options.threads, "batch_rows": BATCH_ROWS}
    return Setup(subject, examples, sae, store.sample(40_000, SITE), settings)


def ours(setup: Setup, controls: bool) -> tuple[dict[str, float], Findings]:
    """Seconds of both families, and what they found."""
    contenders = {"SAE": Contender(setup.sae, is_control=False), ZERO: Contender(ZeroCoder(), is_control=True)}
    wall, cpu = time.perf_counter(), time.process_time()
    if controls:
        contenders |= {MEAN: Contender(MeanCoder(setup.fit.mean(0)), is_control=True)}
        contenders |= {name: Contender(coder, is_control=True) for name, coder in standard_controls(setup.sae, setup.fit).items()}
    case = Case(SITE, {"rows": Dataset("rows", [], setup.examples)}, CaseConfig(n_tokens=10**9, batch_tokens=BATCH_ROWS * CONTEXT), setup.subject)
    findings = Findings()
    measure_reconstruction(case, contenders, ReconstructionConfig(), findings)
    measure_behaviour(case, contenders, BehaviourConfig(), findings)
    for values in findings.resampled.values():
        case.resamples("rows").summarize(values)
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}, findings


def peers(setup: Setup) -> dict[str, Any] | str:
    """What SAEBench and SAELens found, or why not."""
    if not PEERS.exists():
        return "SAELens is not installed: run `make bench-setup`"
    variables = {**os.environ, "OMP_NUM_THREADS": str(setup.settings["threads"]), "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
    done = subprocess.run([PEERS, "-P", Path(__file__).with_name("evaluate_saebench.py"), json.dumps(setup.settings)], capture_output=True, text=True,
                          env=variables, check=False, timeout=3600)
    if done.returncode:
        return f"it failed: {(done.stderr.strip().splitlines() or ['without a word'])[-1][:300]}"
    return json.loads(done.stdout.splitlines()[-1])


def side_by_side(findings: Findings, theirs: dict[str, Any]) -> dict[str, Any]:
    """Every value of both, and why they differ where they do."""
    table = {}
    for (metric, setting), (name, why) in VALUES.items():
        row: dict[str, Any] = {"ours": our_value(findings, metric, setting)}
        row |= {peer: theirs[peer]["values"][name] for peer in theirs if name in theirs[peer]["values"]}
        differs = [peer for peer in theirs if peer in row and abs(row[peer] - row["ours"]) > SAME * max(abs(row["ours"]), 1e-3)]
        table[f"{metric} {setting}".strip()] = row | ({"differs": differs, "why": why or "not explained"} if differs else {})
    return table


def our_value(findings: Findings, metric: str, setting: str) -> float:
    if metric == "alive_frac":
        return 1 - findings.values[Cell("SAE", "dead_frac", "rows")].value
    coder, name = (SUBJECT, "ce_nats") if metric == "subject ce_nats" else ("SAE", metric)
    cell = Cell(coder, name, "rows", setting)
    return findings.values[cell].value if cell in findings.values else float(findings.resampled[cell][0])


def main(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    result: dict[str, Any] = {"machine": machine(), "torch": str(torch.__version__), "sparselight": __version__, "threads": options.threads,
                              "load_before": os.getloadavg()[0], "n_rounds": options.rounds}
    candidates: dict[str, Callable[[Setup], Any]] = {"ours": lambda setup: ours(setup, False), "ours, with controls": lambda setup: ours(setup, True)}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        setup = prepare(Path(folder), options)
        ours(setup._replace(examples=setup.examples[:BATCH_ROWS]), True)  # imports and kernels
        rounds: list[dict[str, dict[str, float]]] = []
        theirs: dict[str, Any] | str = {}
        for _ in range(options.rounds):
            row, found = {}, {}
            for name, work in candidates.items():
                row[name], found[name] = work(setup)
            theirs = peers(setup)
            if isinstance(theirs, str):
                result["peers_skipped"] = theirs
            else:
                row |= {f"{name} {one['version']}": {key: one[key] for key in ("wall_s", "cpu_s")} for name, one in theirs.items()}
            rounds.append(row)
    result |= {"subject": "the model that ships with the package", "site": SITE, "d": setup.sae.d_in, "n_latents": setup.sae.n_latents,
               "n_tokens": len(setup.examples) * CONTEXT, "n_groups": len({example.group for example in setup.examples})}
    names = [name for name in rounds[0] if all(name in row for row in rounds)]
    for key in ("wall_s", "cpu_s"):
        result[f"median_{key}"] = {name: round(statistics.median(row[name][key] for row in rounds), 2) for name in names}
        result[f"median_{key}_to_ours"] = {name: round(statistics.median(row[name][key] / row["ours"][key] for row in rounds), 2) for name in names}
    result["values"] = side_by_side(found["ours"], theirs) if isinstance(theirs, dict) else {}
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--train-tokens", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--folder", help="where the store and the model are written; by default the system's temporary folder")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--small", action="store_true", help="see that it works: little data, no useful numbers")
    options = parser.parse_args()
    if options.small:
        options.tokens, options.train_tokens, options.rounds = 8192, 20_480, 1
    result = main(options)
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['n_tokens']:,} tokens; seconds {result['median_wall_s']}; ratios to ours {result['median_wall_s_to_ours']}", file=sys.stdout)
    for metric, row in result["values"].items():
        if "differs" in row:
            print(f"{metric}: {row}")
    print(result.get("peers_skipped", "") or f"written to {options.out}")
