"""Has a stage succeeded, has it failed, may another device be let in? Pure verdicts over counts and the time.

Gates see ends only, and no step on the way to the rollout's release as one: a device counts as confirmed when its next
boot confirmed the image, and as failed when its last attempt that has ended failed, also while it is being tried again.
Counted are deployments, so a device with two components of the release counts twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import Final

from ota_bridge.core.deployment import OPEN, State
from ota_bridge.core.rollout.plan import FAILURES, Action, FailureGate, Pace, Stage

Counts = Mapping[tuple[int, State, State | None], int]
"""Latest attempts by (stage, state, how the attempt before it ended)."""

_EPSILON: Final = 1e-9
_ROUNDING: Final = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What has become of the devices of a stage."""

    size: int
    """Its members, whether or not they were let in; those whose update was canceled are none of it any more."""
    confirmed: int = 0
    failed: Mapping[State, int] | None = None
    """Those whose last ended attempt failed, by how it ended."""
    canceled: int = 0
    open: int = 0

    def failures(self, kinds: tuple[State, ...] = FAILURES) -> int:
        """How many failed in one of these ways."""
        return sum((self.failed or {}).get(kind, 0) for kind in kinds)

    @property
    def executed(self) -> int:
        """How many have come to an end that says something about the image."""
        return self.confirmed + self.failures()


def tally(counts: Counts, stage: int, members: int) -> Tally:
    """The tally of one stage. `members`: how many belong to it, let in or not."""
    confirmed = canceled = still_open = 0
    failed: dict[State, int] = {}
    for (number, state, before), count in counts.items():
        if number not in {stage, ~stage}:
            continue
        if state is State.CONFIRMED and number < 0:
            still_open += count
        elif state is State.CONFIRMED:
            confirmed += count
        elif state in FAILURES:
            failed[state] = failed.get(state, 0) + count
        elif state in OPEN:
            still_open += count
            if before in FAILURES:
                failed[before] = failed.get(before, 0) + count
        else:
            canceled += count
    whole = sum(count for (number, _, _), count in counts.items() if number in {stage, ~stage})
    size = max(members, whole) - canceled
    return Tally(size=size, confirmed=confirmed, failed=failed, canceled=canceled, open=still_open)


class Gate(StrEnum):
    """What a stage's gates say."""

    FAILED = "failed"
    MET = "met"
    SOAKING = "soaking"
    NOT_MET = "not_met"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the gates of a stage say, why, and when they may say something else without another report."""

    gate: Gate
    sentence: str
    action: Action | None = None
    until_wall: float | None = None


def wanted(stage: Stage, found: Tally) -> int:
    """How many devices have to be confirmed. A stage that never had a device has nothing to wait for.

    Those whose update was canceled are no part of the share, but prove nothing: they lower no minimum, and a stage that
    has lost all its devices is not met.
    """
    least = max(stage.success.min_count, 0 if found.size else 1)
    return min(found.size + found.canceled, max(least, ceil(stage.success.share * found.size - _ROUNDING)))


def stage_verdict(stage: Stage, found: Tally, met_wall: float | None, wall: float, *, forgiven: int = 0) -> Verdict:
    """What a stage's gates say now.

    `met_wall`: since when the success gate's counts have been enough, None if they are not. `forgiven`: failures that a
    person has gone on from.
    """
    if stage.failure is not None:
        failed = failure_sentence(stage.failure, found, forgiven)
        if failed:
            return Verdict(gate=Gate.FAILED, sentence=failed, action=stage.failure.action)
    need = wanted(stage, found)
    if found.confirmed < need:
        lost = f", {found.canceled} canceled" if need > found.size else ""
        return Verdict(gate=Gate.NOT_MET, sentence=f"{found.confirmed} of {need} confirmed{lost}")
    ends = (wall if met_wall is None else met_wall) + stage.success.soak_s
    if stage.success.soak_s and wall < ends - _EPSILON:
        return Verdict(
            gate=Gate.SOAKING,
            sentence=f"{found.confirmed} of {need} confirmed, soaking for {stage.success.soak_s:g} s",
            until_wall=ends,
        )
    return Verdict(gate=Gate.MET, sentence=f"{found.confirmed} of {need} confirmed", action=stage.success.action)


def failure_sentence(gate: FailureGate, found: Tally, forgiven: int = 0) -> str:
    """Why a stage has failed, or nothing."""
    failures = found.failures(gate.kinds) - forgiven
    executed = found.executed - forgiven
    if gate.count is not None and failures >= gate.count:
        return f"{failures} failed, {gate.count} are too many"
    if gate.share is None or executed < gate.min_executed or failures <= 0:
        return ""
    if failures / executed >= gate.share - _EPSILON:
        return f"{failures} of {executed} failed, {gate.share:.0%} are too many"
    return ""


def next_admission_wall(pace: Pace, admitted_wall: float, confirmed: int, stage_size: int) -> float:
    """When the device after one that was let in at `admitted_wall` may follow."""
    return admitted_wall + 60.0 / pace.rate_per_min(confirmed, stage_size)
