"""Made runs that the tests of this folder look at, and clients of the application over them."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from worded_run import MODALITIES, hostile, make_worded_run, plain

from sparselight.serve import ServeSettings
from sparselight.serve.app import create_app

Connect = Callable[..., TestClient]


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_worded_run(tmp_path_factory.mktemp("plain") / "run", plain)


@pytest.fixture(scope="session")
def worded_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """`hostile` and `plain` runs of every modality, equal but for their words."""
    folder = tmp_path_factory.mktemp("worded")
    return {name: {modality: make_worded_run(folder / f"{name}-{modality}", word, modality) for modality in MODALITIES}
            for name, word in (("hostile", hostile), ("plain", plain))}


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Make a client of the application over some runs."""
    with ExitStack() as stack:
        def make(*runs: Path, base_url: str = "http://127.0.0.1", **settings: object) -> TestClient:
            app = create_app(runs, ServeSettings(**settings))
            return stack.enter_context(TestClient(app, base_url=base_url, raise_server_exceptions=False, follow_redirects=False))

        yield make
