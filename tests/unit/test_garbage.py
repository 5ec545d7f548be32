"""What is free is given back, and what stays is left alone."""

import asyncio
import gc
import weakref

import pytest
from brokers import eventually, running

from ota_bridge import garbage


class Node:
    """Refers to itself, so only a search finds it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def as_before():
    before = gc.get_threshold()
    gc.disable()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)
    gc.enable()


async def test_garbage_in_cycles_is_found_again_and_again(monkeypatch):
    monkeypatch.setattr(garbage, "TIDY_S", 0.001)
    monkeypatch.setattr(garbage, "_SHARE", 1.0)
    async with running(garbage.tidy()):
        for _ in range(3):
            gone = weakref.ref(Node())
            assert gone() is not None
            await eventually(lambda gone=gone: gone() is None)


async def test_where_a_search_takes_long_there_are_few(monkeypatch):
    waits = []

    async def sleep(wait_s):
        waits.append(wait_s)
        if len(waits) > 2:
            raise asyncio.CancelledError

    clock = iter([0.0, 0.001, 100.0, 100.5])
    with monkeypatch.context() as patch:
        patch.setattr(garbage.asyncio, "sleep", sleep)
        patch.setattr(garbage.time, "monotonic", lambda: next(clock))
        with pytest.raises(asyncio.CancelledError):
            await garbage.tidy()
    assert [10.0, 10.0, 500.0] == waits


def test_what_was_built_at_the_start_is_not_looked_at_again():
    garbage.search_less()
    assert gc.get_freeze_count() > 1_000  # it reads 0 while nothing is frozen
    assert gc.get_threshold()[0] == garbage.YOUNG_MAX
