"""Edits: from records to functions that replace activations.

Owns: which dictionary an edit belongs to, and `edit_functions`, what subjects take. Refuses: latents that the dictionary does not have, a dictionary of
another site, of other weights or of a transcoder, edits of one site that would both keep and drop the error, and whatever `operations` and `where` refuse.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from sparselight.errors import ConfigError, nearest
from sparselight.intervene.operations import WITH_AMOUNT, affine, check_operation
from sparselight.intervene.reading import Dictionary, activation_reader, gather_latents
from sparselight.intervene.splice import Splice, Trigger, coder_changes
from sparselight.intervene.where import check_where, describe, is_everywhere
from sparselight.records import Edit, EditSet

__all__ = ["Dictionary", "as_edits", "check_edit", "edit_function", "edit_functions", "gather_latents", "words"]

Edits = Edit | EditSet | Sequence[Edit] | str | Path
"""An edit, several that act together, or the file of either."""
Coders = Dictionary | Mapping[str, Dictionary]


def edit_function(edit: Edit, coder: Dictionary) -> Splice:
    """The function that applies an edit to activations.

    Error-preserving splice: x' = x + (z' - z) @ W_dec, where z are the latents that the dictionary finds in x and z' the edited
    ones. What the dictionary does not explain, x - decode(z), stays as it is (Marks et al. 2024, "Sparse Feature Circuits", error
    terms; Templeton et al. 2024, "Scaling Monosemanticity", feature steering), and tokens whose latents do not change keep their
    bits. `clamp` and `add` act on every counted token that `where` names, `ablate` and `scale` only where a latent fires. An edit
    without latents gives back x itself (with splice = "replace": what the dictionary makes of x).

    Raises:
        ConfigError: when the edit does not fit the dictionary.
    """
    return splice([edit], {edit.source: coder})


def edit_functions(edits: Edits, coders: Coders) -> dict[str, Splice]:
    """The edits of each site as one function, to be given to a subject.

    Args:
        coders: the dictionary, or dictionaries by the names that the edits give as `source`.

    Raises:
        ConfigError: when an edit does not fit its dictionary, or none of that name is given.
    """
    chosen = as_edits(edits)
    named = coders if isinstance(coders, Mapping) else {edit.source: coders for edit in chosen}
    sites = dict.fromkeys(edit.site for edit in chosen)
    return {site: splice([edit for edit in chosen if edit.site == site], named) for site in sites}


def as_edits(edits: Edits) -> list[Edit]:
    """The single edits of whatever holds edits.

    Raises:
        RunError: when a file is missing, damaged or holds something else.
    """
    if isinstance(edits, str | Path):
        path = Path(edits)
        is_set = f'"{EditSet.KIND}"' in path.read_text(encoding="utf-8", errors="replace")[:100] if path.is_file() else False
        return as_edits(EditSet.load(path) if is_set else Edit.load(path))
    if isinstance(edits, Edit):
        return [edits]
    return list(edits.edits if isinstance(edits, EditSet) else edits)


def splice(edits: Sequence[Edit], coders: Mapping[str, Dictionary]) -> Splice:
    """The edits of one site as one function."""
    grouped: dict[str, list[Edit]] = {}
    for edit in edits:
        name = coder_name(edit.source, coders, words(edit))
        check_edit(edit, coders[name])
        if edit.latents or edit.splice == "replace":
            grouped.setdefault(name, []).append(edit)
    ways = {edit.splice for own in grouped.values() for edit in own}
    if len(ways) > 1:
        raise ConfigError(asked=f"apply {len(edits)} edits at {edits[0].site} together", why="some keep what the dictionary misses and some drop it",
                          instead="give all of them one splice: 'keep_error' or 'replace'")
    parts = []
    for name, own in grouped.items():
        made = [(edit.latents, affine(edit), edit.where, _trigger(edit, name, coders), edit.splice == "replace", words(edit)) for edit in own]
        parts.append(coder_changes(coders[name], made))
    return Splice(parts)


def coder_name(source: str, coders: Mapping[str, Dictionary], asked: str) -> str:
    """Which of several dictionaries an edit means.

    Raises:
        ConfigError: when there is none of that name, or several and no name.
    """
    if source in coders:
        return source
    if not source and len(coders) == 1:
        return next(iter(coders))
    if not source:
        raise ConfigError(asked=asked, why=f"the edit names no dictionary (edit.source), and there are {len(coders)}",
                          instead=f"use one of {', '.join(sorted(coders))}")
    raise ConfigError(asked=asked, why=f"there is no dictionary {source!r} here", instead=nearest(source, coders) if coders else "give that dictionary")


def _trigger(edit: Edit, name: str, coders: Mapping[str, Dictionary]) -> Trigger | None:
    condition = edit.condition
    if condition is None:
        return None
    asked = f"{words(edit)} where latent {condition.latent} fires"
    coder = coders[coder_name(condition.source, coders, asked) if condition.source else name]
    _check_latents([condition.latent], coder, asked)
    _check_site(edit.site, coder, asked)
    return Trigger(activation_reader(coder, torch.tensor([condition.latent])), condition.above, condition.fires)


def words(edit: Edit) -> str:
    """The edit in words, dose included."""
    latents = ", ".join(map(str, edit.latents[:6])) + (f" and {len(edit.latents) - 6} more" if len(edit.latents) > 6 else "")
    preposition = {"clamp": "to ", "scale": "by ", "add": ""}.get(edit.operation, "")
    dose = f" {preposition}{edit.amount:g}{'' if edit.unit == 'absolute' else f' x {edit.unit}'}" if edit.operation in WITH_AMOUNT else ""
    where = "" if is_everywhere(edit.where) else f" at {describe(edit.where)}"
    return f"{edit.operation}{dose} {edit.source + ' ' if edit.source else ''}latents {latents or 'none'} at {edit.site}{where}"


def check_edit(edit: Edit, coder: Dictionary) -> None:
    """Refuse an edit that the dictionary cannot honor.

    Raises:
        ConfigError: naming the value.
    """
    asked = words(edit)
    check_operation(edit, asked)
    check_where(edit.where, asked)
    _check_latents(edit.latents, coder, asked)
    _check_site(edit.site, coder, asked)
    if edit.weights and hasattr(coder, "weights_hash") and coder.weights_hash() != edit.weights:
        raise ConfigError(asked=asked, why="the edit was made for a dictionary with other weights (edit.weights)",
                          instead="give the dictionary that it was made with, or make the edit anew")


def _check_latents(latents: Sequence[int], coder: Dictionary, asked: str) -> None:
    outside = [latent for latent in latents if not 0 <= latent < coder.n_latents]
    if outside:
        raise ConfigError(asked=asked, why=f"latent {outside[0]} is out of range, the dictionary has {coder.n_latents} latents",
                          instead=f"give latents from 0 to {coder.n_latents - 1}")


def _check_site(site: str, coder: Dictionary, asked: str) -> None:
    record = getattr(coder, "record", None)
    if record is not None and record.site != site:
        raise ConfigError(asked=asked, why=f"the dictionary was trained at {record.site}", instead=f"edit at {record.site}, or load a dictionary of {site}")
    if getattr(coder, "is_transcoder", False):
        raise ConfigError(asked=asked, why="the dictionary is a transcoder: its directions belong to other activations than those it reads",
                          instead=f"load an SAE of {site} that was trained without train.target_site")
