"""Gathers what run.py wrote into results.json and prints the tables of the README: `python studies/recsae/collect.py runs/recsae`."""

import argparse
import json
from pathlib import Path
from typing import Any

from sparselight.files import write_bytes

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    chosen = parser.parse_args()
    results = {folder.name: world(folder) for folder in sorted(chosen.run.iterdir()) if (folder / "subject.json").is_file()}
    write_bytes(chosen.out, (json.dumps(results, indent=1) + "\n").encode())
    for line in tables(results):
        print(line)


def world(folder: Path) -> dict[str, Any]:
    saes = {path.parent.name: sae(path.parent) for path in sorted(folder.glob("*/fidelity.json"))}
    return {"subject": read(folder / "subject.json"), "saes": saes}


def sae(folder: Path) -> dict[str, Any]:
    """Values only: concepts and contexts of single latents stay in the run."""
    rows = read(folder / "fidelity.json")["rows"]
    shown_metrics = ("fvu", "l0", "ranking_hr", "ranking_ndcg")
    values = [{key: row[key] for key in ("coder", "metric", "setting", "value")} for row in rows if row["metric"] in shown_metrics]
    concepts = {path.stem.removeprefix("concepts_"): {key: read(path)[key] for key in ("summaries", "notes", "n_tested_on")}
                for path in sorted(folder.glob("concepts_*.json"))}
    return {"fidelity": values, "concepts": concepts, "tuning": read(folder / "tuning.json"), "balance": read(folder / "balance.json")}


def tables(results: dict[str, Any]) -> list[str]:
    columns = (("fvu", ""), ("ranking_hr", "k=10"), ("ranking_ndcg", "k=10"))
    lines = ["| Recommender | SAE | Coder | fvu | HR@10 | NDCG@10 |", "| --- | --- | --- | --- | --- | --- |"]
    for name, one in results.items():
        for width, found in one["saes"].items():
            coders = dict.fromkeys(row["coder"] for row in found["fidelity"])
            for coder in coders:
                cells = [shown(found["fidelity"], coder, metric, setting) for metric, setting in columns]
                lines.append(f"| {name} | {width} | {coder} | {' | '.join(cells)} |")
    lines += ["", "| Recommender | SAE | Protocol | Coder | Route | Scored | Confidence | at 0.8 | at 0.9 |", f"|{' --- |' * 9}"]
    for name, one in results.items():
        for width, found in one["saes"].items():
            for protocol, record in found["concepts"].items():
                for row in record["summaries"]:
                    confidence = "" if row["confidence"] is None else f"{row['confidence']['value']:.3f}"
                    counts = f"{row['n_scored']} of {row['n_latents']} | {confidence} | {row['n_at_80']} | {row['n_at_90']}"
                    lines.append(f"| {name} | {width} | {protocol} | {row['coder']} | {row['route']} | {counts} |")
    return lines


def shown(rows: list[dict[str, Any]], coder: str, metric: str, setting: str) -> str:
    found = next((row["value"] for row in rows if (row["coder"], row["metric"], row["setting"]) == (coder, metric, setting)), None)
    return "" if found is None else f"{found['value']:.3f}" + ("" if found["low"] is None else f" [{found['low']:.3f}, {found['high']:.3f}]")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
