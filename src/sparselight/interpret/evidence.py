"""Grades of evidence: when an explanation counts as supported, and when a latent counts as one of the domain.

The rules stand here once; the catalogue, the report and the choice of latents to edit all use them.
"""

from collections.abc import Iterable

from sparselight.records import Card

MIN_F1 = 0.5  # InterPLM (arXiv 2412.12101) counts a feature as identified above this F1
MIN_HELD_OUT_TOKENS = 20  # below it an F1 of 1 says little and its bootstrap interval, which cannot see what did not occur, says less
SMOOTHING_FRAC = 1e-5  # a firing rate of one token in 100,000: rates below it carry no information about the ratio


def is_supported(card: Card) -> bool:
    """Whether a card's explanation is proven on held-out tokens.

    Rule: held-out F1 >= 0.5, the lower end of its 95 % interval lies above the largest F1 that the same search reached with shuffled
    labels, and at least 20 held-out tokens carry the label and 20 make the latent fire.
    """
    if card.explanation is None:
        return False
    evidence = card.explanation.evidence
    f1, control = evidence.f1, evidence.control_f1
    if f1.low is None or control.high is None or min(evidence.n_fires, evidence.n_labelled) < MIN_HELD_OUT_TOKENS:
        return False
    return f1.value >= MIN_F1 and f1.low > control.high


def domain_ratio(card: Card) -> float:
    """How many times more often a latent fires on domain tokens than on general ones.

    Formula: (domain_fire_rate + s) / (fire_rate + s) with s = 1e-5, so that a latent with next to no firings stays near 1.
    """
    return (card.domain_fire_rate + SMOOTHING_FRAC) / (card.fire_rate + SMOOTHING_FRAC)


def domain_cards(cards: Iterable[Card], ratio: float = 3.0) -> list[Card]:
    """Cards of latents that fire at least `ratio` times as often in the domain, the highest ratio first."""
    return sorted((card for card in cards if domain_ratio(card) >= ratio), key=lambda card: (-domain_ratio(card), card.source, card.latent))
