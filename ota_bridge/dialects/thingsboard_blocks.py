"""ThingsBoard's chunks: one request, one answer of raw bytes (docs/dialects/thingsboard.md).

1. A device names the size of its chunks, with each request or once; one that names none gets the whole image at once.
2. What lies past the end is answered with an empty message: the C++ client asks for it, and waits for it.
3. Errors go to `v2/fw/error`, which neither official client listens to. What the caps hold up is answered when its turn
   comes. Who is paused is not answered: the C++ client asks again by itself, the Python one is told the firmware anew.
"""

from collections.abc import Sequence
from typing import Final

from ota_bridge.core.errors import BlockRefusal
from ota_bridge.core.values import FIRMWARE, DeviceId
from ota_bridge.dialect import Asked, MalformedFrom, Piece
from ota_bridge.dialects.thingsboard_messages import Place, is_number

CHUNK_MAX_BYTES: Final = 65_536
WHOLE_MAX_BYTES: Final = 8 << 20
"""The largest image that is sent in one message to a device that names no chunk size."""
REPEAT_S: Final = 0.8
"""Shorter than the second that the Python client sleeps before it begins again with the same request id."""
WAIT_MAX_S: Final = 600.0
SIZES_MAX: Final = 100_000
_HEAD_BYTES: Final = 7
"""The longest head of a PUBLISH at QoS 0, without the topic."""


class ThingsBoardBlocks:
    """The block plane: `{prefix}/{device}/v2/fw/request/{rid}/chunk/{n}`, whose payload is the size of a chunk.

    `reply_to` is the topic of the answer; of what cannot be read, the text for `v2/fw/error`.
    """

    count_max = 1
    repeat_s = REPEAT_S
    wait_max_s = WAIT_MAX_S

    def __init__(self, place: Place, whole_max_bytes: int) -> None:
        self.block_max_bytes = whole_max_bytes
        self._place = place
        self._sizes: dict[DeviceId, tuple[str, int]] = {}
        """Request id and size, of those that named one: it need not be said again."""

    def filters(self) -> Sequence[str]:
        return (f"{self._place.prefix}/+/v2/fw/request/+/chunk/+",)

    def read(self, topic: bytes, payload: bytes) -> Asked | None:
        device, tail = self._place.read(topic.decode("utf-8", "replace"))
        match tail:
            case ["v2", "fw", "request", rid, "chunk", n] if is_number(rid) and is_number(n):
                size = self._size(device, rid, payload)
            case _:
                raise MalformedFrom(f"topic {topic[:80]!r} asks for no chunk", device=device, reply_to="FAILURE")
        answer = f"{self._place.prefix}/{device.name}/v2/fw/response/{int(rid)}/chunk/{int(n)}".encode()
        return Asked(
            device=device,
            offset=int(n) * size,
            size=size,
            component=FIRMWARE,
            frame_bytes=len(answer) + _HEAD_BYTES,
            download=rid,
            reply_to=answer,
        )

    def _size(self, device: DeviceId, rid: str, payload: bytes) -> int:
        """0: all of it, whatever chunk was asked for."""
        if not payload:
            known, size = self._sizes.get(device, ("", 0))
            return size if known == rid else 0
        text = payload.decode("ascii", "replace")
        size = int(text) if is_number(text) else 0
        if not size:
            raise MalformedFrom(f"chunk size {payload[:40]!r} is not a number", device=device, reply_to="FAILURE")
        if size > CHUNK_MAX_BYTES:
            raise MalformedFrom(f"chunk size {size}: too large", device=device, reply_to="PAYLOAD_TOO_LARGE")
        if len(self._sizes) >= SIZES_MAX:
            self._sizes.clear()
        self._sizes[device] = (rid, size)
        return size

    def blocks_of(self, asked: Asked, blocks: Sequence[tuple[int, memoryview]], size_bytes: int) -> Sequence[Piece]:  # noqa: ARG002
        return [(asked.reply_to, (data,)) for _, data in blocks]

    def refusal(self, asked: Asked, code: BlockRefusal, retry_after_s: int) -> Sequence[Piece]:  # noqa: ARG002
        match code:
            case BlockRefusal.PAST_END:
                return [(asked.reply_to, ())]
            case BlockRefusal.NOT_OPEN | BlockRefusal.WITHDRAWN:
                return self._error(asked.device, "NOT_FOUND")
            case BlockRefusal.ABOVE_LIMIT:
                return self._error(asked.device, "PAYLOAD_TOO_LARGE")
        return ()

    def malformed(self, error: MalformedFrom) -> Sequence[Piece]:
        return self._error(error.device, str(error.reply_to))

    def _error(self, device: DeviceId, text: str) -> Sequence[Piece]:
        return [(f"{self._place.prefix}/{device.name}/v2/fw/error".encode(), (text.encode(),))]
