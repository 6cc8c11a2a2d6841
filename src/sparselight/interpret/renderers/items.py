"""How the contexts of a recommender's latent look: a user's history as a list of items with titles and annotations, the oldest first.

Refuses nothing.
"""

from sparselight.interpret.renderers.marks import CLOSE, OPEN, escaped, span
from sparselight.records import Context


class ItemsRenderer:
    """Renders windows of histories."""

    def html(self, context: Context) -> str:
        """An ordered list; an item's color is its activation, its genres or tags stand behind it."""
        lines = []
        for index, item in enumerate(context.tokens):
            mark = f' <span class="mark">{escaped(context.marks[index])}</span>' if context.marks and context.marks[index] else ""
            lines.append(f"<li>{span(context, index, item)}{mark}</li>")
        return f'<ol class="history" start="{context.start + 1}">{"".join(lines)}</ol>'

    def prompt(self, context: Context) -> str:
        """An item a line, numbered from the start of the history, active ones between << and >>."""
        lines = []
        for index, (item, activation) in enumerate(zip(context.tokens, context.activations, strict=True)):
            title = item.strip().replace("\n", " ")
            mark = f" ({context.marks[index]})" if context.marks and context.marks[index] else ""
            lines.append(f"{context.start + index + 1}. {OPEN}{title}{CLOSE}{mark}" if activation > 0 else f"{context.start + index + 1}. {title}{mark}")
        return "\n".join(lines)
