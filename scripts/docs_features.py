"""The part of docs/performance.md about evaluating, catalogues and edits, from benchmarks/results. Used by docs_performance.py."""

import json
from collections.abc import Iterator
from typing import Any

from docs_activations import RESULTS, table

EVALUATE = """\
The same SAE, subject and tokens. `ours` measures what SAEBench's core does, with 1,000 bootstrap resamples; `ours, with controls` is what
`sparselight evaluate` does by default: mean ablation, an untrained SAE and PCA besides. SAEBench and SAELens with all metrics on. Each
candidate has run one batch before; loading is left out.
"""
CATALOGUE = """\
Words drawn by Zipf's law, a direction for each; one pass over the store, explanations with their controls and grades, contexts, neighbors, all cards written.
"""
STEER = """\
The demo subject, one thread, processor time; an edit beside none with the same prompt and rows, in turns; medians of the ratios within a round. A TopK SAE
must be encoded whole; others need the rows of the edited latents alone.
"""


def feature_lines() -> Iterator[str]:
    """All three parts, as far as they were measured."""
    parts = (("evaluate", "Evaluating", EVALUATE, evaluate_lines), ("catalogue", "Making a catalogue", CATALOGUE, catalogue_lines),
             ("steer", "Generating with an edit", STEER, steer_lines))
    for name, heading, method, lines in parts:
        path = RESULTS / f"{name}.json"
        if path.exists():
            result = json.loads(path.read_text(encoding="utf-8"))
            rounds, load = (f", {result[key]:{form}} {word}" if key in result else "" for key, form, word in (
                ("n_rounds", "", "rounds"), ("load_before", ".1f", "load before")))
            yield from (f"## {heading}", "", f"`python benchmarks/{name}.py` on {result['machine']}, {result['threads']} threads, PyTorch {result['torch']}"
                        f"{rounds}{load}.", "", method)
            yield from lines(result)


def evaluate_lines(result: dict[str, Any]) -> Iterator[str]:
    yield from (f"{result['n_latents']:,} latents, d_in {result['d']}, {result['n_tokens']:,} tokens", "")
    rows = [(name, f"{wall:.1f}", f"{result['median_wall_s_to_ours'][name]:.2f} x", f"{result['median_cpu_s'][name]:.1f}")
            for name, wall in result["median_wall_s"].items()]
    yield from table(("", "Seconds", "Of ours", "CPU seconds"), rows)


def catalogue_lines(result: dict[str, Any]) -> Iterator[str]:
    goal = result["goal"]
    yield from (f"{result['n_latents']:,} latents, {result['n_tokens']:,} tokens, d_in {result['d']}, l0 {result['l0']}; the encoder alone takes "
                f"{result['encoder_cpu_s']:.0f} of {result['cpu_s']:.0f} CPU seconds.", "")
    rows = [("Whole catalogue", "wall_s", " s"), ("Peak memory", "memory_mb", " MB"), ("A card's query", "card_ms", " ms")]
    bold = {key: "" if result[key] <= goal[key] else "**" for _, key, _ in rows}
    yield from table(("Target", "Limit", "Measured"), [
        (title, f"<= {goal[key]:,}{unit}", f"{bold[key]}{result[key]:,.1f}{unit}{bold[key]}") for title, key, unit in rows])


def steer_lines(result: dict[str, Any]) -> Iterator[str]:
    many = result["many_edits"]
    rows = [(name, f"{plain:.2f}", f"{result['ratio'][name]:.3f} x" if result["ratio"][name] <= result["goal_ratio"] else f"**{result['ratio'][name]:.3f} x**")
            for name, plain in result["plain_ms_a_token"].items()]
    yield from table(("Edit", "Without, ms a token", f"With (target <= {result['goal_ratio']} x)"), rows)
    yield from (f"{many['n_edits']} different edits of one prompt: {many['together_s']:.1f} s in one batch, {many['one_by_one_s']:.1f} s one by one.", "")
