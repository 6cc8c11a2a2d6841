"""Keeps what run.py and literal.py wrote in results.json, and writes the tables and figures of the README from it.

    python -m studies.recsae.collect [RUN]      without RUN: from the results.json that is there

Verdicts follow rules that stand in the README: by intervals over users or latents of one seed, never by a point where an interval is there.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from studies.common.results import Claim, claims_table, fill, table
from studies.recsae.plot import figures

from sparselight.evaluate.statistics import wilson
from sparselight.files import write_bytes

HERE = Path(__file__).parent
TUNED_SHOWN = 2  # labels of each SAE in the table; all are in results.json and in the claims
KEPT_NDCG = 0.9  # of the subject's: the rule of "stable"
NAMES = {"sasrec": "SASRec", "timirec": "TiMiRec", "bpr_mf": "BPR-MF", "lightgcn": "LightGCN", "published": "published SASRec (ML-1M)"}
Cell = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?")
    folder = parser.parse_args().run
    path = HERE / "results.json"
    if folder is not None:
        write_bytes(path, (json.dumps(gather(folder), separators=(",", ":")).replace('{"world"', '\n{"world"') + "\n").encode())
    results = json.loads(path.read_text(encoding="utf-8"))
    for name, svg in figures(results["cells"]).items():
        write_bytes(HERE / f"{name}.svg", svg.encode())
    readme = HERE / "README.md"
    write_bytes(readme, fill(readme.read_text(encoding="utf-8"), tables(results)).encode())


def gather(folder: Path) -> dict[str, Any]:
    """Values only: concepts and instances of single latents stay in the run."""
    worlds = [folder / name for name in NAMES if (folder / name / "subject.json").exists()]
    literal = folder / "literal.json"
    return {"subjects": {place.name: read(place / "subject.json") for place in worlds}, "literal": read(literal) if literal.exists() else [],
            "cells": [cell(place.name, path.parent) for place in worlds for path in sorted(place.glob("*/concepts_recsae.json"), key=in_order)]}


def in_order(path: Path) -> tuple[int, str]:
    name = path.parent.name
    return (int(name[1:]) if name[1:].isdigit() else 99, name)


def cell(world: str, folder: Path) -> Cell:
    metrics = ("fvu", "l0", "ranking_hr", "ranking_ndcg", "ranking_overlap")
    rows = [row for row in read(folder / "fidelity.json")["rows"] if row["metric"] in metrics and row["setting"] in ("", "k=10")]
    summaries = {path.stem.removeprefix("concepts_"): read(path)["summaries"] for path in sorted(folder.glob("concepts_*.json"))}
    notes = {path.stem.removeprefix("concepts_"): read(path)["notes"] for path in sorted(folder.glob("concepts_*.json"))}
    return {"world": world, "sae": folder.name, "fidelity": {f"{row['coder']}/{row['metric']}": short(row["value"]) for row in rows}, "notes": notes,
            "concepts": {name: [slim(row) for row in rows] for name, rows in summaries.items()},
            "tuning": [tuned(record) for record in read(folder / "tuning.json")] if (folder / "tuning.json").exists() else [],
            "balance": {by: balanced(read(path)) for by in ("effect", "slope") if (path := folder / f"balance_{by}.json").exists()}}


def short(value: dict[str, Any] | None) -> list[float | None] | None:
    """Value, low, high."""
    return None if value is None else [None if value[key] is None else float(f"{value[key]:.4g}") for key in ("value", "low", "high")]


def slim(row: dict[str, Any]) -> dict[str, Any]:
    keys = ("coder", "route", "n_latents", "n_scored", "recall", "true_negative_rate", "precision", "n_at_80", "n_at_90", "coherence_within",
            "coherence_between")
    return {key: row[key] for key in keys} | {"confidence": short(row["confidence"]), "share_at_80": short(row["share_at_80"])}


def tuned(record: dict[str, Any]) -> dict[str, Any]:
    doses = [{"strength": dose["strength"], **{name: short(dose[name]) for name in ("share", "overlap", "tau", "ndcg_change")}} for dose in record["doses"]]
    return {"concept": record["concept"], "operation": record["operation"], "n_latents": len(record["latents"]), "active_frac": record["active_frac"],
            "doses": doses, "controls": [[dose["share"]["value"] for dose in doses] for doses in record["controls"]], "monotonicity": record["monotonicity"]}


def balanced(record: dict[str, Any]) -> dict[str, Any]:
    keys = ("popularity", "ndcg", "gap")
    return {way: [{"strength": dose["strength"], "coverage": dose["coverage"], "gini": dose["gini"], **{key: short(dose[key]) for key in keys}}
                  for dose in record.get(way, [])] for way in ("doses", "control", "penalty")}


def tables(results: dict[str, Any]) -> Mapping[str, Callable[[], str]]:
    cells = results["cells"]
    return {"claims": lambda: claims_table(claims(cells, results["literal"])), "subjects": lambda: subjects_table(results["subjects"]),
            "fidelity": lambda: fidelity_table(cells), "concepts": lambda: concepts_table(cells, "held_out"), "recsae": lambda: concepts_table(cells, "recsae"),
            "tuning": lambda: tuning_table(cells), "balance": lambda: balance_table(cells), "literal": lambda: literal_table(results["literal"])}


def claims(cells: list[Cell], literal: list[dict[str, Any]]) -> list[Claim]:
    """One line a claim and recommender, over its SAEs."""
    found = []
    for world in dict.fromkeys(one["world"] for one in cells):
        own = [one for one in cells if one["world"] == world]
        found += [stable(world, own), many(world, own), clear(world, own, "held_out"), clear(world, own, "recsae"), follows(world, own), debias(world, own)]
    return [claim for claim in found if claim is not None] + ([signs(literal)] if literal else [])


def counted(claim: str, world: str, outcomes: list[bool], numbers: str) -> Claim:
    n = sum(outcomes)
    word = "holds" if outcomes and n == len(outcomes) else "does not hold" if not n else f"holds for {n} of {len(outcomes)}"
    return Claim(claim, NAMES[world], numbers, word)


def stable(world: str, own: list[Cell]) -> Claim | None:
    kept = [(one["sae"], one["fidelity"]["sae/ranking_ndcg"][0] / base) for one in own if (base := one["fidelity"]["subject/ranking_ndcg"][0])]
    return counted(f"The ranking stays: NDCG@10 with the SAE is at least {KEPT_NDCG:.0%} of the recommender's", world, [part >= KEPT_NDCG for _, part in kept],
                   ", ".join(f"{name} {part:.0%}" for name, part in kept)) if kept else None


def many(world: str, own: list[Cell]) -> Claim:
    counts = [(one["sae"], row(one, "recsae", "sae", "label")) for one in own]
    return counted("Hundreds of latents reach 0.8 by the paper's protocol", world, [found["n_at_80"] >= 100 for _, found in counts],
                   ", ".join(f"{name} {found['n_at_80']} of {found['n_scored']}" for name, found in counts))


def clear(world: str, own: list[Cell], protocol: str) -> Claim:
    """Latents at 0.8 by one label, of all latents: Wilson's whole interval above that of the untrained SAE."""
    pairs = [(one["sae"], *(wilson(found["n_at_80"], found["n_latents"], "latents") for coder in ("sae", "untrained SAE")
                            for found in [row(one, protocol, coder, "label")])) for one in own]
    words = "on other users" if protocol == "held_out" else "by the paper's protocol"
    return counted(f"More latents are predicted by one label than of an untrained SAE, {words}", world,
                   [(mine.low or 0.0) > (other.high or 1.0) for _, mine, other in pairs],
                   ", ".join(f"{name} {mine.value:.1%} against {other.value:.1%}" for name, mine, other in pairs))


def follows(world: str, own: list[Cell]) -> Claim | None:
    """From off to four times: the share of the concept's items rises further than with every draw of random latents."""
    runs = [record for one in own for record in one["tuning"] if record["operation"] == "scale"]
    if not runs:
        return None
    wins = [record["doses"][-1]["share"][0] - record["doses"][0]["share"][0] > max(doses[-1] - doses[0] for doses in record["controls"]) for record in runs]
    low, high = (sum(record["doses"][place]["share"][0] for record in runs) / len(runs) for place in (0, -1))
    return counted("Turning a concept's latents moves its items, further than random latents do", world, wins,
                   f"{sum(wins)} of {len(runs)} concepts; mean share {low:.2f} off, {high:.2f} at four times")


def debias(world: str, own: list[Cell]) -> Claim | None:
    """Latents turned off make lists less popular, and no penalty gets as far for less NDCG@10."""
    wins, words = [], []
    for one in own:
        curve = one["balance"].get("effect")
        if not curve or not curve["doses"]:
            continue
        first, last = curve["doses"][0], curve["doses"][-1]
        plain = [dose for dose in curve["penalty"] if dose["popularity"][0] <= last["popularity"][0]]
        best = max((dose["ndcg"][0] for dose in plain), default=0.0)
        wins.append(last["popularity"][0] < first["popularity"][0] and last["ndcg"][0] > best)
        base = max(first["ndcg"][0], 1e-9)
        words.append(f"{one['sae']} {last['popularity'][0] / first['popularity'][0] - 1:+.0%} popularity for {last['ndcg'][0] / base - 1:+.0%} NDCG@10, "
                     f"penalty {best / base - 1:+.0%}")
    return counted("Latents debias, and better than a penalty on popular items", world, wins, "; ".join(words)) if wins else None


def signs(literal: list[dict[str, Any]]) -> Claim:
    by = {sign: [one for one in literal if one["literal"] == sign] for sign in (False, True)}
    fvu, dead = ({sign: [one[key] for one in rows] for sign, rows in by.items()} for key in ("fvu", "dead"))
    worse = [theirs > ours for ours, theirs in zip(dead[False], dead[True], strict=True)]
    numbers = f"dead {dead[False]} right, {dead[True]} as published; fvu {mean(fvu[False]):.4f} and {mean(fvu[True]):.4f}"
    return Claim("The published sign of AuxK leaves more latents dead", f"SASRec, {len(worse)} seeds", numbers,
                 "holds" if all(worse) else "does not hold" if not any(worse) else f"in {sum(worse)} of {len(worse)} seeds")


def subjects_table(subjects: dict[str, Any]) -> str:
    lines = [[NAMES[name], f"{one['n_users']:,}", f"{one['n_items']:,}", *(f"{one[who][metric]['10']:.3f}" if one[who] else "-" for metric in ("hr", "ndcg")
                                                                              for who in ("model", "popularity"))] for name, one in subjects.items()]
    return table(["Recommender", "Users", "Items", "HR@10", "of popularity", "NDCG@10", "of popularity"], lines)


def fidelity_table(cells: list[Cell]) -> str:
    lines = []
    for one in cells:
        coders = [name for name in dict.fromkeys(key.split("/")[0] for key in one["fidelity"]) if name.startswith(("sae", "untrained", "PCA", "subject"))]
        lines += [[NAMES[one["world"]], one["sae"], name, *(with_interval(one["fidelity"].get(f"{name}/{metric}")) for metric in
                   ("fvu", "ranking_hr", "ranking_ndcg", "ranking_overlap"))] for name in sorted(coders, key=lambda name: (name != "subject", name != "sae"))]
    return table(["Recommender", "SAE", "In place", "fvu", "HR@10", "NDCG@10", "overlap@10"], lines)


def concepts_table(cells: list[Cell], protocol: str) -> str:
    lines = [[NAMES[one["world"]], one["sae"], found["coder"], found["route"], f"{found['n_scored']} of {found['n_latents']}",
              *("-" if value is None else f"{value:.2f}" for value in (found["confidence"] and found["confidence"][0], found["recall"],
                                                                       found["true_negative_rate"], found["precision"])),
              f"{found['n_at_80']} ({found['n_at_80'] / max(found['n_scored'], 1):.0%})", str(found["n_at_90"])]
             for one in cells for found in one["concepts"].get(protocol, [])
             if found["route"] == "label" or (found["route"] == "items" and found["coder"] in ("sae", "untrained SAE"))]
    return table(["Recommender", "SAE", "Coder", "Route", "Tested", "Confidence", "Recall", "TNR", "Precision", "at 0.8", "at 0.9"], lines)


def tuning_table(cells: list[Cell]) -> str:
    lines = []
    for one in cells:
        for record in one["tuning"][:2 * TUNED_SHOWN]:  # each label is scaled, then added
            shares = ", ".join(f"{dose['strength']:g}: {dose['share'][0]:.2f}" for dose in record["doses"])
            random = [sum(column) / len(column) for column in zip(*record["controls"], strict=True)]
            last = record["doses"][-1]
            lines.append([NAMES[one["world"]], one["sae"], record["concept"], str(record["n_latents"]), record["operation"], shares,
                          f"{random[0]:.2f} to {random[-1]:.2f}", f"{last['overlap'][0]:.2f}", with_interval(last["ndcg_change"])])
    return table(["Recommender", "SAE", "Concept", "Latents", "Operation", "Share of its items at each strength", "Random", "Overlap at the last",
                  "NDCG@10 change at the last"], lines)


def balance_table(cells: list[Cell]) -> str:
    lines = []
    for one in cells:
        ways = [(f"latents by {by}, off", curve["doses"][-1]) for by, curve in one["balance"].items() if curve["doses"]]
        curve = one["balance"].get("effect") or {}
        if not curve.get("doses"):
            continue
        ways = [("as it is", curve["doses"][0]), *ways, ("random latents, off", curve["control"][-1]),
                *((f"penalty {dose['strength']:g}", dose) for dose in curve["penalty"][1:3])]
        lines += [[NAMES[one["world"]], one["sae"], way, f"{dose['popularity'][0]:.1f}", f"{dose['coverage']:.3f}", f"{dose['gini']:.3f}",
                   with_interval(dose["ndcg"]), with_interval(dose["gap"])] for way, dose in ways]
    return table(["Recommender", "SAE", "Way", "Popularity", "Items recommended", "Gini", "NDCG@10", "Gap"], lines)


def literal_table(rows: list[dict[str, Any]]) -> str:
    return table(["Seed", "Sign", "fvu", "Dead latents"],
                 [[str(one["seed"]), "as published" if one["literal"] else "right", f"{one['fvu']:.4f}", str(one["dead"])] for one in rows])


def row(one: Cell, protocol: str, coder: str, route: str) -> dict[str, Any]:
    return next(found for found in one["concepts"][protocol] if (found["coder"], found["route"]) == (coder, route))


def with_interval(value: list[float] | None, digits: int = 3) -> str:
    if not value:
        return "-"
    return f"{value[0]:.{digits}f}" + ("" if value[1] is None else f" [{value[1]:.{digits}f}, {value[2]:.{digits}f}]")


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
