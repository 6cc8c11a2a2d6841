"""`sparselight serve`: run folders as pages in the browser, on this machine."""

import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparselight.cli import options

if TYPE_CHECKING:
    from sparselight.serve.live.config import LiveConfig

RUNS = typer.Argument(metavar="RUN...", help="Run folders, finished or not.")
PORT = typer.Option("--port", help="0 takes a free one.")
HOST = typer.Option("--host", help="Address to listen on. Another than 127.0.0.1 lets others in: it needs --share-readonly.")
SHARE = typer.Option("--share-readonly", help="Serve others too: a token is needed, nothing can be edited.")
TOKEN = typer.Option("--token", help="What others show to come in, 16 characters or more; made where left out.", envvar="SPARSELIGHT_SERVE_TOKEN")
ALLOW_HOST = typer.Option("--allow-host", metavar="NAME", help="A name by which the server may be addressed; may be repeated.")
ALLOW_EDITS = typer.Option("--allow-edits", help="Let notes and labels be saved beside the run; on a shared server, let edits be tried.")
SET = typer.Option("--set", metavar="LIVE.A=B", help="A setting of the model that people try, for example --set live.max_tokens=4096; may be repeated.")
NO_OPEN = typer.Option("--no-open", help="Do not open the browser (also: SPARSELIGHT_NO_OPEN=1).")


def serve(
    runs: Annotated[list[Path], RUNS],
    port: Annotated[int, PORT] = 8765,
    host: Annotated[str, HOST] = "127.0.0.1",
    share_readonly: Annotated[bool, SHARE] = False,
    token: Annotated[str, TOKEN] = "",
    allow_hosts: Annotated[list[str] | None, ALLOW_HOST] = None,
    allow_edits: Annotated[bool, ALLOW_EDITS] = False,
    overrides: Annotated[list[str] | None, SET] = None,
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
                                    "allow_edits": allow_edits}, "serve").model_copy(update={"live": live_settings(overrides or [])})
    server = Server(runs, settings)
    print_address(server.url, [run.id for run in server.app.state.data.runs.values()], as_json)
    if not no_open and os.environ.get("CI", "") in ("", "0", "false"):
        show_address(server.url)
    server.run()
    typer.echo("stopped", err=True)


def live_settings(overrides: list[str]) -> "LiveConfig":
    """The settings of the live model.

    Raises:
        ConfigError: for a setting that is none of it, or a value that it does not take.
    """
    from sparselight.config import apply_overrides
    from sparselight.errors import ConfigError
    from sparselight.serve.live.config import LiveConfig

    given = apply_overrides({"live": {}}, overrides)
    other = next((name for name in given if name != "live"), None)
    if other is not None:
        raise ConfigError(asked=f"set {other}", why="only the model that people try has settings here",
                          instead="write --set live.NAME=VALUE; the rest are options")
    return LiveConfig.parse(given["live"], "live")


def print_address(url: str, runs: list[str], as_json: bool) -> None:
    """Where the pages are, at once: whoever started the command reads it from a pipe."""
    if as_json:
        print(json.dumps({"url": url, "runs": runs}), flush=True)
    else:
        print(f"{len(runs)} run{'s' if len(runs) != 1 else ''} at {url}\nCtrl-C ends it", flush=True)
