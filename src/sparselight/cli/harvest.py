"""`sparselight harvest`: activations of a corpus at some sites of a subject, into a store; gone on with by being run again."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparselight.cli import options

if TYPE_CHECKING:
    from sparselight.cli.harvest_request import HarvestEstimate
    from sparselight.protocols import Progress

STORE = typer.Argument(help="Folder or URL (s3://...) of the store.")
CORPUS = typer.Option("--corpus", metavar="PATH", help="A file, a folder, hf://NAME, or `stdlib`; its kind goes by its ending, or --set corpus.kind=...")
SUBJECT = typer.Option("--subject", metavar="SOURCE", help="`demo`, a local folder, or a Hugging Face name.")
RECIPE = typer.Option("--recipe", metavar="FILE", help="Take the tables corpus, subject and harvest of a recipe first.")
MAX_TOKENS = typer.Option("--max-tokens", min=1, help="Draw whole examples at random up to about so many tokens.")
SITE = typer.Option("--site", help="Where in the model, for example resid_post.12; may be repeated: all are stored in one pass.")


def harvest(
    store: Annotated[str, STORE],
    corpus: Annotated[str | None, CORPUS] = None,
    subject: Annotated[str | None, SUBJECT] = None,
    sites: Annotated[list[str] | None, SITE] = None,
    overrides: Annotated[list[str] | None, options.SET] = None,
    recipe: Annotated[str | None, RECIPE] = None,
    max_tokens: Annotated[int | None, MAX_TOKENS] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done: tokens, bytes, expected time.")] = False,
    as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Store the activations of a corpus; an interrupted or damaged store is gone on with, or mended, by running the same command again."""
    from sparselight.cli.harvest_request import request
    from sparselight.store import store_info

    wanted = request(recipe, corpus, subject, sites or [], overrides or [], max_tokens)
    if dry_run:
        estimate = wanted.estimate(store)
        typer.echo(estimate.model_dump_json() if as_json else render_estimate(estimate))
        return
    with progress_bar("harvest") as progress:
        wanted.run(store, progress)
    report(store_info(store).model_dump(mode="json"), store, list(wanted.sites), as_json)


@contextmanager
def progress_bar(name: str, unit: str = "tokens") -> "Iterator[Progress]":
    """A bar on a terminal, a line now and then elsewhere, on stderr; with time left, and speed where the work is counted in a unit."""
    from sparselight.cli.console import ConsoleWatcher

    with ConsoleWatcher() as watcher:
        watcher.begins(name, False)
        show, began, first = watcher.progress(name), time.monotonic(), None

        def progress(done: float, total: float, note: str = "") -> None:
            nonlocal first
            first = done if first is None else first  # what stood there before was not made at this speed
            rate = (done - first) / max(time.monotonic() - began, 1e-9)
            speed = f", {rate:,.0f} {unit}/s" if unit else ""
            left = f"{speed}, {(total - done) / rate:,.0f} s left" if rate > 0 and done < total else ""
            show(done, total, f"{note}{left}")

        yield progress


def report(info: dict[str, Any], store: str, sites: list[str], as_json: bool) -> None:
    """What now stands there, and the next command."""
    from sparselight.cli.console import own_name
    from sparselight.cli.store import render_info
    from sparselight.store import StoreInfo

    site = f" --site {sites[0]}" if len(sites) > 1 else ""
    next_command = f"sparselight train {store}{site}"
    if as_json:
        print(json.dumps({**info, "next_command": next_command}))
        return
    typer.echo(render_info(StoreInfo.model_validate(info)))
    typer.echo(f"next:         {next_command.replace('sparselight', own_name(), 1)}")


def render_estimate(estimate: "HarvestEstimate") -> str:
    """The estimate as text for people."""
    from sparselight.cli.store import size

    sites = ", ".join(f"{site} [{width}]" for site, width in estimate.sites.items())
    done = f"; {estimate.n_shards_finished} of them are finished" if estimate.n_shards_finished else ""
    return "\n".join([
        f"store         {estimate.store}: {sites} in {estimate.dtype}",
        f"tokens        {estimate.n_tokens:,} of {estimate.n_examples:,} examples, in {estimate.n_shards:,} shards{done}",
        f"on disk       {size(estimate.n_bytes)}",
        f"expected      {estimate.seconds:,.0f} s at {estimate.tokens_per_s:,.0f} tokens/s on this machine; nothing was done",
    ])
