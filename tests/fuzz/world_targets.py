"""Whole parts of both programs: a row of messages into the core, the block plane, the operators' socket, a device.

One input is several messages, each behind its kind and length (`target.framed`), and meets a world of its own.
"""

import asyncio
import itertools
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import msgpack

from device_sim.model import Publish, Reboot, Snapshot
from device_sim.settings import Trial
from ota_bridge.block_gateway import BlockGateway
from ota_bridge.core.blocks import BlockServer
from ota_bridge.core.errors import InvalidInput, Malformed, OperatorError
from ota_bridge.core.messages import Event, Grant, GrantsChanged, GrantState, Rejected
from ota_bridge.core.people import Caller
from ota_bridge.core.values import DeploymentId, DeviceId, RolloutId
from ota_bridge.decode import read_json
from ota_bridge.mqtt.codec import Decoder
from ota_bridge.web.local import LocalSocket
from ota_bridge.wire import MqttMessage
from tests.core_world import MemorySource, World, facts_of, image_of
from tests.fuzz.bridge_targets import DIALECT, JSON_WORDS, MSGPACK_WORDS, REPORT_WORDS
from tests.fuzz.sim_targets import UPDATE_WORDS
from tests.fuzz.target import Target, unframed
from tests.unit.device_sim.device_sim_bridge import Lab

OWN, OTHER = b"own-deployme", b"other-deploy"  # in a corpus, for the ids of d1's and d2's deployments
REPORT, TIME, ASKED = range(3)
REQUEST, FOREIGN_REQUEST, TOPIC = range(3)
UPDATE, BLOCK, LATER = range(3)

# --- the core ------------------------------------------------------------------------------------------------


def core(data: bytes) -> None:
    """Whatever one device reports: nothing raises, nothing of another device moves, nothing is confirmed by a claim."""
    world = World(enrol_per_s=1e6)
    world.release()
    world.release("1.2.0", seq=3)
    own, other = world.device("d1"), world.device("d2")
    world.rollout("1.1.0")
    before = other.record, other.all
    own_id, other_id = (one.open.id.encode() for one in (own, other))
    for kind, payload in unframed(data, most=16):
        if kind % 4 == TIME:
            world.passes(float(int.from_bytes(payload[:3], "big") % 100_000))
            before = other.record, other.all
            continue
        if kind % 4 == ASKED and len(own.record.assigned) and own.all[0].is_open:
            own.asks(deployment=own.all[0].id)
            continue
        payload = payload.replace(OWN, own_id).replace(OTHER, other_id)
        uplink = DIALECT.decode(MqttMessage(topic="$ota/report/prod/d1", payload=payload))
        outputs = world.receive(uplink)
        for output in outputs:
            assert getattr(output, "device", own.id) == own.id, output
            if isinstance(output, Event):
                DIALECT.event(output).payload.decode()
                if output.kind == "state" and output.data["after"] == "CONFIRMED":
                    assert output.data["cause"].startswith("checked in"), output
            elif not isinstance(output, GrantsChanged) and hasattr(output, "device"):
                message = DIALECT.encode(output)
                assert message is None or message.topic == "$ota/update/prod/d1"
        if isinstance(uplink, Rejected):
            assert not [output for output in outputs if not isinstance(output, Event)], outputs
    assert before == (other.record, other.all)
    world.do("why", device="prod/d1")
    json.dumps([world.do("device.show", device="prod/d1"), world.do("fleet")])


# --- the block plane -----------------------------------------------------------------------------------------

IMAGE, FACTS = image_of("1.1.0"), facts_of()
GRANTED = DeviceId("prod", "d1")


def _gateway(*, fast: bool) -> BlockGateway:
    source = MemorySource()
    source.put(IMAGE)
    server = BlockServer(source, block_max=4_096, window_max=4, refusals_per_s=1_000)
    server.is_loaded = True
    grant = Grant(
        deployment=DeploymentId("0123456789ab"), rollout=RolloutId("r-000001"), state=GrantState.OPEN, manifest=FACTS
    )
    server.apply(GrantsChanged(device=GRANTED, grants=(grant,)))
    return BlockGateway(server, DIALECT, fast=fast)


def blocks(data: bytes) -> None:
    """Both lanes answer alike, on the asker's own topic, nothing but pieces of what it may have."""
    lanes = [_gateway(fast=True), _gateway(fast=False)]
    now = 10.0
    for kind, payload in unframed(data, most=32):
        topic = {FOREIGN_REQUEST: b"$ota/get/prod/d2", TOPIC: payload}.get(kind % 4, b"$ota/get/prod/d1")
        now += (kind >> 2) / 10
        answers: list[list[Any]] = []
        for lane in lanes:
            out: list[Any] = []
            lane.handle(topic, payload, now, out)
            answers.append(Decoder(max_packet_bytes=1 << 16).feed(b"".join(out)))
        assert answers[0] == answers[1]
        assert sum(len(said) for _, said in answers[0]) <= 4 * (4_096 + 64)
        for where, said in answers[0]:
            assert where == topic.replace(b"/get/", b"/block/", 1)
            _, offset, body, *_ = msgpack.unpackb(said)
            if isinstance(body, bytes):
                assert where == b"$ota/block/prod/d1"
                assert body
                assert body in (IMAGE[offset : offset + len(body)], _chunk_list()[offset : offset + len(body)])
    assert lanes[0].server.counters == lanes[1].server.counters


@cache
def _chunk_list() -> bytes:
    artifact = MemorySource()
    artifact.put(IMAGE)
    opened = artifact.open_chunk_list(FACTS)
    return bytes(opened.view(0, opened.size_bytes))


# --- operators -----------------------------------------------------------------------------------------------


def operations(data: bytes) -> None:
    """Whatever an operator asks is done or refused in a sentence, and nothing is half done."""
    world = World()
    world.release()
    world.release("1.2.0", seq=3)
    world.device("d1"), world.device("d2")
    for line in data.split(b"\n")[:12]:
        try:
            asked = read_json(line, max_bytes=4_096)
        except Malformed:
            continue
        if not (isinstance(asked, dict) and isinstance(asked.get("op"), str) and isinstance(asked.get("args"), dict)):
            continue
        before = world.do("fleet"), world.do("release.list")
        try:
            json.dumps(
                world.do(asked["op"], **{str(key): value for key, value in asked["args"].items() if key != "name"})
            )
        except OperatorError:
            assert before == (world.do("fleet"), world.do("release.list"))
    world.passes(1_000.0)


class _Writer:
    """What the socket writes to."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    async def drain(self) -> None:
        pass


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def local_socket(data: bytes) -> None:
    """Whatever bytes come over the local socket, each answer is a line, and the connection ends."""
    _loop().run_until_complete(_served(data))


async def _served(data: bytes) -> None:
    async def call(caller: Caller, op: str, args: dict[str, Any], upload: Any) -> Any:
        if op == "fail":
            raise InvalidInput("it cannot be done")
        if upload is not None and op == "release.add":
            return {"bytes": sum([len(piece) async for piece in upload])}
        return args

    async def subscribe(caller: Caller, what: str, args: dict[str, Any]) -> Any:
        for number in range(2):
            yield {"number": number, **args}

    reader, writer = asyncio.StreamReader(limit=4_096), _Writer()
    server = LocalSocket(Path("s"), call=call, subscribe=subscribe, idle_s=5.0, upload_max_bytes=1 << 20)
    reader.feed_data(data)
    reader.feed_eof()
    try:
        while await server._one_request(Caller(user="ann"), reader, writer):  # type: ignore[arg-type]
            pass
    except (EOFError, asyncio.LimitOverrunError):
        pass
    for line in writer.written.splitlines():
        answer = json.loads(line)
        assert "stream" in answer or isinstance(answer["ok"], bool)
        assert answer.get("error", {}).get("code") != "internal", answer


# --- the simulated device ------------------------------------------------------------------------------------

SIM_IMAGE = bytes(i * i % 251 for i in range(10_000))
_numbers = itertools.count()


@cache
def _flashes() -> Path:
    return Path(tempfile.mkdtemp(prefix="ota-fuzz-flash-"))


def fresh_lab() -> Lab:
    """A device that has just checked in; the same each time."""
    lab = Lab(_flashes() / f"{next(_numbers)}", SIM_IMAGE, acking=False)
    lab.path.unlink()
    return lab


def sim_device(data: bytes) -> None:
    """Whatever a hostile bridge and broker send: nothing raises, and only a signed image is ever handed to the boot."""
    played(data)


def played(data: bytes) -> Snapshot:
    """What a fresh device says after these messages; AssertionError where it did what it must not."""
    lab = fresh_lab()
    device, now = lab.device, 0.1
    try:
        for kind, payload in unframed(data, most=64):
            now += 0.01
            if kind % 4 == LATER:
                now += int.from_bytes(payload[:2], "big") % 1_000
                actions = device.tick(now)
            else:
                actions = (device.block if kind % 4 == BLOCK else device.update)(payload, now)
            while actions:
                reboots = [action for action in actions if isinstance(action, Reboot)]
                for action in actions:
                    if isinstance(action, Publish):
                        assert isinstance(msgpack.unpackb(action.payload), dict if action.topic == "report" else list)
                actions = []
                if reboots:
                    settings = lab.storage.settings
                    if settings.trial is Trial.PENDING:
                        slot = 1 - settings.active
                        assert lab.storage.digest(slot, len(SIM_IMAGE)) == device_digest(), (
                            "an unsigned image would boot"
                        )
                    device.boot(now)
                    actions = device.connected(now)
            assert device.snapshot().version in {"1.0.0", "1.1.0"}
            deadline = device.deadline_s()
            assert deadline is None or deadline < now + 1e7
        return device.snapshot()
    finally:
        lab.kill()


@cache
def device_digest() -> bytes:
    """Of the one image that is signed."""
    lab = fresh_lab()
    lab.kill()
    return bytes(lab.payload[9])


TARGETS = (
    Target(
        name="core", about="reports of one device, through dialect and core", read=core, refusals=(), one_in=200,
        words=(*REPORT_WORDS, OWN, OTHER, *JSON_WORDS), max_bytes=4_000, slow_s=0.2, peak_bytes=1 << 20,
    ),
    Target(
        name="blocks", about="block requests, through both lanes", read=blocks, refusals=(), one_in=20,
        words=(*MSGPACK_WORDS, FACTS.sha256[:8], FACTS.merkle_root[:8]), max_bytes=1_500, slow_s=0.1, peak_bytes=1 << 20,
    ),
    Target(
        name="operations", about="operators' commands, in the core", read=operations, refusals=(), one_in=400,
        words=(*JSON_WORDS, b"\n", b"prod/d1", b"d2", b"1.1.0", b"rollout.start", b"percent"), max_bytes=3_000, slow_s=0.5,
        peak_bytes=1 << 20,
    ),
    Target(
        name="local_socket", about="the framing of the local socket", read=local_socket, refusals=(), one_in=20,
        words=(*JSON_WORDS, b"\n", b'"upload_bytes":', b'"stream":true', b"fail"), max_bytes=6_000, slow_s=0.1,
        peak_bytes=1 << 20,
    ),
    Target(
        name="sim_device", about="a hostile bridge, against the simulated device", read=sim_device, refusals=(), one_in=500,
        words=(*UPDATE_WORDS, *MSGPACK_WORDS), max_bytes=30_000, slow_s=0.5, peak_bytes=1 << 20,
    ),
)  # fmt: skip
