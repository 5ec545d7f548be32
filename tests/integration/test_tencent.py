"""Tencent's devices on a real mosquitto with the real daemon; a client that would crash or hang ends its test."""

import asyncio
import contextlib
import hashlib
import json
import re

import pytest
from brokers import free_port, mosquitto_on
from harness import site, tap, until
from web_server import WebServer

from device_sim.clients.model import ClientOptions
from device_sim.clients.runner import ClientFleet, RunOptions
from device_sim.clients.tencent import tencent_client
from device_sim.options import BrokerUrl

pytestmark = [pytest.mark.mosquitto, pytest.mark.slow]

IMAGE_BYTES = 300_000
PRODUCT, NEW = "PROD0001AB", "2.0.0"
SETTINGS = '[dialects.tencent]\nresources = ["voice"]\nresend_s = 3\n'
CHILDREN = ("LIGHTS/light1", "LIGHTS/light2", "LIGHTS/light3", "AIRCONS/aircon1")


@contextlib.contextmanager
def world(directory, **settings):
    """A broker, and a daemon that has all of Tencent set up and serves files, as if on port 80 of `ota.test`."""
    (directory / "ota-bridge.toml").write_text(SETTINGS)
    files = {"files.host": "127.0.0.1", "files.port": free_port(), "files.url": "http://ota.test"}
    fixed = {} if "offers.public_url" in settings else files
    with mosquitto_on(directory) as broker, site(directory, broker_url=broker.url, **fixed, **settings) as here:
        yield here


def elsewhere(**settings):
    """Settings by which the files are served by somebody else."""
    return {"offers.public_url": "http://ota.test/{sha256}", **settings}


def client(name, port, *variants, state=None):
    """A device for which every host is this port of loopback."""
    chosen = frozenset({*variants, f"via=127.0.0.1:{port}"})
    return tencent_client(ClientOptions(product=PRODUCT, name=name, variants=chosen, state=state))


def files_of(here):
    return here.settings["files.port"]


def offsets(asked):
    """Where each GET began."""
    return [int(re.search(rb"Range: bytes=(\d+)-", request)[1]) for request in asked]


def publish(here, products=(PRODUCT,), *, size=IMAGE_BYTES):
    """One image as a release of each product; returns its bytes."""
    image = here.image(size)
    for product in products:
        here.release(image, version=NEW, product=product)
    return image.read_bytes()


@contextlib.asynccontextmanager
async def running(here, made, **options):
    """These clients, connected, for the length of a `with`."""
    settings = {"timeout_s": 100.0, "reconnect_s": 0.2, "stay": True, "until": NEW} | options
    fleet = ClientFleet(made, RunOptions(broker=BrokerUrl.parse(here.url), **settings))
    stop = asyncio.Event()
    run = asyncio.create_task(fleet.run(stop))
    try:
        yield fleet
    finally:
        stop.set()
        report = await run
        assert () == tuple(report.went_wrong)


async def known(here, *devices):
    """Until the bridge knows them and what they run."""
    await until(lambda: {*devices} <= {one["id"] for one in here.call("device.list") if one["parts"]})


def states(here, device):
    """Of its attempts, newest first."""
    return [one["state"] for one in here.call("device.show", device=device)["deployments"]]


def is_at(made, percent, *, of=IMAGE_BYTES):
    """Whether the download of this client has come so far."""
    download = made.ota._download
    return download is not None and len(download.content) * 100 >= percent * of


def notices(seen, device):
    return [body for body in downlinks(seen, device) if body["type"] == "update_firmware"]


def downlinks(seen, device):
    return [json.loads(payload) for _, topic, payload in seen.seen if topic == f"$ota/update/{device}"]


async def test_hub_explorer_and_four_devices_behind_a_gateway_are_updated_in_one_go(tmp_path):
    with world(tmp_path) as here:
        port = files_of(here)
        made = {
            "hub1": client("hub1", port),
            "explorer1": client("explorer1", port, "explorer", "resources"),
            "gateway1": client("gateway1", port, "gateway", *(f"child={child}" for child in CHILDREN)),
        }
        devices = [f"{PRODUCT}/hub1", f"{PRODUCT}/explorer1", *CHILDREN]
        async with running(here, made):
            await known(here, *devices)
            content = publish(here, (PRODUCT, "LIGHTS", "AIRCONS"))
            for product in (PRODUCT, "LIGHTS", "AIRCONS"):
                here.call("rollout.start", release=f"{product}/{NEW}")
            await until(lambda: all(states(here, one) == ["CONFIRMED"] for one in devices), within_s=80)
        sha256 = hashlib.sha256(content).hexdigest()
        for name, one in made.items():
            assert (NEW, sha256, ()) == (one.outcome.version, one.outcome.sha256, one.outcome.failures), name
        assert 4 == made["gateway1"].outcome.installs
        assert "the device says that it is done" in here.call("why", device=CHILDREN[0])["sentence"]


@pytest.mark.parametrize("variant", ["hub", "explorer"])
async def test_a_device_that_is_killed_in_the_middle_resumes_its_download(tmp_path, variant):
    state = tmp_path / "device"
    state.mkdir()
    device = f"{PRODUCT}/d1"
    with world(tmp_path) as here:
        made = {"d1": client("d1", files_of(here), variant, state=state)}
        async with running(here, made):
            await known(here, device)
            content = publish(here)
            here.call("rollout.start", release=f"{PRODUCT}/{NEW}")
            await until(lambda: is_at(made["d1"], 34), within_s=30)
        again = {"d1": client("d1", files_of(here), variant, state=state)}
        async with running(here, again):
            await until(lambda: states(here, device) == ["CONFIRMED"], within_s=30)
    assert hashlib.sha256(content).hexdigest() == again["d1"].outcome.sha256
    [offset] = offsets(again["d1"].ota.asked)
    assert (0, True) == (offset % 4999, offset >= 100_000)


async def test_a_link_that_breaks_in_the_middle_costs_no_more_than_a_moment(tmp_path):
    device = f"{PRODUCT}/d1"
    with world(tmp_path) as here:
        made = {"d1": client("d1", files_of(here))}
        async with tap(here.url, "$ota/#") as seen, running(here, made) as fleet:
            await known(here, device)
            publish(here)
            here.call("rollout.start", release=f"{PRODUCT}/{NEW}")
            await until(lambda: is_at(made["d1"], 34), within_s=30)
            fleet.cut("d1")
            await until(lambda: states(here, device) == ["CONFIRMED"], within_s=30)
    first, second = offsets(made["d1"].ota.asked)
    assert (0, True) == (first, second >= 100_000)
    assert 2 == len(notices(seen, device))


async def test_a_bridge_that_is_killed_in_the_middle_costs_an_attempt_where_it_serves_the_file(tmp_path):
    device = f"{PRODUCT}/d1"
    with world(tmp_path, **{"retries.backoff_s": 1, "offers.min_interval_s": 0}) as here:
        made = {"d1": client("d1", files_of(here))}
        async with running(here, made):
            await known(here, device)
            publish(here)
            here.call("limits.set", bytes_per_s=60_000)  # else all of it is on its way before the kill
            here.call("rollout.start", release=f"{PRODUCT}/{NEW}")
            await until(lambda: is_at(made["d1"], 34), within_s=30)
            here.kill()
            here.start()
            await until(lambda: states(here, device) == ["CONFIRMED", "FAILED"], within_s=60)
    assert ("-5",) == made["d1"].outcome.failures
    first, second = offsets(made["d1"].ota.asked)
    assert (0, True) == (first, second >= 100_000)


async def test_a_bridge_that_is_killed_in_the_middle_costs_nothing_where_another_serves_the_file(tmp_path):
    device = f"{PRODUCT}/d1"
    async with WebServer(b"") as web:
        with world(tmp_path, **elsewhere()) as here:
            made = {"d1": client("d1", web.port)}
            async with running(here, made):
                await known(here, device)
                web.content = publish(here)
                here.call("rollout.start", release=f"{PRODUCT}/{NEW}")
                await until(lambda: is_at(made["d1"], 34), within_s=30)
                here.kill()
                here.start()
                await until(lambda: states(here, device) == ["CONFIRMED"], within_s=30)
    assert 1 == len(web.requests)


async def test_a_notice_that_the_bridge_could_not_send_goes_out_when_it_is_back(tmp_path):
    """A device that waits says nothing by itself, whatever happens to its link."""
    device = f"{PRODUCT}/d1"
    with world(tmp_path) as here:
        made = {"d1": client("d1", files_of(here))}
        async with running(here, made) as fleet:
            await known(here, device)
            publish(here, size=20_000)
            fleet.cut("d1")
            here.call("rollout.start", release=f"{PRODUCT}/{NEW}")
            await until(lambda: states(here, device) == ["CONFIRMED"], within_s=30)


@pytest.mark.parametrize(
    ("wrong", "codes", "why"),
    [({"body": b"x" * 20_000}, ["-4"], "the MD5 is another"), ({"status": "404 Not Found"}, ["-2", "-5"], "(404)")],
)
async def test_what_fails_every_time_ends_with_its_reason_and_the_device_is_left_in_peace(tmp_path, wrong, codes, why):
    device = f"{PRODUCT}/d1"
    async with WebServer(b"", **wrong) as web:
        with world(tmp_path, **elsewhere(**{"retries.backoff_s": 0.5, "offers.min_interval_s": 0})) as here:
            made = {"d1": client("d1", web.port)}
            async with tap(here.url, "$ota/#") as seen, running(here, made) as fleet:
                await known(here, device)
                publish(here, size=20_000)
                here.call("rollout.start", release=f"{PRODUCT}/{NEW}")
                await until(lambda: states(here, device) == ["FAILED"] * 3, within_s=90)
                shown = here.call("device.show", device=device)["deployments"]
                told = len(notices(seen, device))
                reports = len([one for one in seen.seen if b"report_version" in one[2]])
                fleet.cut("d1")
                await until(lambda: len([one for one in seen.seen if b"report_version" in one[2]]) > reports)
                await until(lambda: here.is_silent, within_s=30)
            assert told == len(notices(seen, device))
        assert codes * 3 == list(made["d1"].outcome.failures)
        assert {codes[0]} == {one["result_code"] for one in shown}
        assert all(why in one["cause"] for one in shown)
