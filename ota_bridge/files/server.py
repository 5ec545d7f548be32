"""The file server: images over HTTP and HTTPS, beside the block plane and by its rules.

    a request → connection: its head → links, answers: who, what, which range → core.bodies: piece by piece

1. There are at most `connections_max` connections. Where one more comes, the one that has been idle for the longest
   makes room; a download never does, and where all download the new one is turned away.
2. A device has at most DEVICE_BODIES_MAX downloads at a time. With one more the oldest ends: most likely its device was
   switched off, and has come back.
"""

import asyncio
import contextlib
import socket
import ssl
from typing import Final

from ota_bridge.accept import Acceptor
from ota_bridge.core.blocks import Client
from ota_bridge.core.errors import ConfigError
from ota_bridge.files.connection import HEAD_MAX_BYTES, Connection, FileCounters, Serving

DEVICE_BODIES_MAX: Final = 4
_BACKLOG: Final = 1024


def listening(host: str, port: int) -> socket.socket:
    """A socket on which the file server can be run; raises ConfigError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family = found[0][0]
        return socket.create_server(
            (host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=False, reuse_port=False
        )
    except OSError as error:
        raise ConfigError(f"files.host {host}, files.port {port}: {error.strerror or error}") from error


class FileServer:
    """See the module. `run` it once."""

    def __init__(self, serving: Serving, listener: socket.socket, *, tls: ssl.SSLContext | None = None) -> None:
        self._serving = serving
        self._listener = listener
        self._tls = tls
        self._connections: dict[Connection, None] = {}
        """In the order in which they came, or became idle."""
        self._tasks: set[asyncio.Task[None]] = set()
        serving.on_body = self._make_room_for

    @property
    def counters(self) -> FileCounters:
        """Everything so far."""
        return self._serving.counters

    async def run(self) -> None:
        """Serve until cancelled, then hang up on everybody."""
        acceptor = Acceptor(
            self._listener,
            self._serve,
            name="file server",
            limit=HEAD_MAX_BYTES,
            tls=self._tls,
            begin_max=self._serving.options.connections_max,
        )
        try:
            await asyncio.Event().wait()
        finally:
            acceptor.close()
            for connection in self._connections:
                connection.hang_up()
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = Connection(self._serving, reader, writer)
        self.counters.connections += 1
        try:
            if not self._has_room():
                connection.hang_up()
                return
            self._connections[connection] = None
            with contextlib.suppress(asyncio.CancelledError):  # only `run` cancels it, and waits for no more
                await connection.serve()
        finally:
            self._connections.pop(connection, None)
            self._tasks.discard(task)

    def _has_room(self) -> bool:
        if len(self._connections) < self._serving.options.connections_max:
            return True
        self.counters.turned_away += 1
        idle = next((one for one in self._connections if one.is_idle), None)
        if idle is None:
            return False
        del self._connections[idle]
        idle.hang_up()
        return True

    def _make_room_for(self, connection: Connection, client: Client) -> None:
        self._connections.pop(connection, None)  # it goes to the end: it is not the oldest any more
        others = [one for one in self._connections if one.device is not None and one.device.device == client.device]
        self._connections[connection] = None
        for oldest in others[: max(0, len(others) + 1 - DEVICE_BODIES_MAX)]:
            oldest.hang_up()
