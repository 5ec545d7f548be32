"""A paho-mqtt client that reads and writes many packets with one system call.

paho makes one call for each packet it writes and three for each it reads. Every call gives the interpreter's lock
away, and with the store's thread at work each is a wait for its turn, for the loop and so for the block plane. paho has
no public place for this; the integration tests on real brokers say whether these private ones still are what they were.
"""

import time
from typing import Any, Final

from paho.mqtt.client import Client
from paho.mqtt.enums import MQTTErrorCode

_READ_BYTES: Final = 65_536
_UNSENT_MAX: Final = 65_536
_AT_ONCE: Final = frozenset({MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_AGAIN})


class BufferedClient(Client):
    """`Client` for an external loop; see the module."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._unsent = bytearray()
        self._unread = b""
        self._unread_at = 0
        self._read_until_s = float("inf")
        super().__init__(*args, **options)

    @property
    def has_input(self) -> bool:
        """Bytes were read from the socket that are not parsed yet."""
        return self._unread_at < len(self._unread)

    def loop_read_for(self, seconds: float) -> bool:
        """`loop_read` until there is nothing more or the time is over; True in the latter case."""
        self._read_until_s = time.monotonic() + seconds
        while True:
            self.loop_read()
            if not self.has_input:
                return False
            if time.monotonic() >= self._read_until_s:
                return True

    def want_write(self) -> bool:
        """Whether anything waits to be written, here or in paho's queue."""
        return bool(self._unsent) or super().want_write()

    def _sock_recv(self, bufsize: int) -> bytes:
        if not self.has_input:
            self._unread, self._unread_at = super()._sock_recv(_READ_BYTES), 0
        elif time.monotonic() >= self._read_until_s:
            raise BlockingIOError  # parsed later: to paho the rest has not arrived yet
        chunk = self._unread[self._unread_at : self._unread_at + bufsize]
        self._unread_at += len(chunk)
        return chunk

    def _sock_send(self, buf: bytes | bytearray) -> int:
        if len(self._unsent) >= _UNSENT_MAX:
            self._flush()
        self._unsent += buf
        return len(buf)

    def _packet_write(self) -> MQTTErrorCode:
        told = super()._packet_write()
        if told not in _AT_ONCE:
            return told
        try:
            while self._unsent:
                self._flush()
        except BlockingIOError:
            return MQTTErrorCode.MQTT_ERR_AGAIN
        except OSError:
            return MQTTErrorCode.MQTT_ERR_CONN_LOST
        return told

    def _flush(self) -> None:
        sent = super()._sock_send(self._unsent)
        del self._unsent[:sent]

    def _sock_close(self) -> None:
        try:
            while self._unsent and self._sock is not None:
                self._flush()  # paho closes as soon as it has written DISCONNECT
        except OSError:
            pass
        self._unsent.clear()
        self._unread, self._unread_at = b"", 0
        super()._sock_close()
