"""`sparselight compare`: evaluated SAEs side by side, as one page, one table and one record."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparselight.cli import options

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from sparselight.pipeline.comparison import CompareResult
    from sparselight.report.compare_data import Column, Comparison, Row

SOURCES = typer.Argument(help="Evaluations: their files or folders, run folders, folders of evaluated SAEs. One is enough where it holds several SAEs.")
OUT = typer.Option("--out", "-o", metavar="FOLDER", help="Where comparison.html, comparison.json and comparison.parquet go. Default: comparisons/NAMES.")
ANYWAY = typer.Option("--anyway", help="Compare also what was not measured on the same subject, site, tokens, seed or settings; the page says what differs.")
OPEN = typer.Option("--open", help="Open the page in the browser.")
MAX_ROWS = 30
METRIC_CHARS, VALUE_CHARS = 30, 9  # widths in the terminal


def compare(
    sources: Annotated[list[str], SOURCES],
    out: Annotated[Path | None, OUT] = None,
    anyway: Annotated[bool, ANYWAY] = False,
    open_page: Annotated[bool, OPEN] = False,
    as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Put evaluated SAEs side by side: a table, Pareto fronts over l0, controls, and which differences are clear.

    SAEs that differ in nothing but the seed of their training become one column, with a mean and an interval over seeds.
    """
    from sparselight.cli.run import show_in_browser
    from sparselight.pipeline.comparison import compare as make
    from sparselight.pipeline.comparison import default_folder, write

    comparison = make(sources, anyway)
    result = write(comparison, out or default_folder(comparison))
    typer.echo(json.dumps(result.model_dump(mode="json"))) if as_json else print_result(result)
    if open_page:
        show_in_browser(Path(result.page))


def print_result(result: "CompareResult") -> None:
    """The table, where the page is, and the next command."""
    from rich.console import Console
    from rich.markup import escape

    console, comparison = Console(), result.comparison
    for mismatch in comparison.mismatches:
        console.print(f"[bold yellow]not measured alike[/]: {escape(mismatch)}", highlight=False, soft_wrap=True)
    print_table(comparison, console)
    console.print(f"page: {Path(result.page).resolve()}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"data: {result.data}, {result.table}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"next: {result.next_command}", highlight=False, markup=False, soft_wrap=True)


def print_table(comparison: "Comparison", console: "Console") -> None:
    """The first metrics of as many columns as there is room for, SAEs before controls."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from sparselight.report.compare_fronts import first_forms

    heads = _heads(comparison, console.width - METRIC_CHARS)
    for column, head in heads:
        if head != column.name:
            console.print(f"{head}: {column.name}{', control' if column.is_control else ''}", highlight=False, markup=False)
    table = Table(title=escape(f"{comparison.site} of {comparison.subject}"), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("metric", max_width=METRIC_CHARS)
    for column, head in heads:
        table.add_column(escape(head), justify="right", style="dim" if column.is_control else None)
    rows = [row for row in comparison.rows if any(column.name in row.values for column in comparison.saes)]
    shown = first_forms(rows)[:MAX_ROWS]
    for row in shown:
        arrow = {"lower": " \u2193", "higher": " \u2191"}.get(row.better, "")
        table.add_row(escape(f"{row.metric}{arrow} {row.where}".strip()), *(_cell(row, column) for column, _ in heads))
    console.print(table)
    console.print("\u2193 lower, \u2191 higher is better. *: best, and the interval of its difference to the next best leaves out 0", style="dim",
                  highlight=False)
    left_out = {"row": len(rows) - len(shown), "SAE": len(comparison.saes) - sum(not column.is_control for column, _ in heads),
                "control": len(comparison.controls) - sum(column.is_control for column, _ in heads)}
    words = [f"{n} {name}{'' if n == 1 else 's'}" for name, n in left_out.items() if n > 0]
    if words:
        console.print(f"on the page besides: {', '.join(words)}", highlight=False)


def _heads(comparison: "Comparison", width: int) -> "list[tuple[Column, str]]":
    """Columns with their heads: all by name, or by number where names do not fit; controls are the first to be left out, then SAEs."""
    columns = comparison.columns
    by_name = [(column, column.name) for column in columns]
    by_number = [(column, str(number)) for number, column in enumerate(columns, 1)]
    for heads in (by_name, by_number, by_name[: len(comparison.saes)], by_number[: len(comparison.saes)]):
        if sum(max(len(head), VALUE_CHARS) + 1 for _, head in heads) <= width:
            return heads
    return by_number[: max(1, width // (VALUE_CHARS + 1))]


def _cell(row: "Row", column: "Column") -> "Text":
    from rich.text import Text

    from sparselight.report.numbers import DASH, number

    value = row.values.get(column.name)
    if value is None:
        return Text("undefined" if column.name in row.undefined else DASH, style="dim")
    is_best = column.name == row.best and row.is_clear
    return Text(f"{number(value.value)}{' *' if is_best else ''}", style="bold" if is_best else "")
