"""A proxy that understands MQTT packets and does to them what a line does: cut, lose, double, hold, swap, stall.

It sits between clients and a broker on loopback. What happens is a plan for each client id: faults that strike once, at the
n-th packet or byte that the client has sent (up) or was sent (down), counted over all its connections. So a plan names
exactly one moment of a client's life, whenever that comes, and the same plan strikes the same moment again.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

HOST = "127.0.0.1"
READ_BYTES = 65_536
DUPLEX = ("up", "down")


class Kind(StrEnum):
    """What happens to a packet, or at a byte."""

    CUT_BEFORE = "cut before"
    CUT_AFTER = "cut after"
    CUT_AT_BYTE = "cut at byte"
    DROP = "drop"
    DOUBLE = "double"
    SWAP = "swap with the next"
    DELAY = "delay"
    STALL = "stall both directions"
    HALF_OPEN = "half open, then reset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One moment: packet (or byte) number `at` of a direction, from 0. `seconds` is for those that last."""

    kind: Kind
    direction: str
    at: int
    seconds: float = 0.2

    def __str__(self) -> str:
        return f"{self.kind} {self.direction} {self.at}"


Plan = Callable[[str], Sequence[Fault]]


class Cut(Exception):
    """The connection ends here, on both sides, without a word."""


@dataclass(slots=True)
class _Way:
    """One direction of one client, over all its connections."""

    packets: int = 0
    sent_bytes: int = 0
    held: bytes = b""


@dataclass(slots=True)
class _Client:
    """What the proxy knows of one client id."""

    left: list[Fault]
    struck: list[Fault] = field(default_factory=list)
    connections: int = 0
    up: _Way = field(default_factory=_Way)
    down: _Way = field(default_factory=_Way)

    def way(self, direction: str) -> _Way:
        return self.up if direction == "up" else self.down

    def fault_at(self, direction: str) -> Fault | None:
        """The fault that strikes the next packet, taken off the plan."""
        number = self.way(direction).packets
        for fault in self.left:
            if fault.direction == direction and fault.kind is not Kind.CUT_AT_BYTE and fault.at == number:
                self._strike(fault)
                return fault
        return None

    def bytes_until_cut(self, direction: str) -> int | None:
        """How many more bytes may pass in this direction; None: as many as like."""
        sent = self.way(direction).sent_bytes
        cuts = [one.at - sent for one in self.left if one.kind is Kind.CUT_AT_BYTE and one.direction == direction]
        return min((left for left in cuts if left >= 0), default=None)

    def strike_byte(self, direction: str) -> None:
        sent = self.way(direction).sent_bytes
        for fault in list(self.left):
            if fault.kind is Kind.CUT_AT_BYTE and fault.direction == direction and fault.at == sent:
                self._strike(fault)

    def _strike(self, fault: Fault) -> None:
        self.left.remove(fault)
        self.struck.append(fault)


class Proxy:
    """Listens on a free port while it is entered. `clients` tells what happened to whom."""

    def __init__(self, broker_port: int, plan: Plan) -> None:
        self.clients: dict[str, _Client] = {}
        self.port = 0
        self.broker_port = broker_port
        self._plan = plan
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"mqtt://{HOST}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError, asyncio.IncompleteReadError):
            await _Connection(self, reader, writer).run()

    def client(self, client_id: str) -> _Client:
        if client_id not in self.clients:
            self.clients[client_id] = _Client(left=list(self._plan(client_id)))
        return self.clients[client_id]

    def struck(self) -> list[Fault]:
        return [fault for client in self.clients.values() for fault in client.struck]


class _Connection:
    """One client's TCP connection and the one to the broker that stands for it."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy, self._reader, self._writer = proxy, reader, writer
        self._open = asyncio.Event()
        self._open.set()

    async def run(self) -> None:
        writers = [self._writer]
        ways: list[asyncio.Task[None]] = []
        try:
            first = await _packet(self._reader)
            client = self._proxy.client(_client_id(first))
            client.connections += 1
            broker_reader, broker_writer = await asyncio.open_connection(HOST, self._proxy.broker_port)
            writers.append(broker_writer)
            ways.append(asyncio.create_task(self._forward(client, "up", self._reader, broker_writer, first)))
            ways.append(asyncio.create_task(self._forward(client, "down", broker_reader, self._writer, b"")))
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for writer in writers:
                writer.transport.abort()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _forward(
        self, client: _Client, direction: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes
    ) -> None:
        packet, way = first, client.way(direction)
        with contextlib.suppress(Cut, OSError, asyncio.IncompleteReadError):
            while True:
                packet = packet or await _packet(reader)
                await self._open.wait()
                fault = client.fault_at(direction)
                way.packets += 1
                await self._pass(client, direction, writer, packet, fault)
                packet = b""

    async def _pass(
        self, client: _Client, direction: str, writer: asyncio.StreamWriter, packet: bytes, fault: Fault | None
    ) -> None:
        way = client.way(direction)
        match fault.kind if fault else None:
            case Kind.CUT_BEFORE:
                raise Cut
            case Kind.DROP:
                return
            case Kind.SWAP:
                way.held += packet
                return
            case Kind.DELAY:
                assert fault is not None
                await asyncio.sleep(fault.seconds)
            case Kind.STALL | Kind.HALF_OPEN:
                assert fault is not None
                self._open.clear()
                await asyncio.sleep(fault.seconds)
                if fault.kind is Kind.HALF_OPEN:
                    raise Cut
                self._open.set()
        data, way.held = packet + way.held, b""
        await self._write(client, direction, writer, data * 2 if fault and fault.kind is Kind.DOUBLE else data)
        if fault and fault.kind is Kind.CUT_AFTER:
            raise Cut

    async def _write(self, client: _Client, direction: str, writer: asyncio.StreamWriter, data: bytes) -> None:
        left, way = client.bytes_until_cut(direction), client.way(direction)
        cut = left is not None and left <= len(data)
        data = data[:left] if cut else data
        way.sent_bytes += len(data)
        writer.write(data)
        await writer.drain()
        if cut:
            client.strike_byte(direction)
            raise Cut


async def _packet(reader: asyncio.StreamReader) -> bytes:
    """One whole packet (MQTT 3.1.1 §2.2)."""
    head = await reader.readexactly(2)
    while head[-1] & 0x80:
        head += await reader.readexactly(1)
    length = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(head[1:]))
    return head + (await reader.readexactly(length) if length else b"")


def _client_id(connect: bytes) -> str:
    """The client id of a CONNECT (§3.1.3.1)."""
    at = 1
    while connect[at] & 0x80:
        at += 1
    at += 1 + 2 + int.from_bytes(connect[at + 1 : at + 3], "big") + 4
    size = int.from_bytes(connect[at : at + 2], "big")
    return connect[at + 2 : at + 2 + size].decode()
