"""Alibaba's file download over MQTT: requests in JSON that is not quite JSON, answers in a binary frame.

Rules:
1. The frame is JSON length (2 bytes, big-endian), JSON, data, CRC-16/ARC of the data (2 bytes, little-endian), no byte
   more. Some devices take the last bytes for the data, others look for the end of the JSON: its order is the cloud's.
2. A file token comes back where there was one, and none where there was none. Which of the two a device is of is also
   told by it: the SDK sends one, hand-written clients do not.
3. "Not now" is an answer that comes in its turn, or silence: the SDK asks again after 10 s. "Not any more" is an error
   to the SDK, which then gives up at once, and silence to the others: they take whatever comes for the next block.
"""

import hashlib
import re
import sys
from array import array
from collections.abc import Sequence
from typing import Final

from ota_bridge.core.errors import BlockRefusal, Malformed
from ota_bridge.core.values import DeviceId
from ota_bridge.decode import Fields
from ota_bridge.dialect import Asked, MalformedFrom, Piece
from ota_bridge.dialects.alibaba_wire import FILE_ID, STREAM_BYTES, Kind, Places, read_body, read_id

BLOCK_MAX_BYTES: Final = 512 * 1024
"""The SDK takes messages of up to 1 MiB; its cloud is said to give 128 KiB."""
KNOWN_MAX: Final = 50_000
TOKEN_MAX_BYTES: Final = 127
"""The SDK copies it into 128 bytes without a look."""
REPEAT_S: Final = 2.0
"""The same request again so soon is a copy on the way: hand-written clients take its answer for the next block."""
WAIT_MAX_S: Final = 120.0
"""Hand-written clients ask once and wait. The SDK asks again after 10 s, and that takes the place of the first."""
_U32: Final = 2**32 - 1
_PLAIN: Final = re.compile(
    rb'\{ ?"id": ?"([A-Za-z0-9._:-]{0,40})", ?(?:"version": ?"[0-9.]{0,8}", ?)?"params": ?\{'
    rb'(?:"fileToken": ?"([ !#-\[\]-~]{0,127})", ?)?"fileInfo": ?\{"streamId": ?(0|[1-9][0-9]{0,7}), ?"fileId": ?1,?\}'
    rb', ?"fileBlock": ?\{"size": ?([1-9][0-9]{0,9}), ?"offset": ?(0|[1-9][0-9]{0,9}) ?\}\}\}'
)
"""What the SDK writes, and what most hand-written clients do."""
_ENDS_IT: Final = frozenset(
    {BlockRefusal.NOT_OPEN, BlockRefusal.PAST_END, BlockRefusal.WITHDRAWN, BlockRefusal.ABOVE_LIMIT}
)


def _crc_table() -> "array[int]":
    """Of two bytes at a time: they push all of the register before them out."""
    single = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
        single.append(crc)
    return array("H", ((single[x & 0xFF] >> 8) ^ single[(single[x & 0xFF] ^ (x >> 8)) & 0xFF] for x in range(65_536)))


_CRC_TABLE: Final = _crc_table()


def crc16(data: memoryview | bytes) -> int:
    """CRC-16/ARC: polynomial 0x8005 reflected, initial value 0, no final exclusive or."""
    even = len(data) & ~1
    words = array("H", bytes(data[:even]))
    if sys.byteorder == "big":
        words.byteswap()
    crc, table = 0, _CRC_TABLE
    for word in words:
        crc = table[crc ^ word]
    if even < len(data):
        crc = (crc >> 8) ^ table[((crc ^ data[even]) & 0xFF) << 8]
    return crc


class AlibabaBlocks:
    """The block plane of the protocol. `Asked.reply_to`: topic, the id as it is written, the token as it is written."""

    block_max_bytes = BLOCK_MAX_BYTES
    count_max = 1
    repeat_s = REPEAT_S
    wait_max_s = WAIT_MAX_S

    def __init__(self, places: Places) -> None:
        self._places = places
        self._known: dict[bytes, DeviceId] = {}
        """By topics of requests; all are forgotten at once above `KNOWN_MAX`."""
        self._crcs: dict[bytes, int] = {}
        """By a digest of the data, which is found thirty times faster: a fleet asks for the same blocks."""
        self._last: tuple[bytes, bytes, Asked] | None = None
        """What was read last, by topic and payload: the server looks at each request more than once."""

    def filters(self) -> Sequence[str]:
        """See VendorBlocks."""
        return self._places.filters(Kind.DOWNLOAD)

    def read(self, topic: bytes, payload: bytes) -> Asked | None:
        """See VendorBlocks."""
        last = self._last
        if last is not None and last[0] is topic and last[1] is payload:
            return last[2]
        device = self._known.get(topic) or self._device(topic)
        if device is None:
            return None
        try:
            asked = quick_request(device, topic, payload) or full_request(device, topic, payload)
        except Malformed as error:
            raise MalformedFrom(str(error), device=device) from error
        self._last = (topic, payload, asked)
        return asked

    def _crc(self, data: memoryview) -> int:
        digest = hashlib.blake2b(data, digest_size=16).digest()
        found = self._crcs.get(digest)
        if found is None:
            if len(self._crcs) >= KNOWN_MAX:
                self._crcs.clear()
            found = self._crcs[digest] = crc16(data)
        return found

    def _device(self, topic: bytes) -> DeviceId | None:
        try:
            device, _, kind = self._places.read(topic.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise Malformed("the topic is not UTF-8") from error
        if kind is not Kind.DOWNLOAD:
            return None
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[topic] = device
        return device

    def blocks_of(self, asked: Asked, blocks: Sequence[tuple[int, memoryview]], size_bytes: int) -> Sequence[Piece]:
        """See VendorBlocks."""
        topic, request_id, token = asked.reply_to
        named = f',"fileToken":{token}' if token else ""
        found: list[Piece] = []
        for offset, data in blocks:
            about = f'{{"bOffset":{offset},"fileLength":{size_bytes},"bSize":{len(data)}{named}}}'
            head = f'{{"code":200,"data":{about},"id":{request_id},"message":"success"}}'.encode()
            crc = self._crc(data).to_bytes(2, "little")
            found.append((topic, (len(head).to_bytes(2, "big") + head, data, crc)))
        return found

    def refusal(self, asked: Asked, code: BlockRefusal, retry_after_s: int) -> Sequence[Piece]:  # noqa: ARG002
        """See VendorBlocks."""
        topic, request_id, token = asked.reply_to
        if code not in _ENDS_IT or not token:
            return ()
        head = f'{{"code":404,"data":{{}},"id":{request_id},"message":"{code.name}"}}'.encode()
        return [(topic, (len(head).to_bytes(2, "big") + head, b"\0\0"))]

    def malformed(self, error: MalformedFrom) -> Sequence[Piece]:  # noqa: ARG002
        """See VendorBlocks."""
        return ()


def quick_request(device: DeviceId, topic: bytes, payload: bytes) -> Asked | None:
    """A request in one of the two forms that nearly all have: exactly what `full_request` says of it. None: no such."""
    found = _PLAIN.fullmatch(payload)
    if found is None:
        return None
    request_id, token, stream, size, offset = found.groups()
    if int(stream) >= 256**STREAM_BYTES or not 1 <= int(size) <= _U32 or int(offset) > _U32:
        return None
    return Asked(
        device=device,
        offset=int(offset),
        size=int(size),
        artifact=int(stream).to_bytes(STREAM_BYTES, "big"),
        reply_to=(topic + b"_reply", f'"{request_id.decode()}"', "" if token is None else f'"{token.decode()}"'),
    )


def full_request(device: DeviceId, topic: bytes, payload: bytes) -> Asked:
    """Any request; raises Malformed."""
    body = read_body(payload)
    params = body.mapping("params")
    info, block = params.mapping("fileInfo"), params.mapping("fileBlock")
    if info.number_text("fileId", maximum=_U32) != FILE_ID:
        raise Malformed(f"fileId: a task has one file, {FILE_ID}")
    request_id = read_id(body)
    return Asked(
        device=device,
        offset=block.number_text("offset", maximum=_U32),
        size=block.number_text("size", minimum=1, maximum=_U32),
        artifact=info.number_text("streamId", maximum=256**STREAM_BYTES - 1).to_bytes(STREAM_BYTES, "big"),
        reply_to=(topic + b"_reply", request_id if request_id.startswith('"') else f'"{request_id}"', _token(params)),
    )


def _token(params: Fields) -> str:
    """With its quotes; empty where there is none. The SDK ends it at the first quote, whatever stands before that."""
    if "fileToken" not in params:
        return ""
    token = params.text("fileToken", max_bytes=TOKEN_MAX_BYTES)
    if not token.isascii() or not token.isprintable() or '"' in token or "\\" in token:
        raise Malformed("fileToken: printable ASCII without quotes is expected")
    return f'"{token}"'
