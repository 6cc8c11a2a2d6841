"""Requests that read take turns on a few threads."""

import asyncio
import inspect
import threading

import pytest

from sparselight.errors import ConfigError
from sparselight.serve.threads import ReadingThreads


def test_no_more_at_once_than_there_are_threads() -> None:
    reading, under_way, most, turn = ReadingThreads(2), set[int](), 0, threading.Barrier(2)

    @reading
    def read(number: int, *, factor: int) -> int:
        nonlocal most
        under_way.add(number)
        most = max(most, len(under_way))
        turn.wait(60)  # two are here at once
        under_way.discard(number)
        return factor * number

    async def ask() -> list[int]:
        return list(await asyncio.gather(*(read(number, factor=3) for number in range(8))))

    assert asyncio.run(ask()) == [3 * number for number in range(8)]
    assert most == 2
    assert list(inspect.signature(read).parameters) == ["number", "factor"]


def test_a_refusal_arrives_and_frees_its_place() -> None:
    reading = ReadingThreads(1)

    @reading
    def read(is_right: bool) -> str:
        if not is_right:
            raise ConfigError(asked="read", why="it is wrong", instead="ask for what is right")
        return "here"

    async def ask() -> None:
        for _ in range(3):
            with pytest.raises(ConfigError, match="it is wrong"):
                await read(False)
        assert await read(True) == "here"

    asyncio.run(ask())
