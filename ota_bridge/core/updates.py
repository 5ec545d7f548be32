"""Moves deployments inside one unit of work and collects what has to be said afterwards.

`bridge` (devices) and `operations` (operators) both work through it, so a transition is recorded, told and granted in
exactly one place. Outputs are released after the commit, in order.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import field
from typing import Any, Final

from ota_bridge.core import keysets, notices
from ota_bridge.core.catalog import Release, ReleaseState
from ota_bridge.core.delivery import Due, is_served
from ota_bridge.core.deployment import Deployment, DeploymentEvent, State, Transition
from ota_bridge.core.errors import ManifestRefused
from ota_bridge.core.fleet import Device
from ota_bridge.core.known import is_known
from ota_bridge.core.messages import (
    CancelUpdate,
    Event,
    Grant,
    GrantsChanged,
    GrantState,
    KeysetNotice,
    Offer,
    Output,
    RolloutChanged,
)
from ota_bridge.core.ports import Keysets, Links, ManifestVerifier, TicketIssuer, UnitOfWork
from ota_bridge.core.records import record, replace
from ota_bridge.core.rollout import needs, planner, policy
from ota_bridge.core.rollout.model import Rollout, RolloutState
from ota_bridge.core.rollout.paths import Paths
from ota_bridge.core.rollout.policy import Obstacle
from ota_bridge.core.rules import Rules
from ota_bridge.core.speaking import Speaking
from ota_bridge.core.terms import Hold, Terms, has_to_follow, is_paused
from ota_bridge.core.values import DeviceId, Now, ReleaseId, RolloutId, Sha256

SHORT_PACKET_BYTES = 4096
"""Devices that take less may need the short form of a notice, and fetch manifest, ticket or keyset as artifacts."""

WAITING: Final = "waiting to be offered"
"""The cause of a deployment of which nothing else is known yet."""

PAST_MAX = 500
"""How many deployments of a device its attempts are counted over: more than all of its components can use up."""

_HOPELESS: Final = frozenset({Obstacle.WRONG_HARDWARE, Obstacle.ANTI_ROLLBACK, Obstacle.RUNS_NEWER, Obstacle.NO_PATH})
"""What ends a deployment that was open before: the device became another, went past it, or fell behind its stones."""


@record(frozen=False)
class Updates:
    """One unit of work's worth of changes."""

    unit: UnitOfWork
    now: Now
    rules: Rules
    verify: ManifestVerifier
    ticket: TicketIssuer
    keysets: Keysets
    links: Links
    terms: Terms
    speaking: Speaking
    paths: Paths = field(default_factory=Paths)
    outputs: list[Output] = field(default_factory=list)
    opened: int = 0
    """How many deployments it has opened."""
    _changed: set[RolloutId] = field(default_factory=set)
    """Whose summary is published again."""
    _offered: set[DeviceId] = field(default_factory=set)
    """Whom this unit of work has sent a notice: those of one device's components go together."""

    # --- telling -----------------------------------------------------------------------------------------

    def tell(self, device: DeviceId, kind: str, **data: Any) -> None:
        """An event line for operators."""
        self.outputs.append(Event(device=device, wall=self.now.wall, kind=kind, data=data))

    def _tell_state(self, one: Deployment, before: State | None, cause: str) -> None:
        self.tell(
            one.device,
            "state",
            id=one.id,
            component=one.component,
            release=one.release,
            rollout=one.rollout,
            attempt=one.attempt,
            before=before,
            after=one.state,
            cause=cause,
        )
        self.rollout_changed(one.rollout)

    def release_of(self, deployment: Deployment) -> Release:
        """The release of a deployment."""
        release = self.unit.releases.get(deployment.release)
        assert release is not None, "a deployment's release is never deleted"
        return release

    # --- moving ------------------------------------------------------------------------------------------

    def move(self, deployment: Deployment, event: DeploymentEvent, cause: str, **changes: Any) -> Deployment:
        """Apply `event`; raises IllegalTransition. Records it, tells it, and revises what the device may fetch."""
        moved = self.schedule(deployment.moved(event, cause, self.now.wall, slot_rank=0, **changes))
        self.unit.deployments.record(
            Transition(
                deployment=moved.id,
                wall=self.now.wall,
                event=event,
                before=deployment.state,
                after=moved.state,
                cause=cause,
            )
        )
        if moved.state is not deployment.state:
            if not moved.is_open and self.speaking.knows(moved.device):
                self.speaking.occasions.add(moved.device, ended=moved.id)
            self._tell_state(moved, deployment.state, cause)
        # What is being canceled is granted too, as withdrawn, where its release is; who has it all frees its slot.
        was, now = deployment.state, moved.state
        if (
            is_served(moved) != is_served(deployment)
            or State.CANCELING in (was, now)
            or (was is State.DOWNLOADED) != (now is State.DOWNLOADED)
            or (State.QUEUED in (was, now) and self.speaking.knows(moved.device))
        ):
            self.grant(moved.device)
        return moved

    def schedule(self, deployment: Deployment) -> Deployment:
        """Set when `tick` must look at it again, and store it."""
        due = self._next_due(deployment)
        due_wall = due[0] if due else None
        if due_wall != deployment.due_wall:
            deployment = replace(deployment, due_wall=due_wall)
        self.unit.deployments.put(deployment)
        return deployment

    def _next_due(self, deployment: Deployment) -> tuple[float, Due] | None:
        rollout = self._rollout(deployment)
        if deployment.slot_rank or is_paused(rollout, deployment):
            return None
        return self.terms.pacing_of(rollout).next_due(deployment)

    def _rollout(self, deployment: Deployment) -> Rollout | None:
        return None if deployment.rollout is None else self.unit.rollouts.get(deployment.rollout)

    def rollout_changed(self, rollout: RolloutId | None) -> None:
        """Its summary is to be published again."""
        if rollout is not None and rollout not in self._changed:
            self._changed.add(rollout)
            self.outputs.append(RolloutChanged(rollout=rollout))

    # --- granting ----------------------------------------------------------------------------------------

    def grant(self, device_id: DeviceId) -> None:
        """Tell the block plane what this device may fetch now."""
        self.outputs.append(self.grants(device_id))

    def grants(self, device_id: DeviceId) -> GrantsChanged:
        """What this device may fetch, from the database."""
        device = self.unit.devices.get(device_id)
        found: list[Grant] = []
        for deployment in self.unit.deployments.open_of(device_id) if device is not None else ():
            release = self.release_of(deployment)
            withdrawn = release.state is ReleaseState.WITHDRAWN
            if not is_served(deployment) and not (withdrawn and deployment.state is State.CANCELING):
                continue
            if deployment.state is State.QUEUED and self.speaking.of(device) is not None:
                continue  # a vendor's device that goes on with an attempt that ended must not find the next one open
            state = GrantState.WITHDRAWN if withdrawn else GrantState.OPEN
            if is_paused(self._rollout(deployment), deployment):
                state = GrantState.PAUSED
            part = release.parts[deployment.component]
            assert device is not None
            found.append(
                Grant(
                    deployment=deployment.id,
                    rollout=deployment.rollout,
                    state=state,
                    manifest=part.manifest,
                    inline=self._inline(device, deployment, part.envelope, part.manifest.digest),
                    fetched_wall=deployment.last_block_wall if deployment.state is State.DOWNLOADING else None,
                    is_whole=deployment.state is State.DOWNLOADED,
                )
            )
        step = self._keyset_notice(device) if device is not None and _takes_little(device) else None
        return GrantsChanged(
            device=device_id, grants=tuple(found), inline=() if step is None else ((step.digest, step.step),)
        )

    def _inline(
        self, device: Device, deployment: Deployment, envelope: bytes, digest: bytes
    ) -> tuple[tuple[Sha256, bytes], ...]:
        inline = [(Sha256(digest), envelope)]
        if _takes_little(device):
            ticket = self._ticket(device, deployment, digest)
            if ticket is not None:
                inline.append((sha256(ticket), ticket))
        return tuple(inline)

    def _ticket(self, device: Device, deployment: Deployment, digest: bytes) -> bytes | None:
        # The time of the offer, not of the call: the same offer has the same ticket after a restart.
        if device.nonce is None or deployment.offered_wall is None:
            return None
        return self.ticket(device.id, device.nonce, digest, deployment.offered_wall)

    # --- planning ----------------------------------------------------------------------------------------

    def reconcile(self, device: Device, *, admitted: RolloutId | None = None) -> Device:
        """Bring the device's deployments in line with what it is assigned; offers what can be offered now.

        `admitted`: the rollout whose line the device has just come out of.
        """
        product = device.id.product
        rollouts = self.unit.rollouts.all(product=product)
        releases: dict[ReleaseId, Release] = {}
        running = {rollout.release for rollout in rollouts if rollout.state is RolloutState.RUNNING}
        for name in running | {held.release for held in device.assigned.values()}:
            release = self.unit.releases.get(name)
            if release is not None:
                releases[name] = release
        if policy.may_take_part(device) is None:
            found = device

            def takes(rollout: Rollout) -> bool:
                return self.terms.takes(rollout, found, admitted=admitted)

            assigned = planner.assignments(device, rollouts, releases, takes)
            if assigned != device.assigned:
                device = replace(device, assigned=assigned)
                self.unit.devices.put(device)
        if not device.assigned:
            return device
        past = self._past(device.id)
        canceled = {rollout.id for rollout in rollouts if rollout.state is RolloutState.CANCELED}
        planned = device

        def knows(component: str) -> bool:
            return is_known(self.unit, product, component, planned.parts.get(component))

        route = self.paths.route(lambda: self.unit.releases.all(product=product), lambda: needs.seqs(planned, releases))
        steps = planner.steps(
            device, releases, past, self.terms.tries_of, canceled=canceled, is_known=knows, route=route
        )
        for step in steps:
            match step:
                case planner.Open():
                    device = self._open(device, step, past)
                case planner.Supersede():
                    self.cancel(device, step.deployment, step.cause)
                    if step.deployment.state is State.QUEUED:
                        return self.reconcile(device)
                case planner.Blocked():
                    pass  # `why` derives the same verdict again from the same records
        return device

    def _past(self, device_id: DeviceId) -> list[Deployment]:
        """The device's deployments, newest first: the latest, and whatever older one is still open."""
        recent = list(self.unit.deployments.recent_of(device_id, limit=PAST_MAX))
        if len(recent) < PAST_MAX:
            return recent
        known = {deployment.id for deployment in recent}
        return recent + [open_ for open_ in self.unit.deployments.open_of(device_id) if open_.id not in known]

    def _open(self, device: Device, step: planner.Open, past: Sequence[Deployment]) -> Device:
        assignment = device.assigned[step.component]
        cause = f"assigned {assignment.release}"
        if step.release.id != assignment.release:
            cause += f", of which {step.release.id} is the next step"
        rollout = self.unit.rollouts.get(assignment.rollout) if assignment.rollout is not None else None
        earlier_end: State | None = None
        for earlier in past:
            if earlier.latest and (earlier.component, earlier.rollout) == (step.component, assignment.rollout):
                self.unit.deployments.put(replace(earlier, latest=False))
                earlier_end = earlier.state
        self.opened += 1
        part = step.release.parts[step.component]
        deployment = Deployment(
            id=self.unit.new_deployment_id(),
            device=device.id,
            component=step.component,
            release=step.release.id,
            rollout=assignment.rollout,
            attempt=step.attempt,
            state=State.QUEUED,
            cause=WAITING,
            created_wall=self.now.wall,
            changed_wall=self.now.wall,
            size_bytes=part.manifest.size_bytes,
            old_version=device.parts[step.component].version,
            retry_wall=self.terms.not_before(step.not_before_wall, assignment.rollout),
            stage=self.terms.stage_of(device, rollout, is_step=step.release.id != assignment.release),
            earlier_end=earlier_end,
        )
        deployment = self.schedule(deployment)
        self.unit.deployments.record(
            Transition(
                deployment=deployment.id,
                wall=self.now.wall,
                event="opened",
                before=None,
                after=State.QUEUED,
                cause=cause,
            )
        )
        self._tell_state(deployment, None, cause)
        if self.speaking.of(device) is None:
            self.grant(device.id)
        return self.offer(device, deployment, answers_check_in=True)

    # --- offering ----------------------------------------------------------------------------------------

    def offer(
        self, device: Device, deployment: Deployment, *, answers_check_in: bool, has_slot: bool = False
    ) -> Device:
        """Send the notice if it may go out now; else `tick`, or the slots' line, comes back when it may.

        `answers_check_in` starts a new pair of notices: the first, and one more after `resend_after_s`.
        """
        if answers_check_in and deployment.resent:
            deployment = self.schedule(replace(deployment, resent=False))
        rollout = self._rollout(deployment)
        if is_paused(rollout, deployment) or not deployment.can(DeploymentEvent.OFFER):
            return device
        release = self.release_of(deployment)
        waits = self._keyset_hindrance(device)
        if waits:
            self._hold_back(device, deployment, f"not offered: {waits}")
            return device
        component = deployment.component
        known = is_known(self.unit, device.id.product, component, device.parts.get(component))
        obstacle = policy.obstacle(device, release, release.parts[component], is_known=known)
        if obstacle is not None:
            if obstacle in _HOPELESS:
                self.cancel(device, deployment, f"not offered: {obstacle}")
            else:
                self._hold_back(device, deployment, f"not offered: {obstacle}")
            return device
        earliest = max(
            deployment.retry_wall or 0.0,
            0.0
            if device.id in self._offered
            else self.rules.pacing.earliest_offer_wall(device.last_offer_wall, self.now.wall),
        )
        if earliest > self.now.wall:
            # A second notice that has to wait is still the second.
            self.schedule(replace(deployment, retry_wall=earliest, resent=not answers_check_in))
            return device
        hold = self.terms.hold(device, deployment, rollout, has_slot=has_slot)
        if hold is not None:
            self._wait(deployment, hold, rollout)
            return device
        speaker = self.speaking.of(device)
        notice = (
            self.distrust(deployment)
            or self.speaking.hindrance(device, deployment)
            or notices.notice(self.rules, device, deployment, release, speaker)
        )
        if isinstance(notice, str):
            self._hold_back(device, deployment, notice)
            return device
        moved = self.move(
            deployment,
            DeploymentEvent.OFFER,
            "offered" if deployment.offers == 0 else f"offered {deployment.offers + 1} times",
            offers=deployment.offers + 1,
            offered_wall=self.now.wall,
            retry_wall=None,
            resent=not answers_check_in,
        )
        if notice is None:
            self.speaking.occasions.add(device.id, offered=moved.id)
        else:
            self.outputs.append(self._with_ticket(notice, device, moved))
        if _takes_little(device):
            # The ticket may have to be fetched, so it must be in the table before the notice.
            self.outputs.insert(len(self.outputs) - 1, self.grants(device.id))
        self.tell(device.id, "offer", id=moved.id, release=moved.release, offers=moved.offers)
        self._offered.add(device.id)
        device = replace(device, last_offer_wall=self.now.wall)
        self.unit.devices.put(device)
        return device

    def _wait(self, deployment: Deployment, hold: Hold, rollout: Rollout | None) -> None:
        """Until its window opens, or until the slots' line calls it."""
        rank = 0 if hold.until_wall is not None else 2 if rollout is not None and rollout.plan.is_urgent else 1
        held = replace(deployment, cause=hold.cause, retry_wall=hold.until_wall, slot_rank=rank)
        if held != deployment:
            self.schedule(held)

    def _hold_back(self, device: Device, deployment: Deployment, cause: str) -> None:
        """No notice can go out: the next check-in tries again; what has a time-out keeps it."""
        held = replace(deployment, cause=cause)
        if deployment.state in {State.QUEUED, State.DEFERRED}:
            self.unit.deployments.put(replace(held, due_wall=None))
        else:
            self.schedule(replace(held, retry_wall=None, resent=True))
        if cause != deployment.cause:
            self.tell(device.id, "not_offered", id=deployment.id, release=deployment.release, cause=cause)

    def _with_ticket(self, notice: Offer, device: Device, deployment: Deployment) -> Offer:
        ticket = self._ticket(device, deployment, notice.manifest_digest)
        return replace(notice, ticket=ticket, ticket_digest=sha256(ticket) if ticket is not None else None)

    def distrust(self, deployment: Deployment) -> str:
        """Why the manifest of this deployment is not believed any more, or nothing."""
        try:
            self.verify(self.release_of(deployment).parts[deployment.component].envelope)
        except ManifestRefused as refused:
            return f"the manifest no longer holds ({refused}); check the trust document"
        return ""

    # --- keysets -----------------------------------------------------------------------------------------

    def send_keyset(self, device: Device, *, before: int | None) -> None:
        """In answer to a check-in: the step to the next keyset, where there is one. `before`: what it had."""
        step = self._keyset_notice(device)
        if _takes_little(device) and (step is not None or before != device.keyset):
            self.grant(device.id)
        if step is None:
            return
        self.outputs.append(step)
        self.tell(device.id, "keyset_sent", version=step.version, refused=device.trouble.keyset_refused or None)

    def _keyset_notice(self, device: Device) -> KeysetNotice | None:
        return None if device.keyset is None else keysets.notice(device, self.keysets(device.keyset))

    def _keyset_hindrance(self, device: Device) -> str:
        return "" if device.keyset is None else keysets.hindrance(device, self.keysets(device.keyset))

    # --- canceling ---------------------------------------------------------------------------------------

    def cancel(self, device: Device, deployment: Deployment, cause: str) -> bool:
        """Ask for this deployment to stop; False where it is too late."""
        if not deployment.can(DeploymentEvent.CANCEL):
            return False
        moved = self.move(deployment, DeploymentEvent.CANCEL, cause, boot=device.boot)
        if moved.state is State.CANCELING:
            self.say_cancel(device, moved)
        return True

    def say_cancel(self, device: Device, deployment: Deployment) -> None:
        """Send the cancel notice (again)."""
        if self.speaking.of(device) is not None:
            self.speaking.occasions.add(device.id, canceled=deployment.id)
        elif device.proto > 0:
            self.outputs.append(CancelUpdate(device=device.id, encoding=device.encoding, deployment=deployment.id))

    # --- time --------------------------------------------------------------------------------------------

    def look(self, deployment: Deployment) -> None:
        """A deployment's time has come: offer it, mark it stalled, or end it."""
        due = self._next_due(deployment)
        device = self.unit.devices.get(deployment.device)
        if due is None or device is None:
            self.unit.deployments.put(replace(deployment, due_wall=None))
            return
        when, what = due
        if when > self.now.wall:
            self.schedule(deployment)
            return
        if has_to_follow(self._rollout(deployment), deployment):
            self.unit.deployments.put(replace(deployment, due_wall=None))
            return
        if what is Due.OFFER:
            if (after := self.rules.pacing.check_in_ends_wall(device.next_check_in_wall, self.now.wall)) is not None:
                self.unit.deployments.put(replace(deployment, due_wall=after))
                return
            waited = deployment.retry_wall is not None and not deployment.resent
            first = waited or deployment.state not in {State.OFFERED, State.DOWNLOADING}
            self.offer(device, deployment, answers_check_in=first)
            return
        if what is Due.STALL:
            idle_s = round(self.rules.pacing.stall_after_s)
            stalled = self.schedule(replace(deployment, stalled=True, cause=f"no block for {idle_s} s"))
            where = {"position_bytes": stalled.high_water_bytes, "size_bytes": stalled.size_bytes}
            self.tell(device.id, "stalled", id=stalled.id, **where)
            return
        self.move(deployment, DeploymentEvent.TIME_OUT, f"{deployment.state} for too long")


def _takes_little(device: Device) -> bool:
    return device.max_packet is not None and device.max_packet < SHORT_PACKET_BYTES


def sha256(data: bytes) -> Sha256:
    """The digest that an artifact is asked for by."""
    return Sha256(hashlib.sha256(data).digest())
