"""`sparselight serve`: run folders as pages in the browser, on this machine."""

import json
import os
import secrets
from pathlib import Path
from typing import Annotated

import typer

from sparselight.cli import options

RUNS = typer.Argument(metavar="RUN...", help="Run folders, finished or not.")
PORT = typer.Option("--port", help="0 takes a free one.")
HOST = typer.Option("--host", help="Address to listen on. Another than 127.0.0.1 lets others in: it needs --share-readonly.")
SHARE = typer.Option("--share-readonly", help="Serve others too: a token is needed, nothing can be edited.")
TOKEN = typer.Option("--token", help="What others show to come in, 16 characters or more; made where left out.", envvar="SPARSELIGHT_SERVE_TOKEN")
ALLOW_HOST = typer.Option("--allow-host", metavar="NAME", help="A name by which the server may be addressed; may be repeated.")
ALLOW_EDITS = typer.Option("--allow-edits", help="Let notes and labels be saved beside the run; on a shared server, let edits be tried.")
NO_OPEN = typer.Option("--no-open", help="Do not open the browser (also: SPARSELIGHT_NO_OPEN=1).")


def serve(
    runs: Annotated[list[Path], RUNS],
    port: Annotated[int, PORT] = 8765,
    host: Annotated[str, HOST] = "127.0.0.1",
    share_readonly: Annotated[bool, SHARE] = False,
    token: Annotated[str, TOKEN] = "",
    allow_hosts: Annotated[list[str] | None, ALLOW_HOST] = None,
    allow_edits: Annotated[bool, ALLOW_EDITS] = False,
    no_open: Annotated[bool, NO_OPEN] = False,
    as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """See, search, compare and turn features in the browser; ends with Ctrl-C."""
    from sparselight.cli.run import show_address
    from sparselight.serve.running import Server
    from sparselight.serve.settings import ServeSettings

    token = token if not share_readonly or token else secrets.token_urlsafe(24)
    settings = ServeSettings.parse({"host": host, "port": port, "share_readonly": share_readonly, "token": token, "allow_hosts": allow_hosts or [],
                                    "allow_edits": allow_edits}, "serve")
    server = Server(runs, settings)
    print_address(server.url, [run.id for run in server.app.state.data.runs.values()], as_json)
    if not no_open and os.environ.get("CI", "") in ("", "0", "false"):
        show_address(server.url)
    server.run()
    typer.echo("stopped", err=True)


def print_address(url: str, runs: list[str], as_json: bool) -> None:
    """Where the pages are, at once: whoever started the command reads it from a pipe."""
    if as_json:
        print(json.dumps({"url": url, "runs": runs}), flush=True)
    else:
        print(f"{len(runs)} run{'s' if len(runs) != 1 else ''} at {url}\nCtrl-C ends it", flush=True)
