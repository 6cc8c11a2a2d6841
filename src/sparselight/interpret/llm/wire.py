"""One attempt at one request over HTTP: what the server said, in five kinds that the client acts upon.

Owns the connection, the key and what of the protocol differs between servers. A key is read from the environment when the connection opens, stands in one
header and nowhere else: it is blotted out of every message that could repeat it. An answer is read up to a deadline and a size, whatever the server sends.
"""

import email.utils
import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sparselight.errors import EndpointError, MissingExtraError, nearest
from sparselight.interpret.llm.chat import Answer, ChatRequest, Structured
from sparselight.interpret.llm.config import LlmConfig

if TYPE_CHECKING:
    import httpx2

MOST_BYTES = 16 * 2**20  # of one response: far above any answer, far below what hurts
CONNECT_S = 10.0
SHOWN_CHARS = 300  # of a server's own message

Kind = Literal["answer", "busy", "failed", "lost", "rejected"]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one attempt.

    answer: a completion. busy: 429, nothing was done. failed: the server's own error, or a body that cannot be read. lost: no complete response, so that the
    server may have done the work. rejected: the request itself was not accepted.
    """

    kind: Kind
    answer: Answer | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    why: str = ""
    wait_s: float | None = None
    """Retry-After of the server."""
    status: int = 0


class Wire:
    """A connection to an endpoint; many threads may send at once."""

    def __init__(self, config: LlmConfig):
        try:
            import httpx2
        except ImportError:
            raise MissingExtraError(package="httpx2", extra="llm", asked="ask a language model") from None
        self.config, self.key = config, os.environ.get(config.key_variable, "").strip()
        if config.api_key_env and not self.key:
            raise EndpointError(asked=f"ask {config.endpoint}", why=f"the environment variable {config.api_key_env} (explain.llm.api_key_env) is empty",
                                instead="export the key in it, or leave that setting out for a server that needs none")
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        limits = httpx2.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency)
        timeout = httpx2.Timeout(config.timeout_s, connect=min(CONNECT_S, config.timeout_s), pool=None)
        self.http = httpx2.Client(headers=headers, limits=limits, timeout=timeout, follow_redirects=False, trust_env=not config.is_local())

    def close(self) -> None:
        self.http.close()

    def models(self) -> list[str] | None:
        """Names of the models that the server lists; None when it has no such list.

        Raises:
            EndpointError: when it cannot be reached, or wants another key.
        """
        import httpx2

        asked = f"ask the language model server {self.config.endpoint}"
        try:
            response = self.http.get(f"{self.config.endpoint}/models")
        except httpx2.HTTPError as err:
            raise EndpointError(asked=asked, why=f"it cannot be reached ({self._clean(str(err)) or type(err).__name__})",
                                instead="start the server, or give its address, up to /v1, with --endpoint (explain.llm.endpoint)") from None
        if response.status_code in (401, 403):
            raise self.forbidden(response.status_code)
        try:
            return [str(row["id"]) for row in response.json()["data"]] if response.status_code == 200 else None
        except (ValueError, KeyError, TypeError):
            return None

    def forbidden(self, status: int) -> EndpointError:
        """The error of a key that is missing or wrong."""
        variable = self.config.key_variable
        why = f"it answers {status}: {'the key in' if self.key else 'no key was sent, for there is none in'} the environment variable {variable}"
        return EndpointError(asked=f"ask the language model server {self.config.endpoint}", why=f"{why}{' is not accepted' if self.key else ''}",
                             instead=f"export a valid key as {variable}, or name another variable in explain.llm.api_key_env")

    def send(self, request: ChatRequest, structured: Structured, limit_field: str) -> Reply:
        """One attempt."""
        import httpx2

        began = time.monotonic()
        try:
            body = request.body(self.config.model, structured, limit_field)
            with self.http.stream("POST", f"{self.config.endpoint}/chat/completions", json=body) as response:
                content = bytearray()
                for block in response.iter_bytes():
                    content += block
                    if len(content) > MOST_BYTES or time.monotonic() - began > self.config.timeout_s:
                        return Reply("lost", why="the response does not end")
                return self._read(response, bytes(content))
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as err:
            return Reply("failed", why=f"no connection ({self._clean(str(err)) or type(err).__name__})", tokens_in=0, tokens_out=0)
        except httpx2.TimeoutException:
            return Reply("lost", why=f"no answer within {self.config.timeout_s:g} s (explain.llm.timeout_s)")
        except httpx2.HTTPError as err:
            return Reply("lost", why=f"the connection was cut ({self._clean(str(err)) or type(err).__name__})")

    def _read(self, response: "httpx2.Response", content: bytes) -> Reply:
        status = response.status_code
        if status in (401, 403):
            raise self.forbidden(status)
        if status == 200:
            return read_completion(content)
        why = f"{status}: {self._clean(message_of(content))}"
        if status == 429:
            return Reply("busy", why=why, wait_s=retry_after(response.headers.get("retry-after")), status=status, tokens_in=0, tokens_out=0)
        if status >= 500 or status in (408, 409, 425):
            return Reply("failed", why=why, wait_s=retry_after(response.headers.get("retry-after")), status=status, tokens_in=0, tokens_out=0)
        return Reply("rejected", why=why, status=status, tokens_in=0, tokens_out=0)

    def _clean(self, text: str) -> str:
        text = " ".join(text.split())[:SHOWN_CHARS]
        return text.replace(self.key, "[key]") if self.key else text


def read_completion(content: bytes) -> Reply:
    """A response with status 200. A body that is no chat completion counts as lost: the server may have charged for it."""
    try:
        data: dict[str, Any] = json.loads(content)
        choice = data["choices"][0]
        message = choice["message"]
        text, refusal, finish = message.get("content"), message.get("refusal"), choice.get("finish_reason")
        if isinstance(text, list):  # some servers give parts, as requests do
            text = "".join(str(part.get("text", "")) for part in text)
        tokens_in, tokens_out = _usage(data.get("usage"))
    except (ValueError, LookupError, TypeError, AttributeError):
        return Reply("lost", why="a response that is no chat completion")
    if refusal or finish == "content_filter":
        answer = Answer(refusal=str(refusal or "a content filter cut the answer"))
    else:
        answer = Answer(text=str(text or ""), is_cut=finish == "length")
    counted = Answer(answer.text, answer.refusal, is_cut=answer.is_cut, tokens_in=tokens_in or 0, tokens_out=tokens_out or 0)
    return Reply("answer", counted, tokens_in, tokens_out)


def _usage(usage: Any) -> tuple[int | None, int | None]:
    if not isinstance(usage, dict):
        return None, None
    found = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    first, second = (value if isinstance(value, int) and value >= 0 else None for value in found)
    return first, second


def message_of(content: bytes) -> str:
    """What an error response says, in the shapes that servers use."""
    try:
        data = json.loads(content)
    except ValueError:
        return content[:SHOWN_CHARS].decode(errors="replace")
    for name in ("error", "detail", "message"):
        if isinstance(data, dict) and data.get(name):
            data = data[name]
    return data if isinstance(data, str) else json.dumps(data)


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds a number or a date (RFC 9110, section 10.2.3)."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        parsed = email.utils.parsedate_tz(value)
        return None if parsed is None else max(0.0, email.utils.mktime_tz(parsed) - time.time())


def check_model(config: LlmConfig, listed: list[str] | None) -> None:
    """Refuse a model that the server does not list.

    Raises:
        EndpointError: naming the nearest one.
    """
    if listed and config.model not in listed:
        raise EndpointError(asked=f"use the model {config.model!r} (explain.llm.model)", why=f"the server {config.endpoint} does not list it",
                            instead=nearest(config.model, listed))
