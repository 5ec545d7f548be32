"""One connection of the control link: a paho-mqtt client whose socket the asyncio loop reads and writes.

paho's public socket hooks become `add_reader` and `add_writer`; its connect blocks, so a thread runs it. A
client is used for one connection only and then dropped: nothing of it (packet ids, half a packet, unsent
bytes) can reach the next one. `ended` fails with a BrokerError whose sentence says why.
"""

import asyncio
import logging
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from paho.mqtt.client import Client, MQTTMessage, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.reasoncodes import ReasonCode

from ota_bridge.core.errors import BrokerError, ConfigError
from ota_bridge.mqtt.control_buffers import BufferedClient
from ota_bridge.mqtt.tls import tls_context
from ota_bridge.wire import BrokerAddress, MqttMessage, Subscription

_logger = logging.getLogger("ota_bridge.mqtt.control")

_WINDOW = 200  # messages in paho's hands
_HAND_OVER_MAX = 32  # of them at a go: the loop has other turns to take
_READ_S = 0.001  # how long one wake-up is read for before the loop gets its turn
_HANDSHAKE_S = 10.0  # CONNACK and SUBACK
_PUBACK_WAIT_S = 30.0  # then the connection is given up: TCP notices a dead peer only after many minutes
_FLUSH_S = 0.5
_TICK_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """What every connection of the link has in common."""

    address: BrokerAddress
    client_id: str
    will: MqttMessage | None
    keepalive_s: int
    max_queued: int


class ControlConnection:
    """From CONNECT to the end of one TCP connection; all on the loop's thread."""

    def __init__(
        self, options: ConnectOptions, generation: int, on_message: Callable[[int, MQTTMessage], None]
    ) -> None:
        self.generation = generation
        self.accepted = False
        self._options = options
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._connack: asyncio.Future[None] = self._loop.create_future()
        self._suback: asyncio.Future[list[ReasonCode]] = self._loop.create_future()
        self._waiting: deque[MqttMessage] = deque()
        self._in_flight: deque[tuple[MQTTMessageInfo, float]] = deque()
        self._fd = -1
        self._is_pumping = False
        self._timer: asyncio.TimerHandle | None = None
        self._client = self._new_client()

    @property
    def queued(self) -> int:
        """Messages that wait, are not wholly written, or have no PUBACK yet."""
        return len(self._waiting) + len(self._in_flight)

    async def open(self, subscriptions: Sequence[Subscription]) -> None:
        """Connect and subscribe; raises BrokerError."""
        await self._open_socket()
        try:
            async with asyncio.timeout(_HANDSHAKE_S):
                await self._unless_ended(self._connack)
                if subscriptions:
                    await self._subscribe(subscriptions)
        except TimeoutError as error:
            raise BrokerError(f"{self._options.address} did not answer within {_HANDSHAKE_S:.0f} s") from error

    def send(self, message: MqttMessage) -> bool:
        """Queue a message; False when the queue is full."""
        if self.queued >= self._options.max_queued:
            return False
        self._waiting.append(message)
        self._pump()
        return True

    def ack(self, mid: int, qos: int) -> None:
        """Acknowledge a message of this connection."""
        self._client.ack(mid, qos)

    async def leave(self) -> None:
        """Send what is queued, then DISCONNECT, within half a second altogether."""
        until_s = self._loop.time() + _FLUSH_S
        # paho tells only by asking whether a QoS 0 message is written
        while self.accepted and self._unsent() and self._loop.time() < until_s:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        if self.accepted:
            self._client.disconnect()
            await asyncio.wait({self.ended}, timeout=max(until_s - self._loop.time(), 0.05))

    def drop(self) -> None:
        """Close without a word. From here on the client's hooks find no descriptor and do nothing."""
        self.accepted = False
        if self._timer is not None:
            self._timer.cancel()
        self._forget_socket()
        _close(self._client)
        for future in (self.ended, self._connack, self._suback):
            if not future.cancel() and not future.cancelled():
                future.exception()  # seen: a failure that nobody awaited must not complain

    # --- opening ---

    def _new_client(self) -> BufferedClient:
        options = self._options
        client = BufferedClient(
            CallbackAPIVersion.VERSION2,
            options.client_id,
            clean_session=False,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.max_inflight_messages_set(_WINDOW)
        if options.address.username is not None:
            client.username_pw_set(options.address.username, options.address.password)
        if options.will is not None:
            client.will_set(options.will.topic, options.will.payload, options.will.qos, retain=options.will.retain)
        client.on_socket_open = _set_nodelay
        client.on_socket_close = self._socket_closed
        client.on_socket_register_write = self._register_write
        client.on_socket_unregister_write = self._unregister_write
        client.on_connect = self._connack_came
        client.on_subscribe = self._suback_came
        client.on_message = self._message_came
        client.on_disconnect = self._disconnected
        return client

    async def _open_socket(self) -> None:
        """TCP and TLS, in a thread of their own: an executor would hold up the program's exit."""
        options, client, loop = self._options, self._client, self._loop
        opened: asyncio.Future[None] = loop.create_future()

        def settle(failure: Exception | None) -> None:
            if opened.cancelled():
                _close(client)
            elif failure is None:
                opened.set_result(None)
            else:
                opened.set_exception(failure)

        def connect() -> None:
            failure: Exception | None = None
            try:
                if options.address.tls is not None:
                    client.tls_set_context(tls_context(options.address.tls))
                client.connect(options.address.host, options.address.port, keepalive=options.keepalive_s)
            except (OSError, ValueError, ConfigError) as error:
                failure = error
            try:
                loop.call_soon_threadsafe(settle, failure)
            except RuntimeError:  # the loop has been closed meanwhile
                _close(client)

        threading.Thread(target=connect, name="mqtt-control-connect", daemon=True).start()
        try:
            await opened
        except (OSError, ValueError, ConfigError) as error:
            raise BrokerError(f"cannot connect to {options.address}: {error}") from error
        self._adopt()

    def _adopt(self) -> None:
        sock = self._client.socket()
        if sock is None:
            self._fail(f"{self._options.address} closed the connection at once")
            return
        self._fd = sock.fileno()
        self._loop.add_reader(self._fd, self._readable)
        self._loop.add_writer(self._fd, self._writable)  # CONNECT is waiting
        self._timer = self._loop.call_later(_TICK_S, self._tick)

    async def _subscribe(self, subscriptions: Sequence[Subscription]) -> None:
        try:
            self._client.subscribe([(each.topic_filter, each.qos) for each in subscriptions])
        except ValueError as error:
            raise BrokerError(f"a subscription cannot be asked for: {error}") from error
        granted = await self._unless_ended(self._suback)
        refused = [each.topic_filter for each, code in zip(subscriptions, granted, strict=False) if code.is_failure]
        if refused:
            raise BrokerError(
                f"{self._options.address} refused the subscription to {', '.join(refused)}: "
                "check the broker's access list"
            )

    async def _unless_ended(self, answer: "asyncio.Future[Any]") -> Any:
        await asyncio.wait({answer, self.ended}, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else self.ended.result()

    # --- called by the loop ---

    def _readable(self) -> None:
        self._guarded(self._read)

    def _writable(self) -> None:
        self._guarded(self._client.loop_write)

    def _tick(self) -> None:
        self._timer = self._loop.call_later(_TICK_S, self._tick)
        self._guarded(self._client.loop_misc)
        if self._in_flight and self._loop.time() - self._in_flight[0][1] > _PUBACK_WAIT_S:
            self._fail(f"{self._options.address} took nothing from us for {_PUBACK_WAIT_S:.0f} s")

    def _guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001 (paho raises struct.error and others where bytes do not parse)
            self._fail(f"{self._options.address} sent what is not MQTT ({type(error).__name__}: {error})")
        else:
            self._pump()

    def _read(self) -> None:
        more = self._client.loop_read_for(_READ_S)
        sock = self._client.socket()
        if more or (isinstance(sock, ssl.SSLSocket) and sock.pending()):
            self._loop.call_soon(self._read_on)  # the loop sees only what is still in the socket

    def _read_on(self) -> None:
        if self._fd >= 0:
            self._readable()

    def _pump(self) -> None:
        """Hand waiting messages to paho while fewer than a window of them are in its hands."""
        in_flight, waiting, left = self._in_flight, self._waiting, _HAND_OVER_MAX
        while in_flight and in_flight[0][0].is_published():
            in_flight.popleft()
        while waiting and len(in_flight) < _WINDOW and self.accepted:
            left -= 1
            if left < 0:
                if not self._is_pumping:
                    self._is_pumping = True
                    self._loop.call_soon(self._pump_on)
                return
            message = waiting.popleft()
            try:
                info = self._client.publish(message.topic, message.payload, message.qos, message.retain)
            except ValueError as error:
                _logger.warning("cannot publish to %r: %s", message.topic, error)
                continue
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._fail(f"the connection to {self._options.address} was lost")
                return
            in_flight.append((info, self._loop.time()))

    def _pump_on(self) -> None:
        self._is_pumping = False
        self._pump()

    def _unsent(self) -> bool:
        self._pump()
        return self.queued > 0 or self._client.want_write()

    # --- called by paho, on the loop's thread once the socket is adopted ---

    def _register_write(self, _client: Client, _userdata: Any, _sock: Any) -> None:
        if self._fd >= 0:
            self._loop.add_writer(self._fd, self._writable)

    def _unregister_write(self, _client: Client, _userdata: Any, _sock: Any) -> None:
        if self._fd >= 0:
            self._loop.remove_writer(self._fd)

    def _socket_closed(self, _client: Client, _userdata: Any, _sock: Any) -> None:
        self._forget_socket()

    def _connack_came(self, _client: Client, _userdata: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
        if reason.is_failure:
            self._fail(f"{self._options.address} refused the connection: {reason.getName()}")
        elif not self._connack.done():
            self.accepted = True
            self._connack.set_result(None)

    def _suback_came(
        self, _client: Client, _userdata: Any, _mid: int, codes: list[ReasonCode], _properties: Any
    ) -> None:
        if not self._suback.done():
            self._suback.set_result(codes)

    def _message_came(self, _client: Client, _userdata: Any, message: MQTTMessage) -> None:
        self._on_message(self.generation, message)

    def _disconnected(self, *_details: object) -> None:
        if self._connack.done():
            self._fail(f"the connection to {self._options.address} was lost")
        else:
            self._fail(f"{self._options.address} closed the connection unanswered: is it MQTT, and is TLS right?")

    # --- ending ---

    def _fail(self, why: str) -> None:
        self.accepted = False
        self._forget_socket()
        if not self.ended.done():
            self.ended.set_exception(BrokerError(why))

    def _forget_socket(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._loop.remove_reader(fd)
            self._loop.remove_writer(fd)


def _set_nodelay(_client: Client, _userdata: Any, sock: Any) -> None:
    if isinstance(sock, socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _close(client: Client) -> None:
    sock = client.socket()
    if sock is not None:
        sock.close()
