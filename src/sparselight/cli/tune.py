"""`sparselight tune`: more or less of a concept in a recommender's lists, less of what is popular; what it costs, and an edit to serve."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparselight.cli import options

if TYPE_CHECKING:
    from sparselight.pipeline.tuning import TuneResult

RUN = typer.Argument(help="Folder of a finished run on a recommender.")
MORE = typer.Option("--more", metavar="LABEL", help="Recommend more of it: genre=Horror, decade=1980s; `sparselight concepts` lists labels.")
LESS = typer.Option("--less", metavar="LABEL", help="Recommend less of it; `popular` is what is popular, with the gap between users of popular and rare taste.")
SOURCE = typer.Option("--source", metavar="SAE", help="Which SAE: base, residual, stitched.")
SETTINGS = typer.Option("--set", metavar="A=B", help="A setting of TuneConfig, for example --set keep=0.5, --set max_cost=0.1; may be repeated.")
DRY_RUN = typer.Option("--dry-run", help="Say what would be done: users, strengths, passes.")


def tune(
    run: Annotated[Path, RUN], more: Annotated[str | None, MORE] = None, less: Annotated[str | None, LESS] = None, source: Annotated[str, SOURCE] = "base",
    settings: Annotated[list[str] | None, SETTINGS] = None, dry_run: Annotated[bool, DRY_RUN] = False, as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Turn the latents of a concept in a recommender and see what its lists gain and what quality costs.

    Writes the curve, the edit at the furthest strength whose cost is allowed (tune.max_cost), and a page, to RUN/tuning.
    """
    from sparselight.cli.harvest import progress_bar
    from sparselight.config import apply_overrides
    from sparselight.errors import ConfigError
    from sparselight.pipeline.tuning import TuneConfig, Tuning

    concept, direction = more or less, "more" if more else "less"
    if not concept or (more and less):
        raise ConfigError(asked=f"tune the recommendations of {run}", why="one edit has one goal" if concept else "it is not said towards what",
                          instead="give one of --more genre=Horror, --less genre=Horror, --less popular")
    tuning = Tuning(run, concept, direction, TuneConfig.parse(apply_overrides({}, settings or []), "tune"), source)  # type: ignore[arg-type]
    if dry_run:
        plan = tuning.plan()
        typer.echo(plan.model_dump_json() if as_json else f"{plan.goal}: {plan.n_users:,} users at {plan.n_strengths} strengths, {plan.passes} passes with all "
                   f"items scored, into {plan.out}; nothing was done")
        return
    with progress_bar("tune", unit="steps") as progress:
        result = tuning.do(progress)
    typer.echo(result.model_dump_json()) if as_json else print_result(result)


def print_result(result: "TuneResult") -> None:
    """The curve as a table, what was kept, and where the files are."""
    from rich.console import Console
    from rich.table import Table

    from sparselight.cli.console import own_name
    from sparselight.report.tuning import verdict

    console, record = Console(), result.tuning or result.balance
    assert record is not None
    console.print(f"{result.goal}: {len(record.latents)} latents of {result.source}, {record.n_users:,} users", style="bold", highlight=False, markup=False)
    if result.tuning is not None:
        table = Table("strength", "share", "random", f"overlap@{record.k}", f"NDCG@{record.k}", "change", box=None, padding=(0, 1))
        for place, dose in enumerate(result.tuning.doses):
            others = [doses[place].share.value for doses in result.tuning.controls]
            table.add_row(f"{dose.strength:g}", f"{dose.share.value:.3f}", f"{sum(others) / len(others):.3f}" if others else "", f"{dose.overlap.value:.2f}",
                          f"{dose.ndcg.value:.4f}", f"{dose.ndcg_change.value:+.4f}")
    else:
        assert result.balance is not None
        table = Table("way", "strength", "popularity", "items", f"NDCG@{record.k}", "gap", box=None, padding=(0, 1))
        for way, doses in (("latents", result.balance.doses), ("random latents", result.balance.control), ("penalty", result.balance.penalty)):
            for one in doses:
                table.add_row(way, f"{one.strength:g}", f"{one.popularity.value:.1f}", f"{one.coverage:.3f}", f"{one.ndcg.value:.4f}",
                              "" if one.gap is None else f"{one.gap.value:+.4f}")
    console.print(table)
    for line in (verdict(record, result.kept), f"kept: strength {result.kept:g}, {result.why_kept}", f"page: {Path(result.page).resolve()}",
                 f"edit: {result.edit}", f"next: {result.next_command.replace('sparselight', own_name(), 1)}"):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
