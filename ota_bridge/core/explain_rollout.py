"""Why a rollout stands where it does (`why ROLLOUT`), and why a device of it was not let in yet."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ota_bridge.core.deployment import OPEN
from ota_bridge.core.fleet import Device
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.core.rollout import policy
from ota_bridge.core.rollout.approvals import digest_of, needed_of, standing
from ota_bridge.core.rollout.gates import Gate, Verdict, stage_verdict, tally
from ota_bridge.core.rollout.model import Rollout, RolloutState
from ota_bridge.core.rollout.planner import overtakes, precedence
from ota_bridge.core.terms import Terms
from ota_bridge.core.values import RolloutId
from ota_bridge.core.views import iso, rollout_view


@dataclass(frozen=True, slots=True, kw_only=True)
class WhyRollout:
    """`code` for machines, `sentence` for people, `facts` behind both."""

    code: str
    sentence: str
    facts: dict[str, Any]


def why_rollout(terms: Terms, rollout: Rollout) -> WhyRollout:
    """The one reason, most pressing first."""
    code, sentence = _reason(terms, rollout)
    tallies = terms.unit.deployments.tallies(rollout.id)
    facts = {**rollout_view(rollout, tallies), "waiting": terms.unit.members.count(rollout.id)}
    return WhyRollout(code=code, sentence=f"{rollout.id} ({rollout.release}): {sentence}.", facts=facts)


def _reason(terms: Terms, rollout: Rollout) -> tuple[str, str]:
    match rollout.state:
        case RolloutState.WAITING:
            return "waits_for_approval", _what_approvals_it_waits_for(terms, rollout)
        case RolloutState.CANCELED:
            return "canceled", f"it was canceled by {rollout.changed_by}" + (
                f": {rollout.cause}" if rollout.cause else ""
            )
        case RolloutState.PAUSED:
            return "paused", f"it was paused by {rollout.changed_by}" + (f": {rollout.cause}" if rollout.cause else "")
        case RolloutState.RUNNING:
            return _running_reason(terms, rollout)


def _what_approvals_it_waits_for(terms: Terms, rollout: Rollout) -> str:
    found = terms.unit.approvals.of_rollout(rollout.id)
    given, missing = standing(found, rollout.created_by, digest_of(rollout), needed_of(rollout))
    names = f", approved so far by {', '.join(one.user for one in given)}" if given else ""
    return f"it waits for {_counted(missing, 'approval')} by others than its creator {rollout.created_by}{names}"


def _running_reason(terms: Terms, rollout: Rollout) -> tuple[str, str]:
    standing, wall = rollout.standing, terms.now.wall
    if standing.started_wall is None:
        return "waits_for_start", f"it starts at {iso(rollout.plan.start_wall)}"
    if rollout.is_planning:
        return "planning", "its devices are being found"
    if not standing.ends:
        return "planning", "its first stage opens in a moment"
    name = stage_name(rollout, standing.stage)
    if standing.waits_for_person:
        return "waits_for_person", f"{name} has succeeded, and its plan says that a person decides: rollout next"
    waiting = terms.unit.members.count(rollout.id, end=standing.end)
    if waiting:
        return _admission_reason(terms, rollout, name, waiting)
    if standing.is_through:
        return "complete", "all its stages have succeeded"
    return _gate_reason(terms, rollout, name, wall)


def _admission_reason(terms: Terms, rollout: Rollout, name: str, waiting: int | None) -> tuple[str, str]:
    many = f"it is in line in {name} and waits"
    if waiting is not None:
        many = f"{_counted(waiting, 'device')} of {name} {'waits' if waiting == 1 else 'wait'}"
    if rollout.plan.pace is not None and rollout.standing.admits_wall > terms.now.wall:
        return "waits_for_pace", f"{many} for the pace; the next is let in at {iso(rollout.standing.admits_wall)}"
    if terms.slots:
        return "waits_for_slot", f"{many} for one of {terms.slots} download slots"
    return "admitting", f"{many} to be let in"


def _gate_reason(terms: Terms, rollout: Rollout, name: str, wall: float) -> tuple[str, str]:
    tallies = terms.unit.deployments.tallies(rollout.id)
    verdict = verdict_of(terms.unit, rollout, wall)
    if verdict.gate is Gate.SOAKING:
        return "soaking", f"{name}: {verdict.sentence}, until {iso(verdict.until_wall)}"
    if verdict.gate is Gate.NOT_MET:
        still_open = sum(number for (_, state, _), number in tallies.items() if state in OPEN)
        if not still_open and rollout.standing.stage + 1 == len(rollout.plan.stages):
            return "ended", f"every device has ended; {name}: {verdict.sentence}"
        return "gate_not_met", f"{name}: the gate is not met, {verdict.sentence}"
    if not tallies and rollout.standing.stage + 1 == len(rollout.plan.stages):
        return "no_devices", "there is no device that it means and that needs it"
    return "deciding", f"{name}: {verdict.sentence}"


def verdict_of(unit: UnitOfWork, rollout: Rollout, wall: float) -> Verdict:
    """What the gates of the last open stage say."""
    standing, stage = rollout.standing, rollout.stage
    assert stage is not None
    found = tally(unit.deployments.tallies(rollout.id), standing.stage, standing.sizes[-1])
    return stage_verdict(stage, found, standing.met_wall, wall, forgiven=standing.forgiven)


def line_reason(terms: Terms, device: Device) -> tuple[str, str] | None:
    """What keeps a device from being let into the newest rollout that it belongs to and needs, or None."""
    rollouts = terms.unit.rollouts.all(product=device.id.product)
    places, known = precedence(rollouts), {rollout.id: rollout for rollout in rollouts}
    for rollout in sorted(rollouts, key=lambda rollout: -places[rollout.id]):
        if rollout.state is RolloutState.CANCELED or not _needs(terms, device, rollout, known):
            continue
        what = f"rollout {rollout.id} of {rollout.release}"
        if rollout.state is not RolloutState.RUNNING or rollout.standing.started_wall is None:
            code, sentence = _reason(terms, rollout)
            return code, f"{what} includes it, and has not let it in: {sentence}"
        if rollout.is_planning or not rollout.standing.ends:
            return "planning", f"{what} is still finding its devices"
        number = rollout.standing.stage_at(terms.place(device, rollout))
        if number <= rollout.standing.stage:
            code, sentence = _admission_reason(terms, rollout, stage_name(rollout, number), None)
            return code, f"{what}: {sentence}"
        name = stage_name(rollout, number) if number == rollout.standing.stage + 1 else "a later stage"
        _, sentence = _running_reason(terms, rollout)
        return "waits_for_stage", f"{what}: it is in {name}, which is not open yet; {sentence}"
    return None


def _needs(terms: Terms, device: Device, rollout: Rollout, known: Mapping[RolloutId, Rollout]) -> bool:
    release = terms.unit.releases.get(rollout.release)
    if release is None or not terms.belongs(device, rollout):
        return False
    releases = {one.id: one for one in terms.unit.releases.all(product=rollout.product)}
    return any(
        overtakes(device, name, rollout, device.assigned.get(name), known, releases)
        and policy.fits(device, release, part) is None
        and policy.is_needed(device, part) is None
        for name, part in release.parts.items()
    )


def stage_name(rollout: Rollout, number: int) -> str:
    """How people are told of a stage."""
    return rollout.plan.stages[number].name or f"stage {number + 1}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
