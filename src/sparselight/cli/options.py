"""Options that several verbs share, with one help text each."""

import typer

OUT = typer.Option("--out", "-o", help="Run folder; an interrupted or finished run in it is gone on with.")
NO_OPEN = typer.Option("--no-open", help="Do not open the report in the browser (also: SPARSELIGHT_NO_OPEN=1).")
SET = typer.Option("--set", metavar="A.B=C", help="Override a setting, for example --set train.lr=3e-4; may be repeated.")
UNTIL = typer.Option("--until", metavar="STAGE", help="Stop after this stage.")
DRY_RUN = typer.Option("--dry-run", help="Say what would be done: stages, tokens, bytes, expected time.")
JSON = typer.Option("--json", help="Print one JSON object on stdout; logs go to stderr.")
DEBUG = typer.Option("--debug", help="Show the traceback of an error.")
