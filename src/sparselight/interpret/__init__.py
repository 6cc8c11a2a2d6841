"""Interpretation: what predicts each latent's firing, proven on held-out tokens, and the catalogue of cards."""

from sparselight.interpret.catalogue import Catalogue, load_catalogue, save_catalogue, write_catalogue
from sparselight.interpret.evidence import domain_cards, domain_ratio, is_supported
from sparselight.interpret.explain import ExplainConfig, explain
from sparselight.interpret.renderers import TextRenderer
from sparselight.interpret.tokens import TokenFrame, TokenSet, make_frame

__all__ = [
    "Catalogue", "ExplainConfig", "TextRenderer", "TokenFrame", "TokenSet", "domain_cards", "domain_ratio", "explain", "is_supported", "load_catalogue",
    "make_frame", "save_catalogue", "write_catalogue",
]
