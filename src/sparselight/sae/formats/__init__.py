"""SAEs in everybody's formats: one table, one reader that says what it took for granted, writers that refuse what a format cannot hold.

`load_sae` recognizes the format by the files, applies its conventions and notes them on the SAE (`sae.imported`); what files leave unsaid
is asked, never assumed. `export_sae` writes where outputs stay the same. Refuses: a place that fits no format or several, a tree of SAEs
without saying which, unknown settings.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sparselight.errors import SaeError, nearest
from sparselight.sae.affine import Affine
from sparselight.sae.base import Sae
from sparselight.sae.formats import (
    bionemo,
    circuit_tracer,
    dictionary_learning,
    gemma_scope,
    goodfire,
    interplm,
    interprot,
    llama_scope,
    openai,
    qwen_scope,
    recsae,
    saelens,
    sparsify,
)
from sparselight.sae.formats.format import Format, check_settings, stated
from sparselight.sae.formats.place import WEIGHT_SUFFIXES, Place
from sparselight.sae.formats.writing import new_folder
from sparselight.sae.import_notes import ImportNotes

FORMATS: dict[str, Format] = {form.name: form for form in (
    saelens.FORMAT, sparsify.FORMAT, dictionary_learning.FORMAT, gemma_scope.FORMAT, gemma_scope.FORMAT_2, llama_scope.OLD, llama_scope.FORMAT,
    qwen_scope.FORMAT, openai.FORMAT, goodfire.FORMAT, circuit_tracer.FORMAT, interplm.FORMAT, interprot.FORMAT, bionemo.FORMAT, recsae.FORMAT,
)}
HUB = "hf://"
N_SHOWN, N_LOOKED_AT = 12, 20_000  # SAEs of a tree that a message lists; files looked at before giving up

__all__ = ["FORMATS", "HUB", "Format", "export_sae", "inside_tree", "load_sae", "recognize"]


def load_sae(source: str | Path, **settings: Any) -> Sae:
    """Read an SAE that was saved here or by another library.

    Args:
        source: a folder or file, hf://OWNER/NAME/PATH[@REVISION], or either after `FORMAT:` to name the format (rows of FORMATS).
        settings: what the files do not say, as a refusal asks for it (k=64, normalization='outside', input_scale=...).

    Raises:
        SaeError: when the files are missing or damaged, fit no format, leave a convention open, or hold what an SAE here cannot represent exactly.
    """
    named, rest = split_source(str(source))
    place = open_place(rest)
    form, evidence = FORMATS.get(named), None
    if form is None:
        place, form, evidence = find_one(place)
    checked = check_settings(form, settings, f"load the SAE {place.shown}")
    imported = form.read(place, checked)
    sae, own = imported.sae.requires_grad_(False), dict(imported.conventions)
    if scale := checked.get("input_scale"):
        sae.absorb(Affine(scale), Affine(scale))
        own["scaling"] = f"{own.get('scaling', '')}{'; ' if 'scaling' in own else ''}inputs times {scale:.6g} (input_scale), folded into the weights"
    if sae.record is None:
        sae.imported = ImportNotes(
            source=place.shown, format=form.name, guessed_from=evidence, conventions=stated(sae, own), facts=imported.facts, cautions=list(imported.cautions))
    return sae


def split_source(source: str) -> tuple[str, str]:
    """The format that a source names, empty where it names none, and the rest.

    Raises:
        SaeError: for a prefix that is no format, unless a file of that whole name exists.
    """
    prefix, colon, rest = source.partition(":")
    if not colon or source.startswith(HUB) or "/" in prefix or Path(source).exists():
        return "", source
    if prefix not in FORMATS:
        raise SaeError(asked=f"load the SAE {source}", why=f"{prefix!r} is no format", instead=nearest(prefix, FORMATS))
    return prefix, rest


def open_place(source: str) -> Place:
    if source.startswith(HUB):
        from sparselight.sae.formats.hub import fetch

        path, shown = fetch(source)
        return Place(path, shown)
    return Place(Path(source).expanduser(), source)


def find_one(place: Place) -> tuple[Place, Format, str]:
    """The SAE at a place, or the only one below it, with its format.

    Raises:
        SaeError: when there is none, or several.
    """
    found = recognize(place)
    if not found and place.file is None:
        below = list(inside_tree(place))
        if len(below) > 1:
            shown = ", ".join(inner.path.relative_to(place.path).as_posix() for inner, _ in below[:N_SHOWN])
            more = f" and {len(below) - N_SHOWN} more" if len(below) > N_SHOWN else ""
            raise place.refuse(f"it holds {len(below)} SAEs: {shown}{more}", f"give the path of one, for example {below[0][0].shown}")
        if below:
            place, found = below[0]
    if not found:
        if file := place.weight_file(*(f"*{suffix}" for suffix in WEIGHT_SUFFIXES)):
            place.content(file)  # a damaged file says so itself
        raise place.refuse("its files are those of no format known here", f"name the format (FORMAT:{place.shown}), one of {', '.join(FORMATS)}")
    if len(found) > 1:
        several = ", ".join(f"{form.name} (by {by})" for form, by in found)
        raise place.refuse(f"its files fit several formats: {several}", f"name one: {found[0][0].name}:{place.shown}")
    return place, *found[0]


def recognize(place: Place) -> list[tuple[Format, str]]:
    """Formats that a place fits, each with what it was recognized by."""
    results = ((form, form.recognize(place)) for form in FORMATS.values())
    return [(form, by) for form, by in results if by is not None]


def inside_tree(place: Place) -> Iterator[tuple[Place, list[tuple[Format, str]]]]:
    """SAEs below a folder, in order; a folder that is one is not looked into. Links are not followed."""
    n_seen = 0

    def walk(folder: Path) -> Iterator[tuple[Place, list[tuple[Format, str]]]]:
        nonlocal n_seen
        for path in sorted(folder.iterdir(), key=natural):
            n_seen += 1
            if n_seen > N_LOOKED_AT or (path.is_symlink() and not path.is_file()) or path.name.startswith("."):
                continue
            if path.is_dir() or path.suffix in WEIGHT_SUFFIXES:
                inner = Place(path, f"{place.shown.rstrip('/')}/{path.relative_to(place.path).as_posix()}")
                found = recognize(inner)
                if found:
                    yield inner, found
                elif path.is_dir():
                    yield from walk(path)

    yield from walk(place.path)


def natural(path: Path) -> list[tuple[int, str]]:
    """Order in which layer 2 stands before layer 10."""
    import re

    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]


def export_sae(sae: Sae, folder: str | Path, form: str) -> list[str]:
    """Write an SAE as another library keeps it; returns what was rewritten for that and what is lost, in sentences.

    Raises:
        SaeError: when the format cannot say what the SAE computes, is not written here, or something is there already.
    """
    if form not in FORMATS:
        raise SaeError(asked=f"write an SAE as {form!r}", why="there is no such format", instead=nearest(form, writable()))
    write: Callable[..., Any] | None = FORMATS[form].write
    if write is None:
        raise SaeError(asked=f"write an SAE as {form}", why="that format is only read", instead=f"use one of {', '.join(writable())}")
    with new_folder(Path(folder).expanduser()) as temporary:
        done = write(sae, temporary)
    lost = ["its record (training, counts, parents) is not kept: the format has no place for it"] if sae.record is not None and form != "saelens" else []
    return [*done.changed, *lost]


def writable() -> list[str]:
    return [name for name, form in FORMATS.items() if form.write is not None]
