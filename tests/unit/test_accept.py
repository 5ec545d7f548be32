"""Connections are accepted, and where none can be it is said once and tried again at leisure."""

import asyncio
import errno
import logging
import os
import socket
import time

import pytest
import uvloop

from ota_bridge import accept
from ota_bridge.accept import Acceptor


class Listener(socket.socket):
    """Refuses while `refuses` is set, as the system does for a process that may open no more files."""

    refuses: int | None = None
    asked = 0
    thrice: asyncio.Event

    def accept(self):
        self.asked += 1
        if self.asked == 3:
            self.thrice.set()
        if self.refuses is not None:
            raise OSError(self.refuses, os.strerror(self.refuses))
        return super().accept()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request):
    def runs(work):
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(asyncio.wait_for(work, 10))

    return runs


@pytest.fixture
def listener():
    with Listener(socket.AF_INET, socket.SOCK_STREAM) as made:
        made.bind(("127.0.0.1", 0))
        made.listen()
        made.thrice = asyncio.Event()
        yield made


async def echo(reader, writer):
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()


async def asked(listener, text=b"hello\n"):
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    writer.write(text)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def test_many_connections_are_served(run, listener):
    async def work():
        acceptor = Acceptor(listener, echo, name="test")
        answers = await asyncio.gather(*(asked(listener, f"{number}\n".encode()) for number in range(150)))
        acceptor.close()
        return answers

    assert [f"{number}\n".encode() for number in range(150)] == run(work())


@pytest.mark.parametrize("refusal", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
def test_where_none_can_be_accepted_it_is_said_once_without_haste_and_goes_on_by_itself(
    run, listener, monkeypatch, caplog, refusal
):
    monkeypatch.setattr(accept, "PAUSE_S", 0.02)

    async def work():
        listener.refuses = refusal
        acceptor = Acceptor(listener, echo, name="the door")
        answer = asyncio.ensure_future(asked(listener))
        await listener.thrice.wait()
        assert not answer.done()
        listener.refuses = None
        got = await answer
        acceptor.close()
        return got

    began_s = time.monotonic()
    with caplog.at_level(logging.ERROR):
        assert b"hello\n" == run(work())
    said = [record.getMessage() for record in caplog.records]
    assert [f"the door: no connection can be accepted, trying again: {os.strerror(refusal)}"] == said
    assert listener.asked <= 4 + (time.monotonic() - began_s) / 0.02


def test_it_is_said_again_after_a_while(run, listener, monkeypatch, caplog):
    monkeypatch.setattr(accept, "PAUSE_S", 0.001)
    monkeypatch.setattr(accept, "SAY_EVERY_S", 0.0)

    async def work():
        listener.refuses = errno.EMFILE
        acceptor = Acceptor(listener, echo, name="test")
        waiting = asyncio.ensure_future(asked(listener))
        await listener.thrice.wait()
        assert len(caplog.records) >= 2
        acceptor.close()
        with pytest.raises(ConnectionError):
            await waiting

    run(work())


def test_one_that_went_away_before_it_was_accepted_harms_nobody(run, listener, caplog):
    async def work():
        listener.refuses = errno.ECONNABORTED
        acceptor = Acceptor(listener, echo, name="test")
        answer = asyncio.ensure_future(asked(listener))
        while not listener.asked:
            await asyncio.sleep(0)
        listener.refuses = None
        got = await answer
        acceptor.close()
        return got

    assert (b"hello\n", []) == (run(work()), caplog.records)


def test_after_its_end_nothing_is_accepted_and_what_stands_goes_on(run, listener):
    async def work():
        acceptor = Acceptor(listener, echo, name="test")
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        address = listener.getsockname()
        while not listener.asked:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        acceptor.close()
        acceptor.close()
        await acceptor.wait_closed()
        with pytest.raises(ConnectionError):
            await asyncio.open_connection(*address)
        writer.write(b"still here\n")
        answer = await reader.read()
        writer.close()
        return answer

    assert b"still here\n" == run(work())
