"""Choosing a layer: intrinsic dimension at every layer of a subject on a corpus, kept as a record and a picture."""

from collections.abc import Sequence
from pathlib import Path

from sparselight.corpus import ListCorpus
from sparselight.errors import ConfigError
from sparselight.evaluate.intrinsic_dimension import Points, layer_dimensions, plateau
from sparselight.files import write_bytes
from sparselight.protocols import Progress, no_progress
from sparselight.records import LayersRecord
from sparselight.report.layers_figure import layers_figure
from sparselight.subjects import HuggingFaceSubject


def measure_layers(
    subject: HuggingFaceSubject, corpus: ListCorpus, sites: Sequence[str] | None = None, points: Points = "examples", n_points: int = 1000, seed: int = 0,
    out: Path | None = None, progress: Progress = no_progress,
) -> LayersRecord:
    """Measure all layers, and write layers.json and layers.svg where a folder is given.

    Args:
        sites: the residual stream after every layer where left out.

    Raises:
        ConfigError: for a subject whose layers have no standard names, or too few distinct points.
    """
    chosen = list(sites or [site for site in subject.sites() if site.startswith("resid_post.")])
    if not chosen:
        raise ConfigError(asked=f"measure the layers of {subject.name}", why="it has no sites named resid_post.N", instead="name its sites with --site")
    found = layer_dimensions(subject, corpus.examples, chosen, points, n_points, seed, progress)
    flat = plateau([layer.dimension for layer in found])
    record = LayersRecord(
        subject=subject.name, subject_fingerprint=subject.fingerprint, corpus=corpus.origin, corpus_fingerprint=corpus.fingerprint(), seed=seed, layers=found,
        plateau=[chosen[index] for index in flat], suggestion=chosen[flat[len(flat) // 2]],
    )
    if out is not None:
        write_bytes(out / "layers.svg", layers_figure(record).encode())
        record.save(out / "layers.json")
    return record
