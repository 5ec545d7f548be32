"""Updates through a line that cuts, loses, doubles, delays, swaps and stalls; each device meets a moment of its own."""

import asyncio
import os
import random
import time

import pytest
from brokers import Mosquitto, mosquitto  # noqa: F401 - a fixture
from harness import Fleet, site, until

from tests.faults import link
from tests.faults.link import CHUNK_BYTES, IMAGE_BYTES, SETTINGS, Kind, byte_sweep, cut_sweep, updates
from tests.faults.proxy import Fault, Proxy

pytestmark = pytest.mark.mosquitto
SAMPLE = 30


def seeded(request) -> random.Random:
    seed = int(os.environ.get("OTA_SEED") or time.time_ns() % 1_000_000)
    print(f"{request.node.name}: OTA_SEED={seed}")
    return random.Random(seed)


def published(tmp_path, broker):
    return site(tmp_path, broker_url=broker.url, **SETTINGS)


async def test_a_cut_at_any_packet_or_byte_ends_no_update_and_costs_a_chunk_at_most(tmp_path, mosquitto, request):  # noqa: F811
    rng = seeded(request)
    with published(tmp_path, mosquitto) as here:
        here.call("rollout.start", release=here.release(here.image(IMAGE_BYTES)))
        length = await link.measured(here, mosquitto.port, "m-")
        assert min(length.packets.values()) > 10
        plans = rng.sample(cut_sweep(length), SAMPLE) + rng.sample(byte_sweep(length), SAMPLE)
        proxy = await updates(here, mosquitto.port, plans, "c-")
        assert len(proxy.struck()) >= 0.9 * len(plans), "a plan that strikes nobody tests nothing"


async def test_five_faults_of_any_kind_end_no_update(tmp_path, mosquitto, request):  # noqa: F811
    rng = seeded(request)
    with published(tmp_path, mosquitto) as here:
        here.call("rollout.start", release=here.release(here.image(IMAGE_BYTES)))
        length = await link.measured(here, mosquitto.port, "m-")
        proxy = await updates(here, mosquitto.port, [link.random_plan(rng, length) for _ in range(SAMPLE)], "r-")
        assert len(proxy.struck()) > SAMPLE


async def test_a_bridge_whose_links_are_cut_again_and_again_loses_no_report_and_no_update(
    tmp_path,
    mosquitto,  # noqa: F811
    request,
):
    rng = seeded(request)

    def plan(client_id):
        kinds = [Kind.CUT_BEFORE, Kind.CUT_AFTER, Kind.DELAY, Kind.STALL, Kind.HALF_OPEN]
        return [
            Fault(kind=rng.choice(kinds), direction=rng.choice(["up", "down"]), at=rng.randrange(150), seconds=0.3)
            for _ in range(6)
        ]

    async with Proxy(mosquitto.port, plan) as proxy:
        with site(tmp_path, start=False, **{"offers.resend_after_s": 2}) as here:
            here.broker_url = proxy.url
            await asyncio.to_thread(here.start)
            release = await asyncio.to_thread(lambda: here.release(here.image(8 * CHUNK_BYTES)))
            here.broker_url = mosquitto.url
            async with Fleet(here.fleet(count=30, timeout_s=90, check_in_every_s=5)) as fleet:
                await until(lambda: len(here.call("device.list")) == 30)
                await asyncio.to_thread(here.call, "rollout.start", release=release)
                report = await fleet.report()
            assert ["confirmed"] * 30 == [device.result for device in report.devices], "I3"
            await until(lambda: here.call("rollout.list")[0]["confirmed"] == 30)
    assert {"bridge-control", "bridge-blocks"} <= set(proxy.clients)
    assert len(proxy.struck()) >= 4
