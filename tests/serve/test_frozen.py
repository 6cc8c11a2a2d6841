"""The frozen file: the same pages in one file, whole from disk, safe with hostile words, within its size; and what notebooks show of it."""

import base64
import hashlib
import json
from pathlib import Path

import html5lib
import pytest
from payloads import PAYLOADS
from worded_run import hostile, make_worded_run, plain

from sparselight.cli import app
from sparselight.errors import ConfigError, RunError, SparselightError
from sparselight.records import Card
from sparselight.serve.frozen import as_block, freeze, render_frozen
from sparselight.serve.notebook import show_card

N_CARDS = 6
ATTRIBUTES_OF_ADDRESSES = {"href", "src", "action", "formaction", "srcset", "poster", "data"}


def parsed(page: bytes):
    return html5lib.HTMLParser(namespaceHTMLElements=False).parse(page.decode("utf-8"))


def local(name: str) -> str:
    return str(name).rpartition("}")[2].lower()


def elements(tree) -> list[tuple[str, tuple[str, ...]]]:
    return [(local(node.tag), tuple(sorted(map(local, node.attrib)))) for node in tree.iter() if isinstance(node.tag, str)]


@pytest.fixture(scope="module")
def small_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """`hostile` and `plain` runs of two modalities, small: a parser of pages is slow."""
    folder = tmp_path_factory.mktemp("small")
    return {name: {modality: make_worded_run(folder / f"{name}-{modality}", word, modality, N_CARDS) for modality in ("residues", "image")}
            for name, word in (("hostile", hostile), ("plain", plain))}


@pytest.mark.parametrize("modality", ["residues", "image"])
def test_hostile_words_make_the_same_elements_as_plain_ones(small_runs, modality) -> None:
    wild, tame = (parsed(render_frozen(small_runs[name][modality], 3)[0]) for name in ("hostile", "plain"))
    assert elements(wild) == elements(tame)
    for node in wild.iter():
        for name, value in node.attrib.items() if isinstance(node.tag, str) else ():
            assert not local(name).startswith("on")
            if local(name) in ATTRIBUTES_OF_ADDRESSES:
                assert value.startswith("#") or value.startswith("data:image/")


def test_the_page_allows_its_one_script_and_nothing_else(small_runs) -> None:
    tree = parsed(render_frozen(small_runs["hostile"]["residues"], 3)[0])
    scripts = list(tree.iter("script"))
    policy = next(node.attrib["content"] for node in tree.iter("meta") if node.attrib.get("http-equiv"))
    assert [node.attrib.get("type") for node in scripts] == ["application/json", None]
    digest = base64.b64encode(hashlib.sha256(scripts[1].text.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and policy.startswith("default-src 'none'") and "connect-src" not in policy
    data = json.loads(scripts[0].text)
    assert len(data["rows"]) == N_CARDS and all(len(row) == len(data["columns"]) for row in data["rows"])
    anchors = {node.attrib["id"] for node in tree.iter("section") if "feature-part" in node.attrib.get("class", "")}
    assert {row[data["columns"].index("page")] for row in data["rows"]} - {""} == anchors


def test_a_block_of_data_cannot_end_its_element() -> None:
    block = as_block({"words": [*PAYLOADS[:50], "</script><script>alert(1)</script>", "<!--", "\u2028"]})
    assert "<" not in block and ">" not in block and "&" not in block and json.loads(block)["words"][-1] == "\u2028"


def test_named_features_come_first_and_what_is_cut_is_said(plain_run, tmp_path) -> None:
    result = freeze(plain_run, tmp_path / "out" / "report.html", n_features=3, features=["base/7"])
    page = result.path.read_text(encoding="utf-8")
    assert result.n_features == 4 and 'id="f-base-7"' in page and result.n_bytes == len(page.encode())
    assert "pages of 4 of 24 features" in page and result.cut[0] in page
    assert freeze(plain_run, tmp_path / "again.html", n_features=0, features=["base/7"]).n_features == 1


def test_the_size_is_kept_by_cutting(plain_run, tmp_path) -> None:
    whole, least = (freeze(plain_run, tmp_path / f"{n}.html", n_features=24, max_bytes=n) for n in (10_000_000, 190_000))
    assert least.n_bytes <= 190_000 < whole.n_bytes and least.n_features < whole.n_features
    assert f"pages of {least.n_features} of 24 features" in (tmp_path / "190000.html").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="allow more bytes"):
        freeze(plain_run, tmp_path / "none.html", max_bytes=1000)
    assert not (tmp_path / "none.html").exists()


def test_what_is_not_there_is_refused(plain_run, tmp_path) -> None:
    for feature in ("base/999", "nope/1", "base", "base/-1"):
        with pytest.raises(SparselightError):
            freeze(plain_run, tmp_path / "a.html", features=[feature])
    with pytest.raises(RunError, match="no such folder"):
        freeze(tmp_path / "nowhere", tmp_path / "a.html")
    assert not (tmp_path / "a.html").exists()


def test_pictures_are_held_once(small_runs) -> None:
    folder = small_runs["plain"]["image"]
    page = render_frozen(folder)[0].decode()
    assert page.count("data:image/png") == 1 and page.count('<use href="#picture-0"') > 6 and "/api/" not in page
    for picture in (folder / "media").iterdir():
        picture.unlink()
    assert "pictures are left out" in render_frozen(folder)[0].decode()


def test_no_id_stands_twice_and_no_folder_of_the_machine(small_runs, tmp_path) -> None:
    run = make_worded_run(tmp_path / "run", plain, n_cards=N_CARDS)
    record = json.loads((run / "run.json").read_text())
    record["recipe"]["corpus"] = {"kind": "text", "root": "/home/somebody/texts"}
    record["recipe"]["subject"] = {"source": "/home/somebody/models/mine"}
    (run / "run.json").write_text(json.dumps(record))
    page = render_frozen(run)[0]
    assert b"somebody" not in page and b"mine" in page
    for own in (page, render_frozen(small_runs["plain"]["image"])[0]):
        ids = [node.attrib["id"] for node in parsed(own).iter() if isinstance(node.tag, str) and "id" in node.attrib]
        assert len(set(ids)) == len(ids) and any(name.startswith("quantiles-title-f-") for name in ids)


def test_the_command(plain_run, tmp_path, capsys) -> None:
    path = tmp_path / "page.html"
    app([str(word) for word in ("report", plain_run, "-o", path, "--features", 2, "--json")], standalone_mode=False)
    said = json.loads(capsys.readouterr().out)
    assert said["path"] == str(path) and said["n_bytes"] == path.stat().st_size and said["n_features"] == 2


def test_a_card_shows_itself(small_runs) -> None:
    from sparselight.interpret import load_catalogue
    from sparselight.pipeline.explaining import run_catalogue

    for modality in ("residues", "image"):
        wild, tame = (load_catalogue(run_catalogue(small_runs[name][modality]).path)[0] for name in ("hostile", "plain"))
        shown, plainly = show_card(wild), show_card(tame)
        assert elements(parsed(shown.page.encode("utf-8", "replace"))) == elements(parsed(plainly.page.encode()))
        frame = html5lib.HTMLParser(namespaceHTMLElements=False).parseFragment(shown._repr_html_())
        assert [(node.tag, node.attrib["sandbox"]) for node in frame] == [("iframe", "")]
    assert isinstance(tame, Card) and tame.show().title == f"card {tame.key}" and "iframe" in tame._repr_html_()
    assert Path(tame.show().save(small_runs["plain"]["image"] / "card.html")).is_file()
