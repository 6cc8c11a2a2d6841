"""Asks many requests at once: from disk where they were answered before, else of the server, within the caps, with retries, until all are answered.

What differs between servers is found out once (JSON schema, name of the length limit) and remembered. A 429 makes all requests wait as long as the server
says. A request that the server keeps failing at, while others succeed, is given up and counted; when nothing succeeds any more the work ends with an
error, and being called again goes on from what is on disk.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from sparselight.errors import ConfigError, EndpointError
from sparselight.interpret.llm.budget import Budget, Estimate
from sparselight.interpret.llm.cache import AnswerCache
from sparselight.interpret.llm.chat import Answer, ChatRequest, Sampling, Structured
from sparselight.interpret.llm.config import LlmConfig
from sparselight.interpret.llm.wire import Reply, Wire, check_model
from sparselight.protocols import Progress, no_progress

MOST_LOST = 3  # requests given up in a row, without one success, end the work
LONGEST_BACKOFF_S = 60.0
MOST_FORMS = 4  # of one request: three ways to hold an answer to JSON, two names of the length limit
NEXT_FORM: dict[Structured, Structured] = {"schema": "object", "object": "off", "off": "schema"}
UNKNOWN_FORM = (400, 415, 422)  # with which servers answer a field that they do not take


@dataclass(slots=True)
class Pace:
    """When the next request may go: limits a minute, and pauses that the server asks for."""

    config: LlmConfig
    free_at: float = 0.0
    held_until: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self, request: ChatRequest, sleep: Callable[[float], bool]) -> None:
        """Wait for this request's turn.

        Args:
            sleep: returns whether the work was stopped meanwhile.
        """
        with self.lock:
            turn = max(self.free_at, time.monotonic())
            step = 60.0 / self.config.requests_per_minute if self.config.requests_per_minute else 0.0
            if self.config.tokens_per_minute:
                tokens = request.expected_tokens_in() + request.sampling.max_tokens
                step = max(step, 60.0 * tokens / self.config.tokens_per_minute)
            self.free_at = turn + step
        while (left := max(turn, self.held_until) - time.monotonic()) > 0:  # read again each time: somebody may be told to wait meanwhile
            if sleep(left):
                return

    def hold(self, seconds: float) -> None:
        """Nobody sends for that long."""
        with self.lock:
            self.held_until = max(self.held_until, time.monotonic() + seconds)


class LlmClient:
    """A language model behind an endpoint, with its answers on disk.

    Args:
        cache: folder of the answers.

    Raises:
        ConfigError: without an endpoint or a model.
    """

    def __init__(self, config: LlmConfig, cache: Path):
        for name in ("endpoint", "model"):
            if not getattr(config, name):
                raise ConfigError(asked=f"ask a language model without explain.llm.{name}", why="it has no default",
                                  instead=f"give --{name}, for example --endpoint http://127.0.0.1:8000/v1 --model NAME")
        self.config, self.cache, self.budget, self.pace = config, AnswerCache(cache, config.endpoint, config.model), Budget(config), Pace(config)
        self.form: Structured = "schema" if config.structured == "auto" else config.structured
        self.limit_field = "max_tokens"
        self.capped = ""
        """The setting whose cap ended the work; empty while none did."""
        self._wire: Wire | None = None
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._lost_in_a_row, self._is_proven, self._fatal = 0, False, ""
        self._jitter = random.Random(config.seed if isinstance(config.seed, int) else 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._wire is not None:
            self._wire.close()

    @property
    def sampling(self) -> Sampling:
        config = self.config
        return Sampling(config.max_answer_tokens, None if config.temperature == "server" else config.temperature,
                        None if config.top_p == "server" else config.top_p, None if config.seed == "server" else config.seed)

    def estimate(self, requests: Sequence[ChatRequest], tokens_out: int) -> Estimate:
        """What `ask` would cost, without asking anything; a request that occurs twice is paid once."""
        known, total = set(), Estimate(0, 0, 0, 0, 0, self.budget.cost(0, 0), self.budget.cost(0, 0))
        for request in requests:
            key = self.cache.key(request)
            total += self.budget.estimate(request, key in known or self.cache.get(request) is not None, tokens_out)
            known.add(key)
        return total

    def ask(self, requests: Sequence[ChatRequest], progress: Progress = no_progress) -> list[Answer]:
        """Answers in the order of the requests. One without an answer says why (`Answer.problem`).

        Raises:
            EndpointError: when the server cannot be reached, does not know the model, rejects everything, or fails again and again. All answers that
                came before are on disk.
        """
        keys = [self.cache.key(request) for request in requests]
        found: dict[str, Answer] = {}
        missing: dict[str, ChatRequest] = {}
        for key, request in zip(keys, requests, strict=True):
            if key in found or key in missing:
                continue
            if (answer := self.cache.get(request)) is not None:
                found[key] = answer
            else:
                missing[key] = request
        self.budget.usage.n_cached += len(found)
        progress(len(found), len(found) + len(missing), self._note())
        if missing:
            self._connect()
            self._ask_server(missing, found, progress)
        return [found[key] for key in keys]

    def _connect(self) -> None:
        if self._wire is None:
            self._wire = Wire(self.config)
            check_model(self.config, self._wire.models())

    def _ask_server(self, missing: dict[str, ChatRequest], found: dict[str, Answer], progress: Progress) -> None:
        total = len(found) + len(missing)
        with ThreadPoolExecutor(min(self.config.concurrency, len(missing)), thread_name_prefix="llm") as pool:
            futures = {pool.submit(self._one, request): key for key, request in missing.items()}
            try:
                for future in as_completed(futures):
                    found[futures[future]] = future.result()
                    progress(len(found), total, self._note())
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                self._stop.clear()
                raise
        if self._fatal:
            raise EndpointError(asked=f"ask {self.config.model} at {self.config.endpoint}", why=self._fatal,
                                instead="see what the server says, then run the same command again: answers that came are kept and cost nothing more")

    def _note(self) -> str:
        usage, spent = self.budget.usage, self.budget.spent()
        money = "" if spent is None else f", cost {spent:.4g}"
        return f"{usage.n_calls:,} calls, {usage.n_cached:,} from disk, {usage.n_retries:,} repeated{money}"

    def _one(self, request: ChatRequest) -> Answer:
        """One request until it is answered, given up or forbidden by a cap."""
        failures = forms = 0
        while not self._stop.is_set():
            with self._lock:
                if self._fatal or self.capped:
                    return Answer(problem=self._fatal or f"the cap {self.capped} was reached")
            self.pace.wait(request, self._stop.wait)
            if cap := self.budget.reserve(request):
                self.capped = cap
                continue
            form, limit_field = self.form, self.limit_field
            reply = self._attempt(request, form, limit_field)
            if reply.answer is not None:
                self._lost_in_a_row, self._is_proven = 0, True
                return self.cache.put(request, reply.answer)
            if reply.kind == "rejected":
                forms += 1
                if forms <= MOST_FORMS and self._adapts(reply, form, limit_field):
                    continue
                return self._give_up(f"the server rejects the request ({reply.why})")
            failures += 1
            if failures > self.config.max_retries:
                return self._give_up(f"no answer after {failures} attempts ({reply.why})")
            self._wait_after(reply, failures)
        return Answer(problem="interrupted")

    def _attempt(self, request: ChatRequest, form: Structured, limit_field: str) -> Reply:
        assert self._wire is not None
        reply = Reply("lost")
        try:
            reply = self._wire.send(request, form, limit_field)
        finally:
            self.budget.settle(request, reply.tokens_in, reply.tokens_out)
        return reply

    def _adapts(self, reply: Reply, form: Structured, limit_field: str) -> bool:
        """Whether another form of the same request may be accepted; remembers it for all, unless a form has brought an answer before."""
        with self._lock:
            if (form, limit_field) != (self.form, self.limit_field):
                return True  # another thread found it out meanwhile
            if limit_field == "max_tokens" and "max_completion_tokens" in reply.why:
                self.limit_field = "max_completion_tokens"
                return True
            if self.config.structured == "auto" and not self._is_proven and reply.status in UNKNOWN_FORM:
                self.form = NEXT_FORM[form]  # after the last one comes the first again: then it was not the form
                return form in ("schema", "object")
        return False

    def _give_up(self, why: str) -> Answer:
        with self._lock:
            self._lost_in_a_row += 1
            if self._lost_in_a_row >= MOST_LOST:
                self._fatal = why
        return Answer(problem=why)

    def _wait_after(self, reply: Reply, failures: int) -> None:
        """Wait before the next attempt: as long as the server says, else longer each time, a little at random so that not all come back at once."""
        with self._lock:
            self.budget.usage.n_retries += 1
            seconds = min(self.config.backoff_s * 2 ** (failures - 1), LONGEST_BACKOFF_S) * (0.5 + 0.5 * self._jitter.random())
        if reply.wait_s is not None:
            seconds = max(reply.wait_s, seconds if reply.kind == "failed" else 0.0)
            if reply.wait_s > self.config.max_wait_s:
                with self._lock:
                    self._fatal = (f"the server asks to wait {reply.wait_s:,.0f} s, longer than explain.llm.max_wait_s = {self.config.max_wait_s:g} "
                                   f"({reply.why})")
                return
        if reply.kind == "busy":
            self.pace.hold(seconds)
        else:
            self._stop.wait(seconds)
