"""A language model's server that fails in every way: nothing is lost, nothing is paid twice, nothing garbled becomes an answer."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from sparselight.errors import EndpointError
from sparselight.interpret.llm import Asker, ChatRequest, LlmClient, LlmConfig, Message, Prompts, Sampling
from sparselight.testing import LlmServer

SCHEMA = {"type": "object", "required": ["explanation"], "properties": {"explanation": {"type": "string", "description": '"text"'}}}
N = 10


def question(number):
    return ChatRequest((Message("user", f"q{number} \"explanation\""),), SCHEMA, Sampling(50))


def echo(body):
    first = next(message["content"] for message in body["messages"] if message["role"] == "user")
    return json.dumps({"explanation": first.split()[0]})


def config_of(server, **settings):
    return LlmConfig(endpoint=server.url, model="test-model", **{"backoff_s": 0.01, "timeout_s": 60.0, **settings})


def said(answers):
    return [json.loads(answer.text)["explanation"] for answer in answers]


@pytest.mark.parametrize("fault", ["429", "500", "slow", "no json", "cut", "drop"])
def test_every_fault_is_gotten_over(tmp_path, fault):
    settings = {"timeout_s": 2.0} if fault == "slow" else {}
    with LlmServer(rule=echo, faults=["", fault, fault, "", fault], slow_s=3.0) as server, LlmClient(config_of(server, **settings), tmp_path) as client:
        answers = client.ask([question(number) for number in range(N)])
        assert said(answers) == [f"q{number}" for number in range(N)]
        n_requests = server.n_requests
        assert n_requests == client.budget.usage.n_calls == N + client.budget.usage.n_retries
        if fault == "slow":  # a server that answers too late has done the work all the same; a busy machine makes more answers late
            assert n_requests >= N + 3
        else:
            assert n_requests == N + 3
            assert set(server.answered.values()) == {1}
        assert client.ask([question(number) for number in range(N)]) and server.n_requests == n_requests


def test_a_server_that_fails_for_good_ends_the_work_and_the_next_call_goes_on(tmp_path):
    faults = [""] * 6 + ["500"] * 100
    with LlmServer(rule=echo, faults=faults) as server:
        with LlmClient(config_of(server, max_retries=1, concurrency=2), tmp_path) as client, pytest.raises(EndpointError, match="run the same command again"):
            client.ask([question(number) for number in range(N)])
        assert len(server.answered) == 6
        server.faults = []
        with LlmClient(config_of(server), tmp_path) as client:
            assert said(client.ask([question(number) for number in range(N)])) == [f"q{number}" for number in range(N)]
        assert set(server.answered.values()) == {1}


def test_a_wait_that_is_too_long_ends_the_work(tmp_path):
    with LlmServer(rule=echo, faults=["", "429 long"]) as server, LlmClient(config_of(server, concurrency=1), tmp_path) as client:
        with pytest.raises(EndpointError, match="86,400 s"):
            client.ask([question(number) for number in range(N)])
        assert server.n_requests == 2


def test_one_request_that_never_works_does_not_stop_the_others(tmp_path):
    with LlmServer(rule=echo, faults=["", "too long"]) as server, LlmClient(config_of(server, concurrency=1), tmp_path) as client:
        answers = client.ask([question(number) for number in range(N)])
        assert [bool(answer.problem) for answer in answers] == [number == 1 for number in range(N)]
        assert "context length" in answers[1].problem
        assert said(client.ask([question(1)])) == ["q1"]


@pytest.mark.parametrize(("fault", "kind"), [("refusal", "n_refused"), ("polite refusal", "n_refused")])
def test_refusals_are_counted_and_never_read(tmp_path, fault, kind):
    with LlmServer(rule=echo, faults=[fault]) as server, LlmClient(config_of(server, concurrency=1), tmp_path) as client:
        asker = Asker(client, Prompts("text"))
        readings = asker.ask([question(number) for number in range(3)])
        assert [reading.data is None for reading in readings] == [True, False, False]
        assert getattr(asker.tally, kind) == 1
        assert server.n_requests == 3
        asker.ask([question(0)])
        assert server.n_requests == 3  # a refusal was paid for as well


@pytest.mark.parametrize("fault", ["garbage", "short"])
def test_what_cannot_be_read_is_asked_once_more(tmp_path, fault):
    with LlmServer(rule=echo, faults=[fault]) as server, LlmClient(config_of(server, concurrency=1), tmp_path) as client:
        asker = Asker(client, Prompts("text"))
        readings = asker.ask([question(number) for number in range(3)])
        assert [reading.data["explanation"] for reading in readings] == ["q0", "q1", "q2"]
        assert (asker.tally.n_read, asker.tally.n_repaired, server.n_requests) == (3, 1, 4)
        if fault == "short":
            assert server.requests[-1]["max_tokens"] == 100
    with LlmServer(rule=lambda body: "no idea") as server, LlmClient(config_of(server), tmp_path) as client:
        asker = Asker(client, Prompts("text"))
        assert [reading.why for reading in asker.ask([question(number) for number in range(3)])] == ["garbage"] * 3
        assert (asker.tally.n_garbled, asker.tally.n_read) == (3, 0)


WORK = """
    import sys
    from pathlib import Path
    from sparselight.interpret.llm import ChatRequest, LlmClient, LlmConfig, Message, Sampling
    schema = {"type": "object", "required": ["explanation"], "properties": {"explanation": {"type": "string", "description": "text"}}}
    config = LlmConfig(endpoint=sys.argv[1], model="test-model", concurrency=2)
    requests = [ChatRequest((Message("user", f'q{n} "explanation"'),), schema, Sampling(50)) for n in range(30)]
    with LlmClient(config, Path(sys.argv[2])) as client:
        answers = client.ask(requests)
    print(len([answer for answer in answers if answer.text]))
"""


def test_killed_and_started_again(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(WORK)]
    with LlmServer(rule=echo, delay_s=0.05) as server:
        process = subprocess.Popen([*command, server.url, str(tmp_path)], env={**os.environ, "OMP_NUM_THREADS": "1"})
        while len(server.answered) < 8 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        while server.n_open:  # a request that it sent may still be on its way
            time.sleep(0.01)
        n_kept = len(list(tmp_path.rglob("*.json")))
        assert n_kept >= 6  # what was under way, at most two, is lost
        before = server.n_requests
        done = subprocess.run([*command, server.url, str(tmp_path)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "30"
        assert server.n_requests - before == 30 - n_kept
        assert sum(server.answered.values()) - len(server.answered) <= 2
