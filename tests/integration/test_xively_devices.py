"""Xively's clients on a real mosquitto with the real daemon; a client that would crash or hang ends its test."""

import asyncio
import base64
import contextlib
import hashlib
import random
import urllib.request

import cbor2
import pytest
from brokers import HOST, free_port, mosquitto_on
from harness import VENDOR, site, tap, until

from device_sim.clients.model import ClientOptions, Incoming
from device_sim.clients.runner import ClientFleet, RunOptions
from device_sim.clients.xively import XivelyClient, xively_client
from device_sim.options import BrokerUrl
from ota_bridge.security.keys import load_key
from ota_bridge.security.signing import sign_file

pytestmark = pytest.mark.mosquitto

IMAGE_BYTES = 300_000
CONFIG_BYTES = 2_500
QUIET_S = 10.5
VARIANTS = {
    "d-a": {"lib-a", "file=config"},
    "d-b": {"lib-b", "file=config"},
    "d-esp32": {"esp32", "file=config"},
    "d-cc3220": {"cc3220", "file=config"},
    "d-factory": {"factory", "file=config"},
    "d-ext": {"ext"},
}


@contextlib.contextmanager
def world(directory, **settings):
    """A broker, and a daemon that has Xively set up."""
    (directory / "ota-bridge.toml").write_text(f'[dialects.xively]\nproduct = "demo"\nquiet_s = {QUIET_S}\n')
    with mosquitto_on(directory) as broker, site(directory, broker_url=broker.url, **settings) as here:
        yield here


def clients(variants):
    return {
        name: xively_client(ClientOptions(product="demo", name=name, variants=frozenset(chosen)))
        for name, chosen in variants.items()
    }


def publish(here, version="1.1.0", *, with_config=True):
    """A release of firmware, and a file that is none; returns its id and the firmware's SHA-256."""
    image = here.image(IMAGE_BYTES)
    release = here.release(image, version=version)
    if with_config:
        config = here.directory / "config"
        config.write_bytes(random.Random(2).randbytes(CONFIG_BYTES))
        key = load_key(here.directory / "author.pem").key
        signed = sign_file(
            config, keys=[key], vendor_domain=VENDOR, product="demo", hw=["r1"], version=version, seq=1,
            component="config",
        )  # fmt: skip
        args = {
            "envelope": base64.b64encode(signed.envelope).decode(), "product": "demo", "version": version, "hw": ["r1"],
            "file_name": "config",
        }  # fmt: skip
        with config.open("rb") as file:
            here.client.call("release.add", args, upload=(file, CONFIG_BYTES))
    return release, hashlib.sha256(image.read_bytes()).hexdigest()


@contextlib.asynccontextmanager
async def running(here, made, **options):
    """These clients, connected and known to the bridge, for the length of a `with`."""
    loses = options.pop("loses", lambda device, message: False)
    settings = {"timeout_s": 100.0, "reconnect_s": 0.2, "stay": True, "until": "1.1.0"} | options
    fleet = ClientFleet(made, RunOptions(broker=BrokerUrl.parse(here.url), **settings), loses=loses)
    stop = asyncio.Event()
    run = asyncio.create_task(fleet.run(stop))
    try:
        await until(lambda: len(made) == len(here.call("device.list")))
        yield fleet
    finally:
        stop.set()
        report = await run
        assert () == tuple(report.went_wrong)


def states(here, name):
    """Component to the states of its attempts, newest first."""
    found = {}
    for one in here.call("device.show", device=f"demo/{name}")["deployments"]:
        found.setdefault(one["component"], []).append(one["state"])
    return found


def all_confirmed(here, made, expected):
    return all(expected(name) == states(here, name) for name in made)


def with_config(name):
    confirmed = {"firmware": ["CONFIRMED"], "config": ["CONFIRMED"]}
    return {"firmware": ["CONFIRMED"]} if name == "d-ext" else confirmed


async def test_every_client_gets_300_kb_of_firmware_and_a_file_beside_it_in_one_package(tmp_path):
    with world(tmp_path) as here:
        made = clients(VARIANTS)
        async with tap(here.url, "xi/#") as seen, running(here, made):
            release, sha256 = publish(here)
            here.call("rollout.start", release=release)
            await until(lambda: all_confirmed(here, made, with_config), within_s=60)
            lists = downlinks(seen, 1)
        assert len(made) == len(lists), "one list for each device"
        for client in made.values():
            outcome = client.outcome
            assert ("1.1.0", sha256, 1, ()) == (
                outcome.version, outcome.sha256, outcome.installs, tuple(outcome.failures),
            )  # fmt: skip


def downlinks(seen, msgtype, name=""):
    """What went to devices, of one kind, as maps."""
    found = [cbor2.loads(payload) for _, topic, payload in seen.seen if topic.endswith(f"{name}/cln")]
    return [body for body in found if body["msgtype"] == msgtype]


class Loss:
    """Loses one message of a kind for each device: those that were named, once."""

    def __init__(self, wanted):
        self.wanted, self.lost = dict(wanted), {}

    def __call__(self, device, message):
        msgtype, after = self.wanted.get(device, (None, 0))
        if msgtype is None or cbor2.loads(message.payload)["msgtype"] != msgtype:
            return False
        self.lost[device] = seen = self.lost.get(device, 0) + 1
        return seen == after + 1


@pytest.mark.slow
async def test_whatever_is_lost_once_every_client_comes_to_its_end(tmp_path):
    wanted = {"list": (1, 0), "request": (2, 40), "chunk": (3, 40), "ext": (3, 40), "status": (4, 0), "last": (4, 3)}
    with world(tmp_path) as here:
        made = clients({name: {"ext"} if name == "ext" else {"file=config"} for name in wanted})
        loss = Loss(wanted)
        async with running(here, made, loses=loss):
            release, sha256 = publish(here)
            here.call("rollout.start", release=release)
            expected = lambda name: {"firmware": ["CONFIRMED"]} if name == "ext" else with_config(name)  # noqa: E731
            await until(lambda: all_confirmed(here, made, expected), within_s=90)
        assert set(wanted) == set(loss.lost)
        assert {sha256} == {client.outcome.sha256 for client in made.values()}
        assert {1} == {client.outcome.installs for client in made.values()}


async def test_a_connection_that_breaks_in_the_middle_costs_one_file_and_not_the_finished_one(tmp_path):
    with world(tmp_path) as here:
        made = clients({"d1": {"file=config"}, "d2": {"lib-a", "file=config"}})
        cut = set()

        def cuts(device, message):
            if isinstance(message, Incoming) and device not in cut and offset_of(message) == 102_400:
                cut.add(device)
                fleet.cut(device)
            return False

        async with tap(here.url, "xi/#") as seen, running(here, made, loses=cuts) as fleet:
            release, sha256 = publish(here)
            here.call("rollout.start", release=release)
            await until(lambda: all_confirmed(here, made, with_config), within_s=60)
        for name, client in made.items():
            assert (sha256, 1) == (client.outcome.sha256, client.outcome.installs)
            listed = [[one["N"] for one in body["list"]] for body in downlinks(seen, 1, name)]
            assert [["config", "firmware.bin"], ["firmware.bin"]] == listed


def offset_of(message):
    body = cbor2.loads(message.payload)
    return body["O"] if body["msgtype"] == 3 and body["N"] == "firmware.bin" else None


@pytest.mark.slow
async def test_a_bridge_that_is_killed_in_the_middle_goes_on_where_its_devices_wait(tmp_path):
    with world(tmp_path) as here:
        made = clients({"d1": {"file=config"}, "d2": {"ext"}})
        far = set()

        def looks(device, message):
            if isinstance(message, Incoming) and (cbor2.loads(message.payload).get("O") or 0) > 50_000:
                far.add(device)
            return False

        async with running(here, made, loses=looks):
            release, sha256 = publish(here)
            here.call("rollout.start", release=release)
            await until(lambda: len(far) == len(made), every_s=0.01)
            here.kill()
            here.start()
            expected = lambda name: {"firmware": ["CONFIRMED"]} if name == "d2" else with_config(name)  # noqa: E731
            await until(lambda: all_confirmed(here, made, expected), within_s=90)
        assert {sha256} == {client.outcome.sha256 for client in made.values()}


async def test_a_device_that_takes_links_fetches_by_http_and_another_by_chunks(tmp_path):
    port = free_port()
    settings = {"files.host": HOST, "files.port": port, "files.url": f"http://{HOST}:{port}"}
    with world(tmp_path, **settings) as here:
        fetched = []

        def fetch(url, name):
            with urllib.request.urlopen(url, timeout=20) as answer:
                fetched.append((name, answer.read()))
            return fetched[-1][1]

        options = ClientOptions(product="demo", name="d1", variants=frozenset({"esp32"}))
        made = clients({"d2": {"esp32"}}) | {"d1": XivelyClient(options, fetch_url=fetch)}
        async with tap(here.url, "xi/#") as seen, running(here, made):
            release, sha256 = publish(here, with_config=False)
            here.call("rollout.start", release=release)
            await until(lambda: all_confirmed(here, made, lambda _name: {"firmware": ["CONFIRMED"]}), within_s=60)
        assert [("firmware.bin", sha256)] == [(name, hashlib.sha256(data).hexdigest()) for name, data in fetched]
        assert [] == downlinks(seen, 3, "d1")
        assert {sha256} == {client.outcome.sha256 for client in made.values()}


async def test_devices_that_the_caps_hold_up_come_to_their_end_with_one_list_each(tmp_path):
    with world(tmp_path) as here:
        made = clients({"d1": set(), "d2": {"lib-a"}, "d3": {"ext"}})
        async with tap(here.url, "xi/#") as seen, running(here, made):
            here.call("limits.set", downloads=1, blocks_per_s=200)
            release, sha256 = publish(here, with_config=False)
            here.call("rollout.start", release=release)
            await until(lambda: all_confirmed(here, made, lambda _name: {"firmware": ["CONFIRMED"]}), within_s=90)
        assert {sha256} == {client.outcome.sha256 for client in made.values()}
        assert len(made) == len(downlinks(seen, 1))


async def test_first_words_that_the_bridge_never_heard_are_made_up_for_by_the_clock(tmp_path):
    with world(tmp_path) as here:
        made = clients({"d1": set()})
        async with running(here, made):
            pass  # it is known now
        release, _ = publish(here, with_config=False)
        again = clients({"d1": set()})
        loss = Loss({"d1": (0, 0)})
        async with running(here, again, loses=loss):
            await until(lambda: loss.lost)
            here.call("rollout.start", release=release)
            await until(lambda: all_confirmed(here, again, lambda _name: {"firmware": ["CONFIRMED"]}), within_s=60)


@pytest.mark.slow
async def test_a_checksum_that_is_wrong_every_time_fails_with_its_reason_and_the_device_is_left_in_peace(tmp_path):
    with world(tmp_path, **{"retries.backoff_s": 0.5, "offers.min_interval_s": 0}) as here:
        made = clients({"d1": {"bad-flash"}})
        async with tap(here.url, "xi/#") as seen, running(here, made):
            release, _ = publish(here, with_config=False)
            here.call("rollout.start", release=release)
            await until(lambda: states(here, "d1") == {"firmware": ["FAILED"] * 3}, within_s=60)
            why = here.call("why", device="demo/d1")
            quiet = len(seen.seen)
            await asyncio.sleep(QUIET_S + 3)
            assert quiet == len(seen.seen)
        assert 3 == len(downlinks(seen, 1))
        assert ("firmware.bin P3 S-5",) * 3 == tuple(made["d1"].outcome.failures)
        assert "-5 firmware.bin: the SHA-256 of what was downloaded is another" in why["sentence"]
