"""The block plane of Xively Secure File Transfer: one chunk for each request, and none that was not asked for.

A device writes and hashes whatever chunk comes, in the order of arrival; one too many spoils the file, and the next one
after that ends the process. So a request is answered only where it can follow the one that was answered before: at the
first byte, or where that chunk ended. What else comes is left to the next list, which starts the file again.
"""

from collections.abc import Sequence
from typing import Final

from ota_bridge.core.errors import BlockRefusal, Malformed
from ota_bridge.core.values import DeviceId
from ota_bridge.dialect import Asked, MalformedFrom, Piece, Products
from ota_bridge.dialects import xively_wire as wire
from ota_bridge.dialects.xively_files import FileNames

UP_FILTER: Final = "xi/ctrl/v1/+/svc"
CHUNK_MAX_BYTES: Final = 32_767
"""Small devices count a chunk in 16 bits with a sign."""
SERVED_MAX: Final = 200_000
"""Devices whose place is remembered; above that all are forgotten, and each goes on where it asks."""
REPEAT_S: Final = 10.0
WAIT_MAX_S: Final = 600.0
"""A device that waits for its turn longer than this is sent its list again."""
_FRAME_BYTES: Final = 512
_BEFORE, _AFTER = "xi/ctrl/v1/", "/svc"
_Place = tuple[str, str, int]
"""File, revision and offset of the request that can come next."""
_Read = wire.FileInfo | wire.FileStatus | wire.GetChunk
_NOWHERE: Final[_Place] = ("", "", 0)


def named(topic: str) -> str:
    """The device's level of its topic; raises Malformed."""
    name = topic.removeprefix(_BEFORE).removesuffix(_AFTER)
    if f"{_BEFORE}{name}{_AFTER}" != topic or "/" in name:
        raise Malformed(f"topic {topic[:80]!r} is not of a device")
    return name


def down_topic(device: DeviceId) -> str:
    """Where a device listens."""
    return f"{_BEFORE}{device.name}/cln"


class XivelyBlocks:
    """See the module."""

    block_max_bytes = CHUNK_MAX_BYTES
    count_max = 1
    repeat_s = REPEAT_S
    wait_max_s = WAIT_MAX_S

    def __init__(self, products: Products, files: FileNames) -> None:
        self._products = products
        self._files = files
        self._next: dict[DeviceId, _Place] = {}
        self._last: tuple[bytes, _Read | None] = (b"", None)
        """What was read last: the server looks at each request more than once."""

    def filters(self) -> Sequence[str]:
        return (UP_FILTER,)

    def read(self, topic: bytes, payload: bytes) -> Asked | None:
        device = self._products.device(named(topic.decode("utf-8", "replace")))
        last, asked = self._last
        try:
            if asked is None or last is not payload:
                asked = wire.read(payload)
                self._last = (payload, asked)
        except Malformed as error:
            if wire.is_request(payload):
                raise MalformedFrom(str(error), device=device) from error
            return None  # the control plane's to count
        if not isinstance(asked, wire.GetChunk):
            self._place(device, asked)
            return None
        if not asked.length:
            return None
        place = (asked.name, asked.revision, asked.offset)
        if asked.offset and self._next.get(device, place) != place:
            return None
        return Asked(
            device=device,
            offset=asked.offset,
            size=min(asked.length, CHUNK_MAX_BYTES),
            component=self._files.component(asked.name),
            version=asked.revision,
            frame_bytes=_FRAME_BYTES,
            reply_to=asked,
        )

    def _place(self, device: DeviceId, told: wire.FileInfo | wire.FileStatus) -> None:
        """Another connection, which nothing is known of; or the end of a file, after which one begins."""
        if isinstance(told, wire.FileInfo):
            self._next.pop(device, None)
        elif told.code != wire.NOT_THIS_FILE:
            self._remember(device, _NOWHERE)

    def _remember(self, device: DeviceId, place: _Place) -> None:
        if len(self._next) >= SERVED_MAX:
            self._next.clear()
        self._next[device] = place

    def blocks_of(self, asked: Asked, blocks: Sequence[tuple[int, memoryview]], size_bytes: int) -> Sequence[Piece]:  # noqa: ARG002
        request: wire.GetChunk = asked.reply_to
        ((_, data),) = blocks
        self._remember(asked.device, (request.name, request.revision, request.offset + len(data)))
        return [(down_topic(asked.device).encode(), (wire.chunk_head(request, len(data)), data))]

    def refusal(self, asked: Asked, code: BlockRefusal, retry_after_s: int) -> Sequence[Piece]:  # noqa: ARG002
        """Silence: a chunk without data ends the package, and the list that follows starts it again anyway."""
        return ()

    def malformed(self, error: MalformedFrom) -> Sequence[Piece]:  # noqa: ARG002
        return ()
