"""What the protocol knows of a device's executions, between the core's deployments and the answers on the wire.

An execution is one deployment. The core says whether it is open and how it ended; what else the protocol counts and
gives back (version number, details, when it was begun, the step timer) is kept in a `Ledger`, in the device's memory.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ota_bridge.core.conversation import Standing, Update
from ota_bridge.core.deployment import State
from ota_bridge.core.records import replace
from ota_bridge.decode import U64
from ota_bridge.dialects.aws_requests import Status

JOB_PREFIX: Final = "AFR_OTA-"
EXECUTION_NUMBER: Final = 1
"""Each attempt is a job of its own, so each execution is the first of its job."""
ENDED_KEPT: Final = 4
_ENDED: Final = {
    State.CONFIRMED: Status.SUCCEEDED,
    State.FAILED: Status.FAILED,
    State.ROLLED_BACK: Status.FAILED,
    State.REJECTED: Status.REJECTED,
    State.TIMED_OUT: Status.TIMED_OUT,
    State.CANCELED: Status.CANCELED,
    State.CANCELING: Status.CANCELED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Of one execution. Times are epoch seconds."""

    version: int = 1
    """1 when it is queued; one more when it is begun and at each update."""
    begun_s: int = 0
    """0: it is queued."""
    updated_s: int = 0
    details: Mapping[str, str] = field(default_factory=dict)
    step_ends_s: int = 0
    """When the timer ends that the device set; 0: it set none."""
    is_overdue: bool = False
    """That timer has ended it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Of one device."""

    first: str = ""
    """The execution that it was told to be the next one; empty: none."""
    listed: tuple[str, ...] = ()
    """Those of which it was told that they wait."""
    records: Mapping[str, Record] = field(default_factory=dict)

    def record(self, update: str) -> Record:
        """What is known of an execution."""
        return self.records.get(update, Record())

    def put(self, update: str, record: Record) -> "Ledger":
        """With this record."""
        return replace(self, records={**self.records, update: record})

    def pruned(self, standing: Standing) -> "Ledger":
        """Without what nobody will ask for any more."""
        kept = {one.id for one in (*standing.updates, *standing.ended[:ENDED_KEPT])}
        return replace(self, records={name: one for name, one in self.records.items() if name in kept})


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One deployment and what is recorded of it."""

    update: Update
    record: Record

    @property
    def job_id(self) -> str:
        return JOB_PREFIX + self.update.id

    @property
    def status(self) -> Status:
        """As a device has to see it: what it began is in progress, whatever the bridge has seen of it."""
        if self.update.state in _ENDED:
            overdue = self.record.is_overdue and self.update.state is State.FAILED
            return Status.TIMED_OUT if overdue else _ENDED[self.update.state]
        return Status.IN_PROGRESS if self.record.begun_s else Status.QUEUED

    @property
    def is_terminal(self) -> bool:
        return self.status not in {Status.QUEUED, Status.IN_PROGRESS}

    @property
    def queued_s(self) -> int:
        return int(self.update.created_wall)


def deployment_of(job_id: str) -> str | None:
    """The deployment that a job's id stands for."""
    return job_id.removeprefix(JOB_PREFIX) if job_id.startswith(JOB_PREFIX) else None


def pending(standing: Standing, ledger: Ledger) -> Sequence[Execution]:
    """What waits for the device: what is in progress first, and by its time. A pause hides what is not begun."""
    shown = [Execution(update=one, record=ledger.record(one.id)) for one in standing.updates]
    waiting = [one for one in shown if not one.is_terminal and (one.record.begun_s or not one.update.is_paused)]
    return sorted(waiting, key=lambda one: (one.status is Status.QUEUED, one.update.created_wall, one.update.id))


def find(standing: Standing, ledger: Ledger, job_id: str) -> Execution | None:
    """The execution of a job, open or ended lately."""
    deployment = deployment_of(job_id)
    update = None if deployment is None else standing.update(deployment)
    return None if update is None else Execution(update=update, record=ledger.record(update.id))


# --- as bytes --------------------------------------------------------------------------------------------------------


def pack(ledger: Ledger) -> bytes:
    """The ledger as it is kept; what is at its default is left out."""
    plain = Record()
    records = {
        name: {key: value for key, value in asdict(one).items() if value != getattr(plain, key)}
        for name, one in ledger.records.items()
    }
    body = {"first": ledger.first, "listed": list(ledger.listed), "records": records}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def unpack(data: bytes) -> Ledger:
    """The ledger that was kept; an empty one where there is none."""
    if not data:
        return Ledger()
    body: dict[str, Any] = json.loads(data)
    records = {name: _record(fields) for name, fields in body["records"].items()}
    return Ledger(first=body["first"], listed=tuple(body["listed"]), records=records)


def _record(fields: dict[str, Any]) -> Record:
    record = Record(**fields)
    assert 1 <= record.version <= U64
    return record
