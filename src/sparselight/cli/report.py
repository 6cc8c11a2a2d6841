"""`sparselight report`: the explorer's pages of a run as one file, to send to a colleague."""

import json
from pathlib import Path
from typing import Annotated

import typer

from sparselight.cli import options

RUN = typer.Argument(metavar="RUN", help="A run folder whose features are explained.")
OUT = typer.Option("--out", "-o", metavar="FILE", help="The file. Default: RUN.html in the current folder.")
N_FEATURES = typer.Option("--features", min=0, max=5000, help="How many features have a page: half of them of the domain, the rest by grade of evidence.")
FEATURE = typer.Option("--feature", metavar="SAE/LATENT", help="A feature that has a page in any case, such as base/12; may be repeated.")
MAX_MB = typer.Option("--max-mb", min=0.2, max=200.0, help="Largest size of the file; what is cut to keep it is said on the page.")
OPEN = typer.Option("--open", help="Open the page in the browser.")


def report(
    run: Annotated[Path, RUN],
    out: Annotated[Path | None, OUT] = None,
    n_features: Annotated[int, N_FEATURES] = 200,
    features: Annotated[list[str] | None, FEATURE] = None,
    max_mb: Annotated[float, MAX_MB] = 10.0,
    open_page: Annotated[bool, OPEN] = False,
    as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Freeze the explorer's pages of a run into one file that opens from disk, with search inside it."""
    from sparselight.cli.run import show_in_browser
    from sparselight.serve.frozen import freeze

    path = out or Path(f"{run.resolve().name}.html")
    result = freeze(run, path, n_features, features or (), int(max_mb * 1_000_000))
    if as_json:
        typer.echo(json.dumps({**result._asdict(), "path": str(result.path)}))
    else:
        typer.echo(f"page: {result.path.resolve()} ({result.n_bytes / 1e6:.1f} MB)")
        for words in result.cut:
            typer.echo(words)
    if open_page:
        show_in_browser(result.path)
