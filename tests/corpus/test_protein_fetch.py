"""Fetching from UniProt, against a local server that pages as it does: whole, resumed, cached, and refused where it does not fit together."""

import json
from pathlib import Path

import pytest
from uniprot_service import Service, flat_entry, serving

from sparselight.cli import main
from sparselight.corpus import CorpusConfig, load_corpus
from sparselight.corpus.protein import fetch
from sparselight.corpus.protein.fetch import UniprotRequest, fetch_uniprot
from sparselight.errors import CorpusError

NAMES = [f"P{number:05}" for number in range(23)]


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "PAGE_ENTRIES", 5)


def service() -> Service:
    return Service([flat_entry(name, secondary="Q00007" if name == "P00007" else "") for name in NAMES], NAMES)


def wanted(url: str, query: str = "reviewed:true", **settings: object) -> UniprotRequest:
    return UniprotRequest(query, service=url, sleep=lambda _: None, **settings)  # type: ignore[arg-type]


def test_all_pages_become_one_file_that_the_corpus_reads(tmp_path: Path) -> None:
    here, seen = service(), []
    with serving(here) as url:
        record = fetch_uniprot(wanted(url), tmp_path / "zinc", lambda done, total, note="": seen.append(done / total))
        assert (record.n_entries, len(record.pages), record.release, here.n_pages) == (23, 5, "2026_01", 5)
        assert fetch_uniprot(wanted(url), tmp_path / "zinc").n_fetched_pages == 0
    assert here.n_pages == 5, "the same request again asks nothing"
    assert seen == sorted(seen)
    assert seen[-1] == 1
    corpus = load_corpus(CorpusConfig.parse({"root": str(tmp_path / "zinc.dat.gz")}, "corpus"))
    assert [example.id for example in corpus] == NAMES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["zinc.dat.gz", "zinc.dat.gz.json"]


def test_an_interrupted_fetch_goes_on_and_gives_the_same_file(tmp_path: Path) -> None:
    here = service()
    with serving(here) as url:
        fetch_uniprot(wanted(url), tmp_path / "whole")
        here.n_pages, here.refuse_after = 0, 2
        with pytest.raises(CorpusError, match="finished pages are kept"):
            fetch_uniprot(wanted(url), tmp_path / "part")
        damaged = next((tmp_path / ".part.dat.gz.pages").glob("*.gz"))
        damaged.write_bytes(damaged.read_bytes()[:-3])
        here.n_pages, here.refuse_after = 0, None
        assert fetch_uniprot(wanted(url), tmp_path / "part").n_fetched_pages == 4, "one page was whole on disk"
    assert (tmp_path / "part.dat.gz").read_bytes() == (tmp_path / "whole.dat.gz").read_bytes()


def test_a_busy_service_is_asked_again_and_a_wrong_query_is_not(tmp_path: Path) -> None:
    here, waits = service(), []
    here.failures = [(503, {}), (429, {"Retry-After": "7"})]
    with serving(here) as url:
        request = UniprotRequest("x", service=url, sleep=waits.append)
        assert fetch_uniprot(request, tmp_path / "a").n_entries == 23
        assert waits == [1.0, 7.0]
        with pytest.raises(CorpusError, match="400.*Invalid query"):
            fetch_uniprot(wanted(url, "syntax error"), tmp_path / "b")
    with pytest.raises(CorpusError, match="5 tries"):
        fetch_uniprot(wanted("http://127.0.0.1:9/search"), tmp_path / "c")


def test_what_does_not_fit_together_is_refused(tmp_path: Path) -> None:
    here = service()
    with serving(here) as url:
        fetch_uniprot(wanted(url), tmp_path / "a")
        with pytest.raises(CorpusError, match="another request"):
            fetch_uniprot(wanted(url, "other"), tmp_path / "a")
        here.total = 40
        with pytest.raises(CorpusError, match="gave 23 of them"):
            fetch_uniprot(wanted(url), tmp_path / "short")
        here.total, here.link_host = None, "http://elsewhere.example"
        with pytest.raises(CorpusError, match="another place"):
            fetch_uniprot(wanted(url), tmp_path / "b")
        here.link_host, here.n_pages, here.refuse_after = "", 0, 2
        with pytest.raises(CorpusError, match="tries"):
            fetch_uniprot(wanted(url), tmp_path / "c")
        here.refuse_after, here.release = None, "2026_02"
        with pytest.raises(CorpusError, match="from release 2026_01 to 2026_02"):
            fetch_uniprot(wanted(url), tmp_path / "c")
        assert fetch_uniprot(wanted(url), tmp_path / "c").release == "2026_02"
        with pytest.raises(CorpusError, match="no entry matches"):
            fetch_uniprot(wanted(url, "accession:X99999)"), tmp_path / "d")


def test_ids_that_give_no_entry_are_listed(tmp_path: Path) -> None:
    with serving(service()) as url:
        record = fetch_uniprot(wanted(url, "", ids=["P00003", "Q00007", "P00007", "P99999"]), tmp_path / "a")
    assert record.n_entries == 2
    assert record.missing_ids == ["P99999"], "a secondary accession is found by its entry"
    for settings in ({"query": "x", "ids": ["P1"]}, {}, {"query": "x", "max_entries": 0}):
        with pytest.raises(CorpusError):
            UniprotRequest(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["tsv", "fasta"])
def test_other_forms_and_a_limit(tmp_path: Path, form: str) -> None:
    entries = [f"{name}\tMKTAY\n" if form == "tsv" else f">sp|{name}|X\nMKT\nAY\n" for name in NAMES]
    with serving(Service(entries, NAMES)) as url:
        record = fetch_uniprot(wanted(url, form=form, max_entries=12), tmp_path / "a")
    assert record.n_entries == 12
    corpus = load_corpus(CorpusConfig.parse({"root": str(tmp_path / f"a.{form}.gz"), "kind": "protein"}, "corpus"))
    assert [(example.id, example.text) for example in corpus] == [(name, "MKTAY") for name in NAMES[:12]]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(service()) as url, pytest.raises(SystemExit) as ended:
        main(["corpus", "fetch-uniprot", str(tmp_path / "a"), "--query", "x", "--service", url, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0
    assert told["n_entries"] == 23
    assert told["next_command"].endswith("corpus.kind=protein")
    with pytest.raises(SystemExit) as ended:
        main(["corpus", "fetch-uniprot", str(tmp_path / "b"), "--format", "xml", "--query", "x"])
    assert ended.value.code == 2
