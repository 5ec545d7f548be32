"""The messages of Xively Secure File Transfer, as the device writes them and as it reads them."""

from dataclasses import dataclass
from typing import Any, Final

import cbor2

from device_sim.clients import cbor_loose
from device_sim.clients.model import WentWrong
from device_sim.errors import Malformed

CHUNK_BYTES: Final = 1024
"""A constant of the firmware's build: no server can ask for another."""
CHUNK_BYTES_MAX: Final = 65_536
"""From here on the device's 16-bit length wraps."""
NO_REVISION: Final = "revision is not available on the device, this is a generated revision 0"
_U32: Final = 1 << 32

INFO, AVAILABLE, GET, CHUNK, STATUS = range(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A file of FILE_UPDATE_AVAILABLE."""

    name: str
    revision: str
    size_bytes: int
    fingerprint: bytes
    """As it came; empty where it was no byte string."""
    url: str | None = None
    is_by_mqtt: bool = False
    """Beside a URL: may it be fetched over MQTT too?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Available:
    files: tuple[Listed, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    name: str
    offset: int
    data: bytes


def file_info(files: list[tuple[str, str]], *, takes_urls: bool | None) -> bytes:
    """`takes_urls` None: the client is of a version that does not know about them."""
    body: dict[str, Any] = {"list": [{"N": name, "R": revision} for name, revision in files]}
    return _written(INFO, body if takes_urls is None else body | {"L": takes_urls})


def get_chunk(name: str, revision: str, offset: int, length: int) -> bytes:
    return _written(GET, {"N": name, "R": revision, "O": offset, "L": length})


def file_status(name: str, revision: str, phase: int, code: int) -> bytes:
    return _written(STATUS, {"N": name, "R": revision, "P": phase, "S": code})


def _written(msgtype: int, body: dict[str, Any]) -> bytes:
    return cbor2.dumps({"msgtype": msgtype, "msgver": 1, **body})


def fields_of(payload: bytes) -> dict[Any, Any] | None:
    """The map of a message; None: the device takes no notice of it."""
    try:
        fields = cbor_loose.read(payload)
    except Malformed:
        return None
    return fields if isinstance(fields, dict) and "msgver" in fields else None


def read(payload: bytes) -> Available | Chunk | None:
    """What the library makes of a payload; None: it takes no notice. Raises WentWrong."""
    fields = fields_of(payload)
    match fields and fields.get("msgtype"):
        case 1 if fields:
            entries = fields.get("list")
            listed = entries if isinstance(entries, list) else []
            return Available(files=tuple(_listed(one) for one in listed if isinstance(one, dict)))
        case 3 if fields:
            return _chunk(fields)
        case _:
            return None


def _listed(entry: dict[Any, Any]) -> Listed:
    name, revision, fingerprint, url = (entry.get(key) for key in ("N", "R", "F", "L"))
    if not isinstance(name, str) or not isinstance(revision, str):
        raise WentWrong(f"a file is offered without its {'N' if not isinstance(name, str) else 'R'}: it hangs")
    if name in {"", ".", ".."} or "/" in name or "\0" in name:
        raise WentWrong(f"the name {name!r} leads out of the directory of its files")
    return Listed(
        name=name,
        revision=revision,
        size_bytes=number(entry, "S") % _U32,
        fingerprint=fingerprint if isinstance(fingerprint, bytes) else b"",
        url=url if isinstance(url, str) else None,
        is_by_mqtt=bool(entry.get("M")),
    )


def _chunk(fields: dict[Any, Any]) -> Chunk:
    name, data = fields.get("N"), fields.get("C")
    data = data if isinstance(data, bytes) else b""
    if len(data) >= CHUNK_BYTES_MAX:
        raise WentWrong(f"a chunk of {len(data)} bytes: its length wraps and the file is ruined")
    return Chunk(name=name if isinstance(name, str) else "", offset=number(fields, "O") % _U32, data=data)


def number(fields: dict[Any, Any], key: str) -> int:
    found = fields.get(key)
    return found if isinstance(found, int) else 0
