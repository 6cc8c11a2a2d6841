"""Which cards the page shows, out of all of them: the best-evidenced ones, and those of the domain, by SAE.

All lists hold supported cards only (`interpret.is_supported`), and at most two with one label: a list of twenty latents for
the same keyword would say one thing twenty times. Where the evaluation found annotations that go with latents, half of the best are the latents that
fit an annotation best: what tokens read, such as a letter of a protein, is easier to fit, and would fill the list.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sparselight.interpret import domain_cards, is_supported
from sparselight.records import Card

BEST_CARDS = 20
ENRICHED_CARDS = 12
PER_LABEL = 2
MIN_ASSOCIATION_F1 = 0.1  # an annotation that a latent fits worse is not worth a place


@dataclass(frozen=True, slots=True)
class Tally:
    """How many latents of one SAE pass each test, each test counted among those that pass the one before."""

    source: str
    n_latents: int
    n_firing: int
    """Fire at least once on the held-out tokens, general or domain."""
    n_explained: int
    n_supported: int
    n_domain: int
    """Supported and domain-enriched."""


def best_cards(cards: Iterable[Card], n_cards: int = BEST_CARDS) -> list[Card]:
    """Supported cards by the lower end of the interval of their held-out F1, the highest first; equal ones by how many tokens say so. Up to half of them are
    those of the best latents of each annotation of spans."""
    supported = sorted(filter(is_supported, cards), key=lambda card: (-round(_f1_low(card), 2), -_n_labelled(card), card.source, card.latent))
    annotated = _annotated(supported, n_cards // 2)
    rest = _spread((card for card in supported if card.key not in annotated), n_cards - len(annotated))
    shown = annotated | {card.key for card in rest}
    return [card for card in supported if card.key in shown]


def enriched_cards(cards: Iterable[Card], source: str, n_cards: int = ENRICHED_CARDS) -> list[Card]:
    """Supported, domain-enriched cards of one SAE, the most enriched first."""
    return _spread(domain_cards(card for card in cards if card.source == source and is_supported(card)), n_cards)


def tally(cards: Sequence[Card]) -> list[Tally]:
    """The counts of every SAE, in order of first appearance."""
    result = []
    for source in dict.fromkeys(card.source for card in cards):
        own = [card for card in cards if card.source == source]
        supported = [card for card in own if is_supported(card)]
        result.append(Tally(
            source, len(own), sum(card.fire_rate > 0 or card.domain_fire_rate > 0 for card in own),
            sum(card.explanation is not None for card in own), len(supported), len(domain_cards(supported)),
        ))
    return result


def _annotated(cards: Sequence[Card], n_cards: int) -> set[str]:
    """The cards that fit annotations of spans best, at most two an annotation, those with the highest F1 first."""
    fits = sorted((-one.f1.value, f"{one.kind}={one.label}", card.key) for card in cards for one in card.associations
                   if one.supported and one.level == "spans" and one.f1.value >= MIN_ASSOCIATION_F1)
    seen: Counter[str] = Counter()
    shown: set[str] = set()
    for _, label, key in fits:
        if key not in shown and seen[label] < PER_LABEL and len(shown) < n_cards:
            seen[label] += 1
            shown.add(key)
    return shown


def _f1_low(card: Card) -> float:
    return (card.evidence.f1.low if card.evidence else None) or 0.0


def _n_labelled(card: Card) -> int:
    return card.evidence.n_labelled if card.evidence else 0


def _spread(cards: Iterable[Card], n_cards: int) -> list[Card]:
    shown: list[Card] = []
    seen: Counter[str] = Counter()
    for card in cards:
        assert card.explanation is not None
        if seen[card.explanation.label] < PER_LABEL:
            seen[card.explanation.label] += 1
            shown.append(card)
        if len(shown) == n_cards:
            break
    return shown
