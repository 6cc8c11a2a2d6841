"""`sparselight specialise`: from a run or a recipe to variants of its base SAE for one domain, measured beside each other on one page."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparselight.cli import options
from sparselight.errors import ConfigError

if TYPE_CHECKING:
    from sparselight.pipeline.specialise.planning import SpecialisePlan
    from sparselight.pipeline.specialise.running import SpecialiseResult

UNITS = {"k": 1_000, "m": 1_000_000}

SOURCE = typer.Argument(help="A run folder, which is only read, or a recipe (a TOML file or a name: security, my_domain).")
RUN = typer.Option("--run", metavar="RUN", help="Under a recipe: take corpus, general activations and base SAE from this run folder; only the recipe's domain "
                   "is selected and harvested.")
OUT = typer.Option("--out", "-o", metavar="FOLDER", help="Where everything goes; what is finished in it is not done again. Default: `specialise` in the run "
                   "folder, or runs/RECIPE.")
BASE = typer.Option("--base", metavar="SAE", help="A base SAE in place of the run's or of one to be trained: a folder, or whatever `convert` reads.")
VARIANTS = typer.Option("--variants", metavar="NAMES", help="Which are made, joined by commas: boost, boost_silent, boost_general, finetune, finetune_tilted, "
                        "extended_random, extended_most_active (both also with _all), grafted, scratch_domain. Default: all but the _all ones.")
BUDGETS = typer.Option("--budgets", metavar="SIZES", help="Amounts of domain text on which the residual SAE is trained besides: 50k,150k. `none` for none. "
                       "Default: a quarter and half of it.")
SET = typer.Option("--set", metavar="A.B=C", help="Override a setting: --set specialise.n_new=1024, --set select.max_tokens=300000; may be repeated. All: "
                   "docs/guides/specialising.md.")


def specialise(
    source: Annotated[str, SOURCE],
    run: Annotated[str | None, RUN] = None,
    out: Annotated[Path | None, OUT] = None,
    base: Annotated[str | None, BASE] = None,
    variants: Annotated[str | None, VARIANTS] = None,
    budgets: Annotated[str | None, BUDGETS] = None,
    overrides: Annotated[list[str] | None, SET] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done: every step with its state, tokens and expected time.")] = False,
    as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Teach a base SAE a domain in every way that is known, on equal terms, and see what each gains there and loses elsewhere.

    Selects and harvests what is not there yet, trains every variant, measures all of them on held-out text of the domain and of the whole corpus, and
    writes one page. Interrupt it whenever you like: the same command goes on, and finished variants are not trained again.
    """
    from sparselight.cli.harvest import progress_bar
    from sparselight.pipeline.specialise.running import SpecialiseRun

    work = SpecialiseRun(source, run=run, out=out, base=base, overrides=overrides or [], variants=None if variants is None else names(variants),
                         budgets=None if budgets is None else sizes(budgets))
    if dry_run:
        plan = work.plan()
        typer.echo(plan.model_dump_json()) if as_json else print_plan(plan)
        return
    with progress_bar("specialise", unit="") as progress:
        result = work.run(progress)
    typer.echo(result.model_dump_json()) if as_json else print_result(result)


def names(text: str) -> list[str]:
    """Names that are joined by commas."""
    return [name for name in (part.strip() for part in text.split(",")) if name]


def sizes(text: str) -> list[int]:
    """Numbers of tokens such as 50k,1.5m.

    Raises:
        ConfigError: for what is no number above 0.
    """
    found = []
    for part in [] if text.strip() == "none" else names(text):
        unit = UNITS.get(part[-1].lower(), 1)
        try:
            size = round(float(part[:-1] if unit > 1 else part) * unit)
        except (ValueError, OverflowError):
            size = 0
        if size <= 0:
            raise ConfigError(asked=f"train on {part!r} tokens (--budgets)", why="that is no number of tokens", instead="write for example --budgets 50k,150k")
        found.append(size)
    return sorted(set(found))


def print_plan(plan: "SpecialisePlan") -> None:
    """The plan as a table."""
    from rich.console import Console
    from rich.table import Table

    from sparselight.cli.console import expected, total

    table = Table("step", "state", "tokens", "expected", title=f"{plan.name} in {plan.folder}", title_justify="left")
    for step in plan.steps:
        table.add_row(step.name, "finished" if step.finished else "to do", f"{step.n_tokens:,}" if step.n_tokens else "", expected(step.seconds))
    console = Console()
    console.print(table)
    n_tokens = "is not harvested yet" if plan.n_domain_tokens is None else f"holds {plan.n_domain_tokens:,} training tokens"
    console.print(f"the domain {n_tokens}; {plan.advised_tokens:,} are advised for so many new latents", highlight=False, soft_wrap=True)
    console.print(f"expected: {total(plan.seconds, [step.seconds for step in plan.steps])} on this machine; nothing was done", highlight=False)


def print_result(result: "SpecialiseResult") -> None:
    """The result in words, where it lies, the next command."""
    from rich.console import Console

    from sparselight.cli.console import own_name

    console = Console(highlight=False)
    for line in [*result.headline, *(f"note: {warning}" for warning in result.warnings)]:
        console.print(line, markup=False, soft_wrap=True)
    for name, folder in result.variants.items():
        console.print(f"{name + ':':<22} {folder}", markup=False, soft_wrap=True)
    console.print(f"next:   {result.next_command.replace('sparselight', own_name(), 1)}", markup=False, soft_wrap=True)
    console.print(f"report: {Path(result.report).resolve()}", markup=False, soft_wrap=True)
