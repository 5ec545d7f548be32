"""The commands that need a broker or a daemon of their own: `demo`, `doctor`, `tail`, `serve`."""

import asyncio
import json
import re

import msgpack
import pytest
from brokers import HOST, Mosquitto, RuledBroker, mosquitto, mosquitto_on
from harness import Site, site, tap, until

from ota_bridge.cli.doctor import broker_findings
from ota_bridge.core.values import DeviceId
from ota_bridge.wire import BrokerAddress

__all__ = ["mosquitto"]

D1 = DeviceId("demo", "d1")


async def doctors_findings(address, second=None, subject=None, block_bytes=16_384):
    """What `doctor` says of a broker: check → (level, text and remedy)."""
    findings = broker_findings(address, second or address, root="$ota", block_bytes=block_bytes, subject=subject)
    return {one.check: (one.level.value, f"{one.text} {one.remedy}") async for one in findings}


def levels(found):
    return {check: level for check, (level, _) in found.items()}


@pytest.fixture(scope="module")
def production(tmp_path_factory):
    """The shipped mosquitto.conf with TLS and access rules."""
    made = RuledBroker(tmp_path_factory.mktemp("production"))
    made.broker.start()
    yield made
    made.broker.stop()


# --- doctor ------------------------------------------------------------------------------------------------------


@pytest.fixture
def soon_lost(monkeypatch):
    """What does not arrive on loopback within a second never will."""
    monkeypatch.setattr("ota_bridge.mqtt.probe.WAIT_S", 1.0)


async def test_on_an_open_broker_doctor_warns_of_its_openness_alone(mosquitto: Mosquitto):
    found = await doctors_findings(mosquitto.address)
    assert {check for check, level in levels(found).items() if level != "ok"} == {"access rules"}
    assert found["access rules"][0] == "warning"
    assert "anybody may publish and read everything" in found["access rules"][1]


async def test_without_a_devices_identity_nothing_is_wrong_with_the_production_set_up(production, soon_lost):
    nobody = BrokerAddress(host=HOST, port=production.plain_port)
    found = await doctors_findings(production.local("bridge-control"), nobody)
    assert {check for check, level in levels(found).items() if level != "ok"} == {"device rules"}
    assert found["device rules"][0] == "warning"
    assert "--device-cert" in found["device rules"][1]
    assert "can neither read nor publish" in found["access rules"][1]


async def test_as_a_device_everything_of_the_production_set_up_is_checked(production):
    found = await doctors_findings(production.local("bridge-control"), production.device("demo/d1"), D1)
    assert set(levels(found).values()) == {"ok"}
    assert "demo/d1 can neither read nor write the topics of other devices" in found["access rules"][1]


async def test_a_device_whose_certificate_is_of_another_is_told_so(production, soon_lost):
    found = await doctors_findings(production.local("bridge-control"), production.device("demo/d9"), D1)
    assert found["own topics"][0] == "failure"


async def test_a_broker_that_holds_small_packets_back_is_found(tmp_path):
    with mosquitto_on(tmp_path, "listener {port} 127.0.0.1\nallow_anonymous true\n") as slow:
        found = await doctors_findings(slow.address)
    assert found["latency"][0] == "warning"
    assert "set_tcp_nodelay true" in found["latency"][1]


async def test_a_broker_that_takes_no_packet_of_the_largest_block_is_found(tmp_path, soon_lost):
    conf = "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nmax_packet_size 16384\n"
    with mosquitto_on(tmp_path, conf) as small:
        found = await doctors_findings(small.address)
    assert found["blocks"][0] == "failure"
    assert "max_packet_size 32768" in found["blocks"][1]


# --- serve -------------------------------------------------------------------------------------------------------


async def test_a_daemon_ends_cleanly_and_its_state_says_so(tmp_path, mosquitto: Mosquitto):
    with site(tmp_path, broker_url=mosquitto.url, **{"log.json": "true"}) as here:
        process = here.process
        assert here.stop() < 2.0
        assert process.returncode == 0
        assert {"message", "level"} <= set.intersection(*(set(json.loads(line)) for line in here.log.splitlines()))
    async with tap(mosquitto.url, "$ota/state/bridge") as after:
        await until(lambda: after.seen)
    assert {"control": "down", "blocks": "down"}.items() <= json.loads(after.seen[0][2]).items()


def test_a_second_daemon_on_the_same_data_is_refused(tmp_path):
    with site(tmp_path) as here:
        second = here.run("serve", "--set", "embedded.port=0")
        assert second.returncode == 1
        assert re.fullmatch(
            r"error: the data directory .* is in use by another daemon \(process \d+\)\n", second.stderr
        )
        assert here.call("bridge.status")["control"] == "up"


def test_a_port_that_is_taken_is_one_sentence(tmp_path, mosquitto: Mosquitto):
    taken = Site(directory=tmp_path).run("serve", "--set", f"embedded.port={mosquitto.port}")
    assert (taken.returncode, taken.stderr.count("\n")) == (2, 1)
    assert "set embedded.port, or broker.url to use the broker that runs there" in taken.stderr


# --- tail --------------------------------------------------------------------------------------------------------


async def test_tail_shows_what_travels_as_text(tmp_path, mosquitto: Mosquitto):
    here = Site(directory=tmp_path, broker_url=mosquitto.url)
    words = ("--set", f"broker.url={mosquitto.url}", "tail", "demo/d1", "--count", "2")
    shown = asyncio.create_task(asyncio.to_thread(here.run, *words))
    await until(lambda: "$ota/block/demo/d1 (QoS 0)" in mosquitto.log)
    async with tap(mosquitto.url, "$ota/#") as outside:
        for topic in ("get/demo/other", "get/demo/d1", "block/demo/d1"):
            payload = msgpack.packb([bytes(8), 0, 1024, 4] if "get" in topic else [bytes(8), 0, bytes(1024)])
            await asyncio.to_thread(publish, mosquitto, f"$ota/{topic}", payload)
        await until(lambda: len(outside.seen) == 3)
    lines = [line.partition("  ")[2] for line in (await shown).stdout.splitlines()]
    assert lines == [
        """$ota/get/demo/d1  ["h'0000000000000000'", 0, 1024, 4]""",
        """$ota/block/demo/d1  ["h'0000000000000000'", 0, "h'0000000000000000…' (1024 bytes)"]""",
    ]


def publish(broker, topic, payload):
    from paho.mqtt.publish import single

    single(topic, payload, hostname=HOST, port=broker.port)


# --- demo --------------------------------------------------------------------------------------------------------


def test_the_demo_brings_any_file_to_its_devices_and_ends_with_a_table(tmp_path):
    here = Site(directory=tmp_path)
    ran = here.run("demo", "--image", here.image(30_000), "--count", "3")
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("DEVICE"))
    columns = ["DEVICE", "OLD VERSION", "NEW VERSION", "RESULT", "BYTES", "BLOCKS", "RETRIES", "TIME"]
    assert re.split(r"  +", lines[head]) == columns
    rows = [re.split(r"  +", line) for line in lines[head + 1 : head + 4]]
    assert [row[:4] for row in rows] == [[f"dev-000{n}", "1.0.0", "1.1.0", "confirmed"] for n in (1, 2, 3)]
    assert lines[-1] == "3 of 3 devices run demo/1.1.0"
