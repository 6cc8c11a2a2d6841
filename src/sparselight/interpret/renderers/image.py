"""How the contexts of an image-text latent look: the picture under a heat map of its patches, then the text of the report.

The picture is named by its path relative to the run; a page that shows it stands beside it or copies it. Without a grid a context is text. For a language
model the heat map becomes the places of the active patches. Refuses nothing.
"""

from sparselight.interpret.renderers.marks import COLOR, MAX_OPACITY, escaped, marked
from sparselight.interpret.renderers.text import TextRenderer
from sparselight.records import Context

MOST_PATCHES = 12  # named in a prompt
THIRDS = (("upper", "middle", "lower"), ("left", "center", "right"))


class ImageRenderer:
    """Renders images with their text."""

    def html(self, context: Context) -> str:
        """The picture with one rectangle an active patch, its opacity the activation over the largest; then the text as TextRenderer shows it."""
        if context.grid is None:
            return TextRenderer().html(context)
        rows, columns = context.grid
        largest = max(context.activations, default=0.0)
        patches = "".join(
            f'<rect x="{index % columns}" y="{index // columns}" width="1" height="1" fill="rgba({COLOR},{MAX_OPACITY * activation / largest:.2f})">'
            f"<title>{activation:.4g}</title></rect>"
            for index, activation in enumerate(context.activations[: rows * columns]) if activation > 0
        )
        media = context.media or ""
        picture = f'<image href="{escaped(media)}" width="{columns}" height="{rows}" preserveAspectRatio="none"/>' if _is_plain(media) else ""
        figure = f'<svg class="patches" viewBox="0 0 {columns} {rows}" role="img">{picture}{patches}</svg>'
        return f"{figure}<p>{TextRenderer().html(_text_of(context))}</p>"

    def prompt(self, context: Context) -> str:
        """Where on the picture the latent fires, strongest patches first, and the text with runs of active tokens between << and >>."""
        if context.grid is None:
            return marked(context.tokens, context.activations)
        rows, columns = context.grid
        active = sorted((index for index in range(rows * columns) if context.activations[index] > 0), key=lambda index: -context.activations[index])
        where = "fires on no patch"
        if active:
            places = ", ".join(f"row {index // columns + 1} column {index % columns + 1}" for index in active[:MOST_PATCHES])
            where = f"fires on {len(active)} of {rows * columns} patches, most of all {_region(active[0], rows, columns)}: {places}"
        text = _text_of(context)
        return f"image ({rows} rows, {columns} columns): {where}\ntext: {marked(text.tokens, text.activations)}"


def _text_of(context: Context) -> Context:
    """The part of a context behind its patches."""
    assert context.grid is not None
    n_patches = context.grid[0] * context.grid[1]
    return context.model_copy(update={"tokens": context.tokens[n_patches:], "activations": context.activations[n_patches:], "peak": context.peak - n_patches,
                                      "marks": context.marks[n_patches:]})


def _region(index: int, rows: int, columns: int) -> str:
    return f"{THIRDS[0][3 * (index // columns) // rows]} {THIRDS[1][3 * (index % columns) // columns]}"


def _is_plain(media: str) -> bool:
    """Whether a picture is a file beside the page: no address of another kind, and no way out of the folder."""
    return media != "" and ":" not in media and not media.startswith(("/", "\\")) and ".." not in media.replace("\\", "/").split("/")
