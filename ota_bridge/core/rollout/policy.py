"""Pure verdicts: may this release go to this device, may it be tried again."""

from collections.abc import Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Final

from ota_bridge.core.catalog import Release, ReleasePart, ReleaseState, is_compatible
from ota_bridge.core.deployment import Deployment, State
from ota_bridge.core.errors import RefusedReason
from ota_bridge.core.fleet import Device, DeviceState, runs
from ota_bridge.core.manifest import Dependency
from ota_bridge.core.messages import InstalledPart
from ota_bridge.core.records import record, replace
from ota_bridge.core.rollout import paths
from ota_bridge.core.rollout.plan import FAILURES, Tries
from ota_bridge.core.versions import compare

FINAL_REFUSALS: Final = frozenset(
    {
        RefusedReason.SIG,
        RefusedReason.TYPE,
        RefusedReason.CLASS,
        RefusedReason.ROLLBACK,
        RefusedReason.DEP,
        RefusedReason.SIZE,
        RefusedReason.PRECURSOR,
    }
)
"""Trying again cannot help: the same bytes will be refused again."""

MAX_ROLLED_BACK: Final = 2
"""How often a device that went back by itself gets the same image: once for a power cut, not for a bad image."""
BACKOFFS_MAX: Final = 10
"""So many times the wait between two attempts becomes four times as long."""


class Obstacle(StrEnum):
    """Why a component of a release does not go to a device."""

    RETIRED = "retired"
    PENDING = "pending"
    NEVER_CHECKED_IN = "never_checked_in"
    HW_CONFLICT = "hw_conflict"
    WRONG_HARDWARE = "wrong_hardware"
    NO_SUCH_COMPONENT = "no_such_component"
    WITHDRAWN = "withdrawn"
    ANTI_ROLLBACK = "anti_rollback"
    RUNS_NEWER = "runs_newer"
    RUNS_IT = "runs_it"
    NO_PATH = "no_path"
    WAITS_FOR_COMPONENT = "waits_for_component"
    LACKS_COMPONENT = "lacks_component"
    ATTEMPTS_USED = "attempts_used"
    FINAL_REFUSAL = "final_refusal"
    QUARANTINED = "quarantined"


def may_take_part(device: Device) -> Obstacle | None:
    """What keeps a device out of every rollout, or None."""
    if device.state is DeviceState.RETIRED:
        return Obstacle.RETIRED
    if device.state is DeviceState.PENDING:
        return Obstacle.PENDING
    if device.last_report_wall is None or not device.parts:
        return Obstacle.NEVER_CHECKED_IN
    if device.has_hw_conflict:
        return Obstacle.HW_CONFLICT
    return None


def fits(device: Device, release: Release, part: ReleasePart) -> Obstacle | None:
    """What keeps this part of a release from this device, or None. Says nothing of what it runs now."""
    if release.state is ReleaseState.WITHDRAWN:
        return Obstacle.WITHDRAWN
    if device.hw is None:
        # A device of a vendor's protocol names no hardware; the release's product is all there is to compare.
        if device.proto > 0:
            return Obstacle.WRONG_HARDWARE
    elif not is_compatible(part, device.id.product, device.hw):
        return Obstacle.WRONG_HARDWARE
    if part.component not in device.parts:
        return Obstacle.NO_SUCH_COMPONENT
    return None


def runs_part(device: Device, part: ReleasePart) -> bool:
    """True if the device runs this part, confirmed or on trial."""
    return runs(device.parts.get(part.component), version=part.version, image_sha256=part.manifest.sha256)


def is_needed(device: Device, part: ReleasePart, *, is_known: bool = True) -> Obstacle | None:
    """What makes this part unnecessary or impossible on what the device runs now, or None.

    `is_known`: what it runs is in the catalog.
    """
    installed = device.parts[part.component]
    manifest = part.manifest
    if runs_part(device, part):
        return Obstacle.RUNS_IT
    if installed.seq is not None and manifest.seq <= installed.seq and not _counts_anew(device, part):
        return Obstacle.ANTI_ROLLBACK
    if has_gone_past(device, installed, part, is_known=is_known):
        return Obstacle.RUNS_NEWER
    return None


def _counts_anew(device: Device, part: ReleasePart) -> bool:
    """True if the device's seqs go back to 0 before it could take this part: its keyset is of an earlier epoch."""
    return device.keyset is not None and device.keyset < part.manifest.epoch


def has_gone_past(device: Device, installed: InstalledPart, part: ReleasePart, *, is_known: bool) -> bool:
    """True if what a device runs is newer than this part.

    By its counter; without one by the version's number, but only where the catalog does not have that version: then it
    may have forgotten it, and else it is the operator who wants the older one.
    """
    if installed.seq is not None:
        return installed.seq > part.manifest.seq and not _counts_anew(device, part)
    return not is_known and compare(installed.version, part.version) == 1


def obstacle(device: Device, release: Release, part: ReleasePart, *, is_known: bool) -> Obstacle | None:
    """What keeps a notice of an open deployment back, or None."""
    found = may_take_part(device) or fits(device, release, part) or is_needed(device, part, is_known=is_known)
    if found is not None:
        return found
    if paths.unmet(paths.before_step(device, part), part):
        return Obstacle.NO_PATH
    if not all(is_met(device, need) for need in part.manifest.dependencies):
        return Obstacle.WAITS_FOR_COMPONENT
    return None


def is_met(device: Device, need: Dependency) -> bool:
    """True if the component that is needed is there and confirmed. A seq that is not told is not doubted."""
    installed = device.parts.get(need.component)
    if installed is None:
        return need.min_seq == 0
    return not installed.trial and (installed.seq is None or installed.seq >= need.min_seq)


@record
class Retries:
    """How often a release is tried on one device, and how long to wait in between."""

    max_attempts: int = 3
    backoff_s: float = 60
    timed_out: int | None = None
    """How many attempts of one kind of end are enough; None: only `max_attempts` counts."""
    failed: int | None = None
    rolled_back: int = MAX_ROLLED_BACK
    quarantine_after: int = 0
    """Failed attempts at a release over all rollouts, after which the device gets it no more; 0: never."""

    @property
    def longest_wait_s(self) -> float:
        """Between the last two attempts."""
        return self._wait_s(self.max_attempts - 1)

    def _wait_s(self, attempts: int) -> float:
        """After so many; bounded, for a number holds no 4.0 ** 512."""
        return float(self.backoff_s * 4.0 ** min(max(attempts - 1, 0), BACKOFFS_MAX))

    def under(self, tries: Tries) -> "Retries":
        """These, as far as a rollout has none of its own."""
        return self if tries == _NO_TRIES else _under(self, tries)

    def verdict(self, attempts: Sequence[Deployment], others: int = 0) -> tuple[Obstacle | None, float | None]:
        """May there be another attempt, and not before which wall time?

        `attempts`: earlier ones of this release, component and rollout, all terminal. Their number orders them: the
        wall clock may have been set back. `others`: failed ones of other rollouts.
        Those since the last CONFIRMED count: a device that is reset after a success starts afresh, and so does another
        rollout of the release, but for the quarantine.
        """
        streak: list[Deployment] = []
        for attempt in sorted(attempts, key=lambda one: one.attempt, reverse=True):
            if attempt.state is State.CONFIRMED:
                break
            streak.append(attempt)
        failures = others + sum(attempt.state in FAILURES for attempt in streak)
        if self.quarantine_after and failures >= self.quarantine_after:
            return Obstacle.QUARANTINED, None
        if not streak:
            return None, None
        last = streak[0]
        if last.state is State.REJECTED or last.result_code in FINAL_REFUSALS:
            return Obstacle.FINAL_REFUSAL, None
        for kind, most in self._kinds():
            if most is not None and sum(attempt.state is kind for attempt in streak) >= most:
                return Obstacle.ATTEMPTS_USED, None
        begun = [attempt for attempt in streak if attempt.has_begun or attempt.state is not State.TIMED_OUT]
        if len(begun) >= self.max_attempts:
            return Obstacle.ATTEMPTS_USED, None
        return None, last.changed_wall + self._wait_s(len(begun))

    def _kinds(self) -> tuple[tuple[State, int | None], ...]:
        return (
            (State.ROLLED_BACK, self.rolled_back),
            (State.TIMED_OUT, self.timed_out),
            (State.FAILED, self.failed),
        )


_NO_TRIES: Final = Tries()


@lru_cache(maxsize=256)
def _under(retries: Retries, tries: Tries) -> Retries:
    own = {
        name: value
        for name in ("max_attempts", "backoff_s", "timed_out", "failed", "rolled_back", "quarantine_after")
        if (value := getattr(tries, name))
    }
    if tries.backoff_s == 0:
        own["backoff_s"] = 0.0
    return replace(retries, **own)
