"""Results of the studies: one file of rows a seed and experiment, t-intervals over seeds, verdicts, and tables filled into a README.

A row says what was trained (domain, variant, settings) and what was measured (`values`). Where a claim is about several domains, values are averaged over
domains within a seed first: seeds are what an interval is over. Differences are paired by seed. Refuses: a table of a README that nobody makes.
"""

import argparse
import json
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparselight.evaluate.statistics import over_seeds
from sparselight.files import write_bytes
from sparselight.records import MetricValue

DIGITS = 5
Row = dict[str, Any]
BySeed = dict[int, float]


def keep(folder: Path, experiment: str, bench: str, domain: str, seed: int, make: Callable[[], list[Row]]) -> None:
    """Make the rows of one domain and seed of an experiment, unless they are there."""
    path = folder / "results" / experiment / f"{bench}-{domain}-seed-{seed}.json"
    if path.exists():
        return
    rows = make()
    write_bytes(path, (json.dumps([{"experiment": experiment, "bench": bench, "seed": seed, **rounded(row)} for row in rows]) + "\n").encode())
    print(f"{experiment}, {bench}, {domain}, seed {seed}: {len(rows)} rows", flush=True)


def rounded(row: Row) -> Row:
    return {**row, "values": {name: float(f"{value:.{DIGITS}g}") for name, value in row["values"].items()}}


def gather(folder: Path, study: str) -> dict[str, Any]:
    """All rows of a study in a run folder, and the machine."""
    paths = sorted(path for path in (folder / "results").glob("*/*.json") if path.parent.name.startswith((study, "settings")))
    return {"machine": f"{platform.machine()}, {platform.system()}", "rows": [row for path in paths for row in json.loads(path.read_text())]}


def whole(rows: Sequence[Row]) -> list[Row]:
    """Without domains that an interrupted run has for some of an experiment's seeds only: else seeds would be averages over different domains."""
    seeds: dict[tuple[str, str], set[int]] = {}
    of_domain: dict[tuple[str, str, str], set[int]] = {}
    for row in rows:
        seeds.setdefault((row["experiment"], row["bench"]), set()).add(row["seed"])
        of_domain.setdefault((row["experiment"], row["bench"], row["domain"]), set()).add(row["seed"])
    return [row for row in rows if of_domain[row["experiment"], row["bench"], row["domain"]] == seeds[row["experiment"], row["bench"]]]


def state_table(rows: Sequence[Row], experiments: Mapping[str, Sequence[str]]) -> str:
    """What has been run: domains and seeds of every experiment on every bench it is meant for."""
    lines = []
    for experiment, benches in experiments.items():
        for bench in benches:
            own = [row for row in rows if row["experiment"] == experiment and row["bench"] == bench]
            domains, seeds = (list(dict.fromkeys(row[name] for row in own)) for name in ("domain", "seed"))
            lines.append([experiment, bench, ", ".join(domains) or "not run", ", ".join(map(str, sorted(seeds)))])
    return table(["Experiment", "Bench", "Domains", "Seeds"], lines)


def by_seed(rows: Sequence[Row], metric: str, **wanted: Any) -> BySeed:
    """The mean over matching rows of each seed; rows without the metric do not count."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if metric in row["values"] and all(row.get(name) == value for name, value in wanted.items()):
            found.setdefault(row["seed"], []).append(row["values"][metric])
    return {seed: float(np.mean(values)) for seed, values in sorted(found.items())}


def difference(own: BySeed, other: BySeed, relative: bool = False) -> BySeed:
    """own - other of the seeds that both have, or that in percent of other."""
    return {seed: (own[seed] - other[seed]) * (100 / other[seed] if relative else 1) for seed in own if seed in other}


def mean_interval(values: BySeed) -> MetricValue | None:
    return over_seeds(list(values.values()), list(values))[0] if values else None


def shown(values: BySeed, digits: int = 3, unit: str = "", signed: bool = False) -> str:
    """Mean and half of its 95 % t-interval."""
    found = mean_interval(values)
    if found is None:
        return "-"
    sign = "+" if signed else ""
    half = "" if found.high is None else f" ± {found.high - found.value:.{digits}f}"
    return f"{found.value:{sign}.{digits}f}{half}{unit}"


def verdict(values: BySeed, claimed: int) -> str:
    """`holds` where the interval lies wholly on the claimed side of 0 (1 above, -1 below), `the opposite` on the other side, else `not shown`."""
    found = mean_interval(values)
    if found is None or found.low is None or found.high is None:
        return "not testable here"
    if found.low > 0 or found.high < 0:
        return "holds" if (found.low > 0) == (claimed > 0) else "the opposite"
    return "not shown"


def within(values: BySeed, bound: float) -> str:
    """`holds` where the whole interval lies within ±bound, `does not hold` where it lies wholly outside, else `not shown`."""
    found = mean_interval(values)
    if found is None or found.low is None or found.high is None:
        return "not testable here"
    if max(abs(found.low), abs(found.high)) <= bound:
        return "holds"
    return "does not hold" if found.low > bound or found.high < -bound else "not shown"


def at_least(values: BySeed, bound: float) -> str:
    """`holds` where the whole interval lies at or above a bound, `does not hold` where it lies below, else `not shown`."""
    found = mean_interval(values)
    if found is None or found.low is None or found.high is None:
        return "not testable here"
    return "holds" if found.low >= bound else "does not hold" if found.high < bound else "not shown"


class Claim(NamedTuple):
    """One line of the table of claims."""

    claim: str
    where: str
    numbers: str
    verdict: str


def claims_table(claims: Sequence[Claim]) -> str:
    return table(["Claim", "Where", "Found", "Verdict"], [list(claim) for claim in claims])


def settings_table(rows: Sequence[Row], benches: Sequence[str]) -> str:
    """Sizes of the benches that have results."""
    names = {"d_in": "d_in", "n_latents": "Latents", "k": "k", "n_new": "New latents", "k_new": "k of these", "base_trained": "Training tokens, general SAE",
             "domain_trained": "on a domain", "general_tokens": "Distinct general tokens", "domain_tokens": "of the domain", "domain_held_out": "held out"}
    own = [row for row in rows if row["experiment"] == "settings" and row["bench"] in benches]
    return table(["Bench", "Domain", *names.values()], [[row["bench"], row["domain"], *(f"{row['values'][name]:,.0f}" for name in names)] for row in own])


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows])


def fill(text: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """The README with its tables, which stand between `<!-- table:NAME -->` and `<!-- end -->`, written anew."""
    def one(match: re.Match[str]) -> str:
        return f"{match[1]}{tables[match[2]]()}\n{match[3]}"

    return re.sub(r"(<!-- table:(\w+) -->\n).*?(<!-- end -->)", one, text, flags=re.S)


def collect(here: Path, tables: Callable[[list[Row]], Mapping[str, Callable[[], str]]], figures: Callable[[list[Row]], Mapping[str, str]]) -> None:
    """What a study's collect.py does: results.json, figures and README beside it, from the run folder that the command line names."""
    parser = argparse.ArgumentParser(description="Keep the results of a run folder, and write the README's tables and figures from them.")
    parser.add_argument("run", type=Path, nargs="?", help="left out: from the results.json that is there")
    folder = parser.parse_args().run
    path = here / "results.json"
    if folder is not None:
        found = gather(folder, here.name)
        lines = ",\n".join(json.dumps(row) for row in found["rows"])
        write_bytes(path, f'{{"machine": {json.dumps(found["machine"])}, "rows": [\n{lines}\n]}}\n'.encode())
    rows = whole(json.loads(path.read_text(encoding="utf-8"))["rows"])
    for name, svg in figures(rows).items():
        write_bytes(here / f"{name}.svg", svg.encode())
    readme = here / "README.md"
    write_bytes(readme, fill(readme.read_text(encoding="utf-8"), tables(rows)).encode())
