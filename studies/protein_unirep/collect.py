"""Keep what `run.py` found: `python studies/protein_unirep/collect.py runs/protein_unirep`; without a folder, from the results.json that is there.

Writes results.json beside this file and the README's tables, with the forms of studies/protein.
"""

import json
import platform
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))
from studies.common.results import fill  # noqa: E402
from studies.protein import tables  # noqa: E402
from studies.protein.collect import evaluation_rows, rounded  # noqa: E402
from studies.protein.tables import Rows  # noqa: E402

from sparselight.files import write_bytes  # noqa: E402


def main() -> None:
    path, readme = HERE / "results.json", HERE / "README.md"
    if len(sys.argv) > 1:
        keep(Path(sys.argv[1]), path)
    found = json.loads(path.read_text(encoding="utf-8"))
    rows: Rows = found["rows"]
    write_bytes(readme, fill(readme.read_text(encoding="utf-8"), {
        "signal": lambda: tables.label_table(rows, tables.SIGNAL), "helix": lambda: tables.label_table(rows, tables.HELIX),
        "association": lambda: tables.association_table(rows), "rules": lambda: tables.rules_table(rows),
        "settings": lambda: tables.settings_table(found["settings"])}).encode())


def keep(run: Path, path: Path) -> None:
    """One row a value."""
    rows: Rows = []
    for folder in sorted(run.glob("layer-*/seed-*")):
        rows += evaluation_rows({"layer": layer_of(folder.parent), "seed": int(folder.name.rpartition("-")[2])}, folder / "evaluation")
    for probes in sorted(run.glob("layer-*/probes.json")):
        rows += [{"layer": layer_of(probes.parent), "seed": None, "what": "probe", **rounded(row)} for row in json.loads(probes.read_text(encoding="utf-8"))]
    settings = json.loads((run / "settings.json").read_text(encoding="utf-8"))
    head = f'{{"machine": {json.dumps(f"{platform.machine()}, {platform.system()}")}, "settings": {json.dumps(settings)}, "rows": [\n'
    write_bytes(path, (head + ",\n".join(json.dumps(row) for row in rows) + "\n]}\n").encode())


def layer_of(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


if __name__ == "__main__":
    main()
