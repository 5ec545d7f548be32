"""One device x one component x one release, one attempt: the state machine of an update.

Rules:
1. Everything that moves a deployment is an event in TRANSITIONS; an absent pair raises IllegalTransition and
   changes nothing.
2. Terminal is terminal. Another try is a new deployment with a higher `attempt`.
3. What a check-in means is the second table, CHECK_IN (native protocol §4). "Done" is a claim and moves nothing.
4. Every transition carries a cause, a sentence for `why`.

The diagram in docs/architecture.md is generated from TRANSITIONS.
"""

from collections.abc import Mapping
from enum import StrEnum
from math import floor
from typing import Any, Final

from ota_bridge.core.errors import IllegalTransition
from ota_bridge.core.messages import BlockActivity, ReportState
from ota_bridge.core.records import record, replace
from ota_bridge.core.values import DeploymentId, DeviceId, ReleaseId, RolloutId


class State(StrEnum):
    """Where a deployment stands. Kept by name."""

    QUEUED = "QUEUED"
    OFFERED = "OFFERED"
    DEFERRED = "DEFERRED"
    DOWNLOADING = "DOWNLOADING"
    DOWNLOADED = "DOWNLOADED"
    INSTALLING = "INSTALLING"
    TRIAL = "TRIAL"
    CANCELING = "CANCELING"
    CONFIRMED = "CONFIRMED"
    ROLLED_BACK = "ROLLED_BACK"
    FAILED = "FAILED"
    REJECTED = "REJECTED"
    TIMED_OUT = "TIMED_OUT"
    CANCELED = "CANCELED"


class DeploymentEvent(StrEnum):
    """What can happen to a deployment."""

    OFFER = "offer"
    """The bridge sends a notice."""
    DEFER = "defer"
    BLOCKS = "blocks"
    """The device asks for blocks of it."""
    DOWNLOADING = "downloading"
    DOWNLOADED = "downloaded"
    GO = "go"
    """The device says it is about to install, and is told to go on."""
    FAIL = "fail"
    REJECT = "reject"
    ROLLED_BACK = "rolled_back"
    """The device says it went back."""
    CANCEL = "cancel"
    """An operator or a newer rollout wants it gone."""
    CANCELED = "canceled"
    TOO_LATE = "too_late"
    TIME_OUT = "time_out"
    RUNS_TRIAL = "runs_trial"
    """A check-in shows the offered image on trial."""
    RUNS_CONFIRMED = "runs_confirmed"
    RUNS_OLD = "runs_old"
    """A check-in shows that the device gave the offered image up."""
    RUNS_NEWER = "runs_newer"
    """A check-in shows that the device has gone past the offered image."""


TERMINAL: Final = frozenset(
    {State.CONFIRMED, State.ROLLED_BACK, State.FAILED, State.REJECTED, State.TIMED_OUT, State.CANCELED}
)
OPEN: Final = frozenset(State) - TERMINAL
FETCHING: Final = frozenset({State.QUEUED, State.OFFERED, State.DEFERRED, State.DOWNLOADING, State.DOWNLOADED})
"""Before the point of no return: blocks are served, offers are repeated."""

_E = DeploymentEvent
_ALWAYS: Final[dict[DeploymentEvent, State]] = {
    _E.TIME_OUT: State.TIMED_OUT,
    _E.RUNS_TRIAL: State.TRIAL,
    _E.RUNS_CONFIRMED: State.CONFIRMED,
    _E.RUNS_NEWER: State.CANCELED,
}
_ONCE_OFFERED: Final[dict[DeploymentEvent, State]] = {
    **_ALWAYS,
    _E.DEFER: State.DEFERRED,
    _E.BLOCKS: State.DOWNLOADING,
    _E.DOWNLOADING: State.DOWNLOADING,
    _E.DOWNLOADED: State.DOWNLOADED,
    _E.GO: State.INSTALLING,
    _E.FAIL: State.FAILED,
    _E.REJECT: State.REJECTED,
    _E.CANCEL: State.CANCELING,
    _E.CANCELED: State.CANCELED,
}

TRANSITIONS: Final[Mapping[State, Mapping[DeploymentEvent, State]]] = {
    State.QUEUED: {
        **_ALWAYS,
        _E.OFFER: State.OFFERED,
        _E.BLOCKS: State.DOWNLOADING,
        _E.CANCEL: State.CANCELED,
    },
    State.OFFERED: {**_ONCE_OFFERED, _E.OFFER: State.OFFERED},
    State.DEFERRED: {**_ONCE_OFFERED, _E.OFFER: State.OFFERED},
    State.DOWNLOADING: {**_ONCE_OFFERED, _E.OFFER: State.DOWNLOADING},
    State.DOWNLOADED: {**_ONCE_OFFERED, _E.OFFER: State.DOWNLOADED, _E.BLOCKS: State.DOWNLOADED},
    State.INSTALLING: {
        **_ALWAYS,
        _E.GO: State.INSTALLING,
        _E.FAIL: State.FAILED,
        _E.ROLLED_BACK: State.ROLLED_BACK,
        _E.CANCEL: State.CANCELING,
        _E.RUNS_OLD: State.ROLLED_BACK,
    },
    State.TRIAL: {
        **_ALWAYS,
        _E.FAIL: State.FAILED,
        _E.ROLLED_BACK: State.ROLLED_BACK,
        _E.RUNS_OLD: State.ROLLED_BACK,
    },
    State.CANCELING: {
        **_ALWAYS,
        _E.FAIL: State.FAILED,
        _E.REJECT: State.CANCELED,
        _E.ROLLED_BACK: State.ROLLED_BACK,
        _E.CANCEL: State.CANCELING,
        _E.CANCELED: State.CANCELED,
        _E.TOO_LATE: State.INSTALLING,
        _E.RUNS_OLD: State.CANCELED,
    },
    **{state: {} for state in State if state in TERMINAL},
}


PROGRESS_EVENTS: Final[Mapping[ReportState, DeploymentEvent | None]] = {
    ReportState.DOWNLOADING: DeploymentEvent.DOWNLOADING,
    ReportState.DOWNLOADED: DeploymentEvent.DOWNLOADED,
    ReportState.BURNING: DeploymentEvent.GO,
    ReportState.DONE: None,
    ReportState.FAIL: DeploymentEvent.FAIL,
    ReportState.ROLLED_BACK: DeploymentEvent.ROLLED_BACK,
    ReportState.CANCELED: DeploymentEvent.CANCELED,
    ReportState.TOO_LATE: DeploymentEvent.TOO_LATE,
    ReportState.DEFER: DeploymentEvent.DEFER,
    ReportState.REJECT: DeploymentEvent.REJECT,
}
"""What each reported state does to its deployment; "done" is a claim and moves nothing."""


class Installed(StrEnum):
    """What a check-in shows in the deployment's component."""

    OFFERED_TRIAL = "the offered one, on trial"
    OFFERED = "the offered one"
    NEWER = "a newer one"
    OLD = "another one"


class Meaning(StrEnum):
    """What a check-in asks for where it is no event."""

    OFFER_AGAIN = "offer again"
    CANCEL_AGAIN = "cancel again"
    NOTHING = "nothing"


def _check_in_table() -> dict[tuple[Installed, State, bool], DeploymentEvent | Meaning]:
    table: dict[tuple[Installed, State, bool], DeploymentEvent | Meaning] = {}
    for state in OPEN:
        for new_boot in (False, True):
            table[Installed.OFFERED_TRIAL, state, new_boot] = _E.RUNS_TRIAL
            table[Installed.OFFERED, state, new_boot] = _E.RUNS_CONFIRMED
            table[Installed.NEWER, state, new_boot] = _E.RUNS_NEWER
            if state in FETCHING:
                table[Installed.OLD, state, new_boot] = Meaning.OFFER_AGAIN
    table[Installed.OLD, State.INSTALLING, False] = Meaning.NOTHING
    table[Installed.OLD, State.INSTALLING, True] = _E.RUNS_OLD
    table[Installed.OLD, State.TRIAL, False] = _E.RUNS_OLD
    table[Installed.OLD, State.TRIAL, True] = _E.RUNS_OLD
    table[Installed.OLD, State.CANCELING, False] = Meaning.CANCEL_AGAIN
    table[Installed.OLD, State.CANCELING, True] = _E.RUNS_OLD
    return table


CHECK_IN: Final[Mapping[tuple[Installed, State, bool], DeploymentEvent | Meaning]] = _check_in_table()
"""(installed, state, another boot than the one that reached the state?) -> event or meaning; native protocol §4."""


@record
class Deployment:
    """One attempt. Times are wall seconds; `due_wall` is when `tick` must look at it again."""

    id: DeploymentId
    device: DeviceId
    component: str
    release: ReleaseId
    rollout: RolloutId | None
    attempt: int
    state: State
    cause: str
    created_wall: float
    changed_wall: float
    size_bytes: int
    old_version: str
    latest: bool = True
    """False once a later attempt of the same device, component and rollout exists."""
    stage: int = 0
    """Of its rollout, from 0; the complement, below 0, where it is only a step on the way to the release."""
    earlier_end: State | None = None
    """How the attempt before it ended; gates count it until this one has ended too."""
    slot_rank: int = 0
    """Its notice waits for a free download slot: 1, or 2 where it is urgent; 0: it waits for none."""
    due_wall: float | None = None
    offered_wall: float | None = None
    offers: int = 0
    resent: bool = False
    """True once the notice went out a second time since the last check-in; it never goes a third time."""
    retry_wall: float | None = None
    """An offer is due then and not before: a deferral, the backoff of another attempt, or notices too close."""
    boot: int | None = None
    """The boot that reached INSTALLING, TRIAL or CANCELING: tells a new boot from the same one."""
    claimed_wall: float | None = None
    """When the device said "done"."""
    stalled: bool = False
    """DOWNLOADING without a block for longer than `stall_after_s`."""
    last_block_wall: float | None = None
    high_water_bytes: int = 0
    bytes_sent: int = 0
    blocks_sent: int = 0
    requests: int = 0
    percent: int | None = None
    """What the device says of itself, where the bridge sees no bytes."""
    result_code: str = ""

    @property
    def is_open(self) -> bool:
        """True while it can still move."""
        return self.state in OPEN

    @property
    def stage_number(self) -> int:
        """The stage of its rollout, from 0."""
        return ~self.stage if self.stage < 0 else self.stage

    @property
    def has_begun(self) -> bool:
        """True once the device has asked for blocks."""
        return self.last_block_wall is not None

    def moved(self, event: DeploymentEvent, cause: str, wall: float, **changes: Any) -> "Deployment":
        """This deployment after `event`, with other changes; raises IllegalTransition where the table has no row."""
        target = TRANSITIONS[self.state].get(event)
        if target is None:
            raise IllegalTransition(f"deployment {self.id} is {self.state}: {event!s} is not possible")
        changed = self.changed_wall if target is self.state else wall
        return replace(self, state=target, cause=cause, changed_wall=changed, stalled=False, **changes)

    def shifted(self, by_s: float) -> "Deployment":
        """This deployment on a wall clock that was set by so much; when it was created stays as it was told."""

        def moved(wall: float | None) -> float | None:
            return None if wall is None else wall + by_s

        return replace(
            self,
            changed_wall=self.changed_wall + by_s,
            due_wall=moved(self.due_wall),
            offered_wall=moved(self.offered_wall),
            retry_wall=moved(self.retry_wall),
            claimed_wall=moved(self.claimed_wall),
            last_block_wall=moved(self.last_block_wall),
        )

    def compacted(self) -> "Deployment":
        """What is kept of a finished one after years: everything that a decision, a count or a view is made of.

        Times are whole seconds then, but for that of its end, from which the wait for another attempt counts.
        """
        began = self.last_block_wall
        return replace(
            self,
            created_wall=float(floor(self.created_wall)),
            last_block_wall=None if began is None else float(floor(began)),
            due_wall=None,
            offered_wall=None,
            resent=False,
            retry_wall=None,
            boot=None,
            claimed_wall=None,
            stalled=False,
            slot_rank=0,
        )

    def can(self, event: DeploymentEvent) -> bool:
        """True if the table has a row for `event`."""
        return event in TRANSITIONS[self.state]

    def with_activity(self, activity: BlockActivity) -> "Deployment":
        """This deployment with the block plane's counts added; a device that asks for blocks needs no notice."""
        return replace(
            self,
            last_block_wall=max(self.last_block_wall or 0.0, activity.wall),
            high_water_bytes=max(self.high_water_bytes, activity.high_water_bytes),
            bytes_sent=self.bytes_sent + activity.bytes_sent,
            blocks_sent=self.blocks_sent + activity.blocks_sent,
            requests=self.requests + activity.requests,
            stalled=False,
            retry_wall=None,
        )


@record
class Transition:
    """One row of a deployment's history."""

    deployment: DeploymentId
    wall: float
    event: str
    before: State | None
    after: State
    cause: str
