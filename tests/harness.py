"""The real thing for integration and fault tests: the daemon as a child process, keys, images, simulated fleets.

The daemon is `python -m ota_bridge serve` with real files in a test's directory; it is stopped, killed and started
again by process id. Operators' commands go through its local socket as the CLI's do.
"""

import asyncio
import contextlib
import json
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiomqtt
from brokers import HOST, free_port

from device_sim.fleet import run_fleet
from device_sim.options import BrokerUrl, FleetOptions
from device_sim.report import FleetReport
from ota_bridge.security.keys import SigningKey, load_key
from ota_bridge.security.signing import sign_file
from ota_bridge.security.trust import Trust
from ota_bridge.web.local_client import DaemonNotRunning, LocalClient

VENDOR = "example.com"
READY_S = 20.0


@dataclass
class Site:
    """A directory with keys, a trust document, a configuration and a daemon that may run in it."""

    directory: Path
    broker_url: str = ""
    port: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None
    command: list[str] | None = None
    """What runs the daemon, where it is not the ordinary one."""

    def __post_init__(self) -> None:
        author, online = SigningKey.generate(), SigningKey.generate()
        author.save(self.directory / "author.pem")
        online.save(self.directory / "online.pem")
        Trust(vendor=VENDOR, threshold=1, authors=(author.public,), online=(online.public,)).save(self.trust)
        self.port = self.port or free_port()

    @property
    def trust(self) -> Path:
        return self.directory / "trust.json"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def log(self) -> str:
        path = self.directory / "daemon.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def url(self) -> str:
        """Where devices connect."""
        return self.broker_url or f"mqtt://{HOST}:{self.port}"

    @property
    def client(self) -> LocalClient:
        return LocalClient(self.directory / "s", answer_s=60)

    def call(self, op: str, **args: Any) -> Any:
        """One operation of the running daemon."""
        return self.client.call(op, args)

    @property
    def is_silent(self) -> bool:
        """No dialect has anything more to say to a device by itself, and nothing is open: whoever waits, waits in vain."""
        with contextlib.closing(sqlite3.connect(f"file:{self.data / 'ota-bridge.sqlite'}?mode=ro", uri=True)) as db:
            waking = db.execute("SELECT count(*) FROM dialect_memories WHERE wake_wall IS NOT NULL").fetchone()[0]
            unfinished = db.execute("SELECT count(*) FROM deployments WHERE is_open = 1").fetchone()[0]
        return waking == unfinished == 0

    def run(self, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        """`ota-bridge` with these words, as an operator types them here."""
        place = ("--data-dir", self.data, "--set", f"local.socket={self.directory / 's'}")
        command = [sys.executable, "-m", "ota_bridge", *map(str, (*place, *words))]
        return subprocess.run(command, cwd=self.directory, check=False, capture_output=True, text=True, timeout=120)

    # --- the daemon ---

    def start(self, *, wait: bool = True) -> None:
        """Start the daemon; with `wait`, return when both planes are up."""
        settings = {
            "data_dir": self.data,
            "local.socket": self.directory / "s",
            "security.trust": self.trust,
            "security.online_key": self.directory / "online.pem",
            "embedded.port": self.port,
            "log.level": "debug",
            **self.settings,
        }
        if self.broker_url:
            settings["broker.url"] = self.broker_url
        flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        with (self.directory / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*(self.command or [sys.executable, "-m", "ota_bridge"]), "serve", *flags],
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Return when both planes are up."""
        assert self.process is not None
        deadline = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(DaemonNotRunning, OSError):
                status = self.call("bridge.status")
                if status["control"] == status["blocks"] == "up":
                    return
            assert self.process.poll() is None, f"the daemon ended with {self.process.returncode}:\n{self.log}"
            assert time.monotonic() < deadline, f"the daemon is not ready:\n{self.log}"
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> float:
        """SIGTERM; how long it took, in seconds."""
        began = time.monotonic()
        self._end(signal.SIGTERM)
        return time.monotonic() - began

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is not None and process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
                raise AssertionError(f"the daemon did not end:\n{self.log}") from None

    # --- releases ---

    def image(self, size_bytes: int, *, seed: int = 1, name: str = "fw.bin") -> Path:
        """A reproducible image."""
        path = self.directory / name
        path.write_bytes(random.Random(seed).randbytes(size_bytes))
        return path

    def envelope(self, image: Path, *, version: str, seq: int, product: str = "demo", hw: str = "r1") -> bytes:
        """A manifest signed by the site's author."""
        key = load_key(self.directory / "author.pem").key
        signed = sign_file(image, keys=[key], vendor_domain=VENDOR, product=product, hw=[hw], version=version, seq=seq)
        return signed.envelope

    def release(self, image: Path, *, version: str = "1.1.0", seq: int = 1, product: str = "demo", **more: Any) -> str:
        """Sign and add a release; `more` goes with it."""
        import base64

        envelope = self.envelope(image, version=version, seq=seq, product=product)
        args = {
            "envelope": base64.b64encode(envelope).decode(),
            "product": product,
            "version": version,
            "hw": ["r1"],
            "file_name": image.name,
            **more,
        }
        with image.open("rb") as file:
            added = self.client.call("release.add", args, upload=(file, image.stat().st_size))
        return str(added["id"])

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """What the database holds, read from outside."""
        database = sqlite3.connect(f"file:{self.data / 'ota-bridge.sqlite'}?mode=ro", uri=True)
        with contextlib.closing(database):
            return database.execute(sql, values).fetchall()

    def unconfirmed(self, report: FleetReport) -> dict[str, Any]:
        """What both sides say of each device that has not confirmed; empty when all have."""
        return {
            one.device: {
                "device": f"{one.result}: {one.reason}",
                "why": self.call("why", device=f"demo/{one.device}"),
                "reports": self.rows("SELECT * FROM reports WHERE name = ? ORDER BY rowid DESC LIMIT 3", one.device),
                "said": one,
            }
            for one in report.devices
            if one.result != "confirmed"
        }

    def fleet(self, **options: Any) -> FleetOptions:
        """Options of simulated devices that belong here."""
        defaults: dict[str, Any] = {
            "broker": BrokerUrl.parse(self.url),
            "trust": self.trust,
            "telemetry_hz": 0.0,
            "timeout_s": 60.0,
            "slot_bytes": 1 << 20,
        }
        return FleetOptions(**{**defaults, **options})


@contextlib.contextmanager
def site(directory: Path, *, broker_url: str = "", start: bool = True, **settings: Any) -> Iterator[Site]:
    """A site whose daemon runs for the length of a `with`."""
    here = Site(directory=directory, broker_url=broker_url, settings=settings)
    try:
        if start:
            here.start()
        yield here
    finally:
        here._end(signal.SIGKILL)


class Fleet:
    """Simulated devices that run beside a test, and what they said."""

    def __init__(self, options: FleetOptions) -> None:
        self.options = options
        self.lines: list[dict[str, Any]] = []
        self._task: asyncio.Task[FleetReport] | None = None
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()

    def _heard(self, line: dict[str, Any]) -> None:
        self.lines.append(line)
        self._changed.set()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(run_fleet(self.options, on_progress=self._heard, stop=self._stop))
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._task is not None
        self._stop.set()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._task

    async def until(self, reached: Callable[[list[dict[str, Any]]], bool], *, within_s: float = 30) -> None:
        """Return when what the devices said satisfies `reached`."""
        async with asyncio.timeout(within_s):
            while not reached(self.lines):
                self._changed.clear()
                await self._changed.wait()

    async def report(self) -> FleetReport:
        """How it ended."""
        assert self._task is not None
        return await asyncio.shield(self._task)


def worker_of(here: Site) -> int:
    """The block plane's process of a daemon, by its id."""
    assert here.process is not None
    parent = f"PPid:\t{here.process.pid}\n"
    (found,) = [
        path.parent
        for path in Path("/proc").glob("[0-9]*/status")
        if parent in _text_of(path) and "block_worker" in _text_of(path.with_name("cmdline"))
    ]
    return int(found.name)


def _text_of(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""  # it has ended meanwhile


def start_fleet(here: Site, options: Mapping[str, Any]) -> "subprocess.Popen[bytes]":
    """Simulated devices in a process of their own, for what needs a core of its own."""
    flat = [str(part) for pair in options.items() for part in pair]
    command = [sys.executable, "-m", "device_sim", "run", "--broker", here.url, "--trust", str(here.trust), *flat]
    return subprocess.Popen([*command, "--stay", "--json"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def until(check: Callable[[], Any], *, within_s: float = 20, every_s: float = 0.05) -> Any:
    """The first truthy value of `check`, polled."""
    async with asyncio.timeout(within_s):
        while not (value := await asyncio.to_thread(check)):
            await asyncio.sleep(every_s)
        return value


@dataclass
class Tap:
    """Everything an outside subscriber saw, in order: (monotonic seconds, topic, payload)."""

    seen: list[tuple[float, str, bytes]] = field(default_factory=list)

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The event lines, decoded."""
        lines = [json.loads(payload) for _, topic, payload in self.seen if "/event/" in topic]
        return [line for line in lines if kind is None or line["event"] == kind]

    def payload_bytes(self, topic_part: str) -> int:
        return sum(len(payload) for _, topic, payload in self.seen if topic_part in topic)


@contextlib.asynccontextmanager
async def tap(url: str, *filters: str) -> AsyncIterator[Tap]:
    """Subscribe from outside for the length of a `with`."""
    address = BrokerUrl.parse(url)
    found = Tap()
    subscribed = asyncio.Event()

    async def listen() -> None:
        while True:  # the broker may be killed meanwhile
            with contextlib.suppress(aiomqtt.MqttError):
                await listen_once()
            await asyncio.sleep(0.02)

    async def listen_once() -> None:
        async with aiomqtt.Client(address.host, address.port, identifier=f"tap-{random.randrange(1 << 30)}") as client:
            for topic_filter in filters:
                await client.subscribe(topic_filter, qos=0)
            subscribed.set()
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                found.seen.append((time.monotonic(), str(message.topic), message.payload))

    task = asyncio.create_task(listen())
    try:
        async with asyncio.timeout(10):
            await subscribed.wait()
        yield found
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def is_listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False
