"""The client: what is sent, what is kept, what a cap allows, and what a user who gets something wrong is told."""

import json
import sys
import threading
import time

import pytest

from sparselight.errors import ConfigError, EndpointError, MissingExtraError
from sparselight.interpret.llm import ChatRequest, LlmClient, LlmConfig, Message, Sampling
from sparselight.interpret.llm.budget import Budget
from sparselight.interpret.llm.wire import retry_after
from sparselight.testing import LlmServer

SCHEMA = {"type": "object", "required": ["explanation"], "properties": {"explanation": {"type": "string", "description": '"text"'}}}


def question(text, **sampling):
    return ChatRequest((Message("user", f'{text} answer with {{"explanation": "text"}}'),), SCHEMA, Sampling(50, **sampling))


def echo(body):
    return json.dumps({"explanation": body["messages"][-1]["content"].split()[0]})


@pytest.fixture
def questions():
    return [question(f"q{number}") for number in range(12)]


def said(answers):
    return [json.loads(answer.text)["explanation"] for answer in answers]


def test_answers_come_in_order_and_at_once(tmp_path, fast, questions):
    turn = threading.Barrier(4)

    def together(body):
        turn.wait(600)  # four are here at once
        return echo(body)

    with LlmServer(rule=together) as server, LlmClient(fast(server, concurrency=4, timeout_s=600.0), tmp_path) as client:
        assert said(client.ask(questions)) == [f"q{number}" for number in range(12)]
        assert server.most_at_once == 4
        body = server.requests[0]
        assert (body["temperature"], body["seed"], body["max_tokens"], body["stream"]) == (0.0, 0, 50, False)
        assert "top_p" in body or client.config.top_p == "server"
        assert body["response_format"]["json_schema"]["schema"] == SCHEMA


def test_a_second_time_costs_nothing_and_needs_no_server(tmp_path, fast, questions):
    with LlmServer(rule=echo) as server:
        config = fast(server)
        with LlmClient(config, tmp_path) as client:
            first = client.ask([*questions, questions[0]])
        assert server.n_requests == 12 == len(server.answered)
    with LlmClient(config, tmp_path) as client:
        again = client.ask([*questions, questions[0]])
        assert [answer.text for answer in again] == [answer.text for answer in first]
        assert all(answer.is_cached for answer in again)
        assert (client.budget.usage.n_calls, client.budget.usage.n_cached) == (0, 12)


def test_whatever_changes_the_answer_changes_the_key():
    base = question("a")
    others = [question("b"), question("a", seed=1), question("a", temperature=0.5), question("a", top_p=0.9),
              ChatRequest(base.messages, {**SCHEMA, "additionalProperties": False}, base.sampling), ChatRequest(base.messages, SCHEMA, Sampling(51))]
    keys = {request.key("http://x/v1", "m") for request in [base, *others]} | {base.key("http://y/v1", "m"), base.key("http://x/v1", "n")}
    assert len(keys) == 9
    assert question("a").key("http://x/v1", "m") == base.key("http://x/v1", "m")


def test_a_damaged_answer_is_asked_again(tmp_path, fast):
    with LlmServer(rule=echo) as server, LlmClient(fast(server), tmp_path) as client:
        client.ask([question("a")])
        path = next(tmp_path.rglob("*.json"))
        path.write_text(path.read_text()[:40])
        assert said(client.ask([question("a")])) == ["a"]
        assert server.n_requests == 2


def test_the_key_goes_to_the_server_and_nowhere_else(tmp_path, fast, monkeypatch):
    monkeypatch.setenv("MY_KEY", "very-secret-key")
    with LlmServer(rule=echo, key="very-secret-key") as server:
        with LlmClient(fast(server, api_key_env="MY_KEY"), tmp_path) as client:
            client.ask([question("a")])
        assert server.headers[0]["Authorization"] == "Bearer very-secret-key"
        assert not any("very-secret-key" in path.read_text() for path in tmp_path.rglob("*") if path.is_file())
        monkeypatch.setenv("MY_KEY", "another-secret")
        with LlmClient(fast(server, api_key_env="MY_KEY"), tmp_path) as client, pytest.raises(EndpointError) as err:
            client.ask([question("b")])
        assert "another-secret" not in str(err.value)
        assert "MY_KEY" in str(err.value)
        monkeypatch.delenv("MY_KEY")
        with LlmClient(fast(server), tmp_path) as client, pytest.raises(EndpointError, match="SPARSELIGHT_LLM_API_KEY"):
            client.ask([question("b")])
        with LlmClient(fast(server, api_key_env="MY_KEY"), tmp_path) as client, pytest.raises(EndpointError, match="MY_KEY"):
            client.ask([question("b")])


def test_a_key_goes_only_to_the_host_that_it_is_meant_for(monkeypatch, tmp_path, fast):
    monkeypatch.setenv("OPENAI_API_KEY", "for-the-cloud-alone")
    assert LlmConfig(endpoint="https://api.openai.com/v1", model="m").key_variable == "OPENAI_API_KEY"
    with LlmServer(rule=echo) as server, LlmClient(fast(server), tmp_path) as client:
        client.ask([question("a")])
        assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize("value", ["ftp://x/v1", "localhost:8000", "http://user:password@host/v1", "http://host/v1?key=abc"])
def test_an_endpoint_is_a_url_without_secrets(value):
    with pytest.raises(ConfigError, match="explain.llm.endpoint"):
        LlmConfig.parse({"endpoint": value}, "explain.llm")


def test_a_cap_on_cost_needs_prices():
    with pytest.raises(ConfigError, match="price"):
        LlmConfig.parse({"max_cost": 1.0}, "explain.llm")


@pytest.mark.parametrize("missing", ["endpoint", "model"])
def test_without_endpoint_or_model(tmp_path, missing):
    config = LlmConfig(**{"endpoint": "http://127.0.0.1:1/v1", "model": "m", missing: ""})
    with pytest.raises(ConfigError, match=f"--{missing}"):
        LlmClient(config, tmp_path)


def test_nobody_there(tmp_path):
    with LlmClient(LlmConfig(endpoint="http://127.0.0.1:9/v1", model="m"), tmp_path) as client, pytest.raises(EndpointError, match="cannot be reached"):
        client.ask([question("a")])


def test_a_model_that_the_server_does_not_have(tmp_path, fast):
    with LlmServer() as server, LlmClient(fast(server).model_copy(update={"model": "test-mdoel"}), tmp_path) as client:
        with pytest.raises(EndpointError, match="use 'test-model'"):
            client.ask([question("a")])
        assert server.n_requests == 0


def test_an_unknown_model_of_a_server_without_a_list(tmp_path, fast):
    def refuse(body):
        raise AssertionError
    with LlmServer(rule=refuse, models=()) as server, LlmClient(fast(server, max_retries=0), tmp_path) as client, pytest.raises(EndpointError, match="404"):
        client.ask([question(str(number)) for number in range(4)])


@pytest.mark.parametrize(("structured", "expected"), [("schema", "json_schema"), ("object", "json_object"), ("none", None)])
def test_the_strongest_form_that_the_server_takes_is_found_once(tmp_path, fast, questions, structured, expected):
    with LlmServer(rule=echo, structured=structured) as server, LlmClient(fast(server, concurrency=1), tmp_path) as client:
        assert said(client.ask(questions)) == [f"q{number}" for number in range(12)]
        assert server.requests[-1].get("response_format", {}).get("type") == expected
        assert server.n_requests == 12 + {"schema": 0, "object": 1, "none": 2}[structured]


def test_a_form_that_was_asked_for_is_not_given_up(tmp_path, fast):
    with (LlmServer(rule=echo, structured="none") as server, LlmClient(fast(server, structured="schema"), tmp_path) as client,
          pytest.raises(EndpointError, match="response_format")):
        client.ask([question(str(number)) for number in range(4)])


def test_the_other_name_of_the_length_limit(tmp_path, fast):
    with LlmServer(rule=echo, limit_field="max_completion_tokens") as server, LlmClient(fast(server), tmp_path) as client:
        assert said(client.ask([question("a")])) == ["a"]
        assert server.requests[-1]["max_completion_tokens"] == 50


def test_max_calls_is_never_exceeded(tmp_path, fast, questions):
    with LlmServer(rule=echo, faults=["500"] * 3) as server, LlmClient(fast(server, max_calls=7), tmp_path) as client:
        answers = client.ask(questions)
        assert server.n_requests == 7
        assert client.capped == "explain.llm.max_calls"
        unanswered = [answer for answer in answers if answer.problem]
        assert len(unanswered) == 12 - 4
        assert all("explain.llm.max_calls" in answer.problem for answer in unanswered)
        client.ask(questions)
        assert server.n_requests == 7


@pytest.mark.parametrize("concurrency", [1, 6])
def test_caps_on_tokens_and_cost_are_never_exceeded(tmp_path, fast, questions, concurrency):
    with LlmServer(rule=echo) as server:
        config = fast(server, max_tokens=260, concurrency=concurrency)
        with LlmClient(config, tmp_path / "tokens") as client:
            client.ask(questions)
            assert 0 < client.budget.usage.tokens_in + client.budget.usage.tokens_out <= 260
            assert client.capped == "explain.llm.max_tokens"
            assert server.n_requests >= 4  # what was set aside for others comes back
        config = fast(server, max_cost=0.0008, price_in=1.0, price_out=10.0, concurrency=concurrency)
        with LlmClient(config, tmp_path / "cost") as client:
            client.ask(questions)
            assert 0 < client.budget.spent() <= 0.0008
            assert client.capped == "explain.llm.max_cost"


def test_what_may_have_been_charged_counts_in_full():
    budget, request = Budget(LlmConfig(endpoint="http://x/v1", model="m", max_tokens=10_000)), question("a")
    assert budget.reserve(request) == ""
    budget.settle(request, None, None)
    assert (budget.usage.tokens_in, budget.usage.tokens_out) == (request.most_tokens_in(), 50)
    assert (budget.held_in, budget.held_out) == (0, 0)


def test_the_estimate_is_of_what_is_not_on_disk(tmp_path, fast, questions):
    with LlmServer(rule=echo) as server, LlmClient(fast(server, price_in=1.0, price_out=2.0), tmp_path) as client:
        before = client.estimate([*questions, questions[0]], 10)
        assert (before.n_calls, before.n_cached, before.tokens_out) == (12, 1, 120)
        assert before.tokens_in + before.tokens_out < before.most_tokens
        assert 0 < before.cost < before.most_cost
        assert server.n_requests == 0
        client.ask(questions[:5])
        assert client.estimate(questions, 10).n_calls == 7
        assert client.budget.usage.tokens_in <= sum(request.most_tokens_in() for request in questions[:5])


def test_requests_a_minute(tmp_path, fast, questions):
    with LlmServer(rule=echo) as server, LlmClient(fast(server, requests_per_minute=1200.0), tmp_path) as client:
        began = time.monotonic()
        client.ask(questions)
        assert time.monotonic() - began >= 11 * 60 / 1200  # a lower bound: no machine is too fast for a limit


def test_progress_ends_at_the_whole(tmp_path, fast, questions):
    seen = []
    with LlmServer(rule=echo) as server, LlmClient(fast(server), tmp_path) as client:
        client.ask(questions[:4])
        client.ask(questions, lambda done, total, note="": seen.append((done, total, note)))
    assert seen[0][:2] == (4, 12)
    assert seen[-1][:2] == (12, 12)
    assert "from disk" in seen[-1][2]


@pytest.mark.parametrize(("header", "low", "high"), [("3", 3, 3), (None, None, None), ("soon", None, None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0)])
def test_retry_after(header, low, high):
    found = retry_after(header)
    assert found is None if low is None else low <= found <= high


def test_text_that_is_no_unicode_is_asked_and_kept(tmp_path, fast):
    with LlmServer(rule=lambda body: '{"explanation": "half \\ud800 a pair"}') as server, LlmClient(fast(server), tmp_path) as client:
        first = client.ask([question("broken \udcff text")])
        assert client.ask([question("broken \udcff text")])[0].text == first[0].text
        assert server.n_requests == 1


def test_without_the_extra_its_name_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with LlmClient(LlmConfig(endpoint="http://127.0.0.1:9/v1", model="m"), tmp_path) as client, pytest.raises(MissingExtraError, match=r"sparselight\[llm\]"):
        client.ask([question("a")])
