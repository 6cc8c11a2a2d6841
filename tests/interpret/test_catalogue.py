"""The catalogue file: what is saved is what is read."""

import pytest

from sparselight.errors import ConfigError, RunError
from sparselight.interpret import is_supported, load_catalogue, query, save_catalogue
from sparselight.records import Card, Context, Evidence, Explanation, MetricValue


def graded_card(latent, source, f1, control, text="the word `x`", promotes=(), rates=(0.1, 0.2)):
    def value(number, low=None, high=None):
        return MetricValue(value=number, low=low, high=high, n=7, seeds=[0])

    evidence = Evidence(precision=value(f1), recall=value(f1), f1=value(f1, f1 - 0.1, f1 + 0.05), control_f1=value(control, 0.0, control + 0.01),
                        threshold=0.1 + 0.2, n_fires=30, n_labelled=40)
    contexts = [Context(example="e", group="g", tokens=["a", "<b>", "\n", "\u00fc"], activations=[0.1, 1 / 3, 0.0, 2e-9], peak=number) for number in range(2)]
    return Card(latent=latent, source=source, fire_rate=rates[0], domain_fire_rate=rates[1], max_activation=1 / 3,
                explanation=Explanation(text=text, label="word=x", explainer="statistical", evidence=evidence),
                contexts=contexts, promotes=list(promotes), suppresses=["\n"])


@pytest.fixture
def graded_cards():
    silent = Card(latent=5, source="base", fire_rate=0, domain_fire_rate=0, max_activation=0, explanation=None, contexts=[], promotes=[], suppresses=[])
    return [
        graded_card(9, "residual", 0.95, 0.05, "the word `Secret`", rates=(0.001, 0.1)), silent,
        graded_card(3, "base", 0.7, 0.65), graded_card(4, "base", 0.55, 0.1, promotes=[" 100%"]),
    ]


def test_round_trip_is_exact(tmp_path, graded_cards):
    path = save_catalogue(graded_cards, tmp_path / "new")
    assert load_catalogue(path) == load_catalogue(path.parent) == graded_cards
    save_catalogue(graded_cards[:1], tmp_path / "new")
    assert load_catalogue(path) == graded_cards[:1]
    assert [item.name for item in path.parent.iterdir()] == ["catalogue.duckdb"]


def test_empty_catalogue_round_trip(tmp_path):
    assert load_catalogue(save_catalogue([], tmp_path)) == []


def test_support_needs_f1_and_distance_from_the_control(graded_cards):
    assert [is_supported(card) for card in graded_cards] == [True, False, False, True]
    assert not is_supported(graded_card(1, "base", 0.49, 0.0))
    explanation = graded_cards[0].explanation
    rare = explanation.evidence.model_copy(update={"n_labelled": 19})
    assert not is_supported(graded_cards[0].model_copy(update={"explanation": explanation.model_copy(update={"evidence": rare})}))


def test_queries(tmp_path, graded_cards):
    path = save_catalogue(graded_cards, tmp_path)

    def latents(**wanted):
        return [card.latent for card in query(path, **wanted)]

    assert latents() == [9, 3, 4, 5]
    assert latents(text="sEcret") == [9]
    assert latents(text="100%") == [4]
    assert latents(text="%") == [4]
    assert latents(text="' OR 1=1 --") == []
    assert latents(source="base", min_f1=0.6) == [3]
    assert latents(supported_only=True) == [9, 4]
    assert latents(sort="latent") == [3, 4, 5, 9]
    assert latents(sort="domain_ratio", limit=1) == [9]
    assert query(path, text="secret")[0] == graded_cards[0]
    with pytest.raises(ConfigError, match="use 'fire_rate'"):
        query(path, sort="fire_rat")


def test_missing_and_damaged_files_are_refused(tmp_path, graded_cards):
    import duckdb

    with pytest.raises(RunError, match="there is no such file"):
        load_catalogue(tmp_path)
    path = tmp_path / "catalogue.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE something AS SELECT 1")
    with pytest.raises(RunError, match="damaged or no catalogue"):
        load_catalogue(path)
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(RunError, match="damaged or no catalogue"):
        load_catalogue(path)
