"""What requests may cost and what they did cost: caps that hold whatever the server does.

Before a request is sent its most expensive outcome is set aside (every byte a token, the longest answer); when the answer is there, what the server counted
takes its place. A request whose outcome is not known (a timeout, a cut connection) keeps what was set aside, because it may have been charged. So no cap can
be passed, and the last few requests below a cap on tokens or cost may not be sent.
"""

import threading
from dataclasses import dataclass, field

from sparselight.interpret.llm.chat import ChatRequest
from sparselight.interpret.llm.config import LlmConfig


@dataclass(slots=True)
class Usage:
    """What was sent and counted."""

    n_calls: int = 0
    """Requests sent, failed attempts included."""
    n_cached: int = 0
    """Answers that were on disk."""
    n_retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What requests would cost. Expected values are estimates; `most_` are bounds."""

    n_calls: int
    n_cached: int
    tokens_in: int
    tokens_out: int
    most_tokens: int
    cost: float | None
    most_cost: float | None

    def __add__(self, other: "Estimate") -> "Estimate":
        def total(first: float | None, second: float | None) -> float | None:
            return None if first is None or second is None else first + second

        return Estimate(self.n_calls + other.n_calls, self.n_cached + other.n_cached, self.tokens_in + other.tokens_in, self.tokens_out + other.tokens_out,
                        self.most_tokens + other.most_tokens, total(self.cost, other.cost), total(self.most_cost, other.most_cost))


@dataclass(slots=True)
class Budget:
    """The caps of one call of the command."""

    config: LlmConfig
    usage: Usage = field(default_factory=Usage)
    held_in: int = 0
    """Tokens set aside for requests under way."""
    held_out: int = 0
    settled: threading.Condition = field(default_factory=threading.Condition)

    def reserve(self, request: ChatRequest) -> str:
        """Set a request's most expensive outcome aside; returns the setting whose cap forbids it, empty when it may be sent.

        Waits where only what is set aside for requests under way stands in the way: most of that comes back.
        """
        tokens_in, tokens_out = request.most_tokens_in(), request.sampling.max_tokens
        with self.settled:
            while (cap := self._forbids(tokens_in, tokens_out)) and self.held_out and cap != "explain.llm.max_calls":
                self.settled.wait()
            if not cap:
                self.usage.n_calls += 1
                self.held_in += tokens_in
                self.held_out += tokens_out
            return cap

    def _forbids(self, tokens_in: int, tokens_out: int) -> str:
        total_in, total_out = self.usage.tokens_in + self.held_in + tokens_in, self.usage.tokens_out + self.held_out + tokens_out
        if self.usage.n_calls + 1 > self.config.max_calls:
            return "explain.llm.max_calls"
        if self.config.max_tokens is not None and total_in + total_out > self.config.max_tokens:
            return "explain.llm.max_tokens"
        if self.config.max_cost is not None and (self.cost(total_in, total_out) or 0.0) > self.config.max_cost:
            return "explain.llm.max_cost"
        return ""

    def settle(self, request: ChatRequest, tokens_in: int | None, tokens_out: int | None) -> None:
        """Replace what was set aside by what was counted; None: not known, so all of it counts."""
        most_in, most_out = request.most_tokens_in(), request.sampling.max_tokens
        with self.settled:
            self.held_in -= most_in
            self.held_out -= most_out
            self.usage.tokens_in += most_in if tokens_in is None else tokens_in
            self.usage.tokens_out += most_out if tokens_out is None else tokens_out
            self.settled.notify_all()

    def cost(self, tokens_in: float, tokens_out: float) -> float | None:
        """In the currency of the prices; None without prices."""
        if self.config.price_in is None or self.config.price_out is None:
            return None
        return (tokens_in * self.config.price_in + tokens_out * self.config.price_out) / 1e6

    def spent(self) -> float | None:
        return self.cost(self.usage.tokens_in, self.usage.tokens_out)

    def estimate(self, request: ChatRequest, is_cached: bool, tokens_out: int) -> Estimate:
        """Of one request; `tokens_out` is the length that an answer is expected to have."""
        if is_cached:
            return Estimate(0, 1, 0, 0, 0, None if self.cost(0, 0) is None else 0.0, None if self.cost(0, 0) is None else 0.0)
        tokens_in, most_in, most_out = request.expected_tokens_in(), request.most_tokens_in(), request.sampling.max_tokens
        tokens_out = min(tokens_out, most_out)
        return Estimate(1, 0, tokens_in, tokens_out, most_in + most_out, self.cost(tokens_in, tokens_out), self.cost(most_in, most_out))
