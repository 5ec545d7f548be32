"""What should happen to one device: a pure, repeatable step. `updates` carries it out inside a unit of work.

Running it twice on the same records gives the same answer, so a restart at any moment changes nothing.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

from ota_bridge.core.catalog import Release
from ota_bridge.core.deployment import Deployment, DeploymentEvent, State
from ota_bridge.core.fleet import Assignment, Device
from ota_bridge.core.records import record
from ota_bridge.core.rollout import needs, paths, policy
from ota_bridge.core.rollout.model import Rollout, RolloutState
from ota_bridge.core.rollout.paths import Route
from ota_bridge.core.rollout.plan import FAILURES
from ota_bridge.core.rollout.policy import Obstacle, Retries, runs_part
from ota_bridge.core.values import ReleaseId, RolloutId


@record
class Open:
    """Open another attempt, with no offer before `not_before_wall`."""

    component: str
    release: Release
    attempt: int
    not_before_wall: float | None


@record
class Supersede:
    """This open deployment is of a release that is no longer wanted."""

    deployment: Deployment
    cause: str


@record
class Blocked:
    """The component has an assignment that cannot be carried out."""

    component: str
    release: ReleaseId
    obstacle: Obstacle


Step = Open | Supersede | Blocked


def assignments(
    device: Device,
    rollouts: Sequence[Rollout],
    releases: Mapping[ReleaseId, Release],
    takes: Callable[[Rollout], bool],
) -> Mapping[str, Assignment]:
    """The standing assignments of a device: per component the newest running rollout that takes it in and fits it.

    `rollouts`: all of the product, oldest first; those that are urgent come after all that are not. An assignment stays
    when nothing newer takes its place. `takes` is asked last, because it may have to evaluate a query.
    """
    assigned = dict(device.assigned)
    places = precedence(rollouts)
    known = {rollout.id: rollout for rollout in rollouts}
    for rollout in map(known.__getitem__, places) if len(rollouts) > 1 else rollouts:
        release = releases.get(rollout.release) if rollout.state is RolloutState.RUNNING else None
        if release is None:
            continue
        wanted = [
            component
            for component, part in release.parts.items()
            if overtakes(device, component, rollout, assigned.get(component), known, releases)
            and policy.fits(device, release, part) is None
        ]
        if wanted and takes(rollout):
            assigned |= dict.fromkeys(wanted, Assignment(release=release.id, rollout=rollout.id))
    return assigned


def precedence(rollouts: Sequence[Rollout]) -> Mapping[RolloutId, int]:
    """The place of each rollout of a product, from the lowest: the higher overtakes. They come oldest first."""
    ranked = rollouts if len(rollouts) == 1 else sorted(rollouts, key=lambda rollout: rollout.plan.is_urgent)
    return {rollout.id: place for place, rollout in enumerate(ranked)}


def overtakes(
    device: Device,
    component: str,
    rollout: Rollout,
    held: Assignment | None,
    known: Mapping[RolloutId, Rollout],
    releases: Mapping[ReleaseId, Release],
) -> bool:
    """True if a rollout may take the place of what a component is assigned. `known`: all of the product, oldest first.

    The newer wins, but over one that is urgent only once that has nothing more to bring to the device. What the device
    has from a newer one no older takes away.
    """
    holder = None if held is None or held.rollout is None else known.get(held.rollout)
    if holder is None or holder.id == rollout.id:
        return holder is None
    challenges, holds = (_presses(device, component, one, releases) for one in (rollout, holder))
    ages = list(known)
    if ages.index(rollout.id) > ages.index(holder.id):
        return challenges or not holds
    has = releases.get(holder.release)
    part = None if has is None else has.parts.get(component)
    return challenges and not holds and not (part is not None and runs_part(device, part))


def _presses(device: Device, component: str, rollout: Rollout, releases: Mapping[ReleaseId, Release]) -> bool:
    """True if a rollout is urgent and goes on, and the device could still take what it brings."""
    release = releases.get(rollout.release)
    if not rollout.plan.is_urgent or rollout.state is RolloutState.CANCELED or release is None:
        return False
    part = release.parts.get(component)
    return part is not None and policy.fits(device, release, part) is None and not policy.is_needed(device, part)


def steps(
    device: Device,
    releases: Mapping[ReleaseId, Release],
    past: Sequence[Deployment],
    retries: Callable[[RolloutId | None], Retries],
    *,
    canceled: Collection[RolloutId] = (),
    is_known: Callable[[str], bool] = lambda _: True,
    route: Route = paths.direct,
) -> list[Step]:
    """What to do so that the device comes to run what it is assigned. `past`: its deployments, newest first.

    The assignment of a canceled rollout stands only for a device that it had reached. `is_known`: whether what
    it runs in a component is in the catalog. `route`: the path of a component, whose first step is what is opened.
    """
    found: list[Step] = []
    if policy.may_take_part(device) is not None:
        return found
    running = {deployment.component: deployment for deployment in past if deployment.is_open}
    for component, assignment in sorted(device.assigned.items()):
        current = running.get(component)
        if current is not None:
            # A rollout opens stepping stones beside its own release.
            same_rollout = current.rollout == assignment.rollout
            wanted = same_rollout and (current.release == assignment.release or current.rollout is not None)
            if not wanted and current.state is not State.CANCELING and current.can(DeploymentEvent.CANCEL):
                found.append(Supersede(deployment=current, cause=f"superseded by {assignment.release}"))
            continue
        release = releases.get(assignment.release)
        if release is None or component not in release.parts:
            continue
        if assignment.rollout in canceled and not any(
            (attempt.rollout, attempt.release) == (assignment.rollout, assignment.release)
            and attempt.state is State.CONFIRMED
            for attempt in past
        ):
            continue
        obstacle, release = next_step(device, component, release, releases, route, is_known=is_known(component))
        found.extend(_attempt(device, component, release, obstacle, past, retries))
    return found


def next_step(
    device: Device,
    component: str,
    target: Release,
    releases: Mapping[ReleaseId, Release],
    route: Route,
    *,
    is_known: bool,
) -> tuple[Obstacle | None, Release]:
    """The release that comes next on the way to what is assigned, and what keeps it back, if anything does."""
    part = target.parts[component]
    obstacle = policy.fits(device, target, part) or policy.is_needed(device, part, is_known=is_known)
    if obstacle is not None:
        return obstacle, target
    obstacle = needs.obstacle(device, part, releases)
    if obstacle is Obstacle.LACKS_COMPONENT:
        return obstacle, target
    found = route(device, component, target)
    if isinstance(found, paths.NoPath):
        return Obstacle.NO_PATH, target
    step = found.steps[0]
    return needs.obstacle(device, step.parts[component], releases), step


def _attempt(
    device: Device,
    component: str,
    release: Release,
    obstacle: Obstacle | None,
    past: Sequence[Deployment],
    retries: Callable[[RolloutId | None], Retries],
) -> list[Step]:
    assignment = device.assigned[component]
    if obstacle is Obstacle.RUNS_IT:
        return []
    earlier = [
        attempt
        for attempt in past
        if attempt.component == component and (attempt.release, attempt.rollout) == (release.id, assignment.rollout)
    ]
    not_before_wall: float | None = None
    if obstacle is None:
        obstacle, not_before_wall = retries(assignment.rollout).verdict(
            earlier, failures_elsewhere(past, component, assignment)
        )
    if obstacle is not None:
        return [Blocked(component=component, release=release.id, obstacle=obstacle)]
    attempt = 1 + max((deployment.attempt for deployment in earlier), default=0)
    return [Open(component=component, release=release, attempt=attempt, not_before_wall=not_before_wall)]


def failures_elsewhere(past: Sequence[Deployment], component: str, assignment: Assignment) -> int:
    """How often other rollouts of the same release failed on the device, for the quarantine."""
    return sum(
        attempt.component == component
        and attempt.release == assignment.release
        and attempt.rollout != assignment.rollout
        and attempt.state in FAILURES
        for attempt in past
    )
