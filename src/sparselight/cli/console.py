"""What a person sees in the terminal: one progress bar a stage with an ETA, the plan of a dry run, the result of a run."""

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from sparselight.pipeline import Plan, Result, Watcher
from sparselight.protocols import Progress as ProgressCall
from sparselight.records import StageRecord

LOG_EVERY_S = 10.0


class ConsoleWatcher:
    """Shows a run on stderr: live bars on a terminal, a line every few seconds elsewhere."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.bars = Progress(
            TextColumn("{task.description:<10}"), BarColumn(bar_width=30), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(),
            TextColumn("eta"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=self.console, disable=not self.console.is_terminal,
        )
        self.tasks: dict[str, TaskID] = {}
        self.logged_at = time.monotonic()

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.bars.stop()

    def watcher(self) -> Watcher:
        return Watcher(self.begins, self.ends, self.progress)

    def begins(self, name: str, finished: bool) -> None:
        if not finished:
            self.tasks[name] = self.bars.add_task(name, total=1.0, note="")
            self._log(f"{name}: begins")

    def ends(self, record: StageRecord) -> None:
        if record.stage in self.tasks:
            self.bars.update(self.tasks[record.stage], completed=1.0, note=headline(record))
            self._log(f"{record.stage}: {record.wall_s:.1f} s; {headline(record)}")
        else:
            self.console.print(f"{record.stage:<10} [dim]finished before ({record.wall_s:.0f} s)[/dim]", highlight=False)

    def progress(self, name: str) -> ProgressCall:
        def report(done: float, total: float, note: str = "") -> None:
            fraction = done / max(total, 1e-9)
            self.bars.update(self.tasks[name], completed=fraction, note=note)
            if time.monotonic() - self.logged_at > LOG_EVERY_S:
                self._log(f"{name}: {100 * fraction:.0f} % {note}")

        return report

    def _log(self, line: str) -> None:
        self.logged_at = time.monotonic()
        if not self.console.is_terminal:
            self.console.print(line, highlight=False, markup=False)


def headline(record: StageRecord) -> str:
    """A finished stage in a few words."""
    summary = record.summary
    words = {
        "corpus": "{n_examples:,} examples in {n_groups:,} files", "select": "{n_examples:,} examples, {n_tokens:,} tokens of the domain",
        "harvest": "{general_train_tokens:,} + {domain_train_tokens:,} tokens at {site}", "train": "{n_latents:,} latents, l0 {l0:.1f}",
        "residual": "{n_latents:,} latents, l0 {l0:.1f}", "explain": "{n_supported:,} of {n_cards:,} features with evidence",
    }
    try:
        return words.get(record.stage, "").format(**summary)
    except (KeyError, ValueError):
        return ""


def expected(seconds: float | None) -> str:
    return "not known yet" if seconds is None else f"{seconds:.0f} s"


def total(seconds: float, parts: Sequence[float | None]) -> str:
    """The sum of what is known."""
    return f"{'over ' if None in parts else ''}{seconds:.0f} s"


def print_plan(plan: Plan, out: Path) -> None:
    console = Console()
    table = Table("stage", "state", "tokens", "bytes on disk", "expected", title=f"{plan.name} in {out}", title_justify="left")
    for row in plan.rows:
        tokens = f"{row.n_tokens:,}" if row.n_tokens else ""
        table.add_row(row.stage, "finished" if row.finished else "to do", tokens, _bytes(row.n_bytes), expected(row.seconds))
    console.print(table)
    console.print(f"expected: {total(plan.seconds, [row.seconds for row in plan.rows])} and {_bytes(plan.n_bytes)} on this machine; nothing was done")


def print_result(result: Result, out: Path) -> None:
    console = Console()
    for line in result.headline:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    total = sum(result.wall_s.values())
    console.print(f"stages took {total:.0f} s in all", highlight=False)
    console.print(f"next:   {result.next_command.replace('sparselight', own_name(), 1)}", highlight=False, markup=False, soft_wrap=True)
    if result.report:
        console.print(f"report: {(out / result.report).resolve()}", highlight=False, markup=False, soft_wrap=True)


def own_name() -> str:
    """How this command can be called again: by name where the shell finds it, else by its path."""
    if shutil.which("sparselight"):
        return "sparselight"
    return f"{sys.executable} -m sparselight" if sys.argv[0].endswith("__main__.py") else sys.argv[0]


def _bytes(n: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            return f"{n:.0f} {unit}" if n else ""
        n /= 1000
    return ""
