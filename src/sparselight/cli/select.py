"""`sparselight select`: which examples of a corpus are like the seeds; strategies side by side, against labels where they are known."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparselight.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from sparselight.pipeline.selection_view import SelectPlan, SelectResult, Strategy

BAR = 40  # characters
WORDS = {
    "exact_copies": "exact copies of others", "near_duplicates": "near copies of what was chosen", "held_out_copies": "training examples like held-out ones",
    "seed_copies": "held-out examples like a seed", "not_compared": "texts not compared with all that may be their near copies (too many are alike)",
}

SOURCE = typer.Argument(help="A run folder, which is only read, or a recipe (a TOML file or a name), of which corpus and select are run.")
OUT = typer.Option("--out", "-o", metavar="FOLDER", help="Run folder of a recipe; `sparselight run` goes on in it. Default: runs/RECIPE.")
SET = typer.Option("--set", metavar="A.B=C", help="Override a setting: --set 'select.seed_texts=[\"...\"]', --set select.query=\"...\", --set 'select.retrieve="
                   "[\"bm25\",\"dense\"]'; may be repeated. All: docs/reference/recipe.md.")
COMPARE = typer.Option("--compare", metavar="NAMES", help="Strategies to put beside it, joined by commas: bm25, dense, bm25+dense, dense+bm25.")
TRUTH = typer.Option("--truth", metavar="KIND=VALUE", help="A label or span that examples of the domain have: recall and precision are shown.")


def select(
    source: Annotated[str, SOURCE],
    out: Annotated[Path | None, OUT] = None,
    overrides: Annotated[list[str] | None, SET] = None,
    compare: Annotated[str, COMPARE] = "",
    truth: Annotated[str | None, TRUTH] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done: strategies, size of the corpus, expected time.")] = False,
    as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Choose the examples of a domain from seeds, and look at them before anything is trained.

    Shows what was chosen and left out, how the score falls with the rank, and sample texts. On a run folder other settings are tried without changing it.
    """
    from sparselight.cli.harvest import progress_bar
    from sparselight.pipeline.selecting import SelectRun

    run = SelectRun(source, overrides or [], out, [name.strip() for name in compare.split(",") if name.strip()], truth)
    if dry_run:
        plan = run.plan()
        typer.echo(plan.model_dump_json() if as_json else render_plan(plan))
        return
    with progress_bar("select", unit="") as progress:
        result = run.run(progress)
    typer.echo(result.model_dump_json()) if as_json else print_result(result)


def render_plan(plan: "SelectPlan") -> str:
    """The plan as text for people."""
    size = f"{plan.n_examples:,} examples, {plan.n_chars:,} characters" if plan.n_examples is not None else "not read yet"
    expected = "not known before the corpus is read" if plan.seconds is None else f"{plan.seconds:,.0f} s on this machine"
    return "\n".join([
        f"source        {plan.source}",
        f"corpus        {size}",
        f"strategies    {', '.join(plan.strategies)}; {plan.max_tokens:,} tokens each{'; the first is finished' if plan.finished else ''}",
        f"expected      {expected}; nothing was done",
    ])


def print_result(result: "SelectResult") -> None:
    """Each strategy, then how they differ, then the next command."""
    from rich.console import Console

    from sparselight.cli.console import own_name

    console = Console(highlight=False)
    console.print(f"{result.n_examples:,} examples in {result.source}; budget {result.max_tokens:,} tokens", markup=False, soft_wrap=True)
    for strategy in result.strategies:
        print_strategy(console, strategy, result.guard)
    if len(result.strategies) > 1:
        console.print(overlap_table(result))
    console.print(f"next: {result.next_command.replace('sparselight', own_name(), 1)}", markup=False, soft_wrap=True)


def print_strategy(console: "Console", strategy: "Strategy", guard: str) -> None:
    """Counts, score curve, samples."""
    seeds = ", ".join(f"{count:,} by select.{kind}" for kind, count in strategy.seed_counts.items() if kind != "held_out")
    aside = strategy.seed_counts.get("held_out", 0)
    left_out = [f"{count:,} {WORDS[reason]}" for reason, count in strategy.left_out.items()]
    lines = [
        f"\n{strategy.name}", f"chosen        {strategy.n_examples:,} examples, {strategy.n_tokens:,} tokens; {strategy.n_held_out:,} of them are held out",
        f"seeds         {seeds or f'{strategy.n_seeds:,}'}{f'; {aside:,} more match and are held out' if aside else ''}",
    ]
    if left_out:
        lines.append(f"left out      {', '.join(left_out)}{' (leaks are only counted: select.guard)' if guard == 'report' else ''}")
    if strategy.terms:
        lines.append(f"terms         {', '.join(strategy.terms)}")
    if truth := strategy.truth:
        recall, precision = ("not defined" if value is None else f"{value:.3f}" for value in (truth.recall, truth.precision))
        lines.append(f"truth         {truth.label}: recall {recall} ({truth.n_found:,} of {truth.n_true:,}), precision {precision} "
                     f"(of a random choice {truth.base_rate:.3f})")
    for line in [*lines, *curve_lines(strategy), "samples"]:
        console.print(line, markup=False, soft_wrap=True)
    for sample in strategy.samples:
        console.print(f"{sample.rank:>6}  {sample.score:9.4g}  {sample.id}{' (held out)' if sample.is_held_out else ''}: {sample.text}", markup=False,
                      overflow="ellipsis", no_wrap=True)


def curve_lines(strategy: "Strategy") -> list[str]:
    """Score by rank as bars."""
    highest = max((point.score for point in strategy.curve), default=0)
    if highest <= 0:
        return []
    bars = ("#" * max(round(BAR * point.score / highest), 0) for point in strategy.curve)
    return ["  rank     tokens      score", *(f"{point.rank:>6,} {point.n_tokens:>10,}  {point.score:9.4g}  {bar}"
                                             for point, bar in zip(strategy.curve, bars, strict=True))]


def overlap_table(result: "SelectResult") -> object:
    """Strategies against each other."""
    from rich.table import Table

    table = Table("shared / either", *result.overlap, title="overlap of what was found", title_justify="left")
    for name, row in result.overlap.items():
        table.add_row(name, *(f"{value:.2f}" for value in row.values()))
    return table
