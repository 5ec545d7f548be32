"""The shell and the fleet on a broker that is a dictionary: no socket is opened."""

import asyncio
import gc
import hashlib
import json
import logging
from dataclasses import replace
from random import Random
from types import SimpleNamespace

import aiomqtt
import msgpack
import pytest
from device_sim_bridge import Author, leaves_of, payload_for, sha, trust_document

from device_sim import cli, shell
from device_sim.errors import BrokerUnreachable, OptionError, TrustError
from device_sim.fleet import run_fleet
from device_sim.options import BrokerUrl, FleetOptions

IMAGE = Random(4).randbytes(30_000)


class Net:
    """Broker and bridge in one."""

    def __init__(self):
        author = Author()
        self.document = trust_document([author])
        self.payload = payload_for(IMAGE)
        self.envelope = author.envelope(self.payload)
        self.blobs = {sha(IMAGE)[:8]: IMAGE, self.payload[11][:8]: b"".join(leaves_of(IMAGE, 4096))}
        self.clients = {}
        self.seen = []
        self.connects = 0
        self.refusing = ""
        self.users = set()
        self.offering = True

    def client(self, host, port, *, identifier, **rest):
        self.users.add(rest["username"])
        return Client(self, identifier)

    async def published(self, topic, payload, who):
        self.seen.append((topic, payload))
        kind = topic.split("/")[1]
        if topic.startswith("ota/get/"):
            artifact, offset, size, count = msgpack.unpackb(payload)
            blob = self.blobs[artifact]
            for at in range(offset, min(offset + size * count, len(blob)), size):
                self.to(who, "block", msgpack.packb([artifact, at, blob[at : at + size]]))
        elif kind == "report":
            self.report(who, msgpack.unpackb(payload))

    def report(self, who, report):
        answer = {"type": "report_ack", "boot": report["boot"], "seqs": [report["seq"]]}
        if report["type"] == "report_progress" and report["report"]["progress"]["state"] == "burning":
            answer["go"] = [report["id"]]
        self.to(who, "update", msgpack.packb(answer))
        if report["type"] == "report_version" and report["parts"]["firmware"][2] == b"" and self.offering:
            offer = {"type": "update_firmware", "id": "d", "component": "firmware", "manifests": [self.envelope],
                     "boot": report["boot"], "nonce": report["nonce"]}  # fmt: skip
            self.to(who, "update", msgpack.packb(offer))

    def to(self, who, kind, payload):
        topic = f"ota/{kind}/{who}" if kind != "command" else f"command/{who}"
        if who in self.clients:
            self.clients[who].queue.put_nowait(SimpleNamespace(topic=topic, payload=payload, retain=False))


class Client:
    def __init__(self, net, who):
        self.net, self.who, self.queue = net, who, asyncio.Queue()

    async def __aenter__(self):
        if self.net.refusing:
            raise aiomqtt.MqttError(self.net.refusing)
        self.net.connects += 1
        self.net.clients[self.who] = self
        return self

    async def __aexit__(self, *_):
        self.net.clients.pop(self.who, None)

    async def subscribe(self, *_):
        pass

    async def publish(self, topic, payload, qos):
        await asyncio.sleep(0)
        await self.net.published(topic, payload, self.who)

    @property
    def messages(self):
        return self

    def __aiter__(self):
        return self

    async def __anext__(self):
        message = await self.queue.get()
        if message is None:
            raise aiomqtt.MqttError("gone")
        return message


@pytest.fixture
def net(monkeypatch):
    made = Net()
    monkeypatch.setattr(shell.aiomqtt, "Client", made.client)
    return made


@pytest.fixture
def options(tmp_path, net):
    trust = tmp_path / "trust.json"
    trust.write_text(json.dumps(net.document))
    return FleetOptions(
        broker=BrokerUrl.parse("mqtt://nowhere"), trust=trust, product="p", count=3, root="ota", block_bytes=4096,
        slot_bytes=1 << 16, timeout_s=15, telemetry_hz=50, connect_timeout_s=10,
    )  # fmt: skip


async def test_a_fleet_confirms_and_reports_what_it_read_back(net, options):
    events = []
    report = await run_fleet(replace(options, username_from_id=True), events.append)
    assert report.ok
    assert [("dev-0001", "1.0.0", "1.1.0", "confirmed", hashlib.sha256(IMAGE).hexdigest(), 2)] * 1 == [
        (d.device, d.old_version, d.new_version, d.result, d.sha256, d.boots) for d in report.devices[:1]
    ]
    assert (3, 3 * len(IMAGE)) == (report.totals()["confirmed"], report.totals()["bytes_image"])
    assert {f"p/dev-000{n}" for n in (1, 2, 3)} == net.users
    assert "confirmed" == events[-1]["result"]
    assert {"telemetry/p/dev-0001", "ota/report/p/dev-0001", "ota/get/p/dev-0001"} <= {topic for topic, _ in net.seen}


async def test_telemetry_names_the_version_that_runs(net, options):
    told, stop, published = [], asyncio.Event(), net.published

    async def heard(topic, payload, who):
        await published(topic, payload, who)
        if topic.startswith("telemetry/"):
            told.append(json.loads(payload)["version"])
            if told[-1] == "1.1.0":
                stop.set()

    net.published = heard
    await run_fleet(replace(options, count=1, stay=True), stop=stop)
    assert told[-1] == "1.1.0"


async def test_a_run_that_is_stopped_at_once_reports_devices_that_never_started(net, options):
    stop = asyncio.Event()
    stop.set()
    report = await run_fleet(options, stop=stop)
    assert ("unfinished", "not started", "1.0.0") in {(d.result, d.reason, d.new_version) for d in report.devices}


async def test_a_connection_that_breaks_while_the_run_ends_is_nobodys_unheard_error(net, options, caplog):
    stop = asyncio.Event()

    async def breaks_when_cancelled(_topic, _payload, _who):
        stop.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise aiomqtt.MqttError("gone") from None

    net.published = breaks_when_cancelled
    await run_fleet(options, stop=stop)
    gc.collect()
    assert [] == [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


async def test_devices_lose_their_power_at_flash_operations_and_arrive(net, options):
    report = await run_fleet(replace(options, fault="power_cuts=4", count=6, seed=3))
    assert report.ok
    assert {"confirmed", "rolled_back"} >= {device.result for device in report.devices}
    assert any(device.result == "confirmed" for device in report.devices)
    assert sum(device.boots for device in report.devices) > 6 * 2 + 6


async def test_commands_are_answered_with_what_they_carry(net, options):
    stop = asyncio.Event()

    def on_progress(event):
        if event["phase"] == "idle" and event["device"] == "dev-0001":
            net.to("p/dev-0001", "command", b"ping")

    task = asyncio.create_task(run_fleet(replace(options, count=1, stay=True), on_progress, stop))
    async with asyncio.timeout(10):
        while ("response/p/dev-0001", b"ping") not in net.seen:
            await asyncio.sleep(0.01)
    stop.set()
    await task


async def test_a_lost_connection_is_made_again(net, options):
    dropped = []

    def on_progress(event):
        if event["phase"] == "downloading" and not dropped:
            dropped.append(net.clients["p/dev-0001"].queue.put_nowait(None))

    report = await run_fleet(replace(options, count=1), on_progress)
    assert report.ok
    assert 3 == net.connects


async def test_sleepers_come_back_and_finish(net, options):
    report = await run_fleet(replace(options, count=1, awake_s=0.3, asleep_s=0.1, pace_bps=30_000))
    assert report.ok
    assert net.connects > 2


async def test_a_second_run_on_the_same_state_goes_on_or_is_done(net, options, tmp_path):
    options = replace(options, state=tmp_path / "state", pace_bps=40_000)
    stop = asyncio.Event()

    def on_progress(event):
        if event["position"] > 4096:
            stop.set()

    first = await run_fleet(options, on_progress, stop)
    assert (False, {"unfinished"}) == (first.ok, {device.result for device in first.devices})
    second = await run_fleet(replace(options, pace_bps=0))
    assert second.ok
    assert sum(d.bytes_payload for d in second.devices) < 3 * len(IMAGE)
    third = await run_fleet(options)
    assert (True, 0) == (third.ok, third.totals()["bytes_payload"])


async def test_an_image_that_rots_in_its_slot_fails_the_run(net, options, tmp_path):
    def on_progress(event):
        if event["settled"]:
            path = options.state / "dev-0001.flash"
            data = path.read_bytes()
            at = data.index(bytes(value ^ 0xFF for value in IMAGE[:16]))
            with path.open("r+b") as file:
                file.seek(at)
                file.write(b"\x00")

    options = replace(options, count=1, state=tmp_path / "state")
    report = await run_fleet(options, on_progress)
    assert (False, "failed", False) == (report.ok, report.devices[0].result, report.devices[0].slot_ok)


@pytest.mark.parametrize(
    ("fault", "result"),
    [("never_confirm", "rolled_back"), ("corrupt_chunk=2", "failed"), ("reboot_in=DOWNLOADED", "confirmed")],
)
async def test_a_fault_ends_as_it_should_and_is_no_failure_of_the_run(net, options, fault, result):
    report = await run_fleet(replace(options, count=2, fault=fault, fault_count=1, watchdog_s=0.3))
    assert (True, [result, "confirmed"]) == (report.ok, [device.result for device in report.devices])


async def test_two_runs_cannot_have_the_same_device(net, options, tmp_path):
    options = replace(options, state=tmp_path / "state", stay=True)
    begun, stop = asyncio.Event(), asyncio.Event()
    first = asyncio.create_task(run_fleet(options, lambda _event: begun.set(), stop))
    await begun.wait()
    with pytest.raises(OptionError, match="dev-0001.flash is in use by another run"):
        await run_fleet(options)
    assert await run_fleet(replace(options, name_prefix="other-", stay=False))
    stop.set()
    await first


async def test_nothing_offered_is_unfinished_at_the_time_out(net, options):
    net.offering = False
    report = await run_fleet(replace(options, count=1, timeout_s=0.5))
    assert (False, "unfinished", "still idle") == (report.ok, report.devices[0].result, report.devices[0].reason)


async def test_no_broker_is_one_sentence(net, options):
    net.refusing = "Connection refused"
    with pytest.raises(BrokerUnreachable, match="cannot connect to the broker nowhere:1883: Connection refused"):
        await run_fleet(replace(options, connect_timeout_s=0.2))


async def test_a_missing_trust_document_or_certificate_is_one_sentence(net, options, tmp_path):
    with pytest.raises(TrustError, match="keys new"):
        await run_fleet(replace(options, trust=tmp_path / "none.json"))
    with pytest.raises(OptionError, match="TLS"):
        await run_fleet(replace(options, broker=BrokerUrl.parse("mqtts://h"), cafile=tmp_path / "none.pem"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--broker", "http://x"], "broker URL"),
        (["--trust", "/nonexistent/t.json"], "ota-bridge keys new"),
        (["--encoding", "xml"], "--encoding"),
        (["--level", "L2"], "--level"),
        (["--fault", "fire"], "there is no fault"),
        (["--count", "0"], "--count"),
        (["--sleep-pattern", "x"], "--sleep-pattern"),
    ],
)
def test_the_command_line_says_what_is_wrong_in_one_line(monkeypatch, capsys, arguments, sentence):
    monkeypatch.setattr("sys.argv", ["device-sim", "run", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr()
    assert (2, 1) == (ended.value.code, len(shown.err.splitlines()))
    assert sentence in shown.err


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_ends_with_a_report(net, options, monkeypatch, capsys, as_json):
    arguments = ["--broker", "mqtt://nowhere", "--trust", str(options.trust), "--product", "p", "--root", "ota"]
    monkeypatch.setattr("sys.argv", ["device-sim", "run", *arguments, *(["--json"] if as_json else [])])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    lines = capsys.readouterr().out.splitlines()
    assert 0 == ended.value.code
    if as_json:
        last = json.loads(lines[-1])
        assert ("report", True, "confirmed") == (last["type"], last["totals"]["ok"], last["devices"][0]["result"])
        assert {"device"} == {json.loads(line)["type"] for line in lines[:-1]}
    else:
        assert any("dev-0001" in line and "confirmed" in line for line in lines)


async def test_a_task_that_swallows_a_cancel_is_cancelled_again():
    async def stubborn():
        for _ in range(2):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                swallowed.append(1)
        await asyncio.sleep(60)

    swallowed = []
    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await shell.end_tasks([task])
    assert (2, True) == (len(swallowed), task.cancelled())
