"""The command line: one short file a verb. Results go to stdout, progress and logs to stderr; user errors end with exit code 2."""

import json
import sys
from typing import Annotated

import typer

from sparselight import __version__
from sparselight.cli.compare import compare
from sparselight.cli.concepts import concepts
from sparselight.cli.convert import convert
from sparselight.cli.corpus import corpus_app
from sparselight.cli.demo import demo
from sparselight.cli.doctor_command import doctor_command
from sparselight.cli.evaluate import evaluate
from sparselight.cli.explain import explain
from sparselight.cli.features import features
from sparselight.cli.harvest import harvest
from sparselight.cli.layers import layers
from sparselight.cli.push import push
from sparselight.cli.report import report
from sparselight.cli.run import run
from sparselight.cli.select import select
from sparselight.cli.serve import serve
from sparselight.cli.specialise import specialise
from sparselight.cli.steer import steer
from sparselight.cli.store import store_app
from sparselight.cli.train import train
from sparselight.cli.tune import tune
from sparselight.errors import SparselightError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]},
    help="Find, name, test and steer the features inside any PyTorch model with sparse autoencoders.",
)
app.command()(demo)
app.command()(run)
app.command("doctor")(doctor_command)
app.command()(select)
app.command()(harvest)
app.command()(layers)
app.command()(train)
app.command()(specialise)
app.command()(evaluate)
app.command()(explain)
app.command()(steer)
app.command()(compare)
app.command()(features)
app.command()(serve)
app.command()(report)
app.command()(concepts)
app.command()(tune)
app.command()(convert)
app.command()(push)
app.add_typer(corpus_app, name="corpus")
app.add_typer(store_app, name="store")


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    _version_wanted: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `sparselight` command."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        sys.exit(app(args=arguments, standalone_mode=False) or 0)
    except SparselightError as err:
        if "--debug" in arguments:
            raise
        if "--json" in arguments:
            print(json.dumps(err.to_dict()))
        print(f"sparselight: {err}", file=sys.stderr)
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        print("sparselight: interrupted. Finished stages and checkpoints are kept: run the same command again to go on.", file=sys.stderr)
        sys.exit(130)
    except Exception as err:
        if not (hasattr(err, "show") and hasattr(err, "exit_code")):  # the usage errors of typer's own copy of click
            raise
        err.show()
        sys.exit(2)
