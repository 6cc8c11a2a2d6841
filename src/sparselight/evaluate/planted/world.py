"""A planted world: features with directions and magnitudes, and the events at which they are on.

An event has a rate a token (Poisson) and members; each member is on with the event's probability. A plain feature is an event with one member,
a pair one with two, a child one with two (itself and its parent), a group one with all its members: whatever co-fires does so by construction.
Rates of units follow a power law. Owns the truth: kinds, parents, partners, groups and the exact frequency of every feature.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from sparselight.evaluate.planted.config import PlantedConfig

KINDS = ("plain", "parent", "child", "component", "grouped", "dark")
NOBODY = -1

Column = Int[np.ndarray, " feature"]


@dataclass(frozen=True, slots=True)
class Events:
    """What can happen at a token: event e brings members[starts[e] : starts[e + 1]], each with probability keep[e]."""

    rate: Float[np.ndarray, " event"]
    keep: Float[np.ndarray, " event"]
    members: Int[np.ndarray, " member"]
    starts: Int[np.ndarray, " event_plus_1"]

    def frequencies(self, n_features: int) -> Float[np.ndarray, " feature"]:
        """Probability that a feature is on at a token: 1 - exp(-sum over its events of rate * keep)."""
        total = np.bincount(self.members, np.repeat(self.rate * self.keep, np.diff(self.starts)), minlength=n_features)
        return -np.expm1(-total)


@dataclass(frozen=True, slots=True)
class Roles:
    """Which feature is what: one kind a feature, its parent, its partner in a pair, its group; NOBODY where there is none."""

    kind: list[str]
    parent: Column
    partner: Column
    group: Column

    def of(self, kind: str) -> Int[np.ndarray, " feature"]:
        """Features of one kind, ascending."""
        return np.flatnonzero(np.array(self.kind) == kind)


@dataclass(frozen=True)
class World:
    """Everything that is known of the features of one config."""

    config: PlantedConfig
    roles: Roles
    events: Events
    directions: Float[Tensor, "feature d_in"]
    """Unit rows."""
    scale: Float[np.ndarray, " feature"]
    """Mean magnitude of a firing."""
    frequency: Float[np.ndarray, " feature"]
    bias: Float[Tensor, " d_in"]
    noise_std: float
    """Of each dimension."""

    @classmethod
    def build(cls, config: PlantedConfig) -> "World":
        rng = np.random.default_rng([config.seed, 0])
        roles = assign_roles(config, rng)
        events = make_events(config, roles, rng)
        directions = make_directions(config, roles, rng)
        scale = np.exp(config.scale_spread * rng.standard_normal(config.n_features) - config.scale_spread**2 / 2)
        frequency = events.frequencies(config.n_features)
        mean, square = frequency * scale, frequency * scale**2 * np.exp(config.magnitude_spread**2)
        variance = float((square - mean**2).sum())
        bias = normalize(torch.from_numpy(rng.standard_normal(config.d_in)).float(), dim=0) * config.bias * variance**0.5
        noise = (config.noise_frac / (1 - config.noise_frac) * variance / config.d_in) ** 0.5
        return cls(config, roles, events, directions, scale, frequency, bias, noise)

    def names(self) -> list[str]:
        return [feature_name(number) for number in range(self.config.n_features)]

    def table(self) -> pa.Table:
        """One row a feature."""
        roles, names = self.roles, np.array([*self.names(), ""])  # names[NOBODY] is empty
        return pa.table({
            "feature": self.names(), "kind": roles.kind, "frequency": self.frequency, "scale": self.scale, "parent": names[roles.parent],
            "partner": names[roles.partner], "group": pa.array(roles.group, pa.int32()),
        })


def feature_name(number: int) -> str:
    """`f00012`; all names have the same length."""
    return f"f{number:05d}"


def assign_roles(config: PlantedConfig, rng: np.random.Generator) -> Roles:
    """Draw which features are parents, children, components, group members and dark ones; the others are plain."""
    n = config.n_features
    order, at = rng.permutation(n), 0
    kind = np.full(n, "plain", dtype=object)
    parent, partner, group = (np.full(n, NOBODY) for _ in range(3))

    def take(n_taken: int, name: str) -> Column:
        nonlocal at
        at += n_taken
        kind[order[at - n_taken:at]] = name
        return order[at - n_taken:at]

    parents = take(config.n_hierarchies, "parent")
    children = take(config.n_hierarchies * config.n_children, "child")
    parent[children] = np.repeat(parents, config.n_children)
    left, right = take(config.n_compositions, "component"), take(config.n_compositions, "component")
    partner[left], partner[right] = right, left
    group[take(config.n_groups * config.group_size, "grouped")] = np.repeat(np.arange(config.n_groups), config.group_size)
    take(config.n_dark, "dark")
    return Roles(kind.tolist(), parent, partner, group)


def make_events(config: PlantedConfig, roles: Roles, rng: np.random.Generator) -> Events:
    """All events with rates such that mean_active features that are not dark are on at a token."""
    singles = np.concatenate([roles.of("plain"), roles.of("component")])
    parents, n_groups = roles.of("parent"), config.n_groups
    weight = unit_weights(len(parents), len(singles) + n_groups, config.exponent, rng)
    of_parent, of_single, of_group = np.split(weight, [len(parents), len(parents) + len(singles)])
    pieces = [
        *((rate, 1.0, [feature]) for feature, rate in zip(singles, of_single, strict=True)),
        *_pair_events(config, roles, dict(zip(singles.tolist(), of_single, strict=True))),
        *_tree_events(config, roles, dict(zip(parents.tolist(), of_parent, strict=True)), rng),
        *_group_events(config, roles, of_group),
    ]
    rate, keep = (np.array([piece[column] for piece in pieces]) for column in (0, 1))
    size = np.array([len(piece[2]) for piece in pieces])
    rate = scale_rates(rate, keep * size, config.mean_active, config.max_rate)
    dark = roles.of("dark")
    members = np.concatenate([np.array(piece[2]) for piece in pieces] + [dark]).astype(np.int64)
    return Events(np.concatenate([rate, np.full(len(dark), config.dark_rate)]), np.concatenate([keep, np.ones(len(dark))]), members,
                  np.cumsum([0, *size, *np.ones(len(dark), dtype=int)]))


def unit_weights(n_parents: int, n_others: int, exponent: float, rng: np.random.Generator) -> Float[np.ndarray, " unit"]:
    """rank^-exponent with ranks at random; parents have theirs among the first quarter, so that their children are seen often enough."""
    n = n_parents + n_others
    ranks = np.arange(1, n + 1)
    own = rng.choice(max(n_parents, -(-n // 4)), n_parents, replace=False)
    rest = rng.permutation(np.setdiff1d(np.arange(n), own))
    return np.concatenate([ranks[own], ranks[rest]]).astype(np.float64) ** -exponent


def scale_rates(weight: Float[np.ndarray, " event"], n_on: Float[np.ndarray, " event"], total: float, most: float) -> Float[np.ndarray, " event"]:
    """min(c * weight, most), c such that sum rate * n_on is `total`; all at `most` where that is not enough."""
    low, high = 0.0, most / float(weight.min())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((np.minimum(middle * weight, most) * n_on).sum()) < total else (low, middle)
    return np.minimum(high * weight, most)


Piece = tuple[float, float, list[int]]  # rate, keep, members


def _pair_events(config: PlantedConfig, roles: Roles, alone: dict[int, float]) -> list[Piece]:
    pairs = [(int(feature), int(roles.partner[feature])) for feature in roles.of("component") if feature < roles.partner[feature]]
    odds = config.joint_share / (1 - config.joint_share)
    return [(odds * min(alone[a], alone[b]), 1.0, [a, b]) for a, b in pairs]


def _tree_events(config: PlantedConfig, roles: Roles, rate: dict[int, float], rng: np.random.Generator) -> list[Piece]:
    """A parent alone, and with each child; the shares of children fall as 1 / rank."""
    share = 1 / np.arange(1, config.n_children + 1)
    share *= config.child_share / share.sum()
    pieces: list[Piece] = []
    for parent, total in rate.items():
        children = rng.permutation(np.flatnonzero(roles.parent == parent)).tolist()
        pieces.append((total * (1 - config.child_share), 1.0, [parent]))
        pieces += [(total * part, 1.0, [parent, child]) for child, part in zip(children, share, strict=True)]
    return pieces


def _group_events(config: PlantedConfig, roles: Roles, rate: Float[np.ndarray, " group"]) -> list[Piece]:
    """Each group, and its members alone."""
    odds = (1 - config.joint_share) / config.joint_share
    pieces: list[Piece] = []
    for number, total in enumerate(rate):
        members = np.flatnonzero(roles.group == number).tolist()
        pieces.append((total, config.group_keep, members))
        pieces += [(total * config.group_keep * odds, 1.0, [member]) for member in members]
    return pieces


def make_directions(config: PlantedConfig, roles: Roles, rng: np.random.Generator) -> Float[Tensor, "feature d_in"]:
    """Random unit vectors; those of children are turned towards their parents: cosine * parent + sqrt(1 - cosine^2) * own.

    They come from numpy: torch's generator under the same seed gives the numbers with which a training begins, which would then begin at the truth.
    """
    own = normalize(torch.from_numpy(rng.standard_normal((config.n_features, config.d_in))).float())
    if config.child_cosine:
        children = torch.from_numpy(roles.of("child"))
        parents = own[torch.from_numpy(roles.parent)[children]]
        away = normalize(own[children] - (own[children] * parents).sum(1, keepdim=True) * parents)
        own[children] = config.child_cosine * parents + (1 - config.child_cosine**2) ** 0.5 * away
    return own
