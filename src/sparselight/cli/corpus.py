"""`sparselight corpus`: what a corpus holds, before anything is run on it; and entries of UniProt, fetched."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparselight.cli import options

if TYPE_CHECKING:
    from sparselight.corpus import CorpusConfig
    from sparselight.records import CorpusRecord, LabelCount

corpus_app = typer.Typer(no_args_is_help=True, help="Look at a corpus, or fetch one.")


@corpus_app.callback()
def _corpus() -> None:
    pass


@corpus_app.command()
def info(
    path: Annotated[str, typer.Argument(help="A file, a folder, hf://NAME, `stdlib`, or a recipe (.toml), whose [corpus] table is read.")],
    overrides: Annotated[list[str] | None, options.SET] = None,
    as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Read a corpus as a recipe would and say what it holds: sizes, labels, spans, bad rows, duplicates, split."""
    from sparselight.corpus import corpus_record

    record = corpus_record(corpus_config(path, overrides or []))
    typer.echo(record.model_dump_json() if as_json else render_corpus(record))


@corpus_app.command("fetch-uniprot")
def fetch(
    out: Annotated[Path, typer.Argument(help="File to write; its ending (.dat.gz, .tsv.gz, .fasta.gz) is added where it is missing.")],
    query: Annotated[str, typer.Option("--query", help="In UniProt's query language, such as 'reviewed:true AND ft_zn_fing:*'.")] = "",
    form: Annotated[str, typer.Option("--format", help="`txt`: flat file with all features; `tsv`; `fasta`.")] = "txt",
    max_entries: Annotated[int | None, typer.Option("--max-entries", min=1, help="Take the first so many, in order of accession.")] = None,
    ids: Annotated[Path | None, typer.Option("--ids", help="A text file of accessions, one a line, in place of a query.")] = None,
    service: Annotated[str | None, typer.Option("--service", help="Address of another service that speaks the same.")] = None,
    as_json: Annotated[bool, options.JSON] = False,
    debug: Annotated[bool, options.DEBUG] = False,
) -> None:
    """Fetch entries from UniProt; run again, it goes on where it stopped, or fetches nothing where all is there."""
    from sparselight.cli.console import own_name
    from sparselight.cli.harvest import progress_bar
    from sparselight.corpus.protein.fetch import SERVICE, SUFFIX, UniprotRequest, fetch_uniprot
    from sparselight.corpus.sources import Source
    from sparselight.errors import ConfigError, nearest

    if form not in SUFFIX:
        raise ConfigError(asked=f"fetch --format {form}", why="there is no such form", instead=nearest(form, SUFFIX))
    names = [line.strip() for line in Source(ids, ids.name).text().split("\n") if line.strip()] if ids else []
    out = out if out.name.endswith(".gz") else out.with_name(out.name + SUFFIX[form])
    with progress_bar("fetch", unit="") as progress:
        record = fetch_uniprot(UniprotRequest(query, names, form, max_entries, service or SERVICE), out, progress)  # type: ignore[arg-type]
    next_command = f"{own_name()} corpus info {out} --set corpus.kind=protein"
    if as_json:
        typer.echo(json.dumps({**record.model_dump(mode="json", exclude={"pages"}), "out": str(out), "next_command": next_command}))
        return
    missing = f"\nno entry      {len(record.missing_ids):,} ids, such as {', '.join(record.missing_ids[:5])}: obsolete or unknown" if record.missing_ids else ""
    fetched = f"{record.n_fetched_pages:,} of {len(record.pages):,} pages fetched now"
    release = record.release or "(release not said)"
    typer.echo(f"{out}\nentries       {record.n_entries:,} of UniProt {release}; {fetched}{missing}\nnext:         {next_command}")


def corpus_config(path: str, overrides: list[str]) -> "CorpusConfig":
    """The [corpus] table that a path and `corpus.NAME=VALUE` overrides give.

    Raises:
        ConfigError: also for an override of another table.
    """
    from sparselight.config import apply_overrides, load_toml
    from sparselight.corpus import CorpusConfig
    from sparselight.errors import ConfigError

    for override in overrides:
        if not override.strip().startswith("corpus."):
            raise ConfigError(asked=f"apply the override {override!r}", why="only the table corpus is read here", instead="write corpus.NAME=VALUE")
    table = load_toml(Path(path)).get("corpus", {}) if path.endswith(".toml") else {"root": path}
    return CorpusConfig.parse(apply_overrides({"corpus": table}, overrides)["corpus"], "corpus")


def render_corpus(record: "CorpusRecord") -> str:
    """The record as text for people."""
    held = "one side would be empty" if record.n_held_out is None else f"{record.n_held_out:,} examples in {record.n_groups_held_out:,} groups held out"
    lines = [
        f"{record.origin} ({record.kind})",
        f"examples      {record.n_examples:,} in {record.n_groups:,} groups",
        f"characters    {record.n_chars:,}; median {record.median_chars:,.0f}, longest {record.longest_chars:,}",
        f"split         {held}",
        *_counts("label", record.labels), *_counts("span", record.spans),
    ]
    if record.n_images:
        names = ", ".join(f"{name or '(no name)'} {n:,}" for name, n in record.image_names.items())
        lines.insert(3, f"images        {record.n_images:,}: {names}{f'; {record.n_boxes:,} boxes' if record.n_boxes else ''}")
    if record.n_bad_rows:
        lines += [f"left out      {record.n_bad_rows:,} bad rows, such as:", *(f"              {row.where}: {row.why}" for row in record.bad_rows[:5])]
    lines += [f"note          {note}" for note in record.notes]
    if found := record.duplicates:
        done = f"{found.n_dropped:,} dropped" if found.action == "drop" else f"{found.n_groups_joined:,} groups joined to others"
        lines.append(f"duplicates    {found.n_exact:,} exact, {found.n_near:,} near, in {found.n_clusters:,} clusters; {done}")
        if found.n_unchecked:
            lines.append(f"              {found.n_unchecked:,} texts are alike too many others to be compared with all of them")
        for cluster in found.largest[:3]:
            lines.append(f"              {cluster.n_examples:,} x {' '.join(cluster.text.split())[:80]!r} ({', '.join(cluster.ids[:2])}, ...)")
    n_bytes = sum(source.n_bytes for source in record.sources)
    return "\n".join([*lines, f"sources       {len(record.sources):,} files, {n_bytes:,} bytes", f"fingerprint   {record.fingerprint}"])


def _counts(word: str, counts: "list[LabelCount]") -> list[str]:
    shown = (", ".join(f"{value!r} {n:,}" for value, n in count.top.items()) for count in counts)
    return [f"{word:<13} {count.name}: {count.n:,} with {count.n_values:,} values: {top}" for count, top in zip(counts, shown, strict=True)]
