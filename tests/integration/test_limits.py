"""Fleet-wide caps on a real mosquitto, as an outside subscriber in a process of its own counts every second.

Windows of one second begin at any moment. What the caps count is everything on the block topics.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from brokers import HOST, mosquitto_on
from harness import Fleet, Site, site, until, worker_of
from onlooker import Onlooker, looking_on, most_blocks, most_bytes, most_devices

pytestmark = pytest.mark.mosquitto


@dataclass
class Scene:
    """A bridge beside a mosquitto, and somebody who watches the block topics."""

    here: Site
    onlooker: Onlooker

    def rollout(self, image_bytes: int) -> None:
        """A release for all, in blocks of 1,024 bytes."""
        self.here.call("rollout.start", release=self.here.release(self.here.image(image_bytes)))

    def fleet(self, count: int) -> Fleet:
        return Fleet(self.here.fleet(count=count, block_bytes=1024, timeout_s=120))

    async def everyone_confirms(self, fleet: Fleet) -> None:
        report = await fleet.report()
        assert {} == self.here.unconfirmed(report)
        assert report.ok

    async def until_blocks(self, number: int) -> None:
        await until(lambda: len(self.onlooker.blocks()) >= number, within_s=60)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with (
        mosquitto_on(tmp_path) as broker,
        site(tmp_path, broker_url=broker.url) as here,
        looking_on(HOST, broker.port, "$ota/block/#", tmp_path / "sights") as onlooker,
    ):
        yield Scene(here, onlooker)


@pytest.mark.slow
async def test_fifty_slots_are_never_fifty_one_and_two_hundred_devices_all_arrive(scene: Scene):
    scene.here.call("limits.set", downloads=50)
    scene.rollout(16 * 1024)
    async with scene.fleet(200) as fleet:
        await until(lambda: scene.here.call("limits.show")["in_use"]["waiting_for_slot"], within_s=60, every_s=0.3)
        waits = await until(lambda: one_that_waits(scene.here), every_s=0.3)
        assert "waits for one of 50 download slots" in waits
        await scene.everyone_confirms(fleet)
    blocks = scene.onlooker.blocks()
    assert 200 == len({sight.device for sight in blocks})
    assert 40 <= most_devices(blocks) <= 50


def one_that_waits(here: Site) -> str | None:
    """What `why` says of a device that waits for a slot."""
    found = (here.call("why", device=one["id"]) for one in here.call("device.list")[::20])
    return next((str(one["sentence"]) for one in found if one["code"] == "waits_for_slot"), None)


async def test_no_second_shows_more_blocks_than_the_cap(scene: Scene):
    scene.here.call("limits.set", blocks_per_s=150)
    scene.rollout(40 * 1024)
    async with scene.fleet(12) as fleet:
        await scene.everyone_confirms(fleet)
    assert 100 <= most_blocks(scene.onlooker.blocks()) <= 150


async def test_no_second_shows_more_bytes_than_the_cap(scene: Scene):
    scene.here.call("limits.set", bytes_per_s=150_000)
    scene.rollout(40 * 1024)
    async with scene.fleet(12) as fleet:
        await scene.everyone_confirms(fleet)
    assert 100_000 <= most_bytes(scene.onlooker.sights()) <= 150_000


@pytest.mark.parametrize("killed", ["the daemon", "the block plane's process"])
async def test_the_caps_hold_across_kills(scene: Scene, killed: str):
    scene.here.call("limits.set", downloads=5, blocks_per_s=150)
    scene.rollout(24 * 1024)
    async with scene.fleet(15) as fleet:
        for wanted in (60, 180):
            await scene.until_blocks(wanted)
            if killed == "the daemon":
                scene.here.kill()
                await asyncio.to_thread(scene.here.start)
            else:
                os.kill(worker_of(scene.here), signal.SIGKILL)
        await scene.everyone_confirms(fleet)
    blocks = scene.onlooker.blocks()
    assert most_devices(blocks) <= 5
    assert most_blocks(blocks) <= 150
    assert 5 == scene.here.call("limits.show")["downloads"]


async def test_the_caps_hold_while_they_are_changed(scene: Scene):
    steps, begun, ended = [(8, 300), (2, 100), (6, 200)], [], []
    scene.here.call("limits.set", downloads=8, blocks_per_s=300)
    scene.rollout(24 * 1024)
    async with scene.fleet(20) as fleet:
        for number, (downloads, blocks_per_s) in enumerate(steps):
            begun.append(time.monotonic())
            await asyncio.to_thread(scene.here.call, "limits.set", downloads=downloads, blocks_per_s=blocks_per_s)
            ended.append(time.monotonic())
            await scene.until_blocks(len(scene.onlooker.blocks()) + 50 * (number < 2))
        await scene.everyone_confirms(fleet)
    blocks = scene.onlooker.blocks()
    for (downloads, blocks_per_s), since, until_ in zip(steps, ended, [*begun[1:], float("inf")], strict=True):
        under = [sight for sight in blocks if since <= sight.at < until_]
        assert under, "the step was too short to show anything"
        assert most_devices(under) <= downloads
        assert most_blocks(under) <= blocks_per_s
    assert most_devices(blocks) <= 8
    assert most_blocks(blocks) <= 300
