"""Hostile strings in every record change no element and no attribute of any page or rendered piece, and never stand where they could run."""

from typing import Any
from urllib.parse import quote

import pytest
from payloads import PAYLOADS
from skeleton import faults, skeleton
from worded_run import MODALITIES

PAGES = ("", "/features", "/features/base/0", "/features/base/1", "/features/residual/3", "/map", "/try", "/compare", "/log")
ANSWERS = ("overview", "curves", "facets", "features?limit=500", "features/base/0", "features/residual/3", "log", "notes", "live", "map?source=base")


def test_there_are_enough_payloads() -> None:
    assert len(PAYLOADS) >= 200
    assert len(set(PAYLOADS)) == len(PAYLOADS)


@pytest.mark.parametrize("modality", MODALITIES)
def test_pages_keep_their_elements(worded_runs: dict[str, Any], connect: Any, modality: str) -> None:
    hostile, plain = (connect(worded_runs[name][modality]) for name in ("hostile", "plain"))
    for page in PAGES:
        ours, other = hostile.get(f"/runs/hostile-{modality}{page}"), plain.get(f"/runs/plain-{modality}{page}")
        assert (ours.status_code, other.status_code) == (200, 200), page
        assert ours.headers["content-type"].startswith("text/html")
        assert faults(ours.text) == [], page
        assert skeleton(ours.text) == skeleton(other.text), page


def test_the_list_of_runs(worded_runs: dict[str, Any], connect: Any) -> None:
    pages = [connect(*worded_runs[name].values()).get("/").text for name in ("hostile", "plain")]
    assert faults(pages[0]) == []
    assert skeleton(pages[0]) == skeleton(pages[1])


def test_what_a_user_searches_for_is_text(worded_runs: dict[str, Any], connect: Any) -> None:
    client = connect(worded_runs["hostile"]["text"])
    for number, payload in enumerate(PAYLOADS[::4]):
        page = client.get(f"/runs/hostile-text/features?{('text', 'label', 'source')[number % 3]}={quote(payload[:90], safe='')}&sort=f1")
        assert page.status_code == 200, payload
        assert faults(page.text) == [], payload


@pytest.mark.parametrize("modality", MODALITIES)
def test_rendered_pieces_of_answers(worded_runs: dict[str, Any], connect: Any, modality: str) -> None:
    client, other = (connect(worded_runs[name][modality]) for name in ("hostile", "plain"))
    n_pieces = 0
    for path in ANSWERS:
        answer = client.get(f"/api/runs/hostile-{modality}/{path}")
        assert answer.headers["content-type"].startswith("application/json")
        assert answer.headers["x-content-type-options"] == "nosniff"
        ours, plain = _pieces(answer.json()), _pieces(other.get(f"/api/runs/plain-{modality}/{path}").json())
        assert len(ours) == len(plain)
        for piece, same in zip(ours, plain, strict=True):
            assert faults(piece, is_fragment=True) == []
            assert skeleton(piece, is_fragment=True) == skeleton(same, is_fragment=True)
        n_pieces += len(ours)
    assert n_pieces > 10


def test_every_payload_stands_in_an_answer(worded_runs: dict[str, Any], connect: Any) -> None:
    """The words of the run are all of the payloads: what reached a page was one of them."""
    client = connect(worded_runs["hostile"]["items"])
    rows = client.get("/api/runs/hostile-items/features?limit=500").json()["rows"]
    cards = [client.get(f"/api/runs/hostile-items/features/{row['source']}/{row['latent']}").text for row in rows]
    assert sum(len(card) for card in cards) > 100_000
    assert any("<script>" in card for card in cards)  # as plain text of JSON


def test_errors_tell_no_markup(worded_runs: dict[str, Any], connect: Any) -> None:
    client = connect(worded_runs["plain"]["text"])
    for payload in PAYLOADS[:80]:
        for place in ("/runs/{}", "/runs/plain-text/features/{}/0", "/runs/plain-text/{}", "/{}"):
            answer = client.get(place.format(quote(payload, safe="")))
            assert answer.status_code in (200, 303, 307, 308, 404, 405, 414, 422), (place, payload, answer.status_code)
            if answer.headers.get("content-type", "").startswith("text/html"):
                assert faults(answer.text) == [], payload


def _pieces(answer: Any) -> list[str]:
    """Everything that a page would put in as markup."""
    if isinstance(answer, dict):
        own = [value for name, value in answer.items() if name in ("html", "svg") and isinstance(value, str)]
        return own + [piece for value in answer.values() for piece in _pieces(value)]
    return [piece for value in answer for piece in _pieces(value)] if isinstance(answer, list) else []
