"""The decoders of Alibaba's protocol: what devices write, and what the simulator's devices read."""

from device_sim.clients.alibaba_field import fixed_task, searched_task
from device_sim.clients.alibaba_words import sdk_reply, sdk_task
from device_sim.clients.model import WentWrong
from ota_bridge.core.conversation import Occasion, Standing, Update
from ota_bridge.core.deployment import State
from ota_bridge.core.errors import BlockRefusal, Malformed
from ota_bridge.core.messages import Rejected, Said
from ota_bridge.core.values import DeploymentId, DeviceId, Sha256
from ota_bridge.dialects.alibaba import AlibabaDialect
from ota_bridge.dialects.alibaba_blocks import full_request, quick_request
from ota_bridge.wire import MqttMessage
from tests.fuzz.mutate import JSON
from tests.fuzz.target import Target, text_of

DIALECT, BEHIND = AlibabaDialect({}), AlibabaDialect({"prefix": "ali", "product": "prod"})
TOPICS = (
    "/ota/device/inform/pk/dn",
    "/ota/device/progress/pk/dn",
    "/sys/pk/dn/thing/ota/firmware/get",
    "/sys/pk/dn/thing/file/download",
)
DATA = memoryview(bytes(64))
DEVICE = DeviceId("pk", "dn")
UPDATE = Update(
    id=DeploymentId("0123456789ab"), release="pk/2.0.0", component="firmware", version="2.0.0", attempt=1,
    state=State.DOWNLOADING, cause="", size_bytes=10_000, sha256=Sha256(bytes(range(32))), md5="0" * 32, file_name="",
    metadata={}, url="", offers=1, created_wall=0.0, changed_wall=0.0, last_block_wall=50.0, high_water_bytes=10_000,
)  # fmt: skip


def message(data: bytes) -> None:
    """A first byte chooses the topic. What is heard is told of, and an answer can be read by a device."""
    topic = TOPICS[data[0] % len(TOPICS)] if data else TOPICS[0]
    payload = data[1:]
    if topic.endswith("file/download"):
        _request(topic, payload)
        return
    said = DIALECT.read(MqttMessage(topic=topic, payload=payload))
    assert said is not None
    if isinstance(said, Rejected):
        raise Malformed(said.reason)
    _talk(said)


def _request(topic: str, payload: bytes) -> None:
    quick = quick_request(DEVICE, topic.encode(), payload)
    asked = DIALECT.blocks.read(topic.encode(), payload)
    assert asked is not None
    assert asked.size
    assert quick is None or quick == asked == full_request(DEVICE, topic.encode(), payload)
    [(answer, pieces)] = DIALECT.blocks.blocks_of(asked, [(asked.offset, DATA)], 2**32 - 1)
    frame = b"".join(pieces)
    assert answer == topic.encode() + b"_reply"
    assert len(frame) <= len(DATA) + asked.frame_bytes
    reply = sdk_reply(frame)
    token = asked.reply_to[2]
    assert (reply is None) is (not token)
    assert reply is None or (reply.offset, reply.data) == (asked.offset, DATA)
    for code in BlockRefusal:
        DIALECT.blocks.refusal(asked, code, 1)


def _talk(said: Said) -> None:
    standing = Standing(device=DEVICE, wall=100.0, is_known=True, parts={"firmware": "1.0.0"}, updates=[UPDATE])
    turn = DIALECT.hear(said.said, standing)
    assert turn.memory is not None
    after = Standing(
        device=DEVICE, wall=100.0, is_known=True, parts={"firmware": "1.0.0"}, updates=[UPDATE], memory=turn.memory
    )
    for one in DIALECT.tell(Occasion(said=said.said), after).messages:
        assert isinstance(one, MqttMessage)
        assert one.topic in {"/ota/device/upgrade/pk/dn", "/sys/pk/dn/thing/ota/firmware/get_reply"}
        task = sdk_task(one.payload)
        assert task is None or task.version == "2.0.0"


def topics(data: bytes) -> None:
    """Any topic names a device or nobody; behind a prefix it is the one of its level."""
    topic = text_of(data)
    for dialect in (DIALECT, BEHIND):
        try:
            said = dialect.read(MqttMessage(topic=topic, payload=b'{"params":{"version":"1","step":1}}'))
        except Malformed:
            continue
        assert isinstance(said, Said | None)
        if said is not None and dialect is BEHIND:
            assert topic.startswith(f"ali/{said.device.name}/")
        elif said is not None:
            assert topic.endswith((f"/{said.device}", f"/{said.device}/thing/ota/firmware/get"))


def device(data: bytes) -> None:
    """What a device reads of a task and of a block is something, or would go wrong in words."""
    text = data.decode("utf-8", "replace")
    for read in (sdk_task, sdk_reply):
        try:
            read(data)
        except WentWrong:
            continue
    for search in (fixed_task, searched_task):
        try:
            search(text)
        except WentWrong:
            continue


WORDS = (
    b'"id":"1"', b"params", b"version", b"module", b"default", b'"step":"-4"', b"100", b"desc", b"fileToken", b",}", b",]",
    b"streamId", b"16777216", b"fileBlock", b"4294967296", b"\\", b"\0", b'"',
)  # fmt: skip
TARGETS = (
    Target(
        name="alibaba", about="messages and block requests of Alibaba's devices", read=message, refusals=(Malformed,),
        words=WORDS, forms=(JSON,), max_bytes=2_400,
    ),
    Target(
        name="alibaba_topics", about="topics of Alibaba's devices", read=topics, refusals=(Malformed,),
        words=(b"/ota/device/", b"inform/", b"/sys/", b"/thing/", b"file/download", b"ali/", b"//", b"\0", b"x" * 65),
        max_bytes=300,
    ),
    Target(
        name="sim_alibaba", about="tasks and blocks, as Alibaba's devices read them", read=device, refusals=(), one_in=4,
        words=(*WORDS, b"bSize", b"bOffset", b"fileLength", b"Md5", b"streamFileId", b'success"}'), forms=(JSON,),
    ),
)  # fmt: skip
