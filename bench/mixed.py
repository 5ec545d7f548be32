"""`python bench mixed`: what a block request waits for while the same daemon takes reports and plans a whole fleet.

One mosquitto, one daemon, 100 devices that fetch 4 KiB blocks in an open loop and a fleet of 100,000 that only reports.
Latency runs from the moment a request was due, so a server that stalls is charged for what it kept waiting. Each
generator is a process of its own and tells how late itself was. Phases: quiet; reports; reports and a rollout to all.
"""

import contextlib
import gc
import hashlib
import multiprocessing
import os
import random
import select
import socket
import sqlite3
import struct
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
from fleet import name_of, populate
from load import HW, packet, text
from stacks import Bridge, cpu_s, image, mosquitto, process

FETCHING, FLEET = "live", "fleet"
BLOCK_BYTES = 4096
WINDOW = 64
REPORT_HEAD = {"type": "report_version", "report": {"version": "1.0.0"}, "proto": 1, "hw": HW, "boot": 2}


# --- what both generators have in common ---------------------------------------------------------------------


@dataclass
class Samples:
    """Latencies of one phase, and how late the generator itself was."""

    seconds: list[float] = field(default_factory=list)
    lag_s: list[float] = field(default_factory=list)
    lost: int = 0

    def summary(self) -> dict[str, float]:
        found, lag = sorted(self.seconds), sorted(self.lag_s)
        if not found:
            return {"n": 0, "lost": self.lost}
        shares = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
        return {
            "n": len(found), "lost": self.lost,
            **{name: 1e3 * found[min(len(found) - 1, int(len(found) * share))] for name, share in shares.items()},
            "lag_p99": 1e3 * lag[int(len(lag) * 0.99)], "lag_max": 1e3 * lag[-1],
        }  # fmt: skip


def connected(port: int, client_id: str, topic: str) -> socket.socket:
    """A subscribed MQTT connection."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(packet(0x10, text("MQTT") + b"\x04\x02\x00\x00" + text(client_id)))
    if sock.recv(4) != b"\x20\x02\x00\x00":
        raise ConnectionError(f"{client_id}: the broker refused")
    sock.sendall(packet(0x82, b"\x00\x01" + text(topic) + b"\x00"))
    if sock.recv(5) != b"\x90\x03\x00\x01\x00":
        raise ConnectionError(f"{client_id}: no subscription")
    sock.setblocking(False)
    return sock


def packets(buffer: bytearray):
    """The whole packets at the head of the buffer, which are taken out of it: (first byte, body)."""
    at, view = 0, bytes(buffer)
    while len(view) - at >= 2:
        length, shift, head = 0, 0, at + 1
        while head < len(view):
            length |= (view[head] & 127) << shift
            shift += 7
            head += 1
            if view[head - 1] < 128:
                break
        else:
            break
        if len(view) < head + length or (length == 0 and view[head - 1] >= 128):
            break
        yield view[at], view[head : head + length]
        at = head + length
    del buffer[:at]


class Generator:
    """An open loop: something is due every 1/rate seconds, whatever came of the one before."""

    def __init__(self, pipe, rate: float) -> None:
        self.pipe, self.interval_s = pipe, 1 / rate
        self.samples = Samples()
        self.poll = select.epoll()
        self.poll.register(pipe.fileno(), select.EPOLLIN)

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            os.nice(-10)  # a generator that waits for a CPU measures itself
        gc.disable()
        self.pipe.send("ready")
        due, going = time.perf_counter(), True
        while going:
            now = time.perf_counter()
            while due <= now:
                self.samples.lag_s.append(now - due)
                self.ask(due)
                due += self.interval_s
                now = time.perf_counter()
            select.select([self.poll.fileno()], [], [], max(0.0, due - time.perf_counter()))  # epoll counts whole ms
            for fd, _ in self.poll.poll(0, 64):
                if fd == self.pipe.fileno():
                    going = self.command(self.pipe.recv())
                else:
                    self.readable(fd, time.perf_counter())

    def command(self, what: str) -> bool:
        if what == "phase":
            self.samples = Samples()
        elif what == "summary":
            self.samples.lost = self.overdue(time.perf_counter())
            self.pipe.send(self.samples.summary())
        return what != "stop"


class Blocks(Generator):
    """The devices that fetch: each next block of the image, compared with the image when it comes."""

    def __init__(self, pipe, port: int, devices: int, rate: float, path: str) -> None:
        super().__init__(pipe, rate)
        self.image = Path(path).read_bytes()
        self.digest8 = hashlib.sha256(self.image).digest()[:8]
        self.end = len(self.image) // BLOCK_BYTES * BLOCK_BYTES
        self.devices, self.turn = [], 0
        for number in range(devices):
            name = f"{FETCHING}/{name_of(number)}"
            sock = connected(port, name, f"$ota/block/{name}")
            one = {"sock": sock, "buffer": bytearray(), "head": text(f"$ota/get/{name}"), "waiting": {}}
            one["next"], one["skip"] = number * 40 * BLOCK_BYTES % self.end, 2 + len(f"$ota/block/{name}")
            self.devices.append(one)
            self.poll.register(sock.fileno(), select.EPOLLIN)
        self.of = {one["sock"].fileno(): one for one in self.devices}

    def ask(self, due: float) -> None:
        one = self.devices[self.turn % len(self.devices)]
        self.turn += 1
        offset = one["next"]
        one["next"] = (offset + BLOCK_BYTES) % self.end
        one["waiting"][offset] = due
        one["sock"].send(packet(0x30, one["head"] + msgpack.packb([self.digest8, offset, BLOCK_BYTES, 1])))

    def readable(self, fd: int, now: float) -> None:
        one = self.of[fd]
        one["buffer"] += one["sock"].recv(262_144)
        for _, body in packets(one["buffer"]):
            _, offset, data = msgpack.unpackb(body[one["skip"] :])[:3]
            if data != self.image[offset : offset + BLOCK_BYTES]:
                raise AssertionError(f"offset {offset}: not the image: {str(data)[:60]}")
            due = one["waiting"].pop(offset, None)
            if due is not None:
                self.samples.seconds.append(now - due)

    def overdue(self, now: float) -> int:
        return sum(now - due > 1 for one in self.devices for due in one["waiting"].values())


class Reports(Generator):
    """Check-ins, and progress where an offer was heard, of random devices; one connection speaks for all."""

    def __init__(self, pipe, port: int, devices: int, rate: float) -> None:
        super().__init__(pipe, rate)
        self.sock = connected(port, "reporter", f"$ota/update/{FLEET}/#")
        self.poll.register(self.sock.fileno(), select.EPOLLIN)
        self.buffer, self.random = bytearray(), random.Random(1)
        self.count, self.turn, self.mid = devices, 0, 0
        self.waiting: dict[tuple[bytes, int], float] = {}
        self.offered: dict[int, str] = {}
        self.offers = 0

    def ask(self, due: float) -> None:
        self.turn += 1
        self.mid = self.mid % 65_535 + 1
        number = self.random.randrange(self.count)
        body = {**REPORT_HEAD, "seq": self.turn}
        if self.turn % 2 and number in self.offered:
            progress = {"state": "downloading", "percent": "10"}
            body |= {"type": "report_progress", "report": {"progress": progress}, "id": self.offered[number]}
        else:
            body |= {"nonce": random.randbytes(16), "max_packet": 20_000, "parts": {"firmware": ["1.0.0", 0, b"", 0]}}
        name = f"{FLEET}/{name_of(number)}"
        self.waiting[name.encode(), self.turn] = due
        self.sock.setblocking(True)
        self.sock.sendall(packet(0x32, text(f"$ota/report/{name}") + struct.pack(">H", self.mid) + msgpack.packb(body)))
        self.sock.setblocking(False)

    def readable(self, _fd: int, now: float) -> None:
        self.buffer += self.sock.recv(1 << 20)
        for first, body in packets(self.buffer):
            if first >> 4 != 3:
                continue
            end = 2 + struct.unpack_from(">H", body)[0]
            name, message = body[14:end], msgpack.unpackb(body[end:])
            if message["type"] == "report_ack":
                for seq in message["seqs"]:
                    due = self.waiting.pop((name, seq), None)
                    if due is not None:
                        self.samples.seconds.append(now - due)
            elif message["type"] == "update_firmware":
                self.offers += 1
                self.offered[int(name[-6:])] = message["id"]

    def overdue(self, now: float) -> int:
        return sum(now - due > 2 for due in self.waiting.values())

    def command(self, what: str) -> bool:
        if what == "offers":
            self.pipe.send((self.offers, len(self.offered)))
        return super().command(what)


def generate(kind: type[Generator], pipe, *args) -> None:
    kind(pipe, *args).serve()


@contextlib.contextmanager
def generator(kind: type[Generator], *args):
    """The parent's end of the pipe to a generator that runs."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=generate, args=(kind, theirs, *args), daemon=True)
    child.start()
    try:
        if ours.recv() != "ready":
            raise RuntimeError("the generator did not start")
        yield ours
        ours.send("stop")
        child.join(5)
    finally:
        child.kill()


# --- the daemon and the phases -------------------------------------------------------------------------------


class Fleet(Bridge):
    """The bridge, and what its file holds."""

    def deployments(self, product: str) -> int:
        """How many are open, asked of the file: the daemon is not disturbed."""
        file = f"file:{self.database}?mode=ro"
        with contextlib.closing(sqlite3.connect(file, uri=True)) as db:
            return db.execute("SELECT count(*) FROM deployments WHERE product = ?", (product,)).fetchone()[0]


def phase(name: str, seconds: float, pid: int, pipes: dict[str, object], done=lambda: False) -> dict[str, object]:
    """One row: what the generators saw until the time is over or `done` says so."""
    for pipe in pipes.values():
        pipe.send("phase")
    began, before = time.monotonic(), cpu_s(pid)
    while time.monotonic() - began < seconds and not done():
        time.sleep(0.5)
    took = time.monotonic() - began
    found: dict[str, object] = {"phase": name, "seconds": took, "daemon_cpu": (cpu_s(pid) - before) / took}
    for what, pipe in pipes.items():
        pipe.send("summary")
        found[what] = pipe.recv()
    return found


@dataclass(frozen=True, kw_only=True)
class Mix:
    """What the daemon has to do at once."""

    fleet: int = 100_000
    """Devices that only report."""
    devices: int = 100
    """Devices that fetch."""
    rate: float = 3000
    """Block requests a second."""
    reports: float = 500
    """Reports a second."""
    seconds: float = 15
    """Of the first two phases."""
    limit: float = 300
    """Of the planner's, in seconds."""
    after: float = 0
    """Of a phase after it, in seconds."""


def measure(args: Mix, directory: Path) -> list[dict[str, object]]:
    rows = []
    with mosquitto(directory) as broker:
        bridge, port = Fleet(directory, broker), broker.port
        bridge("keys", "new", "--vendor", "example.com")
        bridge.database.parent.mkdir(mode=0o700)
        for product, count in ((FETCHING, args.devices), (FLEET, args.fleet)):
            populate(bridge.database, product, count)
        with bridge.serving() as pid:
            for product in (FETCHING, FLEET):
                bridge("release", "add", str(image(directory)), "--product", product, "--version", "2.0.0", "--hw", HW)
            bridge("rollout", "start", f"{FETCHING}/2.0.0", "--to", "all")
            while bridge.deployments(FETCHING) < args.devices:
                time.sleep(0.1)
            with generator(Blocks, port, args.devices, args.rate, str(image(directory))) as blocks:
                time.sleep(2)
                rows.append(phase("quiet", args.seconds, pid, {"blocks": blocks}))
                with generator(Reports, port, args.fleet, args.reports) as reports:
                    pipes = {"blocks": blocks, "reports": reports}
                    time.sleep(2)
                    rows.append(phase("reports", args.seconds, pid, pipes))
                    rows += planning(args, bridge, directory, pid, pipes)
    return rows


def planning(args, bridge: Fleet, directory: Path, pid: int, pipes) -> list[dict[str, object]]:
    rows, log = [], directory / "start.log"
    command = [*bridge.command, *bridge.flags, "rollout", "start", f"{FLEET}/2.0.0", "--to", "all"]
    with process(command, log, cwd=directory) as started:
        row = phase(
            "planner", args.limit, pid, pipes,
            lambda: started.poll() is not None and bridge.deployments(FLEET) >= args.fleet,
        )  # fmt: skip
        pipes["reports"].send("offers")
        row["opened"], row["offers"] = bridge.deployments(FLEET), pipes["reports"].recv()
    rows.append(row)
    if args.after:
        rows.append(phase("after", args.after, pid, pipes))
    return rows


def table(rows: list[dict[str, object]]) -> str:
    lines = [
        "| phase | what | n | p50 ms | p99 ms | p99.9 ms | max ms | lost | generator lag p99 (max) ms | daemon CPU |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for what in ("blocks", "reports"):
            one = row.get(what)
            if one and one["n"]:
                figures = " | ".join(f"{one[name]:.2f}" for name in ("p50", "p99", "p99.9", "max"))
                lines.append(
                    f"| {row['phase']} ({row['seconds']:.0f} s) | {what} | {one['n']} | {figures} | {one['lost']} "
                    f"| {one['lag_p99']:.2f} ({one['lag_max']:.1f}) | {row['daemon_cpu']:.0%} |"
                )
    return "\n".join(lines)
