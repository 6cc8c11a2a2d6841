"""How contexts look, in HTML for a page and as marked text for a language model's prompt: one renderer a modality.

Owns the choice by modality. All renderers implement `protocols.Renderer` and escape what they are given: text of a corpus or model never becomes markup,
script or an attribute. Refuses modalities that have no renderer.
"""

from sparselight.errors import ConfigError, nearest
from sparselight.interpret.renderers.image import ImageRenderer
from sparselight.interpret.renderers.items import ItemsRenderer
from sparselight.interpret.renderers.marks import visible
from sparselight.interpret.renderers.residues import ResiduesRenderer
from sparselight.interpret.renderers.text import TextRenderer
from sparselight.protocols import Renderer

__all__ = ["RENDERERS", "ImageRenderer", "ItemsRenderer", "ResiduesRenderer", "TextRenderer", "renderer_for", "visible"]

RENDERERS: dict[str, type[Renderer]] = {"text": TextRenderer, "residues": ResiduesRenderer, "items": ItemsRenderer, "image": ImageRenderer}


def renderer_for(modality: str) -> Renderer:
    """The renderer of a modality.

    Raises:
        ConfigError: when there is none.
    """
    if modality not in RENDERERS:
        raise ConfigError(asked=f"show contexts of {modality!r}", why="no renderer shows that modality", instead=nearest(modality, RENDERERS))
    return RENDERERS[modality]()
