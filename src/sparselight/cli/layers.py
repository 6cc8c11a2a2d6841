"""`sparselight layers`: intrinsic dimension of a subject's activations over its layers, as a table and a picture."""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from sparselight.cli import options

SUBJECT = typer.Argument(help="`demo`, a local folder, or a Hugging Face name.")
CORPUS = typer.Argument(help="A file, a folder, hf://NAME, or `stdlib`.")
SITE = typer.Option("--site", help="A site to measure; may be repeated. Default: the residual stream after every layer.")
OUT = typer.Option("--out", "-o", metavar="FOLDER", help="Where layers.json and layers.svg go.")
POINTS = typer.Option("--points", help="`examples`: the mean activation of each example is a point; `tokens`: tokens are.")
N_POINTS = typer.Option("--n-points", min=20, help="Examples, or tokens, that are drawn at random.")


def layers(
    subject: Annotated[str, SUBJECT],
    corpus: Annotated[str, CORPUS],
    sites: Annotated[list[str] | None, SITE] = None,
    out: Annotated[Path, OUT] = Path("layers"),
    points: Annotated[str, POINTS] = "examples",
    n_points: Annotated[int, N_POINTS] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Of the draw.")] = 0,
    overrides: Annotated[list[str] | None, options.SET] = None,
    as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Measure the intrinsic dimension (TwoNN) at every layer: a place to begin when choosing where to train an SAE."""
    from sparselight.cli.console import own_name
    from sparselight.cli.harvest import progress_bar
    from sparselight.cli.harvest_request import read_tables
    from sparselight.corpus import load_corpus
    from sparselight.errors import ConfigError
    from sparselight.pipeline.layers import measure_layers
    from sparselight.subjects import load_subject

    if points not in ("examples", "tokens"):
        raise ConfigError(asked=f"measure layers with --points {points}", why="a point is an example or a token", instead="use examples or tokens")
    tables, _ = read_tables(None, corpus, subject, overrides or [])
    with progress_bar("layers", unit="points") as progress:
        how = cast(Literal["examples", "tokens"], points)
        record = measure_layers(load_subject(tables.subject), load_corpus(tables.corpus), sites, how, n_points, seed, out, progress)
    if as_json:
        typer.echo(record.model_dump_json())
        return
    width = max(len(layer.site) for layer in record.layers)
    for layer in record.layers:
        flat = "  plateau" if layer.site in record.plateau else ""
        typer.echo(f"{layer.site:<{width}}  {layer.dimension:6.1f} [{layer.low:.1f}, {layer.high:.1f}]  slope {layer.slope:6.1f}{flat}")
    typer.echo(f"picture: {out / 'layers.svg'}")
    settings = "".join(f" --set '{override}'" for override in overrides or [])
    typer.echo(f"next: {own_name()} harvest STORE --subject {subject} --corpus {corpus} --site {record.suggestion}{settings}")
