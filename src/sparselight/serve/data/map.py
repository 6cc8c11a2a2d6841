"""The map of an SAE's features: decoder directions laid out in two dimensions, so that similar directions lie near each other.

Two layouts: the two principal components at once, and t-SNE (van der Maaten and Hinton 2008, Barnes-Hut form of scikit-learn, begun at the principal
components) as soon as a thread in the background has made it; it is kept in RUN/explorer, named by the weights. Above LANDMARKS features t-SNE lays
out an even sample of them and the others are placed between their nearest landmarks, so that 65,536 features take about as long as 3,000. Positions
are the same for the same weights and seed. Nearness on the map is a hint, not a measurement: distances between far groups mean nothing. Refuses: SAEs
without cards.
"""

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict

from sparselight.errors import RunError, StoreError
from sparselight.files import atomic_path
from sparselight.interpret.renderers import visible
from sparselight.records import StageRecord
from sparselight.report.svg import shorten
from sparselight.sae import load_sae
from sparselight.serve.data.served import ServedRun

FOLDER, VERSION = "explorer", 1
SEED = 0
LANDMARKS = 3000
N_COMPONENTS = 32  # that t-SNE sees
N_ITERATIONS, PERPLEXITY = 500, 30.0
N_NEAREST, SHARPNESS = 8, 20.0  # landmarks that place another feature, weighted by exp(SHARPNESS * cosine)
JITTER = 0.004  # of the map's width: features with equal landmarks do not hide each other
FEWEST = 12  # features that t-SNE is worth
TEXT_CHARS = 90
QUERY = ("SELECT latent, grade, domain_ratio, fire_rate, coalesce(text, '') AS text FROM cards WHERE source = '{}' AND n_fires > 0 ORDER BY latent")
LEFT_OUT = "SELECT count(*) AS n FROM cards WHERE source = '{}' AND n_fires = 0"


class FeatureMap(BaseModel):
    """The features of an SAE on a map, one entry of every column for each that fires."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    source: str
    latent: list[int]
    x: list[float]
    """From 0 to 1; the map is as wide as it is high."""
    y: list[float]
    grade: list[str]
    domain_ratio: list[float | None]
    """null: it fires in the domain only."""
    fire_rate: list[float]
    text: list[str]
    layout: str
    """`tsne`, or `pca` until that is made."""
    is_final: bool
    """False: ask again in a few seconds for a better layout."""
    n_left_out: int
    """Latents that never fired: their directions mean nothing."""
    n_landmarks: int
    """Features that t-SNE laid out itself; the others lie between those."""


class Maps:
    """Layouts of the SAEs of runs: made once, kept on disk where the run folder can be written, else in memory."""

    def __init__(self) -> None:
        self._lock, self._one_at_a_time = threading.Lock(), threading.Lock()
        self._made: dict[str, Float[np.ndarray, "latent 2"]] = {}
        self._quick: dict[str, Float[np.ndarray, "latent 2"]] = {}
        self._working: dict[str, threading.Thread] = {}

    def of(self, run: ServedRun, source: str, wait_s: float = 0.0) -> FeatureMap:
        """The map of an SAE.

        Args:
            wait_s: how long to wait for the final layout.

        Raises:
            NotFoundError: when the run has no cards of it.
        """
        weights = run.weights(source)
        catalogue = run.catalogue()
        if weights is None or source not in catalogue.sources():
            raise run.missing(f"lay out the features of {source[:80]!r}")
        stamp = run.catalogue_stamp()  # asked for before anything is read: what is kept under it is never older
        columns = run.kept(f"columns of the map of {source}", stamp, lambda: catalogue.sql(QUERY.format(source)).to_pydict())
        latents = np.array(columns["latent"], dtype=np.int64)
        key = _key(weights, latents)
        path = run.folder / FOLDER / f"map-{source}-{key}.parquet"
        final = self._final(key, path, latents)
        if final is None:
            self._begin(key, path, weights, latents)
            if wait_s:
                self._working[key].join(wait_s)
            final = self._final(key, path, latents)
        return run.kept(f"map {source}", (key, stamp, final is None), lambda: self._answer(run, source, columns, key, final))

    def _answer(self, run: ServedRun, source: str, columns: dict[str, list[Any]], key: str, final: Float[np.ndarray, "latent 2"] | None) -> FeatureMap:
        xy, latents = final if final is not None else self._quick[key], columns["latent"]
        ratio = np.array(columns["domain_ratio"], dtype=np.float64)
        return FeatureMap(
            source=source, latent=latents, x=np.round(xy[:, 0], 4).tolist(), y=np.round(xy[:, 1], 4).tolist(), grade=columns["grade"],
            domain_ratio=[float(value) if np.isfinite(value) else None for value in ratio], fire_rate=columns["fire_rate"],
            text=[shorten(visible(text), TEXT_CHARS) for text in columns["text"]], layout="pca" if final is None or len(latents) < FEWEST else "tsne",
            is_final=final is not None, n_left_out=int(run.catalogue().sql(LEFT_OUT.format(source)).column("n")[0].as_py()),
            n_landmarks=min(len(latents), LANDMARKS),
        )

    def _final(self, key: str, path: Path, latents: Int[np.ndarray, " latent"]) -> Float[np.ndarray, "latent 2"] | None:
        with self._lock:
            if key not in self._made and (found := _read(path, latents)) is not None:
                self._made[key] = found
            return self._made.get(key)

    def _begin(self, key: str, path: Path, weights: Path, latents: Int[np.ndarray, " latent"]) -> None:
        """Lay out at once by principal components, and begin the rest in a thread, one at a time."""
        with self._lock:
            if key in self._working:
                return
            directions = unit_rows(load_sae(weights).W_dec.detach().float().cpu().numpy()[latents])
            components = principal(directions, SEED)
            self._quick[key] = to_square(components[:, :2])
            self._working[key] = threading.Thread(target=self._make, args=(key, path, latents, directions, components), name=f"map-{key}", daemon=True)
            self._working[key].start()

    def _make(self, key: str, path: Path, latents: Int[np.ndarray, " latent"], directions: Float[np.ndarray, "latent d"],
              components: Float[np.ndarray, "latent component"]) -> None:
        try:
            with self._one_at_a_time:
                xy = layout(directions, components, SEED)
        except (ValueError, ArithmeticError, MemoryError):  # directions that are no numbers, or too many for this machine: the first layout stays
            xy = self._quick[key]
        with self._lock:
            self._made[key] = xy
        try:
            _write(path, latents, xy)
        except StoreError:  # a folder that cannot be written: the layout stays in memory
            return


def layout(directions: Float[np.ndarray, "latent d"], components: Float[np.ndarray, "latent component"], seed: int) -> Float[np.ndarray, "latent 2"]:
    """Positions in the unit square: t-SNE of the landmarks, the others between their nearest landmarks."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    n = len(directions)
    if n < FEWEST:
        return to_square(components[:, :2])
    rng = np.random.default_rng(seed)
    chosen = np.arange(n) if n <= LANDMARKS else np.sort(rng.choice(n, LANDMARKS, replace=False))
    begin = components[chosen, :2] / max(float(components[chosen, 0].std()), 1e-12) * 1e-4
    with threadpool_limits(1):  # one thread adds up in one order, and leaves the other cores to the pages
        placed = TSNE(perplexity=min(PERPLEXITY, (len(chosen) - 1) / 3), init=begin.astype(np.float32), learning_rate="auto", max_iter=N_ITERATIONS,
                      random_state=seed, n_jobs=1).fit_transform(components[chosen].astype(np.float32))
    if len(chosen) == n:
        return to_square(placed)
    xy = between(directions, directions[chosen], placed)
    xy[chosen] = placed
    others = np.setdiff1d(np.arange(n), chosen)
    xy[others] += rng.normal(0.0, JITTER * np.ptp(placed), (len(others), 2))
    return to_square(xy)


def between(directions: Float[np.ndarray, "latent d"], landmarks: Float[np.ndarray, "landmark d"],
            placed: Float[np.ndarray, "landmark 2"]) -> Float[np.ndarray, "latent 2"]:
    """Each direction at the mean of its nearest landmarks, weighted by exp(SHARPNESS * cosine)."""
    parts = []
    for first in range(0, len(directions), 4096):
        cosine = directions[first:first + 4096] @ landmarks.T
        near = np.argpartition(-cosine, N_NEAREST, axis=1)[:, :N_NEAREST]
        values = np.take_along_axis(cosine, near, 1)
        weight = np.exp(SHARPNESS * (values - values.max(1, keepdims=True)))
        parts.append((weight[:, :, None] * placed[near]).sum(1) / weight.sum(1)[:, None])
    return np.concatenate(parts)


def principal(directions: Float[np.ndarray, "latent d"], seed: int) -> Float[np.ndarray, "latent component"]:
    """The first principal components, at least two columns."""
    from sklearn.decomposition import PCA

    n = min(N_COMPONENTS, *directions.shape)
    if n < 2 or len(directions) < 3:
        return np.pad(directions[:, :2], ((0, 0), (0, max(0, 2 - directions.shape[1])))).astype(np.float64)
    return np.asarray(PCA(n, svd_solver="randomized", random_state=seed).fit_transform(directions), dtype=np.float64)


def unit_rows(rows: Float[np.ndarray, "latent d"]) -> Float[np.ndarray, "latent d"]:
    """Rows of length 1; those of length 0 stay."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0, norms, 1))


def to_square(xy: Sequence[Sequence[float]] | Float[np.ndarray, "latent 2"]) -> Float[np.ndarray, "latent 2"]:
    """Moved and scaled, both axes alike, so that all points lie in the unit square, around its center."""
    points = np.asarray(xy, dtype=np.float64)
    if not len(points):
        return points.reshape(0, 2)
    low, high = points.min(0), points.max(0)
    size = float((high - low).max())
    return (points - (low + high) / 2) / (size if size > 0 else 1.0) + 0.5


def _key(weights: Path, latents: Int[np.ndarray, " latent"]) -> str:
    """What a layout is made of: weights, features, and how. The hash of the weights is of the stage that made these, whatever the run has by now."""
    try:
        known = str(StageRecord.load(weights.parent / "record.json").summary.get("weights") or "")
    except RunError:
        known = ""
    digest = hashlib.sha256(f"{VERSION} {SEED} {LANDMARKS} {N_ITERATIONS} {known or load_sae(weights).weights_hash()}".encode())
    digest.update(latents.tobytes())
    return digest.hexdigest()[:12]


def _read(path: Path, latents: Int[np.ndarray, " latent"]) -> Float[np.ndarray, "latent 2"] | None:
    try:
        table = pq.read_table(path, columns=["latent", "x", "y"])
    except (OSError, pa.ArrowException):
        return None
    if not np.array_equal(table.column("latent").to_numpy(), latents):
        return None
    return np.stack([table.column(name).to_numpy() for name in ("x", "y")], axis=1)


def _write(path: Path, latents: Int[np.ndarray, " latent"], xy: Float[np.ndarray, "latent 2"]) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(pa.table({"latent": latents, "x": xy[:, 0], "y": xy[:, 1]}), temporary)
