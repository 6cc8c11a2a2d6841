"""What all renderers share: colored spans, marks around runs of active tokens, and control characters made visible.

Owns the escaping. The `<< >>` marks are those of automated interpretation as EleutherAI's delphi and Bills et al. (2023) use them.
"""

import html
import unicodedata
from collections.abc import Iterator, Sequence

from sparselight.records import Context

COLOR = "255,140,0"
MAX_OPACITY = 0.85
MARKS = {"\n": "\u21b5", "\r": "\u240d", "\t": "\u21e5"}
OPEN, CLOSE = "<<", ">>"


def visible(token: str) -> str:
    """A token with its line breaks and tabs as marks, and other control characters replaced."""
    if token.isprintable():  # no control character, as nearly always
        return token
    return "".join(MARKS.get(char) or ("\ufffd" if unicodedata.category(char) in ("Cc", "Cf", "Cs") else char) for char in token)


def escaped(text: str) -> str:
    """Text that is safe in HTML, in an attribute too."""
    return html.escape(visible(text), quote=True)


def span(context: Context, index: int, text: str, title: str = "") -> str:
    """A token's span: the background's opacity is its activation over the largest of the context, the title says both.

    Args:
        text: what is shown.
        title: said before the activation.
    """
    activation = context.activations[index]
    classes = "token peak" if index == context.peak else "token"
    said = [title] if title else []
    style = ""
    if activation > 0:
        opacity = MAX_OPACITY * min(1.0, activation / max(context.activations))
        style = f' style="background:rgba({COLOR},{opacity:.2f})"'
        said.append(f"{activation:.4g}")
    hint = f' title="{escaped(": ".join(said))}"' if said else ""
    return f'<span class="{classes}"{style}{hint}>{escaped(text)}</span>'


def marked(texts: Sequence[str], activations: Sequence[float], joint: str = "") -> str:
    """The texts with each run of active ones between << and >>."""
    return joint.join(_runs(texts, activations, joint))


def _runs(texts: Sequence[str], activations: Sequence[float], joint: str) -> Iterator[str]:
    run: list[str] = []
    for text, activation in zip(texts, activations, strict=True):
        if activation > 0:
            run.append(text)
            continue
        if run:
            yield f"{OPEN}{joint.join(run)}{CLOSE}"
            run = []
        yield text
    if run:
        yield f"{OPEN}{joint.join(run)}{CLOSE}"
