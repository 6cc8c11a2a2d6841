"""What the studies of specialisation measure of an SAE: reconstruction at its own and at an equal l0, rare tokens, planted features, labels, predictions.

Values are those of whole held-out sets, one a training; what varies is the seed of the training, and intervals over seeds are made when results are
collected. fvu = sum ||x - x_hat||^2 / sum ||x - mean||^2 as in vocab.METRICS. An SAE with more active latents reconstructs better whatever it was trained
on, so SAEs are also compared with their thresholds moved to an equal l0. Refuses nothing.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from studies.common.benches import Bench, Sides
from torch import Tensor
from torch.nn.functional import normalize

from sparselight.evaluate import Case, Contender, Dataset, EvaluateConfig, run_suite
from sparselight.evaluate.planted import World
from sparselight.pipeline.specialise import at_l0
from sparselight.sae import Sae
from sparselight.store import FolderStore

ROWS = 10_000
TAIL_FRAC = 0.05  # of the held-out tokens: those of the rarest token ids
FOUND = 0.9  # cosine above which a planted feature counts as found
FLOOR = 0.5  # precision and recall of a latent that detects a label
LEVELS = (0.0, 0.15, 0.5, 0.6, 0.8)  # thresholds of a detector, relative to the latent's largest activation
CE_TOKENS = 3000

Rows = Float[Tensor, "token d_in"]
Values = dict[str, float]


def rows_of(store: FolderStore, site: str, n_rows: int = ROWS) -> Rows:
    """Held-out rows, evenly spaced."""
    return store.sample(n_rows, site)


@torch.no_grad()
def token_errors(sae: Sae, x: Rows) -> tuple[Float[Tensor, " token"], float]:
    """||x - x_hat||^2 of each token, and l0."""
    errors, n_active = [], 0
    for part in x.split(4096):
        codes = sae.encode(part)
        n_active += len(codes.values)
        errors.append((part - sae.decode(codes, part)).square().sum(1))
    return torch.cat(errors), n_active / len(x)


def spread(x: Rows) -> float:
    return float((x - x.mean(0)).square().sum())


def fvu_l0(sae: Sae, x: Rows) -> tuple[float, float]:
    errors, l0 = token_errors(sae, x)
    return float(errors.double().sum()) / spread(x), l0


def both_sides(sae: Sae, sides: Mapping[str, Rows]) -> Values:
    """fvu and l0 on each named set of rows."""
    found: Values = {}
    for name, x in sides.items():
        found[f"{name}_fvu"], found[f"{name}_l0"] = fvu_l0(sae, x)
    return found


def matched(sae: Sae, l0: float, sides: Mapping[str, Rows]) -> Values:
    """Reconstruction with thresholds moved to one l0 on each of these very sets of rows; names end in `_matched`.

    Thresholds that were found on training rows give an SAE that fits them closely more active latents on held-out rows than others have.
    """
    found: Values = {}
    for name, x in sides.items():
        moved, _ = at_l0(sae, l0, x)
        if moved is not None:
            found |= {f"{key}_matched": value for key, value in both_sides(moved, {name: x}).items()}
    return found


def tail_tokens(train: FolderStore, held_out: FolderStore, rows: Int[np.ndarray, " row"]) -> Bool[np.ndarray, " row"]:
    """Which held-out rows are of the token ids that are rarest in training: the rarest that together make TAIL_FRAC of the rows."""
    seen = np.bincount(train.tokens().column("token_id").to_numpy().astype(np.int64), minlength=1 << 16)
    ids = held_out.tokens().column("token_id").to_numpy().astype(np.int64)[rows]
    order = np.argsort(seen[ids], kind="stable")
    return seen[ids] <= seen[ids[order[int(TAIL_FRAC * len(ids))]]]


def tail_values(sae: Sae, x: Rows, tail: Bool[np.ndarray, " token"]) -> Values:
    """fvu of rare tokens, the 99th percentile of the error (in units of a token's mean variance), and the variance of errors."""
    errors, _ = token_errors(sae, x)
    rare, scale = torch.from_numpy(tail), spread(x) / len(x)
    centered = (x[rare] - x.mean(0)).square().sum()
    relative = errors / scale
    return {"tail_fvu": float(errors[rare].sum() / centered), "worst_percent": float(relative.quantile(0.99)), "error_variance": float(relative.var())}


@torch.no_grad()
def planted_recall(sae: Sae, world: World, features: Mapping[str, Int[np.ndarray, " feature"]]) -> Values:
    """Share of planted features that a decoder row points along (cosine above FOUND, which no random direction reaches), by named set."""
    best = (world.directions @ normalize(sae.W_dec).T).amax(1).numpy()
    return {f"recall_{name}": float((best[chosen] > FOUND).mean()) for name, chosen in features.items()}


def frequency_sets(world: World, domain: Int[np.ndarray, " feature"]) -> dict[str, Int[np.ndarray, " feature"]]:
    """Planted features by how often they are on; the dark ones of the domain and the others apart."""
    dark = np.array(world.roles.kind) == "dark"
    own = np.isin(np.arange(len(dark)), domain)
    bins = {"above 2 %": (0.02, 1), "1 to 2 %": (0.01, 0.02), "below 1 %": (0, 0.01)}
    sets = {name: np.flatnonzero(~dark & (world.frequency >= low) & (world.frequency < high)) for name, (low, high) in bins.items()}
    return {name: chosen for name, chosen in {**sets, "dark, domain": domain, "dark, others": np.flatnonzero(dark & ~own)}.items() if len(chosen)}


@torch.no_grad()
def detected(sae: Sae, fit: Rows, fit_labels: Int[np.ndarray, " row"], held_out: Rows, labels: Int[np.ndarray, " row"], n: int) -> Bool[np.ndarray, " label"]:
    """Which labels have a detector: the latent and threshold with the best F1 on `fit` have precision and recall of FLOOR at least on `held_out`.

    The rule is that of the family `coverage` (docs/evaluation/coverage.md), for rows with one label each.
    """
    z, z_held = (sae.encode(x).to_dense().numpy() for x in (fit, held_out))
    truth, truth_held = (np.eye(n, dtype=np.float32)[values] for values in (fit_labels, labels))
    top, best = z.max(0), np.full(n, -1.0)
    latent, level = np.zeros(n, dtype=np.int64), np.zeros(n)
    for share in LEVELS:
        fires = ((z > share * top) & (z > 0)).astype(np.float32)
        f1 = 2 * (truth.T @ fires) / (fires.sum(0) + truth.sum(0)[:, None])
        better = f1.max(1) > best
        latent[better], level[better], best[better] = f1.argmax(1)[better], share, f1.max(1)[better]
    fires = z_held[:, latent] > level * top[latent]
    hits = (fires & (truth_held > 0)).sum(0)
    return (hits >= FLOOR * truth_held.sum(0)) & (hits >= FLOOR * np.maximum(fires.sum(0), 1)) & (hits > 0)


def predictions(bench: Bench, saes: Mapping[str, Sae], sides: Mapping[str, Sides], only: Sequence[str]) -> dict[str, Values]:
    """ce_increase_nats and kl_nats of some SAEs spliced in, on held-out text of each side."""
    def texts(store: FolderStore) -> list[str]:
        return [identifier for identifier in store.examples().column("id").to_pylist() if identifier in bench.examples]

    datasets = {name: Dataset(name, (), [bench.examples[identifier] for identifier in texts(side.held_out)], None, side.held_out)
                for name, side in sides.items()}
    config = EvaluateConfig.parse({"suite": "behaviour", "controls": False, "n_tokens": CE_TOKENS, "n_bootstrap": 40}, "evaluate")
    record = run_suite(Case(bench.site, datasets, config, bench.subject), {name: Contender(saes[name], is_control=False) for name in only}, config)
    found: dict[str, Values] = {name: {} for name in only}
    for row in record.rows:
        if row.coder in found and row.metric in ("ce_increase_nats", "kl_nats"):
            found[row.coder][f"{row.dataset}_{row.metric.partition('_')[0]}"] = row.value.value
    return found
