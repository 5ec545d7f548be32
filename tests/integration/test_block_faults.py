"""The daemon's block plane under faults of disk and broker, with a raw client that checks every byte."""

import asyncio
import contextlib
import os
import random
import signal
from pathlib import Path

import aiomqtt
import msgpack
import pytest
from brokers import Mosquitto, client, mosquitto  # noqa: F401 - a fixture
from harness import Site, site, until

pytestmark = pytest.mark.mosquitto
SIZE, BLOCK = 600_000, 4096
BUSY = 4
OFTEN = {"blocks.refusals_per_s": 1000}  # these devices ask again at once, and want to be told each time


class Device:
    """A device that was offered the image and asks for what a test wants."""

    def __init__(self, here: Site, image: Path, connected: aiomqtt.Client) -> None:
        self.data = image.read_bytes()
        self.name = next(here.data.glob("blobs/*/*")).name
        self.connected = connected

    async def ask(self, offset: int, count: int = 1) -> None:
        request = msgpack.packb([bytes.fromhex(self.name)[:8], offset, BLOCK, count])
        await self.connected.publish("$ota/get/demo/d1", request)

    async def next(self, within_s: float = 10) -> tuple[int, bytes | int]:
        async with asyncio.timeout(within_s):
            async for message in self.connected.messages:
                _, offset, data, *_ = msgpack.unpackb(message.payload)
                if isinstance(data, bytes):
                    assert self.data[offset : offset + BLOCK] == data, f"wrong bytes at {offset}"
                return offset, data
        raise AssertionError

    async def answer(self, offset: int) -> bytes | int:
        """What one request gets."""
        await self.ask(offset)
        found, data = await self.next()
        assert found == offset
        return data

    async def until_answer(self, offset: int, expected) -> None:
        async with asyncio.timeout(10):
            while not expected(await self.answer(offset)):
                await asyncio.sleep(0.05)


CHECK_IN = {
    "type": "report_version", "report": {"version": "1.0.0"}, "proto": 1, "hw": "r1", "boot": 1, "seq": 1,
    "nonce": bytes(16), "max_packet": 20_000, "parts": {"firmware": ["1.0.0", 0, b"", 0]},
}  # fmt: skip


@contextlib.asynccontextmanager
async def offered(here: Site, broker: Mosquitto):
    """A site with one release, and a device that may fetch it."""
    image = here.image(SIZE)
    here.call("rollout.start", release=here.release(image))
    async with client(broker.address) as connected:
        await connected.subscribe("$ota/block/demo/d1")
        await connected.publish("$ota/report/demo/d1", msgpack.packb(CHECK_IN), qos=1)
        await until(lambda: here.rows("SELECT 1 FROM deployments WHERE state = 'OFFERED'"))
        yield Device(here, image, connected)


def blob(here: Site) -> Path:
    path = next(here.data.glob("blobs/*/*"))
    path.chmod(0o644)
    return path


@pytest.mark.parametrize("process", ["own", "shared"])
async def test_an_image_altered_while_it_is_served_is_refused_and_a_good_copy_heals_it(tmp_path, mosquitto, process):  # noqa: F811
    with site(tmp_path, broker_url=mosquitto.url, **{"blocks.process": process}, **OFTEN) as here:
        async with offered(here, mosquitto) as device:
            assert isinstance(await device.answer(0), bytes)
            with blob(here).open("r+b") as file:
                file.seek(100_000)
                file.write(b"\0" * 5000)
            await device.until_answer(98_304, lambda data: data == BUSY)
            assert isinstance(await device.answer(0), bytes), "what is whole is served"
            assert 0 < here.call("bridge.status")["served"]["damaged"] or await until(
                lambda: here.call("bridge.status")["served"]["damaged"]
            )
            here.release(tmp_path / "fw.bin")
            await device.until_answer(98_304, lambda data: isinstance(data, bytes))


async def test_an_image_cut_short_while_it_is_served_ends_nothing(tmp_path, mosquitto):  # noqa: F811
    with site(tmp_path, broker_url=mosquitto.url, **OFTEN) as here:
        async with offered(here, mosquitto) as device:
            assert isinstance(await device.answer(0), bytes)
            os.truncate(blob(here), 70_000)
            await device.until_answer(500_000 // BLOCK * BLOCK, lambda data: data == BUSY)
            here.release(tmp_path / "fw.bin")
            await device.until_answer(500_000 // BLOCK * BLOCK, lambda data: isinstance(data, bytes))
            assert here.process.poll() is None


def anonymous_kib(here: Site) -> int:
    """RssAnon of the daemon and its child."""
    parent, total = f"PPid:\t{here.process.pid}\n", 0
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            text = path.read_text()
            if path.parent.name == str(here.process.pid) or parent in text:
                total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("RssAnon"))
    return total


async def test_a_broker_that_stops_reading_in_the_middle_costs_no_memory_and_loses_nothing(tmp_path, mosquitto):  # noqa: F811
    with site(tmp_path, broker_url=mosquitto.url, **{"blocks.device_burst_blocks": 100_000}) as here:
        async with offered(here, mosquitto) as device:
            offsets = list(range(0, SIZE - 16 * BLOCK, BLOCK))
            random.Random(1).shuffle(offsets)
            for offset in offsets[:20]:
                await device.ask(offset, 16)
                for _ in range(16):
                    await device.next()
            before = anonymous_kib(here)
            os.kill(mosquitto.pid, signal.SIGSTOP)
            try:
                for offset in offsets * 4:  # 34 MB of blocks, if anybody took them
                    await device.ask(offset, 16)
                await asyncio.sleep(0.5)
                assert anonymous_kib(here) - before < 8 * 1024
            finally:
                os.kill(mosquitto.pid, signal.SIGCONT)
            came = 0
            with contextlib.suppress(TimeoutError):  # mosquitto keeps 1,000 messages for a reader and drops the rest
                while True:
                    await device.next(within_s=1)
                    came += 1
            assert came > 100
            assert device.data[:BLOCK] == await device.answer(0)
            assert anonymous_kib(here) - before < 8 * 1024


async def test_a_broker_killed_in_the_middle_of_many_requests_is_found_again_and_served(tmp_path, mosquitto):  # noqa: F811
    with site(tmp_path, broker_url=mosquitto.url) as here:
        async with offered(here, mosquitto) as device:
            for offset in range(0, SIZE, BLOCK):
                await device.ask(offset, 4)
            mosquitto.kill()
            mosquitto.start()
        await until(lambda: here.call("bridge.status")["blocks"] == "up")
        async with client(mosquitto.address) as connected:
            await connected.subscribe("$ota/block/demo/d1")
            device.connected = connected
            assert device.data[:BLOCK] == await device.answer(0)
