"""Answers and notices of AWS IoT Jobs: what stands in them, and the job document of an update.

Rules:
1. Every answer has `timestamp`, and the token of its request if that had one: the older agent knows by exactly these
   two that there is no job. Times are whole epoch seconds; versions and sizes plain numbers.
2. The document is an object with the fields that every parser wants, and no others; MQTT is the only protocol.
3. No string that a device reads may need an escape: device libraries undo none. What only the author gives is checked.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ota_bridge.core.conversation import Update
from ota_bridge.dialects.aws_executions import EXECUTION_NUMBER, Execution
from ota_bridge.dialects.aws_requests import Status
from ota_bridge.dialects.aws_streams import FILE_ID, stream_name, write_json

AUTHOR_PREFIX: Final = "aws."
SIGNATURE: Final = "sig-sha256-ecdsa"
"""The key that the Jobs library reads, and that must be there even for devices that read another."""
SIZE_MAX: Final = 2**32 - 1
PENDING_MAX: Final = 10
DOCUMENT_MAX_BYTES: Final = 1_500
_SIGNATURE_NAME: Final = re.compile(r"sig-[a-z0-9]{1,16}-[a-z0-9]{1,16}", re.ASCII)
_PLAIN: Final = re.compile(r"""[ !#-\[\]-~]*""", re.ASCII)
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,2}", re.ASCII)

Body = dict[str, Any]


def document_fault(update: Update) -> str:
    """What keeps this update from being a job, in a sentence; empty: nothing."""
    if update.size_bytes > SIZE_MAX:
        return f"the image has {update.size_bytes} bytes, and the job document has room for 32 bits"
    for name, value in _author_fields(update.metadata).items():
        allowed = _NUMBER if name == "fileType" else _PLAIN
        if not allowed.fullmatch(value):
            return f"{AUTHOR_PREFIX}{name} of release {update.release} holds what devices cannot read: {value[:40]!r}"
    size = len(write_json(document(update)))
    if size > DOCUMENT_MAX_BYTES:
        return f"the job document has {size} bytes, of which devices have room for {DOCUMENT_MAX_BYTES}"
    return ""


def document(update: Update) -> Body:
    """The AFR_OTA document."""
    given = _author_fields(update.metadata)
    file: Body = {
        "filepath": given.pop("filepath", ""),
        "filesize": update.size_bytes,
        "fileid": FILE_ID,
        "certfile": given.pop("certfile", ""),
    }
    if "fileType" in given:
        file["fileType"] = int(given.pop("fileType"))
    file |= {SIGNATURE: "", **given}
    return {"afr_ota": {"protocols": ["MQTT"], "streamname": stream_name(update.sha256), "files": [file]}}


def _author_fields(metadata: Mapping[str, str]) -> dict[str, str]:
    """What the author gave for this protocol, by the name that it has in the document."""
    found = {
        name.removeprefix(AUTHOR_PREFIX): value for name, value in metadata.items() if name.startswith(AUTHOR_PREFIX)
    }
    known = {"filepath", "certfile", "fileType"}
    return {name: value for name, value in found.items() if name in known or _SIGNATURE_NAME.fullmatch(name)}


# --- bodies ----------------------------------------------------------------------------------------------------------


def head(timestamp_s: int, token: str | None) -> Body:
    """What every answer begins with."""
    return {"timestamp": timestamp_s} if token is None else {"clientToken": token, "timestamp": timestamp_s}


def execution_body(one: Execution, wall: float, *, includes_document: bool = True) -> Body:
    """An execution as start-next, get and notify-next give it."""
    body: Body = {"jobId": one.job_id, "status": one.status, "queuedAt": one.queued_s}
    body |= _begun(one)
    body |= {
        "lastUpdatedAt": max(one.record.updated_s, one.queued_s),
        "versionNumber": one.record.version,
        "executionNumber": EXECUTION_NUMBER,
    }
    if one.record.step_ends_s:
        body["approximateSecondsBeforeTimedOut"] = max(0, one.record.step_ends_s - int(wall))
    if one.record.details:
        body["statusDetails"] = dict(one.record.details)
    if includes_document:
        body["jobDocument"] = document(one.update)
    return body


def state_body(one: Execution) -> Body:
    """`executionState`."""
    return {"status": one.status, "statusDetails": dict(one.record.details), "versionNumber": one.record.version}


def pending_body(waiting: Sequence[Execution]) -> Body:
    """What GetPendingJobExecutions gives."""
    begun, queued = _lists(waiting)
    return {"inProgressJobs": begun, "queuedJobs": queued}


def notify_body(waiting: Sequence[Execution], timestamp_s: int) -> Body:
    """What `notify` says: lists that are empty are left out."""
    begun, queued = _lists(waiting)
    jobs = {status: found for status, found in ((Status.IN_PROGRESS, begun), (Status.QUEUED, queued)) if found}
    return {"timestamp": timestamp_s, "jobs": jobs}


def _lists(waiting: Sequence[Execution]) -> tuple[list[Body], list[Body]]:
    begun = [_summary(one) for one in waiting if one.status is Status.IN_PROGRESS][:PENDING_MAX]
    return begun, [_summary(one) for one in waiting if one.status is Status.QUEUED][:PENDING_MAX]


def _summary(one: Execution) -> Body:
    return {
        "jobId": one.job_id,
        "queuedAt": one.queued_s,
        "lastUpdatedAt": max(one.record.updated_s, one.queued_s),
        **_begun(one),
        "versionNumber": one.record.version,
        "executionNumber": EXECUTION_NUMBER,
    }


def _begun(one: Execution) -> Body:
    return {"startedAt": one.record.begun_s} if one.record.begun_s else {}


def refusal_body(code: str, message: str, timestamp_s: int, token: str | None, one: Execution | None = None) -> Body:
    """A refusal; `one` is shown where it is the reason."""
    body: Body = {"code": code, "message": message, **head(timestamp_s, token)}
    if one is not None:
        body["executionState"] = state_body(one)
    return body
