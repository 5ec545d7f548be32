"""The load in Python, for machines without a C compiler: `load.py name=value...`, the same as load.c in every respect.

Options, words on stdout and the fields of the result are those of load.c, whose head says what is checked and what
counts as lost. It costs more CPU than the servers that it measures: the ratios stand, the blocks per second do not.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import socket
import struct
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import msgpack
import uvloop

PRODUCT, HW = "bench", "r1"
LOST_S, READY_S, AFTER_S, TICK_S = 2.0, 30.0, 0.1, 0.05
OUT_MAX = 1 << 16
IP_AND_TCP_HEADER = 20 + 32
TCP_INFO_FIELDS = struct.Struct("=120xQQII")  # bytes_acked, bytes_received, segs_out, segs_in
DEFAULTS = {
    "port": 0, "devices": 200, "outstanding": 4, "block": 4096, "count": 1, "rate": 0.0, "seconds": 4.0, "warmup": 1.0,
    "first": 0, "stride": 1, "flood": 0, "mss": 0, "image": "", "artifact": "", "check_in": "",
}  # fmt: skip
_PUBLISH, _REFUSAL_FIELDS = 3, 6


class WrongBlock(Exception):
    """A block that was not asked for, or not with these bytes."""


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


def check_in() -> bytes:
    """What every device reports first. The nonce may be the same for all: nobody attacks here."""
    report = {
        "type": "report_version", "report": {"version": "1.0.0"}, "proto": 1, "hw": HW, "boot": 1, "seq": 1,
        "nonce": hashlib.sha256(b"bench").digest()[:16], "max_packet": 20_000, "max_block": 16_384, "max_window": 16,
        "next_s": 3600, "parts": {"firmware": ["1.0.0", 0, b"", 0]}, "have": [],
    }  # fmt: skip
    return msgpack.packb(report)


@dataclass(kw_only=True)
class Load:
    """Everything the connections share."""

    options: SimpleNamespace
    image: bytes
    artifact: bytes
    check_in: bytes
    blocks: int = 0
    requests: int = 0
    sent: int = 0
    lost: int = 0
    late: int = 0
    refusals: Counter[int] = field(default_factory=Counter)
    latencies_s: list[float] = field(default_factory=list)
    lags_s: list[float] = field(default_factory=list)
    is_measuring: bool = False
    failed: "asyncio.Future[None]" = None


@dataclass(kw_only=True)
class Request:
    offset: int
    due_s: float
    blocks_came: int = 0
    has_hole: bool = False


class Device(asyncio.Protocol):
    """One device: check in where a bridge listens, wait for its offer, then ask for blocks until the end."""

    def __init__(self, load: Load, number: int) -> None:
        self.load, self.name = load, f"{PRODUCT}/d{number:06d}"
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting: deque[Request] = deque()
        self.parked: list[Request] = []
        self.late_allowed = 0
        self._buffer = bytearray()
        self._block_topic = f"$ota/block/{self.name}".encode()
        self._get = text(f"$ota/get/{self.name}")
        options = load.options
        self._step = options.block * options.count
        self._end = len(load.image) // self._step * self._step
        self._next = number * options.stride * self._step % self._end

    def connection_made(self, transport):
        self.transport = transport
        transport.write(packet(0x10, text("MQTT") + b"\x04\x02\x02\x58" + text(self.name)))

    def connection_lost(self, exc):
        self._fail(ConnectionError(f"{self.name}: the broker closed the connection: {exc}"))

    def _fail(self, error: Exception) -> None:
        if not self.load.failed.done():
            self.load.failed.set_exception(error)

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
                self._fail(error)
                self.transport.abort()
                return
            at = head + length
        del buffer[:at]

    def _on_packet(self, first: int, body: bytes) -> None:
        kind = first >> 4
        if kind == 2:
            topics = text(f"$ota/update/{self.name}") + b"\x01" + text(f"$ota/block/{self.name}") + b"\x00"
            self.transport.write(packet(0x82, b"\x00\x01" + topics))
        elif kind == 9:
            if self.load.check_in:
                report = text(f"$ota/report/{self.name}") + b"\x00\x07" + self.load.check_in
                self.transport.write(packet(0x32, report))
            else:
                self.ready.set_result(None)
        elif kind == _PUBLISH:
            end = 2 + struct.unpack_from(">H", body)[0]
            topic = body[2:end]
            if first & 6:
                self.transport.write(packet(0x40, body[end : end + 2]))
                end += 2
            if topic == self._block_topic:
                self._on_block(msgpack.unpackb(body[end:]))
            elif msgpack.unpackb(body[end:])["type"] == "update_firmware" and not self.ready.done():
                self.ready.set_result(None)

    def ask(self, due_s: float) -> None:
        """One more request."""
        offset, self._next = self._next, (self._next + self._step) % self._end
        if self.load.options.flood:
            if self.transport.get_write_buffer_size() < OUT_MAX:  # whose broker does not read floods less
                self._send(offset)
        else:
            self._ask_at(offset, due_s)

    def _ask_at(self, offset: int, due_s: float) -> None:
        self.waiting.append(Request(offset=offset, due_s=due_s))
        self._send(offset)

    def _send(self, offset: int) -> None:
        load = self.load
        wanted = [load.artifact, offset, load.options.block, load.options.count]
        self.transport.write(packet(0x30, self._get + msgpack.packb(wanted)))
        load.sent += load.is_measuring

    def _lose_oldest(self, now_s: float) -> None:
        lost = self.waiting.popleft()
        self.load.lost += 1
        if not self.load.options.rate:
            self._ask_at(lost.offset, now_s)

    def _on_block(self, message: list) -> None:
        load, size = self.load, self.load.options.block
        artifact, offset, data = message[:3]
        if artifact != load.artifact:
            raise WrongBlock(f"{self.name}: a block of another artifact")
        if len(message) == _REFUSAL_FIELDS:
            self._on_refusal(offset, data, message[3])
            return
        if len(data) != size or data != load.image[offset : offset + size]:
            raise WrongBlock(f"{self.name}: wrong content at offset {offset}")
        load.blocks += load.is_measuring
        if not load.options.flood:
            self._in_order(offset)

    def _in_order(self, offset: int) -> None:
        load, size, now_s = self.load, self.load.options.block, time.monotonic()
        overtaken = 0
        for one in self.waiting:
            if one.offset + one.blocks_came * size <= offset < one.offset + self._step:
                break
            overtaken += 1
        else:
            if not self.late_allowed:
                awaited = [one.offset for one in self.waiting]
                raise WrongBlock(f"{self.name}: offset {offset} came; awaited are {awaited}")
            self.late_allowed -= 1
            load.late += 1
            return
        for _ in range(overtaken):
            self._lose_oldest(now_s)
        index = (offset - one.offset) // size
        one.has_hole |= index != one.blocks_came
        one.blocks_came = index + 1
        if one.blocks_came < load.options.count:
            return
        if one.has_hole:
            self._lose_oldest(now_s)
            return
        if load.is_measuring:
            load.requests += 1
            load.latencies_s.append(now_s - one.due_s)
        self.waiting.popleft()
        if not load.options.rate:
            self.ask(now_s)

    def _on_refusal(self, offset: int, code: int, retry_after_s: int) -> None:
        self.load.refusals[code] += 1
        refused = next((one for one in self.waiting if one.offset == offset), None)
        if refused:
            self.waiting.remove(refused)
            refused.due_s = time.monotonic() + retry_after_s
            if not self.load.options.rate:
                self.parked.append(refused)

    def tick(self, now_s: float) -> None:
        """What ran into a limit of time: requests nobody answered, refused ones that may be asked again."""
        while self.waiting and self.waiting[0].due_s + LOST_S < now_s:
            self.late_allowed += self.load.options.count
            self._lose_oldest(now_s)
        for one in [one for one in self.parked if one.due_s <= now_s]:
            self.parked.remove(one)
            self._ask_at(one.offset, now_s)

    def wire_bytes(self) -> int:
        info = self.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144)
        acked, received, segments_out, segments_in = TCP_INFO_FIELDS.unpack(info)
        return acked + received + (segments_out + segments_in) * IP_AND_TCP_HEADER


async def connect(load: Load) -> list[Device]:
    """All devices, connected and (beside a bridge) offered their update."""
    loop, options = asyncio.get_running_loop(), load.options
    devices = []
    for number in range(options.first, options.first + options.devices):
        sock = socket.socket()
        if options.mss:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, options.mss)
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", options.port))
        _, device = await loop.create_connection(lambda number=number: Device(load, number), sock=sock)
        devices.append(device)
    async with asyncio.timeout(READY_S):
        await asyncio.gather(*(device.ready for device in devices))
    return devices


async def ticking(devices: list[Device]) -> None:
    while True:
        await asyncio.sleep(TICK_S)
        now_s = time.monotonic()
        for device in devices:
            device.tick(now_s)


async def on_schedule(load: Load, devices: list[Device], due_s: float) -> None:
    turn = 0
    while True:
        while due_s <= (now_s := time.monotonic()):
            devices[turn % len(devices)].ask(due_s)
            if load.is_measuring:
                load.lags_s.append(now_s - due_s)
            turn, due_s = turn + 1, due_s + 1 / load.options.rate
        await asyncio.sleep(due_s - now_s)


async def measure(load: Load) -> dict[str, object]:
    """Ask as the options say; what came of it."""
    load.failed = asyncio.get_running_loop().create_future()
    options, devices = load.options, await connect(load)
    print("ready", flush=True)
    began_s = time.monotonic()
    tasks = [asyncio.create_task(ticking(devices))]
    if options.rate:
        with contextlib.suppress(OSError):
            os.nice(0 if options.flood else -10)
        tasks.append(asyncio.create_task(on_schedule(load, devices, began_s)))
    else:
        for device in devices:
            for _ in range(options.outstanding):
                device.ask(began_s)

    async def go_on(seconds: float) -> None:
        done, _ = await asyncio.wait([load.failed, *tasks], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            one.result()

    await go_on(options.warmup)
    print("begin", flush=True)
    wire_before, began_s, load.is_measuring = sum(one.wire_bytes() for one in devices), time.monotonic(), True
    await go_on(options.seconds)
    load.is_measuring, took_s = False, time.monotonic() - began_s
    wire_bytes = sum(one.wire_bytes() for one in devices) - wire_before
    print("end", flush=True)
    await go_on(AFTER_S)
    for task in tasks:
        task.cancel()
    latencies, lags = sorted(load.latencies_s), sorted(load.lags_s)
    return {
        "generator": "Python", "seconds": took_s, "sent": load.sent, "requests": load.requests, "blocks": load.blocks,
        "lost": load.lost, "late": load.late, "refusals": {str(code): n for code, n in load.refusals.items()},
        "p50_ms": quantile_ms(latencies, 0.5), "p99_ms": quantile_ms(latencies, 0.99),
        "max_ms": quantile_ms(latencies, 1), "lag_p99_ms": quantile_ms(lags, 0.99), "wire_bytes": wire_bytes,
    }  # fmt: skip


def quantile_ms(ordered_s: list[float], share: float) -> float:
    return round(ordered_s[int(share * (len(ordered_s) - 1))] * 1e3, 3) if ordered_s else 0.0


def main() -> None:
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    if given.keys() - DEFAULTS.keys():
        sys.exit(f"unknown option: {min(given.keys() - DEFAULTS.keys())}")
    options = SimpleNamespace(**{name: type(default)(given.get(name, default)) for name, default in DEFAULTS.items()})
    load = Load(
        options=options,
        image=Path(options.image).read_bytes(),
        artifact=bytes.fromhex(options.artifact),
        check_in=Path(options.check_in).read_bytes() if options.check_in else b"",
    )
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            print(json.dumps(runner.run(measure(load))), flush=True)
    except (OSError, TimeoutError, WrongBlock) as error:
        sys.exit(str(error) or type(error).__name__)


if __name__ == "__main__":
    main()
