"""What Xively devices say, with the topic that they say it on (`TOPIC LINE FEED PAYLOAD`), and what their clients hear."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import cbor2

from device_sim.clients import cbor_loose
from device_sim.clients.model import ClientOptions, Incoming, WentWrong
from device_sim.clients.xively import xively_client
from ota_bridge.core.conversation import MEMORY_MAX_BYTES, Occasion, Standing, Update
from ota_bridge.core.deployment import State
from ota_bridge.core.errors import BlockRefusal, Malformed
from ota_bridge.core.messages import CheckIn, Rejected, Said
from ota_bridge.core.values import DeploymentId, DeviceId, Sha256, checked_component, checked_version
from ota_bridge.dialects import xively_wire as wire
from ota_bridge.dialects.xively import XivelyDialect
from ota_bridge.dialects.xively_blocks import CHUNK_MAX_BYTES
from ota_bridge.wire import MqttMessage
from tests.fuzz.mutate import CBOR
from tests.fuzz.target import Target, text_of

VECTORS = Path(__file__).parents[1] / "vectors" / "xively"
UPDATE = Update(
    id=DeploymentId("0123456789ab"), release="prod/1.1", component="firmware", version="1.1", attempt=1,
    state=State.OFFERED, cause="offered", size_bytes=10_000, sha256=Sha256(bytes(32)), md5="0" * 32, file_name="",
    metadata={}, url="http://h/f", offers=1, created_wall=1.0, changed_wall=1.0, last_block_wall=None,
    high_water_bytes=0,
)  # fmt: skip
VARIANTS = ("lib-a", "lib-b", "ext")


def message(data: bytes) -> None:
    """A message is the one plane's or the other's, and means the same to the device's own lenient reader."""
    topic, _, payload = data.partition(b"\n")
    dialect = XivelyDialect({"product": "prod"})
    refused = [one for one in (_control(dialect, text_of(topic), payload), _chunk(dialect, topic, payload)) if one]
    with suppress(Malformed):
        _means_the_same(wire.read(payload), payload)
    if refused:
        raise refused[0]


def _means_the_same(found: object, payload: bytes) -> None:
    body = cbor_loose.read(payload)
    match found:
        case wire.GetChunk():
            assert [2, found.name, found.revision, found.offset, found.length] == [body[key] for key in KEYS["get"]]
        case wire.FileStatus():
            assert [4, found.name, found.revision, found.phase, found.code] == [body[key] for key in KEYS["status"]]
        case wire.FileInfo():
            assert [(one["N"], one["R"]) for one in body["list"]] == list(found.files)


KEYS = {"get": ("msgtype", "N", "R", "O", "L"), "status": ("msgtype", "N", "R", "P", "S")}


def _control(dialect: XivelyDialect, topic: str, payload: bytes) -> Malformed | None:
    sent = MqttMessage(topic=topic, payload=payload)
    if dialect.is_for_blocks(sent):
        return None
    try:
        found = dialect.read(sent)
    except Malformed as error:
        return error
    if isinstance(found, Rejected):
        return Malformed(found.reason)
    if found is not None:
        _conversation(dialect, found)
    return None


def _conversation(dialect: XivelyDialect, found: Said) -> None:
    json.dumps(found.body)
    whole = replace(UPDATE, high_water_bytes=UPDATE.size_bytes)
    for updates in ((), (UPDATE,), (whole,), (replace(UPDATE, state=State.INSTALLING),)):
        standing = _standing(found.device, updates, b"")
        turn = dialect.hear(found.said, standing)
        for report in turn.uplinks:
            if isinstance(report, CheckIn):
                assert report.parts
                for component, part in report.parts.items():
                    checked_component(component)
                    checked_version(part.version)
        memory = turn.memory or b""
        assert len(memory) < MEMORY_MAX_BYTES
        for woken in (False, True):
            occasion = Occasion(said=None if woken else found.said, is_woken=woken)
            telling = dialect.tell(occasion, _standing(found.device, updates, memory))
            for one in telling.messages:
                assert isinstance(one, MqttMessage)
                assert (f"xi/ctrl/v1/{found.device.name}/cln", 0, False) == (one.topic, one.qos, one.retain)
                cbor2.loads(one.payload)


def _standing(device: DeviceId, updates: tuple[Update, ...], memory: bytes) -> Standing:
    return Standing(device=device, wall=100.0, is_known=True, parts={}, updates=updates, memory=memory)


def _chunk(dialect: XivelyDialect, topic: bytes, payload: bytes) -> Malformed | None:
    blocks = dialect.blocks
    try:
        asked = blocks.read(topic, payload)
    except Malformed as error:
        return error
    if asked is not None:
        assert 0 < asked.size <= CHUNK_MAX_BYTES
        assert [] == [one for code in BlockRefusal for one in blocks.refusal(asked, code, 1)]
        ((answer, (head, data)),) = blocks.blocks_of(asked, [(asked.offset, memoryview(b"x" * asked.size))], 1 << 32)
        assert len(answer) + len(head) + 7 <= asked.frame_bytes + len(asked.version)
        body = cbor2.loads(head + bytes(data))
        assert (asked.offset, asked.size, asked.version) == (body["O"], len(body["C"]), body["R"])
    return None


def device(data: bytes) -> None:
    """Whatever a server sends: a client takes it, takes no notice, or says what it would die of."""
    client = xively_client(
        ClientOptions(product="p", name="d1", variants=frozenset({VARIANTS[data[0] % 3]} if data else ()))
    )
    client.started(0.0)
    listed = bytes.fromhex(next(one["hex"] for one in _samples() if one["name"] == "available_two_files"))
    for payload in (listed, data[1:], data[1:], listed):
        client.received(Incoming(topic="xi/ctrl/v1/d1/cln", payload=payload), 0.0)


def _samples() -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads((VECTORS / "samples.json").read_text())["samples"]
    return found


def seeds() -> Iterator[bytes]:
    """What the vendor's encoder wrote, on a device's topic."""
    for sample in _samples():
        if sample["to"] == "service":
            yield b"xi/ctrl/v1/d1/svc\n" + bytes.fromhex(sample["hex"])
    ext = {"msgtype": 0, "msgver": 1, "list": [{"N": "firmware", "R": "-1"}]}
    yield b"xi/ctrl/v1/d1/svc\n" + cbor2.dumps(ext)


def device_seeds() -> Iterator[bytes]:
    """What the service says to each client."""
    for sample in _samples():
        if sample["to"] == "device":
            yield from (bytes([number]) + bytes.fromhex(sample["hex"]) for number in range(len(VARIANTS)))


WORDS = (
    b"msgtype",
    b"msgver",
    b"list",
    b"firmware.bin",
    b"../x",
    b"xi/ctrl/v1/",
    b"/svc",
    b"\x61N",
    b"\x61R",
    b"\x61O",
    b"\x61L",
)

TARGETS = (
    Target(
        name="xively", about="Xively's messages and topics", read=message, refusals=(Malformed,), words=WORDS,
        forms=(CBOR,), max_bytes=2_000,
    ),
    Target(
        name="sim_xively", about="lists and chunks, as Xively devices read them", read=device, refusals=(WentWrong,),
        words=WORDS, forms=(CBOR,), max_bytes=2_000, one_in=4,
    ),
)  # fmt: skip
