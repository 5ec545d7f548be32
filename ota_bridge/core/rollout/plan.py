"""How a rollout goes from a few devices to all of them: stages and their gates, pace, time, retries. Plain values.

A plan says how; which release and which devices the rollout says itself. Every record checks itself at construction and
raises InvalidInput that names the field, so a plan that cannot work is refused when it is written. What the values
mean for one device is `policy`'s, for the whole `gates`'.
"""

from dataclasses import field
from enum import StrEnum
from typing import Final

from ota_bridge.core.deployment import State
from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.records import record
from ota_bridge.core.values import ReleaseId

STAGES_MAX: Final = 64
NAME_MAX: Final = 40
SECONDS_MAX: Final = 366 * 86_400.0
"""A year: longer waits are mistakes of a unit."""
WALL_MAX: Final = 253_402_300_799.0
"""The last second of the year 9999."""
APPROVALS_MAX: Final = 16
ATTEMPTS_MAX: Final = 100
FACTOR_MAX: Final = 10.0
RATE_MAX_PER_MIN: Final = 1e6
WINDOW_LENGTH_S: Final = (60, 7 * 86_400)
FAILURES: Final = (State.FAILED, State.REJECTED, State.ROLLED_BACK, State.TIMED_OUT)
"""The ends of an attempt that gates and retries count. CANCELED is nobody's fault."""


class Action(StrEnum):
    """What a gate does."""

    GO_ON = "go_on"
    WAIT = "wait"
    """For a person: `rollout next`."""
    PAUSE = "pause"
    CANCEL = "cancel"
    ROLL_BACK = "roll_back"


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidInput(f"{name}: {value:g} is not within {low:g}..{high:g}")


@record
class SuccessGate:
    """When a stage has succeeded: enough of its devices confirmed, for long enough."""

    share: float = 1.0
    """Of the stage's devices, 0..1. Those that still sleep count as not confirmed."""
    min_count: int = 0
    soak_s: float = 0.0
    """How long that must have held."""
    action: Action = Action.GO_ON

    def __post_init__(self) -> None:
        _check("share", self.share, 0.0, 1.0)
        _check("min_count", self.min_count, 0, 10**9)
        _check("soak_s", self.soak_s, 0.0, SECONDS_MAX)
        if self.action not in {Action.GO_ON, Action.WAIT}:
            raise InvalidInput(f"action: {self.action!s}; a stage that succeeded can go_on or wait")


@record
class FailureGate:
    """When a stage has failed: too many of the devices whose attempt has ended failed."""

    share: float | None = None
    """Of those that ended, above 0 and up to 1; None: shares are not looked at."""
    count: int | None = None
    kinds: tuple[State, ...] = FAILURES
    min_executed: int = 1
    """A share is looked at once so many have ended."""
    action: Action = Action.PAUSE

    def __post_init__(self) -> None:
        if self.share is None and self.count is None:
            raise InvalidInput("name a share, a count or both")
        if self.share is not None:
            if not 0.0 < self.share <= 1.0:
                raise InvalidInput(f"share: {self.share:g} is not above 0 and at most 1")
            _check("min_executed", self.min_executed, 1, 10**9)
        if self.count is not None:
            _check("count", self.count, 1, 10**9)
        if not self.kinds or not set(self.kinds) <= set(FAILURES):
            known = ", ".join(state.value for state in FAILURES)
            raise InvalidInput(f"kinds: one or more of {known}")
        if self.action not in {Action.PAUSE, Action.CANCEL, Action.ROLL_BACK}:
            raise InvalidInput(f"action: {self.action!s}; a stage that failed can pause, cancel or roll_back")


@record
class Pace:
    """How fast devices are let in: a base rate that grows with success, or a time to spread a stage over."""

    per_min: float | None = None
    factor: float = 1.0
    """The rate is multiplied by this each time another `per_success` devices confirmed."""
    per_success: int = 1
    max_per_min: float = RATE_MAX_PER_MIN
    over_s: float | None = None
    """Spread the devices of each stage evenly over so many seconds."""

    def __post_init__(self) -> None:
        if (self.per_min is None) == (self.over_s is None):
            raise InvalidInput("name either per_min or over_s")
        if self.per_min is not None:
            _check("per_min", self.per_min, 0.01, RATE_MAX_PER_MIN)
        if self.over_s is not None:
            _check("over_s", self.over_s, 1.0, SECONDS_MAX)
        _check("factor", self.factor, 1.0, FACTOR_MAX)
        _check("per_success", self.per_success, 1, 10**9)
        _check("max_per_min", self.max_per_min, 0.01, RATE_MAX_PER_MIN)

    def rate_per_min(self, confirmed: int, stage_size: int) -> float:
        """Devices a minute once so many of the rollout have confirmed."""
        if self.over_s is not None:
            return max(stage_size, 1) * 60.0 / self.over_s
        assert self.per_min is not None
        steps = min(confirmed // self.per_success, 1000)
        grown = self.max_per_min if self.factor > 1.0 and steps > 100 else self.per_min * self.factor**steps  # noqa: PLR2004
        return min(grown, self.max_per_min)


@record
class Window:
    """When devices may be offered an update: it opens as `cron` says, in the device's zone, for `length_s`."""

    cron: str
    """Five fields: minute, hour, day of month, month, day of week."""
    length_s: int
    tz: str = ""
    """An IANA zone for devices without an attribute `tz`; empty: UTC."""
    where: str = ""
    """The query of the devices that it is for; empty: all. The first window that fits a device is its window."""

    def __post_init__(self) -> None:
        _check("length_s", self.length_s, *WINDOW_LENGTH_S)
        if not self.cron.strip():
            raise InvalidInput("cron: five fields, such as `0 2 * * *` for each night at two")


@record
class Timeouts:
    """How long a deployment of this rollout may stay in a state, in seconds; None: as the daemon is configured."""

    offered_s: float | None = None
    downloading_s: float | None = None
    """Since the last byte."""
    installing_s: float | None = None
    trial_s: float | None = None
    sleepers_wait: bool = False
    """True: a device burns no time before its first block, until the deadline or the end of its rollout."""

    def __post_init__(self) -> None:
        for name in ("offered_s", "downloading_s", "installing_s", "trial_s"):
            value = getattr(self, name)
            if value is not None:
                _check(name, value, 1.0, SECONDS_MAX)


@record
class Tries:
    """How often one device is tried; None: as the daemon is configured."""

    max_attempts: int | None = None
    backoff_s: float | None = None
    timed_out: int | None = None
    """Attempts that may end TIMED_OUT; `failed` and `rolled_back` likewise. Each is also within `max_attempts`."""
    failed: int | None = None
    rolled_back: int | None = None
    quarantine_after: int = 0
    """A device with so many failed attempts at the same release, over all rollouts, gets it no more; 0: never."""

    def __post_init__(self) -> None:
        for name in ("max_attempts", "timed_out", "failed", "rolled_back"):
            value = getattr(self, name)
            if value is not None:
                _check(name, value, 1, ATTEMPTS_MAX)
        if self.backoff_s is not None:
            _check("backoff_s", self.backoff_s, 0.0, SECONDS_MAX)
        _check("quarantine_after", self.quarantine_after, 0, ATTEMPTS_MAX)


@record
class Stage:
    """One step of a rollout: so many devices more, or all that are left."""

    name: str = ""
    devices: int | None = None
    """So many devices beside those of the stages before."""
    percent: float | None = None
    """So that this share of all the rollout's devices is reached."""
    where: str = ""
    """A query: all devices that match, and no other. Stages with a query come first."""
    success: SuccessGate = SuccessGate()
    failure: FailureGate | None = None

    def __post_init__(self) -> None:
        if len(self.name) > NAME_MAX or not self.name.isprintable():
            raise InvalidInput(f"name {self.name[:NAME_MAX]!r}: at most {NAME_MAX} printable characters")
        if sum((self.devices is not None, self.percent is not None, bool(self.where))) > 1:
            raise InvalidInput("a stage has one size: devices, percent, or where; none of them for the rest")
        if self.devices is not None:
            _check("devices", self.devices, 1, 10**9)
            if self.success.min_count > self.devices:
                raise InvalidInput(f"min_count: {self.success.min_count} of {self.devices} devices cannot be met")
        if self.percent is not None and not 0.0 < self.percent <= 100.0:  # noqa: PLR2004 - a percentage
            raise InvalidInput(f"percent: {self.percent:g} is not above 0 and at most 100")

    @property
    def is_rest(self) -> bool:
        """True if it takes all that are left."""
        return self.devices is None and self.percent is None and not self.where

    def __str__(self) -> str:
        size = "rest"
        if self.devices is not None:
            size = f"{self.devices} device" + ("s" if self.devices > 1 else "")
        elif self.percent is not None:
            size = f"{self.percent:g} %"
        elif self.where:
            size = f"where {self.where}"
        return f"{self.name}: {size}" if self.name not in {"", size} else size


EVERYONE: Final = (Stage(),)


@record
class Plan:
    """How a rollout proceeds. The default: everyone at once, nothing is waited for."""

    stages: tuple[Stage, ...] = EVERYONE
    start_wall: float | None = None
    """Not before this time."""
    deadline_s: float | None = None
    """So long after it started nothing of it is begun any more, and what has not begun to install is canceled."""
    pace: Pace | None = None
    windows: tuple[Window, ...] = ()
    timeouts: Timeouts = field(default_factory=Timeouts)
    tries: Tries = field(default_factory=Tries)
    takes_late: bool = True
    """Devices that appear, or come to match, later are taken in, under the same stages and limits."""
    is_urgent: bool = False
    """It overtakes: while it has something to bring to a device it wins over newer ones; it is offered first, and heeds
    no window."""
    approvals: int = 0
    """By so many people other than its creator, before it starts."""
    roll_back_to: ReleaseId | None = None
    """The release that the action `roll_back` starts: what ran before, signed again with a higher seq."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.stages) <= STAGES_MAX:
            raise InvalidInput(f"stages: {len(self.stages)} of them; 1..{STAGES_MAX} are possible")
        self._check_order()
        if self.start_wall is not None:
            _check("start_wall", self.start_wall, 0.0, WALL_MAX)
        if self.deadline_s is not None:
            _check("deadline_s", self.deadline_s, 1.0, SECONDS_MAX)
        _check("approvals", self.approvals, 0, APPROVALS_MAX)
        for number, stage in enumerate(self.stages, start=1):
            failure = stage.failure
            if failure is not None and failure.action is Action.ROLL_BACK and self.roll_back_to is None:
                raise InvalidInput(
                    f"stage {number}: its failure action is roll_back, so the plan must name roll_back_to: a release "
                    "of what ran before, signed with a higher seq"
                )

    def _check_order(self) -> None:
        reached, names, counts = 0.0, set[str](), False
        for number, stage in enumerate(self.stages, start=1):
            if stage.is_rest and number < len(self.stages):
                raise InvalidInput(f"stage {number} takes the rest, so none can come after it")
            if stage.where and (counts or reached):
                raise InvalidInput(f"stage {number} has a query: such stages come before those with a size")
            if stage.percent is not None:
                if stage.percent <= reached:
                    raise InvalidInput(
                        f"stage {number}: {stage.percent:g} % is not above {reached:g} %, where it stands"
                    )
                reached = stage.percent
            counts = counts or stage.devices is not None
            if stage.name and stage.name in names:
                raise InvalidInput(f"stage {number}: the name {stage.name!r} is taken by another stage")
            names.add(stage.name)

    @property
    def is_simple(self) -> bool:
        """True if it is the default: one stage with everyone in it and no rule of its own."""
        return self == Plan()
