"""A rollout: a release for a set of devices, and how far it has come. What to do next is `planner`'s."""

import hashlib
from dataclasses import dataclass, replace
from enum import StrEnum

from ota_bridge.core.errors import Conflict, InvalidInput
from ota_bridge.core.values import DeviceId, ReleaseId, RolloutId


class RolloutState(StrEnum):
    """What an operator wants of a rollout. Whether it is complete is counted, not stored."""

    RUNNING = "running"
    PAUSED = "paused"
    CANCELED = "canceled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which devices: a list of names, or a share of all of the product's (100 is everyone)."""

    percent: int = 100
    devices: tuple[DeviceId, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:  # noqa: PLR2004 - a percentage
            raise InvalidInput(f"percent {self.percent}: must be between 0 and 100")

    def holds(self, device: DeviceId, release: ReleaseId) -> bool:
        """True if `device` is meant. A stable hash decides, so the devices of 10 % are also in 50 %."""
        if self.devices:
            return device in self.devices
        return share_of(device, release) < self.percent * 100

    def __str__(self) -> str:
        if self.devices:
            return f"{len(self.devices)} named"
        return "all" if self.percent == 100 else f"{self.percent} %"  # noqa: PLR2004 - a percentage


def share_of(device: DeviceId, release: ReleaseId) -> int:
    """The place of a device among a release's, 0..9999; salted by release so that canaries differ from time to time."""
    digest = hashlib.sha256(f"{release}\0{device}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
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
    """While its devices are being planned: the name of the last one looked at, empty before the first; else None."""

    @property
    def is_planning(self) -> bool:
        """True while there are devices that were not looked at since it was started, widened or resumed."""
        return self.sweep is not None

    def becomes(self, state: RolloutState, wall: float, actor: str) -> "Rollout":
        """This rollout in another state; raises Conflict where that is no change or too late."""
        if self.state is RolloutState.CANCELED:
            raise Conflict(f"rollout {self.id} is canceled; start a new one")
        if self.state is state:
            raise Conflict(f"rollout {self.id} is already {state}")
        sweep = "" if state is RolloutState.RUNNING else None
        return replace(self, state=state, changed_wall=wall, changed_by=actor, sweep=sweep)

    def widened(self, percent: int, wall: float, actor: str) -> "Rollout":
        """This rollout for a larger share of the fleet; a share never shrinks."""
        if self.state is RolloutState.CANCELED:
            raise Conflict(f"rollout {self.id} is canceled; start a new one")
        if self.target.devices:
            raise Conflict(f"rollout {self.id} names its devices; start another for a percentage")
        if percent < self.target.percent:
            raise InvalidInput(
                f"rollout {self.id} is at {self.target.percent} % and can only grow; to stop it: pause or cancel"
            )
        sweep = "" if self.state is RolloutState.RUNNING else None
        return replace(self, target=Target(percent=percent), changed_wall=wall, changed_by=actor, sweep=sweep)
