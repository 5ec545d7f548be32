"""Alibaba's clients on a real mosquitto with the real daemon; a client that would hang or run wild ends its test."""

import asyncio
import contextlib
import hashlib
import json

import pytest
from brokers import mosquitto_on
from harness import site, tap, until
from mqtt_front import Front, Mapping

from device_sim.clients.alibaba import alibaba_client
from device_sim.clients.model import ClientOptions, Incoming
from device_sim.clients.runner import ClientFleet, RunOptions
from device_sim.options import BrokerUrl

pytestmark = pytest.mark.mosquitto

IMAGE_BYTES = 300_001
SETTINGS = "[dialects.alibaba]\nresend_s = 20\n"
VARIANTS = {
    "d-sdk": {"subscribed"},
    "d-queries": {"subscribed", "queries", "brisk"},
    "d-field": {"field"},
    "d-polls": {"polls"},
}
UPGRADES = "/ota/device/upgrade/#"


@contextlib.contextmanager
def world(directory, text=SETTINGS, **settings):
    """A broker, and a daemon that has Alibaba set up."""
    (directory / "ota-bridge.toml").write_text(text)
    with mosquitto_on(directory) as broker, site(directory, broker_url=broker.url, **settings) as here:
        yield here


def clients(variants):
    return {
        name: alibaba_client(
            ClientOptions(
                product="demo", name=name, variants=frozenset(chosen),
                block_bytes=256 if chosen & {"field", "polls"} else 10240,
            )
        )
        for name, chosen in variants.items()
    }  # fmt: skip


@contextlib.asynccontextmanager
async def running(here, made, *, url="", **options):
    """These clients, connected and known to the bridge, for the length of a `with`."""
    loses = options.pop("loses", lambda _device, _message: False)
    settings = {"timeout_s": 100.0, "reconnect_s": 0.2, "stay": True, "until": "1.1.0"} | options
    fleet = ClientFleet(made, RunOptions(broker=BrokerUrl.parse(url or here.url), **settings), loses=loses)
    stop = asyncio.Event()
    run = asyncio.create_task(fleet.run(stop))
    try:
        await until(lambda: len(made) == len(here.call("device.list")))
        yield fleet
    finally:
        stop.set()
        report = await run
        assert () == tuple(report.went_wrong)


def publish(here):
    image = here.image(IMAGE_BYTES)
    return here.release(image), hashlib.sha256(image.read_bytes()).hexdigest()


def states(here, name):
    """Of its attempts, newest first."""
    return [one["state"] for one in here.call("device.show", device=f"demo/{name}")["deployments"]]


def all_confirmed(here, made):
    return all(["CONFIRMED"] == states(here, name) for name in made)


def block_of(message):
    """The offset that a reply with a block begins at; None for anything else."""
    if not isinstance(message, Incoming) or not message.topic.endswith("/download_reply"):
        return None
    head_bytes = int.from_bytes(message.payload[:2], "big")
    return json.loads(message.payload[2 : 2 + head_bytes])["data"].get("bOffset")


def check_whole(made, sha256, *, tasks=1):
    for name, client in made.items():
        outcome = client.outcome
        assert ("1.1.0", sha256, 1, ()) == (
            outcome.version, outcome.sha256, outcome.installs, tuple(outcome.failures),
        ), name  # fmt: skip
        assert client.tasks <= tasks, name


async def test_every_client_gets_300_kb_with_one_task_and_confirms_it(tmp_path):
    with world(tmp_path) as here:
        made = clients(VARIANTS)
        async with running(here, made) as fleet:
            release, sha256 = publish(here)
            here.call("rollout.start", release=release)
            fleet.cut("d-polls")  # it asks when it connects, and else once a minute
            await until(lambda: all_confirmed(here, made), within_s=40)
        check_whole(made, sha256)
        why = here.call("why", device="demo/d-sdk")
        assert "it runs the assigned firmware demo/1.1.0" in why["sentence"]


async def test_an_sdk_behind_a_front_with_a_prefix_and_added_subscriptions_is_updated_as_it_is(tmp_path):
    mapping = Mapping(
        prefix=lambda seen: f"site/ali/{seen.username.partition('&')[0]}",
        added=[
            ("/ota/device/upgrade/+/+", 0),
            ("/sys/+/+/thing/ota/firmware/get_reply", 0),
            ("/sys/+/+/thing/file/download_reply", 0),
        ],
    )
    with world(tmp_path, SETTINGS + 'prefix = "site/ali"\n') as here:
        async with Front(BrokerUrl.parse(here.url).port, mapping) as front:
            made = clients({"d1": {"sdk", "brisk"}, "d2": {"sdk", "queries"}, "d3": {"field"}})
            async with running(here, made, url=f"mqtt://127.0.0.1:{front.port}"):
                release, sha256 = publish(here)
                here.call("rollout.start", release=release)
                await until(lambda: all_confirmed(here, made), within_s=40)
        check_whole(made, sha256)


@pytest.mark.slow
async def test_a_lost_block_and_a_broken_link_cost_time_and_no_more(tmp_path):
    struck = {}

    def loses(device, message):
        if device not in struck and (block_of(message) or 0) > 50_000:
            struck[device] = message
            if device.startswith("cut"):
                fleet.cut(device)
            return True
        return False

    with world(tmp_path) as here:
        made = clients({f"{how}-{kind[2:]}": chosen for how in ("lost", "cut") for kind, chosen in VARIANTS.items()})
        async with running(here, made, loses=loses) as fleet:
            release, sha256 = publish(here)
            here.call("rollout.start", release=release)
            for name in ("lost-polls", "cut-polls"):
                fleet.cut(name)
            await until(lambda: all_confirmed(here, made), within_s=90)
        assert set(made) == set(struck)
        check_whole(made, sha256, tasks=2)
        sdk = [client.tasks for name, client in made.items() if name.endswith(("sdk", "queries"))]
        assert [1] * 4 == sdk, "the SDK goes on where it was"


@pytest.mark.slow
async def test_a_bridge_that_is_killed_in_the_middle_goes_on_where_its_devices_wait(tmp_path):
    far, is_down = set(), asyncio.Event()

    def loses(device, message):
        if (block_of(message) or 0) > 50_000 and not is_down.is_set():
            far.add(device)
            return True
        return False

    with world(tmp_path) as here:
        made = clients({"d-sdk": {"subscribed"}, "d-field": {"field"}})
        async with running(here, made, loses=loses):
            release, sha256 = publish(here)
            here.call("rollout.start", release=release)
            await until(lambda: len(far) == len(made))
            here.kill()
            is_down.set()
            here.start()
            await until(lambda: all_confirmed(here, made), within_s=90)
        check_whole(made, sha256, tasks=2)
        assert 1 == made["d-sdk"].tasks


async def test_a_device_that_was_off_finds_its_task_when_it_informs(tmp_path):
    with world(tmp_path) as here:
        made = clients({"d1": {"subscribed", "brisk"}})
        async with running(here, made):
            pass  # it is known now
        release, sha256 = publish(here)
        here.call("rollout.start", release=release)
        await until(lambda: ["OFFERED"] == states(here, "d1"))
        made = clients({"d1": {"subscribed", "brisk"}})
        async with running(here, made):
            await until(lambda: all_confirmed(here, made), within_s=50)
        check_whole(made, sha256)


@pytest.mark.slow
async def test_a_checksum_that_is_wrong_every_time_fails_with_its_reason_and_the_device_is_left_in_peace(tmp_path):
    with world(tmp_path, **{"retries.backoff_s": 0.5, "offers.min_interval_s": 0}) as here:
        made = clients({"d1": {"subscribed", "brisk", "bad-flash"}})
        async with tap(here.url, UPGRADES) as seen, running(here, made) as fleet:
            release, _ = publish(here)
            here.call("rollout.start", release=release)
            await until(lambda: ["FAILED"] * 3 == states(here, "d1"), within_s=60)
            why = here.call("why", device="demo/d1")
            fleet.cut("d1")
            await until(lambda: here.is_silent, within_s=40)
            assert 3 == len(seen.seen)
        assert ("-3",) * 3 == tuple(made["d1"].outcome.failures)
        assert "-3 the checksum does not match" in why["sentence"]


async def test_limits_hold_a_device_up_and_fail_nobody(tmp_path):
    with world(tmp_path) as here:
        made = clients({"d1": {"subscribed", "brisk"}, "d2": {"subscribed", "brisk"}, "d3": {"field"}})
        async with running(here, made):
            here.call("limits.set", downloads=1, blocks_per_s=400)
            release, sha256 = publish(here)
            here.call("rollout.start", release=release)
            await until(lambda: all_confirmed(here, made), within_s=90)
        check_whole(made, sha256)
