"""The study's figures: latents with a verified concept beside controls, and quality over popularity, from the cells of results.json."""

from collections.abc import Sequence
from typing import Any

from studies.common.charts import BOTTOM, LEFT, RIGHT, TOP, alone, axes_of, legend, looks

from sparselight.records import MetricValue
from sparselight.report.compare_marks import axis_range, shape, whisker
from sparselight.report.svg import Scale, path, text

CODERS = ("sae", "untrained SAE", "shuffled concepts", "raw dimensions")
SHORT = {"sasrec": "SASRec", "timirec": "TiMiRec", "bpr_mf": "BPR-MF", "lightgcn": "LightGCN", "published": "published"}
WAYS = {"doses": "latents", "control": "random latents", "penalty": "penalty on popular items"}


def figures(cells: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Name of the file to its SVG."""
    found = {f"concepts-{protocol.replace('_', '-')}": verified(cells, protocol) for protocol in ("held_out", "recsae")}
    for world in dict.fromkeys(cell["world"] for cell in cells):
        own = [cell for cell in cells if cell["world"] == world and cell["balance"].get("effect", {}).get("doses")]
        if own:
            found[f"debiasing-{world}"] = debiasing(own[-1])
    return found


def verified(cells: Sequence[dict[str, Any]], protocol: str) -> str:
    """Share of tested latents at 0.8 or more by one label, a place an SAE."""
    places = [(SHORT[cell["world"]], cell["sae"].replace("its_own_sae", "own")) for cell in cells]
    values: dict[str, list[tuple[int, MetricValue]]] = {coder: [] for coder in CODERS}
    for number, cell in enumerate(cells):
        for row in cell["concepts"].get(protocol, []):
            if row["route"] == "label" and row["share_at_80"]:
                value, low, high = row["share_at_80"]
                values[row["coder"]].append((number, MetricValue(value=value, low=low, high=high, n=row["n_scored"])))
    y = Scale(*axis_range([value for own in values.values() for _, value in own], [0.0]), BOTTOM, TOP)
    look = looks(CODERS, CODERS[1:])
    words = "tested on other users" if protocol == "held_out" else "by the paper's protocol"
    body = axes_of(None, y, f"Latents that one label predicts, {words}", ("", "share at a confidence of 0.8 or more"))
    step = (RIGHT - LEFT) / max(len(places), 1)
    for number, (world, sae) in enumerate(places):
        middle = LEFT + step * (number + 0.5)
        body.append(text(middle, BOTTOM + 16, sae, "tiny muted", "middle"))
        if number == 0 or places[number - 1][0] != world:
            body.append(text(middle - step / 2, BOTTOM + 34, world, "tiny", "start"))
    for aside, (coder, own) in zip((-6, -2, 2, 6), values.items(), strict=True):
        for number, value in own:
            at = LEFT + step * (number + 0.5) + aside
            assert value.low is not None and value.high is not None
            body += [*whisker(at, (y(value.low), y(value.high)), f"{look[coder].stroke} thin", True), shape(at, y(value.value), look[coder], 4)]
    return alone(f"concepts-{protocol}", f"Latents that one label predicts, {words}", [*body, *legend(look)], look)


def debiasing(cell: dict[str, Any]) -> str:
    """NDCG@10 over mean popularity, for the SAE with the most active latents a token."""
    curve = cell["balance"]["effect"]
    points = {name: [(dose["popularity"][0], dose["ndcg"]) for dose in curve[way]] for way, name in WAYS.items()}
    as_value = {name: [(x, MetricValue(value=value, low=low, high=high, n=1)) for x, (value, low, high) in own] for name, own in points.items()}
    xs = [MetricValue(value=x, n=1) for own in points.values() for x, _ in own]
    x, y = Scale(*axis_range(xs, []), LEFT, RIGHT), Scale(*axis_range([value for own in as_value.values() for _, value in own], [0.0]), BOTTOM, TOP)
    look = looks(list(as_value), ["random latents"])
    title = f"Less popularity, and what it costs: {SHORT[cell['world']]}, {cell['sae']}"
    body = axes_of(x, y, title, ("mean training interactions of a recommended item", "NDCG@10"))
    for name, own in as_value.items():
        body.append(path([(x(at), y(value.value)) for at, value in own], f"{look[name].stroke} curve"))
        body += [shape(x(at), y(value.value), look[name], 4.5) for at, value in own]
        if name == "latents":
            body += [part for at, value in own if value.low is not None and value.high is not None
                     for part in whisker(x(at), (y(value.low), y(value.high)), f"{look[name].stroke} thin", True)]
    return alone(f"debiasing-{cell['world']}", title, [*body, *legend(look)], look)
