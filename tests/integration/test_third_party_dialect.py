"""A dialect that is not part of the bridge: installed by its entry point, it needs nothing else than its own files."""

import asyncio
import hashlib
import json
import os
from pathlib import Path

import aiomqtt
import pytest
from brokers import HOST, mosquitto_on
from harness import site, until

TESTS = Path(__file__).parents[1]
UP, DOWN = "toy/demo/t1/up", "toy/demo/t1/down"

pytestmark = pytest.mark.mosquitto


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """As `pip install` leaves a package: its module, and the file that names its entry points."""
    place = tmp_path / "site-packages"
    about = place / "ota_bridge_toy-1.0.dist-info"
    about.mkdir(parents=True)
    (place / "toy_dialect.py").write_text((TESTS / "toy_dialect.py").read_text())
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ota-bridge-toy\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[ota_bridge.dialects]\ntoy = toy_dialect:ToyDialect\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(place), *filter(None, [os.environ.get("PYTHONPATH")])]))
    (tmp_path / "ota-bridge.toml").write_text('[dialects.toy]\ngreeting = "hello"\n')
    return tmp_path


class Toy:
    """What a device of this protocol does."""

    def __init__(self, client):
        self.client = client

    async def says(self, **body):
        await self.client.publish(UP, json.dumps(body), qos=1)

    async def hears(self):
        async with asyncio.timeout(20):
            return bytes((await anext(self.client.messages)).payload)

    async def hears_offer(self):
        while b"offer" not in (heard := await self.hears()):
            pass
        return json.loads(heard)

    async def downloads(self, size_bytes):
        image = b""
        while len(image) < size_bytes:
            await self.says(get=len(image))
            place, _, data = (await self.hears()).partition(b":")
            if place == f"{len(image)}/{size_bytes}".encode():
                image += data
        return image


async def test_a_third_partys_device_is_updated_through_its_entry_point(installed):
    with mosquitto_on(installed) as broker, site(installed, broker_url=broker.url) as here:
        image = here.image(3000)
        async with aiomqtt.Client(HOST, broker.port, identifier="t1") as client:
            await client.subscribe(DOWN, qos=0)
            toy = Toy(client)
            await toy.says(runs="1.0.0")
            assert {"greeting": "hello"} == json.loads(await toy.hears())
            here.call("rollout.start", release=here.release(image))
            offer = await toy.hears_offer()
            data = await toy.downloads(offer["size"])
            assert hashlib.sha256(image.read_bytes()).hexdigest() == hashlib.sha256(data).hexdigest()
            await toy.says(said="burning")
            await until(lambda: "installing" == here.call("why", device="demo/t1")["code"])
            await toy.says(runs=offer["offer"])
            await until(lambda: "confirmed" == here.call("why", device="demo/t1")["code"])
        [one] = here.call("device.show", device="demo/t1")["deployments"]
        assert "CONFIRMED" == one["state"]
