"""`sparselight evaluate`: SAEs and run folders on held-out tokens, each metric beside its controls; gone on with by being run again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparselight.cli import options

if TYPE_CHECKING:
    from rich.table import Table

    from sparselight.pipeline.evaluation import EvaluationPlan, EvaluationResult
    from sparselight.records import EvalRecord, EvalRow

CODER_CHARS, VALUE_CHARS = 26, 25  # of a table's first column, and of a value with its interval
MOST_FORMS = 10  # metrics and settings of a family on one dataset that are shown

PLACES = typer.Argument(help="Run folders and SAEs (a folder, or hf://OWNER/NAME/PATH); all are measured on the same tokens.")
SUITE = typer.Option("--suite", metavar="NAMES", help="`core`, `full`, or families of metrics by name, joined by commas (docs/reference/metrics.md). "
                     "Default: evaluate.suite.")
STORE = typer.Option("--store", metavar="FIT_STORE", help="Activations on which probes, thresholds and controls are fitted, such as those of the training.")
HELD_OUT = typer.Option("--held-out", metavar="STORE", help="Activations that are measured; none of its examples may be in --store.")
CORPUS = typer.Option("--corpus", metavar="PATH", help="Examples with their text and annotations; without stores it is split and the subject runs.")
SUBJECT = typer.Option("--subject", metavar="SOURCE", help="The model; by default the one that the SAE's record names.")
SITE = typer.Option("--site", help="Where in the model; needed only for SAEs without a record.")
NO_CONTROLS = typer.Option("--no-controls", help="Measure the given SAEs alone.")
OUT = typer.Option("--out", "-o", metavar="FOLDER", help="Where results go; families that are finished in it are not measured again. Default: `evaluation` "
                   "in the run folder or beside the SAEs.")
SET = typer.Option("--set", metavar="A.B=C", help="Override a setting: --set evaluate.n_tokens=100000, --set 'evaluate.probing.k=[1,2]', --set corpus.kind=text"
                   "; may be repeated. All: docs/reference/recipe.md.")


def evaluate(
    places: Annotated[list[str], PLACES],
    suite: Annotated[str | None, SUITE] = None,
    store: Annotated[str | None, STORE] = None,
    held_out: Annotated[str | None, HELD_OUT] = None,
    corpus: Annotated[str | None, CORPUS] = None,
    subject: Annotated[str | None, SUBJECT] = None,
    site: Annotated[str | None, SITE] = None,
    no_controls: Annotated[bool, NO_CONTROLS] = False,
    out: Annotated[Path | None, OUT] = None,
    overrides: Annotated[list[str] | None, SET] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done: families, tokens, passes of the subject, expected time.")] = False,
    as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Measure SAEs: each value with its interval, beside controls that were not trained.

    A run folder brings its subject, stores and examples. For SAEs by themselves give --held-out and --store, or --corpus, or both; with none of them
    only what weights alone say is measured. Writes evaluation.json, values.parquet and tables/.
    """
    from sparselight.cli.harvest import progress_bar
    from sparselight.pipeline.evaluation import EvaluationRun

    run = EvaluationRun(places, suite=suite, store=store, held_out=held_out, corpus=corpus, subject=subject, site=site, controls=not no_controls,
                        overrides=overrides or [])
    target = out or run.out()
    if dry_run:
        plan = run.plan()
        typer.echo(plan.model_dump_json()) if as_json else print_plan(plan, target)
        return
    with progress_bar("evaluate", unit="") as progress:
        result = run.run(target, progress)
    typer.echo(result.model_dump_json()) if as_json else print_result(result)


def print_plan(plan: "EvaluationPlan", out: Path) -> None:
    """The plan as a table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("family", "what it measures", "tokens through the subject", title=f"{', '.join(plan.coders)} at {plan.site}", title_justify="left")
    for family in plan.families:
        passes = f"{family.passed_tokens:,}" if family.passed_tokens else ""
        table.add_row(family.name, family.title, f"not measured: {family.not_measured}" if family.not_measured else passes)
    console = Console()
    console.print(table)
    for name, n_tokens in plan.n_tokens.items():
        console.print(f"{name}: up to {n_tokens:,} tokens", highlight=False)
    console.print(f"{plan.captured_tokens:,} tokens are captured, {plan.passed_tokens:,} go through the subject in all; expected: {plan.seconds:.0f} s and "
                  f"what probes and prompts of single families take, into {out}; nothing was done", highlight=False, soft_wrap=True)


def print_result(result: "EvaluationResult") -> None:
    """Values with intervals, a table a family and dataset, controls below; what is missing and why; the next command."""
    from rich.console import Console

    from sparselight.cli.console import own_name
    from sparselight.evaluate import undefined_lines

    console, record = Console(), result.record
    for name, family in record.families.items():
        if family.not_measured:
            console.print(f"{name}: not measured, {family.not_measured}", highlight=False, markup=False, soft_wrap=True)
            continue
        for table in family_tables(record, name, max(2, (console.width - CODER_CHARS) // VALUE_CHARS)):
            console.print(table)
        console.print(f"{name}: {family.seconds:.1f} s, {family.passed_tokens:,} tokens through the subject", style="dim", highlight=False)
    undefined = undefined_lines(record)
    for line in [*record.notes, *undefined[:MOST_FORMS]]:
        console.print(f"- {line}", highlight=False, markup=False, soft_wrap=True)
    if len(undefined) > MOST_FORMS:
        console.print(f"- and {len(undefined) - MOST_FORMS} more that are not defined: see `undefined` in evaluation.json", highlight=False)
    console.print(f"all of it: {result.folder}/evaluation.json, values.parquet, tables/", highlight=False, markup=False, soft_wrap=True)
    console.print(f"next: {result.next_command.replace('sparselight', own_name(), 1)}", highlight=False, markup=False, soft_wrap=True)


def family_tables(record: "EvalRecord", family: str, n_columns: int) -> "list[Table]":
    """One table for each dataset and every `n_columns` metrics: coders are rows, SAEs first."""
    from rich.table import Table

    tables = []
    rows = [row for row in record.rows if row.family == family]
    for dataset in dict.fromkeys(row.dataset for row in rows):
        own = [row for row in rows if row.dataset == dataset]
        forms = list(dict.fromkeys((row.metric, row.setting) for row in own))
        cells = {(row.coder, row.metric, row.setting): row for row in own}
        coders = sorted(dict.fromkeys(row.coder for row in own), key=lambda coder: _is_control(own, coder))
        for start in range(0, min(len(forms), MOST_FORMS), n_columns):
            part = forms[start:min(start + n_columns, MOST_FORMS)]
            hidden = f" ({len(forms) - MOST_FORMS} more in values.parquet)" if len(forms) > MOST_FORMS else ""
            title = f"{record.families[family].title}{f', {dataset}' if dataset else ''}{hidden}"
            table = Table("", *(f"{metric}\n{setting}" if setting else metric for metric, setting in part), title=title, title_justify="left")
            for coder in coders:
                shown = [_cell(cells.get((coder, *form))) for form in part]
                if any(shown):
                    table.add_row(f"{coder} (control)" if _is_control(own, coder) else coder, *shown, style="dim" if _is_control(own, coder) else "")
            tables.append(table)
    return tables


def _is_control(rows: "list[EvalRow]", coder: str) -> bool:
    return any(row.is_control for row in rows if row.coder == coder)


def _cell(row: "EvalRow | None") -> str:
    return "" if row is None else str(row.value).replace("[", "\\[")
