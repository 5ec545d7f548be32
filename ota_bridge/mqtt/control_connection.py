"""One connection of the control link: an asyncio protocol over the codec, QoS 0 and 1, a kept session.

It is used once and then dropped: nothing of it (packet ids, half a packet, unsent bytes) can reach the next one.
`ended` fails with a BrokerError whose sentence says why.

1. What a loop's turn brings to say leaves in one write. Where the broker takes no more, or has not confirmed a window
   of messages, further ones wait in order.
2. What was read is handed over for a millisecond at a time, so that the loop has turns for others; meanwhile nothing
   more is read.
3. Messages are handed over in bundles of at most BUNDLE_MAX. Who takes them says when it is done with one, and until
   then nothing is read: where another thread works on a bundle while this one takes the next in, the turns that they
   give each other in the interpreter cost as much as the work. Reading is not held up longer than BUNDLE_WAIT_S.
4. Between two bundles there is a read, even where messages wait: it brings the PUBACKs, which wait for nothing.
5. Once it has ended, what was read before is still handed over (`hear_out`): of QoS 0 nothing comes again.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from ota_bridge.core.errors import BrokerError, ConfigError, Malformed
from ota_bridge.mqtt import codec
from ota_bridge.mqtt.hang_up import hang_up
from ota_bridge.mqtt.opening import KeepAlive, open_connection
from ota_bridge.wire import BrokerAddress, MqttMessage, Subscription

_logger = logging.getLogger("ota_bridge.mqtt.control")

Received = Callable[[int, codec.Publish], None]
"""Hears a connection's generation and a message."""
Bundled = Callable[[Callable[[], None]], None]
"""Hears that a bundle was handed over; calls what it is given, on the loop's thread, when it is done with it."""

BUNDLE_MAX: Final = 200
BUNDLE_WAIT_S: Final = 2.0
HEAR_OUT_S: Final = 5.0
UNHEARD_MAX_BYTES: Final = 16 * 1024 * 1024
"""Where so much waits to be handed over, nothing more is read. mosquitto 2.0 sends far more than it has in flight by
its own count, where acknowledgements come in bundles: all that it queues for us, as a rule."""
_MESSAGE_BYTES: Final = 400
"""What a message takes beside its topic and payload."""

_WINDOW: Final = 1_000  # messages without a PUBACK
_WORK_S: Final = 0.001
_HANDSHAKE_S: Final = 10.0  # CONNACK and SUBACK
_PUBACK_WAIT_S: Final = 30.0  # then the connection is given up: TCP notices a dead peer only after many minutes
_FLUSH_S: Final = 0.5
_TICK_S: Final = 1.0
_WRITE_HIGH_BYTES: Final = 256 * 1024
_IDS: Final = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """What every connection of the link has in common."""

    address: BrokerAddress
    client_id: str
    will: MqttMessage | None
    keepalive_s: int
    max_queued: int


class ControlConnection(asyncio.Protocol):
    """From CONNECT to the end of one TCP connection; all on the loop's thread."""

    def __init__(self, options: ConnectOptions, generation: int, on_message: Received, on_bundle: Bundled) -> None:
        self.generation = generation
        self.accepted = False
        self._options = options
        self._on_message = on_message
        self._on_bundle = on_bundle
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._connack: asyncio.Future[None] = self._loop.create_future()
        self._subacks: dict[int, asyncio.Future[bytes]] = {}
        self._transport: asyncio.Transport | None = None
        # One message over a limit of ours would come again after each reconnect, for ever: the broker has the limit.
        self._decoder = codec.Decoder(max_packet_bytes=codec.LENGTH_MAX + 5, checks_topics=False)
        self._alive = KeepAlive(options.keepalive_s, time.monotonic())
        self._unheard: deque[codec.Publish] = deque()
        self._unheard_bytes = 0
        self._reads = True
        self._is_quiet = asyncio.Event()
        """No message is being handed over, and no bundle of them is worked on."""
        self._is_quiet.set()
        self._bundle = 0
        """How many messages are in the bundle that is being handed over."""
        self._bundles = 0
        self._blind_s = 0.0
        """When it last could not read, for what waited to be handed over: PUBACKs may have come then."""
        self._bundled_s: float | None = None
        """Since when a bundle is worked on."""
        self._is_full = False
        self._unsent: list[bytes] = []
        self._waiting: deque[MqttMessage] = deque()
        self._in_flight: dict[int, float] = {}
        """By packet id, when it was sent; the oldest first."""
        self._last_id = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def queued(self) -> int:
        """Messages that wait, or have no PUBACK yet."""
        return len(self._waiting) + len(self._in_flight)

    async def open(self, subscriptions: Sequence[Subscription]) -> None:
        """Connect and subscribe; raises BrokerError."""
        options = self._options
        try:
            await open_connection(lambda: self, options.address)
            self._send(self._connect_packet())
        except ConfigError as error:
            raise BrokerError(f"cannot connect to {options.address}: {error}") from error
        self._timer = self._loop.call_later(_TICK_S, self._tick)
        try:
            async with asyncio.timeout(_HANDSHAKE_S):
                await self._unless_ended(self._connack)
                await self._subscribe(subscriptions)
        except TimeoutError as error:
            raise BrokerError(f"{options.address} did not answer within {_HANDSHAKE_S:.0f} s") from error

    def send(self, message: MqttMessage) -> bool:
        """Queue a message; False when the queue is full."""
        if self.queued >= self._options.max_queued:
            return False
        if self._waiting or not self._has_room(message):
            self._waiting.append(message)
        else:
            self._publish(message)
        return True

    def ack(self, packet_id: int) -> None:
        """Acknowledge a message of this connection."""
        self._send(codec.encode_puback(packet_id))

    async def leave(self) -> None:
        """Send what is queued, then DISCONNECT, within half a second altogether."""
        until_s = self._loop.time() + _FLUSH_S
        while self.accepted and self.queued and self._loop.time() < until_s:  # noqa: ASYNC110 - rare, and bounded
            await asyncio.sleep(0.005)
        if self.accepted and self._transport is not None:
            self._send(codec.DISCONNECT)
            self._flush()
            self._transport.close()
            await asyncio.wait({self.ended}, timeout=max(until_s - self._loop.time(), 0.05))

    async def hear_out(self) -> None:
        """After its end: wait until what was read before was handed over, for a while at most."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_quiet.wait(), HEAR_OUT_S)

    def drop(self) -> None:
        """Close without a word; nothing more is handed over."""
        self.accepted = False
        self._unheard.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            hang_up(self._transport)
        futures: tuple[asyncio.Future[Any], ...] = (self.ended, self._connack, *self._subacks.values())
        for future in futures:
            if not future.cancel() and not future.cancelled():
                future.exception()  # seen: a failure that nobody awaited must not complain

    # --- opening ---

    def _connect_packet(self) -> bytes:
        options, address = self._options, self._options.address
        will = options.will
        return codec.encode_connect(
            client_id=options.client_id,
            keepalive_s=options.keepalive_s,
            username=address.username,
            password=address.password,
            will=None if will is None else codec.Will(will.topic, will.payload, will.qos, will.retain),
            keeps_session=True,
        )

    async def _subscribe(self, subscriptions: Sequence[Subscription]) -> None:
        for number, each in enumerate(subscriptions, 1):
            try:
                packet = codec.encode_subscribe(number, each.topic_filter, each.qos)
            except ConfigError as error:
                raise BrokerError(f"a subscription cannot be asked for: {error}") from error
            self._subacks[number] = self._loop.create_future()
            self._send(packet)
        refused = []
        for number, each in enumerate(subscriptions, 1):
            if await self._unless_ended(self._subacks[number]) == b"\x80":
                refused.append(each.topic_filter)
        if refused:
            raise BrokerError(
                f"{self._options.address} refused the subscription to {', '.join(refused)}: "
                "check the broker's access list"
            )

    async def _unless_ended(self, answer: "asyncio.Future[Any]") -> Any:
        await asyncio.wait({answer, self.ended}, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else self.ended.result()

    # --- what the transport calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport has all of asyncio.Transport but does not inherit from it.
        self._transport = transport  # type: ignore[assignment]
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        alive = self._alive
        alive.heard_s = time.monotonic()
        alive.pinged_s = None
        try:
            packets = self._decoder.feed(data)
        except Malformed as error:
            self._fail(f"{self._options.address} sent what is not MQTT ({error})")
            return
        for packet in packets:
            if self.ended.done():
                return
            self._packet(packet)
        if not self._is_quiet.is_set():
            self._set_reading(goes_on=False)  # one read: a transport goes on until it is told
        elif self._unheard:
            self._hear()

    def pause_writing(self) -> None:
        self._is_full = True
        self._alive.progressed(time.monotonic())

    def resume_writing(self) -> None:
        self._is_full = False
        self._pump()

    def connection_lost(self, exc: Exception | None) -> None:
        address = self._options.address
        if self._connack.done():
            self._fail(f"the connection to {address} was lost" + (f" ({exc})" if exc else ""))
        else:
            self._fail(f"{address} closed the connection unanswered: is it MQTT, and is TLS right?")

    # --- in ---

    def _hear(self) -> None:
        """Hand messages over for a moment; go on in another turn, until there is a bundle or none is left."""
        unheard, until_s = self._unheard, time.monotonic() + _WORK_S
        self._is_quiet.clear()
        while unheard and self._bundle < BUNDLE_MAX:
            message = unheard.popleft()
            self._unheard_bytes -= _bytes_of(message)
            self._bundle += 1
            self._on_message(self.generation, message)
            if unheard and time.monotonic() >= until_s:
                self._set_reading(goes_on=False)
                self._loop.call_soon(self._hear)
                return
        self._set_reading(goes_on=False)
        self._bundle, self._bundled_s = 0, time.monotonic()
        self._bundles += 1
        self._on_bundle(partial(self._done_with, self._bundles))

    def _done_with(self, bundle: int) -> None:
        if bundle == self._bundles and self._bundled_s is not None:
            self._bundled_s = None
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        self._alive.heard_s = time.monotonic()  # it was this side that did not listen
        self._set_reading(goes_on=self._unheard_bytes < UNHEARD_MAX_BYTES)
        if self._unheard:
            self._loop.call_later(0, self._hear)  # behind the read of the loop's next turn
        else:
            self._is_quiet.set()

    def _set_reading(self, *, goes_on: bool) -> None:
        if goes_on is self._reads or self._transport is None or self._transport.is_closing():
            return
        self._reads = goes_on
        if goes_on:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _packet(self, packet: codec.Packet) -> None:
        if type(packet) is codec.Puback:
            self._in_flight.pop(packet.packet_id, None)
            self._pump()
        elif type(packet) is codec.Connack:
            self._connack_came(packet)
        elif not self.accepted:
            self._fail(f"{self._options.address} broke the protocol: {type(packet).__name__} before CONNACK")
        elif type(packet) is codec.Suback:
            suback = self._subacks.get(packet.packet_id)
            if suback is not None and not suback.done():
                suback.set_result(packet.codes)
        elif type(packet) is codec.Publish:
            self._came(packet)
        elif type(packet) is tuple:
            self._came(codec.Publish(*packet))

    def _came(self, message: codec.Publish) -> None:
        self._unheard.append(message)
        self._unheard_bytes += _bytes_of(message)

    def _connack_came(self, packet: codec.Connack) -> None:
        if packet.code:
            self._fail(f"{self._options.address} refused the connection: {codec.REFUSALS[packet.code]}")
        elif not self._connack.done():
            self.accepted = True
            self._connack.set_result(None)

    # --- out ---

    def _has_room(self, message: MqttMessage) -> bool:
        return not self._is_full and (not message.qos or len(self._in_flight) < _WINDOW)

    def _pump(self) -> None:
        waiting = self._waiting
        while waiting and self._has_room(waiting[0]):
            self._publish(waiting.popleft())

    def _publish(self, message: MqttMessage) -> None:
        packet_id = self._next_id() if message.qos else 0
        try:
            packet = codec.encode_publish(
                message.topic, message.payload, qos=message.qos, retain=message.retain, packet_id=packet_id
            )
        except (ValueError, ConfigError) as error:
            _logger.warning("cannot publish to %r: %s", message.topic, error)
            return
        if packet_id:
            self._in_flight[packet_id] = self._loop.time()
        self._send(packet)

    def _next_id(self) -> int:
        while True:
            self._last_id = self._last_id % _IDS + 1
            if self._last_id not in self._in_flight:
                return self._last_id

    def _send(self, packet: bytes) -> None:
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(packet)

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if unsent and self._transport is not None and not self._transport.is_closing():
            self._alive.sent_s = time.monotonic()
            self._transport.write(b"".join(unsent))

    def _tick(self) -> None:
        assert self._transport is not None
        address, now_s = self._options.address, time.monotonic()
        self._timer = self._loop.call_later(_TICK_S, self._tick)
        may_ping = self.accepted and not self._is_full
        if self._bundled_s is not None:
            self._alive.heard_s = now_s
            if now_s - self._bundled_s >= BUNDLE_WAIT_S:
                self._done_with(self._bundles)
        if self.ended.done():
            return
        try:
            if self._alive.look(now_s, self._transport.get_write_buffer_size(), may_ping=may_ping):
                self._send(codec.PINGREQ)
        except BrokerError as error:
            self._fail(f"the connection to {address} was lost: {error}")
        if self._unheard_bytes >= UNHEARD_MAX_BYTES:
            self._blind_s = self._loop.time()
        if self._in_flight and self._loop.time() - max(self._sent_first_s(), self._blind_s) > _PUBACK_WAIT_S:
            self._fail(f"{address} took nothing from us for {_PUBACK_WAIT_S:.0f} s")

    def _sent_first_s(self) -> float:
        return next(iter(self._in_flight.values()))

    # --- ending ---

    def _fail(self, why: str) -> None:
        self.accepted = False
        if self._transport is not None:
            hang_up(self._transport)
        if not self.ended.done():
            self.ended.set_exception(BrokerError(why))


def _bytes_of(message: codec.Publish) -> int:
    return len(message.topic) + len(message.payload) + _MESSAGE_BYTES
