"""Evaluations as they lie on disk, with values that are known: record, resamples and tables are written by the code that writes real ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.finished import resampled_table
from sparselight.evaluate.latents import LatentSums
from sparselight.evaluate.statistics import Resamples
from sparselight.records import (
    EvalRecord,
    EvalRow,
    EvaluatedCoder,
    EvaluatedData,
    FamilyRun,
    MetricValue,
    SaeRecord,
    SubjectRef,
    TokenPolicy,
    UndefinedValue,
)
from sparselight.sae.disk import RECORD

SITE = "resid_post.2"
SUBJECT = SubjectRef(name="sparselight-demo-lm", fingerprint="9f2c51ab" * 8, token_policy=TokenPolicy(prepend_bos=True, context_tokens=512))
N_GROUPS, N_DRAWS, N_LATENTS, N_TOKENS = 60, 200, 1024, 40_000
DIFFICULTY = np.random.default_rng(7).normal(size=N_GROUPS)  # of the groups, shared by all coders: what pairing takes out
NAMES = {"reconstruction": "Reconstruction", "behaviour": "Behaviour", "geometry": "Geometry of the dictionary", "probing": "Sparse probing"}


def resampled(level: float, spread: float, own: float, seed: int) -> np.ndarray:
    """A mean over groups: `level` + spread * the group's difficulty + own noise, over all resamples."""
    noise = np.random.default_rng(seed).normal(size=N_GROUPS)
    per_group = level + spread * (DIFFICULTY - DIFFICULTY.mean()) + own * (noise - noise.mean())
    return Resamples.draw(N_GROUPS, N_DRAWS, 0).totals(per_group) / N_GROUPS


def findings_of(name: str, fvu: float, l0: float | None, seed: int, findings: dict[str, Findings]) -> None:
    """What the families say of one coder."""
    for dataset, worse in (("general", 1.0), ("domain", 1.25)):
        level = fvu * worse
        for metric, value, spread in (("fvu", level, 0.06), ("explained_variance", 1 - level, -0.06), ("cosine", 1 - 0.5 * level, -0.02)):
            findings["reconstruction"].add(Cell(name, metric, dataset), resampled(value, spread, 0.002, seed))
        findings["behaviour"].add(Cell(name, "ce_increase_nats", dataset), resampled(0.6 * level, 0.05, 0.003, seed + 1))
        findings["behaviour"].add(Cell(name, "ce_recovered_mean", dataset), resampled(1 - 0.2 * level, -0.02, 0.002, seed + 2))
        for k in (1, 2, 5):
            cell = Cell(name, "probe_accuracy", dataset, f"k={k}")
            findings["probing"].add(cell, resampled(0.6 + 0.05 * k - 0.2 * (level - 0.3) ** 2, -0.03, 0.02, seed + 3 + k))
        if l0 is not None:
            findings["reconstruction"].add(Cell(name, "l0", dataset), resampled(l0, 0.8, 0.1, seed + 9))
            findings["reconstruction"].add(Cell(name, "dead_frac", dataset), MetricValue(value=0.02 * worse, n=N_TOKENS, unit="tokens"))
    geometry = findings["geometry"]
    if l0 is None:
        geometry.lacks(Cell(name, "mean_max_cosine"), "this coder has no decoder directions")
        return
    geometry.add(Cell(name, "mean_max_cosine"), MetricValue(value=0.2 + 0.4 * fvu, n=N_LATENTS, unit="latents"))
    if seed % 2:
        geometry.lacks(Cell(name, "clustering_coefficient", setting="density 0.001"), "no two of its 3 edges meet")
    else:
        geometry.add(Cell(name, "clustering_coefficient", setting="density 0.001"), MetricValue(value=0.1 + 0.2 * fvu, n=N_LATENTS, unit="latents"))


def tables_of(name: str, seed: int) -> tuple[list[pa.Table], list[dict[str, Any]]]:
    rng = np.random.default_rng(seed)
    histograms = []
    for dataset in ("general", "domain"):
        sums = LatentSums.empty(N_LATENTS)
        rates = np.where(rng.random(N_LATENTS) < 0.04, 0.0, 10 ** rng.normal(-2.4 + 0.1 * seed % 1, 0.6, N_LATENTS))
        sums.n_fired += torch.from_numpy(np.minimum(rates * N_TOKENS, N_TOKENS).astype(np.int64))
        sums.n_tokens = N_TOKENS
        histograms.append(sums.histogram(name, dataset, 4))
    graphs = [{"coder": name, "latents": "all", "graph": f"density {density:g}", "density": density, "clustering": 0.05 + 0.03 * seed % 0.2 + 3 * density**0.5}
              for density in (0.0001, 0.0003, 0.001, 0.003, 0.01)]
    return histograms, graphs


CONTROLS: dict[str, tuple[float, float | None]] = {
    "untrained SAE": (0.97, 32.0), "random decoder": (0.99, 30.0), "PCA, 32 components": (0.41, None), "neurons, 32 largest": (0.62, 32.0),
    "mean ablation": (1.0, None),
}


def write_evaluation(folder: Path, saes: dict[str, tuple[float, float]], controls: bool = True, sources: dict[str, str] | None = None, **changes: Any) -> Path:
    """An evaluation of coders, each with its fvu and l0; returns its file.

    Args:
        sources: SAE name to the folder that it is said to come from.
        changes: fields of the record that are to be others; `held_out` changes the hash of the tokens, `data` fields of both datasets,
            `config` the settings of probing.
    """
    findings = {name: Findings() for name in NAMES}
    values: dict[str, tuple[float, float | None]] = {**saes, **(CONTROLS if controls else {})}
    histograms, graphs = [], []
    for number, (name, (fvu, l0)) in enumerate(values.items()):
        findings_of(name, fvu, l0, sum(map(ord, name)), findings)
        if l0 is not None:
            found = tables_of(name, number)
            histograms += found[0]
            graphs += found[1]
    findings["reconstruction"].tables["fire_rates"] = pa.concat_tables(histograms)
    findings["geometry"].tables["similarity_graphs"] = pa.Table.from_pylist(graphs)
    rows, undefined, families = [], [], {}
    for family, found in findings.items():
        own, missing = _rows(family, found, controls_of=CONTROLS)
        rows, undefined = [*rows, *own], [*undefined, *missing]
        families[family] = _family(folder, family, found, changes.get("config", {}))
    data = EvaluatedData(n_tokens=N_TOKENS, n_groups=N_GROUPS, held_out=changes.get("held_out", "ab" * 32), fit="cd" * 32, **changes.get("data", {}))
    datasets = {"general": data, "domain": data}
    coders = {name: EvaluatedCoder(is_control=name in CONTROLS, n_latents=None if l0 is None else N_LATENTS, source=(sources or {}).get(name),
                                   weights=None if name in CONTROLS else f"{name}-{fvu}") for name, (fvu, l0) in values.items()}
    record = EvalRecord(rows=rows, differences=[], n_tokens=dict.fromkeys(datasets, N_TOKENS), site=SITE, subject=SUBJECT, suite="core", base=next(iter(saes)),
                        n_bootstrap=N_DRAWS, seed=0, undefined=undefined, families=families, coders=coders, datasets=datasets)
    kept = {name: value for name, value in changes.items() if name in EvalRecord.model_fields}
    record.model_copy(update=kept).save(folder / "evaluation.json")
    return folder / "evaluation.json"


def _rows(family: str, found: Findings, controls_of: dict[str, Any]) -> tuple[list[EvalRow], list[UndefinedValue]]:
    resamples = Resamples.draw(N_GROUPS, N_DRAWS, 0)
    values = {**{cell: resamples.summarize(array)[0] for cell, array in found.resampled.items()}, **found.values}
    rows = [EvalRow(coder=cell.coder, is_control=cell.coder in controls_of, dataset=cell.dataset, metric=cell.metric, value=value, setting=cell.setting,
                    family=family) for cell, value in values.items() if value is not None]
    return rows, [UndefinedValue(coder=cell.coder, dataset=cell.dataset, metric=cell.metric, setting=cell.setting, family=family, why=why)
                  for cell, why in found.undefined.items()]


def _family(folder: Path, family: str, found: Findings, config: dict[str, Any]) -> FamilyRun:
    place = folder / "families" / f"{family}-0123456789"
    place.mkdir(parents=True)
    pq.write_table(resampled_table(found), place / "resampled.parquet")
    for name, table in found.tables.items():
        (folder / "tables").mkdir(exist_ok=True)
        pq.write_table(table, folder / "tables" / f"{family}.{name}.parquet")
    return FamilyRun(title=NAMES[family], config=config if family == "probing" else {}, folder=f"families/{place.name}",
                     tables=[f"tables/{family}.{name}.parquet" for name in found.tables])


def write_sae_record(folder: Path, seed: int, k: float = 32.0, architecture: str = "batch_topk", **settings: Any) -> str:
    """What training leaves beside an SAE's weights; returns the folder."""
    config = {"architecture": architecture, "seed": seed, "k": k, "lr": 0.004, "n_tokens": 1_000_000, "objective": {"aux": 0.03125, "l1": 0.0}, "log_to": []}
    config |= settings
    record = SaeRecord(
        architecture=architecture, role="base", site=SITE, subject=SUBJECT, store_fingerprint="77aa" * 16, d_in=256, n_latents=N_LATENTS, k=k, l0=k, n_dead=3,
        dead_after_tokens=100_000, n_tokens_seen=1_000_000, normalization="none", loss_scale="variance", config=config,
    )
    folder.mkdir(parents=True, exist_ok=True)
    record.save(folder / RECORD)
    return str(folder)
