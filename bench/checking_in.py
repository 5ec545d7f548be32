"""Reports over mosquitto with the configuration that ships: a steady stream with a kill -9, and a site that comes back.

1. Steady: so many reports a second, each from another device than the last 100,000 before it, while a rollout in five
   stages to the whole fleet is planned. The daemon is killed with SIGKILL at a random second and started again. What
   was acknowledged must be in the database, whatever else is late.
2. Burst: 10,000 devices check in within five seconds. Offers go out as slots are free, and not more.

Latency runs from the moment a report was due. The lag of the daemon's loop is bounded from outside: how long
`bridge.status` takes over the local socket.
"""

import contextlib
import multiprocessing
import os
import random
import signal
import sqlite3
import struct
import threading
import time
from pathlib import Path

import msgpack
from fleet import name_of, populate
from load import HW
from memory import Peak
from mixed import FLEET, REPORT_HEAD, Generator, Samples, check_in, packets
from planner import PLAN
from stacks import HERE, Bridge, Broker, cpu_s, free_port, image, listens, process, tool, until

from ota_bridge.core.errors import OtaBridgeError
from ota_bridge.web.local_client import LocalClient

BURST, BURST_S, SLOTS = 10_000, 5.0, 50
ASK_S = 0.02
PATIENCE_S = 60.0
WINDOW_S = 29.0
"""An offer holds its slot for 30 s, unless its device asks for blocks; a second is for the way to here."""


@contextlib.contextmanager
def shipped(directory: Path):
    """A mosquitto with the configuration at the top of the repository, on a port of its own."""
    port = free_port()
    conf = (HERE.parent / "mosquitto.conf").read_text().replace("listener 1883 ", f"listener {port} ")
    conf += f"persistence_location {directory}/\n" + ("user root\n" if os.geteuid() == 0 else "")
    path, log = directory / "shipped.conf", directory / "mosquitto.log"
    path.write_text(conf)
    with process([tool("mosquitto") or "mosquitto", "-c", str(path)], log) as one:
        until(lambda: listens(port), "mosquitto listens", log)
        yield Broker(port=port, pid=one.pid)


class Stream(Generator):
    """Check-ins of the devices one after the other, and progress after an offer; from "go" on, up to `most`."""

    def __init__(self, pipe, port: int, devices: int, rate: float, most: int) -> None:
        super().__init__(pipe, port, rate)
        self.count, self.most, self.turn, self.goes = devices, most, 0, False
        self.waiting: dict[tuple[bytes, int], float] = {}
        self.acked: list[tuple[str, int]] = []
        self.offered: dict[int, str] = {}
        self.offers: list[tuple[float, int]] = []

    def ask(self, due: float) -> None:
        if not self.goes or self.turn >= self.most:
            return
        number, self.turn = self.turn % self.count, self.turn + 1
        body, offered = check_in(self.turn), self.offered.pop(number, None)
        if offered:
            progress = {"progress": {"state": "downloading", "percent": "10"}}
            head = {**REPORT_HEAD, "type": "report_progress", "seq": self.turn}
            body = msgpack.packb({**head, "report": progress, "id": offered})
        name = f"{FLEET}/{name_of(number)}"
        self.waiting[name.encode(), self.turn] = due
        self.report(name, (self.turn - 1) % 65_535 + 1, body)

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
                        self.acked.append((name.partition(b"/")[2].decode(), seq))
            elif message["type"] == "update_firmware":
                self.offers.append((now, int(name[-6:])))
                self.offered[int(name[-6:])] = message["id"]

    def overdue(self, now: float) -> int:
        return sum(now - due > 2 for due in self.waiting.values())

    def command(self, what: str) -> bool:
        if what == "go":
            self.goes = True
        elif what == "count":
            self.pipe.send((self.turn, len(self.acked), len(self.offers)))
        elif what == "told":
            self.pipe.send((self.acked, self.offers))
        return super().command(what)


def generate(pipe, *args) -> None:
    Stream(pipe, *args).serve()


@contextlib.contextmanager
def streaming(*args):
    """The parent's end of the pipe to a generator that runs."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=generate, args=(theirs, *args), daemon=True)
    child.start()
    try:
        if ours.recv() != "ready":
            raise RuntimeError("the generator did not start")
        yield ours
        ours.send("stop")
        child.join(5)
    finally:
        child.kill()


def asked(pipe, what: str):
    pipe.send(what)
    return pipe.recv()


class Lag:
    """How long the daemon takes to say how it is, asked again and again over its socket."""

    def __init__(self, path: Path) -> None:
        self.samples, self._path, self._end = Samples(), path, threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        client = LocalClient(self._path)
        while not self._end.wait(ASK_S):
            began = time.perf_counter()
            with contextlib.suppress(OtaBridgeError, OSError):
                client.call("bridge.status", {})
                self.samples.seconds.append(time.perf_counter() - began)

    def __enter__(self):
        self._thread.start()
        return self.samples

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def quantile_ms(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return 1e3 * ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def site(directory: Path, broker: Broker, fleet: int) -> Bridge:
    bridge = Bridge(directory, broker)
    bridge("keys", "new", "--vendor", "example.com")
    bridge.database.parent.mkdir(mode=0o700)
    populate(bridge.database, FLEET, fleet)
    with bridge.serving():
        release = ("release", "add", str(image(directory)), "--product", FLEET, "--version", "2.0.0", "--hw", HW)
        bridge(*release)
    return bridge


def stored(database: Path) -> set[tuple[str, int]]:
    with contextlib.closing(sqlite3.connect(database)) as db:
        return set(db.execute("SELECT name, seq FROM reports WHERE product = ? AND boot = 2", (FLEET,)))


def until_quiet(pipe, patience_s: float) -> tuple[int, int, float]:
    """Wait until everything was acknowledged, or for so long: how many were sent and acknowledged, and the time."""
    began = time.monotonic()
    while True:
        sent, acked, _ = asked(pipe, "count")
        took = time.monotonic() - began
        if sent == acked or took > patience_s:
            return sent, acked, took
        time.sleep(0.1)


def start(bridge: Bridge) -> None:
    """The rollout in five stages."""
    LocalClient(bridge.database.parent / "ota-bridge.sock").call(
        "rollout.start", {"release": f"{FLEET}/2.0.0", "plan": PLAN}
    )


def steady(directory: Path, *, fleet: int, rate: float, seconds: float, seed: int = 1) -> dict:
    """The stream, the rollout, the kill."""
    kill_at = random.Random(seed).uniform(0.2, 0.8) * seconds
    with shipped(directory) as broker:
        bridge = site(directory, broker, fleet)
        peak, spent, committed = 0, 0.0, 0
        with streaming(broker.port, fleet, rate, int(rate * seconds)) as pipe:
            pipe.send("go")
            began = time.monotonic()
            for end in (kill_at, seconds):
                with bridge.serving() as pid, Peak(pid) as watched:
                    if end == kill_at:
                        start(bridge)
                    before, acked_before, cpu = time.monotonic(), asked(pipe, "count")[1], cpu_s(pid)
                    time.sleep(max(0.0, began + end - time.monotonic()))
                    spent += cpu_s(pid) - cpu
                    committed += asked(pipe, "count")[1] - acked_before
                    if end == kill_at:
                        os.kill(pid, signal.SIGKILL)
                    else:
                        sent, acked, late_s = until_quiet(pipe, PATIENCE_S)
                        took = time.monotonic() - before
                peak = max(peak, watched.bytes)
            told, _ = asked(pipe, "told")
            summary = asked(pipe, "summary")
        lost = set(told) - stored(bridge.database)
    if lost:
        raise RuntimeError(f"{len(lost)} reports were acknowledged and are not in the database, such as {min(lost)}")
    return {
        "rate": rate, "seconds": seconds, "killed_at_s": kill_at, "sent": sent, "acknowledged": acked,
        "acknowledged_and_lost": len(lost), "late_s": late_s, "last_life_s": took, "latency": summary,
        "peak_bytes": peak, "daemon_us_each": 1e6 * spent / max(1, committed),
    }  # fmt: skip


def most_offered(offers: list[tuple[float, int]]) -> int:
    """To how many devices a notice went within one window."""
    return max((len({name for at, name in offers if first <= at < first + WINDOW_S}) for first, _ in offers), default=0)


def burst(directory: Path, *, devices: int = BURST, slots: int = SLOTS) -> dict:
    """A site comes back from a power cut."""
    with shipped(directory) as broker:
        bridge = site(directory, broker, devices)
        with bridge.serving() as pid:
            bridge("limits", "set", "--downloads", str(slots))
            with (
                Lag(bridge.database.parent / "ota-bridge.sock") as lag,
                streaming(broker.port, devices, devices / BURST_S, devices) as pipe,
            ):
                LocalClient(bridge.database.parent / "ota-bridge.sock").call(
                    "rollout.start", {"release": f"{FLEET}/2.0.0"}
                )
                deadline = time.monotonic() + PATIENCE_S
                while asked(pipe, "count")[2] < min(slots, devices) and time.monotonic() < deadline:
                    time.sleep(0.1)
                before = cpu_s(pid)
                lag.seconds.clear()
                pipe.send("go")
                began = time.perf_counter()
                time.sleep(BURST_S)
                sent, acked, _ = until_quiet(pipe, PATIENCE_S)
                took, spent, answers = time.perf_counter() - began, cpu_s(pid) - before, list(lag.seconds)
                time.sleep(max(0.0, WINDOW_S + 5 - took))
                told, offers = asked(pipe, "told")
        lost = set(told) - stored(bridge.database)
    at_once = most_offered(offers)
    if lost or sent != acked:
        raise RuntimeError(f"of {sent} reports {acked} were acknowledged, and {len(lost)} of these are not stored")
    return {
        "devices": devices, "slots": slots, "acknowledged": acked, "all_within_s": took,
        "status_p50_ms": quantile_ms(answers, 0.5), "status_p99_ms": quantile_ms(answers, 0.99),
        "offered_at_once": at_once, "offered": len({name for _, name in offers}),
        "daemon_us_each": 1e6 * spent / devices,
    }  # fmt: skip
