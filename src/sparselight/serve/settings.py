"""Settings of the explorer: where it listens, who may come in, what may be changed, how much one request may be.

Owns the rule that a server for others needs both `share_readonly` and a token, and the three questions that the rest asks: `is_shared`, `may_try`,
`may_write`. Refuses every other combination.
"""

import ipaddress
from typing import Self

from pydantic import Field, model_validator

from sparselight.config import Config
from sparselight.errors import ConfigError, SparselightError
from sparselight.serve.live.config import LiveConfig

LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")


class ServeSettings(Config):
    """How runs are served."""

    host: str = "127.0.0.1"
    """Address that is listened on. Another one than this machine's own needs share_readonly and a token."""
    port: int = Field(default=8765, ge=0, le=65535)
    """0 takes a free one."""
    share_readonly: bool = False
    """Serve others too: everybody needs the token, and nothing can be edited or noted."""
    token: str = Field(default="", max_length=200)
    """What others show to come in: at least 16 characters out of A-Z a-z 0-9 - _."""
    allow_hosts: tuple[str, ...] = Field(default=(), max_length=100)
    """Names under which the server may be addressed besides 127.0.0.1, localhost and `host`."""
    allow_edits: bool = False
    """Let notes and labels be saved beside the run and, on a shared server, edits be tried."""
    max_body_bytes: int = Field(default=1_000_000, ge=1_000, le=100_000_000)
    """Largest body of a request."""
    live: LiveConfig = LiveConfig()
    """How the model runs that people try, and what one request may ask of it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.is_local_host and not (self.share_readonly and self.token):
            raise ValueError(f"serve.host = {self.host!r} lets others reach the server: that needs share_readonly and a token")
        if self.share_readonly != bool(self.token):
            raise ValueError("serve.share_readonly and serve.token go together: a shared server wants a token, one for this machine alone has no use for it")
        if self.token and (len(self.token) < 16 or not all(char.isascii() and (char.isalnum() or char in "-_") for char in self.token)):
            raise ValueError("serve.token is too weak or hard to send: give 16 or more characters out of A-Z a-z 0-9 - _")
        return self

    @property
    def is_local_host(self) -> bool:
        """Whether only this machine can reach the address."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def hosts(self) -> frozenset[str]:
        """Names, lower case and without port, that the Host header of a request may carry."""
        own = () if self.host in ("0.0.0.0", "::", "[::]") else (self.host, f"[{self.host}]" if ":" in self.host else self.host)
        return frozenset(name.lower() for name in (*LOCAL_NAMES, *own, *self.allow_hosts))

    @property
    def may_try(self) -> bool:
        """Whether edits may be tried on the model; they change nothing on disk."""
        return not self.share_readonly or self.allow_edits

    @property
    def may_write(self) -> bool:
        """Whether notes and labels may be saved."""
        return self.allow_edits


def not_found(asked: str) -> SparselightError:
    """The refusal of an address that nothing stands behind; it becomes a 404."""
    return NotFoundError(asked=asked, why="there is none of that name here", instead="go back to the list of runs")


class NotFoundError(ConfigError):
    """What was asked for is not there."""


class NotAllowedError(ConfigError):
    """What was asked for is not allowed on this server."""
