"""How the contexts of a text latent look: in HTML for a page, and as marked text for a language model's prompt.

Owns the escaping: text of a corpus or model never becomes markup, script or an attribute. Implements `protocols.Renderer`.
The `<< >>` marks are those of automated interpretation as EleutherAI's delphi and Bills et al. (2023) use them.
"""

import html
import unicodedata

from sparselight.records import Context

COLOR = "255,140,0"
MAX_OPACITY = 0.85
MARKS = {"\n": "\u21b5", "\r": "\u240d", "\t": "\u21e5"}


class TextRenderer:
    """Renders contexts of text."""

    def html(self, context: Context) -> str:
        """One span a token; the background's opacity is the activation over the largest of the context, the title its value."""
        largest = max(context.activations, default=0.0)
        spans = []
        for index, (token, activation) in enumerate(zip(context.tokens, context.activations, strict=True)):
            classes = "token peak" if index == context.peak else "token"
            if activation > 0:
                opacity = MAX_OPACITY * min(1.0, activation / largest)
                style = f' style="background:rgba({COLOR},{opacity:.2f})" title="{activation:.4g}"'
            else:
                style = ""
            spans.append(f'<span class="{classes}"{style}>{html.escape(visible(token), quote=True)}</span>')
        return "".join(spans)

    def prompt(self, context: Context) -> str:
        """The text with each run of active tokens between << and >>."""
        parts = []
        before = False
        for token, activation in zip(context.tokens, context.activations, strict=True):
            active = activation > 0
            if active != before:
                parts.append("<<" if active else ">>")
            parts.append(token)
            before = active
        return "".join([*parts, ">>"] if before else parts)


def visible(token: str) -> str:
    """A token with its line breaks and tabs as marks, and other control characters replaced."""
    return "".join(MARKS.get(char) or ("\ufffd" if unicodedata.category(char) in ("Cc", "Cf", "Cs") else char) for char in token)
