"""What the plan of a rollout means for one device: does it belong to it, when may it be offered, how long may it take.

Reads records and changes none, but for the line of members that wait to be let in.
"""

from functools import lru_cache
from typing import Any, Final

from ota_bridge.core.delivery import Pacing, is_served
from ota_bridge.core.deployment import Deployment, State
from ota_bridge.core.fleet import Device
from ota_bridge.core.ports import Calendar, Queries, UnitOfWork
from ota_bridge.core.records import record, replace
from ota_bridge.core.rollout.facts import facts_of
from ota_bridge.core.rollout.model import SHARES, Rollout, RolloutState, place_of, share_of
from ota_bridge.core.rollout.plan import Timeouts, Window
from ota_bridge.core.rollout.policy import Retries, runs_part
from ota_bridge.core.values import Limits, Now, RolloutId

OFFER_COUNTS_S: Final = 30.0
"""So long a notice that was not answered by a request for blocks counts as a download slot in use."""
SLOT_BYTES_PER_S: Final = 2_048
"""Where only bytes are capped, so much of the cap is one download's."""
OPENING_SHARE: Final = 0.1
OPENING_MAX_S: Final = 600.0
"""Notices are spread over this first share of a window, and at most so long: many devices have the same one."""
WINDOW_CAUSE: Final = "waits for its window"
_NO_TIMEOUTS: Final = Timeouts()


@record
class Hold:
    """Why a notice is not sent now. `until_wall` None: the slots' line calls it."""

    cause: str
    until_wall: float | None = None


@record(frozen=False)
class Terms:
    """See the module; one for each unit of work."""

    unit: UnitOfWork
    now: Now
    pacing: Pacing
    tries: Retries
    queries: Queries
    calendar: Calendar
    _limits: Limits | None = None
    _facts: tuple[Device, dict[str, Any]] | None = None
    """Of the device that was asked about last: several rollouts ask about one."""

    # --- who belongs to it -------------------------------------------------------------------------------

    def takes(self, rollout: Rollout, device: Device, *, admitted: RolloutId | None = None) -> bool:
        """True if `device` takes part in a rollout that runs; who belongs to it but has to wait gets into its line.

        `admitted`: the rollout whose line it has just come out of.
        """
        if rollout.id == admitted:
            return True
        if rollout.standing.started_wall is None or not self.belongs(device, rollout):
            return False
        place = self.place(device, rollout)
        if place < rollout.standing.end and rollout.plan.pace is None and not self.slots:
            return True
        if not self._has_all(device, rollout):  # else it would take the place of one that the stage could learn from
            self.unit.members.put(rollout.id, place, device.id.name)
        return False

    def _has_all(self, device: Device, rollout: Rollout) -> bool:
        """True if the device runs all that the release has for it."""
        release = self.unit.releases.get(rollout.release)
        parts = [] if release is None else [part for part in release.parts.values() if part.component in device.parts]
        return all(runs_part(device, part) for part in parts)

    def belongs(self, device: Device, rollout: Rollout) -> bool:
        """True if the rollout means this device: by its name or share, by its query, by when it came."""
        target, started = rollout.target, rollout.standing.started_wall
        if not target.holds(device.id, rollout.release):
            return False
        if not rollout.plan.takes_late and not target.devices and started is not None and device.created_wall > started:
            return False
        return not target.where or self.matches(device, target.where)

    def place(self, device: Device, rollout: Rollout) -> int:
        """Where it stands in the order in which the rollout lets its members in."""
        queries = [stage.where for stage in rollout.plan.stages if stage.where]
        tier = next((tier for tier, text in enumerate(queries) if self.matches(device, text)), len(queries))
        return place_of(device.id, rollout.release, tier)

    def stage(self, device: Device, rollout: Rollout) -> int:
        """The number of its stage, as far as stages were opened."""
        standing = rollout.standing
        if len(standing.ends) <= 1:
            return 0
        return min(standing.stage_at(self.place(device, rollout)), standing.stage)

    def stage_of(self, device: Device, rollout: Rollout | None, *, is_step: bool) -> int:
        """As a deployment carries it (`Deployment.stage`)."""
        stage = 0 if rollout is None else self.stage(device, rollout)
        return ~stage if is_step else stage

    def matches(self, device: Device, query: str) -> bool:
        """True if a query holds for a device."""
        if self._facts is None or self._facts[0] is not device:
            self._facts = device, facts_of(device, self.now.wall)
        return self.queries(query)(self._facts[1])

    # --- when --------------------------------------------------------------------------------------------

    @property
    def slots(self) -> int:
        """How many may download at once, by the caps in force; 0: any number."""
        if self._limits is None:
            self._limits = self.unit.limits.get().limits
        limits = self._limits
        by_bytes = max(1, limits.bytes_per_s // SLOT_BYTES_PER_S) if limits.bytes_per_s else 0
        return min(filter(None, (limits.downloads, by_bytes)), default=0)

    def free_slots(self) -> int:
        """How many notices may go out now, where there are slots."""
        return max(0, self.slots - self.unit.deployments.busy(self.now.wall - OFFER_COUNTS_S))

    def hold(
        self, device: Device, deployment: Deployment, rollout: Rollout | None, *, has_slot: bool = False
    ) -> Hold | None:
        """What a notice that could go out now has to wait for: its window, or a slot. What has begun waits for none."""
        if deployment.has_begun or deployment.state not in {State.QUEUED, State.OFFERED, State.DEFERRED}:
            return None
        if rollout is not None and rollout.plan.windows and not rollout.plan.is_urgent:
            closed = self._closed(device, rollout)
            if closed is not None:
                return closed
        if self.slots and not has_slot and (self.unit.deployments.waiting_for_slots(1) or not self.free_slots()):
            return Hold(cause="waits for a download slot")
        return None

    def window(self, device: Device, rollout: Rollout) -> Window | None:
        """The window of a device: the first that fits it."""
        for window in rollout.plan.windows:
            if not window.where or self.matches(device, window.where):
                return window
        return None

    def _closed(self, device: Device, rollout: Rollout) -> Hold | None:
        window = self.window(device, rollout)
        if window is None:
            return None
        zone = self._zone(device)
        if self.calendar.is_open(window, zone, self.now.wall):
            return None
        opens = self.calendar.opens_wall(window, zone, self.now.wall)
        if opens is None:
            return Hold(cause=f"{WINDOW_CAUSE} ({window.cron}), which never opens", until_wall=self.now.wall + 86_400)
        spread_s = min(window.length_s * OPENING_SHARE, OPENING_MAX_S)
        opens += spread_s * share_of(device.id, rollout.release) / SHARES
        return Hold(cause=f"{WINDOW_CAUSE} ({window.cron}, {zone or window.tz or 'UTC'})", until_wall=opens)

    def _zone(self, device: Device) -> str:
        """The device's own zone; empty: the window's."""
        own = device.attrs.get("tz")
        return own if isinstance(own, str) and self.calendar.knows(own) else ""

    # --- how long ----------------------------------------------------------------------------------------

    def pacing_of(self, rollout: Rollout | None) -> Pacing:
        """The times of a rollout's deployments. Once it has ended nobody waits for sleepers any more."""
        if rollout is None or rollout.plan.timeouts == _NO_TIMEOUTS:
            return self.pacing
        paced = _paced(self.pacing, rollout.plan.timeouts)
        return replace(paced, sleepers_wait=False) if rollout.state is RolloutState.CANCELED else paced

    def tries_of(self, rollout: RolloutId | None) -> Retries:
        """How often a rollout tries one device."""
        found = None if rollout is None else self.unit.rollouts.get(rollout)
        return self.tries if found is None else self.tries.under(found.plan.tries)

    def not_before(self, wall: float | None, rollout: RolloutId | None) -> float | None:
        """No longer than the longest wait: an attempt that ended before the clock was set back ended in the future."""
        return None if wall is None else min(wall, self.now.wall + self.tries_of(rollout).longest_wait_s)


def has_to_follow(rollout: Rollout | None, deployment: Deployment) -> bool:
    """Its rollout was held and goes on: its times start again before anything is made of them.

    What installs was not held: its times have gone on.
    """
    if rollout is None or not rollout.standing.is_resuming or not is_served(deployment):
        return False
    return deployment.changed_wall < rollout.changed_wall


def is_paused(rollout: Rollout | None, deployment: Deployment) -> bool:
    """True while nothing of a deployment may go out because its rollout is held."""
    return rollout is not None and rollout.state is RolloutState.PAUSED and is_served(deployment)


@lru_cache(maxsize=256)
def _paced(pacing: Pacing, timeouts: Timeouts) -> Pacing:
    own = {
        name: value
        for name in ("offered_s", "downloading_s", "installing_s", "trial_s")
        if (value := getattr(timeouts, name)) is not None
    }
    return replace(pacing, sleepers_wait=timeouts.sleepers_wait, **own)
