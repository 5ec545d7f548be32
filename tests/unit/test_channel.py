"""The channel on a real socket pair: order, whatever the sizes; no waiting; the end is told once."""

import asyncio
import random
import socket

import pytest

from ota_bridge.channel import Channel


class Pair:
    """Both ends, and what each heard."""

    def __init__(self):
        one, other = socket.socketpair()
        self.heard, self.ends, self.raw = [], [], other
        self.left = Channel(one, lambda message: None, lambda: self.ends.append("left"))
        self.right = Channel(other, self.hear, lambda: self.ends.append("right"))

    def hear(self, message):
        if message == "bad":
            raise RuntimeError("no")
        self.heard.append(message)


@pytest.fixture
async def pair():
    made = Pair()
    yield made
    made.left.close()
    made.right.close()


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_messages_of_any_size_arrive_in_order(pair):
    rng = random.Random(1)
    messages = [rng.randbytes(rng.choice([0, 1, 100, 70_000, 1_000_000])) for _ in range(60)]
    for message in messages:
        pair.left.send(message)
    assert pair.left.queued_bytes > 0
    await until(lambda: len(pair.heard) == len(messages))
    assert messages == pair.heard
    assert 0 == pair.left.queued_bytes


async def test_what_has_arrived_can_be_taken_in_without_the_loop(pair):
    pair.left.send(("apply", 1))
    pair.left.send(("apply", 2))
    pair.right.read_now()
    assert [("apply", 1), ("apply", 2)] == pair.heard
    pair.right.read_now()
    assert 2 == len(pair.heard)


async def test_a_handler_that_fails_is_logged_and_the_next_message_comes(pair, caplog):
    pair.left.send("bad")
    pair.left.send("good")
    pair.right.read_now()
    assert ["good"] == pair.heard
    assert 1 == len(caplog.records)


async def test_the_end_is_told_once_and_what_is_sent_then_goes_nowhere(pair):
    pair.right.close()
    await until(lambda: pair.ends)
    pair.left.send("lost")
    assert ["left"] == pair.ends


async def test_what_was_said_before_the_end_is_heard(pair):
    pair.left.send("last words")
    pair.left.close()
    await until(lambda: pair.ends)
    assert ["last words"] == pair.heard
    assert ["right"] == pair.ends


async def test_writing_to_an_end_that_is_gone_ends_it(pair):
    pair.right.close()
    pair.left.send(bytes(1 << 20))
    pair.left.send(b"x")
    await until(lambda: pair.ends)
    assert ["left"] == pair.ends
