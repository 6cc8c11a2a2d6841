"""Two dictionaries beside each other: which latents only one has, which have a one-to-one partner (stability across seeds), which are sums.

Unique latents: OrtSAE (arXiv 2509.22033); mean max cosine across dictionaries: Sharkey et al. 2022; one-to-one matching by the Hungarian
algorithm with a partner at cosine 0.7 or more: Paulo and Belrose 2025 (arXiv 2501.16615); sparse combinations: OrtSAE again. Every SAE is set
beside every other, and beside each control, which says what chance alone gives. Depends on weights alone; which latents are alive needs tokens.
Refuses: weights that are not finite.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

import pyarrow as pa
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sparselight.config import Config
from sparselight.evaluate.case import Case
from sparselight.evaluate.contender import Contender
from sparselight.evaluate.decomposition import Decompositions, decompose
from sparselight.evaluate.family import Family
from sparselight.evaluate.findings import Cell, Findings
from sparselight.evaluate.geometry import with_alive
from sparselight.evaluate.matching import Matches, match
from sparselight.evaluate.weight_directions import Directions, nearest_across, row_cosines
from sparselight.protocols import Progress, no_progress
from sparselight.records import MetricValue

BOTH = "decoder and encoder"
PAIR_METRICS = (("unique_frac", ""), ("mean_max_cosine_across", ""), ("mean_matched_cosine", ""), ("matched_frac", ""), ("mean_matched_cosine", BOTH),
                ("matched_frac", BOTH), ("combined_frac", ""))


class StabilityConfig(Config):
    """What counts as unique, as a partner, and as a combination."""

    unique_below: float = Field(0.2, gt=-1, le=1)
    """A latent is unique where its cosine with every latent of the other dictionary is below this."""
    matched_from: float = Field(0.7, gt=-1, le=1)
    """A latent is found again where its one-to-one partner has this cosine or more."""
    exact_latents: int = Field(4096, gt=0)
    """Latents (of the smaller dictionary) up to which the matching is solved over all pairs; above, over each latent's nearest."""
    match_candidates: int = Field(32, gt=0)
    """How many nearest, both ways, above exact_latents."""
    max_parts: int = Field(4, ge=0)
    """Latents of the other dictionary that a combination may have; 0 leaves combinations out."""
    part_cosine: float = Field(0.95, ge=0, lt=1)
    """A latent counts as combined where the combination's cosine with it is above this."""
    part_coefficient: float = Field(0.1, ge=0)
    """And where each coefficient is this or more (rows have unit norm)."""


class Side(NamedTuple):
    """Unit directions of one dictionary, or of its living latents."""

    directions: Directions
    decoder: Float[Tensor, "latent d_out"]
    encoder: Float[Tensor, "latent d_in"] | None

    @classmethod
    def of(cls, directions: Directions, device: torch.device) -> "Side":
        encoder = directions.encoder()
        return cls(directions, directions.decoder().to(device), None if encoder is None else encoder.to(device))


class OneWay(NamedTuple):
    """One dictionary against another: values by (metric, setting), why some are missing, and its latents as combinations of the other's."""

    side: Side
    other: Side
    values: dict[tuple[str, str], MetricValue]
    lacking: dict[tuple[str, str], str]
    decompositions: Decompositions | None


class Pair(NamedTuple):
    """Two dictionaries beside each other: one way, or both ways; and the matching of their decoders, where there is one."""

    ways: list[OneWay]
    matches: Matches | None


def measure_stability(
    case: Case, contenders: Mapping[str, Contender], config: StabilityConfig, findings: Findings, progress: Progress = no_progress,
) -> None:
    """Measure every ordered pair of coders that are no controls, and each of them against every control.

    Raises:
        SaeError: when weights are not finite.
    """
    pairs = list(coder_pairs(contenders))
    tables: dict[str, list[pa.Table]] = {"matched_latents": [], "combined_latents": []}
    if not pairs:
        findings.notes.append("stability: there are no two coders with latents to set beside each other")
    for number, names in enumerate(pairs):
        a, b = (Directions.of(case, name, contenders[name]) for name in names)
        both_ways = not contenders[names[1]].is_control
        living_a, living_b = (part if isinstance(part, str) else part.living() for part in (a, b))
        whole = measure_pair(names, a, b, both_ways, config)
        living = whole if living_a is a and living_b is b else measure_pair(names, living_a, living_b, both_ways, config)
        for variant, pair in (("", whole), ("alive", living)):
            _report(findings, names if not both_ways else (*names, names[0]), variant, pair, config)
            if not isinstance(pair, str) and (variant == "" or pair is not whole):
                _add_tables(tables, variant or "all", pair, config)
        progress(number + 1, len(pairs), ", ".join(names))
    findings.tables.update({name: pa.concat_tables(parts) for name, parts in tables.items() if parts})


def coder_pairs(contenders: Mapping[str, Contender]) -> Iterator[tuple[str, str]]:
    """Pairs of coders with codes, each once: two that are no controls, or one that is none and a control."""
    coders = [name for name, contender in contenders.items() if contender.sparse is not None]
    own = [name for name in coders if not contenders[name].is_control]
    for number, name in enumerate(own):
        yield from ((name, other) for other in own[number + 1 :])
        yield from ((name, other) for other in coders if contenders[other].is_control)


@torch.no_grad()
def measure_pair(names: tuple[str, str], a: Directions | str, b: Directions | str, both_ways: bool, config: StabilityConfig) -> Pair | str:
    """All that two dictionaries have to do with each other, or in words why that is not defined."""
    for name, part in zip(names, (a, b), strict=True):
        if isinstance(part, str):
            return f"{name}: {part}"
    assert isinstance(a, Directions)
    assert isinstance(b, Directions)
    if a.W_dec.shape[1] != b.W_dec.shape[1]:
        return f"{names[0]} gives back {a.W_dec.shape[1]} dimensions and {names[1]} {b.W_dec.shape[1]}"
    first, second = Side.of(a, a.W_dec.device), Side.of(b, a.W_dec.device)
    ways = [OneWay(first, second, {}, {}, None), OneWay(second, first, {}, {}, None)]
    for way, nearest in zip(ways, nearest_across(first.decoder, second.decoder), strict=True):
        way.values["unique_frac", ""] = _value(nearest < config.unique_below)
        way.values["mean_max_cosine_across", ""] = _value(nearest)
    decoder_matches = _add_matching(ways, "", config)
    _add_matching(ways, BOTH, config)
    ways = [_with_combinations(way, config) for way in (ways if both_ways else ways[:1])]
    return Pair(ways, decoder_matches)


def _add_matching(ways: list[OneWay], setting: str, config: StabilityConfig) -> Matches | None:
    """Match by the decoder, or by decoder and encoder, and report it both ways: the mean over pairs, and the share of a dictionary's latents found again."""
    first, second = ways[0].side, ways[0].other
    found: Matches | str | None = None if setting != BOTH else _no_encoders(first, second)
    if found is None:
        found = match(_matrices(first, setting), _matrices(second, setting), config.exact_latents, config.match_candidates)
    for way in ways:
        if isinstance(found, str):
            way.lacking.update(dict.fromkeys([("mean_matched_cosine", setting), ("matched_frac", setting)], found))
            continue
        cosines, n = torch.stack(pair_cosines(first, second, found, setting)), len(way.side.directions)
        way.values["mean_matched_cosine", setting] = _value(cosines.mean(0))
        way.values["matched_frac", setting] = MetricValue(value=int((cosines >= config.matched_from).all(0).sum()) / n, n=n, unit="latents")
    return None if isinstance(found, str) else found


def _no_encoders(first: Side, second: Side) -> str | None:
    """Why the two have no encoders that compare; None where they have."""
    if first.encoder is None or second.encoder is None:
        return "one of the two has no encoder directions (W_enc)"
    widths = first.encoder.shape[1], second.encoder.shape[1]
    return None if widths[0] == widths[1] else f"one reads {widths[0]} dimensions and the other {widths[1]}"


def _matrices(side: Side, setting: str) -> list[Float[Tensor, "latent d"]]:
    return [side.decoder, *([side.encoder] if setting == BOTH and side.encoder is not None else [])]


def pair_cosines(first: Side, second: Side, matches: Matches, setting: str) -> list[Float[Tensor, " pair"]]:
    """Cosines of matched pairs: of their decoder rows and, where the setting asks for it, of their encoder directions."""
    row, other = torch.from_numpy(matches.row), torch.from_numpy(matches.other)
    return [row_cosines(a[row], b[other]) for a, b in zip(_matrices(first, setting), _matrices(second, setting), strict=True)]


def _with_combinations(way: OneWay, config: StabilityConfig) -> OneWay:
    """Add the share of latents that two or more latents of the other dictionary make up together."""
    if not config.max_parts:
        return way
    found = decompose(way.side.decoder, way.other.decoder, config.max_parts, config.part_cosine)
    together = found.cases(config.part_cosine, config.part_coefficient) & (found.n_parts() > 1)
    way.values["combined_frac", ""] = _value(together)
    return way._replace(decompositions=found)


def _report(findings: Findings, names: tuple[str, ...], variant: str, pair: Pair | str, config: StabilityConfig) -> None:
    """Hand over one pair's values; `names` are the coder and the other, and the coder again where both ways count."""
    for number, (coder, other) in enumerate(pairwise(names)):
        if isinstance(pair, str):
            keys = [key for key in PAIR_METRICS if config.max_parts or key[0] != "combined_frac"]
            values, lacking = {}, dict.fromkeys(keys, pair)
        else:
            values, lacking = pair.ways[number].values, pair.ways[number].lacking
        for (metric, setting), value in values.items():
            findings.add(_cell(coder, other, metric, setting, variant), value)
        for (metric, setting), why in lacking.items():
            findings.lacks(_cell(coder, other, metric, setting, variant), why)


def _cell(coder: str, other: str, metric: str, setting: str, variant: str) -> Cell:
    return Cell(coder, metric, setting=with_alive(with_alive(f"against {other}", setting), variant))


def _add_tables(tables: dict[str, list[pa.Table]], latents: str, pair: Pair, config: StabilityConfig) -> None:
    """The matched pairs of latents, once a pair of coders; and every latent that is a combination, with its parts, strongest first."""
    first, second = pair.ways[0].side, pair.ways[0].other
    if pair.matches is not None:
        setting = BOTH if _no_encoders(first, second) is None else ""
        cosines, n = [column.cpu().numpy() for column in pair_cosines(first, second, pair.matches, setting)], len(pair.matches.row)
        tables["matched_latents"].append(pa.table({
            "coder": [first.directions.name] * n, "other": [second.directions.name] * n, "latents": [latents] * n,
            "latent": first.directions.latents[pair.matches.row], "other_latent": second.directions.latents[pair.matches.other],
            "cosine": pa.array(cosines[0], pa.float32()), "encoder_cosine": pa.array(cosines[1], pa.float32()) if setting else pa.nulls(n, pa.float32())}))
    for way in pair.ways:
        if way.decompositions is not None:
            tables["combined_latents"].append(_combinations(way, way.decompositions, latents, config))


def _combinations(way: OneWay, found: Decompositions, latents: str, config: StabilityConfig) -> pa.Table:
    """One row a case; a case of one part is a latent that the other dictionary has too."""
    cases = found.cases(config.part_cosine, config.part_coefficient).nonzero()[:, 0]
    coefficients, order = found.coefficients[cases].sort(dim=1, descending=True)
    parts, counts = found.parts[cases].gather(1, order).cpu().numpy(), found.n_parts()[cases].cpu().tolist()
    names = way.other.directions.latents
    return pa.table({
        "coder": pa.array([way.side.directions.name] * len(cases), pa.string()), "other": pa.array([way.other.directions.name] * len(cases), pa.string()),
        "latents": pa.array([latents] * len(cases), pa.string()), "latent": pa.array(way.side.directions.latents[cases.cpu().numpy()], pa.int64()),
        "n_parts": pa.array(counts, pa.int64()), "cosine": pa.array(found.cosine[cases].cpu().numpy(), pa.float32()),
        "parts": pa.array([names[row[:n]].tolist() for row, n in zip(parts, counts, strict=True)], pa.list_(pa.int64())),
        "coefficients": pa.array([row[:n].tolist() for row, n in zip(coefficients.cpu().numpy(), counts, strict=True)], pa.list_(pa.float64())),
    })


def _value(per_latent: Tensor) -> MetricValue:
    return MetricValue(value=float(per_latent.double().mean()), n=len(per_latent), unit="latents")


FAMILY = Family("stability", "Dictionaries against each other", measure_stability, StabilityConfig, ("several",), ("full",))
