"""All dialects in one rollout: one release, one summary, one `why`, on a real mosquitto."""

import asyncio
import contextlib
import hashlib

import pytest
from brokers import HOST, free_port, mosquitto_on
from harness import Fleet, site, until
from mqtt_front import Front, Mapping

from device_sim.clients.alibaba import alibaba_client
from device_sim.clients.aws import AwsClient
from device_sim.clients.model import ClientOptions
from device_sim.clients.runner import ClientFleet, RunOptions
from device_sim.clients.tencent import tencent_client
from device_sim.clients.thingsboard import thingsboard_client
from device_sim.clients.xively import xively_client
from device_sim.options import BrokerUrl

pytestmark = [pytest.mark.mosquitto, pytest.mark.slow]

PRODUCT, OLD, NEW = "PROD0001AB", "1.0.0", "2.0.0"
IMAGE_BYTES = 300_000
SETTINGS = f"""
[offers]
min_interval_s = 1.0

[dialects.alibaba]
[dialects.aws]
product = "{PRODUCT}"
[dialects.thingsboard]
product = "{PRODUCT}"
[dialects.xively]
product = "{PRODUCT}"
"""
MAPPING = Mapping(
    prefix=lambda seen: f"tb/{seen.username}/",
    filters={"v2/fw/response/+": "v2/fw/response/+/chunk/+"},
    added=[("v2/fw/response/+/chunk/+", 0)],
)
SIGNATURE = "aws.sig-sha256-ecdsa"
BY_CLAIM = f"{PRODUCT}/thing1"


def clients(files_port):
    """One or two devices of each vendor, by name."""

    def options(name, *variants, **more):
        return ClientOptions(product=PRODUCT, name=name, version=OLD, variants=frozenset(variants), **more)

    return {
        "hub1": tencent_client(options("hub1", f"via={HOST}:{files_port}")),
        "xi1": xively_client(options("xi1")),
        "xi2": xively_client(options("xi2", "esp32")),
        "thing1": AwsClient(options("thing1", "jobs-json", "auto-subscribe")),
        "ali1": alibaba_client(options("ali1", "subscribed")),
    }


@contextlib.asynccontextmanager
async def running(made, place):
    """These clients, connected, for the length of a `with`."""
    run = RunOptions(
        broker=BrokerUrl.parse(f"mqtt://{HOST}:{place.port}"), stay=True, timeout_s=150, reconnect_s=0.2, until=NEW
    )
    fleet, stop = ClientFleet(made, run), asyncio.Event()
    task = asyncio.create_task(fleet.run(stop))
    try:
        yield
    finally:
        stop.set()
        assert () == tuple((await task).went_wrong)


async def test_six_dialects_are_updated_by_one_rollout_of_one_release(tmp_path):
    (tmp_path / "ota-bridge.toml").write_text(SETTINGS)
    files = {"files.host": HOST, "files.port": free_port(), "files.url": "http://ota.test"}
    with mosquitto_on(tmp_path) as broker, site(tmp_path, broker_url=broker.url, **files) as here:
        front = Front(broker.port, MAPPING)
        made = clients(files["files.port"])
        behind = {
            "tb1": thingsboard_client(ClientOptions(product=PRODUCT, name="tb1", variants=frozenset({"python"}))),
        }
        native = Fleet(here.fleet(count=2, product=PRODUCT, version=OLD, timeout_s=150))
        async with front, running(made, broker), running(behind, front), native:
            await until(lambda: len(made) + len(behind) + 2 == len(here.call("device.list")), within_s=40)
            image = here.image(IMAGE_BYTES)
            release = here.release(image, version=NEW, product=PRODUCT)
            rollout = here.call("rollout.start", release=release)["id"]
            # What only the author can supply is asked for by name; nobody else waits for it.
            await until(lambda: SIGNATURE in here.call("why", device=BY_CLAIM)["sentence"])
            lacks = here.call("release.describe", release=release, metadata={SIGNATURE: "c2lnbmF0dXJl"})["lacks"]
            assert {} == lacks
            await until(lambda: here.call("rollout.status", rollout=rollout)["complete"], within_s=150)
            status = here.call("rollout.status", rollout=rollout)
            assert {"CONFIRMED": len(made) + len(behind) + 2} == {
                state: count for state, count in status["counts"].items() if count
            }
        devices = {one["id"]: one for one in here.call("device.list")}
        assert {"native", "tencent", "xively", "aws", "alibaba", "thingsboard"} == {
            here.call("device.show", device=name)["dialect"] for name in devices
        }
        why = {name: here.call("why", device=name) for name in devices}
    assert {"confirmed"} == {one["code"] for one in why.values()}
    assert [BY_CLAIM] == [name for name, one in why.items() if "says that it is done" in one["sentence"]]
    sha256 = hashlib.sha256(image.read_bytes()).hexdigest()
    assert dict.fromkeys(made | behind, sha256) == {
        name: client.outcome.sha256 for name, client in (made | behind).items()
    }
