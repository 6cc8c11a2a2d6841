"""Keep what `run.py` found: `python studies/steering/collect.py runs/steering`.

Writes results.json beside this file (one entry a feature: doses, curve statistics, everything at equal side effect) and the tables of the README, which stand
between `<!-- table:NAME -->` and `<!-- end -->`. With --pages, writes the page of every study beside its record.
"""

import argparse
import json
import platform
import re
from pathlib import Path
from statistics import median
from typing import Any

from sparselight.intervene.study_record import beats
from sparselight.records import MatchedEffect, SteeringRecord
from sparselight.report.numbers import number
from sparselight.report.steering import write_study

HERE = Path(__file__).parent
SHOWN_STRENGTH = 1.0
CLEAR_RANK, CLEAR_FIT = 0.9, 0.9
BASELINES = {"random direction": "random directions", "random latent": "random latents", "label": "means, label", "goal": "means, goal"}


def collect(folder: Path) -> dict[str, Any]:
    """Every feature under a folder of run.py."""
    features = []
    for path in sorted(folder.glob("*/steering.json"), key=lambda path: (path.parent.name.partition("-")[0], int(path.parent.name.partition("-")[2]))):
        study, by_label = SteeringRecord.load(path), SteeringRecord.load(path.parent / "by_label.json")
        matched = {**{(item.baseline if item.baseline != "difference of means" else "goal", item.strength): item for item in study.matched},
                   **{("label", item.strength): item for item in by_label.matched}}
        own, won = study.responses[0], beats(study.matched, study.wants)
        wins = {"random direction": won.get("random direction"), "random latent": won.get("random latent"),
                "label": beats(by_label.matched, by_label.wants).get("difference of means"), "goal": won.get("difference of means")}
        features.append({
            "feature": study.card, "title": study.title, "goal": study.goal, "reference": study.reference, "beats": wins,
            "doses": [dose.model_dump(mode="json", include={"strength", "effect", "change", "kl_nats", "ce_change_nats"}) for dose in own.doses],
            "quality": [dose.text.model_dump(mode="json") for dose in own.doses if dose.text], "settings": study.settings, "n_tokens": study.n_tokens,
            **{name: None if getattr(own, name) is None else getattr(own, name).model_dump(mode="json") for name in ("spearman", "isotonic_r2", "half_dose")},
            "matched": {f"{kind}, {strength:g}": brief(item) for (kind, strength), item in matched.items()},
        })
    settings = features[0]["settings"] if features else {}
    return rounded({"machine": f"{platform.machine()}, {platform.system()}", "settings": settings,
                    "features": [{name: value for name, value in feature.items() if name != "settings"} for feature in features]})


def rounded(value: Any) -> Any:
    """Numbers with six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


def brief(item: MatchedEffect) -> dict[str, Any]:
    values = {"latent": item.latent_change, "baseline": item.baseline_change, "difference": item.difference}
    return {"kl_nats": item.kl_nats.value, "p": item.p,
            **{name: None if value is None else [value.value, value.low, value.high] for name, value in values.items()}}


def is_clear(feature: dict[str, Any]) -> bool:
    """Dose-response: rank correlation and monotone fit at least 0.9, and the interval of the largest change above 0."""
    last = feature["doses"][-1]["change"]
    return bool(feature["spearman"] and feature["spearman"]["value"] >= CLEAR_RANK and feature["isotonic_r2"] and
                feature["isotonic_r2"]["value"] >= CLEAR_FIT and last["low"] is not None and last["low"] > 0)


def tables(results: dict[str, Any]) -> dict[str, str]:
    features = results["features"]
    return {"summary": summary(features), "curves": curves(features), "equal": equal(features), "text": text(features)}


def summary(features: list[dict[str, Any]]) -> str:
    lines = [f"- clear dose-response (rank correlation and monotone fit at least 0.9, largest change above 0): {sum(map(is_clear, features))} of "
             f"{len(features)} features"]
    for kind, title in BASELINES.items():
        lost = sum(loses(feature, kind) for feature in features)
        lines.append(f"- against {title}: beaten by {sum(feature['beats'][kind] is True for feature in features)} of {len(features)} features; "
                     f"clearly better than {lost} of them at strength 1")
    for kind, title in BASELINES.items():
        ratios = sorted(item["baseline"][0] / item["latent"][0] for feature in features if is_clear(feature)
                        and (item := feature["matched"].get(f"{kind}, {SHOWN_STRENGTH:g}")) and item["baseline"] and item["latent"][0] > 0)
        if ratios:
            lines.append(f"- change with {title} over that with the latent, at strength 1, features with a clear dose-response: median "
                         f"{number(median(ratios), 2)}, from {number(ratios[0], 2)} to {number(ratios[-1], 2)}")
    both = sum(is_clear(feature) and feature["beats"]["random direction"] is True and feature["beats"]["random latent"] is True for feature in features)
    return "\n".join([*lines, f"- clear dose-response and both kinds of random baselines beaten: {both} of {len(features)}"])


def loses(feature: dict[str, Any], kind: str) -> bool:
    item = feature["matched"].get(f"{kind}, {SHOWN_STRENGTH:g}")
    return bool(item and item["difference"] and item["difference"][2] is not None and item["difference"][2] < 0)


def curves(features: list[dict[str, Any]]) -> str:
    rows = ["| feature | stands for | no edit | strength 1 | strength 2 | KL at 1, nats | rank correlation | monotone fit | half dose | clear |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    for feature in features:
        at = {dose["strength"]: dose for dose in feature["doses"]}
        cells = [feature["feature"], code(feature["title"]), *(short(at[strength]["effect"]) for strength in (0.0, 1.0, 2.0)),
                 number(at[1.0]["kl_nats"]["value"]), *(short(feature[name]) for name in ("spearman", "isotonic_r2", "half_dose")),
                 "yes" if is_clear(feature) else "no"]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def equal(features: list[dict[str, Any]]) -> str:
    rows = [f"| feature | change, latent | {' | '.join(BASELINES.values())} |", f"| --- | --- |{' --- |' * len(BASELINES)}"]
    for feature in features:
        own = next(dose["change"] for dose in feature["doses"] if dose["strength"] == SHOWN_STRENGTH)
        rows.append(f"| {feature['feature']} | {short(own)} | {' | '.join(verdict(feature, kind) for kind in BASELINES)} |")
    return "\n".join(rows)


def verdict(feature: dict[str, Any], kind: str) -> str:
    item = feature["matched"].get(f"{kind}, {SHOWN_STRENGTH:g}")
    if item is None or item["baseline"] is None:
        return "not reached"
    return f"{number(item['baseline'][0])}{' (beaten)' if feature['beats'][kind] else ' (better)' if loses(feature, kind) else ''}"


def text(features: list[dict[str, Any]]) -> str:
    rows = ["| feature | strength | distinct tokens | repeated fours | entropy, bits | perplexity |", "| --- | --- | --- | --- | --- | --- |"]
    for feature in features:
        for dose, quality in zip(feature["doses"], feature["quality"], strict=False):
            cells = [feature["feature"], f"{dose['strength']:g}", *(number(quality[name]["value"], 2) for name in ("distinct_1", "repeated_4", "entropy_bits")),
                     number(2.718281828 ** quality["ce_nats"]["value"])]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def short(value: dict[str, Any] | None) -> str:
    if value is None:
        return "-"
    interval = "" if value["low"] is None else f" [{number(value['low'])}, {number(value['high'])}]"
    return f"{number(value['value'])}{interval}"


def code(words: str) -> str:
    return words.replace("|", "\\|").replace("\n", "\\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pages", action="store_true", help="write steering.html beside every record")
    arguments = parser.parse_args()
    results = collect(arguments.folder)
    (HERE / "results.json").write_text(json.dumps(results, ensure_ascii=False) + "\n", encoding="utf-8")
    page = (HERE / "README.md").read_text(encoding="utf-8")
    for name, table in tables(results).items():
        page = re.sub(rf"(<!-- table:{name} -->\n).*?(<!-- end -->)", lambda match, table=table: f"{match[1]}{table}\n{match[2]}", page, flags=re.S)
    (HERE / "README.md").write_text(page, encoding="utf-8")
    if arguments.pages:
        for path in arguments.folder.glob("*/steering.json"):
            write_study(SteeringRecord.load(path), path.with_name("steering.html"))


if __name__ == "__main__":
    main()
