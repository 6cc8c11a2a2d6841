"""The page: safe, whole, well formed, small enough, and every number in it from the data."""

import json
import re
import tomllib
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sparselight.errors import StoreError
from sparselight.records import EvalRecord, SaeRecord
from sparselight.report import ReportData, render, write_report
from sparselight.report.html import MAX_BYTES
from sparselight.report.prose import recipe_toml

VOID = {"meta", "br", "img", "input", "hr", "link"}


class Page(HTMLParser):
    """Collects tags, ids, links and text, and checks that every tag is closed where it was opened."""

    def __init__(self, source: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]} at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


@pytest.fixture(scope="module")
def source(report_data: ReportData) -> str:
    return render(report_data)


@pytest.fixture(scope="module")
def page(source: str) -> Page:
    return Page(source)


def test_nothing_runs_and_nothing_is_loaded(source: str, page: Page) -> None:
    assert not page.tags.keys() & {"script", "img", "iframe", "object", "embed", "link", "base", "form", "audio", "video", "image", "use", "foreignobject"}
    assert not [item for item in page.attributes if item[1].startswith("on")]
    assert not re.search(r"https?:|//[a-z]|javascript:|@import", source.partition("<body>")[0] + " ".join(value for _, _, value in page.attributes))
    assert not re.search(r"url\((?!#)", source)
    assert "default-src 'none'" in source
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in source  # it is shown, as text


def test_the_page_is_well_formed_and_small(source: str, page: Page) -> None:
    n_decorations = page.attributes.count(("svg", "aria-hidden", "true"))
    assert page.tags["html"] == page.tags["main"] == page.tags["h1"] == 1
    assert page.tags["title"] == 1 + page.tags["svg"] - n_decorations
    assert len(source.encode()) < MAX_BYTES
    assert source.startswith("<!doctype html>")


def test_ids_are_unique_and_every_reference_has_its_target(page: Page) -> None:
    assert max(Counter(page.ids).values()) == 1
    for _, name, value in page.attributes:
        if name in ("aria-labelledby", "href"):
            assert {part.removeprefix("#") for part in value.split()} <= set(page.ids)


def test_every_figure_has_a_title_and_a_description(source: str) -> None:
    figures = re.findall(r'<svg class="figure.*?</svg>', source, re.S)
    assert len(figures) == 9
    assert all(re.search(r"<title id=[^>]+>[^<]+</title><desc id=[^>]+>[^<]+</desc>", figure) for figure in figures)
    assert not re.search(r"nan|inf\b", "".join(figures))


def test_numbers_come_from_the_data(report_data: ReportData, page: Page) -> None:
    shown = page.words.replace("\u00a0", " ")
    for words in (
        "from 0.287 to 0.239", "\u22120.0483 [\u22120.0513, \u22120.0450]", "\u221216.8 %", "base+general residual 0.272", "1,000 draws", "212 files (domain)",
        "41,207 domain, 118,411 general", "2,048 latents", "256 latents", "1,483 files", "260 K tokens", "75 s", "4 min 24 s", "0.532",
        "0.00213 [0.00173, 0.00257]", "41.2 %", "\u221231.9", "250 times as much", "9f2c51ab9f2c51ab", "3.21 [3.16, 3.27] nats (domain)",
        "seeds: base 0, residual 0",
    ):
        assert words in shown, words
    assert report_data.next_command in page.words
    assert report_data.run.machine in shown


def test_another_value_gives_another_page(report_data: ReportData) -> None:
    rows = [
        row.model_copy(update={"value": row.value.model_copy(update={"value": 0.1234})})
        if (row.coder, row.dataset, row.metric) == ("base", "domain", "fvu") else row
        for row in report_data.evaluation.rows
    ]
    assert "from 0.123 to 0.239" in render(replace(report_data, evaluation=report_data.evaluation.model_copy(update={"rows": rows})))


def test_edits_link_to_their_card_where_it_is_shown(source: str, report_data: ReportData) -> None:
    shown = next(re.finditer(r'id="best-(base|residual)-(\d+)"', source))
    linked = [edit.model_copy(update={"card": f"{shown[1]}/{shown[2]}"}) for edit in report_data.edits[:1]]
    assert f'<a href="#best-{shown[1]}-{shown[2]}">' in render(replace(report_data, edits=linked))


def no_intervals(evaluation: EvalRecord) -> EvalRecord:
    bare = [row.model_copy(update={"value": row.value.model_copy(update={"low": None, "high": None})}) for row in evaluation.rows]
    return evaluation.model_copy(update={"rows": bare, "differences": []})


def test_missing_parts_leave_a_sentence(report_data: ReportData) -> None:
    unexplained = [card.model_copy(update={"explanation": None}) for card in report_data.cards]
    of_base = [card for card in report_data.cards if card.source == "base"]
    cases = {
        "No edit was tried": replace(report_data, edits=[]),
        "No latent of the residual SAE both fires": replace(report_data, cards=of_base),
        "This run trained no residual SAE": replace(report_data, cards=of_base, sae_records={"base": report_data.sae_records["base"]}),
        "No latent has an explanation that its evidence supports": replace(report_data, cards=unexplained),
        "There are no cards": replace(report_data, cards=[]),
        "No training log was kept": replace(report_data, logs={}),
        "No interval was measured": replace(report_data, evaluation=no_intervals(report_data.evaluation)),
        "The evaluation holds no measurement": replace(report_data, evaluation=EvalRecord(rows=[], differences=[], n_tokens={})),
        "This run trained no base SAE": replace(report_data, sae_records={}),
    }
    for sentence, data in cases.items():
        found = Page(render(data))
        assert sentence in found.words, sentence
        assert "None" not in found.words, sentence
        assert max(Counter(found.ids).values()) == 1


def test_with_next_to_nothing_the_page_still_stands(report_data: ReportData) -> None:
    bare = replace(
        report_data, run=replace(report_data.run, recipe={}, wall_s={}), evaluation=EvalRecord(rows=[], differences=[], n_tokens={}), cards=[], edits=[],
        sae_records={}, logs={"base": [{"step": 1}], "residual": [{"tokens": 5, "fvu": float("nan")}]}, selection={}, corpus={}, harvest={},
    )
    assert len(re.findall('class="missing"', render(bare))) >= 6


def test_a_page_that_would_be_too_large_shows_fewer_contexts(report_data: ReportData) -> None:
    def swollen(text: str) -> ReportData:
        filled = {"tokens": [text] * 37, "activations": [1.0] * 37}
        cards = [card.model_copy(update={"contexts": [context.model_copy(update=filled) for context in card.contexts]}) for card in report_data.cards]
        return replace(report_data, cards=cards)

    large, small = render(swollen('"' * 60)), render(swollen('"'))
    assert len(large.encode()) < MAX_BYTES
    assert large.count('class="context"') < small.count('class="context"')


def test_text_that_is_no_unicode_does_not_stop_the_report(report_data: ReportData, tmp_path: Path) -> None:
    data = replace(report_data, run=replace(report_data.run, name="lone \ud800 surrogate", recipe={"name": "lone \ud800 surrogate"}))
    write_report(data, tmp_path / "report.html")
    assert "lone ? surrogate" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_report_that_cannot_be_written_says_so(report_data: ReportData, tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(StoreError, match=r"cannot write .*report\.html"):
        write_report(report_data, tmp_path / "report.html")


def test_the_same_data_give_the_same_bytes(report_data: ReportData, source: str) -> None:
    assert render(report_data) == source


def test_no_page_tells_where_things_stand_on_a_machine(report_data: ReportData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/people/anna")
    record = SaeRecord.model_validate({**report_data.sae_records["base"].model_dump(), "subject": {  # as an earlier version wrote it
        "name": "/srv/people/anna/protein/subject2/model", "fingerprint": "ab" * 32, "token_policy": {"prepend_bos": True, "context_tokens": 512}}})
    run = replace(report_data.run, recipe={**report_data.run.recipe, "subject": {"source": "/srv/people/anna/protein/subject2/model"}})
    page = Page(render(replace(
        report_data, run=run, sae_records={**report_data.sae_records, "base": record}, corpus={"origin": "3 files of /srv/people/anna/secret/corpus"},
        next_command="sparselight serve /srv/people/anna/runs/a"))).words
    assert "activations of subject2 model at" in page
    assert "/srv" not in page and "secret/" not in page
    assert "3 files of corpus" in page
    assert "sparselight serve ~/runs/a" in page and 'source = "~/protein/subject2/model"' in page  # both run again as they stand


def test_the_recipe_survives_as_toml(report_data: ReportData) -> None:
    odd = {"text": "tab\t del\x7f \U0001f980 \"\"\"", "dotted.name": 1, "list": [{"a": None, "b": "c"}], "empty": {}, "far": float("inf"), "lr": 1e-5}
    recipe = {**report_data.run.recipe, "odd": odd}
    expected = json.loads(json.dumps(recipe))
    del expected["train"]["revision"], expected["odd"]["list"][0]["a"]
    assert tomllib.loads(recipe_toml(recipe)) == expected


def luminance(color: str) -> float:
    channels = [int(color[at:at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_has_enough_contrast_in_both_themes(source: str) -> None:
    """WCAG 2.1 AA: 4.5 for text, 3 for the marks of figures."""
    themes = [dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", source, re.S)]
    assert len(themes) == 2
    for theme in themes:
        for front, least in (("ink", 4.5), ("muted", 4.5), ("accent", 4.5), ("general", 3.0), ("domain", 3.0)):
            for back in ("bg", "panel", "plot", "tile"):
                pair = sorted((luminance(theme[front]), luminance(theme[back])))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= least, (front, back, theme)
