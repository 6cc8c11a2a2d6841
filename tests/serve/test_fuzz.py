"""Requests made from the OpenAPI schema, and from nothing: no answer is a failure of the server, every refusal has the one form."""

import warnings
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from fuzzing import fuzz
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worded_run import make_worded_run, plain

from sparselight.serve import ServeSettings
from sparselight.serve.app import create_app

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis makes the requests: pip install schemathesis")

EXAMPLES_AN_OPERATION = 12


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Any:
    app = create_app([make_worded_run(tmp_path_factory.mktemp("fuzz") / "run", plain)], ServeSettings(allow_edits=True))
    return schemathesis.openapi.from_asgi("/api/openapi.json", app, headers={"Host": "127.0.0.1"})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_requests_from_the_schema(schema: Any) -> None:
    found = fuzz(schema, EXAMPLES_AN_OPERATION)
    assert found.failures == []
    assert len(found.statuses) >= 8 and all(found.statuses.values())


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(target=st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=40), query=st.text(max_size=40), header=st.binary(max_size=20))
def test_any_address(connect_once: Any, target: str, query: str, header: bytes) -> None:
    odd = header.replace(b"\r", b"").replace(b"\n", b"")
    answer = connect_once.get(f"/{quote(target, safe='/')}?{quote(query, safe='&=', errors='replace')}", headers={"x-odd": odd})
    assert answer.status_code < 500


@pytest.fixture(scope="module")
def connect_once(tmp_path_factory: pytest.TempPathFactory) -> Any:
    run = make_worded_run(tmp_path_factory.mktemp("any") / "run", plain)
    with TestClient(create_app([run]), base_url="http://127.0.0.1", raise_server_exceptions=False, follow_redirects=False) as client:
        yield client
