"""`sparselight store`: look at a store, check it, mend it, add to it, merge and split."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from sparselight.cli import options
from sparselight.cli.harvest import CORPUS, MAX_TOKENS, RECIPE, SITE, STORE, SUBJECT, progress_bar, report

if TYPE_CHECKING:
    from sparselight.store import RepairReport, StoreInfo

store_app = typer.Typer(no_args_is_help=True, help="Look at a store of activations, check it, mend it, add to it, merge and split.")
SPLIT_FRAC = typer.Option("--held-out-frac", min=0.0, max=1.0, help="Share of groups that are held out.")
SPLIT_SEED = typer.Option("--seed", help="Of the split; the same share and seed divide a corpus alike.")


@store_app.command()
def info(store: Annotated[str, STORE], as_json: Annotated[bool, options.JSON] = False, debug: Annotated[bool, options.DEBUG] = False) -> None:
    """Say what a store holds, finished or not: subject, sites, tokens, bytes, what the number format costs, what was left out."""
    from sparselight.store import store_info

    found = store_info(store)
    typer.echo(found.model_dump_json() if as_json else render_info(found))


@store_app.command()
def verify(store: Annotated[str, STORE], as_json: Annotated[bool, options.JSON] = False, debug: Annotated[bool, options.DEBUG] = False) -> None:
    """Read every file and compare it with its checksum; exit code 1 when something is damaged."""
    from sparselight.store import verify

    damaged = verify(store)
    if as_json:
        print(json.dumps({"store": store, "is_whole": not damaged, "damaged": damaged}))
    else:
        lines = [f"{name}: {damage}" for name, damage in damaged.items()]
        typer.echo("\n".join([*lines, f"next: sparselight store repair {store}"]) if damaged else "all files are what their checksums say")
    if damaged:
        raise typer.Exit(1)


@store_app.command()
def repair(
    store: Annotated[str, STORE],
    corpus: Annotated[str | None, CORPUS] = None,
    subject: Annotated[str | None, SUBJECT] = None,
    sites: Annotated[list[str] | None, SITE] = None,
    overrides: Annotated[list[str] | None, options.SET] = None,
    recipe: Annotated[str | None, RECIPE] = None,
    max_tokens: Annotated[int | None, MAX_TOKENS] = None,
    as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Keep what is whole. Damaged shards are harvested again where the options of the harvest are given as well, else dropped and named."""
    from sparselight.cli.harvest_request import request
    from sparselight.store import repair

    again = None
    if corpus is not None or recipe is not None:
        wanted = request(recipe, corpus, subject, sites or [], overrides or [], max_tokens)

        def again():  # type: ignore[no-untyped-def]
            with progress_bar("repair") as progress:
                return wanted.run(store, progress)

    done = repair(store, again)
    typer.echo(done.model_dump_json() if as_json else render_repair(done))


@store_app.command()
def append(
    store: Annotated[str, STORE],
    corpus: Annotated[str | None, CORPUS] = None,
    subject: Annotated[str | None, SUBJECT] = None,
    overrides: Annotated[list[str] | None, options.SET] = None,
    recipe: Annotated[str | None, RECIPE] = None,
    max_tokens: Annotated[int | None, MAX_TOKENS] = None,
    as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Add the activations of more examples, at the sites and in the number format of the store; readers see them once all are there."""
    from sparselight.cli.harvest_request import request
    from sparselight.store import FolderStore, store_info

    own = list(FolderStore.open(store).manifest.sites)
    wanted = request(recipe, corpus, subject, own, overrides or [], max_tokens)
    with progress_bar("append") as progress:
        wanted.append(store, progress)
    report(store_info(store).model_dump(mode="json"), store, own, as_json)


@store_app.command()
def merge(
    out: Annotated[str, typer.Argument(help="Folder or URL of the new store.")],
    stores: Annotated[list[str], typer.Argument(help="Two or more stores of one subject, token policy, sites and number format.")],
    as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Make one store of several; no example may be in two of them."""
    from sparselight.store import FolderStore, merge, store_info

    opened = [FolderStore.open(store) for store in stores]
    with progress_bar("merge") as progress:
        merge(opened, out, progress)
    report(store_info(out).model_dump(mode="json"), out, list(opened[0].manifest.sites), as_json)


@store_app.command()
def split(
    store: Annotated[str, STORE],
    train: Annotated[str, typer.Argument(help="Folder or URL of the part to train on.")],
    held_out: Annotated[str, typer.Argument(help="Folder or URL of the part that is held out.")],
    held_out_frac: Annotated[float, SPLIT_FRAC] = 0.25,
    seed: Annotated[int, SPLIT_SEED] = 0,
    as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Divide a store by group: no group (file, patient, author) is in both parts."""
    from sparselight.store import FolderStore, split, store_info

    opened = FolderStore.open(store)
    with progress_bar("split") as progress:
        split(opened, train, held_out, held_out_frac, seed, progress)
    parts = {name: store_info(place) for name, place in (("train", train), ("held_out", held_out))}
    if as_json:
        print(json.dumps({name: part.model_dump(mode="json") for name, part in parts.items()}))
    else:
        typer.echo("\n\n".join(render_info(part) for part in parts.values()))


def render_info(info: "StoreInfo") -> str:
    """A store as text for people."""
    shards = f"{info.n_shards:,} shards" if info.is_complete else f"{info.n_shards:,} of {info.n_shards_planned:,} shards: its harvest did not finish"
    parts = f", {info.n_parts} parts" if info.n_parts > 1 else ""
    lines = [
        f"{info.location}",
        f"subject       {info.subject} ({info.subject_fingerprint[:12]})",
        f"sites         {', '.join(f'{site} [{width}]' for site, width in info.sites.items())} in {info.dtype}",
        f"tokens        {info.n_tokens:,} of {info.n_examples:,} examples" + (f" in {info.n_groups:,} groups" if info.n_groups else "") + f"; {shards}{parts}",
        f"on disk       {size(info.n_bytes)}, {info.bytes_per_value:.3f} bytes a value ({100 * info.overhead_frac:.1f} % beyond the values)",
    ]
    if info.rounding_fvu:
        lines.append(f"rounding      costs {', '.join(f'{cost:.1e} of the variance at {site}' for site, cost in info.rounding_fvu.items())}")
    if info.skipped:
        named = ", ".join(example.id for example in info.skipped[:5])
        lines.append(f"skipped       {len(info.skipped):,} examples ({named}{', ...' if len(info.skipped) > 5 else ''}): {info.skipped[0].why}")
    if info.n_massive_tokens:
        lines.append(f"left out      {info.n_massive_tokens:,} tokens of massive norm")
    if info.dropped:
        lines.append(f"dropped       {', '.join(info.dropped)}: damaged, given up by a repair")
    return "\n".join(lines)


def render_repair(done: "RepairReport") -> str:
    """A repair as text for people."""
    if not done.damaged and not done.removed:
        return "nothing is damaged"
    lines = [f"{name}: {damage}" for name, damage in done.damaged.items()]
    for words, names in (("made again", done.rebuilt), ("harvested again", done.harvested), ("unfinished append removed", done.removed)):
        lines += [f"{words}: {', '.join(names)}"] if names else []
    if done.dropped:
        lines.append(f"dropped: {', '.join(done.dropped)}, {done.n_tokens_lost:,} tokens; the harvest, run again, brings them back")
    return "\n".join(lines)


def size(n_bytes: float) -> str:
    """Bytes in the largest fitting unit."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if n_bytes < 1000 or unit == "TB":
            break
        n_bytes /= 1000
    return f"{n_bytes:.3g} {unit}"
