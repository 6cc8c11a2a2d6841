"""`sparselight concepts`: what the latents of a recommender stand for in items, with confidence on other users."""

from pathlib import Path
from typing import Annotated

import typer

from sparselight.cli import options

RUN = typer.Argument(help="Folder of a run on a recommender whose SAEs are trained.")
SOURCE = typer.Option("--source", metavar="SAE", help="Which SAE: base, residual, stitched.")
ROUTE = typer.Option("--route", metavar="NAME", help="Concepts that are listed: label, terms, items.")
TOP = typer.Option("--top", min=0, help="How many concepts are listed, the most confident first.")
SETTINGS = typer.Option("--set", metavar="A=B", help="A setting of ItemConceptsConfig, for example --set protocol=recsae; may be repeated.")


def concepts(
    run: Annotated[Path, RUN], source: Annotated[str, SOURCE] = "base", route: Annotated[str, ROUTE] = "label", top: Annotated[int, TOP] = 20,
    settings: Annotated[list[str] | None, SETTINGS] = None, as_json: Annotated[bool, options.JSON] = False, debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Name the latents of a recommender by items: labels, words or lists, tested on users that they were not found on, beside controls."""
    from sparselight.config import apply_overrides
    from sparselight.errors import ConfigError, nearest
    from sparselight.interpret.item_concepts import ItemConceptsConfig
    from sparselight.interpret.item_concepts.dictionary import ROUTES
    from sparselight.pipeline.item_concepts import run_concepts

    if route not in ROUTES:
        raise ConfigError(asked=f"list concepts of --route {route}", why="there is no such route", instead=nearest(route, ROUTES))
    record, path = run_concepts(run, ItemConceptsConfig.parse(apply_overrides({}, settings or []), "item_concepts"), source)
    if as_json:
        print(record.model_dump_json())
        return
    _print(record, path, route, top)


def _print(record: object, path: Path, route: str, top: int) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    from sparselight.records.item_concepts import ConceptDictionaryRecord

    assert isinstance(record, ConceptDictionaryRecord)
    console = Console()
    summary = Table(Column("coder", no_wrap=True), Column("route"), Column("scored", no_wrap=True), "confidence", "recall", "TNR", ">= 0.8", ">= 0.9",
                    box=None, padding=(0, 1))
    for row in record.summaries:
        numbers = [row.confidence.value if row.confidence else None, row.recall, row.true_negative_rate]
        summary.add_row(row.coder, row.route, f"{row.n_scored} of {row.n_latents}", *("" if value is None else f"{value:.2f}" for value in numbers),
                        str(row.n_at_80), str(row.n_at_90))
    console.print(summary)
    console.print()
    listed = Table("latent", "concept", "confidence", "tested", "items", box=None, padding=(0, 1))
    for one in sorted((one for one in record.concepts if one.route == route), key=lambda one: (-one.confidence, one.latent))[:top]:
        listed.add_row(str(one.latent), one.text, f"{one.confidence:.2f}", f"{one.n_positive} + {one.n_negative}", "; ".join(one.top_items[:3]))
    console.print(listed)
    for note in record.notes:
        console.print(note, highlight=False, markup=False)
    console.print(f"written: {path}", highlight=False, markup=False)
