"""A dialect of a vendor that nobody has heard of: what every part of the bridge does with a dialect is tested with it.

`toy/{product}/{name}/up` carries JSON: `{"runs": VERSION}` and `{}` ask what there is, `{"said": STATE}` is progress,
`{"get": OFFSET}` asks for a block. `toy/{product}/{name}/down` is the answer. Every text is also kept in the memory.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ota_bridge.core.conversation import Occasion, Standing, Telling, Turn
from ota_bridge.core.errors import BlockRefusal, InvalidInput, Malformed
from ota_bridge.core.messages import CheckIn, Encoding, InstalledPart, Progress, Rejected, ReportState, Said
from ota_bridge.core.values import FIRMWARE, DeviceId
from ota_bridge.decode import Fields, read_json
from ota_bridge.dialect import Asked, MalformedFrom, Piece, read_options
from ota_bridge.wire import MqttMessage, Subscription

BLOCK_BYTES = 256
RESEND_S = 15.0


def device_of(topic: str) -> DeviceId:
    levels = topic.split("/")
    try:
        return DeviceId(levels[1], levels[2])
    except (IndexError, InvalidInput) as error:
        raise Malformed(f"topic {topic[:80]!r} names no device") from error


class ToyDialect:
    """Both planes."""

    name = "toy"
    author_fields: Mapping[str, str] = {}

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = read_options("toy", options, {"greeting": str, "needs": str})
        if "needs" in self.options:
            self.author_fields = {self.options["needs"]: "a secret of the author"}

    @property
    def blocks(self) -> "ToyBlocks":
        return ToyBlocks()

    def subscriptions(self) -> Sequence[Subscription]:
        return (Subscription(topic_filter="toy/+/+/up", qos=1),)

    def is_for_blocks(self, message: MqttMessage) -> bool:
        return b'"get"' in message.payload

    def read(self, message: MqttMessage) -> Said | Rejected | None:
        device = device_of(message.topic)
        try:
            body = read_json(message.payload, max_bytes=1024)
        except Malformed as error:
            return Rejected(device=device, reason=str(error))
        return Said(device=device, dialect=self.name, said=body, body=body)

    def hear(self, said: object, standing: Standing) -> Turn:
        assert isinstance(said, dict)
        if said.get("boom"):
            raise RuntimeError("the toy is broken")
        memory = standing.memory + json.dumps(said).encode()
        if "said" in said:
            open_ = standing.open_for(FIRMWARE)
            if open_ is None:
                return Turn(memory=memory)
            state = ReportState(said["said"])
            progress = Progress(
                device=standing.device, dialect=self.name, key=None, deployment=open_.id, component=FIRMWARE,
                state=state, result_code=said.get("code", "0"), is_proof=bool(said.get("proof")),
                reason=said.get("reason", ""), body=said,
            )  # fmt: skip
            return Turn(uplinks=[progress], memory=memory)
        parts = {FIRMWARE: InstalledPart(version=said["runs"])} if "runs" in said else {}
        check_in = CheckIn(
            device=standing.device, dialect=self.name, encoding=Encoding.JSON, key=None, parts=parts,
            keeps_parts=not parts, body=said,
        )  # fmt: skip
        return Turn(uplinks=[check_in], memory=memory)

    def tell(self, occasion: Occasion, standing: Standing) -> Telling:
        if isinstance(occasion.said, dict) and occasion.said.get("boom_later"):
            raise RuntimeError("the toy breaks while it speaks")
        words: list[dict[str, Any]] = []
        for update in standing.updates:
            if update.id in occasion.offered or (occasion.said is not None and update.is_served):
                words.append({"offer": update.version, "size": update.size_bytes, "url": update.url})
            elif occasion.is_woken and update.is_served:
                words.append({"again": update.version})
            elif update.id in occasion.canceled:
                words.append({"cancel": update.version})
        words += [{"ended": one.state.value} for one in standing.ended if one.id in occasion.ended]
        if "greeting" in self.options and occasion.said is not None:
            words.insert(0, {"greeting": self.options["greeting"]})
        topic = f"toy/{standing.device}/down"
        messages = [MqttMessage(topic=topic, payload=json.dumps(word).encode()) for word in words]
        is_offered = any(update.is_served for update in standing.updates)
        return Telling(messages=messages, wake_wall=standing.wall + RESEND_S if is_offered else None)


class ToyBlocks:
    """One block of 256 bytes for each request."""

    block_max_bytes = BLOCK_BYTES
    count_max = 1
    repeat_s = 2.0

    def filters(self) -> Sequence[str]:
        return ("toy/+/+/up",)

    def read(self, topic: bytes, payload: bytes) -> Asked | None:
        device = device_of(topic.decode("utf-8", "replace"))
        if b'"get"' not in payload:
            return None
        try:
            fields = Fields(read_json(payload, max_bytes=1024))
            return Asked(device=device, offset=fields.uint("get", maximum=2**32), size=BLOCK_BYTES)
        except Malformed as error:
            raise MalformedFrom(str(error), device=device) from error

    def blocks_of(self, asked: Asked, blocks: Sequence[tuple[int, memoryview]], size_bytes: int) -> Sequence[Piece]:
        return [(self._topic(asked), (b"%d/%d:" % (offset, size_bytes), data)) for offset, data in blocks]

    def refusal(self, asked: Asked, code: BlockRefusal, retry_after_s: int) -> Sequence[Piece]:
        if code is BlockRefusal.NOT_OPEN:
            return ()
        return [(self._topic(asked), (b"no: %s" % code.name.encode(),))]

    def malformed(self, error: MalformedFrom) -> Sequence[Piece]:
        return [(f"toy/{error.device}/down".encode(), (b"what?",))]

    def _topic(self, asked: Asked) -> bytes:
        return f"toy/{asked.device}/down".encode()
