"""What the training engine should reach beside other libraries, as numbers that a result file either meets or misses. Standard library only."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .results import Entry
from .task import SHAPES

# Values by shape, of the named ones on a CPU; of several architectures and states the worst.
Values = dict[str, float]


@dataclass(frozen=True)
class Goal:
    """One row of the table."""

    title: str
    sense: str
    """`>=` or `<=`."""
    limit: float
    unit: str
    """`x` for ratios, `%` for what is added."""
    values: Callable[[list[Entry]], Values]

    def met(self, value: float) -> bool:
        return value >= self.limit if self.sense == ">=" else value <= self.limit


def faster(
    kinds: Iterable[str], against: Iterable[str] = (), mode: str = "train", precision: str = "highest", own: str = "ours",
) -> Callable[[list[Entry]], Values]:
    """How many times faster ours is than the fastest of some libraries' candidates; of all where none is named."""
    def values(entries: list[Entry]) -> Values:
        found: Values = {}
        for entry in entries:
            if entry["shape"] not in SHAPES or entry["kind"] not in kinds or entry["mode"] != mode or entry["precision"] != precision:
                continue
            ratios = [row["ratio"][own]["median"] for name, row in entry["rows"].items() if own in row.get("ratio", {}) and (not against or name in against)]
            if ratios:
                found[entry["shape"]] = min(min(ratios), found.get(entry["shape"], float("inf")))
        return found
    return values


def leaner(entries: list[Entry]) -> Values:
    """Our peak memory in that of the leanest other library."""
    found: Values = {}
    for entry in entries:
        rows = entry["rows"]
        others = [row["peak_bytes"] for name, row in rows.items() if "ratio" in row]
        is_meant = entry["shape"] in SHAPES and entry["mode"] == "train" and entry["precision"] == "highest"
        if is_meant and others and "peak_bytes" in rows.get("ours", {}):
            found[entry["shape"]] = max(rows["ours"]["peak_bytes"] / min(others), found.get(entry["shape"], 0.0))
    return found


def added(*variants: str) -> Callable[[list[Entry]], Values]:
    """What variants of our step cost, in percent of the step without them; the worst of them."""
    def values(entries: list[Entry]) -> Values:
        found: Values = {}
        for entry in entries:
            if entry["mode"] == "overheads":
                rows = [entry["rows"][name] for name in variants if "ratio" in entry["rows"].get(name, {})]
                costs = [100 * (row["ratio"][row["compared_with"]]["median"] - 1) for row in rows]
                if costs:
                    found[entry["shape"]] = max(costs)
        return found
    return values


def growth(entries: list[Entry]) -> Values:
    """Cost a token from the narrowest dictionary to the widest, over what linear growth would be."""
    found: Values = {}
    for entry in entries:
        if entry["mode"] == "scaling":
            rows = sorted((row for row in entry["rows"].values() if "us_per_token" in row), key=lambda row: row["n_latents"])
            if len(rows) > 1:
                first, last = rows[0], rows[-1]
                value = last["us_per_token"] / first["us_per_token"] / (last["n_latents"] / first["n_latents"])
                found[entry["shape"]] = max(value, found.get(entry["shape"], 0.0))
    return found


SELECTING = ("topk", "batch_topk")
GOALS = [
    Goal("TopK and BatchTopK step, against the fastest library as a user gets it", ">=", 8, "x", faster(SELECTING)),
    Goal("the same, all libraries tuned", ">=", 4, "x", faster(SELECTING, precision="medium")),
    Goal("TopK and BatchTopK step, against SAELens' default", ">=", 25, "x", faster(SELECTING, ["saelens"])),
    Goal("TopK and BatchTopK step, against dictionary_learning", ">=", 25, "x", faster(SELECTING, ["dictionarylearning"])),
    Goal("Matryoshka step, against SAELens", ">=", 25, "x", faster(["matryoshka"], ["saelens"])),
    Goal("ReLU-L1 and JumpReLU step, against the fastest library, dense and sparse", ">=", 3, "x", faster(["relu", "jump_relu"])),
    Goal("TopK step in PyTorch alone, against the fastest library", ">=", 1.2, "x", faster(["topk"], own="ours-torch")),
    Goal("encoding and decoding at inference, against the fastest library", ">=", 4, "x", faster(["topk", "jump_relu"], mode="encode")),
    Goal("peak memory, in that of the leanest library", "<=", 1, "x", leaner),
    Goal("cost a token over 32 times the width, in linear growth", "<=", 1, "x", growth),
    Goal("orthogonality penalty every 5th step, chunk 8192", "<=", 30, "%", added("orthogonal, chunk 8192, every 5th")),
    Goal("orthogonality penalty every 5th step, chunk 1024", "<=", 10, "%", added("orthogonal, chunk 1024, every 5th")),
    Goal("tilted empirical risk (TERM)", "<=", 2, "%", added("tilted (TERM)")),
    Goal("AuxK with a tenth of the latents dead", "<=", 10, "%", added("a tenth dead, AuxK")),
]
