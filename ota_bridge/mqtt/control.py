"""The control plane's link to the broker: reports in, acknowledged by hand; offers, acks, events, state out.

`control_connection.py` is one connection; this keeps one alive. The contract:

- `run()` connects, subscribes and serves for ever; every failure is one WARNING sentence and another attempt
  after a full-jitter pause. Cancelling it flushes what is queued for at most half a second and disconnects
  cleanly, so the broker keeps the session and publishes no last will.
- A QoS 1 message is acknowledged by `ack(token)` and never before. A token of an earlier connection is
  dropped and counted: packet ids start again with each connection, so it would acknowledge somebody else's
  message. The broker delivers that message again.
- `publish` is at most once across a lost connection: what had no PUBACK yet is counted as `unconfirmed` and
  forgotten. Everything sent here can be derived again (a device repeats its report; `on_state(True)` is the
  moment to publish retained state anew), whereas a message that makes the broker hang up would do so again
  after every reconnect.
- The outgoing queue holds `max_queued` messages; when it is full the new one is refused (False) and counted.
- `on_message` and `on_state` are called on the loop's thread, and all methods belong there too. What
  `on_message` raises is logged and counted, and that message is not acknowledged.
- `on_bundle(then)` is called after the last message of a bundle (`control_connection.py`); it calls `then` when all of
  the bundle is done with, or the link would read on only after a while.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ota_bridge.core.errors import BrokerError
from ota_bridge.mqtt.codec import Publish
from ota_bridge.mqtt.control_connection import Bundled, ConnectOptions, ControlConnection
from ota_bridge.wire import BrokerAddress, MqttMessage, Subscription

_logger = logging.getLogger("ota_bridge.mqtt.control")

_BACKOFF_BASE_S = 0.5
_BACKOFF_FLOOR_S = 0.05
_STABLE_S = 10.0  # a connection that lived this long starts the backoff anew


def at_once(then: Callable[[], None]) -> None:
    """For whoever is done with each message when it has heard it."""
    then()


class AckToken(NamedTuple):  # not a record: two for each report cost as much as to read its packet
    """What `ack` needs: the packet id and the connection that it belongs to."""

    generation: int
    mid: int
    qos: int


class Incoming(NamedTuple):
    """A message and the token that acknowledges it."""

    message: MqttMessage
    token: AckToken


@dataclass(slots=True, kw_only=True)
class ControlCounters:
    """What happened on the link since the start."""

    connects: int = 0
    failures: int = 0  # attempts refused and connections lost
    received: int = 0
    bad_topics: int = 0  # not UTF-8: acknowledged and dropped, for it would come again for ever
    handler_errors: int = 0
    acked: int = 0
    stale_acks: int = 0
    published: int = 0
    dropped_full: int = 0
    dropped_down: int = 0
    unconfirmed: int = 0  # queued, or sent without a PUBACK, when the connection ended


class ControlLink:
    """One broker client with a persistent session; see the module's docstring."""

    def __init__(
        self,
        address: BrokerAddress,
        *,
        client_id: str,
        subscriptions: Sequence[Subscription],
        will: MqttMessage | None,
        on_message: Callable[[Incoming], None],
        on_state: Callable[[bool], None],
        on_bundle: Bundled = at_once,
        keepalive_s: int = 30,
        max_queued: int = 10_000,
        rng: random.Random | None = None,
        backoff_max_s: float = 30.0,
    ) -> None:
        self.counters = ControlCounters()
        self._options = ConnectOptions(
            address=address, client_id=client_id, will=will, keepalive_s=keepalive_s, max_queued=max_queued
        )
        self._subscriptions = tuple(subscriptions)
        self._on_message = on_message
        self._on_state = on_state
        self._on_bundle = on_bundle
        self._rng = rng or random.Random()  # noqa: S311 (jitter, not a secret)
        self._backoff_max_s = backoff_max_s
        self._generation = 0
        self._connection: ControlConnection | None = None
        self._up = asyncio.Event()

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted us and granted every subscription."""
        return self._up.is_set()

    @property
    def queued(self) -> int:
        """Messages that wait, or were sent and have no PUBACK yet."""
        return 0 if self._connection is None else self._connection.queued

    async def wait_connected(self) -> None:
        """Return when `connected` is true."""
        await self._up.wait()

    def publish(self, message: MqttMessage) -> bool:
        """Queue a message of QoS 0 or 1; False (and counted) when the link is down or the queue is full.

        ValueError for a message that MQTT cannot carry: that is a mistake of the caller.
        """
        if message.qos not in {0, 1}:
            raise ValueError(f"QoS {message.qos}: the control link publishes with 0 or 1")
        if not message.topic or "+" in message.topic or "#" in message.topic:
            raise ValueError(f"{message.topic!r} is not a topic to publish to")
        connection = self._connection
        # Not `connected`: a kept session delivers before SUBACK, and what it brings wants an answer.
        if connection is None or not connection.accepted:
            self.counters.dropped_down += 1
            return False
        if not connection.send(message):
            self.counters.dropped_full += 1
            return False
        self.counters.published += 1
        return True

    def ack(self, token: AckToken) -> None:
        """Tell the broker that this message is safe with us; a token of an earlier connection is dropped."""
        if token.qos == 0:
            return
        connection = self._connection
        if connection is None or connection.generation != token.generation or not connection.accepted:
            self.counters.stale_acks += 1
            return
        connection.ack(token.mid)
        self.counters.acked += 1

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        attempt = 0
        while True:
            started_at_s = loop.time()
            try:
                await self._serve()
            except BrokerError as error:
                self.counters.failures += 1
                if loop.time() - started_at_s >= _STABLE_S:
                    attempt = 0
                pause_s = self._pause_s(attempt)
                attempt += 1
                _logger.warning("%s; next attempt in %.1f s", error, pause_s)
                await asyncio.sleep(pause_s)

    def _pause_s(self, attempt: int) -> float:
        ceiling_s = min(self._backoff_max_s, _BACKOFF_BASE_S * 2 ** min(attempt, 16))
        return max(_BACKOFF_FLOOR_S, self._rng.uniform(0, ceiling_s))

    async def _serve(self) -> None:
        """One connection, from CONNECT to its end; raises the BrokerError that says why it ended."""
        self._generation += 1
        connection = ControlConnection(self._options, self._generation, self._received, self._bundled)
        self._connection = connection
        try:
            await connection.open(self._subscriptions)
            self._set_state(up=True)
            await asyncio.wait({connection.ended})  # a bare await would cancel the future with this task
            self._set_state(up=False)
            await connection.hear_out()
            connection.ended.result()
        except asyncio.CancelledError:
            await connection.leave()
            raise
        finally:
            self._connection = None
            self.counters.unconfirmed += connection.queued
            connection.drop()
            self._set_state(up=False)

    def _set_state(self, *, up: bool) -> None:
        if up == self._up.is_set():
            return
        if up:
            self.counters.connects += 1
            self._up.set()
            _logger.info("connected to %s as %s", self._options.address, self._options.client_id)
        else:
            self._up.clear()
        try:
            self._on_state(up)
        except Exception:
            self.counters.handler_errors += 1
            _logger.exception("the handler of the link's state failed")

    def _received(self, generation: int, message: Publish) -> None:
        self.counters.received += 1
        token = AckToken(generation, message.packet_id, message.qos)
        try:
            topic = message.topic.decode()
        except UnicodeDecodeError:
            self.counters.bad_topics += 1
            _logger.warning("a topic from %s is not UTF-8: message dropped", self._options.address)
            self.ack(token)
            return
        incoming = MqttMessage(topic=topic, payload=message.payload, qos=message.qos, retain=message.retain)
        try:
            self._on_message(Incoming(incoming, token))
        except Exception:
            self.counters.handler_errors += 1
            _logger.exception("a message on %s was not handled and stays unacknowledged", topic)

    def _bundled(self, then: Callable[[], None]) -> None:
        try:
            self._on_bundle(then)
        except Exception:
            self.counters.handler_errors += 1
            _logger.exception("a bundle of messages was not handled")
            then()
