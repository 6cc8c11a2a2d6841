"""A real server: from Python beside the program, and from the command line until it is interrupted."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import sparselight as sl
from sparselight.errors import ConfigError
from sparselight.serve import ServeSettings
from sparselight.serve.running import bind

QUIET = {**os.environ, "SPARSELIGHT_NO_OPEN": "1"}
WAIT_S = 240


def fetch(url: str) -> tuple[int, str]:
    with urllib.request.urlopen(url, timeout=WAIT_S) as answer:  # follows the redirect that sets the cookie, without keeping the cookie
        return answer.status, answer.read().decode()


def test_beside_the_program(plain_run: Path) -> None:
    with sl.serve(plain_run) as server:
        assert server.port != 0
        status, page = fetch(f"{server.url}api/runs")
        assert (status, json.loads(page)["runs"][0]["id"]) == (200, "run")
        assert server.url in server._repr_html_()
    with pytest.raises(urllib.error.URLError):
        fetch(f"{server.url}api/runs")


def test_a_busy_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="another port"):
        bind(ServeSettings(port=taken.getsockname()[1]))
    with pytest.raises(ConfigError, match="--host"):
        bind(ServeSettings(host="192.0.2.1", port=0, share_readonly=True, token="0123456789abcdef"))


def test_wrong_settings_are_refused(plain_run: Path) -> None:
    with pytest.raises(ConfigError, match="no such setting"):
        sl.serve(plain_run, hots="x")
    with pytest.raises(ConfigError, match="token"):
        sl.serve(plain_run, host="0.0.0.0")


@pytest.mark.slow
def test_the_command(plain_run: Path) -> None:
    command = [sys.executable, "-m", "sparselight", "serve", str(plain_run), "--port", "0", "--share-readonly", "--json", "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=QUIET) as served:
        try:
            assert served.stdout is not None
            told = json.loads(served.stdout.readline())
            url, _, token = told["url"].partition("?token=")
            assert (told["runs"], len(token) >= 16) == (["run"], True)
            with pytest.raises(urllib.error.HTTPError, match="401"):
                fetch(f"{url}api/runs")
            request = urllib.request.Request(f"{url}api/runs", headers={"Authorization": f"Bearer {token}"})
            with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
                assert answer.status == 200
            served.send_signal(signal.SIGINT)
            _, errors = served.communicate(timeout=WAIT_S)
            assert (served.returncode, errors.strip().splitlines()[-1]) == (0, "stopped")
            assert "Traceback" not in errors
        finally:
            served.kill()
