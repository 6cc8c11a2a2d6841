"""The part of docs/performance.md about harvesting and stores, from benchmarks/results/{harvest,store}.json. Used by docs_performance.py."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
Rows = list[tuple[str, ...]]

HARVEST = """\
Of the same texts: the bare forward pass up to the site with nothing kept; our whole harvest (tokenizing, number format, checksums, writing); a hook
that keeps float32 and one `np.save` at the end; and SAELens' `CacheActivationsRunner`, in its own environment, on rows that are tokenized already.
A shuffled epoch reads every row once in random order, as training does. Medians; ratios are taken within a round.
"""
STORE = """\
Noise of the given width, batches of 4,096 rows. "Mapped" rows lie in the page cache and in the address space, as those of a store that fits into memory;
"unmapped" ones in the page cache only; "cold" ones on the disk alone. Random order is that of training, with its reading ahead.
"""


def activation_lines() -> Iterator[str]:
    """Both parts, as far as they were measured."""
    for name, heading, method, lines in (("harvest", "Harvesting activations", HARVEST, harvest_lines), ("store", "Reading a store", STORE, store_lines)):
        path = RESULTS / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text(encoding="utf-8"))
            yield from (f"## {heading}", "", f"`python benchmarks/{name}.py` on {machine_words(result)}", "", method)
            yield from lines(result)


def machine_words(result: dict[str, Any]) -> str:
    """Where a result was measured."""
    return (f"{result['machine']}, {result['threads']} threads, PyTorch {result['torch']}, load before {result['load_before']:.1f}, "
            f"{result['n_rounds']} rounds.")


def harvest_lines(result: dict[str, Any]) -> Iterator[str]:
    """One table a subject, and the targets."""
    goals, verdicts = result["goals"], []
    for case in result["cases"].values():
        yield from (f"**{case['subject']}**: {case['n_parameters']:,} parameters, {case['site']}, d_in {case['d']}, {case['n_tokens']:,} tokens", "")
        rows = [(name, f"{speed:,}", f"{case['median_ratio_to_bare'][name]:.2f}") for name, speed in case["median_tokens_per_s"].items()]
        yield from table(("", "Tokens/s", "Of the bare pass"), rows)
        yield from (f"- Not measured: {reason}" for reason in case.get("saelens_skipped", []))
        verdicts.append((f"Harvest, of the bare pass ({case['site']} of {case['subject']})", f">= {goals['ours_to_bare']}",
                         verdict(case["median_ratio_to_bare"]["ours"], goals["ours_to_bare"])))
        for title, key in (("Harvest and a shuffled epoch", "median_end_to_end_ratio"), ("A shuffled epoch alone", "median_epoch_ratio")):
            for name, value in case.get(key, {}).items():
                limit = goals["end_to_end_to_saelens"] if key == "median_end_to_end_ratio" else None
                verdicts.append((f"{title}, against {name.split(',')[0]} in {name.split(', ')[1]}", "-" if limit is None else f">= {limit} x",
                                 f"{value:.2f} x" if limit is None else verdict(value, limit, " x")))
    yield ""
    yield from table(("Target", "Limit", "Measured"), verdicts)


def store_lines(result: dict[str, Any]) -> Iterator[str]:
    """Reading by number format, and the targets."""
    goals = result["goals"]
    rows: Rows = []
    verdicts: Rows = []
    for dtype, found in result["by_dtype"].items():
        for key, words in (("from_page_cache", "mapped"), ("from_page_cache_unmapped", "unmapped"), ("from_disk", "cold")):
            if "skipped" in found[key]:
                continue
            speeds, ratios = found[key]["median_rows_per_s"], found[key]["median_ratio_to_sequential"]
            rows.append((dtype, words, f"{speeds['sequential']:,}", f"{speeds['random, read ahead']:,}", f"{ratios['random, read ahead']:.2f}"))
            if dtype == "bfloat16":
                verdicts.append((f"Random order, of sequential ({words})", f">= {goals['random_to_sequential']}",
                                 verdict(ratios["random, read ahead"], goals["random_to_sequential"])))
    yield from (f"{result['n_rows']:,} rows, d_in {result['d']}", "")
    yield from table(("Format", "Rows are", "Sequential, rows/s", "Random order, rows/s", "Ratio"), rows)
    lost, overhead = result["training"]["median_lost_frac"], result["by_dtype"]["bfloat16"]["overhead_frac"]
    verdicts.append((f"Step time lost to data ({result['training']['n_latents']:,} latents, products alone)", f"< {100 * goals['lost_frac']:.0f} %",
                     f"{100 * lost:.1f} %" if lost < goals["lost_frac"] else f"**{100 * lost:.1f} %**"))
    verdicts.append(("Beyond 2 bytes a value", f"< {100 * goals['overhead_frac']:.0f} %",
                     f"{100 * overhead:.1f} %" if overhead < goals["overhead_frac"] else f"**{100 * overhead:.1f} %**"))
    peaks = result["memory"].get("peak_bytes_by_store_bytes", {})
    words = ", ".join(f"{int(size) / 2**20:,.0f} MiB: {peak / 2**20:,.0f} MiB" for size, peak in peaks.items())
    verdicts.append(("Peak memory of an epoch, by size of the store", "does not grow", words or "not measured"))
    yield from table(("Target", "Limit", "Measured"), verdicts)


def verdict(value: float, least: float, unit: str = "") -> str:
    """The value, bold where the target is missed."""
    text = f"{value:.2f}{unit}"
    return text if value >= least else f"**{text}**"


def table(heads: tuple[str, ...], rows: Rows) -> list[str]:
    cells = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}", *cells, ""] if rows else []
