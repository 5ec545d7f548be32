"""ThingsBoard devices on a real mosquitto: both clients of the simulator, and the vendor's own Python client, unmodified.

All of them are behind the front that gives each a prefix, as the dialect's page asks for, and are updated side by side.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path

import pytest
from brokers import HOST, client, mosquitto_on
from harness import site, until
from mqtt_front import Front, Mapping

from device_sim.clients.model import ClientOptions
from device_sim.clients.runner import ClientFleet, RunOptions
from device_sim.clients.thingsboard import thingsboard_client
from device_sim.options import BrokerUrl

SIZE = 300 * 1024
APP = Path(__file__).parents[1] / "thingsboard_app.py"
VENDORS = Path(sys.prefix) / "vendors"
MAPPING = Mapping(
    prefix=lambda seen: f"tb/{seen.username}/",
    filters={"v2/fw/response/+": "v2/fw/response/+/chunk/+"},
    added=[("v2/fw/response/+/chunk/+", 0)],
)
CONFIG = """
[retries]
max_attempts = 2
backoff_s = 1.0

[offers]
min_interval_s = 1.0

[dialects.thingsboard]
product = "demo"
"""
VARIANTS = {"python": ["python"], "cpp": ["cpp"], "push": ["cpp", "push"], "real": None}
ALL = list(VARIANTS)

pytestmark = [pytest.mark.mosquitto, pytest.mark.slow]


class Simulated:
    """A client of the simulator, until it is stopped."""

    def __init__(self, scene, name, chunk_bytes):
        options = ClientOptions(product="demo", name=name, block_bytes=chunk_bytes, variants=frozenset(VARIANTS[name]))
        self.client = thingsboard_client(options)
        broker = BrokerUrl.parse(f"mqtt://{HOST}:{scene.front.port}")
        run = RunOptions(broker=broker, stay=True, timeout_s=300, reconnect_s=0.2)
        self.fleet = ClientFleet({name: self.client}, run)

    async def __aenter__(self):
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(self.fleet.run(self.stop))
        return self

    async def __aexit__(self, *_):
        self.stop.set()
        report = await self.task
        assert [] == list(report.went_wrong)

    @property
    def sha256(self):
        return self.client.outcome.sha256


class Real:
    """The vendor's client in a process of its own."""

    def __init__(self, scene, name, chunk_bytes):
        if not (VENDORS / "tb_device_mqtt.py").is_file():
            pytest.fail("the vendor's client is missing: run `make vendors`")
        self.directory, self.said = scene.directory / name, []
        self.directory.mkdir()
        self.words = [sys.executable, str(APP), str(scene.front.port), name, str(chunk_bytes), "-", "-"]

    async def __aenter__(self):
        with (self.directory / "log").open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.words, cwd=self.directory, env=os.environ | {"PYTHONPATH": str(VENDORS)}, stderr=log,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
        self.task = asyncio.create_task(self.listen())
        return self

    async def listen(self):
        while line := await self.process.stdout.readline():
            self.said.append(json.loads(line))

    async def __aexit__(self, *_):
        self.process.kill()
        await self.process.wait()
        await self.task

    @property
    def sha256(self):
        return hashlib.sha256((self.directory / "demo").read_bytes()).hexdigest()


class Scene:
    """A bridge beside a mosquitto, a front, and an image that waits for devices."""

    def __init__(self, broker, here, front, directory):
        self.broker, self.here, self.front, self.directory = broker, here, front, directory
        image = here.image(SIZE)
        self.sha256 = hashlib.sha256(image.read_bytes()).hexdigest()
        here.call("rollout.start", release=here.release(image))
        self.chunks = {}
        """Devices, and on which topics they got chunks, in order."""
        self.fault = lambda _delivery: None
        """What becomes of a chunk's payload on the way to a device: None, as it is; b"", it is lost; or another."""
        front.meddle = self.meddle

    def meddle(self, delivery):
        if not delivery.to_device or "/fw/response/" not in delivery.topic:
            return [delivery.payload]
        self.chunks.setdefault(delivery.seen.username, []).append(delivery.topic.removeprefix("v2/fw/response/"))
        other = self.fault(delivery)
        return [delivery.payload] if other is None else [other] if other else []

    @contextlib.asynccontextmanager
    async def devices(self, *names, chunk_bytes=4096):
        async with contextlib.AsyncExitStack() as stack:
            made = {name: (Simulated if VARIANTS[name] else Real)(self, name, chunk_bytes) for name in names}
            for one in made.values():
                await stack.enter_async_context(one)
            yield made

    def deployments(self, name):
        with contextlib.suppress(Exception):  # not known yet, or the daemon is being restarted
            found = self.here.call("device.show", device=f"demo/{name}")["deployments"]
            return [(one["state"], one["attempt"], one["cause"]) for one in found]
        return []

    async def confirmed(self, devices):
        for name, device in devices.items():
            expected = [("CONFIRMED", 1, "checked in with firmware 1.1.0")]
            await until(lambda: self.deployments(name) == expected, within_s=90)  # noqa: B023 - it runs at once
            assert self.sha256 == device.sha256


@pytest.fixture
async def scene(tmp_path):
    (tmp_path / "ota-bridge.toml").write_text(CONFIG)
    with mosquitto_on(tmp_path) as broker, site(tmp_path, broker_url=broker.url) as here:
        async with Front(broker.port, MAPPING) as front:
            yield Scene(broker, here, front, tmp_path)


def at_chunk(number, act, names=ALL):
    """`act(device)` and nothing else when this chunk comes to a device for the first time."""
    left = set(names)

    def fault(delivery):
        name = delivery.seen.username
        if delivery.topic.endswith(f"/chunk/{number}") and name in left:
            left.remove(name)
            act(name)
            return b""
        return None

    return fault


async def test_images_of_300_kib_arrive_with_each_chunk_sent_once(scene):
    async with scene.devices(*ALL) as devices:
        await scene.confirmed(devices)
    # The C++ client asks for one past the end of what is a multiple of its chunks, and is answered.
    counts = {"python": 75, "cpp": 76, "push": 76, "real": 75}
    assert {name: [f"1/chunk/{n}" for n in range(counts[name])] for name in ALL} == scene.chunks


async def test_they_arrive_in_one_message_where_no_chunk_size_is_named(scene):
    async with scene.devices("python", "real", chunk_bytes=0) as devices:
        await scene.confirmed(devices)
    assert {"python": ["1/chunk/0"], "real": ["1/chunk/0"]} == scene.chunks


async def test_a_reconnect_in_the_middle_is_survived(scene):
    scene.fault = at_chunk(30, lambda _name: scene.front.cut())
    async with scene.devices(*ALL) as devices:
        await scene.confirmed(devices)
    assert scene.front.connects > len(ALL)


async def test_a_lost_chunk_is_survived(scene):
    scene.fault = at_chunk(30, lambda _name: None)
    async with scene.devices(*ALL) as devices:
        await scene.confirmed(devices)
    for name in ("cpp", "push"):
        assert 2 == scene.chunks[name].count("1/chunk/30")
    for name in ("python", "real"):
        assert "2/chunk/30" in scene.chunks[name]


async def test_a_restart_of_the_bridge_in_the_middle_is_survived(scene):
    killed, waiting = asyncio.Event(), set(ALL)

    def act(name):
        waiting.discard(name)
        if not waiting:
            scene.here.kill()
            killed.set()

    scene.fault = at_chunk(30, act)
    async with scene.devices(*ALL) as devices:
        async with asyncio.timeout(60):
            await killed.wait()
        await asyncio.to_thread(scene.here.start)
        await scene.confirmed(devices)


async def test_a_wrong_checksum_ends_in_failed_with_the_reason_and_devices_are_left_in_peace(scene):
    scene.fault = lambda delivery: delivery.payload[:-1] + b"?" if delivery.topic.endswith("/chunk/7") else None
    async with scene.devices(*ALL):
        for name in ALL:
            await until(lambda: failed(scene, name) == [2, 1], within_s=120)  # noqa: B023 - it runs at once
            reasons = {cause for _, _, cause in scene.deployments(name)}
            uncovered = "downloaded 3 times and never taken: what arrives does not have the checksum"
            said = "Checksum verification failed!" if name in {"python", "real"} else uncovered
            assert {f"said fail: {said}"} == reasons
            rounds = scene.chunks[name].count("1/chunk/74") + scene.chunks[name].count("2/chunk/74")
            assert (2 if name in {"python", "real"} else 6) == rounds
        assert [b"NOT_FOUND"] * len(ALL) == [await asks_once_more(scene, name) for name in ALL]


def failed(scene, name):
    return [attempt for state, attempt, _ in scene.deployments(name) if state == "FAILED"]


async def asks_once_more(scene, name):
    async with client(scene.broker.address) as device, asyncio.timeout(10):
        await device.subscribe(f"tb/{name}/v2/fw/error")
        await device.publish(f"tb/{name}/v2/fw/request/9/chunk/0", b"4096")
        return (await anext(device.messages)).payload
