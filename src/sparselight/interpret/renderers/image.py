"""How the contexts of an image-text latent look: the picture under a heat map of its patches, and the text of the report beside it.

The heat map has one hue (orange) whose opacity rises with the activation, and a frame around the strongest patch, so that nothing hangs on telling colors
apart; what it says is in the picture's alternative text too. The picture is named by its path relative to the run, or by what `address` makes of it.
Without a grid it stands beside the text as it is. Of several images the one with the firing comes first, all of one scale. For a language model a heat map
becomes the places of the active patches. Refuses nothing.
"""

from collections.abc import Callable, Sequence

from sparselight.interpret.patches import THIRDS
from sparselight.interpret.renderers.marks import COLOR, MARKS, escaped, marked
from sparselight.interpret.renderers.text import TextRenderer
from sparselight.records import Context

MOST_PATCHES = 12  # named in a prompt
PATCH_OPACITY = 0.65  # of the strongest patch: what lies under it must stay visible
PEAK = f'fill="none" stroke="rgb({COLOR})" stroke-width="2" vector-effect="non-scaling-stroke"'


class ImageRenderer:
    """Renders images with their text.

    Args:
        address: of a picture, from its path relative to the run; empty: it is not shown.
    """

    def __init__(self, address: Callable[[str], str] | None = None):
        self.address = address or plain_path

    def html(self, context: Context) -> str:
        """Pictures and text side by side, the one with the firing first; text alone where there is no picture."""
        text, largest = _text_of(context), _largest(context)
        n_patches = context.grid[0] * context.grid[1] if context.grid else 0
        first = self._figure(context.media, context.grid, context.activations[:n_patches], largest, is_first=True)
        figures = first + "".join(self._figure(other.media, other.grid, other.activations, largest) for other in context.others)
        if not figures:
            return TextRenderer().html(context)
        return f'<span class="study">{figures}<span class="report">{report_html(text)}</span></span>'

    def _figure(self, media: str | None, grid: tuple[int, int] | None, activations: Sequence[float], largest: float, is_first: bool = False) -> str:
        """A picture with one rectangle an active patch, its opacity the activation over the largest of the context."""
        href = self.address(media) if media else ""
        if grid is None:
            picture = f'<image href="{escaped(href)}" width="1" height="1"/>'
            return f'<svg class="patches" viewBox="0 0 1 1" role="img" aria-label="picture of the example">{picture}</svg>' if href else ""
        rows, columns = grid
        picture = f'<image href="{escaped(href)}" width="{columns}" height="{rows}" preserveAspectRatio="none"/>' if href else ""
        patches = "".join(
            f'<rect x="{index % columns}" y="{index // columns}" width="1" height="1" fill="rgba({COLOR},{PATCH_OPACITY * activation / largest:.2f})">'
            f"<title>{activation:.4g}</title></rect>"
            for index, activation in enumerate(activations) if activation > 0
        )
        active = active_patches(activations)
        if active and is_first:
            patches += f'<rect x="{active[0] % columns}" y="{active[0] // columns}" width="1" height="1" {PEAK}/>'
        said = f"picture of {rows} x {columns} patches; {where(grid, activations)}"
        return f'<svg class="patches" viewBox="0 0 {columns} {rows}" role="img" aria-label="{escaped(said)}">{picture}{patches}</svg>'

    def prompt(self, context: Context) -> str:
        """Where on the pictures the latent fires, strongest patches first, and the text with runs of active tokens between << and >>."""
        if context.grid is None:
            return marked(context.tokens, context.activations)
        text, n_patches = _text_of(context), context.grid[0] * context.grid[1]
        pictures = [(context.grid, context.activations[:n_patches]), *((other.grid, other.activations) for other in context.others if other.grid)]
        lines = [f"image{f' {number}' if len(pictures) > 1 else ''} ({grid[0]} rows, {grid[1]} columns): {where(grid, activations, MOST_PATCHES)}"
                 for number, (grid, activations) in enumerate(pictures, 1)]
        return "\n".join([*lines, f"text: {marked(text.tokens, text.activations)}"])


def active_patches(activations: Sequence[float]) -> list[int]:
    """Patches on which the latent fires, the strongest first."""
    return sorted((index for index, value in enumerate(activations) if value > 0), key=lambda index: -activations[index])


def where(grid: tuple[int, int], activations: Sequence[float], n_named: int = 0) -> str:
    """On how many patches of an image a latent fires and where most of all, in words; with the places of the strongest."""
    rows, columns = grid
    active = active_patches(activations)
    if not active:
        return "fires on no patch"
    places = ", ".join(f"row {index // columns + 1} column {index % columns + 1}" for index in active[:n_named])
    region = f"{THIRDS[0][3 * (active[0] // columns) // rows]} {THIRDS[1][3 * (active[0] % columns) // columns]}"
    return f"fires on {len(active)} of {rows * columns} patches, most of all {region}{f': {places}' if places else ''}"


def _largest(context: Context) -> float:
    """Largest activation on any image of the example or in the text that is shown."""
    return max([*context.activations, *(value for other in context.others for value in other.activations)], default=0.0)


def report_html(text: Context) -> str:
    """The text as TextRenderer shows it, a line break after each of its line breaks."""
    shown = TextRenderer().html(text)
    return shown.replace(f"{MARKS[chr(10)]}</span>", f"{MARKS[chr(10)]}</span><br>")


def _text_of(context: Context) -> Context:
    """The part of a context behind its patches."""
    n_patches = context.grid[0] * context.grid[1] if context.grid else 0
    return context.model_copy(update={"tokens": context.tokens[n_patches:], "activations": context.activations[n_patches:], "peak": context.peak - n_patches,
                                      "marks": context.marks[n_patches:], "grid": None, "others": []})


def plain_path(media: str) -> str:
    """The path where it names a file beside the page; nothing where it is an address of another kind, or a way out of the folder."""
    is_plain = media != "" and ":" not in media and not media.startswith(("/", "\\")) and ".." not in media.replace("\\", "/").split("/")
    return media if is_plain else ""
