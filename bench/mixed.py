"""`python bench mixed`: what a block request waits for while the same daemon takes reports and plans a whole fleet.

One mosquitto, one daemon, 100 devices that fetch 4 KiB blocks in an open loop (the load of the table) and a fleet of
100,000 that only reports. Latency runs from the moment something was due, so a server that stalls is charged for what
it kept waiting. Each generator is a process of its own and tells how late itself was. Phases: quiet; reports; reports
while a rollout to the whole fleet is planned.
"""

import contextlib
import gc
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
from load import HW, PRODUCT, packet, text
from measure import WARM_UP_S, load
from stacks import Bridge, Running, cpu_s, image, mosquitto, process

FLEET = "fleet"
BLOCK_BYTES = 4096
TICK_S = 0.001
"""How long a generator sleeps at least: what falls due meanwhile goes out together."""
REPORT_HEAD = {"type": "report_version", "report": {"version": "1.0.0"}, "proto": 1, "hw": HW, "boot": 2}
CHECK_IN = {**REPORT_HEAD, "max_packet": 20_000, "parts": {"firmware": ["1.0.0", 0, b"", 0]}}
CHECK_IN_PAIRS = bytes([0x80 | len(CHECK_IN) + 2]) + msgpack.packb(CHECK_IN)[1:]
"""A check-in but for two keys: to pack each would cost the generator more than all else."""


# --- the reports ---------------------------------------------------------------------------------------------


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
        shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
        return {
            "n": len(found), "lost": self.lost,
            **{name: 1e3 * found[min(len(found) - 1, int(len(found) * share))] for name, share in shares.items()},
            "lag_p99": 1e3 * lag[int(len(lag) * 0.99)],
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


def check_in(seq: int) -> bytes:
    """What a device reports, each time with another nonce."""
    return CHECK_IN_PAIRS + b"\xa3seq" + msgpack.packb(seq) + b"\xa5nonce\xc4\x10" + random.randbytes(16)


class Generator:
    """An open loop: something is due every 1/rate seconds, whatever came of the one before. One connection for all."""

    def __init__(self, pipe, port: int, rate: float) -> None:
        self.pipe, self.interval_s = pipe, 1 / rate
        self.samples = Samples()
        self.sock = connected(port, "reporter", f"$ota/update/{FLEET}/#")
        self.poll = select.epoll()
        for fd in (pipe.fileno(), self.sock.fileno()):
            self.poll.register(fd, select.EPOLLIN)
        self.unsent, self.buffer = bytearray(), bytearray()

    def report(self, name: str, packet_id: int, body: bytes) -> None:
        """To be sent at the end of this turn."""
        self.unsent += packet(0x32, text(f"$ota/report/{name}") + struct.pack(">H", packet_id) + body)

    def send(self) -> None:
        if self.unsent:
            self.sock.sendall(self.unsent)
            self.unsent.clear()

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
            self.send()
            pause_s = max(TICK_S, due - time.perf_counter())
            select.select([self.poll.fileno()], [], [], pause_s)  # epoll counts whole milliseconds
            for fd, _ in self.poll.poll(0, 64):
                if fd == self.pipe.fileno():
                    going = self.command(self.pipe.recv())
                else:
                    self.readable(time.perf_counter())

    def command(self, what: str) -> bool:
        if what == "phase":
            self.samples = Samples()
        elif what == "summary":
            self.samples.lost = self.overdue(time.perf_counter())
            self.pipe.send(self.samples.summary())
        return what != "stop"


class Reports(Generator):
    """Check-ins, and progress where an offer was heard, of random devices."""

    def __init__(self, pipe, port: int, devices: int, rate: float) -> None:
        super().__init__(pipe, port, rate)
        self.random = random.Random(1)
        self.count, self.turn, self.mid = devices, 0, 0
        self.waiting: dict[tuple[bytes, int], float] = {}
        self.offered: dict[int, str] = {}
        self.offers = 0

    def ask(self, due: float) -> None:
        self.turn += 1
        self.mid = self.mid % 65_535 + 1
        number = self.random.randrange(self.count)
        body = check_in(self.turn)
        if self.turn % 2 and number in self.offered:
            progress = {"state": "downloading", "percent": "10"}
            head = {**REPORT_HEAD, "type": "report_progress", "seq": self.turn}
            body = msgpack.packb({**head, "report": {"progress": progress}, "id": self.offered[number]})
        name = f"{FLEET}/{name_of(number)}"
        self.waiting[name.encode(), self.turn] = due
        self.report(name, self.mid, body)

    def readable(self, now: float) -> None:
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


def generate(pipe, *args) -> None:
    Reports(pipe, *args).serve()


@contextlib.contextmanager
def reporting(port: int, devices: int, rate: float):
    """The parent's end of the pipe to a generator of reports that runs."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=generate, args=(theirs, port, devices, rate), daemon=True)
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
    planner_s: float = 60
    """Of the third."""


@dataclass(kw_only=True)
class Site:
    """One daemon beside one mosquitto."""

    directory: Path
    mix: Mix
    bridge: Bridge
    serving: Running
    first: int = 0
    """The number of the first device that fetches next: each phase has its own, which have checked in never before."""

    def deployments(self) -> int:
        """How many of the fleet's are there, asked of the file: the daemon is not disturbed."""
        file = f"file:{self.bridge.database}?mode=ro"
        with contextlib.closing(sqlite3.connect(file, uri=True)) as db:
            return db.execute("SELECT count(*) FROM deployments WHERE product = ?", (FLEET,)).fetchone()[0]

    def phase(self, name: str, seconds: float, reports=None) -> dict[str, object]:
        """One row: what the generators saw."""
        options = {"block": BLOCK_BYTES, "devices": self.mix.devices, "rate": self.mix.rate, "seconds": seconds}
        first, self.first = self.first, self.first + self.mix.devices
        with load(self.directory, self.serving, warmup=WARM_UP_S, first=first, **options) as blocks:
            blocks.wait_for("ready", "begin")
            if reports:
                reports.send("phase")
            before, began = cpu_s(self.serving.server_pid), time.monotonic()
            blocks.wait_for("end")
            took = time.monotonic() - began
            found = {"phase": name, "seconds": took, "daemon_cpu": (cpu_s(self.serving.server_pid) - before) / took}
            if reports:
                reports.send("summary")
                found["reports"] = reports.recv()
            seen = blocks.result()
        found["blocks"] = {
            "n": seen["blocks"], "lost": seen["lost"], "p50": seen["p50_ms"], "p99": seen["p99_ms"],
            "max": seen["max_ms"], "lag_p99": seen["lag_p99_ms"],
        }  # fmt: skip
        return found


def measure(mix: Mix, directory: Path) -> list[dict[str, object]]:
    with mosquitto(directory) as broker:
        bridge = Bridge(directory, broker)
        bridge("keys", "new", "--vendor", "example.com")
        bridge.database.parent.mkdir(mode=0o700)
        populate(bridge.database, FLEET, mix.fleet)
        with bridge.serving() as pid:
            for product in (PRODUCT, FLEET):
                bridge("release", "add", str(image(directory)), "--product", product, "--version", "2.0.0", "--hw", HW)
            bridge("rollout", "start", f"{PRODUCT}/2.0.0", "--to", "all")
            serving = Running(stack="bridge", port=broker.port, server_pid=pid, broker=broker)
            site = Site(directory=directory, mix=mix, bridge=bridge, serving=serving)
            rows = [site.phase("quiet", mix.seconds)]
            with reporting(broker.port, mix.fleet, mix.reports) as reports:
                time.sleep(WARM_UP_S)
                rows.append(site.phase("reports", mix.seconds, reports))
                command = [*bridge.command, *bridge.flags, "rollout", "start", f"{FLEET}/2.0.0", "--to", "all"]
                with process(command, directory / "start.log", cwd=directory):
                    row = site.phase("planner", mix.planner_s, reports)
                row["opened"] = site.deployments()
                rows.append(row)
    return rows


def table(rows: list[dict[str, object]]) -> str:
    """What each of the two had to wait for, phase by phase."""
    lines = [
        "| phase | what | n | p50 ms | p99 ms | max ms | lost | generator lag p99 ms | daemon CPU |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        opened = f", {row['opened']:,} deployments opened" if "opened" in row else ""
        for what in ("blocks", "reports"):
            one = row.get(what)
            if one and one["n"]:
                figures = " | ".join(f"{one[name]:.2f}" for name in ("p50", "p99", "max"))
                lines.append(
                    f"| {row['phase']} ({row['seconds']:.0f} s{opened}) | {what} | {one['n']} | {figures} "
                    f"| {one['lost']} | {one['lag_p99']:.2f} | {row['daemon_cpu']:.0%} |"
                )
    return "\n".join(lines)
