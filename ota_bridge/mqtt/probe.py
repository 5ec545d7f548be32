"""Questions to a broker that are answered by trying, as two clients: the bridge, and a second identity.

`Probe` holds both connections. Every question publishes and looks at what arrives; nothing is retained. On the real
device topics only a device's own identity publishes, and the running bridge counts that one message as rejected.
"""

import asyncio
import secrets
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import aiomqtt

from ota_bridge.core.errors import BrokerError
from ota_bridge.mqtt.listen import open_client
from ota_bridge.wire import BrokerAddress

WAIT_S: Final = 3.0
"""How long a message may take before it counts as lost."""
_REFUSED: Final = 0x80  # MQTT 3.1.1 §3.9.3
_ROUNDS: Final = 12
_SETTLE_ROUNDS: Final = 4
"""TCP answers the first packets of a connection at once; the trap shows after these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A message as the other side saw it."""

    topic: str
    payload: bytes
    qos: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTrips:
    """Medians in milliseconds of QoS 1 publishes awaited one by one."""

    plain_ms: float
    """Nobody subscribes: the network and the broker alone."""
    with_delivery_ms: float
    """The publisher gets its own message at QoS 0: two small packets after each other, where Nagle bites."""


class Identity:
    """One connection to the broker."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client = client
        self._messages = client.messages
        self.is_cut = False
        """Whether the broker has ended the connection: most likely another client came with the same id."""

    async def subscribe(self, topic_filter: str, qos: int = 0) -> bool:
        """Whether the broker granted it."""
        try:
            granted = await self._client.subscribe(topic_filter, qos=qos)
        except aiomqtt.MqttError as error:
            self.is_cut |= isinstance(error, aiomqtt.MqttCodeError)
            return False
        codes = [code if isinstance(code, int) else code.value for code in granted]
        return all(code < _REFUSED for code in codes)

    async def publish(self, topic: str, payload: bytes, qos: int = 0) -> None:
        """Publish; with QoS 1 wait for the acknowledgement. Raises BrokerError."""
        try:
            await self._client.publish(topic, payload, qos=qos, timeout=WAIT_S)
        except aiomqtt.MqttError as error:
            self.is_cut |= isinstance(error, aiomqtt.MqttCodeError)
            raise BrokerError(f"publishing to {topic} failed: {error}") from error

    async def arrival(self, payload: bytes, wait_s: float | None = None) -> Arrived | None:
        """The message with exactly this payload, or None if it does not come; others are dropped."""
        try:
            async with asyncio.timeout(WAIT_S if wait_s is None else wait_s):
                async for message in self._messages:
                    if message.payload == payload:
                        return Arrived(topic=str(message.topic), payload=payload, qos=message.qos)
        except aiomqtt.MqttError:
            self.is_cut = True
        except TimeoutError:
            pass
        return None


@asynccontextmanager
async def connected(address: BrokerAddress, role: str) -> AsyncIterator[Identity]:
    """A connection as this identity; raises BrokerError where the broker cannot be reached or refuses it."""
    asyncio.get_running_loop().set_exception_handler(_forget_cut_connections)
    client = open_client(address, role=role, timeout_s=WAIT_S)
    try:
        await client.__aenter__()
    except aiomqtt.MqttError as error:
        raise BrokerError(f"{address}: {error}") from error
    try:
        yield Identity(client)
    finally:
        with suppress(aiomqtt.MqttError):  # it may have been cut off by what we tried
            await client.__aexit__(None, None, None)


def _forget_cut_connections(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A client that the broker cuts off leaves a future that nobody awaits; `is_cut` has told it already."""
    if not isinstance(context.get("exception"), aiomqtt.MqttError):
        loop.default_exception_handler(context)


async def travels(source: Identity, target: Identity, topic: str, *, qos: int, size_bytes: int = 32) -> Arrived | None:
    """Publish random bytes from one to the other; what arrived, if it did, unchanged and on that topic."""
    payload = secrets.token_bytes(size_bytes)
    if not await target.subscribe(topic, qos):
        return None
    try:
        await source.publish(topic, payload, qos)
    except BrokerError:
        return None
    arrived = await target.arrival(payload)
    return arrived if arrived is not None and arrived.topic == topic else None


async def leaks(source: Identity, target: Identity, foreign_topic: str, own_topic: str) -> bool:
    """Whether `target` gets what is published to a topic it should not see.

    A message to its own topic follows on the same connection; once that one is there, the first would have been.
    """
    foreign, own = secrets.token_bytes(16), secrets.token_bytes(16)
    await target.subscribe(foreign_topic)
    await target.subscribe(own_topic)
    await source.publish(foreign_topic, foreign, 1)
    await source.publish(own_topic, own, 1)
    seen: list[bytes] = []
    try:
        async with asyncio.timeout(WAIT_S):
            async for message in target._messages:  # noqa: SLF001 - of this module
                seen.append(message.payload if isinstance(message.payload, bytes) else b"")
                if own in seen:
                    break
    except (TimeoutError, aiomqtt.MqttError):
        pass
    return foreign in seen


async def forges(device: Identity, bridge: Identity, foreign_topic: str) -> bool:
    """Whether a device can publish where another device should."""
    payload = secrets.token_bytes(16)
    await bridge.subscribe(foreign_topic, 1)
    try:
        await device.publish(foreign_topic, payload, 1)
    except BrokerError:
        return False
    return await bridge.arrival(payload, wait_s=1.0) is not None


async def round_trips(identity: Identity, topic: str) -> RoundTrips:
    """Measure both kinds; raises BrokerError."""
    plain = await _median_ms(identity, topic)
    await identity.subscribe(topic, 0)
    return RoundTrips(plain_ms=plain, with_delivery_ms=await _median_ms(identity, topic))


async def _median_ms(identity: Identity, topic: str) -> float:
    taken: list[float] = []
    for number in range(_ROUNDS):
        start = time.perf_counter()
        await identity.publish(topic, b"round trip", 1)
        if number >= _SETTLE_ROUNDS:
            taken.append((time.perf_counter() - start) * 1000)
    return statistics.median(taken)
