"""The part of docs/performance.md about evaluating, catalogues, edits and recommenders, from benchmarks/results. Used by docs_performance.py."""

import json
from collections.abc import Iterator
from typing import Any

from docs_activations import RESULTS, table
from docs_serve import SERVE, serve_lines

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
SCORING = """\
A factor model with random vectors, a TopK SAE on its user vectors and an edit of 50 latents; the ten best of all items that a user does not have, for every
user. Memory is what the peak exceeds the tables of users and items by.
"""
DICTIONARY = """\
ml-latest-small, SASRec and the settings of recipes/recommender_ml.toml, nothing cached; concepts by three routes beside all controls. Wall time counts other
work on the machine, CPU seconds do not.
"""
ASSOCIATION = """\
All pairs of latents and labels at eight thresholds, hits and spans found, in one pass over residues with planted labels; activations are drawn when they are
read, so memory is that of the counting. Processor time, because other work ran on the machine. InterPLM's `process_shard` gets the same activations, labels,
SAE and its five thresholds, encoding included; its counts equal ours. Part of its time is a loop over labels, so its ratio falls with more residues.
"""


def feature_lines() -> Iterator[str]:
    """All parts, as far as they were measured."""
    parts = (("evaluate", "Evaluating", EVALUATE, evaluate_lines), ("catalogue", "Making a catalogue", CATALOGUE, catalogue_lines),
             ("serve", "The explorer", SERVE, serve_lines), ("steer", "Generating with an edit", STEER, steer_lines),
             ("association", "Latents and annotations", ASSOCIATION, association_lines),
             ("recommender_scoring", "Recommending with an edit", SCORING, scoring_lines),
             ("item_dictionary", "From interactions to a concept dictionary", DICTIONARY, dictionary_lines))
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


def scoring_lines(result: dict[str, Any]) -> Iterator[str]:
    goal = result["goal"]
    yield from table(("Users", "Items", "Seconds", "CPU seconds", "Users a CPU second", "Memory, MB"), [
        (f"{case['n_users']:,}", f"{case['n_items']:,}", f"{case['wall_s']:.0f}", f"{case['cpu_s']:.0f}", f"{case['n_users'] / case['cpu_s']:,.0f}",
         f"{case['excess_mb']:.0f}") for case in result["cases"].values()])
    bold = "" if result["excess_ratio"] <= goal["excess_ratio"] else "**"
    n_users = result["cases"]["all"]["n_users"]
    part = f" The aim is a million users; this run is {n_users / 1_000_000:.0%} of that." if n_users < 1_000_000 else ""
    yield from (f"Memory of the last row beside that of the first: {bold}{result['excess_ratio']:.2f} x{bold} (target <= {goal['excess_ratio']} x).{part}", "")


def dictionary_lines(result: dict[str, Any]) -> Iterator[str]:
    yield from (f"{result['n_interactions']:,} interactions; {result['n_activations']:,} activations, {result['n_latents']:,} latents.", "")
    rows = [(name, f"{step['wall_s']:.1f}", f"{step['cpu_s']:.1f}") for name, step in result["steps"].items()]
    bold = "" if result["wall_s"] <= result["goal_s"] else "**"
    yield from table(("Step", "Seconds", "CPU seconds"), [*rows, (f"All (target <= {result['goal_s']} s)", f"{bold}{result['wall_s']:.1f}{bold}",
                                                                  f"{result['cpu_s']:.1f}")])


def association_lines(result: dict[str, Any]) -> Iterator[str]:
    goal, cpu = result["goal_s"], result["pass_cpu_s"] + result["scale_cpu_s"]
    yield from (f"{result['n_tokens']:,} residues, {result['n_latents']:,} latents, l0 {result['l0']:.0f}, {result['n_labels']} labels", "")
    bold = "" if cpu <= 2 * goal else "**"
    yield from table(("", "Measured"), [
        ("Whole step, processor seconds", f"{bold}{cpu:,.0f} s{bold} (target: {goal} s on two cores, so {2 * goal} s of processor time)"),
        ("of it encoding", f"{result['encoding_cpu_s']:,.0f} s"), ("Peak memory", f"{result['peak_bytes'] / 2**20:,.0f} MB"),
        ("of it counts", f"{result['counts_bytes'] / 2**20:,.0f} MB")])
    if "interplm" in result:
        peer = result["interplm"]
        yield from (f"{peer['n_tokens']:,} residues, {peer['n_thresholds']} thresholds: {peer['ours_cpu_s']:,.1f} s ours, {peer['theirs_cpu_s']:,.1f} s "
                    f"InterPLM's, {peer['ratio']:,.0f} x.", "")
