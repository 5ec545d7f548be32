"""MQTT file streams of AWS IoT: DescribeStream and GetStream in JSON and CBOR, without I/O.

Rules:
1. A stream is one image: its name is `AFR_OTA-` and the first 16 bytes of the image's digest, written like a UUID. So
   a request says which artifact it means, and the name has the 44 bytes that device libraries have room for.
2. A stream's version is always 1, because the JSON library always asks for version 1.
3. Offsets are counted in blocks of the size asked for. A bitmap is honoured, except the four bytes `MQ==`, which one
   library writes whatever it wants: they count as none.
4. One request is answered with at most 128 KiB; the rest is asked for again.
5. A block's message has five fields and no more: devices copy it into a buffer that is hardly larger than the block.
"""

import base64
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from ota_bridge.core.errors import Malformed
from ota_bridge.decode import Fields, MapKeys, read_cbor, read_json

STREAM_VERSION: Final = 1
FILE_ID: Final = 0
NAME_PREFIX: Final = "AFR_OTA-"
DIGEST_BYTES: Final = 16
ANSWER_MAX_BYTES: Final = 131_072
BLOCK_MIN_BYTES: Final = 256
BLOCKS_MAX: Final = 98_304
BITMAP_MAX_BYTES: Final = 12_288
TOKEN_MAX_BYTES: Final = 64
JUNK_BITMAP: Final = b"MQ=="
_REQUEST_MAX_BYTES: Final = 2 * BITMAP_MAX_BYTES + 512
_VERSION_MAX: Final = 65_535
_FILE_ID_MAX: Final = 255
_ITEMS_MAX: Final = 16
_STREAM: Final = re.compile(
    NAME_PREFIX + r"([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{12})", re.ASCII
)
_HEX: Final = re.compile(r"(?:0x)?((?:[0-9a-fA-F]{2})*)", re.ASCII)


class StreamRefused(Malformed):
    """A request that gets an answer on `rejected`; `token` as far as it could be read."""

    def __init__(self, code: str, message: str, *, token: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.token = token


@dataclass(frozen=True, slots=True, kw_only=True)
class GetStream:
    """One request for blocks. `offset` in blocks; `bitmap` counts from there; at most `count` blocks are sent."""

    token: str | None
    block_bytes: int
    offset: int
    count: int
    bitmap: bytes | None


def stream_name(sha256: bytes) -> str:
    """The stream of an image: 44 characters."""
    digits = sha256[:DIGEST_BYTES].hex()
    return f"{NAME_PREFIX}{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def artifact_of(stream: str) -> bytes | None:
    """The digest prefix that a stream's name stands for; None for any other name."""
    found = _STREAM.fullmatch(stream)
    return bytes.fromhex("".join(found.groups())) if found else None


# --- requests ----------------------------------------------------------------------------------------------------


def read_describe(payload: bytes, *, is_cbor: bool) -> str | None:
    """The token of a DescribeStream request, None without one; raises StreamRefused."""
    return _token(_body(payload, is_cbor=is_cbor) if payload else Fields({}))


def read_get(payload: bytes, *, is_cbor: bool) -> GetStream:
    """A GetStream request; raises StreamRefused."""
    fields = _body(payload, is_cbor=is_cbor)
    token = _token(fields)
    try:
        return _get(fields, token, is_cbor=is_cbor)
    except StreamRefused as refusal:
        refusal.token = token
        raise
    except Malformed as error:
        raise StreamRefused("InvalidRequest", str(error), token=token) from error


def _get(fields: Fields, token: str | None, *, is_cbor: bool) -> GetStream:
    version = fields.optional(fields.uint, "s", maximum=_VERSION_MAX)
    if version not in {None, STREAM_VERSION}:
        raise StreamRefused("VersionMismatch", f"the stream has version {STREAM_VERSION}, not {version}")
    if fields.uint("f", maximum=_FILE_ID_MAX) != FILE_ID:
        raise StreamRefused("ResourceNotFound", f"the stream has one file, which is {FILE_ID}")
    size = _bounded(fields, "l", "BlockSizeOutOfBounds", BLOCK_MIN_BYTES, ANSWER_MAX_BYTES)
    offset = _bounded(fields, "o", "OffsetOutOfBounds", 0, BLOCKS_MAX) if "o" in fields else 0
    most = ANSWER_MAX_BYTES // size
    count = most
    if "n" in fields:
        count = min(most, _bounded(fields, "n", "BlockCountLimitExceeded", 0, BLOCKS_MAX))
    bitmap = _bitmap(fields, is_cbor=is_cbor) if "b" in fields else None
    if not count or (bitmap is not None and not any(bitmap)):
        raise StreamRefused("InvalidRequest", "no block is asked for")
    return GetStream(token=token, block_bytes=size, offset=offset, count=count, bitmap=bitmap)


def _bounded(fields: Fields, key: str, code: str, minimum: int, maximum: int) -> int:
    """A number with a code of its own for what lies outside; what is no number is malformed."""
    value = fields.uint(key, maximum=2**64 - 1)
    if not minimum <= value <= maximum:
        raise StreamRefused(code, f"{key} must be {minimum}..{maximum}, not {value}")
    return value


def _bitmap(fields: Fields, *, is_cbor: bool) -> bytes | None:
    if is_cbor:
        bitmap = fields.binary("b", min_bytes=0, max_bytes=_REQUEST_MAX_BYTES)
    else:
        found = _HEX.fullmatch(fields.text("b", max_bytes=_REQUEST_MAX_BYTES))
        if found is None:
            raise Malformed("b must be hexadecimal text, with or without 0x")
        bitmap = bytes.fromhex(found[1])
    if len(bitmap) >= BITMAP_MAX_BYTES:
        raise StreamRefused("BlockBitmapLimitExceeded", f"b must have less than {BITMAP_MAX_BYTES} bytes")
    return None if bitmap == JUNK_BITMAP else bitmap


def _body(payload: bytes, *, is_cbor: bool) -> Fields:
    try:
        if is_cbor:
            body = read_cbor(
                payload,
                max_bytes=_REQUEST_MAX_BYTES,
                max_depth=2,
                max_items=_ITEMS_MAX,
                keys=MapKeys.TEXT,
                ordered=False,
            )
        else:
            body = read_json(payload, max_bytes=_REQUEST_MAX_BYTES, max_depth=2, max_items=_ITEMS_MAX)
        return Fields(body, name="request")
    except Malformed as error:
        raise StreamRefused("InvalidCbor" if is_cbor else "InvalidJson", str(error)) from error


def _token(fields: Fields) -> str | None:
    try:
        return fields.optional(fields.text, "c", max_bytes=TOKEN_MAX_BYTES)
    except Malformed as error:
        raise StreamRefused("InvalidRequest", str(error)) from error


# --- answers -----------------------------------------------------------------------------------------------------


def write_block(index: int, data: bytes | memoryview, token: str | None, *, is_cbor: bool) -> bytes:
    """One block: `index` counts blocks of the size that was asked for, from the start of the file."""
    fields: dict[str, Any] = {"f": FILE_ID, "i": index, "l": len(data)}
    if token is not None:
        fields = {"c": token, **fields}
    if is_cbor:
        return write_cbor({**fields, "p": data})
    return write_json({**fields, "p": base64.b64encode(data).decode()})


def write_description(size_bytes: int, token: str | None, description: str, *, is_cbor: bool) -> bytes:
    """The answer to DescribeStream."""
    fields: dict[str, Any] = {} if token is None else {"c": token}
    fields |= {"s": STREAM_VERSION, "d": description, "r": [{"f": FILE_ID, "z": size_bytes}]}
    return write_cbor(fields) if is_cbor else write_json(fields)


def write_refusal(refused: StreamRefused, *, is_cbor: bool) -> bytes:
    """A refusal: everything stands under a short and a long name."""
    message = str(refused)
    fields = {"o": refused.code, "code": refused.code, "m": message, "message": message}
    if refused.token is not None:
        fields = {"c": refused.token, "clientToken": refused.token, **fields}
    return write_cbor(fields) if is_cbor else write_json(fields)


def write_json(body: dict[str, Any]) -> bytes:
    """Without blanks and without escapes that a reader would have to undo; device libraries undo none."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def write_cbor(value: Any) -> bytes:
    """Maps of indefinite length, as the vendor's service writes them; the keys in the order given."""
    if isinstance(value, dict):
        return b"\xbf" + b"".join(write_cbor(key) + write_cbor(item) for key, item in value.items()) + b"\xff"
    if isinstance(value, list):
        return _head(4, len(value)) + b"".join(write_cbor(item) for item in value)
    if isinstance(value, str):
        text = value.encode()
        return _head(3, len(text)) + text
    if isinstance(value, int):
        return _head(0, value)
    return b"".join((_head(2, len(value)), value))


def _head(major: int, argument: int) -> bytes:
    if argument < 24:  # noqa: PLR2004  RFC 8949 §3: the argument itself
        return bytes((major << 5 | argument,))
    exponent = ((argument.bit_length() - 1) // 8).bit_length()
    return bytes((major << 5 | 24 + exponent,)) + argument.to_bytes(1 << exponent, "big")
