"""Long work in slices: what concerns a whole fleet is done a few devices at a time, so that reports never wait for it.

A slice ends when its `go_on` says so; what it did is committed with how far it came (`Rollout.sweep`, `Standing`, the
line of members, or that a deployment is no longer due). So a daemon that dies between two slices goes on where it was,
nothing is done twice, and a step on the same records does the same.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from ota_bridge.core import steering
from ota_bridge.core.deployment import State
from ota_bridge.core.fleet import Device, DeviceState
from ota_bridge.core.messages import Output
from ota_bridge.core.records import replace
from ota_bridge.core.rollout.gates import Counts, Gate, next_admission_wall, stage_verdict, tally
from ota_bridge.core.rollout.model import Rollout, RolloutState, Standing
from ota_bridge.core.rollout.plan import Action
from ota_bridge.core.updates import Updates
from ota_bridge.core.values import DeploymentId, DeviceId

PAGE: Final = 16
"""How many records are read at once: more than a slice can use would be read in vain."""
AHEAD_PER_SLOT: Final = 2
"""Members are let in while fewer than so many wait for each slot: the line for slots need not hold a whole fleet."""

GoOn = Callable[[], bool]
"""Asked after each device: is there time for another?"""


@dataclass(frozen=True, slots=True)
class Slice:
    """What a slice of work puts out, and whether there is more to do at once."""

    outputs: list[Output]
    more: bool


def for_ever() -> bool:
    """No limit."""
    return True


def plan(updates: Updates, go_on: GoOn) -> bool:
    """One step of every rollout that has something to do; True if there may be more to do at once."""
    if call_for_slots(updates, go_on):
        return True
    more = False
    for rollout in updates.unit.rollouts.all():
        if rollout.standing.dropping is not None:
            worked = _drop_some(updates, rollout, go_on)
        elif rollout.state is RolloutState.RUNNING:
            worked = _step(updates, rollout, go_on)
        else:
            worked = rollout.is_planning and _end_some(updates, rollout, go_on)
        more = more or worked
        if worked and not go_on():
            return True
    return more


def call_for_slots(updates: Updates, go_on: GoOn) -> bool:
    """Send the notices that wait for a slot, as far as there are free ones; True if there may be more to do at once."""
    waiting = updates.unit.deployments.waiting_for_slots(1)
    if not waiting:
        return False
    free = updates.terms.free_slots() if updates.terms.slots else PAGE
    for deployment in updates.unit.deployments.for_slots(min(free, PAGE)):
        device = updates.unit.devices.get(deployment.device)
        called = replace(deployment, slot_rank=0)
        if device is None or not called.is_open:
            updates.unit.deployments.put(called)
        else:
            updates.offer(device, updates.schedule(called), answers_check_in=True, has_slot=True)
        if not go_on():
            return True
    # Who was called and is held by its rollout, or has ended, leaves its slot to the next.
    has_room = not updates.terms.slots or updates.terms.free_slots() > 0
    return has_room and updates.unit.deployments.waiting_for_slots(1) > 0


def _step(updates: Updates, rollout: Rollout, go_on: GoOn) -> bool:
    """Whatever is next for one rollout that runs."""
    wall, plan_, standing = updates.now.wall, rollout.plan, rollout.standing
    if standing.started_wall is None:
        if plan_.start_wall is not None and wall < plan_.start_wall:
            return False
        steering.begin(updates, rollout)
        steering.note(updates, rollout, "rollout.begun")
        return True
    if plan_.deadline_s is not None and wall >= standing.started_wall + plan_.deadline_s:
        steering.cancel(updates, rollout, steering.SELF, "its deadline has passed")
        steering.note(updates, rollout, "rollout.expired", deadline_s=plan_.deadline_s)
        return True
    if rollout.is_planning:
        return _sweep(updates, rollout, go_on)
    if not standing.ends:
        steering.open_stage(updates, rollout)
        steering.note(updates, rollout, "rollout.members", found=updates.unit.members.count(rollout.id))
        return True
    if updates.unit.members.page(rollout.id, end=standing.end, limit=1):
        admitted = _admit(updates, rollout, go_on)
        if admitted:
            return True
    return _judge(updates, rollout)


# --- finding members -----------------------------------------------------------------------------------------


def _sweep(updates: Updates, rollout: Rollout, go_on: GoOn) -> bool:
    """Look at further devices; True while there are some left."""
    after = None
    for device in _devices_left(updates, rollout):
        if rollout.standing.is_resuming:
            _follow(updates, rollout, device)
        if device.state is DeviceState.ACTIVE and rollout.target.holds(device.id, rollout.release):
            updates.reconcile(device)
        if not go_on():
            after = device.id.name
            break
    standing = rollout.standing
    if after is None and standing.is_resuming:
        standing = replace(standing, is_resuming=False)
    steering.store(updates, replace(rollout, sweep=after, standing=standing))
    return True


def _follow(updates: Updates, rollout: Rollout, device: Device) -> None:
    for deployment in updates.unit.deployments.open_of(device.id):
        if deployment.rollout == rollout.id:
            steering.follow(updates, deployment)


def _devices_left(updates: Updates, rollout: Rollout) -> Iterator[Device]:
    """The devices that a rollout may mean and that were not looked at, by name."""
    devices, after = updates.unit.devices, rollout.sweep or ""
    if rollout.target.devices:
        for name in sorted(device.name for device in rollout.target.devices if device.name > after):
            device = devices.get(DeviceId(rollout.product, name))
            if device is not None:
                yield device
        return
    start = DeviceId(rollout.product, after) if after else None
    while page := devices.page(product=rollout.product, after=start, limit=PAGE):
        yield from page
        start = page[-1].id


# --- letting them in -----------------------------------------------------------------------------------------


def _admit(updates: Updates, rollout: Rollout, go_on: GoOn) -> bool:
    """Let members of open stages in, as fast as pace and slots allow; True if there may be more at once."""
    standing = rollout.standing
    members = updates.unit.members
    room = _room(updates)
    counts: Counts | None = None
    done = False
    for place, name in members.page(rollout.id, end=standing.end, limit=PAGE):
        if room <= 0 or (rollout.plan.pace is not None and standing.admits_wall > updates.now.wall):
            break
        done = True
        before = updates.opened
        device = updates.unit.devices.get(DeviceId(rollout.product, name))
        if device is not None and device.state is DeviceState.ACTIVE:
            updates.reconcile(device, admitted=rollout.id)
        members.remove(rollout.id, place, name)
        if updates.opened > before:
            room -= 1
            if rollout.plan.pace is not None:
                counts = counts or updates.unit.deployments.tallies(rollout.id)
                standing = _paced(rollout, standing, counts, updates.now.wall)
        else:
            standing = _smaller(standing, place)
        if not go_on():
            break
    if standing != rollout.standing:
        updates.unit.rollouts.put(replace(rollout, standing=standing))
    if done:
        updates.rollout_changed(rollout.id)
    return done


def _room(updates: Updates) -> int:
    """How many more may be let in now."""
    most = updates.terms.slots * AHEAD_PER_SLOT
    return most - updates.unit.deployments.waiting_for_slots(most) if most else PAGE


def _paced(rollout: Rollout, standing: Standing, counts: Counts, wall: float) -> Standing:
    pace = rollout.plan.pace
    assert pace is not None
    confirmed = sum(number for (_, state, _), number in counts.items() if state is State.CONFIRMED)
    since = max(standing.admits_wall, wall - 1.0)  # what was not used is not saved up
    return replace(standing, admits_wall=next_admission_wall(pace, since, confirmed, standing.sizes[-1]))


def _smaller(standing: Standing, place: int) -> Standing:
    """One member less in the stage of a place: it needs nothing."""
    stage = min(standing.stage_at(place), standing.stage)
    sizes = list(standing.sizes)
    sizes[stage] = max(0, sizes[stage] - 1)
    return replace(standing, sizes=tuple(sizes))


# --- gates ---------------------------------------------------------------------------------------------------


def _judge(updates: Updates, rollout: Rollout) -> bool:
    """Let the last stage's gates decide; True if they did something."""
    standing, stage = rollout.standing, rollout.stage
    assert stage is not None
    rests = standing.waits_for_person or standing.is_through
    if rests and stage.failure is None:
        return False
    found = tally(updates.unit.deployments.tallies(rollout.id), standing.stage, standing.sizes[-1])
    verdict = stage_verdict(stage, found, standing.met_wall, updates.now.wall, forgiven=standing.forgiven)
    name = stage.name or f"stage {standing.stage + 1}"
    cause = f"{name}: {verdict.sentence}"
    match verdict.gate:
        case Gate.FAILED:
            steering.note(updates, rollout, "gate.failed", action=verdict.action, cause=cause)
            _act(updates, rollout, verdict.action, cause)
            return True
        case _ if rests or (not found.size and standing.stage + 1 == len(rollout.plan.stages)):
            pass
        case Gate.MET:
            steering.note(updates, rollout, "gate.met", action=verdict.action, cause=cause)
            _met(updates, rollout, verdict.action)
            return True
        case Gate.SOAKING if standing.met_wall is None:
            steering.store(updates, replace(rollout, standing=replace(standing, met_wall=updates.now.wall)))
        case Gate.NOT_MET if standing.met_wall is not None:
            steering.store(updates, replace(rollout, standing=replace(standing, met_wall=None)))
        case _:
            pass
    return False


def _met(updates: Updates, rollout: Rollout, action: Action | None) -> None:
    standing = rollout.standing
    if standing.stage + 1 == len(rollout.plan.stages):
        steering.store(updates, replace(rollout, standing=replace(standing, is_through=True)))
    elif action is Action.WAIT:
        steering.store(updates, replace(rollout, standing=replace(standing, waits_for_person=True)))
    else:
        steering.open_stage(updates, rollout)


def _act(updates: Updates, rollout: Rollout, action: Action | None, cause: str) -> None:
    back_to = rollout.plan.roll_back_to
    if action is Action.ROLL_BACK and back_to is not None:
        target = updates.unit.releases.get(back_to)
        if target is not None and target.state.value == "active":
            steering.roll_back(updates, rollout, steering.SELF, cause, target)
            return
        cause += f"; {back_to} is withdrawn, so nothing was rolled back"
    if action is Action.PAUSE:
        steering.pause(updates, rollout, steering.SELF, cause)
    else:
        steering.cancel(updates, rollout, steering.SELF, cause)


# --- what the end means for each deployment ------------------------------------------------------------------


def _end_some(updates: Updates, rollout: Rollout, go_on: GoOn) -> bool:
    """Take a canceled rollout from further devices, or let them go on to their end; True while some are left."""
    goes_on = rollout.standing.is_resuming
    page = partial(updates.unit.deployments.of_rollout, rollout.id, open_only=goes_on)
    for deployment in page(after=_last(rollout), limit=PAGE):
        if goes_on:
            steering.follow(updates, deployment)
        else:
            steering.release_device(updates, rollout, deployment, _why_canceled(rollout))
        rollout = replace(rollout, sweep=deployment.id)
        if not go_on():
            updates.unit.rollouts.put(rollout)
            return True
    more = bool(page(after=_last(rollout), limit=1))
    if not more:
        rollout = replace(rollout, sweep=None, standing=replace(rollout.standing, is_resuming=False))
    steering.store(updates, rollout)
    return more


def _drop_some(updates: Updates, rollout: Rollout, go_on: GoOn) -> bool:
    """Cancel further deployments of withdrawn stepping stones, whatever the rollout does; always True."""
    after = rollout.standing.dropping
    page = updates.unit.deployments.of_rollout(
        rollout.id, open_only=True, after=DeploymentId(after) if after else None, limit=PAGE
    )
    for deployment in page:
        steering.drop(updates, deployment)
        after = deployment.id
        if not go_on():
            break
    standing = replace(rollout.standing, dropping=after if page else None)
    updates.unit.rollouts.put(replace(rollout, standing=standing))
    return True


def _why_canceled(rollout: Rollout) -> str:
    return f"rollout canceled: {rollout.cause}" if rollout.cause else f"rollout canceled by {rollout.changed_by}"


def _last(rollout: Rollout) -> DeploymentId | None:
    return DeploymentId(rollout.sweep) if rollout.sweep else None
