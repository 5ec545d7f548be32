"""Messages between two processes of the bridge: pickled, each behind its length, over a socket pair.

1. Both ends are this program, run by the same user, and nobody else can reach the socket: that is why pickle may be
   used here and nowhere else.
2. `send` never waits. What the other side does not take is kept; `queued_bytes` tells how much, and its owner says
   when it is too much.
3. Order is kept. `read_now` takes in what has arrived without waiting for the loop.
"""

import asyncio
import logging
import pickle
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

_LENGTH: Final = struct.Struct(">I")
_READ_BYTES: Final = 1 << 18

_log = logging.getLogger(__name__)


class Channel:
    """One end, used on its loop's thread. `on_end` is called once, when the other end is closed."""

    def __init__(self, sock: socket.socket, on_message: Callable[[Any], None], on_end: Callable[[], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_message = on_message
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._in = bytearray()
        self._out = bytearray()
        self._is_open = True
        self._loop.add_reader(sock.fileno(), self.read_now)

    @property
    def queued_bytes(self) -> int:
        """What the other side has not taken yet."""
        return len(self._out)

    def send(self, message: Any) -> None:
        """Send, now or as soon as it can be; to nobody once the channel has ended."""
        if not self._is_open:
            return
        data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        waits = bool(self._out)
        self._out += _LENGTH.pack(len(data)) + data
        if not waits:
            self._write()

    def read_now(self) -> None:
        """Take in and hand over everything that has arrived."""
        while self._is_open:
            try:
                data = self._sock.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._end()
                return
            self._in += data
            self._hand_over()

    def close(self) -> None:
        """End it from this side; `on_end` is not called."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()

    def _hand_over(self) -> None:
        at = 0
        messages: list[Any] = []
        while len(self._in) - at >= _LENGTH.size:
            end = at + _LENGTH.size + _LENGTH.unpack_from(self._in, at)[0]
            if len(self._in) < end:
                break
            messages.append(pickle.loads(self._in[at + _LENGTH.size : end]))  # noqa: S301 - see the module
            at = end
        del self._in[:at]
        for message in messages:
            try:
                self._on_message(message)
            except Exception:  # noqa: BLE001 - one message must not keep the others waiting
                _log.exception("a message between the processes of the bridge could not be handled")

    def _write(self) -> None:
        try:
            while self._out:
                del self._out[: self._sock.send(self._out)]
        except BlockingIOError:
            self._loop.add_writer(self._sock.fileno(), self._write)
            return
        except OSError:
            self._end()
            return
        self._loop.remove_writer(self._sock.fileno())

    def _end(self) -> None:
        if self._is_open:
            self.close()
            self._on_end()
