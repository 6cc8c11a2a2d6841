"""The catalogue file: what is saved is what is read, found, changed and exported."""

import csv
import json

import pytest

from sparselight.errors import ConfigError, RunError
from sparselight.interpret import Catalogue, is_supported, load_catalogue, save_catalogue
from sparselight.interpret.catalogue import write_catalogue
from sparselight.interpret.evidence import graded
from sparselight.records import Association, Card, Context, EditResult, Evidence, Explanation, MetricValue, Neighbour, Score


def value(number, low=None, high=None):
    return MetricValue(value=number, low=low, high=high, n=7, seeds=[0])


def graded_card(latent, source, f1, control, text="the word `x`", promotes=(), rates=(0.1, 0.2)):
    evidence = Evidence(precision=value(f1), recall=value(f1), f1=value(f1, f1 - 0.1, f1 + 0.05), control_f1=value(control, 0.0, control + 0.01),
                        threshold=0.1 + 0.2, n_fires=30, n_labelled=40)
    contexts = [Context(example="e", group="g", tokens=["a", "<b>", "\n", "\u00fc"], activations=[0.1, 1 / 3, 0.0, 2e-9], peak=number, kind="quantile",
                        quantile=number, start=3, marks=["", "m", "", ""], media="a.png", grid=(1, 2)) for number in range(2)]
    explanation = Explanation(text=text, label="word=x", explainer="statistical", evidence=evidence, made_with={"seed": "0"})
    return graded(Card(
        latent=latent, source=source, fire_rate=rates[0], domain_fire_rate=rates[1], max_activation=1 / 3, explanation=explanation, contexts=contexts,
        promotes=list(promotes), suppresses=["\n"], n_fires=3, n_tokens=30, quantiles=[0.1, 1 / 3],
        neighbours=[Neighbour(source=source, latent=1, cosine=1 / 7)], parents=[Neighbour(source="base", latent=2, cosine=0.5)],
        associations=[Association(kind="k", label="zinc finger", dataset="general", level="spans", f1=value(0.5, 0.1, 0.9), null_f1=0.1, q=None)],
    ))


@pytest.fixture
def graded_cards():
    silent = Card(latent=5, source="base", fire_rate=0, domain_fire_rate=0, max_activation=0, explanation=None, contexts=[], promotes=[], suppresses=[],
                  grade_why="it fires on none of the 9 tokens that were read")
    return [
        graded_card(9, "residual", 0.95, 0.05, "the word `Secret`", rates=(0.001, 0.1)), silent,
        graded_card(3, "base", 0.7, 0.65), graded_card(4, "base", 0.55, 0.1, promotes=[" 100%"]),
    ]


def llm(text, accuracy=0.9, **more):
    score = Score(scorer="detection", values={"balanced_accuracy": value(accuracy, accuracy - 0.1, 1.0)}, n_positive=20, n_negative=20, **more)
    return Explanation(text=text, explainer="llm", scores=[score], made_with={"model": "m"})


def test_older_command_lines_of_duckdb_open_the_file(graded_cards, tmp_path):
    head = save_catalogue(graded_cards, tmp_path).read_bytes()[:24]
    assert head[8:12] == b"DUCK"
    assert int.from_bytes(head[12:20], "little") == 64  # the storage version of DuckDB 1.0


def test_round_trip_is_exact(tmp_path, graded_cards):
    path = save_catalogue(graded_cards, tmp_path / "new")
    assert load_catalogue(path) == load_catalogue(path.parent) == graded_cards
    write_catalogue(([card] for card in graded_cards[:2]), tmp_path / "new", "residues")
    assert load_catalogue(path) == graded_cards[:2]
    assert Catalogue(path).modality == "residues"
    assert [item.name for item in path.parent.iterdir()] == ["catalogue.duckdb"]


def test_empty_catalogue_round_trip(tmp_path):
    assert load_catalogue(save_catalogue([], tmp_path)) == []


def test_support_needs_f1_and_distance_from_the_control(graded_cards):
    assert [is_supported(card) for card in graded_cards] == [True, False, False, True]
    assert not is_supported(graded_card(1, "base", 0.49, 0.0))
    explanation = graded_cards[0].explanation
    rare = explanation.evidence.model_copy(update={"n_labelled": 19})
    assert not is_supported(graded_cards[0].model_copy(update={"explanation": explanation.model_copy(update={"evidence": rare})}))


def test_search(tmp_path, graded_cards):
    catalogue = Catalogue(save_catalogue(graded_cards, tmp_path))

    def latents(text=None, **wanted):
        return [card.latent for card in catalogue.search(text, **wanted)]

    assert latents(sort="f1") == [9, 3, 4, 5]
    assert latents() == [9, 4, 3, 5]
    assert latents("sEcret") == [9]
    assert latents("100%") == [4]
    assert latents("%") == [4]
    assert latents("zinc finger", limit=2) == [9, 4]
    assert latents("' OR 1=1 --") == []
    assert latents(source="base", min_f1=0.6) == [3]
    assert latents(supported_only=True) == latents(grade="B") == [9, 4]
    assert latents(grade="A") == [9]
    assert latents(domain=True) == [9]
    assert latents(domain=1.5) == [9, 4, 3]
    assert latents(min_fire_rate=0.01) == [4, 3]
    assert latents(max_fire_rate=0.0005) == [5]
    assert latents(sort="latent") == [3, 4, 5, 9]
    assert catalogue.search("secret")[0] == graded_cards[0] == catalogue.card("residual", 9)
    assert catalogue.sources() == ["residual", "base"]
    assert [card.latent for card in catalogue.after("base", 3, 5)] == [4, 5]
    assert len(catalogue) == 4
    with pytest.raises(ConfigError, match="use 'fire_rate'"):
        catalogue.search(sort="fire_rat")
    with pytest.raises(ConfigError, match="no such grade"):
        catalogue.search(grade="E")
    with pytest.raises(ConfigError, match="base has the latents 3 to 5"):
        catalogue.card("base", 77)
    with pytest.raises(ConfigError, match="sources residual, base"):
        catalogue.card("other", 1)


def test_sql_reads_and_nothing_else(tmp_path, graded_cards):
    (tmp_path / "secret.csv").write_text("a\n1\n")
    catalogue = Catalogue(save_catalogue(graded_cards, tmp_path))
    assert catalogue.sql("SELECT latent FROM cards WHERE grade = 'A'").to_pylist() == [{"latent": 9}]
    assert catalogue.sql("SELECT count(*) AS n FROM contexts").to_pylist() == [{"n": 6}]
    for query in ("DROP TABLE cards", "UPDATE cards SET grade = 'A'", f"SELECT * FROM '{tmp_path}/secret.csv'", "SET enable_external_access = true",
                  f"COPY cards TO '{tmp_path}/stolen.csv'", "nonsense"):
        with pytest.raises(ConfigError, match="run the SQL"):
            catalogue.sql(query)
    assert load_catalogue(tmp_path) == graded_cards


def test_explanations_and_scores_are_added_and_grades_follow(tmp_path, graded_cards):
    catalogue = Catalogue(save_catalogue(graded_cards, tmp_path))
    catalogue.add_explanations({("base", 3): [llm("greetings")], ("base", 5): [llm("nothing", 0.5)]})
    card = catalogue.card("base", 3)
    assert (card.grade, card.explanation.text, [item.explainer for item in card.explanations]) == ("A", "greetings", ["statistical", "llm"])
    assert card.contexts == graded_cards[2].contexts
    assert catalogue.card("base", 5).grade == "D"
    assert [found.latent for found in catalogue.search("greetings")] == [3]
    assert [found.latent for found in catalogue.search(explainer="llm")] == [3, 5]
    controls = {"shuffled": {"balanced_accuracy": value(0.9, 0.8, 0.95)}}
    catalogue.add_scores({("base", 3): {"llm": llm("", 0.9, controls=controls).scores}})
    assert (catalogue.card("base", 3).grade, catalogue.card("base", 3).explanation.text) == ("D", "the word `x`")
    rows = catalogue.sql("SELECT control, value FROM scores WHERE latent = 3 AND scorer = 'detection' ORDER BY control").to_pylist()
    assert rows == [{"control": "", "value": 0.9}, {"control": "shuffled", "value": 0.9}]
    assert [found.latent for found in catalogue.cards()] == [9, 5, 3, 4]  # the order stays
    before = catalogue.cards()
    with pytest.raises(ConfigError, match="the catalogue has none"):
        catalogue.add_explanations({("base", 3): [llm("x")], ("base", 99): [llm("y")]})
    with pytest.raises(ConfigError, match="no explanation of that explainer"):
        catalogue.add_scores({("base", 4): {"llm": llm("").scores}})
    assert catalogue.cards() == before


def test_a_change_that_fails_changes_nothing_and_readers_go_on(tmp_path, graded_cards, monkeypatch):
    from sparselight.interpret.catalogue import reading

    path = save_catalogue(graded_cards, tmp_path)
    reader, writer = Catalogue(path), Catalogue(path)
    assert len(reader.cards()) == 4

    def broken(connection, rows):
        raise RuntimeError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(reading, "insert", broken)
        with pytest.raises(RuntimeError, match="power"):
            writer.add_explanations({("base", 3): [llm("lost")]})
    assert load_catalogue(path) == graded_cards
    writer.add_explanations({("base", 3): [llm("kept")]})
    assert reader.card("base", 3).explanation.text == writer.card("base", 3).explanation.text == "kept"
    assert {item.name for item in tmp_path.iterdir()} == {"catalogue.duckdb", ".catalogue-lock"}


def test_edits_and_associations(tmp_path, graded_cards):
    catalogue = Catalogue(save_catalogue(graded_cards, tmp_path))
    result = EditResult(card="base/4", edit={"operation": "ablate", "site": "resid_post.1", "amount": 0.0}, context=graded_cards[0].contexts[0], next_tokens=[],
                        next_actual="x", kl_nats=0.5, side_effect_kl_nats=value(0.1), control_kl_nats=value(0.2))
    catalogue.add_edits([result])
    catalogue.add_edits([result])
    assert catalogue.edits("base", 4) == [result]
    assert len(catalogue.card("base", 4).edits) == 1
    new = graded_cards[0].associations[0].model_copy(update={"label": "new"})
    catalogue.add_associations({("base", 4): [new]})
    assert catalogue.card("base", 4).associations == [new]
    assert [card.latent for card in catalogue.search("zinc")] == [9, 3]


def test_export(tmp_path, graded_cards):
    import pyarrow.parquet as pq

    catalogue = Catalogue(save_catalogue(graded_cards, tmp_path))
    assert pq.read_table(catalogue.export(tmp_path / "a.parquet")).column("latent").to_pylist() == [9, 5, 3, 4]
    folder = catalogue.export(tmp_path / "all")
    assert pq.read_table(folder / "contexts.parquet").num_rows == 6
    with catalogue.export(tmp_path / "a.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["latent"] for row in rows] == ["9", "5", "3", "4"]
    assert float(rows[0]["max_activation"]) == 1 / 3
    lines = catalogue.export(tmp_path / "a.jsonl", model="pythia", layer="3-res").read_text(encoding="utf-8").splitlines()
    features = [json.loads(line) for line in lines]
    assert (features[0]["modelId"], features[0]["layer"], features[0]["index"]) == ("pythia", "3-res-residual", "9")
    assert features[0]["activations"][1]["values"] == graded_cards[0].contexts[1].activations
    assert features[0]["explanations"][0]["description"] == "the word `Secret`"


def test_missing_and_damaged_files_are_refused(tmp_path, graded_cards):
    import duckdb

    with pytest.raises(RunError, match="there is no such file"):
        load_catalogue(tmp_path)
    path = tmp_path / "catalogue.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE something AS SELECT 1")
    with pytest.raises(RunError, match="damaged or no catalogue"):
        load_catalogue(path)
    path.unlink()
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE catalogue AS SELECT 1 AS version, 0 AS n_cards")
    with pytest.raises(RunError, match="version 1, this sparselight reads version 2"):
        load_catalogue(path)
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(RunError, match="damaged or no catalogue"):
        load_catalogue(path)
