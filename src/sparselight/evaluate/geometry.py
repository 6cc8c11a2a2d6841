"""Geometry of one dictionary: how near its latents lie to each other, beside random directions, and the graph of similar latents.

Mean max cosine is equation 6 of OrtSAE (arXiv 2509.22033), over the whole dictionary, signed; the clustering coefficient is the paper's too
(thresholds are ours, see similarity_graph.py). Depends on weights alone; which latents are alive needs tokens. All pairs are looked at, in
blocks: time grows with n_latents^2 * d, memory does not. Refuses: weights that are not finite.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pyarrow as pa
import torch
from jaxtyping import Float
from pydantic import Field, field_validator
from torch import Tensor

from sparselight.config import Config
from sparselight.evaluate.case import Case
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.family import Family
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.random_directions import expected_max_cosine
from sparselight.evaluate.similarity_graph import GraphPoint, StrongestPairs, curve
from sparselight.evaluate.weight_directions import Directions, Nearest, Partner, nearest_within, partners, row_cosines
from sparselight.protocols import Progress, no_progress
from sparselight.records import MetricValue

WEIGHT_METRICS = ("mean_max_cosine", "mean_max_abs_cosine", "mean_max_cosine_random", "mean_max_cosine_encoder", "encoder_decoder_cosine")


class GeometryConfig(Config):
    """Which graphs of similar latents are looked at."""

    cosine_thresholds: tuple[float, ...] = (0.3, 0.5, 0.7)
    """Fixed cosines above which two latents are joined (ours: the paper does not state its own)."""
    densities: tuple[float, ...] = (0.0001, 0.0003, 0.001, 0.003, 0.01)
    """Shares of all pairs that are joined, the strongest: at equal density dictionaries of unlike cosines compare."""
    max_edges: int = Field(16_000_000, gt=0)
    """Edges of the largest graph that is kept (20 bytes each); thresholds that give more are left out and named."""

    @field_validator("cosine_thresholds")
    @classmethod
    def _are_cosines(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not -1 <= threshold < 1 for threshold in value):
            raise ValueError("are not all cosines from -1 up to below 1")
        return value

    @field_validator("densities")
    @classmethod
    def _are_shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < density <= 1 for density in value):
            raise ValueError("are not all shares above 0 up to 1")
        return value


class Shape(NamedTuple):
    """All that one set of directions gives."""

    values: dict[str, float]
    lacking: dict[str, str]
    """Why a metric is not defined."""
    points: list[GraphPoint]
    lacking_points: dict[str, str]
    nearest: Nearest
    encoder_nearest: Partner | None
    encoder_decoder: Float[Tensor, " latent"] | None


def measure_geometry(
    case: Case, contenders: Mapping[str, Contender], config: GeometryConfig, findings: Findings, progress: Progress = no_progress,
) -> None:
    """Measure every coder that has decoder directions: all latents, and under the setting `alive` the living ones.

    Raises:
        SaeError: when weights are not finite.
    """
    latents, graphs = [], []
    for number, (name, contender) in enumerate(contenders.items()):
        whole = Directions.of(case, name, contender)
        if isinstance(whole, str):
            _lacks_all(findings, name, config, "", whole)
        else:
            shape = shape_of(whole, config)
            latents.append(_latent_table(whole, shape))
            graphs.append(_report(findings, name, "", len(whole), shape))
            living = whole.living()
            if isinstance(living, str):
                _lacks_all(findings, name, config, "alive", living)
            else:
                graphs.append(_report(findings, name, "alive", len(living), shape if living is whole else shape_of(living, config)))
            if n_zero := int((~whole.decoder().any(1)).sum()):
                findings.notes.append(f"{name}: {n_zero} decoder rows are 0; their cosines count as 0")
        progress(number + 1, len(contenders), name)
    if latents:
        findings.tables["geometry_latents"] = pa.concat_tables(latents)
        findings.tables["similarity_graphs"] = pa.concat_tables(graphs)


@torch.no_grad()
def shape_of(directions: Directions, config: GeometryConfig) -> Shape:
    """All metrics of one set of two or more directions."""
    decoder, encoder = directions.decoder(), directions.encoder()
    (n, d), lacking = decoder.shape, {}
    n_strongest = 1 + round(max(config.densities, default=0) * (n * (n - 1) // 2))
    pairs = StrongestPairs(n, n_strongest, min(config.cosine_thresholds, default=1.0), config.max_edges)
    nearest = nearest_within(decoder, pairs.add)
    values = {"mean_max_cosine": float(nearest.cosine.double().mean()), "mean_max_abs_cosine": float(nearest.absolute.double().mean())}
    if d > 1:
        values["mean_max_cosine_random"] = expected_max_cosine(d, n - 1)
    else:
        lacking["mean_max_cosine_random"] = "its rows have one dimension"
    encoder_nearest, both = None, None
    if encoder is None:
        lacking |= dict.fromkeys(("mean_max_cosine_encoder", "encoder_decoder_cosine"), "this coder has no encoder directions (W_enc)")
    else:
        encoder_nearest = partners(encoder)
        values["mean_max_cosine_encoder"] = float(encoder_nearest.cosine.double().mean())
        if encoder.shape == decoder.shape:
            both = row_cosines(encoder, decoder)
            values["encoder_decoder_cosine"] = float(both.double().mean())
        else:
            lacking["encoder_decoder_cosine"] = f"it reads {encoder.shape[1]} dimensions and gives back {d}"
    return Shape(values, lacking, *curve(pairs, config.cosine_thresholds, config.densities), nearest, encoder_nearest, both)


def with_alive(setting: str, variant: str) -> str:
    """`cos > 0.3, alive` of `cos > 0.3` and `alive`; either may be empty."""
    return ", ".join(part for part in (setting, variant) if part)


def _report(findings: Findings, name: str, variant: str, n: int, shape: Shape) -> pa.Table:
    """Hand over the values of one variant; returns its graphs as a table."""
    for metric, value in shape.values.items():
        findings.add(Cell(name, metric, setting=variant), _value(value, n))
    for metric, why in shape.lacking.items():
        findings.lacks(Cell(name, metric, setting=variant), why)
    for point in shape.points:
        setting = with_alive(point.setting, variant)
        findings.add(Cell(name, "graph_density", setting=setting), _value(point.density, n))
        if point.clustering is None:
            findings.lacks(Cell(name, "clustering_coefficient", setting=setting), f"no two of its {point.n_edges} edges meet")
        else:
            findings.add(Cell(name, "clustering_coefficient", setting=setting), _value(point.clustering, n))
    for setting, why in shape.lacking_points.items():
        findings.lacks(Cell(name, "clustering_coefficient", setting=with_alive(setting, variant)), why)
    rows = [{"coder": name, "latents": variant or "all", "graph": point.setting, "threshold": point.threshold, "n_edges": point.n_edges,
             "density": point.density, "n_triangles": point.n_triangles, "n_triples": point.n_triples, "clustering": point.clustering}
            for point in shape.points]
    return pa.Table.from_pylist(rows, schema=GRAPH_SCHEMA)


GRAPH_SCHEMA = pa.schema([
    ("coder", pa.string()), ("latents", pa.string()), ("graph", pa.string()), ("threshold", pa.float64()), ("n_edges", pa.int64()),
    ("density", pa.float64()), ("n_triangles", pa.int64()), ("n_triples", pa.int64()), ("clustering", pa.float64()),
])


def _lacks_all(findings: Findings, name: str, config: GeometryConfig, variant: str, why: str) -> None:
    for metric in WEIGHT_METRICS:
        findings.lacks(Cell(name, metric, setting=variant), why)
    settings = [*(f"cos > {threshold:g}" for threshold in config.cosine_thresholds), *(f"density {density:g}" for density in config.densities)]
    for setting in settings:
        findings.lacks(Cell(name, "clustering_coefficient", setting=with_alive(setting, variant)), why)


def _latent_table(whole: Directions, shape: Shape) -> pa.Table:
    """One row a latent; alive and fire_rate are null where the case has no tokens."""
    n, fires = len(whole), whole.fires

    def column(values: Any, dtype: pa.DataType) -> pa.Array:
        if values is None:
            return pa.nulls(n, dtype)
        return pa.array(values.cpu().numpy() if isinstance(values, Tensor) else values, dtype)

    return pa.table({
        "coder": pa.array([whole.name] * n, pa.string()), "latent": pa.array(whole.latents, pa.int64()),
        "alive": column(None if fires is None else fires.n_fires > 0, pa.bool_()),
        "fire_rate": column(None if fires is None or not fires.n_tokens else fires.n_fires / fires.n_tokens, pa.float64()),
        "decoder_norm": column(torch.linalg.vector_norm(whole.W_dec.float(), dim=1), pa.float32()),
        "max_cosine": column(shape.nearest.cosine, pa.float32()), "nearest": column(shape.nearest.latent, pa.int64()),
        "max_abs_cosine": column(shape.nearest.absolute, pa.float32()),
        "encoder_max_cosine": column(None if shape.encoder_nearest is None else shape.encoder_nearest.cosine, pa.float32()),
        "encoder_nearest": column(None if shape.encoder_nearest is None else shape.encoder_nearest.latent, pa.int64()),
        "encoder_decoder_cosine": column(shape.encoder_decoder, pa.float32()),
    })


def _value(value: float, n: int) -> MetricValue:
    return MetricValue(value=value, n=n, unit="latents")


FAMILY = Family("geometry", "Geometry of the dictionary", measure_geometry, GeometryConfig, (), ("core", "full"), plain=True)
