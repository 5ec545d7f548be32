"""A front for brokers that cannot do it themselves: TCP between a device and a broker, with topics rewritten. Tests only.

What a device publishes and subscribes gets a prefix, and what is delivered to it loses the prefix; filters that do not match what
they are meant to match are exchanged for others; subscriptions can be added for a device that connects, as brokers do that subscribe
for their clients. It speaks MQTT 3.1.1 and 5, and passes on what it has no part in.

    async with Front(broker.port, Mapping(prefix=lambda seen: f"tb/{seen.username}/")) as front:
        ... connect an unmodified client to front.port ...

`Rewriter` is one connection without I/O. Faults are made by `Front.meddle`, which sees each delivery before the device does.
"""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

CONNECT, CONNACK, PUBLISH, SUBSCRIBE, SUBACK, UNSUBSCRIBE = 1, 2, 3, 8, 9, 10
_ADDED_ID: Final = 0xFFFF
"""The packet id of added subscriptions: a client that counts from 1 comes here last."""
_V5: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Who connects, by its CONNECT."""

    level: int
    """4: MQTT 3.1.1; 5: MQTT 5."""
    client_id: str
    username: str = ""
    password: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """What is done to topics."""

    prefix: Callable[[Seen], str] = lambda _seen: ""
    """Put before every topic, as it is: end it with a slash where topics do not begin with one."""
    filters: dict[str, str] = field(default_factory=dict)
    """The device's filter → the one that is subscribed instead, both without prefix."""
    added: Sequence[tuple[str, int]] = ()
    """Filters and their QoS, subscribed for every device after its CONNECT, without prefix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A PUBLISH on its way to the device, or from it."""

    topic: str
    """As the device knows it."""
    payload: bytes
    to_device: bool
    seen: Seen


Meddle = Callable[[Delivery], Sequence[bytes]]
"""What is passed on for one message: its payload as it is, another, none at all, or several."""


class Rewriter:
    """One connection. What it is fed comes back as (for the broker, for the device)."""

    def __init__(self, mapping: Mapping, meddle: Meddle | None = None) -> None:
        self._mapping, self._meddle = mapping, meddle
        self._from_device, self._from_broker = bytearray(), bytearray()
        self.seen: Seen | None = None
        self._prefix = ""

    def from_device(self, data: bytes) -> bytes:
        """For the broker."""
        return b"".join(self._to_broker(*packet) for packet in _packets(self._from_device, data))

    def from_broker(self, data: bytes) -> tuple[bytes, bytes]:
        """For the device, and for the broker."""
        to_device, to_broker = [], []
        for first, body in _packets(self._from_broker, data):
            if first >> 4 == CONNACK and body[1] == 0:
                to_broker.append(self._added())
            if first >> 4 == SUBACK and self._mapping.added and int.from_bytes(body[:2], "big") == _ADDED_ID:
                continue
            to_device.append(self._deliver(first, body) if first >> 4 == PUBLISH else _packet(first, body))
        return b"".join(to_device), b"".join(to_broker)

    def _to_broker(self, first: int, body: bytes) -> bytes:
        match first >> 4:
            case 1:
                return _packet(first, self._connect(body))
            case 3:
                return self._publish(first, body, to_device=False)
            case 8 | 10:
                return _packet(first, self._filters(body, with_options=first >> 4 == SUBSCRIBE))
        return _packet(first, body)

    def _connect(self, body: bytes) -> bytes:
        reader = _Reader(body)
        reader.text()
        level, flags = reader.number(1), reader.number(1)
        reader.number(2)
        if level == _V5:
            reader.properties()
        client_id = reader.text()
        before_will, will, after_will = reader.at, None, reader.at
        if flags & 0x04:
            if level == _V5:
                reader.properties()
            before_will = reader.at
            will = reader.text()
            after_will = reader.at
            reader.binary()
        username = reader.text() if flags & 0x80 else ""
        password = reader.binary() if flags & 0x40 else b""
        self.seen = Seen(level=level, client_id=client_id, username=username, password=password)
        self._prefix = self._mapping.prefix(self.seen)
        if will is None:
            return body
        return body[:before_will] + _text(self._prefix + will) + body[after_will:]

    def _publish(self, first: int, body: bytes, *, to_device: bool) -> bytes:
        reader = _Reader(body)
        topic = reader.text()
        rest_at = reader.at
        if first & 0x06:
            reader.number(2)
        assert self.seen is not None
        if self.seen.level == _V5:
            reader.properties()
        head, payload = body[rest_at : reader.at], body[reader.at :]
        if to_device:
            known = topic.removeprefix(self._prefix)
            sent = known
        else:
            known = topic
            sent = self._prefix + topic if topic else topic  # MQTT 5: empty where an alias stands for it
        copies: Sequence[bytes] = [payload]
        if self._meddle is not None:
            copies = self._meddle(Delivery(topic=known, payload=payload, to_device=to_device, seen=self.seen))
        return b"".join(_packet(first, _text(sent) + head + copy) for copy in copies)

    def _deliver(self, first: int, body: bytes) -> bytes:
        return self._publish(first, body, to_device=True)

    def _filters(self, body: bytes, *, with_options: bool) -> bytes:
        assert self.seen is not None
        reader = _Reader(body)
        reader.number(2)
        if self.seen.level == _V5:
            reader.properties()
        out = bytearray(body[: reader.at])
        while reader.at < len(body):
            wanted = reader.text()
            out += _text(self._prefix + self._mapping.filters.get(wanted, wanted))
            if with_options:
                out.append(reader.number(1))
        return bytes(out)

    def _added(self) -> bytes:
        if not self._mapping.added:
            return b""
        assert self.seen is not None
        properties = b"\x00" if self.seen.level == _V5 else b""
        filters = b"".join(_text(self._prefix + name) + bytes([qos]) for name, qos in self._mapping.added)
        return _packet(SUBSCRIBE << 4 | 2, _ADDED_ID.to_bytes(2, "big") + properties + filters)


class Front:
    """The rewriter on a free port of loopback, for any number of devices."""

    def __init__(self, broker_port: int, mapping: Mapping, *, host: str = "127.0.0.1") -> None:
        self._broker_port, self._host, self.mapping = broker_port, host, mapping
        self.meddle: Meddle | None = None
        """May be set at any time."""
        self.is_open = True
        """False: whoever connects is turned away."""
        self.connects = 0
        self.delivered: Counter[str] = Counter()
        """Messages to devices, by topic as they know it; before `meddle`."""
        self.published: Counter[str] = Counter()
        """Messages from devices, likewise."""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self.is_open = False
        self._server.close()
        self.cut()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Drop every connection, as a router does: without a word."""
        for writer in self._writers:
            writer.transport.abort()

    def _look(self, delivery: Delivery) -> Sequence[bytes]:
        (self.delivered if delivery.to_device else self.published)[delivery.topic] += 1
        return [delivery.payload] if self.meddle is None else self.meddle(delivery)

    async def _serve(self, from_device: asyncio.StreamReader, to_device: asyncio.StreamWriter) -> None:
        if not self.is_open:
            to_device.transport.abort()
            return
        try:
            from_broker, to_broker = await asyncio.open_connection(self._host, self._broker_port)
        except OSError:
            to_device.transport.abort()
            return
        self.connects += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        rewriter = Rewriter(self.mapping, self._look)
        mine = {to_device, to_broker}
        self._writers |= mine
        for writer in mine:
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        async def up() -> None:
            while data := await from_device.read(1 << 16):
                to_broker.write(rewriter.from_device(data))
                await to_broker.drain()

        async def down() -> None:
            while data := await from_broker.read(1 << 16):
                for_device, for_broker = rewriter.from_broker(data)
                to_broker.write(for_broker)
                to_device.write(for_device)
                await to_device.drain()

        try:
            with contextlib.suppress(OSError):
                pumps = [asyncio.create_task(up(), name="front up"), asyncio.create_task(down(), name="front down")]
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            for writer in mine:
                writer.close()
            self._writers -= mine


class _Reader:
    """The fields of one packet."""

    def __init__(self, body: bytes) -> None:
        self.body, self.at = body, 0

    def number(self, size: int) -> int:
        self.at += size
        return int.from_bytes(self.body[self.at - size : self.at], "big")

    def binary(self) -> bytes:
        length = self.number(2)
        self.at += length
        return self.body[self.at - length : self.at]

    def text(self) -> str:
        return self.binary().decode()

    def properties(self) -> None:
        length, self.at = _length(self.body, self.at)
        self.at += length


def _packets(rest: bytearray, data: bytes) -> list[tuple[int, bytes]]:
    """First byte and body of the packets that are complete now; what is not stays in `rest`."""
    rest += data
    found = []
    start = 0
    while start + 2 <= len(rest):
        try:
            length, body = _length(rest, start + 1)
        except IndexError:
            break
        if body + length > len(rest):
            break
        found.append((rest[start], bytes(rest[body : body + length])))
        start = body + length
    del rest[:start]
    return found


def _length(data: bytes | bytearray, at: int) -> tuple[int, int]:
    length = shift = 0
    while True:
        byte = data[at]
        at += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return length, at


def _packet(first: int, body: bytes) -> bytes:
    head = bytearray([first])
    length = len(body)
    while True:
        head.append(length & 0x7F | (0x80 if length > 0x7F else 0))
        length >>= 7
        if not length:
            return bytes(head) + body


def _text(text: str) -> bytes:
    return len(text.encode()).to_bytes(2, "big") + text.encode()
