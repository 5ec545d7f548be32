"""What is done to a rollout as a whole, by operators and by its own gates: hold, go on, open a stage, end, go back.

Each stores the rollout with the cause, lets its open deployments follow, and has its summary published.
"""

from collections.abc import Iterator
from math import ceil
from typing import Final

from ota_bridge.core.audit import SYSTEM, audit
from ota_bridge.core.catalog import Release, ReleaseState
from ota_bridge.core.deployment import OPEN, TRANSITIONS, Deployment, DeploymentEvent, State
from ota_bridge.core.errors import Conflict
from ota_bridge.core.messages import CheckInRequest, GrantState, RolloutHeld
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.core.records import replace
from ota_bridge.core.rollout.gates import tally
from ota_bridge.core.rollout.model import PLACES_END, TIER, Rollout, RolloutState, Target
from ota_bridge.core.rollout.plan import Plan, Stage
from ota_bridge.core.updates import Updates
from ota_bridge.core.values import DeploymentId, ReleaseId

SELF: Final = SYSTEM
"""Who acts where a gate or the clock does."""
AT_ONCE_MAX: Final = 50
"""So many deployments of a canceled rollout are canceled with it; those of more devices follow in slices."""
_PAGE: Final = 100
"""How many deployments are read at once."""
_CANCELABLE: Final = frozenset(
    {state for state in OPEN if DeploymentEvent.CANCEL in TRANSITIONS[state]} - {State.CANCELING}
)
_AGAIN: Final = frozenset({State.OFFERED, State.DOWNLOADING, State.DOWNLOADED, State.DEFERRED})


def deployments_of(updates: Updates, rollout: Rollout, *, open_only: bool = False) -> Iterator[Deployment]:
    """The latest attempts of a rollout, page by page."""
    after: DeploymentId | None = None
    while page := updates.unit.deployments.of_rollout(rollout.id, open_only=open_only, after=after, limit=_PAGE):
        yield from page
        after = page[-1].id


def store(updates: Updates, rollout: Rollout) -> Rollout:
    """Keep it, and have it told; where it is held or no longer, the block plane answers so for all of it at once."""
    before = updates.unit.rollouts.get(rollout.id)
    updates.unit.rollouts.put(rollout)
    updates.rollout_changed(rollout.id)
    if before is not None and hold_of(updates.unit, before) is not hold_of(updates.unit, rollout):
        hold(updates, rollout)
    return rollout


def hold(updates: Updates, rollout: Rollout) -> None:
    """Have the block plane answer for all of a rollout as it stands now."""
    updates.outputs.append(RolloutHeld(rollout=rollout.id, state=hold_of(updates.unit, rollout)))


def hold_of(unit: UnitOfWork, rollout: Rollout) -> GrantState | None:
    """What the block plane answers for the whole of a rollout; None: what each grant says."""
    release = unit.releases.get(rollout.release)
    if release is not None and release.state is ReleaseState.WITHDRAWN:
        return GrantState.WITHDRAWN
    is_ending = rollout.state is RolloutState.CANCELED and rollout.is_planning and not rollout.standing.is_resuming
    return GrantState.PAUSED if is_ending or rollout.state is RolloutState.PAUSED else None


def holds(unit: UnitOfWork) -> list[tuple[Rollout, GrantState | None]]:
    """The same of every rollout."""
    return [(rollout, hold_of(unit, rollout)) for rollout in unit.rollouts.all()]


def note(updates: Updates, rollout: Rollout, what: str, **detail: object) -> None:
    """What it did by itself goes into the audit log, as commands do."""
    audit(updates.unit, updates.now, what, subject=f"rollout {rollout.id}", detail=detail)


def begin(updates: Updates, rollout: Rollout) -> Rollout:
    """It starts now: from here on its devices are looked at."""
    wall = updates.now.wall
    standing = replace(rollout.standing, started_wall=wall, admits_wall=wall)
    if rollout.plan.stages[0].is_rest:
        standing = standing.opened(PLACES_END, 0, wall)
    return store(updates, replace(rollout, standing=standing, sweep=""))


def pause(updates: Updates, rollout: Rollout, actor: str, cause: str = "") -> Rollout:
    """Hold it: no offers, no blocks, no installs; nothing is lost.

    However many devices it has, none is touched: each deployment finds its rollout held when its time comes.
    """
    return store(updates, rollout.becomes(RolloutState.PAUSED, updates.now.wall, actor, cause))


def resume(updates: Updates, rollout: Rollout, actor: str) -> Rollout:
    """Go on. Failures that its gates have seen are seen by a person now, and count no more.

    What is open follows (`follow`) in slices, as the devices are looked at again.
    """
    running = rollout.becomes(RolloutState.RUNNING, updates.now.wall, actor)
    standing = replace(running.standing, is_resuming=running.standing.started_wall is not None)
    if rollout.stage is not None and rollout.stage.failure is not None:
        found = tally(updates.unit.deployments.tallies(rollout.id), standing.stage, 0)
        standing = replace(standing, forgiven=found.failures(rollout.stage.failure.kinds))
    sweep = running.sweep if standing.is_resuming else None
    return store(updates, replace(running, standing=standing, sweep=sweep))


def follow(updates: Updates, deployment: Deployment) -> None:
    """An open deployment of a rollout that was resumed: its times start again, and its device is asked to come."""
    if deployment.state in _AGAIN:
        deployment = replace(deployment, changed_wall=updates.now.wall, resent=False)
    updates.schedule(deployment)
    updates.grant(deployment.device)
    device = updates.unit.devices.get(deployment.device)
    if updates.speaking.of(device) is not None:
        updates.speaking.occasions.add(deployment.device, is_woken=True)
    elif device is not None and device.proto > 0:
        updates.outputs.append(CheckInRequest(device=device.id, encoding=device.encoding))


def cancel(updates: Updates, rollout: Rollout, actor: str, cause: str = "") -> Rollout:
    """End it. What is open is canceled in slices (`sweep` says how far that has come), or at once by `cancel_open`."""
    canceled = rollout.becomes(RolloutState.CANCELED, updates.now.wall, actor, cause)
    updates.unit.members.clear(rollout.id)
    return store(updates, _ending(canceled, ""))


def cancel_open(updates: Updates, rollout: Rollout, cause: str) -> int:
    """Cancel what is open of a canceled rollout and has not begun to install; how many that are.

    Those of many devices are left to slices, as the rollout then says.
    """
    found = updates.unit.deployments.tallies(rollout.id)
    number = sum(count for (_, state, _), count in found.items() if state in _CANCELABLE)
    last: DeploymentId | None = None
    for done, deployment in enumerate(deployments_of(updates, rollout)):
        if done == AT_ONCE_MAX:
            store(updates, _ending(rollout, last))
            return number
        release_device(updates, rollout, deployment, cause)
        last = deployment.id
    store(updates, _ending(rollout, None))
    return number


def _ending(rollout: Rollout, sweep: str | None) -> Rollout:
    """It is canceled up to here, also what was to go on to its end."""
    return replace(rollout, sweep=sweep, standing=replace(rollout.standing, is_resuming=False))


def finish(updates: Updates, rollout: Rollout, actor: str, cause: str = "") -> Rollout:
    """Let nobody else in; what runs goes on to its end.

    What was held follows (`follow`) in slices, and so does what waited for sleepers without end: its time begins now.
    """
    canceled = rollout.becomes(RolloutState.CANCELED, updates.now.wall, actor, cause)
    updates.unit.members.clear(rollout.id)
    waits = rollout.plan.timeouts.sleepers_wait
    if waits or rollout.state is RolloutState.PAUSED or rollout.standing.is_resuming:
        canceled = replace(canceled, sweep="", standing=replace(canceled.standing, is_resuming=True))
    return store(updates, canceled)


def release_device(updates: Updates, rollout: Rollout, deployment: Deployment, cause: str) -> bool:
    """Take a rollout's assignment from a device that it has not reached, and cancel what is open; True if that was."""
    device = updates.unit.devices.get(deployment.device)
    if device is None:
        return False
    held = device.assigned.get(deployment.component)
    arrived = deployment.state is State.CONFIRMED and deployment.release == rollout.release
    if not arrived and held is not None and held.rollout == rollout.id:
        device = device.assign(deployment.component, None)
        updates.unit.devices.put(device)
    return deployment.is_open and updates.cancel(device, deployment, cause)


def cancel_stones(updates: Updates, rollout: Rollout, stone: ReleaseId, cause: str) -> tuple[int, bool]:
    """Cancel what is open of another release than the rollout's, on the way to that; its assignments stay.

    Returns (how many these are, whether more may follow): where much is open, the rest is looked at in slices (`drop`).
    """
    found = updates.unit.deployments.tallies(rollout.id)
    if not any(stage < 0 and state in _CANCELABLE for stage, state, _ in found):
        return 0, False
    canceled = 0
    last: DeploymentId | None = None
    for done, deployment in enumerate(deployments_of(updates, rollout, open_only=True)):
        if done == AT_ONCE_MAX:
            store(updates, replace(rollout, standing=replace(rollout.standing, dropping=last)))
            return canceled, True
        canceled += drop(updates, deployment, cause if deployment.release == stone else None)
        last = deployment.id
    return canceled, False


def drop(updates: Updates, deployment: Deployment, cause: str | None = None) -> bool:
    """Cancel an open deployment whose release nobody may have any more; False if it is another, or too late."""
    device = updates.unit.devices.get(deployment.device)
    is_withdrawn = updates.release_of(deployment).state is ReleaseState.WITHDRAWN
    if device is None or not is_withdrawn or deployment.state is State.CANCELING:
        return False
    return updates.cancel(device, deployment, cause or f"{deployment.release} is withdrawn")


def open_stage(updates: Updates, rollout: Rollout) -> Rollout:
    """Open the next stage; raises Conflict where there is none."""
    standing, stages = rollout.standing, rollout.plan.stages
    if standing.stage + 1 >= len(stages):
        raise Conflict(f"rollout {rollout.id}: its last stage is open")
    stage = stages[standing.stage + 1]
    end = _end_of(updates, rollout, stage)
    size = updates.unit.members.count(rollout.id, start=standing.end, end=end)
    return store(updates, replace(rollout, standing=standing.opened(end, size, updates.now.wall)))


def _end_of(updates: Updates, rollout: Rollout, stage: Stage) -> int:
    """The first place after a stage's: all of its query, so many devices, or up to a share of all there are."""
    standing, members = rollout.standing, updates.unit.members
    if stage.is_rest:
        return PLACES_END
    if stage.where:
        return (standing.stage + 2) * TIER
    wanted = stage.devices or 0
    if stage.percent is not None:
        reached = sum(standing.sizes)
        total = reached + members.count(rollout.id, start=standing.end)
        wanted = max(0, ceil(total * stage.percent / 100) - reached)
    if not wanted:
        return standing.end
    last = members.nth(rollout.id, standing.end, wanted - 1)
    if last is None:  # it has fewer: all of them
        left = members.count(rollout.id, start=standing.end)
        last = members.nth(rollout.id, standing.end, left - 1) if left else None
    return standing.end if last is None else last + 1


def roll_back(updates: Updates, rollout: Rollout, actor: str, cause: str, target: Release) -> Rollout:
    """End a rollout and bring another release, urgently, to all devices that run what it brought."""
    if rollout.state is not RolloutState.CANCELED:
        cancel(updates, rollout, actor, cause)
    release = updates.unit.releases.get(rollout.release)
    assert release is not None, "a rollout's release is never deleted"
    parts = [
        f'("{name}" in versions && versions["{name}"] == "{part.version}")'
        for name, part in sorted(release.parts.items())
        if name in target.parts
    ]
    back = Rollout(
        id=updates.unit.new_rollout_id(),
        release=target.id,
        product=rollout.product,
        target=Target(where=" || ".join(parts)),
        state=RolloutState.RUNNING,
        created_wall=updates.now.wall,
        created_by=actor,
        changed_wall=updates.now.wall,
        changed_by=actor,
        plan=Plan(is_urgent=True),
        cause=f"rolls back {rollout.id} ({release.id}): {cause}",
    )
    return begin(updates, back)


def successor_of_former(updates: Updates, rollout: Rollout) -> Release:
    """The release that has the images which a rollout's devices ran before, with a higher seq.

    Raises Conflict that says what the author has to sign where there is none yet.
    """
    release = updates.unit.releases.get(rollout.release)
    assert release is not None, "a rollout's release is never deleted"
    former = _former(updates, rollout)
    if former is None:
        raise Conflict(
            f"rollout {rollout.id}: what its devices ran before is not in the catalog; name a release (--to)"
        )
    wanted = {name: part.manifest for name, part in former.parts.items() if name in release.parts}
    for other in reversed(updates.unit.releases.all(product=rollout.product)):
        parts = {name: other.parts[name].manifest for name in wanted if name in other.parts}
        same = parts.keys() == wanted.keys() and all(parts[name].sha256 == wanted[name].sha256 for name in wanted)
        if same and not hindrance_to_roll_back(updates, release, other.id):
            return other
    needs = [
        f"{name}: the image of {former.id} (sha256 {manifest.sha256.hex()}) "
        f"with seq {release.parts[name].manifest.seq + 1} or higher"
        for name, manifest in sorted(wanted.items())
    ]
    raise Conflict(
        f"rollout {rollout.id} cannot be rolled back yet: its devices ran {former.id}, and refuse a lower seq; "
        f"the author has to sign again, as another version, {'; '.join(needs)}"
    )


def _former(updates: Updates, rollout: Rollout) -> Release | None:
    """What most devices of a rollout ran before."""
    counts: dict[str, int] = {}
    for deployment in deployments_of(updates, rollout):
        counts[deployment.old_version] = counts.get(deployment.old_version, 0) + 1
    for version in sorted(counts, key=lambda one: -counts[one]):
        for release in updates.unit.releases.all(product=rollout.product):
            if any(part.version == version for part in release.parts.values()):
                return release
    return None


def hindrance_to_roll_back(updates: Updates, release: Release, back_to: ReleaseId) -> str:
    """Why a release cannot take the place of another that failed, or nothing."""
    target = updates.unit.releases.get(back_to)
    if target is None:
        return f"there is no release {back_to}"
    if target.product != release.product:
        return f"{back_to} is not a {release.product}"
    if target.state.value == "withdrawn":
        return f"{back_to} is withdrawn"
    for name, part in sorted(release.parts.items()):
        other = target.parts.get(name)
        if other is not None and other.manifest.counter <= part.manifest.counter:
            return (
                f"{name} of {back_to} has seq {other.manifest.seq}, which devices with {release.id} (seq "
                f"{part.manifest.seq}) refuse; sign its image again, as another version, with seq "
                f"{part.manifest.seq + 1} or higher"
            )
    if not set(target.parts) & set(release.parts):
        return f"{back_to} has no component of {release.id}"
    return ""
