"""A disk that takes nothing: no acknowledgement without a commit, blocks go on, and all goes on by itself afterwards."""

import asyncio
import base64
import contextlib
import json
import resource
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from brokers import Mosquitto, mosquitto  # noqa: F401 - a fixture
from core_world import World
from harness import Fleet, Site, site, tap, until

from ota_bridge.block_plane import LocalPlane
from ota_bridge.core.errors import OtaBridgeError, StoreError
from ota_bridge.core.people import Caller
from ota_bridge.core.values import DeviceId
from ota_bridge.dialects.native import NativeDialect
from ota_bridge.gateway import Gateway
from ota_bridge.mqtt.control import AckToken, Incoming
from ota_bridge.outlet import nothing
from ota_bridge.store import connection
from ota_bridge.store.sqlite import SqliteStore
from ota_bridge.switch import Switch
from ota_bridge.wire import MqttMessage
from tests.faults.process import acknowledged, stored

ANN = Caller(user="ann")

DEVICES = 10

# --- the daemon on a small disk ---------------------------------------------------------------------------------------


class SmallDisk:
    """A file system of its own under the data directory, filled by a file; or, for anybody, a limit of the process."""

    def __init__(self, here: Site, *, mounted: bool) -> None:
        self._here = here
        self._filler = here.data / "filler"
        self._mounted = mounted

    def fill(self) -> None:
        if not self._mounted:
            self._limit(0)
            return
        with self._filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            for size in (65_536, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def free(self) -> None:
        if self._mounted:
            self._filler.unlink(missing_ok=True)
        else:
            self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        assert self._here.process is not None
        resource.prlimit(self._here.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@contextlib.contextmanager
def mounted(place: Path, size: str) -> Iterator[None]:
    """A file system in memory of this size, or the test is skipped."""
    place.mkdir(mode=0o700)
    ran = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", place], capture_output=True)
    if ran.returncode:
        pytest.skip("only root can make a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def status(here: Site) -> dict:
    return here.call("bridge.status")


@pytest.mark.mosquitto
@pytest.mark.parametrize("process", ["own", "shared"])
@pytest.mark.parametrize("how", ["file system", "limit"])
async def test_a_full_disk_acknowledges_nothing_serves_on_and_recovers_without_a_restart(
    tmp_path,
    mosquitto: Mosquitto,  # noqa: F811
    how,
    process,
):
    with contextlib.ExitStack() as stack:
        if how == "file system":
            stack.enter_context(mounted(tmp_path / "data", "8m"))
        here = stack.enter_context(
            site(tmp_path, broker_url=mosquitto.url, **{"log.level": "info", "blocks.process": process})
        )
        disk = SmallDisk(here, mounted=how == "file system")
        pid = here.process.pid
        release = here.release(here.image(300_000))
        options = here.fleet(count=DEVICES, pace_bps=20_000, check_in_every_s=2, timeout_s=150)
        async with tap(mosquitto.url, "$ota/update/#") as seen, Fleet(options) as fleet:
            await until(lambda: len(here.call("device.list")) == DEVICES)
            here.call("rollout.start", release=release)
            await fleet.until(lambda lines: any(line["position"] > 20_000 for line in lines), within_s=60)
            disk.fill()
            await until(lambda: status(here)["counters"]["gateway"]["store_failures"] > DEVICES, within_s=60)
            known, served = stored(here), status(here)["served"]["bytes"]
            await until(lambda: status(here)["served"]["bytes"] > served + 200_000, within_s=60)
            assert known == stored(here), "the disk was not full"
            assert set() == acknowledged(seen) - known
            with pytest.raises(OtaBridgeError, match="disk is full|disk I/O error"):
                here.call("device.add", device="demo/new")
            with pytest.raises(OtaBridgeError, match="No space left|File too large"):
                here.release(here.image(50_000, seed=2, name="other.bin"), version="1.2.0", seq=2)
            assert "demo/dev-0001" in here.call("why", device="dev-0001")["sentence"]
            assert [] == list((here.data / "unfinished").iterdir())

            disk.free()
            report = await fleet.report()
            assert {} == here.unconfirmed(report)
            await until(lambda: here.call("rollout.list")[0]["confirmed"] == DEVICES, within_s=60)
        assert set() == acknowledged(seen) - stored(here)
        assert pid == here.process.pid
        assert None is here.process.poll()
        here.call("device.add", device="demo/new")
        here.release(tmp_path / "other.bin", version="1.2.0", seq=2)
        if how == "file system":
            assert "not committed, trying again in 1 s: the disk is full" in here.log
            assert "Traceback" not in here.log


@pytest.mark.mosquitto
async def test_a_backup_to_a_full_disk_is_refused_and_costs_nothing(tmp_path, mosquitto: Mosquitto):  # noqa: F811
    with mounted(tmp_path / "data", "40m"), site(tmp_path, broker_url=mosquitto.url) as here:
        here.release(here.image(1_000_000))
        disk = SmallDisk(here, mounted=True)
        disk.fill()
        ran = await asyncio.to_thread(here.run, "backup", here.data / "b.tar")
        assert (1, True) == (ran.returncode, "name a file on another disk" in ran.stderr), ran.stderr
        disk.free()
        assert 0 == (await asyncio.to_thread(here.run, "backup", here.data / "b.tar")).returncode
        assert [] == [one.name for one in here.data.iterdir() if one.name.startswith(".")]


@pytest.mark.mosquitto
def test_a_start_on_a_full_disk_ends_with_one_sentence_and_works_later(tmp_path, mosquitto: Mosquitto):  # noqa: F811
    with mounted(tmp_path / "data", "4m"), site(tmp_path, broker_url=mosquitto.url) as here:
        here.call("device.add", device="demo/d1")
        here.kill()
        disk = SmallDisk(here, mounted=True)
        disk.fill()
        (tmp_path / "daemon.log").unlink()
        here.start(wait=False)
        assert here.process.wait(20) in (1, 2)
        assert 1 == here.log.count("error: "), here.log
        assert "Traceback" not in here.log
        assert "this should not happen" not in here.log
        assert any(said in here.log for said in ("No space left on device", "disk is full", "disk I/O error"))
        disk.free()
        here.start()
        assert ["demo/d1"] == [one["id"] for one in here.call("device.list")]


@pytest.mark.mosquitto
def test_a_disk_that_can_only_be_read_ends_the_start_with_one_sentence_and_can_be_read(tmp_path, mosquitto: Mosquitto):  # noqa: F811
    with mounted(tmp_path / "data", "8m"), site(tmp_path, broker_url=mosquitto.url) as here:
        here.call("device.add", device="demo/d1")
        here.stop()
        subprocess.run(["mount", "-o", "remount,ro", here.data], check=True)
        (tmp_path / "daemon.log").unlink()
        here.start(wait=False)
        assert here.process.wait(20) in (1, 2)
        assert 1 == here.log.count("error: "), here.log
        assert "Read-only file system" in here.log
        assert "Traceback" not in here.log
        assert "demo/d1" in here.run("device", "list").stdout
        assert 0 == here.run("backup", tmp_path / "rescued.tar").returncode
        refused = here.run("restore", tmp_path / "rescued.tar")
        assert (1, True) == (refused.returncode, "Read-only file system" in refused.stderr), refused.stderr
        subprocess.run(["mount", "-o", "remount,rw", here.data], check=True)
        here.start()
        assert ["demo/d1"] == [one["id"] for one in here.call("device.list")]


# --- the gateway over a database that fails at each statement ---------------------------------------------------------


class Failing(sqlite3.Connection):
    """A connection that fails when it is told to: `fails(statement)` says so before each."""

    fails: Callable[[str], str] = staticmethod(lambda _statement: "")

    def execute(self, sql, *arguments):
        verdict = Failing.fails(sql)
        if verdict == "ends":  # as a full disk may: nothing is left of the transaction
            with contextlib.suppress(sqlite3.Error):
                super().execute("ROLLBACK")
        if verdict:
            raise sqlite3.OperationalError("database or disk is full")
        return super().execute(sql, *arguments)


class Wire:
    """The control link: which reports the bridge acknowledged, and which messages to the broker."""

    def __init__(self) -> None:
        self.reports: set[tuple[str, int, int]] = set()
        self.messages: set[int] = set()
        self.queued = 0
        self.acknowledged = asyncio.Event()

    def publish(self, message: MqttMessage) -> bool:
        if "/update/" in message.topic:
            said = json.loads(message.payload)
            if said["type"] == "report_ack":
                self.reports |= {(message.topic.rpartition("/")[2], said["boot"], seq) for seq in said["seqs"]}
        return True

    def ack(self, token: AckToken) -> None:
        self.messages.add(token.mid)
        self.acknowledged.set()


class Bridge:
    """Everything but the links, on a real file."""

    def __init__(self, path: Path) -> None:
        loop = asyncio.get_running_loop()
        self.path, self.world, self.wire = path, World(), Wire()
        self.store = SqliteStore.open(path, deliver=lambda told: loop.call_soon_threadsafe(told))
        self.gateway = Gateway(
            bridge=self.world.bridge,
            store=self.store,
            switch=Switch(NativeDialect("$ota")),
            blocks=LocalPlane(self.world.server),
            link=self.wire,
        )
        self.sent = 0

    def report(self, name: str, *, boot: int = 1, seq: int) -> None:
        self.sent += 1
        body = {
            "type": "report_version", "report": {"version": "1.0.0"}, "proto": 1, "hw": "r1", "boot": boot, "seq": seq,
            "nonce": base64.b64encode(bytes([boot, seq, *bytes(14)])).decode(),
            "parts": {"firmware": ["1.0.0", 1, "", 0]}, "note": "x" * 800,
        }  # fmt: skip
        message = MqttMessage(topic=f"$ota/report/prod/{name}", payload=json.dumps(body).encode(), qos=1)
        self.gateway.hear(Incoming(message=message, token=AckToken(generation=1, mid=self.sent, qos=1)))
        self.gateway.take(nothing)

    def stored(self) -> set[tuple[str, int, int]]:
        database = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, factory=sqlite3.Connection)
        with contextlib.closing(database):
            return set(database.execute("SELECT name, boot, seq FROM reports").fetchall())

    def check(self) -> None:
        """Nothing is acknowledged that is not there for somebody else to read."""
        assert set() == self.wire.reports - self.stored()

    async def all_acknowledged(self) -> None:
        async with asyncio.timeout(20):
            while len(self.wire.messages) < self.sent:
                self.wire.acknowledged.clear()
                await self.wire.acknowledged.wait()
        self.check()

    async def failed(self, failures: int) -> None:
        """Return when so many commits have failed, or all reports are acknowledged."""
        counters = self.gateway.counters
        await until(lambda: counters.store_failures >= failures or len(self.wire.messages) == self.sent, every_s=0.002)


@pytest.fixture
def fast_retry(monkeypatch):
    monkeypatch.setattr("ota_bridge.gateway.RETRY_S", 0.005)


@pytest.fixture
def failing(monkeypatch):
    """Connections that can fail."""
    real = sqlite3.connect
    monkeypatch.setattr(
        connection.sqlite3, "connect", lambda *args, **options: real(*args, **{"factory": Failing, **options})
    )
    monkeypatch.setattr(Failing, "fails", staticmethod(lambda _statement: ""))
    return monkeypatch


@pytest.mark.usefixtures("fast_retry")
@pytest.mark.parametrize("how", ["raises", "ends"])
async def test_full_at_each_statement_nothing_is_acknowledged_before_it_is_stored(tmp_path, failing, how):
    """Three reports, the n-th statement of the writer fails once; then again at another; and so on for all of them."""
    bridge = Bridge(tmp_path / "bridge.db")
    seq = 0
    failures = 0
    for at in range(1, 45):
        count = 0

        def fails(statement: str, at: int = at) -> str:
            nonlocal count, failures
            if statement.startswith("PRAGMA"):
                return ""
            count += 1
            if count != at:
                return ""
            failures += 1
            return how

        failing.setattr(Failing, "fails", staticmethod(fails))
        for _ in range(3):
            seq += 1
            bridge.report(f"d{at % 5}", seq=seq)
        await bridge.all_acknowledged()
        failing.setattr(Failing, "fails", staticmethod(lambda _statement: ""))
    assert failures >= 15
    assert seq == len(bridge.stored())
    assert 0 == bridge.gateway.counters.core_failures
    bridge.store.close()


@pytest.mark.usefixtures("fast_retry")
async def test_a_database_that_may_grow_by_so_many_pages_keeps_what_it_acknowledged(tmp_path):
    bridge = Bridge(tmp_path / "bridge.db")
    bridge.report("d0", seq=1)
    await bridge.all_acknowledged()
    failed = 0
    for pages in range(12):
        before = bridge.gateway.counters.store_failures
        await limit(bridge, pages)
        for number in range(20):
            bridge.report(f"p{pages}n{number}", seq=1)
        await bridge.failed(before + 1)  # one did not fit, or all did
        bridge.check()
        failed += bridge.gateway.counters.store_failures > before
        with contextlib.suppress(StoreError):
            await bridge.gateway.operate(ANN, "device.add", {"device": f"prod/new{pages}"})
        await limit(bridge, None)
        await bridge.all_acknowledged()
    assert failed >= 6
    assert {(f"p{pages}n{number}", 1, 1) for pages in range(12) for number in range(20)} < bridge.stored()
    await asyncio.to_thread(bridge.store.close)


async def limit(bridge: Bridge, pages: int | None) -> None:
    """From now on the database may grow by so many pages; None: as it likes."""
    done = asyncio.get_running_loop().create_future()

    def work(_unit: object) -> None:
        now = bridge.store._db.execute("PRAGMA page_count").fetchone()[0]
        bridge.store._db.execute(f"PRAGMA max_page_count = {1 << 30 if pages is None else now + pages}")

    bridge.store.submit(work, done.set_result)
    await done


@pytest.mark.usefixtures("fast_retry")
async def test_a_disk_that_turns_read_only_ends_nothing_and_comes_back(tmp_path):
    bridge = Bridge(tmp_path / "bridge.db")
    bridge.report("d1", seq=1)
    await bridge.all_acknowledged()
    bridge.store._db.conn.execute("PRAGMA query_only = ON")
    for seq in range(2, 12):
        bridge.report("d1", seq=seq)
    await bridge.failed(30)
    assert {("d1", 1, 1)} == bridge.wire.reports == bridge.stored()
    with pytest.raises(StoreError, match="readonly database"):
        await bridge.gateway.operate(ANN, "device.add", {"device": "prod/new"})
    assert "prod/d1" == (await bridge.gateway.operate(ANN, "why", {"device": "d1"}))["device"]
    await bridge.gateway.pump()
    bridge.store._db.conn.execute("PRAGMA query_only = OFF")
    await bridge.all_acknowledged()
    assert 11 == bridge.store.read(lambda unit: unit.devices.get(DeviceId("prod", "d1"))).boot + 10
    assert 11 == len(bridge.stored())
    await asyncio.to_thread(bridge.store.close)
