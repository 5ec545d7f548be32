"""The block plane's link to the broker: block requests in, blocks out, at QoS 0, on a connection of its own.

`BlockLink.run` connects, subscribes its filters, hands every message to the handler and publishes its answers
in the order of arrival; when the connection ends, for whatever reason, it connects again, for ever.

1. All answers to one read leave in one `writelines`; where they are many, in batches of about `BATCH_BYTES`.
2. When the broker takes no more, reading stops and the requests already read wait: TCP pushes back on it and
   memory stays bounded. Nothing is dropped or reordered; reading goes on when the buffer has drained.
3. Malformed input, a broken rule of MQTT, a refusal, silence for 1.5 x keep-alive: the connection is closed,
   the reason logged in a sentence, and the next attempt waits a random part of a delay that doubles.
4. Retained messages are dropped and counted: a request is never meant for whoever subscribes later.
5. The handler is not awaited and must not raise. If it does, nothing of that answer is sent, it is counted and logged
   now and then, and the link goes on. Pieces may be held until the broker has taken them: never change them.
6. What the handler could not answer at once is sent later by `send`, if the link is still up then.
"""

import asyncio
import enum
import logging
import random
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from ota_bridge.core.errors import BrokerError, ConfigError, Malformed
from ota_bridge.mqtt import codec
from ota_bridge.mqtt.hang_up import hang_up
from ota_bridge.mqtt.opening import KeepAlive, open_connection
from ota_bridge.wire import BrokerAddress

Pieces = list[bytes | memoryview]
"""Whole PUBLISH packets, in pieces that need not be joined."""

BlockHandler = Callable[[bytes, bytes, float, Pieces], int]
"""Topic, payload and monotonic seconds of one request: appends the packets of its answer and returns about how many
bytes they have."""

CLOSE_TIMEOUT_S: Final = 0.5
"""How long a clean DISCONNECT may take to leave before the connection is cut."""

BACKOFF_FIRST_S: Final = 0.5
STABLE_AFTER_S: Final = 10.0
"""A link that lived this long starts over with the first delay; two that evict each other never do."""

BATCH_BYTES: Final = 256 * 1024
WRITE_HIGH_BYTES: Final = 512 * 1024
WRITE_LOW_BYTES: Final = 128 * 1024
"""Above HIGH reading stops, below LOW it goes on; under HIGH + BATCH + one request's answers is buffered."""

RESTS_FROM_PER_S: Final = 2_000
"""Requests a second from which on a link with `rest_s` rests between two reads."""

HANDLER_ERRORS_PER_LOG: Final = 1_000

_SUBSCRIBE_ID: Final = 1

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class LinkCounters:
    """What the link has seen since it was made; it only grows."""

    received: int = 0
    malformed: int = 0
    retained_dropped: int = 0
    connects: int = 0
    handler_errors: int = 0


class BlockLink:
    """The link; see the module for its rules. Configuration that MQTT cannot say raises ConfigError here.

    `on_state` hears True when the subscription stands and False when it is lost; it must not raise.
    `answer_timeout_s` is how long CONNACK and SUBACK may each take. `rest_s`: see `_Connection._rest`.
    """

    def __init__(
        self,
        address: BrokerAddress,
        *,
        client_id: str,
        topic_filter: str,
        also: Sequence[str] = (),
        handler: BlockHandler,
        keepalive_s: int = 30,
        max_packet_bytes: int = 65_536,
        on_state: Callable[[bool], None] = lambda _up: None,
        rng: random.Random | None = None,
        backoff_max_s: float = 30,
        answer_timeout_s: float = 10,
        rest_s: float = 0,
    ) -> None:
        if keepalive_s < 1:
            raise ConfigError("the block link needs a keep-alive of at least 1 s")
        self.address = address
        self.topic_filter = ", ".join((topic_filter, *also))
        self.filters = 1 + len(also)
        self.handler = handler
        self.keepalive_s = keepalive_s
        self.max_packet_bytes = max_packet_bytes
        self.answer_timeout_s = answer_timeout_s
        self.counters = LinkCounters()
        self.connect_packet = codec.encode_connect(
            client_id=client_id, keepalive_s=keepalive_s, username=address.username, password=address.password
        )
        self.subscribe_packet = codec.encode_subscribe(_SUBSCRIBE_ID, topic_filter, also=also)
        self._on_state = on_state
        self._rng = rng or random.Random()  # noqa: S311 - it spreads reconnects, it keeps no secret
        self._backoff_max_s = backoff_max_s
        self.rest_s = rest_s
        self._failures = 0
        self._subscribed = asyncio.Event()
        self._connection: _Connection | None = None

    def send(self, pieces: Pieces) -> bool:
        """Send an answer that could not be given at once. False, and nothing sent, where the link is down or the broker
        takes no more.
        """
        connection = self._connection
        return connection is not None and connection.send(pieces)

    @property
    def subscribed(self) -> bool:
        """Whether the link is up."""
        return self._subscribed.is_set()

    async def wait_subscribed(self) -> None:
        """Return as soon as the link is up."""
        await self._subscribed.wait()

    async def run(self) -> None:
        """Keep the link up until cancelled; then say DISCONNECT."""
        while True:
            self._failures += 1
            try:
                reason = await self._serve_one_connection()
                level = logging.WARNING
            except ConfigError as error:
                reason, level = error, logging.ERROR
            delay_s = self._rng.uniform(0, self._delay_ceiling_s())
            _log.log(level, "block link to %s: %s; next attempt in %.1f s", self.address, reason, delay_s)
            await asyncio.sleep(delay_s)

    def _delay_ceiling_s(self) -> float:
        doublings = min(self._failures - 1, 32)
        return float(min(self._backoff_max_s, BACKOFF_FIRST_S * 2**doublings))

    async def _serve_one_connection(self) -> Exception:
        """Live through one connection and return why it ended."""
        connection = _Connection(self)
        if (error := await self._open(connection)) is not None:
            return error
        try:
            self._connection = connection
            connection.start()
            first: set[asyncio.Future[Any]] = {connection.subscribed, connection.ended}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            up_since_s = time.monotonic()
            if connection.subscribed.done():
                _log.info("block link to %s is up, subscribed to %s", self.address, self.topic_filter)
                self._set_state(up=True)
            await asyncio.wait({connection.ended})  # a bare await would cancel the future with this task
            if connection.subscribed.done() and time.monotonic() - up_since_s >= STABLE_AFTER_S:
                self._failures = 1
            return connection.ended.result()
        finally:
            self._connection = None
            if self._subscribed.is_set():
                _log.info("block link to %s is down", self.address)
                self._set_state(up=False)
            await connection.close()

    async def _open(self, connection: "_Connection") -> Exception | None:
        try:
            await open_connection(lambda: connection, self.address)
        except BrokerError as error:
            return error
        return None

    def _set_state(self, *, up: bool) -> None:
        if up:
            self._subscribed.set()
        else:
            self._subscribed.clear()
        self._on_state(up)


class _Phase(enum.Enum):
    CONNECTING = "before CONNACK"
    SUBSCRIBING = "before SUBACK"
    SERVING = "while serving"


class _Connection(asyncio.Protocol):
    """One connection from CONNECT to its end. It never raises: it ends, and `ended` holds the reason."""

    def __init__(self, link: BlockLink) -> None:
        self._link = link
        self._counters = link.counters
        self._loop = asyncio.get_running_loop()
        self.subscribed: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[Exception] = self._loop.create_future()
        self._decoder = codec.Decoder(max_packet_bytes=link.max_packet_bytes)
        self._phase = _Phase.CONNECTING
        self._transport: asyncio.Transport | None = None
        self._error: Exception | None = None
        self._backlog: Sequence[codec.Packet] = ()
        self._paused = False
        self._answer_timer: asyncio.TimerHandle | None = None
        self._watch_timer: asyncio.TimerHandle | None = None
        self._alive = KeepAlive(link.keepalive_s, time.monotonic())
        self._rested_s = 0.0
        self._joins = link.address.tls is not None
        """Over TLS each piece would become a record of its own."""

    # -- what the transport calls --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport has all of asyncio.Transport but does not inherit from it.
        self._transport = transport = cast("asyncio.Transport", transport)
        tcp = transport.get_extra_info("socket")
        if tcp is not None and tcp.family in {socket.AF_INET, socket.AF_INET6}:
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES, low=WRITE_LOW_BYTES)

    def start(self) -> None:
        """Say CONNECT. Not before the loop has handed the connection over: until then it may still cut it."""
        if self._error is None:
            self._heard_s = time.monotonic()
            self._send((self._link.connect_packet,))
            self._expect("CONNACK")

    def data_received(self, data: bytes) -> None:
        if self._error is not None:
            return
        alive = self._alive
        alive.heard_s = time.monotonic()
        alive.pinged_s = None
        try:
            packets = self._decoder.feed(data)
        except Malformed as error:
            self._counters.malformed += 1
            self._end(BrokerError(f"malformed input from the broker {self._phase.value}: {error}"))
            return
        if self._paused or self._backlog:  # a transport may deliver once more after pause_reading
            self._backlog = [*self._backlog, *packets]
            return
        self._work(packets)
        if self._link.rest_s:
            self._rest(len(packets))

    def _rest(self, came: int) -> None:
        """Where requests come fast, sleep a moment: the next read then brings many, and one wake-up answers them all.

        It holds up the whole loop, so it is for a loop that does nothing else. Not at once: uvloop writes after a read.
        """
        heard_s = self._alive.heard_s
        elapsed_s = heard_s - self._rested_s
        self._rested_s = heard_s
        if came >= RESTS_FROM_PER_S * elapsed_s:
            self._loop.call_soon(time.sleep, self._link.rest_s)

    def pause_writing(self) -> None:
        self._paused = True
        self._alive.progressed(time.monotonic())
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._paused = False
        self._alive.heard_s = time.monotonic()  # it was this side that did not listen
        backlog, self._backlog = self._backlog, ()
        self._work(backlog)
        if not self._paused and self._error is None and self._transport is not None:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._answer_timer, self._watch_timer):
            if timer is not None:
                timer.cancel()
        if self._error is None:
            how = f"the connection broke ({exc})" if exc else "the broker closed the connection"
            self._error = BrokerError(f"{how} {self._phase.value}")
        self._backlog = ()
        if not self.ended.done():
            self.ended.set_result(self._error)

    # -- the work --

    def _work(self, packets: Sequence[codec.Packet]) -> None:
        """Answer in order; where the broker takes no more, the packets not yet seen wait in the backlog."""
        now_s = time.monotonic()
        handler, serving = self._link.handler, self._phase is not _Phase.CONNECTING
        out: Pieces = []
        batch_bytes = first_unseen = 0
        for index, packet in enumerate(packets):
            if type(packet) is tuple and serving:
                whole = len(out)
                try:
                    batch_bytes += handler(packet[0], packet[1], now_s, out)  # type: ignore[misc, arg-type]
                except Exception:  # noqa: BLE001 - the one edge between the link and what it serves
                    del out[whole:]
                    self._tell_failure()
                if batch_bytes >= BATCH_BYTES:
                    self._send(out)
                    out, batch_bytes = [], 0
                    if self._paused:
                        self._counters.received += index + 1 - first_unseen
                        self._backlog = packets[index + 1 :]
                        return
                continue
            self._counters.received += index - first_unseen
            first_unseen = index + 1
            self._on_other(packet)
            serving = self._phase is not _Phase.CONNECTING
            if self._error is not None:
                return
        self._counters.received += len(packets) - first_unseen
        if out:
            self._send(out)

    def _tell_failure(self) -> None:
        counters = self._counters
        counters.handler_errors += 1
        if counters.handler_errors % HANDLER_ERRORS_PER_LOG == 1:
            _log.exception("the block handler failed (%d times so far)", counters.handler_errors)

    def _on_other(self, packet: codec.Packet) -> None:
        """Anything but a request."""
        if type(packet) is tuple:
            self._violation("PUBLISH at QoS 0")
        elif type(packet) is not codec.Publish:
            self._on_control(packet)
        elif packet.qos or self._phase is _Phase.CONNECTING:
            self._violation(f"PUBLISH at QoS {packet.qos}")
        else:
            self._counters.retained_dropped += 1

    def _on_control(self, packet: codec.Packet) -> None:
        phase = self._phase
        if type(packet) is codec.Connack and phase is _Phase.CONNECTING:
            self._on_connack(packet)
        elif type(packet) is codec.Suback and phase is _Phase.SUBSCRIBING and packet.packet_id == _SUBSCRIBE_ID:
            self._on_suback(packet)
        elif type(packet) is not codec.Pingresp or phase is _Phase.CONNECTING:
            self._violation(type(packet).__name__.upper())

    def _on_connack(self, packet: codec.Connack) -> None:
        if packet.code:
            self._end(BrokerError(f"the broker refuses the connection: {codec.REFUSALS[packet.code]}"))
            return
        self._counters.connects += 1
        self._phase = _Phase.SUBSCRIBING
        self._send((self._link.subscribe_packet,))
        self._expect("SUBACK")

    def _on_suback(self, packet: codec.Suback) -> None:
        if packet.codes != bytes(self._link.filters):
            self._end(BrokerError(f"the broker refuses the subscription to {self._link.topic_filter}"))
            return
        self._phase = _Phase.SERVING
        if self._answer_timer is not None:
            self._answer_timer.cancel()
        self._watch_timer = self._loop.call_later(self._link.keepalive_s / 4, self._watch)
        self.subscribed.set_result(None)

    # -- sending, time and the end --

    def send(self, pieces: Pieces) -> bool:
        """Late answers; see the link."""
        if self._phase is not _Phase.SERVING or self._error is not None or self._paused:
            return False
        self._send(pieces)
        return True

    def _send(self, pieces: Sequence[bytes | memoryview]) -> None:
        assert self._transport is not None
        self._alive.sent_s = time.monotonic()
        if self._joins:
            self._transport.write(b"".join(pieces))
        else:
            self._transport.writelines(pieces)

    def _expect(self, name: str) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
        timeout_s = self._link.answer_timeout_s
        error = BrokerError(f"no {name} within {timeout_s:g} s")
        self._answer_timer = self._loop.call_later(timeout_s, self._end, error)

    def _watch(self) -> None:
        """Four times per keep-alive: ping when idle, end when the broker is silent or takes nothing."""
        assert self._transport is not None
        self._watch_timer = self._loop.call_later(self._link.keepalive_s / 4, self._watch)
        may_ping = not self._paused and not self._transport.is_closing()
        try:
            if self._alive.look(time.monotonic(), self._transport.get_write_buffer_size(), may_ping=may_ping):
                self._send((codec.PINGREQ,))
        except BrokerError as error:
            self._end(error)

    def _violation(self, what: str) -> None:
        self._counters.malformed += 1
        self._end(BrokerError(f"the broker broke the protocol: {what} {self._phase.value}"))

    def _end(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        if self._transport is not None:
            hang_up(self._transport)

    async def close(self) -> None:
        """Say DISCONNECT if the connection stands, and wait, not long, until it is gone."""
        transport = self._transport
        if transport is None or self.ended.done():
            return
        try:
            if not transport.is_closing():
                self._error = self._error or BrokerError("closed by this side")
                self._backlog = ()  # nothing follows a DISCONNECT: MQTT 3.1.1 §3.14.4-2
                transport.write(codec.DISCONNECT)
                transport.close()
            await asyncio.wait({self.ended}, timeout=CLOSE_TIMEOUT_S)
        finally:
            hang_up(transport)
