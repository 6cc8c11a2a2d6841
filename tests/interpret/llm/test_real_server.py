"""The protocol against a server that somebody else wrote: `transformers serve`, on the model that ships with the package."""

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from sparselight.cli.doctor import find_demo_subject
from sparselight.errors import EndpointError
from sparselight.interpret.llm import Asker, ChatRequest, LlmClient, LlmConfig, Message, Prompts, Sampling
from sparselight.interpret.scorers.detection import yes_no_schema

NEEDED = ("fastapi", "uvicorn", "openai", "accelerate")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"
START_S = 300

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=f"transformers serve needs {', '.join(MISSING)}"),
              pytest.mark.skipif(find_demo_subject() is None, reason="the demo subject is not installed")]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(endpoint, model) of a running server."""
    folder = tmp_path_factory.mktemp("served") / "model"
    shutil.copytree(find_demo_subject(), folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = (folder.parent / "log").open("wb")
    process = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and not is_up(port):
            if process.poll() is not None:
                pytest.skip(f"transformers serve ended: {(folder.parent / 'log').read_text()[-400:]}")
            time.sleep(0.3)
        if not is_up(port):
            pytest.skip(f"transformers serve did not come up within {START_S} s")
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        process.terminate()
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def is_up(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as response:
            return response.status == 200
    except OSError:
        return False


def question(text, n=2):
    return ChatRequest((Message("system", "Judge."), Message("user", f'{text} Answer with {{"fits": [0 or 1, 0 or 1]}}')), yes_no_schema(n), Sampling(12))


def test_questions_are_answered_and_counted_and_kept(served, tmp_path):
    endpoint, model = served
    config = LlmConfig(endpoint=endpoint, model=model, concurrency=2, n_repairs=0, timeout_s=300)
    requests = [question(f"def f{number}(x):") for number in range(3)]
    with LlmClient(config, tmp_path) as client:
        answers = client.ask(requests)
        assert all(answer.text or answer.is_cut for answer in answers), answers
        assert all(answer.tokens_in > 5 and 0 < answer.tokens_out <= 12 for answer in answers)
        assert client.budget.usage.n_calls >= 3
        asker = Asker(client, Prompts("text"))
        asker.ask(requests)
        assert asker.tally.n_read == 0  # a model of 3 million parameters judges nothing, and nothing is made of what it says
        assert asker.tally.n_missing == 3
    with LlmClient(config, tmp_path) as client:
        assert [answer.text for answer in client.ask(requests)] == [answer.text for answer in answers]
        assert client.budget.usage.n_calls == 0
    assert json.loads(next(tmp_path.rglob("*.json")).read_text())["model"] == model


def test_a_model_that_it_does_not_serve(served, tmp_path):
    config = LlmConfig(endpoint=served[0], model="/no/such/model", concurrency=1, max_retries=0)
    with LlmClient(config, tmp_path) as client, pytest.raises(EndpointError, match="rejects the request|no answer"):
        client.ask([question(str(number)) for number in range(4)])
