"""The comparison page: safe, whole, well formed; words and marks follow the intervals."""

import re
from collections import Counter

import pytest
from compare_cases import write_evaluation, write_sae_record
from test_html import Page

from sparselight.pipeline.comparison import compare
from sparselight.records import MetricValue
from sparselight.report.compare import MAX_BYTES, render_comparison
from sparselight.report.compare_bars import bars
from sparselight.report.compare_data import Column, Comparison, Member, Row
from sparselight.report.compare_fronts import front, panels
from sparselight.report.compare_marks import looks
from sparselight.report.compare_words import better_controls, chance_sentence, l0_sentence, verdicts

NASTY = "<script>alert(1)</script>\"'&"


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("compared")
    saes = {f"topk-s{seed}": (0.30 + 0.004 * seed, 32.0) for seed in range(3)} | {"relu": (0.34, 51.0), NASTY: (0.42, 18.0), "jump": (0.31, 90.0)}
    sources = {f"topk-s{seed}": write_sae_record(folder / f"topk-s{seed}", seed) for seed in range(3)}
    write_evaluation(folder / "all", saes, sources=sources)
    return compare([str(folder / "all")])


@pytest.fixture(scope="module")
def source(comparison: Comparison) -> str:
    return render_comparison(comparison)


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def made(values: dict[str, float], metric: str = "fvu", controls: tuple[str, ...] = (), **fields: object) -> Comparison:
    """A comparison with one row."""
    columns = [Column(name=name, is_control=name in controls, members=[Member(source="x", coder=name)], series=name) for name in values]
    measured = {name: MetricValue(value=value, n=5) for name, value in values.items()}
    row = Row(family="f", metric=metric, dataset="general", setting="", values=measured, **fields)
    return Comparison(subject="s", site="resid_post.0", n_tokens={"general": 10}, columns=columns, rows=[row], sparselight_version="0", created="2026-01-01")


def test_nothing_runs_and_nothing_is_loaded(source: str, page: Page) -> None:
    assert not page.tags.keys() & {"script", "img", "iframe", "object", "embed", "link", "base", "form", "audio", "video", "image", "use", "foreignobject"}
    assert not [item for item in page.attributes if item[1].startswith("on")]
    assert not re.search(r"url\((?!#)", source)
    assert "default-src 'none'" in source
    assert "<script" not in source
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in source


def test_the_page_is_well_formed(source: str, page: Page) -> None:
    assert page.tags["html"] == page.tags["main"] == page.tags["h1"] == 1
    assert max(Counter(page.ids).values()) == 1
    for _, name, value in page.attributes:
        if name == "aria-labelledby" or (name == "href" and value.startswith("#")):
            assert {part.removeprefix("#") for part in value.split()} <= set(page.ids)
    assert len(source.encode()) < MAX_BYTES
    assert not re.search(r"\b(nan|inf)\b", "".join(re.findall(r'<svg class="figure.*?</svg>', source, re.S)))


def test_every_figure_says_what_it_shows(source: str) -> None:
    figures = re.findall(r'<svg class="figure.*?</svg>', source, re.S)
    assert len(figures) > 20
    assert all(re.search(r"<title id=[^>]+>[^<]+</title><desc id=[^>]+>[^<]+</desc>", figure) for figure in figures)
    for kind in ("front-fvu--general", "front-ce_recovered_mean--domain", "bars-probe_accuracy--general--k-3d-5", "fire-rates-general",
                 "curve-clustering-coefficient"):
        assert f'class="figure {kind}' in source, kind


def test_every_value_stands_in_the_table(comparison: Comparison, page: Page) -> None:
    words = page.words.replace("\u00a0", " ")
    assert "6 SAEs" not in words
    assert "4 SAEs (6 with their seeds) and 5 controls at resid_post.2 of sparselight-demo-lm, measured on the same held-out tokens: 40,000 of general" in words
    assert "topk (3 seeds)" in words
    assert "this coder has no decoder directions" in words
    assert words.count("best less next best") == 4


def test_a_row_without_any_value_stands_among_what_is_not_defined() -> None:
    one = made({"a": 0.1, "b": 0.2})
    empty = Row(family="f", metric="cosine", dataset="general", setting="", values={}, undefined={"a": "it is dark", "b": "it is dark"})
    source = render_comparison(one.model_copy(update={"rows": [*one.rows, empty]}))
    assert '<td>Cosine similarity<br><span class="small muted plain">general</span></td><td>a, b</td><td>it is dark</td>' in source
    assert "not defined</small>" not in source


def test_marks_and_words_follow_the_intervals() -> None:
    clear = made({"a": 0.2, "b": 0.3}, best="a", rival="b", difference=MetricValue(value=-0.1, low=-0.12, high=-0.08, n=5), pairing="tokens", p=0.001)
    unclear = made({"a": 0.2, "b": 0.3}, best="a", rival="b", difference=MetricValue(value=-0.1, low=-0.3, high=0.1, n=5), pairing="separate")
    bare = made({"a": 0.2, "b": 0.3}, best="a", rival="b", difference=MetricValue(value=-0.1, n=5))
    assert "a is best with 0.200, then b with 0.300" in verdicts(clear)[0][1]
    assert "no clear difference between a, 0.200, and b, 0.300" in verdicts(unclear)[0][1]
    assert "not paired" in verdicts(unclear)[0][1]
    assert "neither is called better" in verdicts(bare)[0][1]
    assert "Of 1 paired differences 1 leave out 0; 1 of these" in chance_sentence(clear)
    assert chance_sentence(unclear) == ""
    marked = [len(re.findall(r'<td class="[^"]*is-best', render_comparison(one))) for one in (clear, unclear, bare)]
    assert marked == [1, 0, 0]


def test_controls_that_do_better_are_named() -> None:
    assert better_controls(made({"a": 0.2, "b": 0.3, "PCA": 0.1}, controls=("PCA",))) == [
        ("Fraction of variance unexplained (general)", "PCA 0.100; best SAE 0.200")]
    worse, reference, none = (
        made({"a": 0.2, "b": 0.3, "PCA": 0.4}, controls=("PCA",)), made({"a": 0.2, "subject": 0.1}, metric="ce_nats", controls=("subject",)),
        made({"a": 0.2, "b": 0.3}))
    assert [better_controls(one) for one in (worse, reference, none)] == [[], [], []]
    assert "No control does better" in render_comparison(worse)
    assert "No control was measured" in render_comparison(none)


def test_unequal_l0_is_said() -> None:
    assert "l0 20 to 40" in l0_sentence(made({"a": 20.0, "b": 40.0}, metric="l0")).replace(".0", "")
    assert l0_sentence(made({"a": 32.0, "b": 32.4}, metric="l0")) == ""


@pytest.mark.parametrize(("points", "better", "expected"), [
    ({"a": (10, 0.5), "b": (20, 0.4), "c": (30, 0.45), "d": (40, 0.3)}, "lower", ["a", "b", "d"]),
    ({"a": (10, 0.5), "b": (20, 0.4), "c": (30, 0.45), "d": (40, 0.3)}, "higher", ["a"]),
    ({"a": (10, 0.5), "b": (10, 0.4)}, "lower", ["b"]),
    ({"a": (10, 0.5), "b": (20, 0.5)}, "lower", ["a"]),
])
def test_front(points: dict[str, tuple[float, float]], better: str, expected: list[str]) -> None:
    assert front(points, better) == expected


def test_bars_begin_at_0_or_the_axis_is_said_to_be_cut() -> None:
    near, far, signs = made({"a": 0.90, "b": 0.92}), made({"a": 0.1, "b": 0.9}), made({"a": -0.2, "b": 0.3}, metric="ce_increase_nats")
    figures = [bars(one, one.rows[0], looks(one)) for one in (near, far, signs)]
    assert ["axis cut" in figure for figure in figures] == [True, False, False]
    assert ['class="bar-s0"' in figure for figure in figures] == [False, True, True]


def test_nothing_to_draw_is_said() -> None:
    one = made({"a": 0.1, "b": 0.2}, metric="l0")
    words = Page(render_comparison(one)).words
    assert panels(one, looks(one)) == []
    assert "no front to draw" in words
    assert "no firing rates of single latents and no curves" in words
    assert "nothing is called better here" in words


def test_many_columns_still_differ() -> None:
    one = made({f"sae {number}": 0.1 + number / 100 for number in range(40)})
    found = looks(one)
    assert len({(look.color, look.shape) for look in found.values()}) == 40
    assert len(render_comparison(one)) < MAX_BYTES


def test_mismatches_head_the_page(comparison: Comparison) -> None:
    page = render_comparison(comparison.model_copy(update={"mismatches": ["site: <a> (x); b (y)"]}))
    assert "Not measured alike." in page
    assert "site: &lt;a&gt; (x); b (y)" in page
    assert "measured on the same held-out tokens:" not in Page(page).words
