"""Two SAEs feature by feature: which are found in both, which have drifted, which are in one alone.

Latents that fire are paired one to one by the cosine of their decoder directions (`pairing`). At `matched_from` or
more a pair is the same feature (0.7: Paulo and Belrose 2025, arXiv 2501.16615), down to `drifted_from` it has drifted, below it both sides are
unique. The control is the same matching after one dictionary was rotated at random: what chance alone gives in that many dimensions with that many
directions. Refuses: SAEs of different widths, whose directions cannot be compared.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict

from sparselight.errors import SaeError
from sparselight.sae import load_sae
from sparselight.serve.data.map import unit_rows
from sparselight.serve.data.pairing import EXACT_SIDE, Pairs, make_pairs, most_latents
from sparselight.serve.data.served import ServedRun

KEPT = 8  # matchings that are remembered
MATCHED_FROM, DRIFTED_FROM = 0.7, 0.4
Kind = Literal["matched", "drifted", "unique_a", "unique_b"]
QUERY = ("SELECT latent, n_fires, grade, label, fire_rate, domain_ratio, f1, coalesce(text, '') AS text FROM cards "
         "WHERE source = '{}' AND n_fires > 0 ORDER BY latent")


class Data(BaseModel):
    """Plain data of an answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ComparedFeature(Data):
    """A feature of one side."""

    feature: str
    latent: int
    text: str
    label: str
    grade: str
    f1: float | None
    fire_rate: float
    domain_ratio: float | None


class ComparedPair(Data):
    """A feature with its partner; one side is null where it is unique."""

    a: ComparedFeature | None
    b: ComparedFeature | None
    cosine: float | None
    """Of the decoder directions of the pair; of a unique feature, the largest with any of the other side."""


class Counts(Data):
    """How many features are of each kind."""

    matched: int
    drifted: int
    unique_a: int
    unique_b: int


class SaeComparison(Data):
    """Two SAEs feature by feature."""

    a: str
    b: str
    run_a: str
    run_b: str
    same_subject: bool
    n_a: int
    """Latents of the first that fire."""
    n_b: int
    d_in: int
    matched_from: float
    drifted_from: float
    counts: Counts
    control: Counts
    """The same after the second was rotated at random."""
    same_label: int
    """Matched pairs whose explanations have the same label."""
    labelled_pairs: int
    """Matched pairs of which both have a label."""
    cosines: list[float]
    """Of all pairs, largest first, thinned to 200 values."""
    control_cosines: list[float]
    kind: Kind
    total: int
    offset: int
    rows: list[ComparedPair]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Side:
    """The features of one SAE that fire."""

    key: str
    columns: dict[str, list]
    directions: Float[np.ndarray, "latent d"]
    n_left_out: int
    """Features that fire, but more rarely than those."""


class Comparisons:
    """Matchings of pairs of SAEs, the last few kept."""

    def __init__(self) -> None:
        self._lock, self._locks = threading.Lock(), dict[str, threading.Lock]()
        self._kept: OrderedDict[str, Pairs] = OrderedDict()

    def compare(self, run_a: ServedRun, source_a: str, run_b: ServedRun, source_b: str, kind: Kind = "matched", offset: int = 0, limit: int = 50,
                matched_from: float = MATCHED_FROM, drifted_from: float = DRIFTED_FROM) -> SaeComparison:
        """Two SAEs of one or two runs.

        Args:
            kind: which features are listed; matched and drifted ones by falling cosine, unique ones the least similar first.

        Raises:
            NotFoundError: when a run has no cards of an SAE.
            SaeError: when their widths differ.
        """
        a, b = _side(run_a, source_a), _side(run_b, source_b)
        d_in = a.directions.shape[1]
        if d_in != b.directions.shape[1]:
            raise SaeError(asked=f"compare {source_a} of {run_a.id} with {source_b} of {run_b.id}",
                           why=f"their directions have {d_in} and {b.directions.shape[1]} dimensions", instead="compare SAEs of one site of one subject")
        pairs = self._pairs(a, b)
        same = _subject(run_a) == _subject(run_b) and run_a.site == run_b.site
        rows = _rows(a, b, pairs, kind, matched_from, drifted_from, source_a, source_b)
        labels = [(a.columns["label"][row], b.columns["label"][other]) for row, other, cosine in zip(pairs.row, pairs.other, pairs.cosine, strict=True)
                  if cosine >= matched_from]
        return SaeComparison(
            a=source_a, b=source_b, run_a=run_a.id, run_b=run_b.id, same_subject=same, n_a=len(a.directions), n_b=len(b.directions), d_in=d_in,
            matched_from=matched_from, drifted_from=drifted_from, counts=_counts(pairs.cosine, a, b, matched_from, drifted_from),
            control=_counts(pairs.control, a, b, matched_from, drifted_from), same_label=sum(bool(one) and one == two for one, two in labels),
            labelled_pairs=sum(bool(one) and bool(two) for one, two in labels), cosines=_thinned(pairs.cosine), control_cosines=_thinned(pairs.control),
            kind=kind, total=len(rows), offset=offset, rows=rows[offset:offset + limit],
            notes=_notes(same, pairs.is_exact, [(f"{run_a.id}:{source_a}", a), (f"{run_b.id}:{source_b}", b)]),
        )

    def _pairs(self, a: Side, b: Side) -> Pairs:
        """The matching of two sides; who asks for the same meanwhile waits, who asks for another does not."""
        key = f"{a.key} {b.key}"
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            found = self._kept.get(key) or make_pairs(a.directions, b.directions)
        with self._lock:
            self._kept[key] = found
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._locks.pop(self._kept.popitem(last=False)[0], None)
        return found


def _side(run: ServedRun, source: str) -> Side:
    catalogue, stamp = run.catalogue(), run.stamp()  # asked for before the weights: a run that is done again leaves none of the old ones under a new stamp
    weights = run.weights(source)
    if weights is None or source not in catalogue.sources():
        raise run.missing(f"compare {source[:80]!r}")

    def read() -> Side:
        table, decoder = catalogue.sql(QUERY.format(source)), load_sae(weights).W_dec.detach().float().cpu().numpy()
        kept = np.sort(np.argsort(-table.column("n_fires").to_numpy(), kind="stable")[:most_latents(decoder.shape[1])])
        columns = table.take(kept).to_pydict()
        directions = unit_rows(decoder[np.array(columns["latent"], dtype=np.int64)])
        return Side(hashlib.sha256(directions.tobytes()).hexdigest(), columns, directions, table.num_rows - len(kept))

    return run.kept(f"side {source}", stamp, read)


def _notes(same_subject: bool, is_exact: bool, sides: Sequence[tuple[str, Side]]) -> list[str]:
    """What a reader must know."""
    notes = [] if same_subject else ["the two belong to different subjects or sites: their directions share no space, so a match is chance"]
    notes += [] if is_exact else [f"with more than {EXACT_SIDE:,} latents on a side pairs are taken nearest first, in place of the assignment with the largest "
                                  "sum of cosines; so is the control"]
    return notes + [f"of {name} the {len(side.directions):,} features that fire most often are compared, {side.n_left_out:,} rarer ones are not"
                    for name, side in sides if side.n_left_out]


def _subject(run: ServedRun) -> str:
    """The run's subject, by what its stores were made with."""
    stage, named = run.stage("harvest"), str(run.setting("subject.source") or "")
    return str(stage.config.get("fingerprint") or named) if stage is not None else named


def _counts(cosine: Float[np.ndarray, " pair"], a: Side, b: Side, matched_from: float, drifted_from: float) -> Counts:
    matched = int((cosine >= matched_from).sum())
    drifted = int((cosine >= drifted_from).sum()) - matched
    return Counts(matched=matched, drifted=drifted, unique_a=len(a.directions) - matched - drifted, unique_b=len(b.directions) - matched - drifted)


def _rows(a: Side, b: Side, pairs: Pairs, kind: Kind, matched_from: float, drifted_from: float, source_a: str, source_b: str) -> list[ComparedPair]:
    if kind in ("matched", "drifted"):
        low, high = (matched_from, np.inf) if kind == "matched" else (drifted_from, matched_from)
        chosen = np.flatnonzero((pairs.cosine >= low) & (pairs.cosine < high))
        order = chosen[np.argsort(-pairs.cosine[chosen], kind="stable")]
        return [ComparedPair(a=_feature(a, int(pairs.row[index]), source_a), b=_feature(b, int(pairs.other[index]), source_b),
                             cosine=float(pairs.cosine[index])) for index in order]
    paired = pairs.cosine >= drifted_from
    side, best, taken = (a, pairs.best_a, pairs.row[paired]) if kind == "unique_a" else (b, pairs.best_b, pairs.other[paired])
    alone = np.setdiff1d(np.arange(len(best)), taken)
    listed = alone[np.argsort(best[alone], kind="stable")]
    return [ComparedPair(a=_feature(a, int(index), source_a) if side is a else None, b=_feature(b, int(index), source_b) if side is not a else None,
                         cosine=float(best[index])) for index in listed]


def _feature(side: Side, index: int, source: str) -> ComparedFeature:
    own = {name: side.columns[name][index] for name in ("latent", "text", "label", "grade", "f1", "fire_rate", "domain_ratio")}
    ratio = own.pop("domain_ratio")
    return ComparedFeature(feature=f"{source}/{own['latent']}", domain_ratio=ratio if ratio is not None and np.isfinite(ratio) else None,
                           **{**own, "label": own["label"] or ""})


def _thinned(values: Float[np.ndarray, " pair"], n: int = 200) -> list[float]:
    ordered = np.sort(values)[::-1]
    return np.round(ordered[np.unique(np.linspace(0, max(len(ordered) - 1, 0), min(n, len(ordered))).astype(np.int64))], 4).tolist() if len(ordered) else []
