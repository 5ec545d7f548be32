"""What ThingsBoard devices say, with the topic that they say it on: `TOPIC LINE FEED PAYLOAD`."""

import json
from collections.abc import Iterator
from pathlib import Path

from ota_bridge.core.conversation import Occasion, Standing, Update
from ota_bridge.core.deployment import State
from ota_bridge.core.errors import BlockRefusal, Malformed
from ota_bridge.core.messages import Rejected, Said
from ota_bridge.core.values import DeploymentId, DeviceId, Sha256
from ota_bridge.dialect import MalformedFrom
from ota_bridge.dialects.thingsboard import ThingsBoard
from ota_bridge.wire import MqttMessage
from tests.fuzz.mutate import JSON
from tests.fuzz.target import Target, text_of

VECTORS = Path(__file__).parents[1] / "vectors" / "thingsboard"
DIALECT = ThingsBoard({"product": "prod"})
UPDATE = Update(
    id=DeploymentId("0123456789ab"), release="prod/2.0", component="firmware", version="2.0", attempt=1,
    state=State.OFFERED, cause="offered", size_bytes=10_000, sha256=Sha256(bytes(32)), md5="0" * 32, file_name="",
    metadata={}, url="", offers=1, created_wall=1.0, changed_wall=1.0, last_block_wall=None, high_water_bytes=0,
)  # fmt: skip


def message(data: bytes) -> None:
    """Whatever is said means something to its own device or nothing; what is answered stays below its prefix."""
    topic, _, payload = data.partition(b"\n")
    refused = [one for one in (_control(text_of(topic), payload), _chunk(topic, payload)) if one is not None]
    if len(refused) == 2:
        raise refused[0]


def _control(topic: str, payload: bytes) -> Malformed | None:
    sent = MqttMessage(topic=topic, payload=payload)
    DIALECT.is_for_blocks(sent)
    try:
        found = DIALECT.read(sent)
    except Malformed as error:
        return error
    if isinstance(found, Rejected):
        return Malformed(found.reason)
    if found is not None:
        _conversation(found)
    return None


def _conversation(found: Said) -> None:
    json.dumps(found.body)
    for updates in ((), (UPDATE,)):
        standing = _standing(found.device, updates, b"")
        turn = DIALECT.hear(found.said, standing)
        telling = DIALECT.tell(Occasion(said=found.said), _standing(found.device, updates, turn.memory or b""))
        for one in telling.messages:
            assert isinstance(one, MqttMessage)
            assert one.topic.startswith(f"tb/{found.device.name}/v1/devices/me/")
            assert not set("+#\0") & set(one.topic)
            assert len(one.topic) < 200 + len(found.device.name)
            json.loads(one.payload)
        assert len(turn.memory or b"") < 4_096


def _standing(device: DeviceId, updates: tuple[Update, ...], memory: bytes) -> Standing:
    return Standing(device=device, wall=100.0, is_known=True, parts={"firmware": "1.0"}, updates=updates, memory=memory)


def _chunk(topic: bytes, payload: bytes) -> Malformed | None:
    blocks = DIALECT.blocks
    try:
        asked = blocks.read(topic, payload)
    except MalformedFrom as error:
        [(answer, _)] = blocks.malformed(error)
        assert answer == f"tb/{error.device.name}/v2/fw/error".encode()
        return error
    except Malformed as error:
        return error
    if asked is not None:
        assert 0 <= asked.size <= 65_536
        assert 0 <= asked.offset < 2**64
        for code in BlockRefusal:
            for answer, _ in blocks.refusal(asked, code, 1):
                assert answer.startswith(f"tb/{asked.device.name}/v2/fw/".encode())
        [(answer, _)] = blocks.blocks_of(asked, [(asked.offset, memoryview(b"x"))], 1)
        assert len(answer) + 7 == asked.frame_bytes
    return None


def seeds() -> Iterator[bytes]:
    """What the real clients said, each kind of message once."""
    seen = set()
    for name in ("cpp", "python"):
        for step in json.loads((VECTORS / f"{name}.json").read_text())["steps"]:
            kind = (step.get("publish", "").rpartition("/")[0], step.get("text", "")[-40:])
            if step["from"] == "device" and "publish" in step and kind not in seen:
                seen.add(kind)
                yield f"tb/d1/{step['publish']}\n{step['text']}".encode()
    yield b'tb/d1/v1/devices/me/telemetry\n[{"ts":1700000000000,"values":{"fw_state":"FAILED","fw_error":"Checksum verification failed!"}},{"mood":2.5}]'
    yield b'tb/d1/v1/devices/me/telemetry\n{"fw_state":"UPDATED","fw_error":null}'
    yield b"tb/d1/v2/fw/request/4294967295/chunk/9999999999\n65536"
    yield b"tb/d1/v2/fw/request/2/chunk/0\n"


TARGETS = (
    Target(
        name="thingsboard", about="ThingsBoard's messages and topics", read=message, refusals=(Malformed,),
        words=(
            b"current_fw_title", b"current_fw_version", b"fw_state", b"fw_error", b"sharedKeys", b"clientKeys", b"values",
            b"ts", b"getSessionLimits", b"DOWNLOADING", b"/v1/devices/me/attributes/request/", b"/v2/fw/request/", b"/chunk/",
        ),
        forms=(JSON,), max_bytes=4_000,
    ),
)  # fmt: skip
