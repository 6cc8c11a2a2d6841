"""How the contexts of a text latent look."""

from sparselight.interpret.renderers.marks import marked, span
from sparselight.records import Context


class TextRenderer:
    """Renders contexts of text."""

    def html(self, context: Context) -> str:
        """One span a token, colored by activation."""
        return "".join(span(context, index, token) for index, token in enumerate(context.tokens))

    def prompt(self, context: Context) -> str:
        """The text with each run of active tokens between << and >>."""
        return marked(context.tokens, context.activations)
