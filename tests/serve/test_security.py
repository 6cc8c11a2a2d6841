"""Who may ask, from where, how much: hosts, origins, tokens, sizes, headers, audit lines."""

import json
from pathlib import Path
from typing import Any

import pytest
from skeleton import faults
from worded_run import make_worded_run, plain

from sparselight.errors import ConfigError
from sparselight.serve import ServeSettings
from sparselight.serve.app import Audit
from sparselight.serve.security import COOKIE, POLICY, host_name
from sparselight.serve.settings import NotAllowedError

TOKEN = "0123456789abcdef-TOKEN"
SHARED = {"share_readonly": True, "token": TOKEN}


@pytest.mark.parametrize("path", ["/", "/runs/run", "/api/runs", "/api/openapi.json", "/static/base.css", "/nope", "/api/nope", "/api/runs/run/features?sort=x",
                                  "/runs/nope", "/api/runs/run/media/x.png"])
def test_every_answer_carries_the_policy(plain_run: Path, connect: Any, path: str) -> None:
    answer = connect(plain_run).get(path)
    assert answer.headers["content-security-policy"] == POLICY
    assert "script-src 'self';" in POLICY
    assert "unsafe-eval" not in POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("host", ["evil.test", "evil.test:8765", "127.0.0.1.evil.test", "localhost.evil.test", "", "127.0.0.1:80:80", "[::1].evil.test",
                                  "0.0.0.0", "localhost@evil.test", "127.0.0.1:x", "2130706433", "LOCALHOST\u0130"])
def test_other_names_are_refused(plain_run: Path, connect: Any, host: str) -> None:
    answer = connect(plain_run).get("/api/runs", headers={"host": host.encode()})
    assert answer.status_code == 421
    assert answer.json()["asked"].startswith("reach this server as")
    assert "content-security-policy" in answer.headers


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8765", "[::1]:8765", "LocalHost", "lab.example", "LAB.example:9"])
def test_own_names_are_accepted(plain_run: Path, connect: Any, host: str) -> None:
    assert connect(plain_run, allow_hosts=("lab.example",)).get("/api/runs", headers={"host": host}).status_code == 200


def test_names_in_a_host_header() -> None:
    assert [host_name(given) for given in ("A:1", "[::1]:2", "[::1]", "::1", "a:b", " x ")] == ["a", "[::1]", "[::1]", "::1", "a:b", "x"]


def test_no_other_site_may_read_or_change(plain_run: Path, connect: Any) -> None:
    client = connect(plain_run)
    preflight = client.options("/api/runs", headers={"origin": "https://evil.test", "access-control-request-method": "GET"})
    assert preflight.status_code in (404, 405)
    assert "access-control-allow-origin" not in preflight.headers
    as_json = {"content-type": "application/json"}
    body, notes = json.dumps({"feature": "base/1", "who": "me", "label": "", "text": "x"}), "/api/runs/run/notes"
    for headers, status in (
        ({**as_json, "origin": "https://evil.test"}, 403), ({**as_json, "origin": "null"}, 403), ({**as_json, "origin": "http://127.0.0.1:1"}, 403),
        ({**as_json, "sec-fetch-site": "cross-site"}, 403), ({**as_json, "sec-fetch-site": "same-site"}, 403), ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415), ({"content-type": "multipart/form-data; boundary=x"}, 415), ({}, 415),
    ):
        assert client.post(notes, content=body, headers=headers).status_code == status, headers


def test_size_limits(plain_run: Path, connect: Any) -> None:
    client = connect(plain_run, max_body_bytes=2_000)
    json_type = {"content-type": "application/json"}
    large = b'{"feature": "' + b"x" * 5_000 + b'"}'
    assert client.post("/api/runs/run/notes", content=large, headers=json_type).status_code == 413
    assert client.post("/api/runs/run/notes", content=iter([large]), headers=json_type).status_code == 413  # chunked, without a length
    assert client.get("/api/runs", headers={"content-length": "-5"}).status_code == 413
    assert client.get("/api/runs?" + "x" * 20_000).status_code == 414
    for body in (b"", b"[", b"\xff\xfe", b"[" * 1_900, b'{"a":' * 300, b"null", b'"x"', b"1e999"):
        assert client.post("/api/runs/run/notes", content=body, headers=json_type).status_code in (400, 403, 422), body[:20]


def test_a_shared_server_wants_its_token(plain_run: Path, connect: Any) -> None:
    client = connect(plain_run, **SHARED)
    for path in ("/", "/api/runs", "/static/base.css", "/api/openapi.json", "/api/runs?token=wrong", "/api/runs?token="):
        answer = client.get(path)
        assert answer.status_code == 401, path
        assert TOKEN not in answer.text
    for headers in ({"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}, {"cookie": f"{COOKIE}=wrong"}, {"cookie": f"other={TOKEN}"},
                    {"authorization": f"Bearer {TOKEN}x"}, {"cookie": b"\xff=;;;"}):
        assert client.get("/api/runs", headers=headers).status_code == 401, headers
    assert client.get("/api/runs", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert client.get("/api/runs", headers={"cookie": f"a=b; {COOKIE}={TOKEN}"}).status_code == 200
    assert client.post("/api/runs/run/notes?token=" + TOKEN, json={}).status_code == 401  # only reading turns the address into a cookie


def test_the_token_in_the_address_becomes_a_cookie(plain_run: Path, connect: Any) -> None:
    client = connect(plain_run, **SHARED)
    answer = client.get(f"/runs/run/features?text=a%26b&token={TOKEN}&sort=f1")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/runs/run/features?text=a%26b&sort=f1"
    cookie = answer.headers["set-cookie"]
    assert all(part in cookie for part in (f"{COOKIE}={TOKEN}", "HttpOnly", "SameSite=Strict", "Path=/"))
    assert client.get("/api/runs").status_code == 200  # the client keeps the cookie
    for odd in (f"//evil.test/x?token={TOKEN}", f"/%2F%2Fevil.test?token={TOKEN}", f"/%5Cevil.test?token={TOKEN}", f"/%0d%0aX: y?token={TOKEN}"):
        moved = connect(plain_run, **SHARED).get(f"http://127.0.0.1{odd}").headers.get("location", "/")
        assert moved.startswith("/") and not moved.startswith(("//", "/\\")), odd
        assert "\r" not in moved and "\n" not in moved


def test_a_shared_server_changes_nothing_and_tells_no_paths(tmp_path: Path, connect: Any) -> None:
    run = make_worded_run(tmp_path / "run", plain)
    record = json.loads((run / "run.json").read_text())
    record["recipe"]["corpus"]["root"] = "/home/somebody/private/texts"
    (run / "run.json").write_text(json.dumps(record))
    bearer = {"authorization": f"Bearer {TOKEN}"}
    client = connect(run, **SHARED)
    log = client.get("/api/runs/run/log", headers=bearer).text
    assert "texts" in log
    assert "somebody" not in log
    note = {"feature": "base/1", "who": "me", "label": "", "text": "x"}
    assert client.post("/api/runs/run/notes", json=note, headers=bearer).status_code == 403
    edit = {"input": {"text": "a"}, "edits": [{"feature": "base/1", "operation": "ablate", "amount": 0.0}]}
    assert client.post("/api/runs/run/live/edit", json=edit, headers=bearer).status_code == 403
    stage = next(run.glob("corpus-*/record.json"))
    stage.write_text(stage.read_text().replace('"summary": {', '"summary": {"told": "read from /home/somebody/private/texts in 3 s", ', 1))
    assert "read from texts in 3 s" in connect(run, **SHARED).get("/api/runs/run/log", headers=bearer).text
    for path in ("/api/runs/nope/overview", "/api/runs/run/features/base/77", "/api/runs/run/map?source=nope"):
        assert str(tmp_path) not in client.get(path, headers=bearer).text


def test_a_browser_gets_a_page_and_a_program_json(plain_run: Path, connect: Any) -> None:
    client, browser = connect(plain_run), {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    for path, status in (("/nope", 404), ("/runs/run/nope", 404), ("/runs/run/features/base/x", 400), ("/x<script>", 404)):
        page = client.get(path, headers=browser)
        assert (page.status_code, page.headers["content-type"]) == (status, "text/html; charset=utf-8"), path
        assert "Instead:" in page.text and 'href="/"' in page.text and faults(page.text) == []
    assert "nothing stands at that address" in client.get("/nope", headers=browser).text
    for path in ("/api/nope", "/static/nope.css"):
        assert set(client.get(path, headers=browser).json()) == {"asked", "why", "instead"}
    assert set(client.get("/nope").json()) == {"asked", "why", "instead"}  # not a browser
    refused = connect(plain_run, **SHARED).get("/runs/run", headers=browser)
    assert refused.status_code == 401 and 'name="token"' in refused.text and "/static/" not in refused.text and TOKEN not in refused.text
    assert connect(plain_run).get("/", headers={**browser, "host": "evil.test"}).text.startswith("<!doctype html>")


def test_a_failure_of_the_server_carries_the_policy_too(plain_run: Path, connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client = connect(plain_run)

    def broken(_run: str) -> None:
        raise ZeroDivisionError("/home/somebody/secret")

    monkeypatch.setattr(client.app.state.data, "log", broken)  # type: ignore[attr-defined]
    for path, headers in (("/api/runs/run/log", {}), ("/runs/run/log", {"accept": "text/html"})):
        answer = client.get(path, headers=headers)
        assert (answer.status_code, answer.headers["content-security-policy"]) == (500, POLICY)
        assert "somebody" not in answer.text and "the server failed" in answer.text


def test_each_note_leaves_a_line(tmp_path: Path, connect: Any) -> None:
    run = make_worded_run(tmp_path / "run", plain)
    client = connect(run, allow_edits=True)
    answer = client.post("/api/runs/run/notes", json={"feature": "base/1", "who": "me", "label": "name", "text": "line\nbreak"})
    assert answer.status_code == 201, answer.text
    lines = (run / "serve_audit.jsonl").read_text().splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["what"] == "note"
    assert connect(run).post("/api/runs/run/notes", json={"feature": "base/1", "who": "me", "label": "", "text": "x"}).status_code == 403


def test_what_leaves_no_line_is_not_done(tmp_path: Path) -> None:
    (tmp_path / "serve_audit.jsonl").mkdir()
    with pytest.raises(NotAllowedError, match="audit line"):
        Audit(ServeSettings(allow_edits=True))(tmp_path, "edit", {})
    Audit(ServeSettings())(tmp_path, "edit", {})  # nothing is written on one's own machine without --allow-edits


def test_settings() -> None:
    for wrong, why in (
        ({"host": "0.0.0.0"}, "share_readonly and a token"), ({"host": "lab.example", "share_readonly": True}, "share_readonly and a token"),
        ({"host": "192.168.0.9", "token": TOKEN}, "share_readonly and a token"), ({"share_readonly": True}, "go together"), ({"token": TOKEN}, "go together"),
        ({"share_readonly": True, "token": "short"}, "too weak"), ({"share_readonly": True, "token": "0123456789abcdef; x"}, "too weak"),
        ({"port": 70_000}, "port"), ({"nope": 1}, "no such setting"),
    ):
        with pytest.raises(ConfigError, match=why):
            ServeSettings.parse(wrong, "serve")
    for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2"):
        assert ServeSettings(host=host).is_local_host
    assert "10.0.0.5" in ServeSettings(host="10.0.0.5", **SHARED).hosts
    assert "0.0.0.0" not in ServeSettings(host="0.0.0.0", **SHARED).hosts
    assert (ServeSettings(**SHARED).may_try, ServeSettings(**SHARED, allow_edits=True).may_try, ServeSettings().may_try) == (False, True, True)
