"""`sparselight run`: a recipe, in a run folder, resumed by being run again."""

import json
import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from sparselight.cli import options


def run(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a recipe of the package (demo).")],
    out: Annotated[Path | None, options.OUT] = None,
    overrides: Annotated[list[str] | None, options.SET] = None,
    until: Annotated[str | None, options.UNTIL] = None,
    dry_run: Annotated[bool, options.DRY_RUN] = False,
    as_json: Annotated[bool, options.JSON] = False,
    no_open: Annotated[bool, options.NO_OPEN] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Run a recipe from corpus to report; finished stages are skipped, interrupted ones go on."""
    run_recipe(recipe, out or Path("runs") / Path(recipe).stem, overrides or [], until=until, dry_run=dry_run, as_json=as_json, open_report=not no_open)


def run_recipe(recipe: str, out: Path, overrides: list[str], *, until: str | None, dry_run: bool, as_json: bool, open_report: bool) -> None:
    """What `demo` and `run` share: load, run or estimate, print, open."""
    from sparselight.cli.console import ConsoleWatcher, print_plan, print_result
    from sparselight.errors import ConfigError, nearest
    from sparselight.pipeline import load_recipe, plan, run_pipeline
    from sparselight.vocab import STAGES

    if until is not None and until not in STAGES:
        raise ConfigError(asked=f"stop after --until {until}", why="there is no such stage", instead=nearest(until, STAGES))
    loaded = load_recipe(recipe, overrides)
    if dry_run:
        estimate = plan(loaded, out)
        _emit(estimate.model_dump(mode="json"), as_json, lambda: print_plan(estimate, out))
        return
    with ConsoleWatcher() as watcher:
        result = run_pipeline(loaded, out, until=until, watcher=watcher.watcher())
    _emit(result.model_dump(mode="json"), as_json, lambda: print_result(result, out))
    if open_report and result.report:
        show_in_browser(out / result.report)


def _emit(value: dict[str, Any], as_json: bool, show: Any) -> None:
    if as_json:
        print(json.dumps(value))
    else:
        show()


def show_in_browser(path: Path) -> bool:
    """Open a file where a person can see it; says nothing and does nothing on a machine without a display."""
    return show_address(path.resolve().as_uri())


def show_address(address: str) -> bool:
    """As `show_in_browser`, of an address."""
    headless = sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    if headless or os.environ.get("SPARSELIGHT_NO_OPEN", "") not in ("", "0"):
        return False
    return webbrowser.open(address)
