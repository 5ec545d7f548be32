"""Why a device is where it is: one code and one sentence, from the records alone (`why DEVICE`)."""

from dataclasses import dataclass, replace
from typing import Any, Final, assert_never

from ota_bridge.core import journey
from ota_bridge.core.catalog import Release, ReleasePart, ReleaseState
from ota_bridge.core.conversation import UNPROVEN
from ota_bridge.core.delivery import is_served
from ota_bridge.core.deployment import OPEN, Deployment, State
from ota_bridge.core.errors import BlockRefusal
from ota_bridge.core.explain_rollout import line_reason
from ota_bridge.core.fleet import Assignment, Device
from ota_bridge.core.known import is_in_catalog, is_known
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.core.rollout import policy
from ota_bridge.core.rollout.model import Rollout, RolloutState
from ota_bridge.core.rollout.planner import failures_elsewhere
from ota_bridge.core.rollout.policy import Obstacle
from ota_bridge.core.silent import is_silent
from ota_bridge.core.terms import WINDOW_CAUSE, Terms
from ota_bridge.core.updates import PAST_MAX, WAITING
from ota_bridge.core.values import DeviceId, Now, Share
from ota_bridge.core.views import deployment_view, iso, percent_of

COMES_BACK_S: Final = 60
"""A device that waits is believed to do so until this long after twice the time it was told."""
IN_VAIN_S: Final = 600
"""So long after a device asked for what is not open, `why` tells of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """`code` for machines, `sentence` for people, `facts` behind both."""

    device: DeviceId
    code: str
    sentence: str
    facts: dict[str, Any]


def why(terms: Terms, device: Device) -> Why:
    """The one reason, most pressing first."""
    unit, now = terms.unit, terms.now
    open_now = unit.deployments.open_of(device.id)
    latest = unit.deployments.recent_of(device.id, limit=1)
    chosen = open_now[0] if open_now else (latest[0] if latest else None)
    code, sentence = _reason(terms, device, chosen)
    if is_silent(device, terms.pacing.silent_after_s, now.wall):
        heard = _ago(now.wall - max(device.last_report_wall or 0.0, device.last_block_wall or 0.0))
        code, sentence = "silent", f"it has not been heard for {heard}; when it comes back: {sentence}"
    notes = [*_earlier_notes(unit, chosen), *_notes(device, now)]
    facts: dict[str, Any] = {
        "last_report": iso(device.last_report_wall),
        "last_offer": iso(device.last_offer_wall),
        "last_block": iso(device.last_block_wall),
        "refusals": device.trouble.refusals,
        "last_refusal": device.trouble.refusal.name.lower() if device.trouble.refusal else None,
        "waits_for": device.trouble.waits_for,
        "retry_after_s": device.trouble.retry_after_s or None,
        "rejected": device.trouble.rejected,
        "rejected_reason": device.trouble.rejected_reason or None,
        "clashes": device.trouble.clashes,
        "deployment": deployment_view(chosen) if chosen else None,
    }
    return Why(
        device=device.id, code=code, sentence=f"{device.id}: {sentence}{''.join(f' ({note})' for note in notes)}.",
        facts=facts,
    )  # fmt: skip


def _earlier_notes(unit: UnitOfWork, deployment: Deployment | None) -> list[str]:
    """How the attempt before an open one ended, if not well."""
    if deployment is None or not deployment.is_open or deployment.attempt == 1:
        return []
    assignment = Assignment(release=deployment.release, rollout=deployment.rollout)
    return [
        f"attempt {earlier.attempt} ended {earlier.state}: {earlier.cause}"
        for earlier in _attempts(unit, deployment.device, deployment.component, assignment)
        if earlier.attempt == deployment.attempt - 1 and earlier.state is not State.CONFIRMED
    ]


def _notes(device: Device, now: Now) -> list[str]:
    """What was odd lately, beside the reason."""
    notes: list[str] = []
    due = device.next_check_in_wall
    if due is not None and now.wall > due + 60:
        notes.append(f"silent: it announced a check-in {_ago(now.wall - due)} ago and did not come")
    if device.trouble.rejected_wall is not None and now.wall - device.trouble.rejected_wall < 3600:  # noqa: PLR2004
        notes.append(
            f"{_counted(device.trouble.rejected, 'message')} rejected, the last: {device.trouble.rejected_reason}"
        )
    notes += _refused_notes(device, now)
    if device.trouble.clashes:
        notes.append(
            f"{_counted(device.trouble.clashes, 'report')} reused the key of another: is its boot counter kept?"
        )
    if device.trouble.keyset_refused:
        notes.append(f"it refused the step after keyset {device.keyset}: {device.trouble.keyset_refused}")
    return notes


def _refused_notes(device: Device, now: Now) -> list[str]:
    """What it asked for in vain, as long as it has not been served since."""
    trouble = device.trouble
    if trouble.refusal_wall is None or now.wall - trouble.refusal_wall >= IN_VAIN_S:
        return []
    if trouble.refusal is BlockRefusal.NOT_OPEN:
        return ["it asks for blocks of something that is not open for it, and is told to stop"]
    is_served_since = device.last_block_wall is not None and device.last_block_wall >= trouble.refusal_wall
    if trouble.refusal is BlockRefusal.BUSY and trouble.waits_for is None and not is_served_since:
        told = f"told busy {_ago(now.wall - trouble.refusal_wall)} ago"
        return [f"{told}: it asks too fast, or the daemon's log says what is wrong"]
    return []


def _reason(terms: Terms, device: Device, deployment: Deployment | None) -> tuple[str, str]:
    obstacle = policy.may_take_part(device)
    if obstacle is not None:
        return obstacle.value, _obstacle_sentence(obstacle, device)
    if deployment is not None and deployment.is_open:
        return _open_reason(terms, device, deployment)
    waiting = line_reason(terms, device)
    if waiting is not None:
        return waiting
    for component, assignment in sorted(device.assigned.items()):
        found = _assigned_reason(terms, device, component, assignment)
        if found is not None:
            return found
    if deployment is not None:
        return _ended_reason(deployment, terms.now)
    return _unassigned_reason(terms, device)


def _open_reason(terms: Terms, device: Device, deployment: Deployment) -> tuple[str, str]:
    unit, now = terms.unit, terms.now
    way = journey.told(unit, device, deployment)
    what = f"{deployment.component} {deployment.release}" + (f" ({way})" if way else "")
    since = _ago(now.wall - deployment.changed_wall)
    rollout = unit.rollouts.get(deployment.rollout) if deployment.rollout else None
    if rollout is not None and rollout.state is RolloutState.PAUSED and deployment.state is not State.CANCELING:
        return "paused", f"rollout {rollout.id} of {what} was paused by {rollout.changed_by}"
    if deployment.slot_rank:
        wanted = f"one of {terms.slots} download slots" if terms.slots else "its turn"  # the caps were just lifted
        return "waits_for_slot", f"{what} waits for {wanted}"
    if deployment.cause.startswith(WINDOW_CAUSE) and (deployment.retry_wall or 0.0) > now.wall:
        opens = _ago((deployment.retry_wall or now.wall) - now.wall)
        return "waits_for_window", f"{what} {deployment.cause}, which opens for it in {opens}"
    if is_served(deployment) and deployment.state is not State.DOWNLOADED:
        waiting = _waiting_reason(unit, device, deployment, what, now)
        if waiting is not None:
            return waiting
    match deployment.state:
        case State.QUEUED:
            return _queued_reason(device, deployment, what, now)
        case State.OFFERED:
            heard = _ago(now.wall - (device.last_report_wall or deployment.created_wall))
            text = f"{what} was offered {_times(deployment.offers)}, the device has not asked for a block"
            return "offered", f"{text}; it was last heard {heard} ago"
        case State.DEFERRED:
            wait = max(0.0, (deployment.retry_wall or now.wall) - now.wall)
            return "deferred", f"the device put {what} off; it is offered again in {_ago(wait)}"
        case State.DOWNLOADING if deployment.stalled:
            last = _ago(now.wall - (deployment.last_block_wall or deployment.changed_wall))
            text = f"the download of {what} has stalled at {percent_of(deployment)} %"
            return "stalled", f"{text}: the last block was asked for {last} ago"
        case State.DOWNLOADING:
            return "downloading", f"it is downloading {what}: {percent_of(deployment)} %, for {since}"
        case State.DOWNLOADED:
            return "downloaded", f"it has all of {what} and has not begun to install it for {since}"
        case State.INSTALLING:
            return "installing", f"it has been installing {what} for {since}; the next boot decides"
        case State.TRIAL:
            return "trial", f"it runs {what} on trial for {since} and has not confirmed it"
        case State.CANCELING:
            return "canceling", f"{what} was canceled ({deployment.cause}); the device has not answered for {since}"
        case _:
            return "ended", f"{what} ended {deployment.state}"


def _waiting_reason(
    unit: UnitOfWork, device: Device, deployment: Deployment, what: str, now: Now
) -> tuple[str, str] | None:
    """A device that asks and was told to come back, because a fleet-wide cap is reached."""
    trouble, limits = device.trouble, unit.limits.get().limits
    if trouble.waits_for is None or trouble.refusal_wall is None:
        return None
    asked_s = now.wall - trouble.refusal_wall
    is_served_since = device.last_block_wall is not None and device.last_block_wall >= trouble.refusal_wall
    if is_served_since or asked_s > 2 * trouble.retry_after_s + COMES_BACK_S:
        return None
    match trouble.waits_for:
        case Share.SLOT:
            cap, code, wanted = limits.downloads, "waits_for_slot", f"one of {limits.downloads} download slots"
        case Share.BLOCKS:
            cap, code, wanted = limits.blocks_per_s, "waits_for_share", f"its share of {limits.blocks_per_s} blocks/s"
        case Share.BYTES:
            cap, code, wanted = limits.bytes_per_s, "waits_for_share", f"its share of {limits.bytes_per_s} bytes/s"
        case _ as unreachable:
            assert_never(unreachable)
    if not cap:
        return None
    had = f"{what}, of which it has {percent_of(deployment)} %, " if deployment.has_begun else f"{what} "
    told = f"it asked {_ago(asked_s)} ago and was told to come back after {trouble.retry_after_s} s"
    return code, f"{had}waits for {wanted}; {told}"


def _queued_reason(device: Device, deployment: Deployment, what: str, now: Now) -> tuple[str, str]:
    if deployment.retry_wall is not None and deployment.retry_wall > now.wall:
        wait = _ago(deployment.retry_wall - now.wall)
        return "waiting", f"attempt {deployment.attempt} of {what} waits {wait} more before it is offered"
    if device.boot is None and device.proto > 0:
        return "queued", f"{what} waits for the device's next check-in"
    return "queued", f"{what} is {WAITING}" if deployment.cause == WAITING else f"{what} waits: {deployment.cause}"


def _assigned_reason(terms: Terms, device: Device, component: str, assignment: Assignment) -> tuple[str, str] | None:
    unit = terms.unit
    release = unit.releases.get(assignment.release)
    if release is None or component not in release.parts:
        return None
    part = release.parts[component]
    misfit = policy.fits(device, release, part)
    installed = device.parts.get(component)
    known = is_known(unit, device.id.product, component, installed)
    need = policy.is_needed(device, part, is_known=known) if installed is not None else None
    if need is Obstacle.RUNS_IT and misfit in {None, Obstacle.WITHDRAWN}:
        attempts = _attempts(unit, device.id, component, assignment)
        claim = next((f": {one.cause}" for one in attempts[:1] if one.cause.endswith(UNPROVEN)), "")
        return "confirmed", _runs_sentence(device, release, component) + claim
    obstacle, step = misfit or need, release
    last: Deployment | None = None
    if obstacle is None:
        rollout = unit.rollouts.get(assignment.rollout) if assignment.rollout else None
        attempts = _attempts(unit, device.id, component, assignment)
        arrived = any(attempt.state is State.CONFIRMED for attempt in attempts)
        if rollout is not None and rollout.state is RolloutState.CANCELED and not arrived:
            return (
                "rollout_canceled",
                f"rollout {rollout.id} of {component} {release.id} was canceled before it had arrived",
            )
        obstacle, step = journey.next_step(unit, device, component, release, is_known=known)
    if obstacle is None:
        attempts = _attempts(unit, device.id, component, replace(assignment, release=step.id))
        past = [attempt for attempt in attempts if attempt.state not in OPEN]
        every = unit.deployments.recent_of(device.id, limit=PAST_MAX)
        elsewhere = failures_elsewhere(every, component, assignment)
        obstacle, _ = terms.tries_of(assignment.rollout).verdict(past, elsewhere)
        last = past[0] if past else None
    if (
        obstacle is not None
        and obstacle in {Obstacle.ANTI_ROLLBACK, Obstacle.RUNS_NEWER}
        and installed is not None
        and not is_in_catalog(unit, device.id.product, component, installed)
    ):
        return obstacle.value, _ahead_sentence(device, release, part)
    if obstacle is None:
        way = journey.told_next(unit, device, component, release)
        what = f"{component} {step.id}" + (f" ({way})" if way else "")
        return "waiting", f"{what} is assigned and opens with the next check-in"
    sentence = journey.obstacle_sentence(unit, device, component, release, step, obstacle) or _obstacle_sentence(
        obstacle, device
    )
    if last is not None:
        sentence = f"{component} {step.id} ended {last.state} ({last.cause}) and {sentence}"
    else:
        sentence = f"{component} {release.id} does not go there: {sentence}"
    return obstacle.value, sentence


def _ahead_sentence(device: Device, release: Release, part: ReleasePart) -> str:
    """The device is ahead of the catalog: such as after a restore."""
    installed = device.parts[part.component]
    counter = "" if installed.seq is None else f" (seq {installed.seq})"
    taken = "tells no seq: nothing lower goes there" if installed.seq is None else "takes only a higher seq"
    return (
        f"{part.component} {release.id} (seq {part.manifest.seq}) does not go there: the device runs "
        f"{installed.version}{counter}, which is not in the catalog, and {taken}; add that release again, "
        "or sign a higher one"
    )


def _runs_sentence(device: Device, release: Release, component: str) -> str:
    version = device.parts[component].version
    sentence = f"it runs the assigned {component} {release.id}"
    if version != release.parts[component].version:
        sentence = f"it runs the bytes of the assigned {component} {release.id} already, as version {version}"
    return f"{sentence}, which was withdrawn since" if release.state is ReleaseState.WITHDRAWN else sentence


def _attempts(unit: UnitOfWork, device: DeviceId, component: str, assignment: Assignment) -> list[Deployment]:
    """What was tried for an assignment, newest first."""
    return [
        attempt
        for attempt in unit.deployments.recent_of(device, limit=PAST_MAX)
        if attempt.component == component
        and (attempt.release, attempt.rollout) == (assignment.release, assignment.rollout)
    ]


def _ended_reason(deployment: Deployment, now: Now) -> tuple[str, str]:
    what = f"{deployment.component} {deployment.release}"
    when = _ago(now.wall - deployment.changed_wall)
    code = deployment.state.value.lower()
    return code, f"{what} ended {deployment.state} {when} ago ({deployment.cause}); nothing else is assigned"


def _unassigned_reason(terms: Terms, device: Device) -> tuple[str, str]:
    """No deployment ever: say what each rollout of the product lacks, newest first."""
    unit = terms.unit
    rollouts: list[Rollout] = list(unit.rollouts.all(product=device.id.product))
    for rollout in reversed(rollouts):
        release = unit.releases.get(rollout.release)
        if release is None or rollout.state is not RolloutState.RUNNING:
            continue
        if not terms.belongs(device, rollout):
            return "not_targeted", f"rollout {rollout.id} of {release.id} ({rollout.target}) does not include it"
        for part in release.parts.values():
            obstacle = policy.fits(device, release, part)
            if obstacle is not None:
                return obstacle.value, f"{release.id} does not go there: {_obstacle_sentence(obstacle, device)}"
    return "idle", "no rollout concerns it"


def _obstacle_sentence(obstacle: Obstacle, device: Device) -> str:
    match obstacle:
        case Obstacle.RETIRED:
            return "it is retired"
        case Obstacle.PENDING:
            return "it waits for approval: device approve"
        case Obstacle.NEVER_CHECKED_IN:
            return "it has never checked in"
        case Obstacle.HW_CONFLICT:
            return f"it reports hardware {device.hw_reported} but is registered as {device.hw}: device replace decides"
        case Obstacle.WRONG_HARDWARE:
            return f"its hardware {device.hw or '(none reported)'} is not among those the author signed for"
        case Obstacle.NO_SUCH_COMPONENT:
            return f"the device reports only {', '.join(sorted(device.parts)) or 'nothing'}"
        case Obstacle.WITHDRAWN:
            return "the release is withdrawn"
        case Obstacle.ANTI_ROLLBACK:
            return "its manifest seq is not above what the device runs; sign it again with a higher one"
        case Obstacle.RUNS_NEWER:
            return "the device runs something newer"
        case Obstacle.RUNS_IT:
            return "it runs it already"
        case Obstacle.NO_PATH:
            return "no path leads there from what it runs"
        case Obstacle.WAITS_FOR_COMPONENT:
            return "it waits for another component that it needs"
        case Obstacle.LACKS_COMPONENT:
            return "it needs another component that the device does not have and does not get"
        case Obstacle.ATTEMPTS_USED:
            return "all attempts are used; start a new rollout to try again"
        case Obstacle.QUARANTINED:
            return "it is quarantined: too many attempts at this release have failed there, over all rollouts"
        case Obstacle.FINAL_REFUSAL:
            return "the device refused it for good; the same bytes are not offered again"
        case _ as unreachable:
            assert_never(unreachable)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _ago(seconds: float) -> str:
    seconds = max(0.0, seconds)
    for unit_s, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {name}"
    return f"{seconds:.0f} s"
