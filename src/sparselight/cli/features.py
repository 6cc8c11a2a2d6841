"""`sparselight features`: the catalogue of a run: search, one card, SQL, export."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparselight.cli import options

if TYPE_CHECKING:
    import pyarrow as pa

    from sparselight.interpret import Catalogue
    from sparselight.records import Card, MetricValue

RUN = typer.Argument(metavar="RUN", help="A run folder, or a catalogue.duckdb.")
TEXT = typer.Argument(metavar="[TEXT]", help="Must occur in an explanation, its label, a promoted or suppressed token, or an associated annotation.")
GRADE = typer.Option("--grade", "-g", metavar="A|B|C|D", help="This grade of evidence or a better one.")
SOURCE = typer.Option("--source", metavar="NAME", help="Only latents of this SAE: base, residual.")
SORT = typer.Option("--sort", metavar="KEY", help="grade, f1, domain_ratio, fire_rate, domain_fire_rate, n_fires, max_activation, latent.")
LIMIT = typer.Option("--limit", "-n", min=1, help="The most cards listed.")
DOMAIN = typer.Option("--domain", help="Only latents that fire at least three times as often in the domain as in general.")
LATENT = typer.Option("--latent", "-l", metavar="NUMBER|SOURCE/NUMBER", help="Show the card of one latent.")
SQL = typer.Option("--sql", metavar="QUERY", help="Answer a query instead: tables cards, contexts, explanations, scores, neighbours, associations, edits.")
EXPORT = typer.Option("--export", metavar="PATH", help="Write the catalogue: .csv, .parquet, .jsonl (Neuronpedia), else a folder with every table as Parquet.")
PLOT = typer.Option("--plot", metavar="FILE.svg", help="Draw how many latents reach which held-out F1, trained ones beside controls.")
STRUCTURE = typer.Option("--structure", metavar="FILE", help="With --latent and --plot FILE.svg: draw the latent on a protein chain of a PDB or mmCIF file.")
CHAIN = typer.Option("--chain", metavar="NAME", help="Of --structure; the longest one where left out.")
MAX_ROWS = 200


def features(
    run: Annotated[Path, RUN],
    text: Annotated[str | None, TEXT] = None,
    grade: Annotated[str | None, GRADE] = None,
    source: Annotated[str | None, SOURCE] = None,
    sort: Annotated[str, SORT] = "grade",
    limit: Annotated[int, LIMIT] = 20,
    domain: Annotated[bool, DOMAIN] = False,
    latent: Annotated[str | None, LATENT] = None,
    sql: Annotated[str | None, SQL] = None,
    export: Annotated[Path | None, EXPORT] = None,
    plot: Annotated[Path | None, PLOT] = None,
    structure: Annotated[Path | None, STRUCTURE] = None,
    chain: Annotated[str, CHAIN] = "",
    as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Find features by what is said of them and how well it is proven, and show them."""
    if structure is not None:
        _show_structure(run, structure, chain, latent, source, plot, as_json)
        return
    _refuse_several({"TEXT": text, "--latent": latent, "--sql": sql, "--export": export, "--plot": plot})
    catalogue = open_catalogue(run)
    if export is not None:
        path = catalogue.export(export)
        _print({"export": str(path), "n_cards": len(catalogue)}, as_json, lambda: typer.echo(f"{len(catalogue):,} cards: {path}"))
    elif plot is not None:
        from sparselight.report.evidence_curves import write_evidence_curves

        sentence = write_evidence_curves(catalogue, plot)
        _print({"plot": str(plot), "says": sentence}, as_json, lambda: typer.echo(f"{sentence}\n{plot}"))
    elif sql is not None:
        table = catalogue.sql(sql)
        _print({"rows": table.to_pylist()}, as_json, lambda: print_table(table))
    elif latent is not None:
        card = catalogue.card(*card_name(latent, source, catalogue))
        _print(card.model_dump(mode="json"), as_json, lambda: print_card(card, catalogue.modality))
    else:
        cards = catalogue.search(text, grade=grade, source=source, domain=domain or None, sort=sort, limit=limit)
        _print({"cards": [card.model_dump(mode="json") for card in cards]}, as_json, lambda: print_cards(cards, run))


def _show_structure(run: Path, structure: Path, chain: str, latent: str | None, source: str | None, plot: Path | None, as_json: bool) -> None:
    """Draw a latent on a protein structure."""
    from sparselight.errors import ConfigError
    from sparselight.pipeline.structure import view_structure

    if latent is None or plot is None:
        raise ConfigError(asked=f"draw a feature on {structure}", why=f"no {'feature is named' if latent is None else 'file is named to draw into'}",
                          instead="give --latent base/12 --plot feature.svg")
    view = view_structure(run, latent if "/" in latent or source is None else f"{source}/{latent}", structure, plot, chain)
    active = f"; the most active: {', '.join(view.residues)}" if view.residues else ""
    _print(view.model_dump(mode="json"), as_json,
           lambda: typer.echo(f"{view.feature} fires on {view.n_active} of {view.n_residues} residues of chain {view.chain}{active}\n{plot}"))


def open_catalogue(place: Path) -> "Catalogue":
    """The catalogue of a run folder, or the one in a file or folder by itself."""
    from sparselight.interpret import Catalogue
    from sparselight.pipeline.explaining import run_catalogue

    return run_catalogue(place) if (place / "run.json").is_file() else Catalogue(place)


def card_name(latent: str, source: str | None, catalogue: "Catalogue") -> tuple[str, int]:
    """Source and number of `12` or `residual/12`; without a source, the catalogue's first.

    Raises:
        ConfigError: when it is neither.
    """
    from sparselight.errors import ConfigError

    named, _, number = latent.rpartition("/")
    if not number.isdecimal() or (named and source not in (None, named)):
        raise ConfigError(asked=f"show the latent {latent!r}", why="it is not a number, or its source is not that of --source",
                          instead="write for example --latent residual/12")
    return named or source or catalogue.sources()[0], int(number)


def print_cards(cards: "list[Card]", run: Path) -> None:
    """One line a card."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not cards:
        console.print("no feature fits: leave out a condition, or look at all grades with --sort f1")
        return
    table = Table("feature", "grade", "what it stands for", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("F1 held out", "chance", "fires", "in domain"):
        table.add_column(head, no_wrap=True, justify="right")
    for card in cards:
        said = card.explanation.text if card.explanation else card.grade_why
        f1, chance = (_rounded(card.evidence.f1), f"{card.evidence.control_f1.high or 0:.2f}") if card.evidence else ("", "")
        table.add_row(card.key, card.grade, escape(_one_line(said)), escape(f1), chance, f"{card.fire_rate:.3%}", f"{card.domain_fire_rate:.3%}")
    console.print(table)
    console.print(f"next: sparselight features {run} --latent {cards[0].key}", highlight=False, markup=False, soft_wrap=True)


def print_card(card: "Card", modality: str) -> None:
    """All that is known of one latent."""
    from rich.console import Console

    from sparselight.interpret.renderers import renderer_for

    console, renderer = Console(), renderer_for(modality)

    def say(line: str, style: str = "") -> None:
        console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)

    say(f"{card.key}  grade {card.grade}: {card.explanation.text if card.explanation else 'no explanation'}", "bold")
    say(card.grade_why)
    say(f"fires on {card.n_fires:,} of {card.n_tokens:,} tokens read; {card.fire_rate:.3%} in general, {card.domain_fire_rate:.3%} in the domain; "
        f"largest activation {card.max_activation:.4g}")
    for explanation in card.explanations:
        say(f"{explanation.explainer}: {explanation.text}")
        for score in explanation.scores:
            values = ", ".join(f"{name} {value}" for name, value in score.values.items())
            controls = "; ".join(f"{name} {next(iter(values.values()))}" for name, values in score.controls.items() if values)
            say(f"  {score.scorer}: {values or 'no score: ' + score.why_not}" + (f" (controls: {controls})" if controls else ""))
    for title, listed in (("promotes", card.promotes), ("suppresses", card.suppresses)):
        if listed:
            say(f"{title}: {'  '.join(map(repr, listed))}")
    for title, near in (("nearest directions", card.neighbours), ("nearest of the base SAE", card.parents)):
        if near:
            say(f"{title}: {', '.join(f'{other.key} ({other.cosine:.2f})' for other in near)}")
    for found in card.associations:
        say(f"annotation: {found.kind} {found.label}, F1 {found.f1} (null {found.null_f1:.3g}; {found.dataset}, {found.level})")
    if card.edits:
        say(f"edits tried: {', '.join(card.edits)}")
    for context in card.contexts:
        say(f"[{context.kind}] {context.group}: {_one_line(renderer.prompt(context), 400)}")


def print_table(table: "pa.Table") -> None:
    """An answer of SQL."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = Table(*map(escape, table.column_names), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in table.slice(0, MAX_ROWS).to_pylist():
        shown.add_row(*(escape(_one_line(str(value))) for value in row.values()))
    Console().print(shown)
    if table.num_rows > MAX_ROWS:
        typer.echo(f"{table.num_rows - MAX_ROWS:,} more rows: add LIMIT, or --json for all")


def _rounded(value: "MetricValue") -> str:
    return f"{value.value:.2f}" if value.low is None or value.high is None else f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"


def _one_line(text: str, most: int = 80) -> str:
    from sparselight.interpret.renderers import visible

    line = visible(text)
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _print(value: dict[str, Any], as_json: bool, show: Any) -> None:
    typer.echo(json.dumps(value, default=str)) if as_json else show()


def _refuse_several(given: dict[str, Any]) -> None:
    from sparselight.errors import ConfigError

    several = [name for name, value in given.items() if value is not None]
    if len(several) > 1:
        raise ConfigError(asked=f"look for features with {' and '.join(several)}", why="each is a question of its own", instead=f"give {several[0]} alone")
