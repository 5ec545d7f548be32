"""The block plane in a process of its own, beside a real mosquitto: told, killed, stopped, orphaned."""

import asyncio
import contextlib
import os
import signal

import msgpack
import pytest
from brokers import client, eventually, mosquitto, running  # noqa: F401 - mosquitto is a fixture
from core_world import World
from harness import site, worker_of

from ota_bridge import block_process
from ota_bridge.block_plane import PlaneSettings
from ota_bridge.block_process import ProcessPlane
from ota_bridge.config import BlockSettings, LogSettings
from ota_bridge.core.errors import ConfigError
from ota_bridge.core.messages import GrantsChanged, GrantState
from ota_bridge.core.values import DeviceId
from ota_bridge.store.blobs import BlobStore

pytestmark = pytest.mark.mosquitto
DEVICE = DeviceId("prod", "d1")
BUSY, PAUSED, NOT_OPEN = 4, 5, 1


class Gateway:
    """Loads one device's grants, as often as it is asked."""

    def __init__(self, world, plane):
        self.world, self.plane, self.served, self.states, self.loads = world, plane, [], [], 0
        self.grants = world.read(lambda unit: world.bridge.grants_page(unit, world.now, None))[0]

    async def load(self):
        self.loads += 1
        for change in self.grants:
            self.plane.apply(change)
        self.plane.open()

    def on_served(self, served):
        self.served += served

    def set_plane(self, *, blocks):
        self.states.append(blocks)

    @property
    def rollout(self):
        return self.grants[0].grants[0].rollout


class Bench:
    """A plane with one release and one device on a broker, and that device's requests."""

    def __init__(self, directory, broker):
        self.world = World()
        self.world.release()
        self.world.rollout()
        self.world.device()
        self.facts = next(iter(self.world.facts.values()))
        blobs = BlobStore(directory)
        writer = blobs.begin(self.facts.chunk_bytes)
        writer.write(self.world.source.images[self.facts.sha256])
        writer.finish(self.facts)
        blobs.close()
        settings = PlaneSettings(
            address=broker.address, client_id="b", root="$ota", keepalive_s=30, data_dir=directory,
            blocks=BlockSettings(), log=LogSettings(),
        )  # fmt: skip
        self.broker, self.plane = broker, ProcessPlane(settings)
        self.gateway = self.plane.listener = Gateway(self.world, self.plane)

    @contextlib.asynccontextmanager
    async def serving(self):
        await self.plane.start()
        await self.gateway.load()
        async with running(self.plane.run()), client(self.broker.address) as device:
            await device.subscribe("$ota/block/prod/d1")
            self.device, self.messages = device, device.messages
            await eventually(lambda: self.gateway.states[-1:] == [True], what="the link is up")
            yield self

    async def ask(self, offset=0):
        """What the answer to one request has as its third element: data or the code of a refusal."""
        await self.device.publish("$ota/get/prod/d1", msgpack.packb([self.facts.sha256[:8], offset, 100, 1]))
        async with asyncio.timeout(10):
            return msgpack.unpackb((await anext(aiter(self.messages))).payload)[2]

    def data(self, offset=0):
        return self.world.source.images[self.facts.sha256][offset : offset + 100]


@pytest.fixture
def bench(tmp_path, mosquitto):  # noqa: F811
    return Bench(tmp_path / "data", mosquitto)


async def test_it_serves_what_it_is_told_and_tells_what_it_served(bench):
    async with bench.serving():
        assert bench.data(300) == await bench.ask(300)
        bench.plane.apply(GrantsChanged(device=DEVICE, grants=()))
        assert NOT_OPEN == await bench.ask()
    assert 100 == sum(getattr(one, "bytes_sent", 0) for one in bench.gateway.served)
    assert 1 == bench.plane.counters.served.blocks
    assert 2 == bench.plane.counters.link.received


async def test_a_hold_holds_when_it_is_settled(bench):
    async with bench.serving():
        bench.plane.hold(bench.gateway.rollout, GrantState.PAUSED)
        await bench.plane.settled()
        assert PAUSED == await bench.ask()
        bench.plane.hold(bench.gateway.rollout, None)
        await bench.plane.settled()
        assert bench.data() == await bench.ask()


async def test_a_request_that_overtakes_its_grant_on_the_way_is_served(bench):
    async with bench.serving():
        for _ in range(50):
            bench.plane.apply(GrantsChanged(device=DEVICE, grants=()))
            await bench.plane.settled()
            os.kill(bench.plane.pid, signal.SIGSTOP)
            await bench.device.publish("$ota/get/prod/d1", msgpack.packb([bench.facts.sha256[:8], 0, 100, 1]))
            bench.plane.apply(bench.gateway.grants[0])
            os.kill(bench.plane.pid, signal.SIGCONT)
            async with asyncio.timeout(10):
                assert bench.data() == msgpack.unpackb((await anext(aiter(bench.messages))).payload)[2]


async def test_killed_it_is_started_again_with_its_table_and_its_holds(bench, monkeypatch):
    monkeypatch.setattr(block_process, "RESTART_S", 0.01)
    async with bench.serving():
        first = bench.plane.pid
        bench.plane.hold(bench.gateway.rollout, GrantState.PAUSED)
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: bench.gateway.loads == 2 and bench.gateway.states[-1], what="up again")
        assert first != bench.plane.pid
        assert 2 == bench.gateway.loads
        assert PAUSED == await bench.ask()
        bench.plane.hold(bench.gateway.rollout, None)
        await bench.plane.settled()
        assert bench.data(200) == await bench.ask(200)


async def test_one_that_does_not_answer_is_replaced_and_keeps_nobody_waiting(bench, monkeypatch):
    monkeypatch.setattr(block_process, "RESTART_S", 0.01)
    monkeypatch.setattr(block_process, "SETTLE_S", 0.1)
    async with bench.serving():
        first = bench.plane.pid
        os.kill(first, signal.SIGSTOP)
        async with asyncio.timeout(5):
            await bench.plane.settled()
        await eventually(lambda: bench.gateway.loads == 2 and bench.gateway.states[-1], what="replaced")
        assert bench.data() == await bench.ask()


async def test_one_that_falls_silent_is_replaced(bench, monkeypatch):
    monkeypatch.setattr(block_process, "RESTART_S", 0.01)
    monkeypatch.setattr(block_process, "CHECK_S", 0.05)
    monkeypatch.setattr(block_process, "MISSED_MAX", 60)
    async with bench.serving():
        first = bench.plane.pid
        os.kill(first, signal.SIGSTOP)
        await eventually(lambda: bench.gateway.loads == 2 and bench.gateway.states[-1], what="replaced")


async def test_what_it_does_not_take_in_is_bounded(bench, monkeypatch):
    monkeypatch.setattr(block_process, "RESTART_S", 0.01)
    monkeypatch.setattr(block_process, "QUEUED_MAX_BYTES", 100_000)
    async with bench.serving():
        first = bench.plane.pid
        os.kill(first, signal.SIGSTOP)
        for _ in range(2000):
            bench.plane.apply(bench.gateway.grants[0])
        await eventually(lambda: bench.gateway.loads == 2 and bench.gateway.states[-1], what="replaced")
        assert bench.data() == await bench.ask()


async def test_signals_that_end_a_group_are_the_daemons_to_answer(bench):
    async with bench.serving():
        first = bench.plane.pid
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(first, number)
        assert bench.data() == await bench.ask()
        assert first == bench.plane.pid
    assert not exists(first)


async def test_a_start_that_fails_says_so(bench, monkeypatch):
    monkeypatch.setattr(block_process.sys, "executable", "/nonexistent/python")
    with pytest.raises(ConfigError, match=r"did not start .*blocks.process = shared"):
        await bench.plane.start()


def exists(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_it_ends_with_the_daemon_however_that_ends(tmp_path, mosquitto, end):  # noqa: F811
    with site(tmp_path, broker_url=mosquitto.url) as here:
        worker = worker_of(here)
        getattr(here, end)()
        await eventually(lambda: not exists(worker), what="the process is gone", within_s=5)


def test_the_embedded_broker_needs_no_second_process_and_a_setting_decides(tmp_path):
    with site(tmp_path) as here, pytest.raises(ValueError, match="values to unpack"):
        worker_of(here)
    here.settings["blocks.process"] = "own"
    try:
        here.start()
        assert worker_of(here)
    finally:
        here.kill()
