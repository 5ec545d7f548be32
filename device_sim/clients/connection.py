"""One MQTT 3.1.1 connection of a vendor's client: paho on the event loop, with packet ids and the dup flag.

What happens is queued and taken by `events()`; `wake` is called whenever there may be something in it, never from
inside paho. Publishing and subscribing return at once, in the order in which they were asked, as a device's own code
does: nothing waits for an acknowledgement.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from device_sim.clients.model import Incoming, Session
from device_sim.options import BrokerUrl

log = logging.getLogger(__name__)

CONNECT_S: Final = 5.0
KEEP_ALIVE_LOOK_S: Final = 1.0
CLOSE_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """CONNACK came and it was a yes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """SUBACK came; `is_granted` is the broker's answer for this filter."""

    topic_filter: str
    is_granted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The connection is no more, or never came to be; why, in the words of the library."""

    reason: str


Event = Opened | Granted | Incoming | Ended


class Connection:
    """From CONNECT to the end of the socket. A new one is made for each connection."""

    def __init__(
        self, session: Session, broker: BrokerUrl, tls: ssl.SSLContext | None, wake: Callable[[], None]
    ) -> None:
        """`session` says who connects; the broker's own user and password stand in where it names none."""
        self._broker, self._wake = broker, wake
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._unwritten: set[int] = set()
        self._subscribing: dict[int, str] = {}
        self._misc: asyncio.TimerHandle | None = None
        self._has_ended = False
        self._moved = asyncio.Event()
        self._keepalive_s = session.keepalive_s
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=session.client_id, clean_session=session.is_clean
        )
        username = session.username if session.username is not None else broker.username
        password = session.password if session.username is not None else broker.password
        if username is not None:
            self._client.username_pw_set(username, password)
        if tls is not None:
            self._client.tls_set_context(tls)
        self._client.connect_timeout = CONNECT_S
        self._attach()

    @property
    def is_quiet(self) -> bool:
        """Everything sent is written, and acknowledged where it has to be."""
        return not (self._unwritten or self._subscribing or self._client.want_write())

    def events(self) -> Iterator[Event]:
        """What has happened, each once."""
        while self._events:
            yield self._events.popleft()

    async def open(self) -> None:
        """Make the socket and send CONNECT; `OSError` where that is not possible. CONNACK is an event."""
        work = asyncio.to_thread(self._client.connect, self._broker.host, self._broker.port, self._keepalive_s)
        opening = asyncio.ensure_future(work)
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            await asyncio.gather(opening, return_exceptions=True)  # the thread would leave a socket behind
            raise
        self._misc = self._loop.call_later(KEEP_ALIVE_LOOK_S, self._look)

    def publish(self, topic: str, payload: bytes, qos: int) -> None:
        """Send, or lose it when the connection has ended: as a socket does."""
        sent = self._client.publish(topic, payload, qos)
        if sent.rc is paho.MQTT_ERR_SUCCESS:
            self._unwritten.add(sent.mid)

    def subscribe(self, topic_filter: str, qos: int) -> None:
        """Send SUBSCRIBE; the answer is an event."""
        code, packet_id = self._client.subscribe(topic_filter, qos)
        if code is paho.MQTT_ERR_SUCCESS and packet_id is not None:
            self._subscribing[packet_id] = topic_filter

    def unsubscribe(self, topic_filter: str) -> None:
        """Send UNSUBSCRIBE; nobody waits for the answer."""
        self._client.unsubscribe(topic_filter)

    def drop(self) -> None:
        """End it without a word, as a line does that breaks."""
        end = self._client.socket()
        if isinstance(end, socket.socket):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        """Let out what is sent, say DISCONNECT and close, within `CLOSE_S`."""
        try:
            if not self._has_ended:
                await self._quiet(lambda: self.is_quiet)
                self._client.disconnect()
                await self._quiet(lambda: self._client.socket() is None)
        finally:
            if self._misc is not None:
                self._misc.cancel()
            self._client.on_disconnect = None
            if (end := self._client.socket()) is not None:
                self._closing(self._client, None, end)
                end.close()

    async def _quiet(self, check: Callable[[], bool]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                while self._client.socket() is not None and not check():
                    self._moved.clear()
                    await self._moved.wait()

    def _tell(self) -> None:
        self._moved.set()
        self._wake()

    # --- paho's callbacks: they only take notes ---

    def _attach(self) -> None:
        client = self._client
        client.on_socket_open, client.on_socket_close = self._opening, self._closing
        client.on_socket_register_write, client.on_socket_unregister_write = self._wants_out, self._wants_no_more
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_message, client.on_subscribe, client.on_publish = (
            self._on_message,
            self._on_subscribe,
            self._on_publish,
        )

    def _opening(self, _client: paho.Client, _data: Any, end: Any) -> None:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.call_soon_threadsafe(self._watch, end)

    def _watch(self, end: Any) -> None:
        if end.fileno() >= 0:
            self._loop.add_reader(end, self._readable, end)

    def _closing(self, _client: paho.Client, _data: Any, end: Any) -> None:
        if end.fileno() >= 0:
            self._loop.remove_reader(end)
            self._loop.remove_writer(end)

    def _wants_out(self, _client: paho.Client, _data: Any, end: Any) -> None:
        self._loop.call_soon_threadsafe(self._watch_out, end)  # CONNECT is written from the thread that opens

    def _watch_out(self, end: Any) -> None:
        if end.fileno() >= 0 and self._client.want_write():
            self._loop.add_writer(end, self._writable)

    def _wants_no_more(self, _client: paho.Client, _data: Any, end: Any) -> None:
        if end.fileno() >= 0:
            self._loop.remove_writer(end)

    def _on_connect(self, _client: paho.Client, _data: Any, _flags: Any, code: ReasonCode, _properties: Any) -> None:
        self._events.append(Ended(reason=f"refused: {code}") if code.is_failure else Opened())

    def _on_disconnect(self, _client: paho.Client, _data: Any, _flags: Any, code: ReasonCode, _properties: Any) -> None:
        self._has_ended = True
        self._events.append(Ended(reason=str(code)))

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self._events.append(
            Incoming(
                topic=message.topic,
                payload=bytes(message.payload),
                qos=message.qos,
                retain=bool(message.retain),
                is_dup=bool(message.dup),
                packet_id=message.mid,
            )
        )

    def _on_subscribe(self, _client: paho.Client, _data: Any, mid: int, codes: list[ReasonCode], _props: Any) -> None:
        topic_filter = self._subscribing.pop(mid, None)
        if topic_filter is not None:
            self._events.append(
                Granted(topic_filter=topic_filter, is_granted=not any(code.is_failure for code in codes))
            )

    def _on_publish(self, _client: paho.Client, _data: Any, mid: int, _code: ReasonCode, _properties: Any) -> None:
        self._unwritten.discard(mid)

    # --- the loop's callbacks ---

    def _readable(self, end: Any) -> None:
        self._client.loop_read()
        while isinstance(end, ssl.SSLSocket) and end.fileno() >= 0 and end.pending():
            self._client.loop_read()  # decrypted already: the loop would not tell
        self._tell()

    def _writable(self) -> None:
        self._client.loop_write()
        self._tell()

    def _look(self) -> None:
        self._misc = self._loop.call_later(KEEP_ALIVE_LOOK_S, self._look)
        self._client.loop_misc()
        self._tell()
