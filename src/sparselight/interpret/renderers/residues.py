"""How the contexts of a protein latent look: residues with their positions in the sequence, and the annotations that cover them.

Positions are those of biology: the first residue of a sequence is 1. Refuses nothing.
"""

from itertools import groupby

from sparselight.interpret.renderers.marks import escaped, marked, span
from sparselight.records import Context


class ResiduesRenderer:
    """Renders windows of sequences."""

    def html(self, context: Context) -> str:
        """Residues colored by activation, each with its position and annotations as title, between the window's ends; then the annotations."""
        residues = []
        for index, residue in enumerate(context.tokens):
            said = f"{residue.strip()}{position_of(context, index)}"
            marks = context.marks[index] if context.marks else ""
            residues.append(span(context, index, residue.strip() or residue, f"{said} {marks}".strip()))
        lines = "".join(f'<span class="mark">{escaped(line)}</span>' for line in annotation_lines(context))
        ends = (f'<span class="position">{position_of(context, index)}</span>' for index in (0, len(context.tokens) - 1))
        return f"{next(ends)}{''.join(residues)}{next(ends)}{lines}" if context.tokens else ""

    def prompt(self, context: Context) -> str:
        """The sequence with runs of active residues between << and >>, its first and last position, and annotations with theirs."""
        if not context.tokens:
            return ""
        sequence = marked([token.strip() or token for token in context.tokens], context.activations)
        head = f"{position_of(context, 0)}-{position_of(context, len(context.tokens) - 1)}: {sequence}"
        return "\n".join([head, *annotation_lines(context)])


def position_of(context: Context, index: int) -> int:
    """Position in the sequence of a token of the window, from 1."""
    return context.start + index + 1


def annotation_lines(context: Context) -> list[str]:
    """`12-35: zinc finger`, one a run of residues with the same annotations."""
    lines = []
    for mark, run in groupby(range(len(context.marks)), key=context.marks.__getitem__):
        places = list(run)
        if mark:
            first, last = position_of(context, places[0]), position_of(context, places[-1])
            lines.append(f"{first if first == last else f'{first}-{last}'}: {mark}")
    return lines
