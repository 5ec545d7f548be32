"""The load: simulated devices that do nothing but ask for blocks and check what comes, on raw asyncio.

Each device is a connection of its own with `outstanding` requests on the way. Every block must be the next one that
was asked for, with the bytes of the image; anything else ends the run. MQTT is parsed only as far as mosquitto needs.
"""

import asyncio
import os
import struct
import time
from collections import deque
from dataclasses import dataclass, field

import msgpack

PRODUCT, HW = "bench", "r1"
ANSWER_S = 30.0


@dataclass(kw_only=True)
class Shape:
    """What each device asks for."""

    name: str
    block_bytes: int
    blocks_per_request: int
    devices: int = 200
    outstanding: int = 4


@dataclass(kw_only=True)
class Load:
    """Everything the connections share."""

    shape: Shape
    image: bytes
    digest8: bytes
    waits_for_offer: bool
    blocks: int = 0
    requests: int = 0
    refusals: int = 0
    latencies_s: list[float] = field(default_factory=list)
    is_measuring: bool = False
    error: Exception | None = None


def packet(first: int, body: bytes) -> bytes:
    """One MQTT packet."""
    length, head = len(body), bytearray([first])
    while True:
        digit, length = length % 128, length // 128
        head.append(digit | (128 if length else 0))
        if not length:
            return bytes(head) + body


def text(value: str) -> bytes:
    return struct.pack(">H", len(value)) + value.encode()


class Device(asyncio.Protocol):
    """One device: check in where a bridge listens, wait for its offer, then ask for blocks until the end."""

    def __init__(self, load: Load, number: int) -> None:
        self.load, self.name = load, f"{PRODUCT}/d{number:05d}"
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._buffer = bytearray()
        self._block_topic = f"$ota/block/{self.name}".encode()
        self._get = text(f"$ota/get/{self.name}")
        self._expected: deque[tuple[int, float]] = deque()
        self._left: deque[int] = deque()
        shape = load.shape
        step = shape.block_bytes * shape.blocks_per_request
        self._step, self._end = step, len(load.image) // step * step
        self._next = number * step % self._end

    def connection_made(self, transport):
        self.transport = transport
        transport.write(packet(0x10, text("MQTT") + b"\x04\x02\x00\x78" + text(self.name)))

    def connection_lost(self, exc):
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(f"{self.name}: the broker closed the connection: {exc}"))

    def data_received(self, data):
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= 2:
            length, shift, head = 0, 0, at + 1
            while head < len(buffer):
                length |= (buffer[head] & 127) << shift
                shift += 7
                head += 1
                if buffer[head - 1] < 128:
                    break
            else:
                break
            if len(buffer) < head + length:
                break
            try:
                self._on_packet(buffer[at], bytes(buffer[head : head + length]))
            except Exception as error:  # noqa: BLE001 - whatever is wrong ends the run
                self.load.error = self.load.error or error
            at = head + length
        del buffer[:at]

    def _on_packet(self, first: int, body: bytes) -> None:
        kind = first >> 4
        if kind == 2:
            topics = text(f"$ota/update/{self.name}") + b"\x01" + text(f"$ota/block/{self.name}") + b"\x00"
            self.transport.write(packet(0x82, b"\x00\x01" + topics))
        elif kind == 9:
            if self.load.waits_for_offer:
                self._check_in()
            else:
                self.ready.set_result(None)
        elif kind == 3:
            topic_end = 2 + struct.unpack_from(">H", body)[0]
            if body[2:topic_end] == self._block_topic:
                self._on_block(body[topic_end:])
            else:
                if first & 6:
                    self.transport.write(packet(0x40, body[topic_end : topic_end + 2]))
                    topic_end += 2
                if msgpack.unpackb(body[topic_end:])["type"] == "update_firmware" and not self.ready.done():
                    self.ready.set_result(None)

    def _check_in(self) -> None:
        report = {
            "type": "report_version", "report": {"version": "1.0.0"}, "proto": 1, "hw": HW, "boot": 1, "seq": 1,
            "nonce": os.urandom(16), "max_packet": 20_000, "max_block": 16_384, "max_window": 16, "next_s": 3600,
            "parts": {"firmware": ["1.0.0", 0, b"", 0]}, "have": [],
        }  # fmt: skip
        self.transport.write(packet(0x32, text(f"$ota/report/{self.name}") + b"\x00\x07" + msgpack.packb(report)))

    def ask(self) -> None:
        """One more request."""
        shape, offset = self.load.shape, self._next
        self._next = (offset + self._step) % self._end
        self._expected.append((offset, time.perf_counter()))
        self._left.append(shape.blocks_per_request)
        wanted = [self.load.digest8, offset, shape.block_bytes, shape.blocks_per_request]
        self.transport.write(packet(0x30, self._get + msgpack.packb(wanted)))

    def _on_block(self, payload: bytes) -> None:
        load, shape = self.load, self.load.shape
        message = msgpack.unpackb(payload)
        if isinstance(message[2], int):
            load.refusals += 1
            raise AssertionError(f"{self.name}: refused: {message}")
        (offset, asked_s), left = self._expected[0], self._left[0]
        at = offset + (shape.blocks_per_request - left) * shape.block_bytes
        if message[1] != at or message[2] != load.image[at : at + shape.block_bytes]:
            raise AssertionError(f"{self.name}: asked for {at}, got offset {message[1]}, {len(message[2])} bytes")
        load.blocks += 1
        self._left[0] -= 1
        if not self._left[0]:
            self._left.popleft()
            self._expected.popleft()
            load.requests += 1
            if load.is_measuring:
                load.latencies_s.append(time.perf_counter() - asked_s)
            self.ask()


async def connect(load: Load, host: str, port: int) -> list[Device]:
    """All devices, connected and (beside a bridge) offered their update."""
    loop = asyncio.get_running_loop()
    devices = []
    for number in range(load.shape.devices):
        _, device = await loop.create_connection(lambda number=number: Device(load, number), host, port)
        devices.append(device)
    async with asyncio.timeout(ANSWER_S):
        await asyncio.gather(*(device.ready for device in devices))
    return devices
