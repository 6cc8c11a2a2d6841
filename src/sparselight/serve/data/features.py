"""The list of features: filters, order, one part of it; and what can be filtered by.

Owns the meaning of each condition, the same as `Catalogue.search`. Works on the columns in memory; nothing that a user types reaches SQL. Refuses nothing:
the query was checked when it was made.
"""

import math
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sparselight.interpret.catalogue import SORTS
from sparselight.interpret.evidence import GRADES
from sparselight.serve.data.columns import Columns
from sparselight.serve.data.peaks import Peaks
from sparselight.serve.models import Counted, Facets, FeatureList, FeatureQuery, FeatureRow

DOMAIN_RATIO = 3.0
MAY_LACK = ("f1", "f1_low", "f1_high", "control_f1_high")
SHOWN = (*MAY_LACK, "fire_rate", "domain_fire_rate", "domain_ratio", "max_activation")


def feature_list(columns: Columns, peaks: Peaks | None, query: FeatureQuery) -> FeatureList:
    """The part of the features that a query asks for."""
    order = columns.order(query.sort, query.descending)
    found = order[selected(columns, query)[order]]
    rows = found[query.offset:query.offset + query.limit]
    return FeatureList(total=len(found), offset=query.offset, rows=feature_rows(columns, peaks, rows))


def selected(columns: Columns, query: FeatureQuery) -> np.ndarray:
    """Which rows fit all conditions."""
    mask = np.ones(columns.n, dtype=bool)
    if query.text.strip():
        mask &= columns.containing(query.text.strip().lower())
    if query.label:
        mask &= pc.or_(pc.equal(columns.kinds, query.label), pc.equal(columns.texts["label"], query.label)).to_numpy(zero_copy_only=False)
    if query.grade is not None:
        mask &= columns.grade <= GRADES.index(query.grade)
    if query.source:
        mask &= columns.source == (columns.sources.index(query.source) if query.source in columns.sources else -1)
    if query.explainer:
        mask &= pc.equal(columns.texts["explainer"], query.explainer).to_numpy(zero_copy_only=False)
    if query.domain_only:
        mask &= columns.numbers["domain_ratio"] >= DOMAIN_RATIO
    if query.supported:
        mask &= columns.supported
    if query.min_fire_rate is not None:
        mask &= columns.numbers["fire_rate"] >= query.min_fire_rate
    if query.max_fire_rate is not None:
        mask &= columns.numbers["fire_rate"] <= query.max_fire_rate
    return mask


def feature_rows(columns: Columns, peaks: Peaks | None, rows: np.ndarray) -> list[FeatureRow]:
    """Cards as the list shows them."""
    shown: dict[str, list[Any]] = {name: columns.numbers[name][rows].tolist() for name in SHOWN}
    shown |= {name: [value if math.isfinite(value) else None for value in shown[name]] for name in MAY_LACK}
    shown |= {name: values.take(pa.array(rows)).to_pylist() for name, values in columns.texts.items()}
    shown |= {
        "source": [columns.sources[number] for number in columns.source[rows]], "latent": columns.latent[rows].tolist(),
        "grade": [GRADES[number] for number in columns.grade[rows]], "n_fires": columns.numbers["n_fires"][rows].astype(np.int64).tolist(),
        "supported": columns.supported[rows].tolist(), "peak_tokens": [[] if peaks is None else peaks[row] for row in rows.tolist()],
    }
    return [FeatureRow(**dict(zip(shown, values, strict=True))) for values in zip(*shown.values(), strict=True)]


def facets(columns: Columns) -> Facets:
    """What the features of a catalogue can be filtered and sorted by, with counts."""
    rates, fires = columns.numbers["fire_rate"], columns.numbers["fire_rate"] > 0
    kinds = Counter(kind for kind in columns.kinds.to_pylist() if kind)
    explainers = Counter(name for name in columns.texts["explainer"].to_pylist() if name)
    return Facets(
        n_features=columns.n, sources=[Counted(name=name, n=int((columns.source == number).sum())) for number, name in enumerate(columns.sources)],
        grades=[Counted(name=name, n=int((columns.grade == number).sum())) for number, name in enumerate(GRADES)],
        label_kinds=[Counted(name=name, n=n) for name, n in kinds.most_common()],
        explainers=[Counted(name=name, n=n) for name, n in explainers.most_common()], sorts=list(SORTS),
        min_fire_rate=float(rates[fires].min()) if fires.any() else 0.0, max_fire_rate=float(rates.max()) if columns.n else 0.0,
        has_domain=bool((columns.numbers["domain_fire_rate"] > 0).any()),
    )
