"""Job messages and job documents as the vendor's parsers read them: with coreJSON, which looks values up in the text.

1. coreJSON undoes no escape: a string with a backslash in it is used as it stands, so a server must not write any.
2. A number may stand in quotes, but never with a fraction or an exponent.
3. The Jobs library and the older agent ask for different fields: `read_for_jobs` and `read_for_agent`.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from device_sim.clients.model import WentWrong
from device_sim.errors import DeviceSimError

U32: Final = 2**32 - 1
JOB_ID_MAX: Final = 63
STREAM_NAME_MAX: Final = 44
_BACKSLASH: Final = "\ue000"
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_DECIMAL: Final = re.compile(r"[0-9]{1,10}")
_C_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")
_PROTOCOLS_MAX: Final = 19
_JOBS_REQUIRED: Final = ("filesize", "fileid", "filepath", "certfile", "sig-sha256-ecdsa")


class Number(str):
    """A number as it stands in the text."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobMessage:
    """An answer to start-next or get, or a notify-next."""

    token: str | None
    has_timestamp: bool
    job_id: str | None
    details: Mapping[str, Any]
    document: Mapping[str, Any] | None
    execution: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OtaFile:
    """What a device takes out of an AFR_OTA document."""

    stream: str
    size_bytes: int
    file_id: int
    signature: str
    file_type: int = 0


class NotForUs(DeviceSimError):
    """A document that the parser does not take, and tells the application so."""


def read_message(payload: bytes) -> JobMessage:
    """A job message; WentWrong where coreJSON would find nothing in it."""
    body = core_json(payload)
    execution = body.get("execution", {})
    if not isinstance(execution, dict):
        raise WentWrong("execution is not an object")
    document = execution.get("jobDocument")
    if document is not None and not isinstance(document, dict):
        raise WentWrong("jobDocument is not an object: the parser finds nothing in a string")
    details = execution.get("statusDetails", {})
    job_id = execution.get("jobId")
    return JobMessage(
        token=body.get("clientToken"),
        has_timestamp=isinstance(body.get("timestamp"), Number),
        job_id=None if job_id is None else plain(job_id, "jobId"),
        details=details if isinstance(details, dict) else {},
        document=document,
        execution=execution,
    )


def core_json(payload: bytes) -> dict[str, Any]:
    """An object; strings keep their escapes (see `plain`), numbers are text."""
    try:
        text = payload.decode()
        json.loads(text, parse_constant=_no_constant)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise WentWrong(f"no JSON that coreJSON can read: {error}") from None
    kept = _ESCAPE.sub(lambda found: _BACKSLASH + ("'" if found[1] in '"\\' else found[1]), text)
    body = json.loads(kept, parse_int=Number, parse_float=Number)
    if not isinstance(body, dict):
        raise WentWrong("a job message is an object")
    return body


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def plain(value: object, name: str) -> str:
    """A string that reads the same with its escapes undone or not."""
    if not isinstance(value, str):
        raise WentWrong(f"{name} is not a string")
    if _BACKSLASH in value:
        raise WentWrong(f"{name} holds an escape, which the device does not undo")
    return value


def decimal(value: object, name: str) -> int:
    """An unsigned 32-bit number in decimal, as the libraries read it."""
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value) or int(value) > U32:
        raise WentWrong(f"{name} is {value!r}: no unsigned decimal number of 32 bits")
    return int(value)


def c_number(value: object) -> int:
    """A number in the syntax of C, as `strtoul(…, 0)` takes it; NotForUs."""
    if not isinstance(value, str) or not _C_NUMBER.fullmatch(value):
        raise NotForUs(f"{value!r} is no number")
    if value[:2] in {"0x", "0X"}:
        return int(value, 16)
    try:
        return int(value, 8 if value[0] == "0" else 10)
    except ValueError:
        raise NotForUs(f"{value!r} is no number") from None


def read_for_jobs(document: Mapping[str, Any]) -> OtaFile:
    """What the Jobs library's OTA parser gives of the first file; NotForUs without `afr_ota`.

    A document that lacks one of its fields is ignored for ever, silently: WentWrong.
    """
    ota = document.get("afr_ota")
    if not isinstance(ota, dict):
        raise NotForUs("no afr_ota")
    protocols = ota.get("protocols")
    if not isinstance(protocols, list) or not protocols or plain(protocols[0], "protocols") != "MQTT":
        raise WentWrong(f"protocols is {protocols}: versions up to 2.0.0 read only the first, which has to be MQTT")
    file = _only_file(ota)
    missing = [name for name in _JOBS_REQUIRED if name not in file]
    if missing:
        raise WentWrong(f"the document lacks {', '.join(missing)}: it is ignored for ever")
    for name in ("filepath", "certfile"):
        plain(file[name], name)
    return OtaFile(
        stream=_stream_name(ota),
        size_bytes=decimal(file["filesize"], "filesize"),
        file_id=decimal(file["fileid"], "fileid"),
        signature=plain(file["sig-sha256-ecdsa"], "sig-sha256-ecdsa"),
        file_type=decimal(file["fileType"], "fileType") if "fileType" in file else 0,
    )


def read_for_agent(document: Mapping[str, Any]) -> OtaFile:
    """What the older agent takes; NotForUs where it reports "document not conforming"."""
    ota = document.get("afr_ota")
    if not isinstance(ota, dict):
        raise NotForUs("no afr_ota")
    protocols = ota.get("protocols")
    if not isinstance(protocols, list) or "MQTT" not in protocols:
        raise NotForUs("no MQTT among the protocols")
    if len(json.dumps(protocols, separators=(",", ":"))) > _PROTOCOLS_MAX:
        raise NotForUs("the protocols do not fit their buffer")
    file = _only_file(ota)
    if len(ota["files"]) > 1:
        raise WentWrong("more than one file: the older agent looks at one only")
    for name in ("filepath", "certfile", "sig-sha256-ecdsa"):
        plain(file.get(name, ""), name)
    size_bytes = c_number(file.get("filesize"))
    if not size_bytes:
        raise NotForUs("a file of no bytes")
    return OtaFile(
        stream=_stream_name(ota),
        size_bytes=size_bytes,
        file_id=c_number(file.get("fileid")),
        signature=file.get("sig-sha256-ecdsa", ""),
        file_type=c_number(file.get("fileType", "0")),
    )


def _only_file(ota: Mapping[str, Any]) -> Mapping[str, Any]:
    files = ota.get("files")
    if not isinstance(files, list) or not files or not isinstance(files[0], dict):
        raise WentWrong("the document has no files: it is ignored for ever")
    return files[0]


def _stream_name(ota: Mapping[str, Any]) -> str:
    name = plain(ota.get("streamname"), "streamname")
    if not name:
        raise WentWrong("the document names no stream: it is ignored for ever")
    if len(name.encode()) > STREAM_NAME_MAX:
        raise WentWrong(f"a stream name of {len(name.encode())} bytes is copied over a buffer of {STREAM_NAME_MAX + 1}")
    return name
