"""A language model's server for tests: real HTTP on 127.0.0.1, the OpenAI protocol, answers by a rule, faults on demand.

`LlmServer` counts every request and every answer, so that a test can say that nothing was asked twice. `read_and_judge` is a rule that does the tasks of
explaining and scoring by words alone: what it answers is a function of the prompt. Faults go to requests in the order in which they arrive.
"""

import contextlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

Fault = Literal["", "429", "429 long", "500", "slow", "no json", "cut", "drop", "garbage", "refusal", "polite refusal", "short", "too long"]
Rule = Callable[[dict[str, Any]], str]

WORD = re.compile(r"[^\W_]+")
BLOCK = re.compile(r"^(-{5,}) (example \d+|description) \1\n(.*?)\n\1 end \1$", re.S | re.M)
MARKED = re.compile(r"<<(.*?)>>", re.S)


def blocks(body: dict[str, Any], kind: str) -> list[str]:
    """The fenced texts of the last user message, of one kind: `example` or `description`."""
    text = next((message_text(message) for message in reversed(body["messages"]) if message["role"] == "user" and BLOCK.search(message_text(message))), "")
    return [match[3] for match in BLOCK.finditer(text) if match[2].startswith(kind)]


def message_text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def read_and_judge(body: dict[str, Any]) -> str:
    """Explain by the marked word that most examples share; judge by whether a word of the description occurs."""
    prompt = "\n".join(message_text(message) for message in body["messages"])
    examples = blocks(body, "example")
    if '"explanation"' in prompt:
        counts = Counter(word for example in examples for word in marked_words(example))
        return json.dumps({"explanation": f"the word {counts.most_common(1)[0][0]}" if counts else "nothing in common"})
    wanted = words(" ".join(blocks(body, "description"))) - {"the", "word"}
    if '"fits"' in prompt:
        return json.dumps({"fits": [int(bool((marked_words(example) if "<<" in example else words(example)) & wanted)) for example in examples]})
    if '"level"' in prompt:
        return json.dumps({"level": 9 if words(examples[-1]) & wanted else 0})
    shared = Counter(word for example in examples for word in marked_words(example))
    return json.dumps({"odd_one_out": 1 + min(range(len(examples)), key=lambda i: max((shared[word] for word in marked_words(examples[i])), default=0))})


def words(text: str) -> set[str]:
    return {word.lower() for word in WORD.findall(text)}


def marked_words(text: str) -> set[str]:
    return words(" ".join(MARKED.findall(text)))


@dataclass
class LlmServer:
    """The server; a context manager. `url` is what `--endpoint` takes."""

    rule: Rule = read_and_judge
    faults: Sequence[Fault] = ()
    """What happens to the first, second, ... request; "" answers as always."""
    models: Sequence[str] | None = ("test-model",)
    """Names that it lists; None: it has no list."""
    structured: Literal["schema", "object", "none"] = "schema"
    """The strongest `response_format` that it takes; others are rejected with 400."""
    limit_field: str = "max_tokens"
    """Name of the length limit that it takes."""
    key: str = ""
    """When not empty, requests need it."""
    delay_s: float = 0.0
    """Before each answer."""
    slow_s: float = 3.0
    """How long a `slow` request is kept."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of all requests, in the order of arrival."""
    headers: list[dict[str, str]] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    """How often each conversation got an answer with status 200 that was sent whole; who has the answer finds it counted."""
    most_at_once: int = 0
    n_open: int = 0
    """Connections that are open. Without one, nothing of a client that was killed is still to come."""
    url: str = ""

    def __enter__(self) -> Self:
        self._lock, self._n_now = threading.Lock(), 0
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"owner": self}))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def n_requests(self) -> int:
        return len(self.requests)

    def arrive(self, body: dict[str, Any], headers: dict[str, str]) -> Fault:
        """Count a request; returns its fault."""
        with self._lock:
            self.requests.append(body)
            self.headers.append(headers)
            self._n_now += 1
            self.most_at_once = max(self.most_at_once, self._n_now)
            number = len(self.requests) - 1
        return self.faults[number] if number < len(self.faults) else ""

    def leave(self) -> None:
        with self._lock:
            self._n_now -= 1

    def opened(self, by: int) -> None:
        with self._lock:
            self.n_open += by

    def count(self, body: dict[str, Any], by: int) -> None:
        with self._lock:
            self.answered[json.dumps(body["messages"], sort_keys=True)] += by
            self.answered = +self.answered  # without what was taken back


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    owner: LlmServer
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        self.owner.opened(1)
        try:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # a client that has given up
                super().handle()
        finally:
            self.owner.opened(-1)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        if not self._allowed():
            return
        if self.path == "/v1/models" and self.owner.models is not None:
            self._send(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.owner.models]})
        else:
            self._error(404, "no such path")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = self.owner.arrive(body, dict(self.headers))
        try:
            if self._allowed() and self._accepts(body):
                self._answer(body, fault)
        except (BrokenPipeError, ConnectionResetError):  # the client has given up
            self.close_connection = True
        finally:
            self.owner.leave()

    def _allowed(self) -> bool:
        if self.owner.key and self.headers.get("Authorization") != f"Bearer {self.owner.key}":
            self._error(401, f"wrong key: {self.headers.get('Authorization')}")
            return False
        return True

    def _accepts(self, body: dict[str, Any]) -> bool:
        form = body.get("response_format", {}).get("type", "text")
        known = {"schema": ("text", "json_object", "json_schema"), "object": ("text", "json_object"), "none": ("text",)}[self.owner.structured]
        if form not in known:
            self._error(400, f"response_format {form} is not supported")
            return False
        other = next((name for name in ("max_tokens", "max_completion_tokens") if name in body and name != self.owner.limit_field), None)
        if other:
            self._error(400, f"unsupported parameter {other}: use {self.owner.limit_field}")
            return False
        if self.owner.models is not None and body["model"] not in self.owner.models:
            self._error(404, f"the model {body['model']} does not exist")
            return False
        return True

    def _answer(self, body: dict[str, Any], fault: Fault) -> None:
        time.sleep(self.owner.slow_s if fault == "slow" else self.owner.delay_s)
        if fault == "429":
            self._send(429, {"error": {"message": "too many requests"}}, {"Retry-After": "0.05"})
        elif fault == "429 long":
            self._send(429, {"error": {"message": "quota used up"}}, {"Retry-After": "86400"})
        elif fault == "500":
            self._error(500, "something broke")
        elif fault == "too long":
            self._error(400, "the context length is exceeded")
        elif fault == "no json":
            self._raw(b"<html>a proxy's page</html>")
        elif fault == "drop":
            self.close_connection = True
        else:
            self._complete(body, fault)

    def _complete(self, body: dict[str, Any], fault: Fault) -> None:
        text, finish, refusal = self.owner.rule(body), "stop", None
        if fault == "garbage":
            text = "I think it is the second one, or maybe not."
        elif fault == "refusal":
            text, refusal = "", "I cannot help with that."
        elif fault == "polite refusal":
            text = "I'm sorry, but I can't assist with that request."
        elif fault == "short":
            text, finish = text[: len(text) // 2], "length"
        prompt = sum(len(message_text(message).split()) for message in body["messages"])
        content = json.dumps({
            "id": "x", "object": "chat.completion", "model": body["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text, "refusal": refusal}, "finish_reason": finish}],
            "usage": {"prompt_tokens": prompt, "completion_tokens": len(text.split()) or 1, "total_tokens": prompt + (len(text.split()) or 1)},
        }).encode()
        if fault == "cut":
            self._raw(content[: len(content) // 2], n_bytes=len(content))
            self.close_connection = True
            return
        self.owner.count(body, 1)
        try:
            self._raw(content)
        except OSError:
            self.owner.count(body, -1)
            raise

    def _error(self, status: int, message: str) -> None:
        self._send(status, {"error": {"message": message, "type": "error"}})

    def _send(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self._raw(json.dumps(content).encode(), status, headers)

    def _raw(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None, n_bytes: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content) if n_bytes is None else n_bytes))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()
