"""Requests for blocks as the vendor's libraries write them, byte for byte, and blocks as they read them.

A block that they would read wrongly, or refuse for ever, is `WentWrong`: no server should send one.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any, Final

from device_sim.clients import cbor_loose
from device_sim.clients.aws_documents import core_json, plain
from device_sim.clients.model import WentWrong
from device_sim.errors import Malformed

OVERHEAD_MAX: Final = 1530
"""What the buffer for a message has beyond one block; nothing checks it before the copy."""
JUNK_BITMAP: Final = b"MQ=="
"""What the streams library writes as its bitmap, whatever it asks for."""
_UINT32_DIGITS: Final = re.compile(r"[0-9]{1,10}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One message of a stream's data topic."""

    file_id: int
    index: int
    data: bytes


def request_json(file_id: int, block_bytes: int, offset: int, count: int) -> bytes:
    """As the streams library writes it: the version is always 1."""
    return f'{{"s": 1,"f": {file_id},"l": {block_bytes},"o": {offset},"n": {count}}}'.encode()


def request_cbor(file_id: int, block_bytes: int, offset: int, count: int, bitmap: bytes = JUNK_BITMAP) -> bytes:
    """As the streams library and the older agent write it; the agent gives a bitmap that means something."""
    return b"".join(
        (
            b"\xa6\x61c\x63rdy\x61f",
            _head(0, file_id),
            b"\x61l",
            _head(0, block_bytes),
            b"\x61o",
            _head(0, offset),
            b"\x61b",
            _head(2, len(bitmap)),
            bitmap,
            b"\x61n",
            _head(0, count),
        )
    )


def read_block(payload: bytes, encoding: str, block_bytes: int) -> Block:
    """A message of the data topic."""
    room = (-(-block_bytes // 3) * 4 if encoding == "json" else block_bytes) + OVERHEAD_MAX
    if len(payload) > room:
        raise WentWrong(f"a message of {len(payload)} bytes is copied over a buffer of {room}")
    fields = _fields_of_json(payload) if encoding == "json" else _fields_of_cbor(payload)
    missing = [key for key in "filp" if key not in fields]
    if missing:
        raise WentWrong(f"a block without {', '.join(missing)}")
    data, length = fields["p"], fields["l"]
    if not isinstance(data, bytes):
        raise WentWrong("p is no byte string")
    if len(data) > block_bytes:
        raise WentWrong(f"a payload of {len(data)} bytes for a block of {block_bytes}")
    if length != len(data):
        raise WentWrong(f"l says {length} of a payload of {len(data)} bytes")
    return Block(file_id=fields["f"], index=fields["i"], data=data)


def _fields_of_json(payload: bytes) -> dict[str, Any]:
    body = core_json(payload)
    fields: dict[str, Any] = {}
    for key in "fil":
        value = body.get(key, "")
        if not isinstance(value, str) or not _UINT32_DIGITS.fullmatch(value):
            raise WentWrong(f"{key} is {value!r}: more than ten digits fail an assertion, anything else is no number")
        fields[key] = int(value)
    try:
        fields["p"] = base64.b64decode(plain(body.get("p"), "p").replace("\n", ""), validate=True)
    except binascii.Error as error:
        raise WentWrong(f"p is not base64: {error}") from None
    return fields


def _fields_of_cbor(payload: bytes) -> dict[str, Any]:
    try:
        fields = cbor_loose.read(payload)
    except Malformed as error:
        raise WentWrong(f"a block that is no CBOR: {error}") from None
    if not isinstance(fields, dict):
        raise WentWrong("a block in CBOR is a map")
    for key in "fil":
        if key in fields and (type(fields[key]) is not int or fields[key] < 0):
            raise WentWrong(f"{key} is no unsigned integer")
    return fields


def _head(major: int, number: int) -> bytes:
    if number < 24:  # noqa: PLR2004  RFC 8949 §3
        return bytes([major << 5 | number])
    width = 1 if number < 1 << 8 else 2 if number < 1 << 16 else 4
    return bytes([major << 5 | 23 + width.bit_length()]) + number.to_bytes(width, "big")
