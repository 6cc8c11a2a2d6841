"""What stands between a request and the application: who may ask, from where, how much; and what every answer carries.

Owns, in this order: the Host header must name this server (a page elsewhere that points its own name at 127.0.0.1 is refused); a body may not be larger than
the settings allow, and is read before anything is done with it; what changes something must be JSON and must not come from another site; a shared server
wants its token, as bearer, or once in the address, which then becomes a cookie. A browser gets a refusal as a page, a program as JSON. Every answer, errors
included, gets the content security policy and forbids guessing types and framing. There are no CORS headers: no other site may read an answer.
"""

import hmac
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from sparselight.serve.settings import ServeSettings
from sparselight.serve.templating import refusal_page, wants_page

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

COOKIE = "sparselight_token"
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; font-src 'self'; "
          "base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
HEADERS = (
    ("content-security-policy", POLICY), ("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"), ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), microphone=(), geolocation=()"),
)
SAFE = ("GET", "HEAD", "OPTIONS")
MAX_TARGET_BYTES = 16_384
COOKIE_S = 30 * 86_400


class RefusedError(Exception):
    """A request that is not let in."""

    def __init__(self, status: int, asked: str, why: str, instead: str):
        self.status, self.asked, self.why, self.instead = status, asked, why, instead
        super().__init__(why)


class Guard:
    """The checks, around an ASGI application."""

    def __init__(self, app: App, settings: ServeSettings):
        self.app, self.settings = app, settings

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # there are no web sockets here
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        guarded = _with_headers(send, "no-cache" if scope["path"].startswith("/static/") else "no-store")
        try:
            self._check_size(scope, headers)
            self._check_host(headers)
            moved = self._check_token(scope, headers)
            if moved is not None:
                await _answer(guarded, 303, b"", [("location", moved), ("set-cookie", self._cookie())])
                return
            self._check_origin(scope, headers)
            await self.app(scope, receive if scope["method"] in SAFE else await self._read(receive), guarded)
        except RefusedError as err:
            more = [("www-authenticate", "Bearer")] if err.status == 401 else []
            if wants_page(scope["path"], headers.get("accept", "")):
                page = refusal_page(err, err.status).encode("utf-8", "replace")
                await _answer(guarded, err.status, page, [("content-type", "text/html; charset=utf-8"), *more])
            else:
                body = json.dumps({"asked": err.asked, "why": err.why, "instead": err.instead}).encode()
                await _answer(guarded, err.status, body, [("content-type", "application/json"), *more])

    def _check_size(self, scope: MutableMapping[str, Any], headers: dict[str, str]) -> None:
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.settings.max_body_bytes:
            raise too_large(self.settings)
        if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > MAX_TARGET_BYTES:
            raise RefusedError(414, "open this address", f"it is longer than {MAX_TARGET_BYTES:,} bytes", "shorten the query")

    def _check_host(self, headers: dict[str, str]) -> None:
        if host_name(headers.get("host", "")) not in self.settings.hosts:
            raise RefusedError(421, f"reach this server as {headers.get('host', '')[:80]!r}", "it does not go by that name",
                          "open the address that it printed, or start it with --allow-host NAME")

    def _check_token(self, scope: MutableMapping[str, Any], headers: dict[str, str]) -> str | None:
        """Where to go on, when the token came in the address: it is taken out of it and becomes a cookie."""
        if not self.settings.share_readonly:
            return None
        query = parse_qsl((scope.get("query_string") or b"").decode("latin-1"), keep_blank_values=True)
        if scope["method"] in SAFE and any(name == "token" and self._is_token(value) for name, value in query):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            path = quote(scope["path"].lstrip("/\\"), safe="/")  # one slash in front: two would lead to another host
            return f"/{path}" + (f"?{rest}" if rest else "")
        kind, _, given = headers.get("authorization", "").partition(" ")
        if (kind.lower() == "bearer" and self._is_token(given.strip())) or self._is_token(cookie_value(headers.get("cookie", ""))):
            return None
        instead = "open the address with ?token=... that it printed when it was started"
        raise RefusedError(401, "open this page", "this server is shared and wants its token", instead)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.settings.token.encode())

    def _cookie(self) -> str:
        return f"{COOKIE}={self.settings.token}; HttpOnly; SameSite=Strict; Path=/; Max-Age={COOKIE_S}"

    def _check_origin(self, scope: MutableMapping[str, Any], headers: dict[str, str]) -> None:
        if scope["method"] in SAFE:
            return
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise RefusedError(403, "change something from another site", "requests of other sites are refused", "use the pages of this server")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
            raise RefusedError(403, "change something from another site", "the request comes from another origin", "use the pages of this server")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RefusedError(415, "send this body", "it is not application/json", "send JSON")

    async def _read(self, receive: Receive) -> Receive:
        """The body, read whole before anything is done with it, as long as it is not too large: a missing or wrong Content-Length changes nothing."""
        body, message = b"", await receive()
        while message["type"] == "http.request":
            body += message.get("body") or b""
            if len(body) > self.settings.max_body_bytes:
                raise too_large(self.settings)
            if not message.get("more_body"):
                break
            message = await receive()
        given = [message if message["type"] == "http.disconnect" else {"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return given.pop() if given else await receive()

        return again


def too_large(settings: ServeSettings) -> RefusedError:
    return RefusedError(413, "send this request", f"its body is larger than {settings.max_body_bytes:,} bytes", "send less, or raise serve.max_body_bytes")


def host_name(header: str) -> str:
    """The name in a Host header, without its port, lower case; empty for one that is no name."""
    header = header.strip().lower()
    name, colon, port = header.rpartition(":")
    if colon and port.isdecimal() and (":" not in name or name.endswith("]")):
        return name
    return header


def cookie_value(header: str) -> str:
    """The token in a Cookie header, empty where there is none."""
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _with_headers(send: Send, cache: str) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            known = {name for name, _ in message["headers"]}
            more = [(name.encode(), value.encode()) for name, value in HEADERS if name.encode() not in known]
            if not any(name == b"cache-control" for name in known):
                more.append((b"cache-control", cache.encode()))
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return guarded


async def _answer(send: Send, status: int, body: bytes, headers: Iterable[tuple[str, str]]) -> None:
    listed = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": [*listed, (b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})
