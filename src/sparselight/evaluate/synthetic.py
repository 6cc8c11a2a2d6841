"""Dictionaries against planted truth: which features were found, which latents are sums, what absorption really was, how well latents detect.

Only for datasets whose stores `plant` made. A feature's latent is the living one whose decoder row has the largest cosine with its direction; a latent
lives when it fires on a token of the fit or the held-out side. Refuses: an evaluation without planted data. Coders without decoder rows
or without codes are listed as not measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from scipy import sparse
from torch import Tensor

from sparselight.config import Config
from sparselight.errors import CorpusError
from sparselight.evaluate.case import Case, Dataset
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.decomposition import decompose
from sparselight.evaluate.family import Family
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.matching import match
from sparselight.evaluate.planted.folder import planted_behind
from sparselight.evaluate.planted.subject import PlantedSubject
from sparselight.evaluate.planted.world import KINDS, NOBODY, World
from sparselight.evaluate.statistics import Resamples, ratio
from sparselight.evaluate.weight_directions import Directions, cosine_blocks
from sparselight.protocols import Codes, Progress, no_progress
from sparselight.records import MetricValue

METRIC_NAMES = ("planted_cosine", "planted_recall", "planted_precision", "planted_composition", "planted_absorption", "planted_f1")
FEATURE_BLOCK = 1024  # whose counts in all resamples are held at once
NEAREST = 8  # latents of each feature that are looked at
EXACT_LATENTS = 4096  # up to which the assignment one to one is solved over all pairs; above, over the nearest of each
CANDIDATES = 32


class SyntheticConfig(Config):
    """When a latent counts as a planted feature."""

    cosine: float = Field(0.9, gt=0, lt=1)
    """A latent is a feature, or a sum of features, where its cosine with it is above this."""
    n_parts: int = Field(3, ge=2, le=8)
    """Most features in a sum that a latent may be explained by."""
    least_coefficient: float = Field(0.3, gt=0, lt=1)
    """Smallest coefficient of a feature in such a sum; a latent's row has length 1."""
    parent_cosine: float = Field(0.5, gt=0, le=1)
    """Least cosine of a parent's latent with it; without such a latent the parent was not learned, and nothing can absorb it."""
    n_child_latents: int = Field(3, ge=1, le=8)
    """Latents nearest to a child that may carry its parent's direction."""
    carried_frac: float = Field(0.4, gt=0, le=1)
    """Share of the parent's magnitude that children's latents must carry for absorption (SAEBench's share of the projection)."""
    least_tokens: int = Field(10, ge=1)
    """Held-out tokens at which a feature must be on to have an F1, and a parent with a child to have an absorption rate."""


def measure_synthetic(
    case: Case, contenders: Mapping[str, Contender], config: SyntheticConfig, findings: Findings, progress: Progress = no_progress,
) -> None:
    """All metrics of this family, for every planted dataset.

    Raises:
        CorpusError: when no dataset was made by `plant`.
    """
    subjects = {name: _subject(case, dataset) for name, dataset in case.datasets.items()}
    if not any(subjects.values()):
        raise CorpusError(asked="measure dictionaries against planted truth", why="none of the datasets is planted data",
                          instead="make them with sparselight.plant, and evaluate on their stores")
    features, latents, done = [], [], 0
    for dataset, subject in subjects.items():
        for name, contender in contenders.items():
            view = "it is not planted data" if subject is None else View.make(case, dataset, subject, name, contender)
            if isinstance(view, str):
                for metric in METRIC_NAMES:
                    findings.lacks(Cell(name, metric, dataset), view)
            else:
                features.append(_measure(view, config, findings))
                latents.append(_measure_sums(view, config, findings))
            done += 1
            progress(done, len(subjects) * len(contenders), f"{dataset}: {name}")
    if features:
        findings.tables["synthetic_features"], findings.tables["synthetic_latents"] = pa.concat_tables(features), pa.concat_tables(latents)


class Nearest(NamedTuple):
    """The living latents nearest to each feature, nearest first."""

    cosine: Float[np.ndarray, "feature rank"]
    latent: Int[np.ndarray, "feature rank"]
    """Numbers in the whole dictionary."""


@dataclass(frozen=True)
class View:
    """One coder on one planted dataset."""

    name: str
    dataset: str
    world: World
    rows: Float[Tensor, "latent d_in"]
    """Unit decoder rows of all latents."""
    alive: Int[np.ndarray, " living"]
    """Numbers of the living latents."""
    near: Nearest
    codes: sparse.csr_matrix
    """[held-out token, latent]."""
    truth: sparse.csr_matrix
    """[held-out token, feature]: magnitudes."""
    group: Int[np.ndarray, " token"]
    resamples: Resamples

    @classmethod
    def make(cls, case: Case, dataset: str, subject: PlantedSubject, name: str, contender: Contender) -> "View | str":
        """Or in words why there is nothing to measure."""
        if contender.sparse is None:
            return "it has no codes"
        directions = Directions.of(case, name, contender)
        living = directions if isinstance(directions, str) else directions.living()
        if isinstance(directions, str) or isinstance(living, str):
            return str(living)
        tokens, world = case.tokens(dataset, "held_out"), subject.world
        blocks = [block.topk(min(NEAREST, len(living)), dim=1) for _, block in cosine_blocks(world.directions, living.decoder().cpu())]
        near = Nearest(torch.cat([top.values for top in blocks]).numpy(), living.latents[torch.cat([top.indices for top in blocks]).numpy()])
        truth = subject.truth(tokens.examples)[tokens.example * subject.config.example_tokens + tokens.position]
        return cls(name, dataset, world, directions.decoder().cpu(), living.latents, near, _matrix(case.codes(dataset, "held_out", name, contender)), truth,
                   tokens.group, case.resamples(dataset))

    def cell(self, metric: str, setting: str = "") -> Cell:
        return Cell(self.name, metric, self.dataset, setting)

    def by_group(self, matrix: sparse.csr_matrix) -> Float[np.ndarray, "group column"]:
        """Sums of the rows of each group."""
        n = len(self.group)
        return (sparse.csr_matrix((np.ones(n), (self.group, np.arange(n))), shape=(self.resamples.n_groups, n)) @ matrix).toarray()


def _measure(view: View, config: SyntheticConfig, findings: Findings) -> pa.Table:
    """Matching, recall, detection, absorption; one line a feature."""
    world, best = view.world, view.near.cosine[:, 0]
    n = world.config.n_features
    matched = _one_to_one(view, findings)
    whole = torch.cat([block.amax(1) for _, block in cosine_blocks(world.directions, view.rows)])
    for setting, cosine in {"": whole.numpy(), "alive": best}.items():
        findings.add(view.cell("planted_cosine", setting), MetricValue(value=float(cosine.mean()), n=n, unit="features"))
    for setting, chosen in recall_settings(world, config.cosine).items():
        found = float((best[chosen] > config.cosine).mean())
        findings.add(view.cell("planted_recall", setting), MetricValue(value=found, n=int(chosen.sum()), unit="features"))
    f1, absorbed = _measure_f1(view, config, findings), _measure_absorption(view, config, findings)
    return pa.table({
        "coder": [view.name] * n, "dataset": [view.dataset] * n, "feature": world.names(), "kind": world.roles.kind, "frequency": world.frequency,
        "latent": view.near.latent[:, 0], "cosine": best, "one_to_one_cosine": matched, "f1": pa.array(f1, mask=np.isnan(f1)),
        "absorbed_frac": pa.array(absorbed, mask=np.isnan(absorbed)),
    })


def recall_settings(world: World, cosine: float) -> dict[str, Bool[np.ndarray, " feature"]]:
    """Which features each value of planted_recall is over: all, those of each kind, those of each decade of frequency."""
    base, kinds = f"cos > {cosine:g}", np.array(world.roles.kind)
    settings = {base: np.ones(len(kinds), dtype=bool)} | {f"{base}, {kind}": kinds == kind for kind in KINDS if (kinds == kind).any()}
    decade = np.floor(np.log10(world.frequency)).astype(int)
    for power in np.unique(decade)[::-1].tolist():
        settings[f"{base}, frequency 1e{power} to 1e{power + 1}"] = decade == power
    return settings


def _one_to_one(view: View, findings: Findings) -> Float[np.ndarray, " feature"]:
    """Cosine of each feature with the living latent that is assigned to it alone; 0 for features for which none is left."""
    cosine, cell = np.zeros(view.world.config.n_features), view.cell("planted_cosine", "alive, one to one")
    living = view.rows[torch.from_numpy(view.alive)]
    found = match([view.world.directions], [living], EXACT_LATENTS, CANDIDATES)
    if isinstance(found, str):
        findings.lacks(cell, found)
        return cosine
    cosine[found.row] = (view.world.directions[torch.from_numpy(found.row)] * living[torch.from_numpy(found.other)]).sum(1).numpy()
    findings.add(cell, MetricValue(value=float(cosine.mean()), n=len(cosine), unit="features"))
    return cosine


def _measure_f1(view: View, config: SyntheticConfig, findings: Findings) -> Float[np.ndarray, " feature"]:
    """F1 = 2 tp / (fired + on) of "the feature's latent fires" against "the feature is on", mean over features; returns it for each, nan where too rare."""
    on, fires = view.truth.astype(bool), view.codes.astype(bool)
    n_on, f1 = np.asarray(on.sum(0)).ravel(), np.full(view.world.config.n_features, np.nan)
    judged = np.flatnonzero(n_on >= config.least_tokens)
    if not len(judged):
        findings.lacks(view.cell("planted_f1"), f"no feature is on at {config.least_tokens} held-out tokens")
        return f1
    total, count = np.zeros(len(view.resamples.weights)), np.zeros(len(view.resamples.weights))
    for start in range(0, len(judged), FEATURE_BLOCK):
        block = judged[start:start + FEATURE_BLOCK]
        own_fires, own_on = fires[:, view.near.latent[block, 0]].astype(float), on[:, block].astype(float)
        both, either = (view.resamples.totals(view.by_group(part)) for part in (own_fires.multiply(own_on), own_fires + own_on))
        value = ratio(2 * both, either)
        f1[block] = value[0]
        total += np.nansum(value, axis=1)
        count += np.isfinite(value).sum(1)
    findings.add(view.cell("planted_f1"), ratio(total, count))
    return f1


def _measure_absorption(view: View, config: SyntheticConfig, findings: Findings) -> Float[np.ndarray, " feature"]:
    """Absorbed tokens of each parent / its tokens with a child on, mean over parents; returns it for each feature, nan for all but judged parents.

    Absorbed: the parent's latent is silent, and the latents nearest to the children that are on carry its direction:
    sum over them of activation * max(0, cos(w, d_parent)) >= carried_frac * the parent's magnitude.
    """
    result = np.full(view.world.config.n_features, np.nan)
    parents = view.world.roles.of("parent")
    parents = parents[view.near.cosine[parents, 0] >= config.parent_cosine]
    cells = [view.cell("planted_absorption"), view.cell("planted_absorption", "silent")]
    found = _absorbed(view, parents, config)
    totals = [view.by_group(part) for part in found]
    judged = totals[0].sum(0) >= config.least_tokens
    if not judged.any():
        for cell in cells:
            findings.lacks(cell, f"no parent has a latent (cosine {config.parent_cosine:g} or more) and {config.least_tokens} held-out tokens with a child on")
        return result
    n_on, absorbed, silent = (view.resamples.totals(total[:, judged]) for total in totals)
    for cell, value in zip(cells, (ratio(absorbed, n_on), ratio(silent, n_on)), strict=True):
        findings.add(cell, ratio(np.nansum(value, axis=1), np.isfinite(value).sum(1).astype(float)))
    result[parents[judged]] = ratio(absorbed, n_on)[0]
    return result


def _absorbed(view: View, parents: Int[np.ndarray, " parent"], config: SyntheticConfig) -> tuple[sparse.csr_matrix, sparse.csr_matrix, sparse.csr_matrix]:
    """Three [token, parent] matrices of 0 and 1: a child is on too; it is absorbed there; the parent's latent is silent there, whoever carries it."""
    parent_of, n_tokens = view.world.roles.parent, view.truth.shape[0]
    column = np.full(len(parent_of) + 1, NOBODY)  # the last entry answers for NOBODY
    column[parents] = np.arange(len(parents))
    entries = view.truth.tocoo()
    keep = column[parent_of[entries.col]] != NOBODY
    token, child = entries.row[keep], entries.col[keep]
    parent = parent_of[child]
    own = view.near.latent[parent, 0]
    carried = np.zeros(len(token))
    for rank in range(min(config.n_child_latents, view.near.latent.shape[1])):
        carrier = view.near.latent[child, rank]
        along = (view.rows[carrier] * view.world.directions[parent]).sum(1).numpy()
        carried += _entries(view.codes, token, carrier) * np.maximum(along, 0) * (carrier != own)
    pairs, place = np.unique(token * len(parents) + column[parent], return_inverse=True)  # two children of one parent may be on
    row, own_column = np.divmod(pairs, max(len(parents), 1))
    magnitude = _entries(view.truth, row, parents[own_column])
    silent = _entries(view.codes, row, view.near.latent[parents[own_column], 0]) == 0
    absorbed = silent & (np.bincount(place, carried, minlength=len(pairs)) >= config.carried_frac * magnitude)
    shape = (n_tokens, len(parents))
    return tuple(sparse.csr_matrix((flag.astype(float), (row, own_column)), shape=shape) for flag in (np.ones(len(pairs)), absorbed, silent))


def _measure_sums(view: View, config: SyntheticConfig, findings: Findings) -> pa.Table:
    """Latents that are one feature, and latents that are a sum of several; one line a living latent."""
    found = decompose(view.rows[torch.from_numpy(view.alive)], view.world.directions, config.n_parts, config.cosine)
    explained, n = found.cases(config.cosine, config.least_coefficient).numpy(), len(view.alive)
    n_parts = np.where(explained, found.n_parts().numpy(), 0)
    order = found.coefficients.argsort(dim=1, descending=True)
    parts = found.parts.gather(1, order).numpy()
    roles, first, second = view.world.roles, parts[:, 0], parts[:, 1]
    partners, family = roles.partner[first] == second, (roles.parent[first] == second) | (roles.parent[second] == first)
    for metric, setting, counted in (
        ("planted_precision", f"cos > {config.cosine:g}", n_parts == 1), ("planted_composition", "", n_parts > 1),
        ("planted_composition", "a planted pair", (n_parts == 2) & partners), ("planted_composition", "a parent and its child", (n_parts == 2) & family),
    ):
        findings.add(view.cell(metric, setting), MetricValue(value=float(counted.mean()), n=n, unit="latents"))
    names = np.array(view.world.names())
    return pa.table({
        "coder": [view.name] * n, "dataset": [view.dataset] * n, "latent": view.alive, "n_parts": n_parts, "cosine": found.cosine.numpy(),
        "features": [names[row[:count]].tolist() for row, count in zip(parts, found.n_parts().numpy(), strict=True)],
        "coefficients": [row[row > 0].tolist() for row in found.coefficients.gather(1, order).numpy()],
    })


def _subject(case: Case, dataset: Dataset) -> PlantedSubject | None:
    """The planted world behind a dataset: the evaluation's own subject, or what lies beside its stores."""
    if isinstance(case.subject, PlantedSubject):
        return case.subject
    return planted_behind(dataset.held_out_store) if dataset.fit_store is not None else None


def _matrix(codes: Codes) -> sparse.csr_matrix:
    matrix = sparse.csr_matrix((codes.values.numpy(), codes.latents.numpy(), codes.indptr.numpy()), shape=(codes.n_tokens, codes.n_latents))
    matrix.eliminate_zeros()
    return matrix


def _entries(matrix: sparse.csr_matrix, row: Int[np.ndarray, " entry"], column: Int[np.ndarray, " entry"]) -> Float[np.ndarray, " entry"]:
    """matrix[row, column] for pairs, as an array also where there are none."""
    return np.asarray(matrix[row, column]).ravel() if len(row) else np.zeros(0)


FAMILY = Family("synthetic", "Planted truth", measure_synthetic, SyntheticConfig, suites=())
