"""Takes connections to a listening socket; where the system lets none through, it says so and tries again.

asyncio's servers do not fit: uvloop's tries again at once and for ever, a whole core busy and not a word said.

1. For lack of file descriptors or memory nothing is accepted for `PAUSE_S`; who wants to connect waits in the kernel.
   One line is logged, and no other within `SAY_EVERY_S`.
2. A connection is `serve`'s from its beginning to its end; an exception that leaves it is logged and ends it.
3. After `close` nothing is accepted. Connections that stand go on.
4. With TLS a connection begins with a handshake within HANDSHAKE_S; while `begin_max` of them are at it, whoever comes
   is turned away.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, Final

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]

PAUSE_S: Final = 1.0
SAY_EVERY_S: Final = 60.0
HANDSHAKE_S: Final = 10.0
_AT_ONCE: Final = 100
"""Connections accepted before everything else has its turn again."""

_log = logging.getLogger(__name__)


class Acceptor:
    """One listening socket, which is this object's from now on. Used on one loop's thread."""

    def __init__(
        self,
        listener: socket.socket,
        serve: Serve,
        *,
        name: str,
        limit: int = 1 << 16,
        tls: ssl.SSLContext | None = None,
        begin_max: int = 1 << 16,
    ) -> None:
        self._listener = listener
        self._serve = serve
        self._name = name
        self._limit = limit
        self._tls = tls
        self._begin_max = begin_max
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._said_s: float | None = None
        self._is_open = True
        listener.setblocking(False)
        self._listen()

    def close(self) -> None:
        """Accept no more. May be called twice."""
        if not self._is_open:
            return
        self._is_open = False
        if self._pause is None:
            self._loop.remove_reader(self._listener.fileno())
        else:
            self._pause.cancel()
        self._listener.close()

    async def wait_closed(self) -> None:
        """As asyncio's servers have it."""

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._loop.remove_reader(self._listener.fileno())
                self._pause = self._loop.call_later(PAUSE_S, self._listen)
                self._say(error)
                return
            if len(self._tasks) >= self._begin_max:
                connection.close()
                continue
            connection.setblocking(False)
            task = self._loop.create_task(self._connected(connection), name=f"{self._name}: connection")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _say(self, error: OSError) -> None:
        now_s = self._loop.time()
        if self._said_s is None or now_s - self._said_s >= SAY_EVERY_S:
            self._said_s = now_s
            _log.error("%s: no connection can be accepted, trying again: %s", self._name, error.strerror or error)

    async def _connected(self, connection: socket.socket) -> None:
        def protocol() -> asyncio.StreamReaderProtocol:
            reader = asyncio.StreamReader(limit=self._limit, loop=self._loop)
            return asyncio.StreamReaderProtocol(reader, self._serve, loop=self._loop)

        try:
            await self._loop.connect_accepted_socket(
                protocol, connection, ssl=self._tls, ssl_handshake_timeout=HANDSHAKE_S if self._tls else None
            )
        except OSError as error:
            connection.close()
            _log.debug("%s: a connection ended as it began: %s", self._name, error)
