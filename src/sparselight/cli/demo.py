"""`sparselight demo`: the whole pipeline on the model that ships with the package and the standard library of this Python."""

from pathlib import Path
from typing import Annotated

from sparselight.cli import options


def demo(
    out: Annotated[Path, options.OUT] = Path("runs/demo"),
    no_open: Annotated[bool, options.NO_OPEN] = False,
    overrides: Annotated[list[str] | None, options.SET] = None,
    until: Annotated[str | None, options.UNTIL] = None,
    dry_run: Annotated[bool, options.DRY_RUN] = False,
    as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """From the Python standard library to a page of named, evidenced features: no network, no GPU, minutes."""
    from sparselight.cli.run import run_recipe

    run_recipe("demo", out, overrides or [], until=until, dry_run=dry_run, as_json=as_json, open_report=not no_open)
