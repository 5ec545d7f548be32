"""One hostile device with valid credentials, beside honest ones: what it can do to itself, and to nobody else.

On two real brokers: `ruled` is mosquitto as it is shipped, with its access rules and a certificate for each device;
`open` lets everybody do everything. What only the rules can prevent is tried on `ruled` alone.
"""

import asyncio
import contextlib
import itertools
import json
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiomqtt
import msgpack
import pytest
from brokers import OPEN_CONF, Mosquitto, RuledBroker, client
from harness import Fleet, Site, site, tap, until

from device_sim.options import BrokerUrl
from ota_bridge.mqtt.codec import encode_connect, publish_head
from ota_bridge.wire import BrokerAddress

pytestmark = pytest.mark.mosquitto

FLOOD_S = 3.0
BURST, PER_S = 100, 10  # the defaults of reports.device_burst and reports.device_per_s
BATCH = 200  # messages that a flooder writes at a time
ACK_S = 30.0  # within which an honest report is acknowledged, whatever the hostile device does
IMAGE_BYTES = 48 * 1024
_boots = itertools.count(1_000)


# --- the places ----------------------------------------------------------------------------------------------


@dataclass
class Place:
    """A broker and a bridge beside it."""

    here: Site
    broker: Mosquitto
    rules: RuledBroker | None = None
    images: Any = field(default_factory=lambda: itertools.count(1))

    def address(self, device: str) -> BrokerAddress:
        """Where this device connects, and as whom."""
        return self.rules.device(device) if self.rules else self.broker.address

    def operator(self) -> BrokerAddress:
        """Somebody who may read everything."""
        return self.rules.local("operator") if self.rules else self.broker.address

    def fleet(self, name: str, **options: Any) -> Fleet:
        """One simulated device of this name, which ends in 0001."""
        prefix = name.removesuffix("0001")
        if self.rules is None:
            return Fleet(self.here.fleet(count=1, name_prefix=prefix, **options))
        files = self.rules.authority.issue(f"demo/{name}")
        url = BrokerUrl.parse(f"mqtts://localhost:{self.rules.tls_port}")
        files_of = {"cafile": files.ca, "certfile": files.certificate, "keyfile": files.key}
        return Fleet(self.here.fleet(count=1, name_prefix=prefix, broker=url, **files_of, **options))

    def rollout(self, *devices: str) -> tuple[str, str]:
        """A new release for these devices; its version and the rollout."""
        number = next(self.images)
        image = self.here.image(IMAGE_BYTES, seed=number, name=f"fw-{number}.bin")
        release = self.here.release(image, version=f"2.0.{number}", seq=100 + number)
        started = self.here.call("rollout.start", release=release, devices=[f"demo/{name}" for name in devices])
        return f"2.0.{number}", str(started["id"])

    def counters(self) -> dict[str, int]:
        """Of the gateway."""
        return dict(self.here.call("bridge.status")["counters"]["gateway"])

    def belief(self, name: str) -> list[Any]:
        """All that the database says of a device and its deployments, without times."""
        return [
            self.here.rows("SELECT state, hw, label, tags, boot, parts, assigned FROM devices WHERE name = ?", name),
            self.here.rows("SELECT id, state, boot, cause, attempt FROM deployments WHERE name = ? ORDER BY id", name),
            self.here.rows(
                "SELECT deployment, event, before, after FROM transitions WHERE deployment IN"
                " (SELECT id FROM deployments WHERE name = ?) ORDER BY id",
                name,
            ),
        ]

    def states(self, name: str) -> list[str]:
        """Of its deployments, oldest first."""
        found = self.here.rows("SELECT state FROM deployments WHERE name = ? ORDER BY created_wall, attempt", name)
        return [state for (state,) in found]

    def memory_mib(self) -> float:
        """What the daemon's process holds."""
        assert self.here.process is not None
        statm = Path(f"/proc/{self.here.process.pid}/statm").read_text()
        return int(statm.split()[1]) * 4096 / (1 << 20)


@contextlib.contextmanager
def place_of(kind, directory):
    settings = {"offers.min_interval_s": 0.1, "retries.backoff_s": 0.1}
    if kind == "open":
        broker = Mosquitto(OPEN_CONF, directory)
        rules = None
    else:
        rules = RuledBroker(directory)
        broker = rules.broker
        settings |= {"broker.username": "bridge-control", "broker.blocks_username": "bridge-blocks"}
    broker.start()
    try:
        with site(directory, broker_url=broker.url, **settings) as here:
            yield Place(here, broker, rules)
    finally:
        broker.stop()


@pytest.fixture(scope="module", params=["open", "ruled"])
def place(request, tmp_path_factory):
    """Both brokers, one after the other."""
    with place_of(request.param, tmp_path_factory.mktemp(request.param)) as found:
        yield found


@pytest.fixture(scope="module")
def ruled(tmp_path_factory):
    with place_of("ruled", tmp_path_factory.mktemp("rules")) as found:
        yield found


# --- devices, by hand ----------------------------------------------------------------------------------------


class Device:
    """A device that says what the test tells it to."""

    def __init__(self, connection: aiomqtt.Client, name: str) -> None:
        self.name = name
        self.boot, self.seq = next(_boots), 0
        self.parts = {"firmware": ["1.0.0", 1, b"", 0]}
        self.connection = connection
        self.heard: list[dict[str, Any]] = []
        self.said: list[bytes] = []

    async def publish(self, payload: bytes, *, topic: str = "", qos: int = 1, retain: bool = False) -> None:
        await self.connection.publish(topic or f"$ota/report/demo/{self.name}", payload, qos=qos, retain=retain)

    def report(self, state: str | None = None, **changes: Any) -> bytes:
        """A check-in or a progress report with the next seq."""
        self.seq += 1
        if state is None:
            body: dict[str, Any] = {"type": "report_version", "report": {"version": self.parts["firmware"][0]}}
            body |= {"proto": 1, "hw": "r1", "nonce": self.seq.to_bytes(16, "big"), "parts": self.parts}
        else:
            body = {"type": "report_progress", "report": {"progress": {"state": state, "result_code": "0"}}}
        packed: bytes = msgpack.packb({**body, "boot": self.boot, "seq": self.seq, **changes})
        return packed

    async def says(self, state: str | None = None, **changes: Any) -> dict[str, Any]:
        """Report until the bridge acknowledges it; the acknowledgement."""
        payload = self.report(state, **changes)
        self.said.append(payload)
        return await self.acknowledged(payload, self.seq)

    async def acknowledged(self, payload: bytes, seq: int, *, within_s: float = ACK_S) -> dict[str, Any]:
        async with asyncio.timeout(within_s):
            while True:
                await self.publish(payload)
                with contextlib.suppress(TimeoutError):
                    return await self.hears(
                        lambda one: one["type"] == "report_ack" and seq in one["seqs"], within_s=2.0
                    )

    async def hears(self, wanted: Any, *, within_s: float = 10.0) -> dict[str, Any]:
        """The next message on its update topic that is wanted."""
        async with asyncio.timeout(within_s):
            async for message in self.connection.messages:
                raw = bytes(message.payload)
                self.heard.append(json.loads(raw) if raw[:1] == b"{" else msgpack.unpackb(raw))
                if wanted(self.heard[-1]):
                    return self.heard[-1]
        raise AssertionError("the connection ended")

    async def restarts(self) -> dict[str, Any]:
        """Another boot, and its check-in."""
        self.boot, self.seq = next(_boots), 0
        return await self.says()


@contextlib.asynccontextmanager
async def device(place: Place, name: str, client_id: str | None = None) -> AsyncIterator[Device]:
    async with client(place.address(f"demo/{name}"), client_id) as connection:
        await connection.subscribe(f"$ota/update/demo/{name}", 1)
        yield Device(connection, name)


async def offered(one: Device, place: Place) -> str:
    """Give it something to install; the deployment."""
    await one.says()
    version, _ = place.rollout(one.name)
    offer = await one.hears(lambda message: message["type"] == "update_firmware" and version in message["release"])
    return str(offer["id"])


async def flood(place: Place, name: str, packet: Any, *, for_s: float = FLOOD_S) -> int:
    """Write packets as fast as the broker takes them, and read nothing of the answers; how many it took."""
    address = place.address(f"demo/{name}")
    context = None
    if address.tls is not None:
        context = ssl.create_default_context(cafile=address.tls.ca)
        context.load_cert_chain(address.tls.certificate, address.tls.key)
    reader, writer = await asyncio.open_connection(
        address.host, address.port, ssl=context, server_hostname="localhost" if context else None
    )
    writer.write(encode_connect(client_id=f"flood-{name}", keepalive_s=60))
    await reader.readexactly(4)
    drained = asyncio.create_task(_swallow(reader))
    sent, end = 0, time.monotonic() + for_s
    try:
        while time.monotonic() < end:
            writer.write(b"".join(packet(number) for number in range(sent, sent + BATCH)))
            sent += BATCH
            await writer.drain()
    finally:
        drained.cancel()
        writer.transport.abort()
    return sent


async def _swallow(reader: asyncio.StreamReader) -> None:
    while await reader.read(1 << 16):
        pass


def publish(topic: str, payload: bytes, number: int = 0, *, qos: int = 0) -> bytes:
    """The bytes of a PUBLISH."""
    if not qos:
        return publish_head(topic.encode(), len(payload)) + payload
    packet_id = (number % 65_535 + 1).to_bytes(2, "big")
    return b"\x32" + publish_head(topic.encode(), len(payload) + 2)[1:] + packet_id + payload


# --- floods --------------------------------------------------------------------------------------------------


async def honest_work(place: Place, name: str, flooding: "asyncio.Task[int]", *, reports: int) -> float:
    """Report so many times, each until it is acknowledged, with more of the flood before each; the longest wait."""
    longest = 0.0
    async with device(place, name) as one:
        for _ in range(reports):
            began, seen = time.monotonic(), place.counters()["flooded"]
            await one.says()
            longest = max(longest, time.monotonic() - began)
            await until(lambda seen=seen: flooding.done() or place.counters()["flooded"] > seen)
    return longest


def valid(boot: int):
    """Check-ins, each another one."""
    body = {"type": "report_version", "report": {"version": "1.0.0"}, "proto": 1, "hw": "r1", "boot": boot}
    return lambda number: msgpack.packb({**body, "seq": number + 1})


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("kind", ["valid", "garbage", "large"])
async def test_a_flood_of_reports_is_bounded_and_counted_and_every_honest_report_is_acknowledged(place, kind, qos):
    name, topic = f"flooder-{kind}-{qos}", f"$ota/report/demo/flooder-{kind}-{qos}"
    payload = {"valid": valid(next(_boots)), "garbage": lambda _: b"\xff\x00", "large": lambda _: bytes(30_000)}[kind]
    async with device(place, name) as itself:
        await itself.says()
    flooded, before_mib, began = place.counters()["flooded"], place.memory_mib(), time.monotonic()
    flooding = asyncio.create_task(flood(place, name, lambda number: publish(topic, payload(number), number, qos=qos)))
    honest = [honest_work(place, f"honest-{kind}-{qos}-{number}", flooding, reports=4) for number in range(4)]
    sent, *waits = await asyncio.gather(flooding, *honest)
    assert sent > 10 * BURST
    assert max(waits) <= ACK_S
    await until(lambda: place.counters()["flooded"] > flooded)
    allowed = BURST + PER_S * (time.monotonic() - began) + 2
    assert place.here.rows("SELECT count(*) FROM reports WHERE name = ?", name)[0][0] <= allowed
    assert place.memory_mib() - before_mib < 96
    told = "SELECT trouble FROM devices WHERE name = ?"
    await until(lambda: "were dropped: more than 10 a second" in (place.here.rows(told, name)[0][0] or ""))


@pytest.mark.parametrize("kind", ["requests", "garbage"])
async def test_a_flood_of_block_requests_stops_no_honest_download(place, kind):
    name, victim = f"asker-{kind}", f"reader-{kind}-0001"
    topic = f"$ota/get/demo/{name}"
    payload = msgpack.packb([b"12345678", 0, 4096, 16]) if kind == "requests" else b"\xc1" * 200
    async with place.fleet(victim, check_in_every_s=2, timeout_s=60) as fleet:
        await until(lambda: place.here.rows("SELECT 1 FROM devices WHERE name = ?", victim))
        flooding = asyncio.create_task(flood(place, name, lambda _: publish(topic, payload)))
        place.rollout(victim)
        report = await fleet.report()
        assert ["confirmed"] == [one.result for one in report.devices]
        assert await flooding > 1_000
    assert place.here.process is not None
    assert place.here.process.poll() is None


# --- other people's topics, names and traffic ----------------------------------------------------------------


async def test_what_it_subscribes_to_it_does_not_get_and_nobody_misses_anything(ruled):
    async with device(ruled, "curious") as hostile, device(ruled, "quiet") as honest:
        for wanted in ("#", "$ota/#", "$ota/+/+/+", "$ota/update/demo/quiet", "$ota/report/+/+", "$SYS/#"):
            await hostile.connection.subscribe(wanted, 1)
        for shared in ("$share/g/$ota/report/+/+", "$share/bridge/$ota/get/+/+"):
            with contextlib.suppress(aiomqtt.MqttError):
                await hostile.connection.subscribe(shared, 1)
        await offered(honest, ruled)
        for _ in range(5):
            await honest.says()
        await hostile.says()
    assert {"report_ack"} == {one["type"] for one in hostile.heard}


async def test_on_another_devices_topic_it_says_nothing(ruled):
    async with device(ruled, "mimic") as hostile, device(ruled, "imitated") as honest:
        deployment = await offered(honest, ruled)
        before = ruled.belief("imitated")
        for state in ("fail", "canceled", "reject", "done"):
            forged = hostile.report(state, id=deployment)
            await hostile.publish(forged, topic="$ota/report/demo/imitated")
            await hostile.publish(forged, topic="$ota/report/demo/imitated/x")
            await hostile.publish(forged, topic="$ota/report/+/imitated".replace("+", "demo"), qos=0)
        await hostile.publish(
            msgpack.packb({"type": "cancel_update", "id": deployment}), topic="$ota/update/demo/imitated"
        )
        await hostile.says()
        assert before == ruled.belief("imitated")
        await honest.says()
    assert {"report_ack", "update_firmware"} == {one["type"] for one in honest.heard}


async def test_with_another_clients_id_it_evicts_nobody(ruled):
    # The block process tells its counters once a second.
    before = await until(
        lambda: (found := ruled.here.call("bridge.status")["counters"])["blocks"]["connects"] and found
    )
    async with device(ruled, "owner", "demo/owner") as honest:
        for stolen in ("demo/owner", "bridge-control", "bridge-blocks"):
            async with device(ruled, "thief", stolen) as hostile:
                await hostile.says()
                await honest.says()
    after = ruled.here.call("bridge.status")["counters"]
    assert before["control"]["connects"] == after["control"]["connects"]
    assert before["blocks"] == {**after["blocks"], **{name: before["blocks"][name] for name in _moving(after)}}


def _moving(counters: dict[str, Any]) -> list[str]:
    """Counters of the block link that rise with its work, not with its connections."""
    return [name for name in counters["blocks"] if "connect" not in name and "fail" not in name]


async def test_who_takes_over_the_bridges_ids_on_an_open_broker_only_delays(tmp_path):
    with place_of("open", tmp_path) as place:
        async with device(place, "patient") as honest:
            await honest.says()
            for _ in range(5):
                for stolen in ("bridge-control", "bridge-blocks"):
                    async with client(place.broker.address, stolen):
                        pass
                await honest.says()
        stored = place.here.rows("SELECT count(*) FROM reports WHERE name = 'patient'")[0][0]
        assert 6 == stored
        await until(lambda: place.here.call("bridge.status")["blocks"] == "up")


async def test_another_devices_traffic_under_its_own_name_moves_nothing_of_the_other(place):
    victim, replayer = "victim-0001", "replayer"
    async with tap_of(place, f"$ota/report/demo/{victim}", f"$ota/get/demo/{victim}") as seen:
        async with place.fleet(victim, check_in_every_s=2, timeout_s=60) as fleet:
            await until(lambda: place.here.rows("SELECT 1 FROM devices WHERE name = ?", victim))
            version, rollout = place.rollout(victim)
            report = await fleet.report()
            assert ["confirmed"] == [one.result for one in report.devices]
        await until(lambda: place.states(victim) == ["CONFIRMED"])
        before, counts = place.belief(victim), place.here.call("rollout.status", rollout=rollout)["counts"]
        async with device(place, replayer) as hostile:
            for _, topic, payload in list(seen.seen)[:80]:
                await hostile.publish(payload, topic=topic.replace(victim, replayer), qos=int("/report/" in topic))
            await hostile.says()
    assert before == place.belief(victim)
    assert counts == place.here.call("rollout.status", rollout=rollout)["counts"]
    assert [] == place.states(replayer)
    assert version


@contextlib.asynccontextmanager
async def tap_of(place: Place, *filters: str):
    """Everything on these topics, as an operator sees it."""
    if place.rules is None:
        async with tap(place.broker.url, *filters) as seen:
            yield seen
        return
    async with tap(f"mqtt://operator@127.0.0.1:{place.rules.plain_port}", *filters) as seen:
        yield seen


async def test_the_deployment_of_another_is_not_its_to_speak_of(place):
    async with device(place, "claimant") as hostile, device(place, "claimed") as honest:
        deployment = await offered(honest, place)
        await hostile.says()
        before = place.belief("claimed")
        for state in (
            "downloading",
            "downloaded",
            "fail",
            "reject",
            "canceled",
            "too_late",
            "rolled_back",
            "defer",
            "done",
        ):
            acknowledged = await hostile.says(state, id=deployment)
            assert "go" not in acknowledged
        assert [deployment] == (await hostile.says("burning", id=deployment))["stop"]
        assert before == place.belief("claimed")
        assert [] == place.states("claimant")


# --- its own past and its own lies ---------------------------------------------------------------------------


async def test_its_own_old_reports_again_move_nothing(place):
    async with device(place, "forgetful") as one:
        deployment = await offered(one, place)
        for state in ("downloading", "downloaded", "burning"):
            await one.says(state, id=deployment)
        one.parts = {"firmware": [_version(place, deployment), 0, _digest(place, deployment), 1]}
        await one.restarts()
        one.parts["firmware"][3] = 0
        await one.says()
        await until(lambda: place.states("forgetful") == ["CONFIRMED"])
        before, stored = place.belief("forgetful"), _reports(place, "forgetful")
        for payload in [*one.said, *reversed(one.said)]:
            await one.publish(payload)
        await until(lambda: place.here.call("bridge.status") and _settled(place))
        await one.acknowledged(one.said[-1], one.seq)
        assert before == place.belief("forgetful")
        assert stored == _reports(place, "forgetful")


async def test_done_is_a_claim_and_only_a_check_in_confirms(place):
    async with device(place, "boaster") as liar:
        deployment = await offered(liar, place)
        for claimed in ("done", "done"):
            await liar.says(claimed, id=deployment)
            assert ["OFFERED"] == place.states("boaster")
        for state in ("downloading", "downloaded", "burning", "done"):
            await liar.says(state, id=deployment)
        assert ["INSTALLING"] == place.states("boaster")
        await liar.restarts()  # and runs what it always ran
        assert "ROLLED_BACK" == place.states("boaster")[0]
        assert "CONFIRMED" not in place.states("boaster")


async def test_a_version_without_its_image_confirms_nothing(place):
    async with device(place, "pretender") as liar:
        deployment = await offered(liar, place)
        liar.parts = {"firmware": [_version(place, deployment), 999, b"\x01" * 8, 0]}
        await liar.restarts()
        assert "CONFIRMED" not in place.states("pretender")


def _version(place: Place, deployment: str) -> str:
    ((release,),) = place.here.rows("SELECT release FROM deployments WHERE id = ?", deployment)
    return str(release).partition("/")[2]


def _digest(place: Place, deployment: str) -> bytes:
    ((facts,),) = place.here.rows(
        "SELECT facts FROM release_parts WHERE release = (SELECT release FROM deployments WHERE id = ?)", deployment
    )
    return bytes.fromhex(_hex(json.loads(facts)["sha256"]))[:8]


def _hex(text: str) -> str:
    import base64

    return text if len(text) == 64 else base64.b64decode(text).hex()


def _reports(place: Place, name: str) -> list[Any]:
    return place.here.rows("SELECT boot, seq, content FROM reports WHERE name = ? ORDER BY boot, seq", name)


def _settled(place: Place) -> bool:
    counters = place.counters()
    return (
        counters["reports"]
        <= counters["committed"] + counters["flooded"] + counters["strangers"] + counters["retained_dropped"]
    )


# --- payloads ------------------------------------------------------------------------------------------------

ODD = [
    b"",
    b"\x00",
    b"\xff" * 4_000,
    b"{" * 8_000,
    b'{"type":' * 1_000,
    b"\xdc\x04\x00" * 2_700,
    b"\x81" * 8_192,
    bytes(8_193),
    b'{"type":"report_version","report":{"version":"1.0.0"},"proto":1,"hw":"r1","boot":1e999,"seq":1}',
    b'{"type":"report_version","report":{"version":"1.0.0"},"proto":1,"hw":"r1","boot":1,"seq":-1}',
    b'{"type":"report_version","report":{"version":"\\ud800"},"proto":1,"hw":"r1","boot":1,"seq":1}',
    b'{"type":"report_version","report":{"version":"../../etc/passwd"},"proto":1,"hw":"r1","boot":1,"seq":1}',
    msgpack.packb({"type": "report_progress", "report": {"progress": {"state": "done"}}, "boot": 2**64 - 1, "seq": 1}),
    msgpack.packb(
        {"type": "report_version", "report": {"version": "1.0.0"}, "proto": 1, "hw": "r1", "boot": [], "seq": 1}
    ),
]


async def test_payloads_that_nobody_would_write_are_counted_and_end_nothing(place):
    async with device(place, "oddball") as hostile, device(place, "plain") as honest:
        await hostile.says()
        rejected = place.counters()["rejected"]
        for payload in ODD:
            await hostile.publish(payload)
            await hostile.publish(payload, topic="$ota/get/demo/oddball", qos=0)
        await hostile.says()
        await honest.says()
        assert rejected + 13 == place.counters()["rejected"]
        assert 0 == place.counters()["core_failures"]
    assert "oddball" in place.here.call("why", device="demo/oddball")["device"]


async def test_a_packet_above_the_brokers_limit_ends_only_who_sends_it(ruled):
    async with device(ruled, "bystander") as honest:
        with contextlib.suppress(aiomqtt.MqttError):
            async with device(ruled, "giant") as hostile:
                await hostile.publish(bytes(40_000))
                await hostile.publish(bytes(40_000))
        await honest.says()


async def test_a_retained_report_is_dropped_when_the_bridge_comes_back(place):
    async with device(place, "keeper") as one:
        await one.says()
        one.parts = {"firmware": ["9.9.9", 9, b"", 0]}
        await one.publish(one.report(), retain=True)
        one.parts = {"firmware": ["1.0.0", 1, b"", 0]}
        await one.says()
        before = place.belief("keeper")
        place.here.kill()
        await asyncio.to_thread(place.here.start)
        await until(lambda: place.counters()["retained_dropped"] == 1)
        assert before == place.belief("keeper")
        await one.publish(b"", retain=True)  # what is retained goes away again
