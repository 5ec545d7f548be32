"""A rollout: a release for a set of devices, and how far it has come. What to do next is `planner`'s."""

import hashlib
from bisect import bisect_right
from dataclasses import field
from enum import StrEnum
from typing import Final

from ota_bridge.core.errors import Conflict, InvalidInput
from ota_bridge.core.records import record, replace
from ota_bridge.core.rollout.plan import Plan, Stage
from ota_bridge.core.values import DeviceId, ReleaseId, RolloutId


class RolloutState(StrEnum):
    """What an operator wants of a rollout. Whether it is complete is counted, not stored."""

    WAITING = "waiting"
    """For approvals."""
    RUNNING = "running"
    PAUSED = "paused"
    CANCELED = "canceled"


@record
class Target:
    """Which devices: a list of names, or a share of all of the product's (100 is everyone), or of those of a query."""

    percent: int = 100
    devices: tuple[DeviceId, ...] = ()
    where: str = ""
    """A query; empty: all. Evaluated by the planner when the rollout starts, and for devices that come later."""

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:  # noqa: PLR2004 - a percentage
            raise InvalidInput(f"percent {self.percent}: must be between 0 and 100")
        if self.devices and self.where:
            raise InvalidInput("a rollout names its devices or has a query, not both")

    def holds(self, device: DeviceId, release: ReleaseId) -> bool:
        """True if `device` is meant, as far as its name says. A stable hash decides: who is in 10 % is also in 50 %."""
        if self.devices:
            return device in self.devices
        return share_of(device, release) < self.percent * SHARES // 100

    def __str__(self) -> str:
        if self.devices:
            return f"{len(self.devices)} named"
        share = "all" if self.percent == 100 else f"{self.percent} %"  # noqa: PLR2004 - a percentage
        return f"{share} where {self.where}" if self.where else share


SHARES: Final = 10_000


def share_of(device: DeviceId, release: ReleaseId) -> int:
    """The place of a device among a release's, 0..9999; salted by release so that canaries differ from time to time."""
    digest = hashlib.sha256(f"{release}\0{device}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % SHARES


HASH_BITS: Final = 40
TIER: Final = 1 << HASH_BITS
"""Places of one tier: devices of a stage with a query have a tier of their own, before all others."""
PLACES_END: Final = 1 << 62


def place_of(device: DeviceId, release: ReleaseId, tier: int) -> int:
    """The place of a device in the order in which a rollout lets its members in."""
    digest = hashlib.sha256(f"{release}\0{device}".encode()).digest()
    return tier * TIER + (int.from_bytes(digest[:8], "big") >> (64 - HASH_BITS))


@record
class Standing:
    """How far a rollout has come through its stages. What else there is to know is in deployments and members."""

    started_wall: float | None = None
    """None: it has not begun, because it waits for people or for its start."""
    ends: tuple[int, ...] = ()
    """Of each stage that was opened, in order: the first place that is not of it."""
    sizes: tuple[int, ...] = ()
    """Of each stage that was opened: how many members it had then."""
    opened_wall: float = 0.0
    """When the last stage was opened."""
    admits_wall: float = 0.0
    """When the pace lets the next member in."""
    met_wall: float | None = None
    """Since when the last stage's success gate has had its counts."""
    waits_for_person: bool = False
    """Its gate was met, and a person decides: `rollout next`."""
    forgiven: int = 0
    """Failures of the last stage that a person has seen and gone on from."""
    is_through: bool = False
    """Its last stage has succeeded."""
    is_resuming: bool = False
    """It was held, and not all of its open deployments have been told to go on."""
    dropping: str | None = None
    """A stepping stone was withdrawn: after which open deployment those of withdrawn releases are left to cancel."""

    @property
    def stage(self) -> int:
        """The number of the last stage that was opened, from 0; -1 before the first."""
        return len(self.ends) - 1

    @property
    def end(self) -> int:
        """The first place that is in no open stage."""
        return self.ends[-1] if self.ends else 0

    def stage_at(self, place: int) -> int:
        """The number of the stage that a place is in; one more than the last open one where it is in none of them."""
        return bisect_right(self.ends, place)

    def opened(self, end: int, size: int, wall: float) -> "Standing":
        """This standing with the next stage open, up to the place `end`."""
        return Standing(
            started_wall=self.started_wall,
            ends=(*self.ends, end),
            sizes=(*self.sizes, size),
            opened_wall=wall,
            admits_wall=max(self.admits_wall, wall),
            dropping=self.dropping,
        )

    def shifted(self, by_s: float) -> "Standing":
        """This standing on a wall clock that was set by so much."""
        return replace(
            self,
            started_wall=None if self.started_wall is None else self.started_wall + by_s,
            opened_wall=self.opened_wall + by_s,
            admits_wall=self.admits_wall + by_s,
            met_wall=None if self.met_wall is None else self.met_wall + by_s,
        )


@record
class Rollout:
    """A release on its way to its devices."""

    id: RolloutId
    release: ReleaseId
    product: str
    target: Target
    state: RolloutState
    created_wall: float
    created_by: str
    changed_wall: float
    changed_by: str
    sweep: str | None = None
    """While its members are being found: the name of the last device looked at, empty before the first; else None."""
    plan: Plan = field(default_factory=Plan)
    standing: Standing = field(default_factory=Standing)
    cause: str = ""
    """Why it is in its state, where no operator's command says it."""

    @property
    def is_planning(self) -> bool:
        """True while there are devices that were not looked at since it was started, widened or resumed."""
        return self.sweep is not None

    def becomes(self, state: RolloutState, wall: float, actor: str, cause: str = "") -> "Rollout":
        """This rollout in another state; raises Conflict where that is no change or too late."""
        if self.state is RolloutState.CANCELED:
            raise Conflict(f"rollout {self.id} is canceled; start a new one")
        if self.state is state:
            raise Conflict(f"rollout {self.id} is already {state}")
        if self.state is RolloutState.WAITING and state is RolloutState.PAUSED:
            raise Conflict(f"rollout {self.id} waits for approval and has not started; to give it up: cancel")
        sweep = "" if state is RolloutState.RUNNING else None
        return replace(self, state=state, changed_wall=wall, changed_by=actor, sweep=sweep, cause=cause)

    @property
    def stage(self) -> Stage | None:
        """The last stage that was opened."""
        return self.plan.stages[self.standing.stage] if self.standing.ends else None

    def widened(self, percent: int, wall: float, actor: str) -> "Rollout":
        """This rollout for a larger share of the fleet; a share never shrinks."""
        if self.state is RolloutState.CANCELED:
            raise Conflict(f"rollout {self.id} is canceled; start a new one")
        if self.target.devices:
            raise Conflict(f"rollout {self.id} names its devices; start another for a percentage")
        if len(self.plan.stages) > 1:
            raise Conflict(f"rollout {self.id} has stages, which widen it; to open the next by hand: rollout next")
        if percent < self.target.percent:
            raise InvalidInput(
                f"rollout {self.id} is at {self.target.percent} % and can only grow; to stop it: pause or cancel"
            )
        sweep = "" if self.state is RolloutState.RUNNING else self.sweep
        return replace(
            self, target=replace(self.target, percent=percent), changed_wall=wall, changed_by=actor, sweep=sweep
        )
