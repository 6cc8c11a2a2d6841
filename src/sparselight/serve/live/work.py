"""One thread for one model: requests come one after the other, so that two edits never meet inside a pass.

Owns: the queue and its bound, the time limit, and stopping: a forward pass looks at its `Stop` before it begins, so that work ends within one pass of
the moment at which the browser has gone or the time is up, with all hooks taken away. Refuses: more waiting requests than `live.max_waiting`.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from sparselight.errors import RunError
from sparselight.serve.live.config import LiveConfig

T = TypeVar("T")
LOOK_S = 0.2  # between two looks at whether the browser is still there


class BusyError(RunError):
    """Too many requests wait for one model."""


class StoppedError(RunError):
    """Work that was ended before it was done."""


class Stop:
    """Whether work shall go on: not after its time, and not when nobody waits for it any more.

    Args:
        time_limit_s: from `begin` on.
    """

    def __init__(self, time_limit_s: float):
        self._limit_s, self._gone, self._deadline = time_limit_s, threading.Event(), float("inf")

    def begin(self) -> None:
        """The clock runs from now."""
        self._deadline = time.monotonic() + self._limit_s

    def set(self) -> None:
        """Nobody waits any more."""
        self._gone.set()

    def check(self) -> None:
        """Go on, or not.

        Raises:
            StoppedError: naming the reason.
        """
        if self._gone.is_set():
            raise StoppedError(asked="finish a live request", why="the page that asked has gone", instead="ask again")
        if time.monotonic() > self._deadline:
            raise StoppedError(asked="finish a live request", why=f"it takes longer than live.time_limit_s = {self._limit_s:g}",
                               instead="give a shorter input or fewer tokens to write, or raise that limit")

    @contextlib.contextmanager
    def watching(self, model: Any) -> Iterator[None]:
        """Look before every forward pass of a model."""
        handle = model.register_forward_pre_hook(lambda *_: self.check())
        try:
            yield
        finally:
            handle.remove()


class Worker:
    """The thread of one model."""

    def __init__(self, config: LiveConfig, name: str):
        self._config, self._lock, self._waiting = config, threading.Lock(), 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"live-{name}")

    def submit(self, job: Callable[[Stop], T], stop: Stop | None = None, time_limit_s: float | None = None) -> "Future[T]":
        """Queue a job.

        Args:
            time_limit_s: of the job; that of the settings where left out.

        Raises:
            BusyError: when too many wait already.
        """
        stop = stop or Stop(time_limit_s or self._config.time_limit_s)
        with self._lock:
            if self._waiting >= self._config.max_waiting:
                raise BusyError(asked="run the model", why=f"{self._waiting} requests wait for it already (live.max_waiting)", instead="try again in a moment")
            self._waiting += 1

        def run() -> T:
            try:
                stop.check()  # whoever gave up while waiting costs nothing
                stop.begin()
                return job(stop)
            finally:
                with self._lock:
                    self._waiting -= 1

        return self._pool.submit(run)

    async def answer(self, job: Callable[[Stop], T], is_gone: Callable[[], Awaitable[bool]]) -> T:
        """Queue a job and wait for it, looking now and then whether its asker is still there.

        Raises:
            BusyError, StoppedError: as above.
        """
        stop = Stop(self._config.time_limit_s)
        future = asyncio.wrap_future(self.submit(job, stop))
        try:
            while not (await asyncio.wait({future}, timeout=LOOK_S))[0]:
                if await is_gone():
                    stop.set()
        except asyncio.CancelledError:
            stop.set()
            raise
        return future.result()

    def close(self) -> None:
        """Let the thread end with the job that it runs."""
        self._pool.shutdown(wait=False, cancel_futures=True)
