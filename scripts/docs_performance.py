"""docs/performance.md from benchmarks/results: training steps with tables a shape, targets met and missed; activations. Used by make_docs.py."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT), str(ROOT / "scripts")]

from benchmarks.side_by_side.candidates import CANDIDATES, OURS  # noqa: E402
from benchmarks.side_by_side.goals import GOALS, Goal  # noqa: E402
from benchmarks.side_by_side.results import Entry, load  # noqa: E402
from benchmarks.side_by_side.task import SHAPES  # noqa: E402
from docs_activations import activation_lines, table  # noqa: E402
from docs_features import feature_lines  # noqa: E402

ARCHITECTURES = {"topk": "TopK", "batch_topk": "BatchTopK", "matryoshka": "Matryoshka BatchTopK", "relu": "ReLU with L1", "jump_relu": "JumpReLU"}
STATES = {("relu", "fresh"): ", about half of all latents active", ("jump_relu", "fresh"): ", about half of all latents active",
          ("relu", "sparse"): ", about k active", ("jump_relu", "sparse"): ", about k active"}
HEADINGS = {
    ("train", "highest"): "Training step, as a user gets it", ("train", "medium"): "Training step, tuned",
    ("encode", "highest"): "Encoding and decoding, as a user gets it", ("encode", "medium"): "Encoding and decoding, tuned",
}
Row = tuple[str, ...]

METHOD = """\
How fast an SAE trains here beside [SAELens](https://github.com/decoderesearch/SAELens),
[dictionary_learning](https://github.com/saprmarks/dictionary_learning), [sparsify](https://github.com/EleutherAI/sparsify) and
[overcomplete](https://github.com/KempnerInstitute/overcomplete). Repeat it on your own machine:

```
make bench-setup    # one environment for each library
make bench          # the quick selection, about ten minutes on two cores
make docs           # this page from what was measured
```

`python benchmarks/train_step.py --help` lists the other shapes and modes.

**What is timed.** A whole training step: forward, backward, gradient clipping, optimizer, decoder norm, dead-latent bookkeeping, by each
library's own trainer code. Every library runs in a process and an environment of its own; they take turns on one machine, one working at a
time. Step times are medians; ratios are taken within a round and given as median [least to most]. Peak memory is the most that a process
held above its imports and the data.

**What is the same for all.** Activations (sparse sums of 4 d_in directions with power-law frequencies), starting weights, batch, k, threads.
Before anything is timed each candidate reconstructs a few rows, which must agree with the definition in float64 to 1e-4; one that does not
is not measured.

**What to keep in mind.**
- "As a user gets it" is PyTorch's default `float32_matmul_precision`, "highest" (sparsify's trainer sets "high" by itself). "Tuned" is
  "medium" and huge pages for all: on a processor with AMX products are then computed in bfloat16, so what is compared there is no longer
  float32. The result file holds every candidate's error against float64.
- Weights are those of the beginning of a training. No latent is dead, so no library pays for its dead latents' loss; what ours costs is
  listed under our own terms.
- ReLU and JumpReLU are measured dense, as a training begins, and with about k active latents, as it ends.
- Where a library does less in its own step, it is timed as it is: sparsify clips no gradient, nor does dictionary_learning's ReLU trainer;
  overcomplete has no decoder bias.
- sparsify's step is the body of its `fit()`, called in the same order, because `fit()` itself needs a language model. Of the others their
  own step functions are called.
- A few steps on one machine: a difference of some percent is noise.
"""


def performance_page(note: str) -> str:
    """The whole page."""
    entries = load()
    lines = ["# Performance", "", note, "", METHOD]
    if not entries:
        lines += ["Nothing has been measured yet.", ""]
    for device in dict.fromkeys(entry["device"] for entry in entries):
        lines += device_lines([entry for entry in entries if entry["device"] == device])
    lines += activation_lines()
    lines += feature_lines()
    return "\n".join(lines)


def device_lines(entries: list[Entry]) -> Iterator[str]:
    """All that was measured on one device."""
    yield from (f"## {entries[0]['device']}", "", conditions(entries), "")
    if entries[0]["machine"]["gpu"] is None:  # the targets are for processors
        yield from goal_lines(entries)
    for (mode, precision), heading in HEADINGS.items():
        found = [entry for entry in entries if (entry["mode"], entry["precision"]) == (mode, precision)]
        shapes = sorted({(entry["d_in"], entry["n_latents"], entry["batch"], entry["k"]) for entry in found})
        if shapes:
            yield from (f"### {heading}", "")
        for shape in shapes:
            yield from (f"**d_in {shape[0]}, {shape[1]:,} latents, batch {shape[2]:,}, k {shape[3]}**", "")
            same = [entry for entry in found if (entry["d_in"], entry["n_latents"], entry["batch"], entry["k"]) == shape]
            yield from shape_lines(sorted(same, key=lambda entry: (list(ARCHITECTURES).index(entry["kind"]), entry["state"])))
    yield from own_lines(entries)


def conditions(entries: list[Entry]) -> str:
    """The machine in words, with all that differed between measurements."""
    def said(name: str) -> str:
        return " and ".join(dict.fromkeys(str(entry["machine"][name]) for entry in entries))

    kernels = dict.fromkeys(row["kernels"] for entry in entries for name, row in entry["rows"].items() if name != "ours-torch" and "kernels" in row)
    loads = [entry["machine"]["load_before"] for entry in entries]
    return (f"{said('processor')}: {said('cores')} cores, threads used {said('threads')}, PyTorch {said('torch')}, Python {said('python')}, {said('system')}, "
            f"{said('date')}; load before {min(loads):.1f} to {max(loads):.1f}. Our kernels: {' and '.join(kernels)}.")


def goal_lines(entries: list[Entry]) -> list[str]:
    """Targets with the worst value at each shape."""
    rows = []
    for goal in GOALS:
        values = goal.values(entries)
        cells = ", ".join(f"{shape}: {shown(goal, value)}" for shape, value in sorted(values.items()))
        verdict = "not measured" if not values else "met" if all(goal.met(value) for value in values.values()) else "missed"
        rows.append((goal.title, f"{goal.sense} {goal.limit:g} {goal.unit}", cells or "-", verdict))
    sizes = ", ".join(f"{name} is d_in {d_in} with {n_latents:,} latents" for name, (d_in, n_latents) in SHAPES.items())
    return ["### Targets", "", f"The worst architecture and state at each shape counts: {sizes}.", "", *table(("Target", "Limit", "By shape", "Verdict"), rows)]


def shown(goal: Goal, value: float) -> str:
    text = f"{value:.1f} {goal.unit}" if goal.unit == "%" or value >= 2 else f"{value:.2f} {goal.unit}"
    return text if goal.met(value) else f"**{text}**"


def shape_lines(entries: list[Entry]) -> list[str]:
    """One table: every architecture with every library, and what could not be measured."""
    rows: list[Row] = []
    missing: list[str] = []
    has_roof = any("roof" in entry for entry in entries)
    for entry in entries:
        title = ARCHITECTURES[entry["kind"]] + STATES.get((entry["kind"], entry["state"]), "")
        ordered = sorted(entry["rows"].items(), key=lambda item: list(CANDIDATES).index(item[0]))
        for name, row in ordered:
            if "step_s" in row:
                rows.append((title, *library_cells(name, row, has_roof)))
                title = ""
            else:
                missing.append(f"- Not measured: {ARCHITECTURES[entry['kind']]} of {CANDIDATES[name].title}: {row.get('skipped', 'unknown')}")
    heads: Row = ("Architecture", "Library", "Step, ms", "Tokens/s", "Ours is faster by", "Ours in PyTorch alone by", "Peak, MiB")
    return [*table((*heads, "Of the roofline") if has_roof else heads, rows), *dict.fromkeys(missing), *([""] if missing else [])]


def library_cells(name: str, row: dict[str, Any], has_roof: bool) -> Row:
    def ratio(own: str) -> str:
        value = row.get("ratio", {}).get(own)
        return f"{value['median']:.1f} x [{value['min']:.1f} to {value['max']:.1f}]" if value else ""

    title = CANDIDATES[name].title + ("" if name in OURS else f" {row['version']}")
    cells = (title, f"{1e3 * row['step_s']:.1f}", f"{row['tokens_per_s']:,.0f}", ratio("ours"), ratio("ours-torch"), f"{row['peak_bytes'] / 2**20:,.0f}")
    return (*cells, f"{100 * row['roofline_frac']:.0f} %") if has_roof else cells


def own_lines(entries: list[Entry]) -> Iterator[str]:
    """Cost against the width, and of our own terms."""
    for entry in entries:
        if entry["mode"] == "scaling":
            rows = sorted((row for row in entry["rows"].values() if "us_per_token" in row), key=lambda row: row["n_latents"])
            yield from (f"### Cost against the width: {ARCHITECTURES[entry['kind']]}, d_in {entry['d_in']}, batch {entry['batch']:,}, k {entry['k']}", "")
            yield from table(("Latents", "Microseconds a token", "Peak, MiB"),
                             [(f"{row['n_latents']:,}", f"{row['us_per_token']:.3g}", f"{row['peak_bytes'] / 2**20:,.0f}") for row in rows])
        if entry["mode"] == "overheads":
            size = f"d_in {entry['d_in']}, {entry['n_latents']:,} latents, batch {entry['batch']:,}, k {entry['k']}"
            yield from (f"### What each term adds to our BatchTopK step: {size}", "")
            yield from table(("With", "Step, ms", "Added"), [overhead_cells(name, row) for name, row in entry["rows"].items() if "step_s" in row])


def overhead_cells(name: str, row: dict[str, Any]) -> Row:
    base = row.get("compared_with")
    if base is None:
        return name, f"{1e3 * row['step_s']:.1f}", ""
    median, least, most = (100 * (row["ratio"][base][key] - 1) for key in ("median", "min", "max"))
    return name, f"{1e3 * row['step_s']:.1f}", f"{median:+.1f} % [{least:+.1f} to {most:+.1f}] of {base!r}"
