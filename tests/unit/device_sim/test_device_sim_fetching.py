"""The connection of a download: what is asked for comes, or why it does not; on a real socket of loopback."""

import asyncio
import contextlib

import pytest

from device_sim.clients.fetching import AHEAD_BYTES, Fetching
from device_sim.clients.model import Fetch, Fetched, Read


@contextlib.asynccontextmanager
async def fetching(serve):
    """A `Fetching` that was told to fetch from `serve(reader, writer)`, and its answers."""
    answers = asyncio.Queue()

    async def handle(reader, writer):
        try:
            await serve(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    one = Fetching(answers.put_nowait)
    try:
        one.fetch(Fetch(host="127.0.0.1", port=server.sockets[0].getsockname()[1], request=b"GET\r\n\r\n"))
        yield one, answers
    finally:
        one.hang_up()
        server.close()


async def answer(answers):
    return await asyncio.wait_for(answers.get(), 10)


async def test_the_request_goes_out_as_it_is_and_reads_take_what_they_ask_for():
    asked = asyncio.get_running_loop().create_future()

    async def serve(reader, writer):
        asked.set_result(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"head\r\n\r\nbody-and-more")
        await reader.read()

    async with fetching(serve) as (one, answers):
        one.read(Read(max_bytes=100, within_s=5, until=b"\r\n\r\n"))
        one.read(Read(max_bytes=4, within_s=5))
        assert Fetched(data=b"head\r\n\r\n") == await answer(answers)
        assert Fetched(data=b"body") == await answer(answers)
        assert b"GET\r\n\r\n" == await asked


@pytest.mark.parametrize(
    ("sent", "wanted", "why"),
    [
        (b"abc", Read(max_bytes=4, within_s=5), "closed"),
        (b"x" * 50 + b"\r\n\r\n", Read(max_bytes=20, within_s=5, until=b"\r\n\r\n"), "no end in 20"),
        (b"x" * 3 * AHEAD_BYTES, Read(max_bytes=20, within_s=5, until=b"\r\n\r\n"), "no end in"),
    ],
)
async def test_what_is_not_there_is_a_fault(sent, wanted, why):
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        await writer.drain()

    async with fetching(serve) as (one, answers):
        one.read(wanted)
        assert why in (await answer(answers)).fault


async def test_what_does_not_come_in_time_is_a_fault():
    async def serve(reader, writer):
        writer.write(b"ab")
        await reader.read()

    async with fetching(serve) as (one, answers):
        one.read(Read(max_bytes=4, within_s=0.05))
        assert "not 4 bytes in 0.05 s" == (await answer(answers)).fault


async def test_a_server_that_is_not_there_is_the_answer_to_the_first_read():
    async with fetching(None) as (one, answers):
        one.fetch(Fetch(host="127.0.0.1", port=1, request=b""))
        one.read(Read(max_bytes=4, within_s=1))
        assert (await answer(answers)).fault.startswith("no connection to 127.0.0.1:1")


@pytest.mark.parametrize("host", ["", "a" * 64, "no such name", "x..y"])
async def test_a_host_that_is_none_is_a_fault(host):
    answers = asyncio.Queue()
    one = Fetching(answers.put_nowait)
    one.fetch(Fetch(host=host, port=1, request=b""))
    one.read(Read(max_bytes=4, within_s=1))
    assert "no connection" in (await answer(answers)).fault
    one.hang_up()


async def test_a_server_sees_how_slow_the_device_is():
    written = []

    async def serve(reader, writer):
        writer.transport.set_write_buffer_limits(high=1)
        with contextlib.suppress(OSError):
            for _ in range(1000):
                writer.write(bytes(100_000))
                await writer.drain()
                written.append(1)

    async with fetching(serve) as (one, answers):
        one.read(Read(max_bytes=4, within_s=5))
        await answer(answers)
        one.read(Read(max_bytes=1, within_s=5))
        await answer(answers)
        assert len(written) < 1000


async def test_after_hanging_up_nothing_is_answered():
    began, ended = asyncio.Event(), asyncio.Event()

    async def serve(reader, writer):
        began.set()
        await reader.read()
        ended.set()

    async with fetching(serve) as (one, answers):
        one.read(Read(max_bytes=4, within_s=5))
        await asyncio.wait_for(began.wait(), 10)
        one.hang_up()
        await asyncio.wait_for(ended.wait(), 10)
        assert answers.empty()
