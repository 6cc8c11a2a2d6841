"""Interpretation: what predicts each latent's firing, proven on held-out tokens, and the catalogue of cards."""

from sparselight.interpret.catalogue import load_catalogue, query, save_catalogue
from sparselight.interpret.evidence import domain_cards, domain_ratio, is_supported
from sparselight.interpret.explain import ExplainConfig, explain
from sparselight.interpret.renderers import TextRenderer
from sparselight.interpret.tokens import TokenFrame, TokenSet, make_frame

__all__ = [
    "ExplainConfig", "TextRenderer", "TokenFrame", "TokenSet", "domain_cards", "domain_ratio", "explain", "is_supported", "load_catalogue",
    "make_frame", "query", "save_catalogue",
]
