"""The metric families, and which of them a suite runs: `core`, `full`, or families by name, joined by commas.

Owns: FAMILIES (each row stands as FAMILY in the family's own file), EvaluateConfig (the table `evaluate` of a recipe, one nested table a
family) and the reading of `evaluate.suite`. Refuses: names that are neither a suite nor a family, with the nearest.
"""

from typing import NamedTuple

from sparselight.errors import ConfigError, nearest
from sparselight.evaluate import (
    absorption,
    association,
    association_rules,
    behaviour,
    composition,
    coverage,
    geometry,
    probing,
    ranking_fidelity,
    ravel,
    reconstruction,
    scr_tpp,
    shift,
    stability,
    synthetic,
)
from sparselight.evaluate.absorption.config import AbsorptionConfig
from sparselight.evaluate.association import AssociationConfig
from sparselight.evaluate.association_rules import AssociationRulesConfig
from sparselight.evaluate.composition import CompositionConfig
from sparselight.evaluate.config import CaseConfig
from sparselight.evaluate.coverage import CoverageConfig
from sparselight.evaluate.family import Family
from sparselight.evaluate.geometry import GeometryConfig
from sparselight.evaluate.predictions import BehaviourConfig
from sparselight.evaluate.probing import ProbingConfig
from sparselight.evaluate.ranking_fidelity import RankingConfig
from sparselight.evaluate.ravel.config import RavelConfig
from sparselight.evaluate.reconstruction import ReconstructionConfig
from sparselight.evaluate.scr_tpp import ScrTppConfig
from sparselight.evaluate.shift import ShiftConfig
from sparselight.evaluate.stability import StabilityConfig
from sparselight.evaluate.synthetic import SyntheticConfig

SUITES: tuple[str, ...] = ("core", "full")
FAMILIES: dict[str, Family] = {module.FAMILY.name: module.FAMILY for module in (
    reconstruction, behaviour, geometry, composition, stability, absorption, ravel, probing, scr_tpp, shift, association,
    association_rules, coverage, synthetic,
    ranking_fidelity,
)}
"""In the order in which they are measured: what is cheap first."""


class EvaluateConfig(CaseConfig):
    """What is measured, on how much held-out text, and how intervals are made."""

    suite: str = "core"
    """`core`, `full`, or names of families; several joined by commas."""
    controls: bool | list[str] = True
    """Whether each metric is measured of controls too, which stand for no training: those of the suite, or a list of names (untrained, random_decoder, pca,
    pca_largest, ica, ica_largest, raw)."""
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    behaviour: BehaviourConfig = BehaviourConfig()
    geometry: GeometryConfig = GeometryConfig()
    composition: CompositionConfig = CompositionConfig()
    stability: StabilityConfig = StabilityConfig()
    absorption: AbsorptionConfig = AbsorptionConfig()
    ravel: RavelConfig = RavelConfig()
    probing: ProbingConfig = ProbingConfig()
    scr_tpp: ScrTppConfig = ScrTppConfig()
    shift: ShiftConfig = ShiftConfig()
    association: AssociationConfig = AssociationConfig()
    association_rules: AssociationRulesConfig = AssociationRulesConfig()
    coverage: CoverageConfig = CoverageConfig()
    synthetic: SyntheticConfig = SyntheticConfig()
    ranking: RankingConfig = RankingConfig()


class Choice(NamedTuple):
    """A family that a suite runs."""

    family: Family
    by_name: bool
    """Asked for itself: then what it needs must be there. As part of a suite it is listed as not measured where something is missing."""


def choose(suite: str) -> list[Choice]:
    """The families of a suite, in the order of FAMILIES.

    Args:
        suite: suites and families, joined by commas.

    Raises:
        ConfigError: for a name that is neither.
    """
    wanted = _names(suite)
    for name in wanted:
        if name not in SUITES and name not in FAMILIES:
            raise ConfigError(asked=f"run the suite {name!r} (evaluate.suite)", why="there is neither a suite nor a metric family of that name",
                              instead=nearest(name, [*SUITES, *FAMILIES]))
    if not wanted:
        raise ConfigError(asked="evaluate with an empty evaluate.suite", why="it names nothing to measure",
                          instead=f"use one of {', '.join([*SUITES, *FAMILIES])}")
    suites = suites_of(suite)
    return [Choice(family, name in wanted) for name, family in FAMILIES.items() if name in wanted or suites & {*family.suites}]


def suites_of(suite: str) -> set[str]:
    """The whole suites among the names."""
    return {name for name in _names(suite) if name in SUITES}


def _names(suite: str) -> list[str]:
    return [name for name in (part.strip() for part in suite.split(",")) if name]
