"""The state machine of AWS IoT Jobs for one device: a request is carried out and answered, and notices go out.

Rules:
1. start-next begins the first of what waits; one that is in progress is handed out again, unchanged, until it has
   ended: after its restart a device finds out by its own details what it was about.
2. Details replace those that were there, and stay when none are given. Each accepted update counts the version up.
3. `notify` goes out when an execution was added or has ended, `notify-next` only when the first of what waits is
   another: some devices drop a download when it comes. One that has just been given as an answer is not also notified.
4. With `answers_on_next`, for devices that hear no answers, what start-next or get gives is said on notify-next as
   well, once; and a notice that nothing followed is said once more.
5. What a device sets is terminal at once. SUCCEEDED is all the proof that there will be.
6. A cancel ends an execution without the device's consent, as the service does; unless its image has been installed,
   as its details say: then it is too late, because a device whose job is gone would go back by itself.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ota_bridge.core.conversation import Occasion, Standing, Telling, Update
from ota_bridge.core.deployment import State
from ota_bridge.core.errors import RefusedReason
from ota_bridge.core.messages import CheckIn, Encoding, InstalledPart, Progress, ReportState
from ota_bridge.core.records import replace
from ota_bridge.dialects import aws_answers as answers
from ota_bridge.dialects.aws_executions import EXECUTION_NUMBER, Execution, Ledger, Record, find, pack, pending, unpack
from ota_bridge.dialects.aws_requests import (
    BY_DEVICE,
    NEXT,
    NO_STEP_TIMEOUT,
    BadRequest,
    JobsRequest,
    Operation,
    Status,
)
from ota_bridge.dialects.aws_streams import write_json
from ota_bridge.wire import MqttMessage

NAME: Final = "aws"
SELF_TEST: Final = "self_test"
_RECEIVED: Final = re.compile(r"([0-9]{1,6})/([1-9][0-9]{0,5})", re.ASCII)
_AGENT_CODE: Final = re.compile(r"(?:(rejected|aborted): )?0x([0-9a-f]{8})(?:: 0x[0-9a-f]{8})?", re.ASCII)
_RESULTS: Final = {
    0x0C: RefusedReason.TYPE,
    0x0F: RefusedReason.ROLLBACK,
    0x10: RefusedReason.ROLLBACK,
    0xE3: "-4",
}
"""The older agent's codes that say more than that it failed: a document that does not conform, an image that is older
or not newer, a signature that does not hold."""
_DOWNLOAD_FAILED: Final = "-1"
_FAILED: Final = "-5"
_SHOWN: Final = 200
_ENDING: Final = frozenset({ReportState.DONE, ReportState.FAIL, ReportState.REJECT, ReportState.CANCELED})


@dataclass(slots=True)
class _Turn:
    """What one occasion comes to."""

    standing: Standing
    ledger: Ledger
    base: str
    """The topic, up to `jobs/`."""
    messages: list[MqttMessage] = field(default_factory=list)
    uplinks: list[CheckIn | Progress] = field(default_factory=list)
    told: str | None = None
    """The execution that this turn has given to the device already."""
    gone: set[str] = field(default_factory=set)
    """What ends with this turn; there is another when it has ended."""

    @property
    def now_s(self) -> int:
        return int(self.standing.wall)

    def waiting(self) -> Sequence[Execution]:
        return [one for one in pending(self.standing, self.ledger) if one.update.id not in self.gone]

    def first(self) -> Execution | None:
        return next(iter(self.waiting()), None)

    def say(self, suffix: str, body: Mapping[str, Any]) -> None:
        self.messages.append(MqttMessage(topic=self.base + suffix, payload=write_json(dict(body)), qos=1))

    def accept(self, request: JobsRequest, body: Mapping[str, Any]) -> None:
        head = answers.head(self.now_s, request.token)
        self.say(f"{request.topic.suffix}/accepted", {**head, **body})

    def refuse(self, request: JobsRequest | BadRequest, code: str, message: str, one: Execution | None = None) -> None:
        body = answers.refusal_body(code, message, self.now_s, request.token, one)
        self.say(f"{request.topic.suffix}/rejected", body)

    def put(self, one: Execution, record: Record) -> Execution:
        self.ledger = self.ledger.put(one.update.id, record)
        return Execution(update=one.update, record=record)

    def report(self, update: Update, state: ReportState, **more: Any) -> None:
        if state in _ENDING:
            self.gone.add(update.id)
        self.uplinks.append(
            Progress(
                device=self.standing.device,
                dialect=NAME,
                key=None,
                deployment=update.id,
                component=update.component,
                state=state,
                **more,
            )
        )


def tell(occasion: Occasion, standing: Standing, *, base: str, answers_on_next: bool) -> Telling:
    """What to send on an occasion; `base` is the device's topic up to `jobs/`."""
    turn = _Turn(standing=standing, ledger=unpack(standing.memory).pruned(standing), base=base)
    is_late = _end_what_is_canceled(turn, occasion)
    if isinstance(occasion.said, BadRequest):
        turn.refuse(occasion.said, occasion.said.code, occasion.said.message)
    elif isinstance(occasion.said, JobsRequest):
        _carry_out(turn, occasion.said, answers_on_next=answers_on_next)
    elif answers_on_next:
        _say_next_again(turn, occasion)
    _end_steps(turn)
    if not turn.gone and not is_late:
        _notify(turn)
    memory = pack(turn.ledger)
    return Telling(
        messages=turn.messages,
        memory=None if memory == standing.memory else memory,
        wake_wall=_next_step(turn),
        uplinks=turn.uplinks,
    )


def _end_what_is_canceled(turn: _Turn, occasion: Occasion) -> bool:
    """End what is to stop, and what cannot be a job; True if it is too late for one."""
    is_late = False
    for update in turn.standing.updates:
        if update.id in occasion.offered and (fault := answers.document_fault(update)):
            turn.report(update, ReportState.REJECT, reason=fault)
        elif update.id in occasion.canceled and SELF_TEST in turn.ledger.record(update.id).details:
            turn.report(update, ReportState.TOO_LATE)
            is_late = True
        elif update.id in occasion.canceled:
            turn.report(update, ReportState.CANCELED)
    return is_late


def _carry_out(turn: _Turn, request: JobsRequest, *, answers_on_next: bool) -> None:
    match request.topic.operation:
        case Operation.PENDING:
            turn.accept(request, answers.pending_body(turn.waiting()))
        case Operation.START:
            _give(turn, request, _begin(turn, request), on_next=answers_on_next)
        case Operation.DESCRIBE if request.topic.job == NEXT:
            is_there = request.execution_number in {None, EXECUTION_NUMBER}
            _give(turn, request, turn.first() if is_there else None, on_next=answers_on_next)
        case Operation.DESCRIBE:
            _describe(turn, request)
        case Operation.UPDATE:
            _update(turn, request)


# --- asking ----------------------------------------------------------------------------------------------------------


def _begin(turn: _Turn, request: JobsRequest) -> Execution | None:
    """The first of what waits; if it is queued, it begins."""
    first = turn.first()
    if first is None or first.status is not Status.QUEUED:
        return first
    record = replace(first.record, version=first.record.version + 1, begun_s=turn.now_s, updated_s=turn.now_s)
    if request.details is not None:
        record = replace(record, details=request.details)
    first = turn.put(first, _with_step(record, request.step_timeout_min, turn.now_s))
    _report_download(turn, first.update, {})
    return first


def _give(turn: _Turn, request: JobsRequest, one: Execution | None, *, on_next: bool) -> None:
    if one is None:
        turn.accept(request, {})
        return
    body = answers.execution_body(one, turn.standing.wall, includes_document=_wants_document(request))
    turn.accept(request, {"execution": body})
    turn.told = one.update.id
    if on_next:
        _say_next(turn, one)


def _wants_document(request: JobsRequest) -> bool:
    return request.topic.operation is Operation.START or request.includes_document


def _describe(turn: _Turn, request: JobsRequest) -> None:
    one = _found(turn, request)
    if one is None:
        return
    if one.is_terminal:
        turn.refuse(request, "TerminalStateReached", f"the execution has ended: {one.status}")
        return
    body = answers.execution_body(one, turn.standing.wall, includes_document=request.includes_document)
    turn.accept(request, {"execution": body})


def _found(turn: _Turn, request: JobsRequest) -> Execution | None:
    one = find(turn.standing, turn.ledger, request.topic.job)
    if one is None:
        turn.refuse(request, "ResourceNotFound", f"there is no job {request.topic.job} for this thing")
    elif request.execution_number not in {None, EXECUTION_NUMBER}:
        turn.refuse(request, "ResourceNotFound", f"the job has no execution {request.execution_number}")
        return None
    return one


# --- updating --------------------------------------------------------------------------------------------------------


def _update(turn: _Turn, request: JobsRequest) -> None:
    one = _found(turn, request)
    status = request.status
    if one is None or status is None:
        return
    if one.is_terminal or status not in BY_DEVICE:
        turn.refuse(request, "InvalidStateTransition", f"it cannot become {status}: it is {one.status}", one)
        return
    if request.expected_version not in {None, one.record.version}:
        message = f"expected version {request.expected_version}, but it is {one.record.version}"
        turn.refuse(request, "VersionMismatch", message, one)
        return
    record = replace(
        one.record,
        version=one.record.version + 1,
        begun_s=one.record.begun_s or turn.now_s,
        updated_s=turn.now_s,
        details=one.record.details if request.details is None else request.details,
    )
    is_over = status is not Status.IN_PROGRESS
    record = replace(record, step_ends_s=0) if is_over else _with_step(record, request.step_timeout_min, turn.now_s)
    one = turn.put(one, record)
    body: dict[str, Any] = {}
    if request.includes_state:
        body["executionState"] = {**answers.state_body(one), "status": status}
    if request.includes_document:
        body["jobDocument"] = answers.document(one.update)
    turn.accept(request, body)
    _report(turn, one.update, status, request.details or {})


def _with_step(record: Record, minutes: int | None, now_s: int) -> Record:
    if minutes is None:
        return record
    return replace(record, step_ends_s=0 if minutes == NO_STEP_TIMEOUT else now_s + 60 * minutes)


def _report(turn: _Turn, update: Update, status: Status, details: Mapping[str, str]) -> None:
    """The update in the words of the core."""
    reason = _reason(details)
    match status:
        case Status.SUCCEEDED:
            turn.report(update, ReportState.DONE, result_msg=reason, is_proof=True, body=dict(details))
        case Status.FAILED:
            code = _result_code(details.get("reason", ""))
            turn.report(update, ReportState.FAIL, result_code=code, result_msg=reason, body=dict(details))
        case Status.REJECTED if update.state in {State.INSTALLING, State.TRIAL}:
            turn.report(update, ReportState.FAIL, result_code=_FAILED, result_msg=reason, body=dict(details))
        case Status.REJECTED:
            turn.report(update, ReportState.REJECT, reason=reason or "the device rejected it", body=dict(details))
        case _ if SELF_TEST in details:
            _report_self_test(turn, update, details)
        case _:
            _report_download(turn, update, details)


def _report_download(turn: _Turn, update: Update, details: Mapping[str, str]) -> None:
    percent = None
    if found := _RECEIVED.fullmatch(details.get("receive", "")):
        percent = min(100, int(found[1]) * 100 // int(found[2]))
    if update.state in {State.OFFERED, State.DEFERRED, State.DOWNLOADING}:
        turn.report(update, ReportState.DOWNLOADING, percent=percent, body=dict(details))
    elif update.state is State.INSTALLING:
        turn.report(update, ReportState.BURNING, body=dict(details))


def _report_self_test(turn: _Turn, update: Update, details: Mapping[str, str]) -> None:
    """The older agent: `ready` before its restart, `active` after it, with the version that it runs then."""
    if details[SELF_TEST] == "active" and _version(details.get("updatedBy", "")) == update.version:
        installed = InstalledPart(version=update.version, trial=True)
        turn.uplinks.append(
            CheckIn(
                device=turn.standing.device,
                dialect=NAME,
                encoding=Encoding.JSON,
                key=None,
                parts={update.component: installed},
                body=dict(details),
            )
        )
        return
    if update.state in {State.OFFERED, State.DEFERRED, State.DOWNLOADING}:
        turn.report(update, ReportState.DOWNLOADED, body=dict(details))
    if update.state is not State.TRIAL:
        turn.report(update, ReportState.BURNING, body=dict(details))


def _version(text: str) -> str:
    """`0x01010000` is 1.1.0; empty for anything else."""
    found = _AGENT_CODE.fullmatch(text)
    if found is None:
        return ""
    word = int(found[2], 16)
    return f"{word >> 24}.{word >> 16 & 0xFF}.{word & 0xFFFF}"


def _reason(details: Mapping[str, str]) -> str:
    if "reason" in details:
        return details["reason"][:_SHOWN]
    return ", ".join(f"{key}: {value}" for key, value in details.items())[:_SHOWN]


def _result_code(reason: str) -> str:
    found = _AGENT_CODE.fullmatch(reason)
    if found is None:
        return _FAILED
    if found[1] == "aborted":
        return _DOWNLOAD_FAILED
    return _RESULTS.get(int(found[2], 16), _FAILED)


# --- notices ---------------------------------------------------------------------------------------------------------


def _end_steps(turn: _Turn) -> None:
    """End what ran longer than the device itself allowed."""
    for update in turn.standing.updates:
        record = turn.ledger.record(update.id)
        if record.step_ends_s and not record.is_overdue and record.step_ends_s <= turn.standing.wall:
            turn.ledger = turn.ledger.put(update.id, replace(record, is_overdue=True))
            turn.report(
                update, ReportState.FAIL, result_code=_FAILED, result_msg="the step timer that the device set ran out"
            )


def _say_next_again(turn: _Turn, occasion: Occasion) -> None:
    """A notice is due again: the device was perhaps not there. Not where it has begun, on any plane."""
    first = turn.first()
    if first is None or first.update.id != turn.ledger.first or first.update.id not in occasion.offered:
        return
    if first.status is Status.QUEUED and first.update.last_block_wall is None:
        _say_next(turn, first)


def _next_step(turn: _Turn) -> float | None:
    """When a timer that a device set runs out next."""
    records = [turn.ledger.record(one.id) for one in turn.standing.updates]
    return min((one.step_ends_s for one in records if one.step_ends_s and not one.is_overdue), default=None)


def _notify(turn: _Turn) -> None:
    """Say what has changed in what waits; nothing where nothing has."""
    waiting = turn.waiting()
    listed = tuple(sorted(one.update.id for one in waiting))
    first = waiting[0].update.id if waiting else ""
    if listed != turn.ledger.listed:
        turn.say("notify", answers.notify_body(waiting, turn.now_s))
    if first not in {turn.ledger.first, turn.told}:
        _say_next(turn, waiting[0] if waiting else None)
    turn.ledger = replace(turn.ledger, first=first, listed=listed)


def _say_next(turn: _Turn, one: Execution | None) -> None:
    body: dict[str, Any] = {"timestamp": turn.now_s}
    if one is not None:
        body["execution"] = answers.execution_body(one, turn.standing.wall)
    turn.say("notify-next", body)
