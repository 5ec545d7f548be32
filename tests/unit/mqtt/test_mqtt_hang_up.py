"""hang_up(): whatever state a transport is in."""

import asyncio
import socket

import pytest
import uvloop

from ota_bridge.mqtt.hang_up import hang_up

BYTES = 4 << 20
"""More than the system's buffers of a connection hold."""


class Connected(asyncio.Protocol):
    def __init__(self):
        self.lost = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc):
        self.lost.set_result(exc)


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("state", ["open", "full", "closed", "closed full", "drained after close"])
def test_the_connection_ends_without_an_error(loop_factory, state):
    async def body():
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        with theirs:
            transport, protocol = await loop.create_connection(Connected, sock=ours)
            if state not in {"open", "closed"}:
                transport.write(bytes(BYTES))
            if "close" in state:
                transport.close()
            if state == "drained after close":
                while await loop.sock_recv(theirs, 1 << 20):
                    pass
                await protocol.lost
            hang_up(transport)
            hang_up(transport)
            assert await protocol.lost is None

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(asyncio.wait_for(body(), 10))
