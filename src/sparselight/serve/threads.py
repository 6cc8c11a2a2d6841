"""The threads that pages and page data are read on: few, so that requests are answered one after the other and not all slowly at once.

Python runs one thread at a time: with a thread a request, twenty requests take turns, each waits for all others, and so does the loop that reads and writes to
connections. What runs for long (comparisons, the model) has threads of its own and never waits here. Refuses nothing.
"""

import functools
import os
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import anyio
import anyio.to_thread

P = ParamSpec("P")
T = TypeVar("T")
N_THREADS = min(8, (os.cpu_count() or 1) + 1)
"""The catalogue is read without Python's lock, so that a thread more than there are cores pays."""


class ReadingThreads:
    """A place in a queue for every request that reads."""

    def __init__(self, n: int = N_THREADS):
        self._limiter = anyio.CapacityLimiter(n)

    def __call__(self, read: Callable[P, T]) -> Callable[P, Awaitable[T]]:
        """A route that does on these threads what the function does."""
        @functools.wraps(read)
        async def asked(*args: P.args, **kwargs: P.kwargs) -> T:
            return await anyio.to_thread.run_sync(functools.partial(read, *args, **kwargs), limiter=self._limiter)

        return asked
