"""`sparselight train`: one SAE or a sweep on a store, gone on with by being run again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparselight.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from sparselight.pipeline.training import TrainPlan, TrainResult

SOURCE = typer.Argument(help="Folder or URL of a store, or a run folder, whose general training store is taken.")
RECIPE = typer.Option(
    "--recipe", "-r", metavar="NAME|FILE",
    help="What is trained: a TOML file with a table `train`, or tables `sweep.NAME` that change it, one an SAE; or a recipe of the package: relu, gated, "
    "jump_relu, topk, batch_topk, matryoshka, transcoder, skip_transcoder, orthogonal, orthogonal_every_5, tilted, residual, residual_silent, finetune, "
    "finetune_tilted, extended_random, extended_most_active, recsae, sweep. Default: batch_topk; finetune with --init.")
OUT = typer.Option(
    "--out", "-o", metavar="FOLDER",
    help="Where SAEs, logs and checkpoints go: `sae` in it, for a sweep `NAME/sae`. An interrupted training in it is gone on with. Default: saes/RECIPE.")
SITE = typer.Option("--site", help="Which site of the store is read; needed where it holds several.")
SET = typer.Option(
    "--set", metavar="A.B=C",
    help="Override a setting: --set train.k=8, --set train.objective.l1=0.1, --set sweep.NAME.lr=1e-3; may be repeated. All: docs/reference/recipe.md.")
BASE = typer.Option("--base", metavar="SAE_FOLDER", help="Train residual SAEs on what this frozen SAE leaves.")
INIT = typer.Option(
    "--init", metavar="SAE", help="Go on training from this SAE (fine-tuning): a folder, or whatever `convert` reads, such as hf://OWNER/NAME/PATH. What the "
    "recipe leaves open, architecture and width first, is taken from it.")
SILENT = typer.Option("--silent", metavar="STORE", help="Where train.silent_frac of each batch comes from: rows on which a residual SAE shall give back 0.")
BEST = typer.Option("--best", help="Save the best state of each SAE too, in `best` beside `sae` (needs train.best_every_steps).")


def train(
    source: Annotated[str, SOURCE],
    recipe: Annotated[str | None, RECIPE] = None,
    out: Annotated[Path | None, OUT] = None,
    site: Annotated[str | None, SITE] = None,
    overrides: Annotated[list[str] | None, SET] = None,
    base: Annotated[Path | None, BASE] = None,
    init: Annotated[str | None, INIT] = None,
    silent: Annotated[str | None, SILENT] = None,
    best: Annotated[bool, BEST] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done: SAEs, steps, bytes, expected time.")] = False,
    as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Train SAEs on stored activations: all that a recipe names at once, on one stream.

    Interrupt it whenever you like: the same command goes on from the last checkpoint and comes to the same weights, bit for bit. The log is
    log.jsonl in each SAE's folder; --set 'train.log_to=["tensorboard"]' shows it in TensorBoard too (or wandb, trackio).
    """
    from sparselight.cli.harvest import progress_bar
    from sparselight.pipeline.train_recipe import load_train_recipe
    from sparselight.pipeline.training import TrainRun

    recipe = recipe or ("batch_topk" if init is None else "finetune")
    run = TrainRun(source, load_train_recipe(recipe, overrides or []), out or Path("saes") / Path(recipe).stem, site, base, init, silent)
    if dry_run:
        plan = run.plan()
        typer.echo(plan.model_dump_json()) if as_json else print_plan(plan)
        return
    with progress_bar("train") as progress:
        result = run.run(progress, best)
    typer.echo(json.dumps(result.model_dump(mode="json"))) if as_json else print_result(result)


def print_plan(plan: "TrainPlan") -> None:
    """The plan as a table."""
    from rich.console import Console
    from rich.table import Table

    from sparselight.cli.store import size

    heads = ("SAE", "architecture", "latents", "tokens", "steps", "state", "on disk", "expected")
    table = Table(*heads, title=f"{plan.site} of {plan.store}", title_justify="left")
    for sae in plan.saes:
        state = "finished" if sae.finished else f"goes on at step {sae.done_steps:,}" if sae.done_steps else "to do"
        counts = (f"{sae.n_latents:,}", f"{sae.n_tokens:,}", f"{sae.n_steps:,}")
        table.add_row(sae.name, sae.architecture, *counts, state, size(sae.n_bytes), f"{sae.seconds:.0f} s")
    console = Console()
    console.print(table)
    console.print(f"the store holds {plan.n_store_tokens:,} tokens; expected: {plan.seconds:.0f} s on {plan.device}; nothing was done", highlight=False)
    print_notes(console, {sae.name: sae.notes for sae in plan.saes})


def print_notes(console: "Console", notes: Mapping[str, list[str]]) -> None:
    """What the records say beside the numbers."""
    for name, sentences in notes.items():
        for sentence in sentences:
            console.print(f"{name}: {sentence}", highlight=False, markup=False, soft_wrap=True)


def print_result(result: "TrainResult") -> None:
    """What came of it, and the next command."""
    from rich.console import Console
    from rich.table import Table

    from sparselight.cli.console import own_name

    title = f"trained at {result.site}; fvu of the last training batches"
    table = Table("SAE", "architecture", "latents", "fvu", "l0", "dead", title=title, title_justify="left")
    for sae in result.saes:
        table.add_row(sae.name, sae.architecture, f"{sae.n_latents:,}", f"{sae.fvu:.4f}", f"{sae.l0:.1f}", f"{sae.n_dead:,}")
    console = Console()
    console.print(table)
    for sae in result.saes:
        console.print(f"{sae.name}: {sae.folder}{f', best: {sae.best}' if sae.best else ''}", highlight=False, markup=False, soft_wrap=True)
    print_notes(console, {sae.name: sae.notes for sae in result.saes})
    command = result.next_command
    if command.startswith("sparselight "):
        command = command.replace("sparselight", own_name(), 1)
    console.print(f"next: {command}", highlight=False, markup=False, soft_wrap=True)
