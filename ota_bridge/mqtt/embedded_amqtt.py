"""amqtt's broker with what stands in our way replaced; the version is pinned, a test notices another one.

amqtt 0.12.1 refuses what clients publish to topics that begin with `$` and ends that client's message loop. Here:

- messages below the roots (and all that do not begin with `$`) go straight from the publisher to the matching
  subscribers: exact filters by one look-up, wildcards by one scan, the QoS the lower of the two;
- a subscription during a delivery is safe (amqtt iterates over the live table);
- a new connection of a client ends the old one first, silence for one and a half keep-alives ends a client, and so
  do ten seconds without a CONNECT (amqtt keeps all of these for ever);
- what one client has not read is bounded: `max_buffered_bytes` of QoS 0 and `_MAX_IN_FLIGHT` messages of QoS 1; what
  is above is dropped and counted, as mosquitto does. A packet above `_MAX_PACKET_BYTES` ends its sender.

Left as amqtt has it: a QoS 1 message without PUBACK for 5 s is given up.
"""

import asyncio
import contextlib
import logging
import socket
from dataclasses import dataclass
from functools import partial
from typing import Any

from amqtt.adapters import StreamReaderAdapter, StreamWriterAdapter
from amqtt.broker import Broker
from amqtt.errors import AMQTTError

from ota_bridge.accept import Acceptor
from ota_bridge.mqtt.embedded_topics import Subscriptions, publish_qos0
from ota_bridge.mqtt.hang_up import hang_up

_logger = logging.getLogger("ota_bridge.mqtt.embedded")

_LISTENER = "default"
_CONNECT_WAIT_S = 10.0
_MAX_PACKET_BYTES = 1 << 20
_MAX_IN_FLIGHT = 5_000
_MAX_RECEIVED = 20_000  # messages of one publisher that wait for their turn
_AT_A_GO = 32  # messages of one publisher before the others get their turn
_REFUSED = 0x80  # SUBACK
_FLUSH_S = 0.2
_STOP_S = 0.7
_SHUTDOWN_S = 1.0
_SESSION_EXPIRY_S = 3_600


@dataclass(slots=True, kw_only=True)
class EmbeddedCounters:
    """What happened since the start."""

    messages: int = 0
    dropped: int = 0  # a subscriber did not read
    refused: int = 0  # topics that nobody may publish to
    turned_away: int = 0  # connections above the limit


class _Reader(StreamReaderAdapter):  # type: ignore[misc]  # amqtt is read as untyped
    """amqtt's reader, which would take 256 MB from anybody."""

    async def read(self, n: int = -1) -> bytes:
        if n > _MAX_PACKET_BYTES:
            raise ConnectionError(f"a packet of {n} bytes is above the limit of {_MAX_PACKET_BYTES}")
        data: bytes = await super().read(n)
        return data


class _Writer(StreamWriterAdapter):  # type: ignore[misc]  # amqtt is read as untyped
    """amqtt's writer, deaf once the connection is gone: one client's end must not be another's error."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        super().__init__(writer)
        self._transport = writer.transport

    @property
    def gone(self) -> bool:
        return bool(self.is_closed) or self._transport.is_closing()

    @property
    def buffered(self) -> int:
        return 0 if self.gone else self._transport.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        if not self.gone:
            self._transport.write(data)

    async def drain(self) -> None:
        if not self.gone:
            await super().drain()

    def abort(self) -> None:
        self.is_closed = True
        hang_up(self._transport)


class RootBroker(Broker):  # type: ignore[misc]  # amqtt is read as untyped
    """amqtt's broker with the delivery replaced; names that begin with `_` are mostly its own."""

    def __init__(
        self,
        counters: EmbeddedCounters,
        listener: socket.socket,
        prefixes: tuple[str, ...],
        max_connections: int,
        max_buffered_bytes: int,
    ) -> None:
        config = {
            "listeners": {_LISTENER: {"type": "tcp", "bind": "127.0.0.1:0"}},
            "plugins": {},
            "session_expiry_interval": _SESSION_EXPIRY_S,
        }
        super().__init__(config)
        self._counters = counters
        self._listener = listener
        self._prefixes = prefixes
        self._max_connections = max_connections
        self._max_buffered_bytes = max_buffered_bytes
        self._subscriptions = Subscriptions()
        self._filters: dict[str, set[str]] = {}
        self._open: dict[asyncio.Task[Any], _Writer] = {}
        self._ended: dict[Any, asyncio.Event] = {}
        self._deliveries: set[asyncio.Task[Any]] = set()

    async def stop(self) -> None:
        for server in self._servers.values():
            server.instance.close()
        await self._drain()
        for writer in self._open.values():
            writer.abort()
        try:
            async with asyncio.timeout(_STOP_S):
                if self._open:
                    await asyncio.wait(self._open)
        except TimeoutError:
            _logger.warning("%d clients did not end in time: abandoned", len(self._open))
        leftover = [*self._open, *self._deliveries]
        for task in leftover:
            task.cancel()
        await asyncio.gather(*leftover, return_exceptions=True)
        try:
            async with asyncio.timeout(_SHUTDOWN_S):
                await self.shutdown()
        except TimeoutError:
            _logger.warning("the embedded broker did not shut down in time: abandoned")
        self._listener.close()

    async def _drain(self) -> None:
        """What has been written to clients that read shall arrive."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + _FLUSH_S
        # a transport tells its fill level only when asked
        while loop.time() < until_s and any(writer.buffered for writer in self._open.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    # --- connections ---

    async def _create_server_instance(self, *_of_amqtt: Any) -> Acceptor:
        self._listener.listen(1024)
        return Acceptor(self._listener, partial(self.stream_connected, listener_name=_LISTENER), name="embedded broker")

    async def stream_connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, listener_name: str
    ) -> None:
        if len(self._open) >= self._max_connections:
            self._counters.turned_away += 1
            hang_up(writer.transport)
            return
        task = asyncio.current_task()
        assert task is not None
        adapter = _Writer(writer)
        self._open[task] = adapter
        try:
            # asyncio does it by itself only where the listener's protocol number says TCP: ours says 0
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._client_connected(listener_name, _Reader(reader), adapter)
        except OSError as error:
            _logger.debug("a client vanished: %s", error)
        except asyncio.CancelledError:  # abandoned by `stop`: asyncio would complain of a callback that was cancelled
            _logger.debug("a client was abandoned")
        except Exception:
            _logger.exception("a client's connection failed")
        finally:
            adapter.abort()
            del self._open[task]

    async def _initialize_client_session(self, reader: Any, writer: Any, address: str, port: int) -> tuple[Any, Any]:
        try:
            async with asyncio.timeout(_CONNECT_WAIT_S):
                handler, session = await super()._initialize_client_session(reader, writer, address, port)
        except TimeoutError as error:
            raise AMQTTError("no CONNECT") from error
        session.keep_alive += session.keep_alive // 2
        if session.delivered_message_queue.maxsize == 0:
            session.delivered_message_queue = asyncio.Queue(_MAX_RECEIVED)
        return handler, session

    async def _delete_session(self, client_id: str) -> None:
        await self._end_older(client_id)
        await super()._delete_session(client_id)

    async def _end_older(self, client_id: str) -> None:
        """MQTT 3.1.1 §3.1.4-2; waits, for the older one's farewell must not mark the newer one as gone."""
        _, handler = self._sessions.get(client_id, (None, None))
        ended = self._ended.get(handler)
        if handler is None or ended is None:
            return
        handler.writer.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await ended.wait()

    async def _handle_client_session(
        self, reader: Any, writer: Any, session: Any, handler: Any, server: Any, listener_name: str
    ) -> None:
        await self._end_older(session.client_id)
        handler.handle_read_timeout = writer.abort
        ended = self._ended[handler] = asyncio.Event()
        try:
            await super()._handle_client_session(reader, writer, session, handler, server, listener_name)
        finally:
            del self._ended[handler]
            ended.set()

    async def _authenticate(self, *_of_amqtt: Any) -> bool:
        return True

    async def _publish_retained_messages_for_subscription(self, subscription: tuple[str, int], session: Any) -> None:
        # amqtt asks for every filter of everybody when a session comes back
        if any(subscriber is session for subscriber, _ in self._subscriptions.get(subscription[0], ())):
            await super()._publish_retained_messages_for_subscription(subscription, session)

    async def add_subscription(self, subscription: tuple[str, int], session: Any) -> int:
        granted: int = await super().add_subscription(subscription, session)
        if granted < _REFUSED:
            self._filters.setdefault(session.client_id, set()).add(subscription[0])
        return granted

    async def _del_all_subscriptions(self, session: Any) -> None:
        for topic_filter in self._filters.pop(session.client_id, ()):
            self._del_subscription(topic_filter, session)

    def _del_subscription(self, topic_filter: str, session: Any) -> int:
        deleted: int = super()._del_subscription(topic_filter, session)
        if not self._subscriptions.get(topic_filter, True):
            del self._subscriptions[topic_filter]
        return deleted

    # --- messages ---

    async def _handle_message_delivery(self, session: Any, handler: Any, wait_deliver: Any) -> bool:
        message = wait_deliver.result()
        for _ in range(_AT_A_GO):
            if message is not None and not await self._accept(session, message):
                handler.writer.abort()
                return True  # the message loop itself ends when the connection does
            if session.delivered_message_queue.empty():
                break
            message = session.delivered_message_queue.get_nowait()
        return True

    async def _accept(self, session: Any, message: Any) -> bool:
        topic = message.topic
        if not topic or "+" in topic or "#" in topic:
            _logger.warning("client %r published to %r: cut off", session.client_id, topic)
            return False
        if topic[0] == "$" and not topic.startswith(self._prefixes):
            self._counters.refused += 1
            return True
        self._counters.messages += 1
        await self._broadcast_message(session, topic, message.data, message.qos)
        if message.publish_packet.retain_flag:
            await self.retain_message(session, topic, message.data, message.qos)
        return True

    async def _broadcast_message(
        self, session: Any, topic: str, data: bytes | bytearray, force_qos: int | None = None
    ) -> None:
        qos = force_qos or 0
        packet = b""
        for target, granted in self._subscriptions.matching(topic):
            if min(qos, granted) > 0:
                await self._deliver_acknowledged(session, target, topic, data, min(qos, granted))
            elif target.transitions.state == "connected":
                packet = packet or publish_qos0(topic, data)
                self._deliver_qos0(target, packet)

    def _deliver_qos0(self, target: Any, packet: bytes) -> None:
        handler = self._get_handler(target)
        if handler is None or handler.writer is None:
            return
        if handler.writer.buffered + len(packet) > self._max_buffered_bytes:
            self._counters.dropped += 1
            return
        handler.writer.write(packet)

    async def _deliver_acknowledged(
        self, source: Any, target: Any, topic: str, data: bytes | bytearray, qos: int
    ) -> None:
        if target.transitions.state != "connected":
            if target.clean_session:
                return
            if target.retained_messages.qsize() >= _MAX_IN_FLIGHT:
                self._counters.dropped += 1
                return
            await self._retain_broadcast_message({"session": source, "topic": topic, "data": data}, qos, target)
            return
        handler = self._get_handler(target)
        if handler is None:
            return
        if len(target.inflight_out) >= _MAX_IN_FLIGHT:
            self._counters.dropped += 1
            return
        task = asyncio.create_task(handler.mqtt_publish(topic, data, qos, retain=False), name="embedded-delivery")
        self._deliveries.add(task)
        task.add_done_callback(self._delivered)

    def _delivered(self, task: asyncio.Task[Any]) -> None:
        self._deliveries.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._counters.dropped += 1
            _logger.debug("not delivered: %s", task.exception())
