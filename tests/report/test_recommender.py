"""A recommender's part of the report and the page of a tuning: every number comes from the records, titles never run, what is missing is said."""

import re
from pathlib import Path

import pytest

from sparselight.errors import ConfigError
from sparselight.interpret.item_concepts.labels import group_of, latents_for, one_a_group, verified
from sparselight.records import (
    BalanceDose,
    BalanceRecord,
    ConceptDictionaryRecord,
    ConceptSummary,
    EditedList,
    EvalRow,
    LatentConcept,
    ListedItem,
    MetricValue,
    RecommendationLists,
    TuningDose,
    TuningRecord,
)
from sparselight.report.html import environment
from sparselight.report.recommender import RecommenderFindings, balance_verdict, name_of, ranking_rows, recommender_values
from sparselight.report.tuning import TunedPage, write_tuning

HOSTILE = "<script>alert(1)</script>"


def value(number: float, spread: float = 0.1) -> MetricValue:
    return MetricValue(value=number, low=number - spread, high=number + spread, n=50, unit="users", seeds=[0])


def concept(latent: int, label: str, confidence: float, top: str = "Alien (1979)") -> LatentConcept:
    return LatentConcept(latent=latent, route="label", text=label.replace("=", " "), label=label, top_items=[top], n_found=30, n_positive=20, n_negative=20,
                         recall=0.75, true_negative_rate=0.95, precision=0.9375, confidence=confidence, overlaps=False)


def summary(coder: str, n_at_80: int, is_control: bool = True) -> ConceptSummary:
    return ConceptSummary(coder=coder, is_control=is_control, route="label", n_latents=120, n_scored=100, n_unscored=20, confidence=value(0.7), recall=0.6,
                          true_negative_rate=0.8, precision=None, n_at_80=n_at_80, n_at_90=n_at_80 // 2, n_at_100=0,
                          share_at_80=value(n_at_80 / 100, 0.02), coherence_within=0.5, coherence_between=0.1)


def dictionary(top: str = "Alien (1979)") -> ConceptDictionaryRecord:
    concepts = [concept(3, "genre=Horror", 0.85, top), concept(4, "genre=Horror", 0.95, top), concept(5, "decade=1980s", 0.8), concept(6, "series=alien", 0.9),
                concept(7, "genre=War", 0.7)]
    rows = [summary("sae", 31, is_control=False), summary("shuffled concepts", 4), summary("untrained SAE", 12), summary("raw dimensions", 2)]
    return ConceptDictionaryRecord(site="user_vector", settings={}, n_found_on=4000, n_tested_on=2000, n_candidates=50, level_edges=[0.0] * 9, summaries=rows,
                                   concepts=concepts, notes=["a note"])


def dose(strength: float, share: float, ndcg: float) -> TuningDose:
    return TuningDose(strength=strength, share=value(share), rank_gain=value(0.0), overlap=value(0.5), tau=value(0.4), hr=value(0.2), ndcg=value(ndcg),
                      hr_change=value(0.0), ndcg_change=value(ndcg - 0.1, 0.01), ndcg_change_others=None)


def tuning() -> TuningRecord:
    doses = [dose(1.0, 0.2, 0.1), dose(0.0, 0.02, 0.09), dose(4.0, 0.61, 0.05)]
    controls = [[dose(one.strength, 0.19, 0.1) for one in doses]]
    return TuningRecord(concept="genre=Horror", site="user_vector", operation="scale", latents=[3, 4], k=10, n_items=40, n_users=50, active_frac=0.3,
                        doses=doses, controls=controls, control_latents=[[8, 9]], monotonicity=1.0, control_monotonicity=[None])


def balance(last: float = 30.0) -> BalanceRecord:
    def level(strength: float, popularity: float, ndcg: float) -> BalanceDose:
        return BalanceDose(strength=strength, popularity=value(popularity), coverage=0.3, gini=0.8, hr=value(0.2), ndcg=value(ndcg), gap=value(0.04))

    return BalanceRecord(site="user_vector", latents=[1, 2], k=10, n_users=50, segments=["popular taste", "rare taste"],
                         doses=[level(1.0, 40.0, 0.1), level(0.0, last, 0.08)], control=[level(1.0, 40.0, 0.1), level(0.0, 45.0, 0.09)],
                         penalty=[level(0.0, 40.0, 0.1), level(0.25, 25.0, 0.095)])


def lists(title: str = "Alien (1979)") -> RecommendationLists:
    def listed(*ranks: int) -> list[ListedItem]:
        return [ListedItem(item=str(rank), title=title, rank_before=rank, in_concept=rank % 2 == 0) for rank in ranks]

    return RecommendationLists(
        user="17", concept="genre=Horror", latents=[3, 4], history=["Heat (1995)", title], history_in_concept=[False, True], n_history=9, chosen="of 50 users",
        lists=[EditedList(name=name, edits=[], items=listed(1, last), activation=1.5) for name, last in (("unedited", 2), ("turned off", 31))])


def part(found: RecommenderFindings | None, rows: tuple[EvalRow, ...] = ()) -> str:
    evaluation = type("Evaluation", (), {"rows": list(rows)})()
    return environment().get_template("recommender.html.j2").render(recommender=recommender_values(found, evaluation))  # type: ignore[arg-type]


def test_every_number_of_the_records_is_on_the_page() -> None:
    row = EvalRow(coder="base", dataset="general", metric="ranking_ndcg", setting="k=10", value=value(0.0754, 0.001), is_control=False)
    page = part(RecommenderFindings(dictionary(), [tuning()], lists(), balance()), (row,))
    for wanted in ("31 of 100 tested latents (31", "4.0\u00a0% for shuffled concepts", "Horror", "1980s", "alien", "0.95", "Verified concepts", "0.0754",
                   "was 31", "User 17", "Further left", "penalty on popular items", "popular taste less rare taste", "a note", "20 + 20"):
        assert wanted in page, wanted
    assert "War" not in page, "0.7 is not verified"
    assert page.count("<svg") == 3
    ids = re.findall(r'id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_titles_are_never_markup(tmp_path: Path) -> None:
    found = RecommenderFindings(dictionary(HOSTILE), [tuning()], lists(HOSTILE), balance())
    assert "<script" not in part(found)
    write_tuning(TunedPage("runs/x", f"less {HOSTILE}", 0.0, "asked for", tuning(), lists(HOSTILE), "today", "0"), tmp_path / "page.html")
    assert "<script" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_what_was_not_measured_is_said() -> None:
    empty = dictionary().model_copy(update={"concepts": [], "summaries": [summary("sae", 0, is_control=False)]})
    page = part(RecommenderFindings(empty))
    assert "No latent&#39;s label reaches" in page or "No latent's label reaches" in page
    assert "No concept was turned" in page
    assert "No debiasing curve" in page
    assert part(None).strip() == ""


def test_the_page_of_a_tuning_says_what_was_kept(tmp_path: Path) -> None:
    write_tuning(TunedPage("runs/x", "less genre=Horror", 0.0, "asked for", tuning(), lists(), "today", "0"), tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "from 20.0\u00a0% to 2.00\u00a0%; random latents take it to 19.0\u00a0%. NDCG@10 goes from 0.100 to 0.0900." in page
    write_tuning(TunedPage("runs/x", "less popular", 0.0, "asked for", balance(), lists(), "today", "0"), tmp_path / "b.html")
    assert "25\u00a0% less popular" in (tmp_path / "b.html").read_text(encoding="utf-8")


def test_the_verdict_names_the_plain_way_and_owns_up() -> None:
    assert "gets at least as far (25.0 against 30.0) at \u22125.0\u00a0%" in balance_verdict(balance())
    assert "no way to less popular recommendations" in balance_verdict(balance(last=44.0))


def test_labels_are_grouped_and_the_surest_latent_comes_first() -> None:
    labels = verified(dictionary().concepts)
    assert list(labels) == ["genre=Horror", "series=alien", "decade=1980s"]
    assert [one.latent for one in labels["genre=Horror"]] == [4, 3]
    assert one_a_group(labels) == ["genre=Horror", "decade=1980s", "series=alien"]
    assert [group_of(label) for label in labels] == ["genre", "franchise or word of the title", "era"]
    assert [name_of(label) for label in ("genre=Horror", "tag=noir", "term=potter", "recency=newest fifth")] == [
        "Horror", "tag noir", "\u201cpotter\u201d in the title", "newest fifth by year"]
    with pytest.raises(ConfigError, match=r"reaches 0\.70.*min_confidence"):
        latents_for(dictionary(), "genre=War")
    assert latents_for(dictionary(), "genre=War", 0.7)[0].latent == 7


def test_ranking_rows_keep_the_order_of_coders() -> None:
    rows = [EvalRow(coder=coder, dataset="general", metric=metric, setting=setting, value=value(0.1), is_control=coder == "PCA")
            for coder in ("subject", "base", "PCA") for metric, setting in (("ranking_hr", "k=10"), ("ranking_hr", "k=5"))]
    found = ranking_rows(type("Evaluation", (), {"rows": rows})())  # type: ignore[arg-type]
    assert [(row["coder"], row["is_control"], [cell["value"] for cell in row["cells"]]) for row in found] == [
        ("subject", False, ["0.100", "\u2013", "\u2013"]), ("base", False, ["0.100", "\u2013", "\u2013"]), ("PCA", True, ["0.100", "\u2013", "\u2013"])]
