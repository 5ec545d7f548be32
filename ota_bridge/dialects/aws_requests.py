"""Requests of AWS IoT Jobs, as devices publish them: topics and payloads, without I/O.

What a device's library writes is read leniently where the service is lenient (numbers as text, keys that nobody knows),
and strictly everywhere else. A request that cannot be used is a `BadRequest`, so that it can be answered.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from ota_bridge.core.errors import Malformed
from ota_bridge.decode import U32, Fields, read_json

NEXT: Final = "$next"
REQUEST_MAX_BYTES: Final = 16_384
TOKEN_MAX_BYTES: Final = 64
DETAILS_MAX: Final = 10
DETAILS_MAX_BYTES: Final = 4_096
"""Keys and values together: they are given back in every answer, for which small devices have little room."""
STEP_TIMEOUT_MAX_MIN: Final = 10_080
NO_STEP_TIMEOUT: Final = -1
_VALUE_MAX: Final = 1_024
_ITEMS_MAX: Final = 64
_DETAIL: Final = re.compile(r"[A-Za-z0-9:_-]{1,128}", re.ASCII)
_JOB: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


class Operation(StrEnum):
    """What is asked for."""

    PENDING = "pending"
    START = "start"
    DESCRIBE = "describe"
    UPDATE = "update"


class Status(StrEnum):
    """Of an execution."""

    QUEUED = "QUEUED"
    IN_PROGRESS = "IN_PROGRESS"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    REJECTED = "REJECTED"
    TIMED_OUT = "TIMED_OUT"
    CANCELED = "CANCELED"
    REMOVED = "REMOVED"


BY_DEVICE: Final = frozenset({Status.IN_PROGRESS, Status.SUCCEEDED, Status.FAILED, Status.REJECTED})
"""What a device may set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsTopic:
    """A request's topic, behind the thing's name. `job` is empty, `$next` or a job's id."""

    operation: Operation
    suffix: str
    """What stands behind `jobs/`; the answer's topic begins with it."""
    job: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsRequest:
    """One request that can be used."""

    topic: JobsTopic
    token: str | None = None
    status: Status | None = None
    details: Mapping[str, str] | None = None
    """They replace what was there; None: that stays."""
    expected_version: int | None = None
    execution_number: int | None = None
    step_timeout_min: int | None = None
    """Minutes; -1 ends the timer that runs."""
    includes_state: bool = False
    includes_document: bool = False

    @property
    def is_poll(self) -> bool:
        """It asks what waits."""
        return self.topic.operation in {Operation.START, Operation.PENDING} or self.topic.job == NEXT


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRequest:
    """One that cannot be used, and how to refuse it."""

    topic: JobsTopic
    code: str
    message: str
    token: str | None = field(default=None)


def read_topic(suffix: str) -> JobsTopic:
    """What stands behind `jobs/`; raises Malformed."""
    if suffix == "get":
        return JobsTopic(operation=Operation.PENDING, suffix=suffix)
    if suffix == "start-next":
        return JobsTopic(operation=Operation.START, suffix=suffix)
    job, _, operation = suffix.partition("/")
    if operation == "get" and (job == NEXT or _JOB.fullmatch(job)):
        return JobsTopic(operation=Operation.DESCRIBE, suffix=suffix, job=job)
    if operation == "update" and _JOB.fullmatch(job):
        return JobsTopic(operation=Operation.UPDATE, suffix=suffix, job=job)
    raise Malformed(f"jobs/{suffix[:80]!r} is no request")


def read_request(topic: JobsTopic, payload: bytes) -> JobsRequest | BadRequest:
    """A request; an empty payload counts as an empty object."""
    token: str | None = None
    try:
        body = read_json(payload or b"{}", max_bytes=REQUEST_MAX_BYTES, max_depth=3, max_items=_ITEMS_MAX)
        fields = Fields(body, name="request")
    except Malformed as error:
        return BadRequest(topic=topic, code="InvalidJson", message=str(error))
    try:
        token = fields.optional(fields.text, "clientToken", max_bytes=TOKEN_MAX_BYTES)
        return _request(topic, fields, token)
    except Malformed as error:
        return BadRequest(topic=topic, code="InvalidRequest", message=str(error), token=token)


def _request(topic: JobsTopic, fields: Fields, token: str | None) -> JobsRequest:
    operation = topic.operation
    if operation is Operation.PENDING:
        return JobsRequest(topic=topic, token=token)
    if operation is Operation.DESCRIBE:
        return JobsRequest(
            topic=topic,
            token=token,
            execution_number=fields.optional(fields.number_text, "executionNumber", maximum=U32),
            includes_document=_flag(fields, "includeJobDocument", default=True),
        )
    details = _details(fields.mapping("statusDetails")) if "statusDetails" in fields else None
    step = _step_timeout(fields) if "stepTimeoutInMinutes" in fields else None
    if operation is Operation.START:
        return JobsRequest(topic=topic, token=token, details=details, step_timeout_min=step)
    return JobsRequest(
        topic=topic,
        token=token,
        status=fields.choice("status", Status),
        details=details,
        expected_version=fields.optional(fields.number_text, "expectedVersion", maximum=U32),
        execution_number=fields.optional(fields.number_text, "executionNumber", maximum=U32),
        step_timeout_min=step,
        includes_state=_flag(fields, "includeJobExecutionState", default=False),
        includes_document=_flag(fields, "includeJobDocument", default=False),
    )


def _flag(fields: Fields, key: str, *, default: bool) -> bool:
    return fields.flag(key) if key in fields else default


def _step_timeout(fields: Fields) -> int:
    minutes = fields.number_text("stepTimeoutInMinutes", minimum=NO_STEP_TIMEOUT, maximum=STEP_TIMEOUT_MAX_MIN)
    if minutes == 0:
        raise Malformed(f"stepTimeoutInMinutes must be 1..{STEP_TIMEOUT_MAX_MIN}, or -1")
    return minutes


def _details(fields: Fields) -> Mapping[str, str]:
    if len(fields) > DETAILS_MAX:
        raise Malformed(f"statusDetails has {len(fields)} pairs, at most {DETAILS_MAX} are allowed")
    details: dict[str, str] = {}
    for key in fields:
        if not isinstance(key, str) or not _DETAIL.fullmatch(key):
            raise Malformed(f"statusDetails: the key {str(key)[:40]!r} is not allowed")
        value = fields.text(key, max_bytes=4 * _VALUE_MAX)
        if len(value) > _VALUE_MAX or not (value.isprintable()):
            raise Malformed(f"statusDetails.{key[:40]} must be at most {_VALUE_MAX} printable characters")
        details[key] = value
    if sum(len(key) + len(value.encode()) for key, value in details.items()) > DETAILS_MAX_BYTES:
        raise Malformed(f"statusDetails must have at most {DETAILS_MAX_BYTES} bytes in all")
    return details
