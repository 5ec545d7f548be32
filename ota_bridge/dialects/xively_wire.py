"""The messages of Xively Secure File Transfer in CBOR: read strictly, written as the vendor's service wrote them.

The same letter means different things from message to message: `S` is a size, a chunk's status or a result, `L` a flag,
an address or a length. So a payload is read by its `msgtype` first.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ota_bridge.core.errors import Malformed
from ota_bridge.decode import U32, Fields, MapKeys, read_cbor

FILES_MAX: Final = 32
REVISION_MAX_BYTES: Final = 1024
"""A device keeps no more of one."""
PAYLOAD_MAX_BYTES: Final = 40_960
_ITEMS_MAX: Final = 8 + 4 * FILES_MAX
_DEPTH_MAX: Final = 3
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@ -]{0,63}")
"""No path: devices open whatever they are told as a file."""
_INFO, _AVAILABLE, _GET, _CHUNK, _STATUS = range(5)
_GET_BEGINS: Final = b"\x67msgtype\x02"
_BEGIN_MAX_BYTES: Final = 32
NOT_THIS_FILE: Final = -1
"""The code of a status: a chunk came of another file; the device goes on waiting for its own."""
_REFUSED: Final = 4
"""A chunk's status: the file is not to be had."""
_SHORT: Final = 1
"""A chunk's status: less than was asked for, because the file ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """Which files a device has, and in which revisions: said once on each connection."""

    files: tuple[tuple[str, str], ...]
    """Names and revisions, in the device's order."""
    takes_urls: bool | None = None
    """None: it does not know about them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStatus:
    """How far one file has come; a negative code is an error."""

    name: str
    revision: str
    phase: int
    code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GetChunk:
    """Please send so many bytes from there; the next request follows when they have come."""

    name: str
    revision: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Available:
    """One file that is to be fetched."""

    name: str
    revision: str
    size_bytes: int
    sha256: bytes
    url: str = ""
    """Where it may be fetched as well; empty: over MQTT alone."""


def is_request(payload: bytes) -> bool:
    """True for what looks like FILE_GET_CHUNK: the vendor's encoder puts the type first."""
    return _GET_BEGINS in payload[:_BEGIN_MAX_BYTES]


def read(payload: bytes) -> FileInfo | FileStatus | GetChunk:
    """A message of a device; raises Malformed."""
    body = read_cbor(
        payload, max_bytes=PAYLOAD_MAX_BYTES, max_depth=_DEPTH_MAX, max_items=_ITEMS_MAX, keys=MapKeys.TEXT,
        ordered=False, scalars=True,
    )  # fmt: skip
    fields = Fields(body)
    fields.uint("msgver", minimum=1, maximum=1)
    match fields.uint("msgtype", maximum=_STATUS):
        case 0:
            return _info(fields)
        case 2:
            offset, length = fields.uint("O", maximum=U32), fields.uint("L", maximum=U32)
            return GetChunk(name=_name(fields), revision=_revision(fields), offset=offset, length=length)
        case 4:
            phase, code = fields.uint("P", maximum=255), fields.uint("S", minimum=-128, maximum=127)
            return FileStatus(name=_name(fields), revision=_revision(fields), phase=phase, code=code)
    raise Malformed("msgtype: 0, 2 or 4 is expected from a device")


def _info(fields: Fields) -> FileInfo:
    listed = fields.array("list", min_items=1, max_items=FILES_MAX)
    files = [listed.mapping(index) for index in range(len(listed))]
    found = tuple((_name(file), _revision(file)) for file in files)
    if len({name for name, _ in found}) < len(found):
        raise Malformed("list: a name stands there twice")
    return FileInfo(files=found, takes_urls=fields.optional(fields.flag, "L"))


def _name(fields: Fields) -> str:
    return fields.text("N", max_bytes=64, pattern=_NAME)


def _revision(fields: Fields) -> str:
    return fields.text("R", max_bytes=REVISION_MAX_BYTES)


# --- writing -----------------------------------------------------------------------------------------------------


def available(files: Sequence[Available], *, is_hex: bool) -> bytes:
    """FILE_UPDATE_AVAILABLE. `is_hex`: the fingerprint as text, for the one client that wants it so."""
    return _begun(3, _AVAILABLE) + _text("list") + _head(4, len(files)) + b"".join(_entry(one, is_hex) for one in files)


def _entry(one: Available, is_hex: bool) -> bytes:
    fingerprint = _text(one.sha256.hex()) if is_hex else _head(2, len(one.sha256)) + one.sha256
    parts = [
        _head(5, 7 if one.url else 5),
        *(_text("N"), _text(one.name), _text("R"), _text(one.revision), _text("O"), _head(0, 0)),
        *(_text("S"), _head(0, one.size_bytes), _text("F"), fingerprint),
    ]
    if one.url:
        parts += [_text("L"), _text(one.url), _text("M"), b"\xf5"]
    return b"".join(parts)


def chunk_head(asked: GetChunk, length: int) -> bytes:
    """FILE_CHUNK up to its data, of which `length` bytes follow."""
    status = _SHORT if length < asked.length else 0
    return _chunk(8, asked.name, asked.revision, asked.offset, length, status) + _text("C") + _head(2, length)


def chunk_refused(name: str, revision: str) -> bytes:
    """FILE_CHUNK without data: the file is not to be had."""
    return _chunk(7, name, revision, 0, 0, _REFUSED)


def _chunk(entries: int, name: str, revision: str, offset: int, length: int, status: int) -> bytes:
    return b"".join(
        (
            *(_begun(entries, _CHUNK), _text("N"), _text(name), _text("R"), _text(revision)),
            *(_text("O"), _head(0, offset), _text("L"), _head(0, length), _text("S"), _head(0, status)),
        )
    )


def _begun(entries: int, msgtype: int) -> bytes:
    return _head(5, entries) + _text("msgtype") + _head(0, msgtype) + _text("msgver") + _head(0, 1)


def _text(text: str) -> bytes:
    data = text.encode()
    return _head(3, len(data)) + data


def _head(major: int, number: int) -> bytes:
    """The head of an item, in its shortest form (RFC 8949 §3)."""
    if number < 24:  # noqa: PLR2004 - RFC 8949 §3: in the initial byte
        return bytes([major << 5 | number])
    width = next(width for width in (1, 2, 4, 8) if number < 1 << 8 * width)
    return bytes([major << 5 | 23 + width.bit_length()]) + number.to_bytes(width, "big")
