"""`sparselight doctor`: prints what `doctor.py` finds; exit code 1 when something is missing that the demo needs."""

from typing import Annotated

import typer

from sparselight.cli import options


def doctor_command(as_json: Annotated[bool, options.JSON] = False, debug: Annotated[bool, options.DEBUG] = False) -> None:
    """Say what is installed, what hardware is seen, and which extras are missing for what."""
    from sparselight.cli.doctor import doctor, render_doctor

    report = doctor()
    typer.echo(report.model_dump_json() if as_json else render_doctor(report))
    if report.problems:
        raise typer.Exit(1)
