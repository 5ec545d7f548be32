"""AWS devices on a real mosquitto and a real daemon: 300 KB each, with everything that goes wrong on the way."""

import asyncio
import contextlib
import hashlib
import json
from dataclasses import dataclass, field

import pytest
from brokers import HOST, client, mosquitto_on
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from harness import site, until
from mqtt_front import Front, Mapping

from device_sim.clients.aws import AwsClient
from device_sim.clients.model import ClientOptions, Incoming
from device_sim.clients.runner import ClientFleet, RunOptions
from device_sim.options import BrokerUrl
from device_sim.shell import end_tasks

pytestmark = pytest.mark.mosquitto

IMAGE_BYTES = 307_201
SIGNATURE = "MEUCIQDmAZd1PxBOjYTMzJnPrLUMTMwSB1OTHXLCWQAxkoNCqQIgVhGRyXkQmyPvXdGE4KjfgBxcLEOkYwGhAbAI8fbbUE8="
ANSWERS = [
    ("$aws/things/dev1/jobs/" + name, 1)
    for name in ("start-next/accepted", "$next/get/accepted", "+/update/accepted", "+/update/rejected")
]
QUICK = {
    "offers.min_interval_s": 0,
    "retries.backoff_s": 0,
}
# Each beside what its product is set to: devices that hear no answers, and those that do.
LISTENING = [
    (("jobs-json", "auto-subscribe"), False),
    (("jobs-cbor", "several", "auto-subscribe"), False),
    (("jobs-json",), True),
    (("older-agent", "quick"), True),
    (("older-agent", "quick", "several", "auto-subscribe"), False),
    (("older-agent", "quick", "wildcard"), False),
    (("sdk",), False),
]


@dataclass
class Scene:
    """A site, its broker, and one device."""

    here: object
    broker: object
    port: int = 0
    seen: list = field(default_factory=list)
    holds: bool = False
    drops: frozenset = frozenset()
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    fleet: ClientFleet | None = None

    def loses(self, _device, message):
        """Loses the blocks with these numbers (as they come), and all while it holds; 30 are enough to break in."""
        if not isinstance(message, Incoming) or "/data/" not in message.topic:
            return False
        self.seen.append(message.topic)
        if len(self.seen) >= 30:
            self.enough.set()
        return self.holds or len(self.seen) in self.drops

    def client(self, *variants, **more):
        options = {"product": "", "name": "dev1", "variants": frozenset(variants), "block_bytes": 4096, **more}
        return AwsClient(ClientOptions(**options))

    @contextlib.asynccontextmanager
    async def running(self, client, **options):
        """The device on the broker (or on what stands before it) for the length of a `with`; it ends in its report."""
        settings = {"reconnect_s": 0.05, "timeout_s": 60, **options}
        broker = BrokerUrl.parse(f"mqtt://{HOST}:{self.port or self.broker.port}")
        self.fleet = ClientFleet({"dev1": client}, RunOptions(broker=broker, **settings), loses=self.loses)
        task = asyncio.create_task(self.fleet.run())
        try:
            yield task
        finally:
            await end_tasks({task})

    async def known(self):
        await until(lambda: self.here.call("device.list"))

    def release(self, **metadata):
        image = self.here.image(IMAGE_BYTES)
        given = {"aws.sig-sha256-ecdsa": SIGNATURE, **metadata}
        self.here.release(image, metadata=given)
        return hashlib.sha256(image.read_bytes()).hexdigest()

    def roll_out(self):
        self.here.call("rollout.start", release="demo/1.1.0")

    @property
    def deployments(self):
        return self.here.call("device.show", device="demo/dev1")["deployments"]

    async def is_confirmed(self):
        await until(lambda: "CONFIRMED" == self.deployments[0]["state"])
        assert "confirmed" == self.here.call("why", device="demo/dev1")["code"]


@pytest.fixture
async def scene(tmp_path, request):
    is_deaf = getattr(request, "param", False)
    products = '["demo"]' if is_deaf else "[]"
    (tmp_path / "ota-bridge.toml").write_text(f'[dialects.aws]\nproduct = "demo"\nanswer_on_notify_next = {products}\n')
    with mosquitto_on(tmp_path) as broker, site(tmp_path, broker_url=broker.url, **QUICK) as here:
        yield Scene(here, broker)


def named(cases):
    return pytest.mark.parametrize(
        ("variants", "scene"), cases, indirect=["scene"], ids=["+".join(variants) for variants, _ in cases]
    )


def is_done(report, digest):
    [one] = report.clients
    assert "" == one.went_wrong
    assert (True, "1.1.0", digest, 1) == (one.is_ok, one.outcome.version, one.outcome.sha256, one.outcome.installs)


@named(LISTENING)
async def test_a_device_takes_300_kilobytes_over_lost_blocks_and_a_broken_link(scene, variants):
    scene.drops = frozenset({3, 20})
    async with scene.running(scene.client(*variants)) as task:
        await scene.known()
        digest = scene.release()
        scene.roll_out()
        async with asyncio.timeout(30):
            await scene.enough.wait()
        scene.fleet.cut("dev1")
        is_done(await task, digest)
    await scene.is_confirmed()


@named([case for case in LISTENING if "wildcard" not in case[0]])
async def test_a_bridge_that_is_killed_in_the_middle_costs_time_only(scene, variants):
    async with scene.running(scene.client(*variants)) as task:
        await scene.known()
        digest = scene.release()
        scene.roll_out()
        async with asyncio.timeout(30):
            await scene.enough.wait()
        scene.holds = True
        scene.here.kill()
        scene.here.start()
        scene.holds = False
        is_done(await task, digest)
    await scene.is_confirmed()


@pytest.mark.parametrize("variants", [("lab",), ("lab", "jobs-cbor")], ids="+".join)
async def test_the_lab_demo_takes_it_where_the_answers_are_subscribed_in_between(scene, variants):
    async with Front(scene.broker.port, Mapping(added=ANSWERS)) as front:
        scene.port = front.port
        async with scene.running(scene.client(*variants)) as task:
            await scene.known()
            digest = scene.release()
            scene.roll_out()
            await until(lambda: "OFFERED" == scene.deployments[0]["state"])
            front.cut()  # the demo asks once, when it starts
            is_done(await task, digest)
    await scene.is_confirmed()


@pytest.mark.parametrize("scene", [True], indirect=True)
@pytest.mark.parametrize("variants", [("jobs-json",), ("older-agent", "quick")], ids="+".join)
async def test_a_device_that_hears_no_answers_finds_at_its_start_what_was_offered_before(scene, variants):
    async with scene.running(scene.client(*variants), timeout_s=20, until="never"):
        await scene.known()
    digest = scene.release()
    scene.roll_out()
    await until(lambda: "OFFERED" == scene.deployments[0]["state"])
    async with scene.running(scene.client(*variants)) as task:
        is_done(await task, digest)
    await scene.is_confirmed()


async def test_details_that_the_older_agent_needs_after_its_restart_survive_a_kill_of_the_bridge(scene):
    device = scene.client("older-agent", "quick", "auto-subscribe")
    reached = asyncio.Event()

    def loses(_device, message):
        reached.set() if not isinstance(message, Incoming) and b'"ready"' in message.payload else None
        return reached.is_set() and isinstance(message, Incoming) and "/get/accepted" in message.topic and scene.holds

    scene.loses, scene.holds = loses, True
    async with scene.running(device) as task:
        await scene.known()
        digest = scene.release()
        scene.roll_out()
        async with asyncio.timeout(30):
            await reached.wait()
        await until(lambda: "INSTALLING" == scene.deployments[0]["state"])
        scene.here.kill()
        scene.here.start()
        scene.holds = False
        scene.fleet.cut("dev1")
        is_done(await task, digest)
    await scene.is_confirmed()
    assert 1 == device.outcome.restarts


async def asks_for_a_job(broker):
    """What a device is told that asks now."""
    async with client(broker.address) as link, asyncio.timeout(20):
        await link.subscribe("$aws/things/dev1/jobs/start-next/accepted", qos=1)
        await link.publish("$aws/things/dev1/jobs/start-next", b'{"clientToken":"again"}', qos=1)
        while True:
            body = json.loads((await anext(link.messages)).payload)
            if body["clientToken"] == "again":
                return body


def other_signer(directory):
    """The device holds another key than the one that signed."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    (directory / "signer.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


@pytest.mark.parametrize(
    ("variants", "reason"),
    [
        (("older-agent", "quick", "auto-subscribe"), "0x000000e3: 0x00000000"),
        (("sdk",), "the signature does not hold"),
    ],
    ids=["older-agent", "sdk"],
)
async def test_a_bad_image_is_tried_a_few_times_fails_with_the_reason_and_then_there_is_peace(
    scene, tmp_path, variants, reason
):
    state = tmp_path / "device"
    state.mkdir()
    other_signer(state)
    async with scene.running(scene.client(*variants, state=state), until="never", timeout_s=120):
        await scene.known()
        scene.release()
        scene.roll_out()
        await until(lambda: ["FAILED"] * 3 == [one["state"] for one in scene.deployments], within_s=60)
        assert all(reason in one["cause"] for one in scene.deployments)
        assert {"timestamp", "clientToken"} == set(await asks_for_a_job(scene.broker))
        assert ("1.0.0", False) == (scene.fleet.outcome("dev1").version, scene.fleet.outcome("dev1").is_busy)
    assert "attempts" in scene.here.call("why", device="demo/dev1")["sentence"]


async def test_a_device_that_is_silent_about_a_bad_image_is_timed_out_and_left_in_peace(scene, tmp_path):
    scene.here.stop()
    scene.here.settings |= {"timeouts.downloading_s": 1, "timeouts.stall_after_s": 1, "retries.max_attempts": 1}
    scene.here.start()
    state = tmp_path / "device"
    state.mkdir()
    other_signer(state)
    device = scene.client("jobs-json", "auto-subscribe", state=state)
    async with scene.running(device, until="never", timeout_s=60):
        await scene.known()
        scene.release()
        scene.roll_out()
        await until(lambda: ["TIMED_OUT"] == [one["state"] for one in scene.deployments], within_s=40)
        assert {"timestamp", "clientToken"} == set(await asks_for_a_job(scene.broker))
    assert ("1.0.0", ("the signature does not hold",)) == (device.outcome.version, tuple(device.outcome.failures))


async def test_what_only_the_author_knows_is_asked_for_and_then_the_device_is_served(scene):
    async with scene.running(scene.client("sdk")) as task:
        await scene.known()
        image = scene.here.image(20_000)
        scene.here.release(image)
        scene.roll_out()
        await until(lambda: "lacks aws.sig-sha256-ecdsa" in scene.here.call("why", device="demo/dev1")["sentence"])
        scene.here.call("release.describe", release="demo/1.1.0", metadata={"aws.sig-sha256-ecdsa": SIGNATURE})
        is_done(await task, hashlib.sha256(image.read_bytes()).hexdigest())
    await scene.is_confirmed()
