"""Messages of Tencent's devices and gateways, through the dialect, in several standings of the device."""

import json

from ota_bridge.core.conversation import MEMORY_MAX_BYTES, Occasion, Standing, Update
from ota_bridge.core.deployment import OPEN, State
from ota_bridge.core.errors import Malformed
from ota_bridge.core.messages import CheckIn, Event, Progress, Rejected, Said
from ota_bridge.core.values import DeviceId, Sha256
from ota_bridge.dialects.native import NativeDialect, event_line
from ota_bridge.dialects.tencent import TencentDialect
from ota_bridge.dialects.tencent_memory import Kept, Notice
from ota_bridge.store.rows import body_text
from ota_bridge.wire import MqttMessage
from tests.fuzz.bridge_targets import JSON_WORDS, REPORT_WORDS
from tests.fuzz.mutate import JSON
from tests.fuzz.target import Target

DEVICE = DeviceId("prod", "d1")
DIALECT = TencentDialect({"resources": ["voice"]})
NATIVE = NativeDialect("$ota", DIALECT.report)
TOPICS = (f"$ota/report/{DEVICE}", f"$gateway/operation/{DEVICE}", f"$thing/up/service/{DEVICE}")
ANSWERS = (f"$ota/update/{DEVICE}", f"$gateway/operation/result/{DEVICE}", f"$thing/down/service/{DEVICE}")
WALL = 1_000_000.0


def update(component: str, state: State) -> Update:
    return Update(
        id=f"0123456789a{len(component) % 10}", release="prod/2.0.0", component=component, version="2.0.0", attempt=1,
        state=state, cause="", size_bytes=10_000, sha256=Sha256(b"s" * 32), md5="0" * 32, file_name="f", metadata={},
        url="http://h/f", offers=1, created_wall=WALL, changed_wall=WALL, last_block_wall=None, high_water_bytes=0,
    )  # fmt: skip


def standings() -> list[Standing]:
    """One for each state that can be open, known and unknown, with and without a memory."""
    kept = Kept(gateway="prod/g", children=("prod/d2",), failed=("2.0.0", "-2", WALL), claims=("2.0.0", 1))
    found = []
    for index, state in enumerate([None, *sorted(OPEN)]):
        updates = [] if state is None else [update("firmware", state), update("voice", state)]
        notices = {one.id: Notice(wall=WALL - 20, in_vain=index, has_begun=index % 2 == 0) for one in updates}
        memory = [b"", kept.write(), Kept(notices=notices, done=updates[0].id if updates else "").write()][index % 3]
        found.append(
            Standing(
                device=DEVICE,
                wall=WALL,
                is_known=state is not None,
                parts={"firmware": "1.0.0"},
                updates=updates,
                memory=memory,
            )
        )
    return found


STANDINGS = standings()


def tencent(data: bytes) -> None:
    """A bad message is told with its device. A good one is heard and answered on the device's own topics alone."""
    kind, payload = (data[0] % len(TOPICS), data[1:]) if data else (0, b"")
    message = MqttMessage(topic=TOPICS[kind], payload=payload)
    said = NATIVE.decode(message) if kind == 0 else DIALECT.read(message)
    if said is None:
        return
    assert said.device == DEVICE
    if isinstance(said, Rejected):
        raise Malformed(said.reason)
    if not isinstance(said, Said):  # it has native fields
        return
    body_text(said.body).encode()
    event_line(Event(device=DEVICE, wall=0.0, kind="report", data={"report": said.body})).encode()
    for standing in STANDINGS:
        spoken(said, standing)


def spoken(said: Said, standing: Standing) -> None:
    turn = DIALECT.hear(said.said, standing)
    for uplink in turn.uplinks:
        if isinstance(uplink, Said):
            again = DIALECT.hear(uplink.said, Standing(device=uplink.device, wall=WALL, is_known=False, parts={}))
            assert all(isinstance(one, CheckIn) for one in again.uplinks)
        elif isinstance(uplink, Progress):
            assert standing.update(uplink.deployment or "") is not None
            assert (uplink.reason + uplink.result_msg).isprintable()
    memory = standing.memory if turn.memory is None else turn.memory
    assert len(memory) <= MEMORY_MAX_BYTES
    after = Standing(
        device=standing.device, wall=WALL, is_known=standing.is_known, parts=standing.parts, updates=standing.updates,
        memory=memory,
    )  # fmt: skip
    telling = DIALECT.tell(Occasion(said=said.said, is_woken=True), after)
    for message in telling.messages:
        assert isinstance(message, MqttMessage)
        assert message.topic in ANSWERS
        assert (message.qos, message.retain) == (0, False)
        json.loads(message.payload)


TARGETS = (
    Target(
        name="tencent", about="messages of Tencent's devices and gateways", read=tencent, refusals=(Malformed,),
        words=(
            *REPORT_WORDS, *JSON_WORDS, b"online", b"payload", b"devices", b"product_id", b"device_name", b"method",
            b"resource_list", b"resource_name", b"2.0.0", b"voice", b"report_result", b"done", b"fail", b"burning",
            b"downloading", b"\x00", b"\x01", b"\x02",
        ),
        forms=(JSON,), one_in=10,
    ),
)  # fmt: skip
