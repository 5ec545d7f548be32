"""SIGKILL of the daemon, the broker and the devices in the middle of things: nothing acknowledged is lost, all arrive."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgpack
import pytest
from brokers import Mosquitto, mosquitto  # noqa: F401 - a fixture
from harness import Fleet, Site, Tap, site, tap, until

from tests.faults.process import acknowledged, stored

DEVICES = 200
KILLS = 10
IMAGE_BYTES = 96 * 1024
CHUNK_BYTES = 4096


def seed_of(request: pytest.FixtureRequest) -> int:
    """From OTA_SEED, else the time; printed, so that a failure can be run again."""
    seed = int(os.environ.get("OTA_SEED") or time.time_ns() % 1_000_000)
    print(f"{request.node.name}: OTA_SEED={seed}")
    return seed


@pytest.mark.mosquitto
async def test_ten_kills_of_the_daemon_lose_no_acknowledged_report(tmp_path, mosquitto: Mosquitto, request):  # noqa: F811
    rng = random.Random(seed_of(request))
    with site(tmp_path, broker_url=mosquitto.url) as here:
        release = here.release(here.image(IMAGE_BYTES))
        async with (
            tap(mosquitto.url, "$ota/update/#") as seen,
            Fleet(here.fleet(count=DEVICES, pace_bps=8_000, timeout_s=150, check_in_every_s=10)) as fleet,
        ):
            await until(lambda: len(here.call("device.list")) == DEVICES)
            here.call("rollout.start", release=release)
            for _ in range(KILLS):
                await asyncio.sleep(rng.uniform(0.1, 1.5))
                here.kill()
                await asyncio.to_thread(here.start)
            restarted = time.monotonic()
            report = await fleet.report()
            took_s = time.monotonic() - restarted
            assert {} == here.unconfirmed(report)
            assert took_s <= 60, f"{took_s:.1f} s after the last restart"
            await until(lambda: here.call("rollout.list")[0]["confirmed"] == DEVICES)
        acks = acknowledged(seen)
        assert len(acks) > DEVICES
        assert set() == acks - stored(here)


@pytest.mark.mosquitto
async def test_kills_of_the_broker_end_no_update(tmp_path, mosquitto: Mosquitto, request):  # noqa: F811
    rng = random.Random(seed_of(request))
    with site(tmp_path, broker_url=mosquitto.url) as here:
        release = here.release(here.image(IMAGE_BYTES))
        async with Fleet(here.fleet(count=DEVICES, pace_bps=8_000, timeout_s=150, check_in_every_s=10)) as fleet:
            await until(lambda: len(here.call("device.list")) == DEVICES)
            here.call("rollout.start", release=release)
            for _ in range(KILLS):
                await asyncio.sleep(rng.uniform(0.1, 1.5))
                mosquitto.kill()
                await asyncio.to_thread(mosquitto.start)
            restarted = time.monotonic()
            report = await fleet.report()
            took_s = time.monotonic() - restarted
            assert {} == here.unconfirmed(report)
            assert took_s <= 60, f"{took_s:.1f} s after the last restart"


def start_device(here: Site, state: Path, *, block: int, window: int, pace: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "device_sim", "run", "--broker", here.url, "--trust", str(here.trust)]
    options = {"--block": block, "--window": window, "--pace": pace, "--state": state, "--telemetry-hz": 0}
    flat = [str(part) for pair in options.items() for part in pair]
    return subprocess.Popen([*command, *flat, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


@pytest.mark.mosquitto
async def test_a_killed_device_asks_again_for_at_most_a_chunk_and_a_window(tmp_path, mosquitto: Mosquitto, request):  # noqa: F811
    rng = random.Random(seed_of(request))
    block, window, kills = 1024, 4, 20
    with site(tmp_path, broker_url=mosquitto.url) as here:
        image = here.image(256 * 1024)
        here.call("rollout.start", release=here.release(image))
        state = tmp_path / "flash"
        points = sorted(rng.sample(range(10 * 1024, 246 * 1024), kills))
        async with tap(mosquitto.url, "$ota/get/#") as seen:
            for point in [*points, None]:
                device = start_device(here, state, block=block, window=window, pace=150_000)
                try:
                    if point is not None:
                        await until(
                            lambda p=point, d=device: furthest(seen) >= p or d.poll() is not None, every_s=0.005
                        )
                        assert device.poll() is None, f"it ended before {point}"
                    else:
                        out, _ = await asyncio.to_thread(device.communicate, timeout=60)
                finally:
                    with contextlib.suppress(ProcessLookupError):
                        device.send_signal(signal.SIGKILL)
                    device.wait()
                    assert device.stdout is not None
                    device.stdout.close()
        final = json.loads(out.splitlines()[-1])
        assert ["confirmed"] == [one["result"] for one in final["devices"]]
        again = asked_bytes(seen) - 256 * 1024
        assert again <= kills * (CHUNK_BYTES + block * window), f"{again} bytes asked again in {kills} kills"


def requests(seen: Tap) -> list[tuple[bytes, int, int, int]]:
    """(artifact, offset, size, blocks asked for) of each request for the image (the most asked-for artifact)."""
    found = [msgpack.unpackb(payload) for _, _, payload in seen.seen]
    names = [request[0] for request in found]
    image = max(set(names), key=names.count) if names else b""
    rows = []
    for artifact, offset, size, count, *missing in found:
        if artifact == image:
            wanted = sum(byte.bit_count() for byte in missing[0]) if missing else count
            rows.append((artifact, offset, size, min(wanted, count)))
    return rows


def furthest(seen: Tap) -> int:
    return max((offset for _, offset, _, _ in requests(seen)), default=0)


def asked_bytes(seen: Tap) -> int:
    """What was asked for in all, without what lies past the end."""
    return sum(max(0, min(count * size, 256 * 1024 - offset)) for _, offset, size, count in requests(seen))
