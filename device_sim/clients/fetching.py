"""The TCP connection beside MQTT over which a client downloads: bytes out, and as many bytes in as it asks for.

Nothing is read ahead of what is asked for but what fits into a small buffer, so a server sees how slow the device is.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from device_sim.clients.model import Fetch, Fetched, Read

CONNECT_S: Final = 5.0
AHEAD_BYTES: Final = 8192


class Fetching:
    """Of one client. A new `Fetch` or `hang_up` ends the connection, and what was asked of it is never answered."""

    def __init__(self, answer: Callable[[Fetched], None]) -> None:
        """`answer` is called once for each `read`, on the event loop."""
        self._answer = answer
        self._reads: asyncio.Queue[Read] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    def fetch(self, wanted: Fetch) -> None:
        """Connect and send; that it could not be done is the answer to the next read."""
        self.hang_up()
        self._reads = asyncio.Queue()
        self._task = asyncio.create_task(self._run(wanted, self._reads), name=f"download from {wanted.host}")

    def read(self, wanted: Read) -> None:
        """Have this answered, after what was asked before."""
        self._reads.put_nowait(wanted)

    def hang_up(self) -> None:
        """Close at once."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self, wanted: Fetch, reads: asyncio.Queue[Read]) -> None:
        writer = None
        try:
            async with asyncio.timeout(CONNECT_S):
                reader, writer = await asyncio.open_connection(wanted.host, wanted.port, limit=AHEAD_BYTES)
                writer.write(wanted.request)
                await writer.drain()
        except (OSError, UnicodeError, TimeoutError) as error:
            fault = f"no connection to {wanted.host}:{wanted.port}: {error}"
        else:
            fault = ""
        try:
            while True:
                one = await reads.get()
                self._answer(Fetched(fault=fault) if fault else await _read(reader, one))
        finally:
            if writer is not None:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()


async def _read(reader: asyncio.StreamReader, wanted: Read) -> Fetched:
    try:
        async with asyncio.timeout(wanted.within_s):
            if not wanted.until:
                return Fetched(data=await reader.readexactly(wanted.max_bytes))
            data = await reader.readuntil(wanted.until)
    except TimeoutError:
        return Fetched(fault=f"not {wanted.max_bytes} bytes in {wanted.within_s:g} s")
    except asyncio.LimitOverrunError:
        return Fetched(fault=f"no end in {AHEAD_BYTES} bytes")
    except (asyncio.IncompleteReadError, OSError) as error:
        return Fetched(fault=f"closed: {error}")
    return Fetched(data=data) if len(data) <= wanted.max_bytes else Fetched(fault=f"no end in {wanted.max_bytes} bytes")
