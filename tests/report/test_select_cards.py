"""Which cards are shown, and in which order."""

from sparselight.records import Association, Card, Evidence, Explanation, MetricValue
from sparselight.report.select_cards import best_cards, enriched_cards, tally
from sparselight.report.views import annotation_words


def card(latent: int, f1: float, label: str = "word=key", source: str = "base", ratio: float = 1.0, width: float = 0.05, chance: float = 0.1) -> Card:
    value = MetricValue(value=f1, low=f1 - width, high=f1 + width, n=9)
    control = MetricValue(value=chance, high=chance, n=3)
    evidence = Evidence(precision=value, recall=value, f1=value, control_f1=control, threshold=1.0, n_fires=50, n_labelled=50)
    return Card(latent=latent, source=source, fire_rate=0.01, domain_fire_rate=0.01 * ratio, max_activation=1.0, contexts=[], promotes=[], suppresses=[],
                explanation=Explanation(text=label, label=label, explainer="statistical", evidence=evidence))


def latents(cards: list[Card]) -> list[int]:
    return [item.latent for item in cards]


def test_the_best_are_sorted_by_the_lower_end_of_their_interval() -> None:
    assert latents(best_cards([card(1, 0.9, "a=1", width=0.3), card(2, 0.8, "a=2"), card(3, 0.7, "a=3")])) == [2, 3, 1]


def test_unsupported_cards_and_a_third_one_of_a_label_are_left_out() -> None:
    cards = [card(1, 0.9), card(2, 0.8), card(3, 0.7), card(4, 0.4, "a=1"), card(5, 0.7, "a=2", chance=0.68), card(6, 0.6, "a=3")]
    assert latents(best_cards(cards)) == [1, 2, 6]
    assert latents(best_cards(cards, n_cards=1)) == [1]


def test_half_of_the_best_are_those_that_fit_annotations_best() -> None:
    def fitting(latent: int, f1: float, label: str, association: float, supported: bool = True) -> Card:
        fit = MetricValue(value=association, n=9)
        found = Association(kind="region", label=label, dataset="general", level="spans", f1=fit, null_f1=0.1, supported=supported)
        return card(latent, f1, f"letter={latent}").model_copy(update={"associations": [found]})

    letters = [card(latent, 0.99, f"letter={latent}") for latent in range(10, 20)]
    fits = [fitting(1, 0.6, "helix", 0.5), fitting(2, 0.7, "helix", 0.6), fitting(3, 0.8, "helix", 0.3), fitting(4, 0.65, "signal", 0.2),
            fitting(5, 0.66, "turn", 0.9, supported=False), fitting(6, 0.67, "loop", 0.01)]
    assert latents(best_cards([*letters, *fits], n_cards=8)) == [10, 11, 12, 13, 14, 2, 4, 1]
    assert latents(best_cards([*letters, *fits], n_cards=2)) == [10, 2]
    assert latents(best_cards(letters, n_cards=2)) == [10, 11]
    said = annotation_words(fits[0])
    assert said == ["Annotation that fits best (general): region helix, F1 held out 0.500; shuffled labels at most 0.100"]
    assert annotation_words(letters[0]) == annotation_words(fits[4]) == []


def test_enriched_cards_are_of_one_sae_and_domain_enriched_the_most_enriched_first() -> None:
    cards = [card(1, 0.9, ratio=9), card(2, 0.9, "a=2", "residual", 2), card(3, 0.6, "a=3", "residual", 4), card(4, 0.9, "a=4", "residual", 20)]
    assert latents(enriched_cards(cards, "residual")) == [4, 3]


def test_the_tally_counts_each_test() -> None:
    silent = Card(latent=9, source="base", fire_rate=0, domain_fire_rate=0, max_activation=0, explanation=None, contexts=[], promotes=[], suppresses=[])
    counts = tally([card(1, 0.9, ratio=5), card(2, 0.8), card(3, 0.3), silent])[0]
    assert (counts.n_latents, counts.n_firing, counts.n_explained, counts.n_supported, counts.n_domain) == (4, 3, 3, 2, 1)
