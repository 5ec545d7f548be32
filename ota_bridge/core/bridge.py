"""The device's face of the core: `receive` a message, `tick` the clock. Dispatches; what a message means is elsewhere.

Called on the store's writer thread, inside a transaction, one savepoint per message; what it returns is released in
order after the commit, so nothing is acknowledged before it is durable. No exception for bad input leaves `receive`.
"""

from math import inf
from sys import maxsize
from typing import Final, assert_never

from ota_bridge.core import vendors
from ota_bridge.core.deployment import (
    CHECK_IN,
    FETCHING,
    OPEN,
    PROGRESS_EVENTS,
    Deployment,
    DeploymentEvent,
    Installed,
    Meaning,
    State,
)
from ota_bridge.core.errors import IllegalTransition
from ota_bridge.core.fleet import CreationLimit, Device, DeviceState, Enrol, runs
from ota_bridge.core.keysets import none_newer
from ota_bridge.core.known import is_known
from ota_bridge.core.messages import (
    BlockActivity,
    BlockTrouble,
    CheckIn,
    CheckInRequest,
    Encoding,
    GrantsChanged,
    InstalledPart,
    Output,
    Progress,
    Rejected,
    ReportAck,
    ReportKey,
    ReportState,
    Said,
    Uplink,
)
from ota_bridge.core.notes import end_forgotten, is_live_again, note_activity, note_rejected, note_trouble
from ota_bridge.core.notices import no_links
from ota_bridge.core.ports import (
    Calendar,
    Keysets,
    Links,
    ManifestVerifier,
    Queries,
    StoredReport,
    TicketIssuer,
    UnitOfWork,
)
from ota_bridge.core.queries import NO_CALENDAR, none_compiled
from ota_bridge.core.records import record, replace
from ota_bridge.core.rollout import policy
from ota_bridge.core.rollout.model import RolloutState
from ota_bridge.core.rollout.paths import Paths
from ota_bridge.core.rules import Rules
from ota_bridge.core.slices import PAGE, GoOn, Slice, for_ever, plan
from ota_bridge.core.speaking import NO_DIALECTS, Dialects, Speaking
from ota_bridge.core.steering import hold_of
from ota_bridge.core.terms import Terms
from ota_bridge.core.updates import Updates
from ota_bridge.core.values import NATIVE, DeploymentId, DeviceId, Now

SLICE_MAX: Final = 200
"""How many devices or deployments one slice of work looks at, whatever its time: reports never wait long behind it."""

_GOING_ON: Final = frozenset({ReportState.DOWNLOADING, ReportState.DOWNLOADED, ReportState.BURNING, ReportState.DEFER})
"""What a device says that is in the middle of an update."""


@record
class _Answer:
    """What the acknowledgement of a progress report carries besides the key."""

    go: tuple[DeploymentId, ...] = ()
    stop: tuple[DeploymentId, ...] = ()


_NO_ANSWER: Final = _Answer()


class Bridge:
    """See the module."""

    def __init__(
        self, rules: Rules, *, verify: ManifestVerifier, ticket: TicketIssuer, keysets: Keysets = none_newer,
        links: Links = no_links, queries: Queries = none_compiled, calendar: Calendar = NO_CALENDAR,
        dialects: Dialects = NO_DIALECTS,
    ) -> None:  # fmt: skip
        self.rules = rules
        self.dialects = dialects
        self.queries = queries
        self.calendar = calendar
        self._verify = verify
        self._ticket = ticket
        self._keysets = keysets
        self._links = links
        self._paths = Paths()
        self._creation = CreationLimit(per_s=rules.enrol_per_s, burst=rules.enrol_burst)

    def updates(self, unit: UnitOfWork, now: Now) -> Updates:
        """A unit of work's worth of changes under these rules."""
        terms = Terms(
            unit=unit,
            now=now,
            pacing=self.rules.pacing,
            tries=self.rules.retries,
            queries=self.queries,
            calendar=self.calendar,
        )
        return Updates(
            unit=unit,
            now=now,
            rules=self.rules,
            verify=self._verify,
            ticket=self._ticket,
            keysets=self._keysets,
            links=self._links,
            paths=self._paths,
            terms=terms,
            speaking=Speaking(
                unit=unit, now=now, rules=self.rules, links=self._links, dialects=self.dialects, terms=terms
            ),
        )

    def finish(self, updates: Updates) -> list[Output]:
        """The end of a unit of work: what to release after the commit."""
        if updates.speaking.occasions.by_device:
            vendors.tell_all(updates, lambda report: self._take(updates, report))
        return updates.outputs

    def receive(self, unit: UnitOfWork, message: Uplink, now: Now) -> list[Output]:
        """Take one message in; returns what to do after the commit."""
        updates = self.updates(unit, now)
        match message:
            case CheckIn() | Progress() | Rejected():
                self._take(updates, message)
            case Said():
                vendors.hear(updates, message, lambda report: self._take(updates, report))
            case BlockActivity():
                note_activity(updates, message)
            case BlockTrouble():
                note_trouble(updates, message)
            case _ as unreachable:
                assert_never(unreachable)
        return self.finish(updates)

    def _take(self, updates: Updates, report: CheckIn | Progress | Rejected) -> None:
        match report:
            case CheckIn():
                self._check_in(updates, report)
            case Progress():
                self._progress(updates, report)
            case Rejected():
                note_rejected(updates, report)
            case _ as unreachable:
                assert_never(unreachable)

    def tick(self, unit: UnitOfWork, now: Now, go_on: GoOn = for_ever) -> Slice:
        """Do what has become due by `now`, for as long as `go_on` says so."""
        updates = self.updates(unit, now)
        seen: set[DeploymentId] = set()
        if self.dialects and vendors.wake(updates, SLICE_MAX) == SLICE_MAX:
            return Slice(self.finish(updates), more=True)
        while page := unit.deployments.due(now.wall, limit=PAGE):
            for due in page:
                if due.id in seen:  # it stays due: not before the next beat
                    return Slice(self.finish(updates), more=False)
                seen.add(due.id)
                deployment = unit.deployments.get(due.id)  # an earlier one of the same device may have moved it
                if deployment is not None and deployment.is_open:
                    updates.look(deployment)
                    self._after(updates, deployment.device, deployment.id)
                if len(seen) >= SLICE_MAX or not go_on():
                    return Slice(self.finish(updates), more=True)
        return Slice(self.finish(updates), more=False)

    def plan(self, unit: UnitOfWork, now: Now, go_on: GoOn = for_ever) -> Slice:
        """One step of every rollout: find its members, let them in, ask its gates; for as long as `go_on` says so."""
        updates = self.updates(unit, now)
        more = plan(updates, go_on)
        return Slice(self.finish(updates), more=more)

    def next_deadline(self, unit: UnitOfWork) -> float | None:
        """The wall time at which `tick` is wanted next."""
        due = unit.deployments.next_due_wall()
        wake = unit.memories.next_wake_wall() if self.dialects else None
        return min((wall for wall in (due, wake) if wall is not None), default=None)

    def clock_stepped(self, unit: UnitOfWork, step_s: float) -> None:
        """The wall clock was set: move what open deployments are measured from, so that each keeps its time left."""
        after: DeploymentId | None = None
        while page := unit.deployments.all_open(after=after):
            for deployment in page:
                unit.deployments.put(deployment.shifted(step_s))
            after = page[-1].id
        for rollout in unit.rollouts.all():
            unit.rollouts.put(replace(rollout, standing=rollout.standing.shifted(step_s)))
        for device in unit.memories.due(inf, limit=maxsize):
            memory = unit.memories.get(device)
            if memory is not None and memory.wake_wall is not None:
                unit.memories.put(device, replace(memory, wake_wall=memory.wake_wall + step_s))

    def grants_page(
        self, unit: UnitOfWork, now: Now, after: DeploymentId | None
    ) -> tuple[list[GrantsChanged], DeploymentId | None]:
        """A part of the authorisation table, for the start of the block plane, and where the next begins.

        There is none after the last. Together they hold every device with an open deployment; one that has several
        may come more than once.
        """
        updates = self.updates(unit, now)
        page = unit.deployments.all_open(after=after)
        changes = [updates.grants(device) for device in dict.fromkeys(deployment.device for deployment in page)]
        return changes, page[-1].id if page else None

    # --- check-ins ---------------------------------------------------------------------------------------

    def _check_in(self, updates: Updates, report: CheckIn) -> None:
        device = updates.unit.devices.get(report.device) or self._enrol(updates, report)
        if device is None:
            return
        fresh, moves = self._record(updates, device, report.key, "report_version", report)
        if not fresh:
            return
        device = updates.unit.devices.get(report.device) or device
        if not moves:
            _acknowledge(updates, device, report.key)
            return
        self._tell_changes(updates, device, report)
        had = device.keyset
        device = device.checked_in(report, updates.now.wall)
        updates.unit.devices.put(device)
        _acknowledge(updates, device, report.key)
        updates.send_keyset(device, before=had)
        for deployment in updates.unit.deployments.open_of(device.id):
            device = self._meaning(updates, device, deployment, report)
        updates.reconcile(device)

    def _enrol(self, updates: Updates, report: CheckIn) -> Device | None:
        """A device that was never seen: create it if policy and rate allow; else None, and it is not acknowledged."""
        rules = self.rules
        reason = ""
        if rules.enrol is Enrol.LISTED:
            reason = "not listed; add it with: device add"
        elif rules.unique_names and any(
            known.id.name == report.device.name for known in updates.unit.devices.named(report.device.name)
        ):
            reason = "this name is registered with another product"
        # The limit also bounds how often the refusal is told.
        if not self._creation.allow(updates.now.mono):
            return None
        if reason:
            updates.tell(report.device, "refused", reason=reason)
            return None
        pending = rules.enrol is Enrol.APPROVE
        device = Device(
            id=report.device,
            state=DeviceState.PENDING if pending else DeviceState.ACTIVE,
            created_wall=updates.now.wall,
            hw=report.hw,
        )
        updates.unit.devices.put(device)
        updates.tell(device.id, "enrolled", state=device.state, hw=report.hw)
        return device

    def _tell_changes(self, updates: Updates, device: Device, report: CheckIn) -> None:
        if device.hw and report.hw and report.hw not in {device.hw, device.hw_reported}:
            updates.tell(device.id, "hw_changed", registered=device.hw, reported=report.hw)
        if report.stale_s is not None:
            updates.tell(device.id, "stale", for_s=report.stale_s)
        if device.keyset is not None and report.keyset not in {None, device.keyset}:
            updates.tell(device.id, "keyset_changed", before=device.keyset, after=report.keyset)
        for component, part in report.parts.items():
            before = device.parts.get(component)
            if before is not None and before.version != part.version:
                updates.tell(
                    device.id, "version_changed", component=component, before=before.version, after=part.version
                )
                if not any(open_.component == component for open_ in updates.unit.deployments.open_of(device.id)):
                    self._tell_regression(updates, device, component, before, part)

    def _tell_regression(
        self, updates: Updates, device: Device, component: str, before: InstalledPart, after: InstalledPart
    ) -> None:
        """A confirmed device that comes back with something older is an event of its own, which gates count."""
        latest = next((d for d in updates.unit.deployments.recent_of(device.id) if d.component == component), None)
        if latest is None or latest.state is not State.CONFIRMED or _has_gone_past(updates, device, latest, after):
            return
        updates.tell(
            device.id, "regressed", component=component, id=latest.id, release=latest.release, before=before.version,
            after=after.version,
        )  # fmt: skip

    def _meaning(self, updates: Updates, device: Device, deployment: Deployment, report: CheckIn) -> Device:
        release = updates.release_of(deployment)
        installed = report.parts.get(deployment.component)
        if installed is None:
            if report.keeps_parts and deployment.state in FETCHING:
                return updates.offer(device, deployment, answers_check_in=True)
            return device
        manifest = release.parts[deployment.component].manifest
        shown = Installed.OLD
        if runs(installed, version=manifest.version, image_sha256=manifest.sha256):
            shown = Installed.OFFERED_TRIAL if installed.trial else Installed.OFFERED
        elif _has_gone_past(updates, device, deployment, installed):
            shown = Installed.NEWER
        boot = report.key.boot if report.key else None
        new_boot = boot is None or boot != deployment.boot
        meaning = CHECK_IN[shown, deployment.state, new_boot]
        match meaning:
            case Meaning.OFFER_AGAIN:
                return updates.offer(device, deployment, answers_check_in=True)
            case Meaning.CANCEL_AGAIN:
                updates.say_cancel(device, deployment)
            case Meaning.NOTHING:
                pass
            case DeploymentEvent():
                cause = f"checked in with {deployment.component} {installed.version}"
                if shown is Installed.NEWER:
                    counter = "" if installed.seq is None else f" (seq {installed.seq})"
                    cause += f"{counter}, which is newer"
                    updates.say_cancel(device, deployment)
                updates.move(deployment, meaning, cause + (" on trial" if installed.trial else ""), boot=boot)
        return device

    # --- progress ----------------------------------------------------------------------------------------

    def _progress(self, updates: Updates, report: Progress) -> None:
        device = updates.unit.devices.get(report.device)
        if device is None:
            if report.dialect == NATIVE and self._creation.allow(updates.now.mono):
                updates.outputs.append(CheckInRequest(device=report.device, encoding=Encoding.JSON))
                updates.tell(report.device, "refused", reason="a progress report from a device that never checked in")
            return
        fresh, moves = self._record(updates, device, report.key, "report_progress", report)
        if not fresh:
            return
        device = updates.unit.devices.get(report.device) or device
        if report.key is not None and moves and device.boot != report.key.boot:
            device = replace(device, boot=report.key.boot)
        device = replace(device, last_report_wall=updates.now.wall)
        updates.unit.devices.put(device)
        deployment = self._named(updates, report)
        answer = _NO_ANSWER
        if moves and deployment is not None and deployment.is_open:
            answer = self._apply(updates, device, deployment, report)
        elif report.state is ReportState.BURNING:
            answer = _stop(report.deployment)
        _acknowledge(updates, device, report.key, answer)
        if deployment is not None:
            self._after(updates, device.id, deployment.id)
        elif report.state in _GOING_ON:
            end_forgotten(updates, device, report)

    def _named(self, updates: Updates, report: Progress) -> Deployment | None:
        """The deployment that a report means, if it is the device's own."""
        if report.deployment is None:
            for deployment in updates.unit.deployments.open_of(report.device):
                if deployment.component == report.component:
                    return deployment
            return None
        found = updates.unit.deployments.get(report.deployment)
        if found is None or found.device != report.device or found.component != report.component:
            return None
        return found

    def _apply(self, updates: Updates, device: Device, deployment: Deployment, report: Progress) -> _Answer:
        event = PROGRESS_EVENTS[report.state]
        now = updates.now.wall
        if report.state is ReportState.BURNING:
            hindrance = self._hindrance(updates, deployment)
            if hindrance:
                updates.tell(device.id, "stopped", id=deployment.id, cause=hindrance)
                if deployment.state is State.CANCELING:
                    updates.say_cancel(device, deployment)
                return _stop(deployment.id)
        if event is None:
            deployment = updates.schedule(replace(deployment, claimed_wall=now))
            if report.is_proof:
                vendors.believe(updates, device, deployment, report.reason)
            return _NO_ANSWER
        changes: dict[str, object] = {}
        if report.percent is not None:
            changes["percent"] = report.percent
        if event is DeploymentEvent.DEFER:
            changes["retry_wall"] = now + (report.retry_after_s or updates.rules.pacing.resend_after_s)
        elif event is DeploymentEvent.DOWNLOADING:
            changes["last_block_wall"] = now
        elif event is DeploymentEvent.GO:
            changes["boot"] = report.key.boot if report.key else device.boot
        elif event in {DeploymentEvent.FAIL, DeploymentEvent.REJECT}:
            changes["result_code"] = report.result_code
        try:
            updates.move(deployment, event, _cause(report, deployment), **changes)
        except IllegalTransition:
            updates.tell(device.id, "ignored", id=deployment.id, said=report.state, state=deployment.state)
            return _stop(deployment.id) if report.state is ReportState.BURNING else _NO_ANSWER
        return _Answer(go=(deployment.id,)) if event is DeploymentEvent.GO else _NO_ANSWER

    def _hindrance(self, updates: Updates, deployment: Deployment) -> str:
        """Why an install must not begin, or nothing: closes cancel, pause and withdrawal in one place."""
        if not deployment.can(DeploymentEvent.GO):
            return f"the deployment is {deployment.state}"
        if updates.release_of(deployment).state.value == "withdrawn":
            return "the release is withdrawn"
        distrust = updates.distrust(deployment)
        if distrust:
            return distrust
        rollout = updates.unit.rollouts.get(deployment.rollout) if deployment.rollout else None
        if rollout is None or deployment.state is State.INSTALLING or hold_of(updates.unit, rollout) is None:
            return ""
        # What a canceled rollout still has open once all of it was canceled heals a device that it had reached.
        return "the rollout is paused" if rollout.state is RolloutState.PAUSED else "the rollout is being canceled"

    # --- what both have in common ------------------------------------------------------------------------

    def _record(
        self, updates: Updates, device: Device, key: ReportKey | None, kind: str, report: CheckIn | Progress
    ) -> tuple[bool, bool]:
        """Keep a report. Returns (is it new, may it move anything). A repeat is acknowledged again, no more."""
        unit, moves, seen = updates.unit, True, None
        is_check_in = isinstance(report, CheckIn)
        if key is not None:
            seen = unit.reports.seen(device.id, key.boot, key.seq)
            if seen == key.content:
                updates.tell(device.id, "repeat", type=kind, boot=key.boot, seq=key.seq)
                _acknowledge(updates, device, key, _NO_ANSWER if is_check_in else self._answer_again(updates, report))
                return False, False
            if key.boot != device.boot and unit.reports.knows_boot(device.id, key.boot):
                moves = is_check_in and is_live_again(unit, device, key)
            if seen is not None:
                trouble = replace(device.trouble, clashes=device.trouble.clashes + 1)
                unit.devices.put(replace(device, trouble=trouble))
                updates.tell(device.id, "clash", type=kind, boot=key.boot, seq=key.seq)
                moves = is_check_in  # a counter that started again: the nonce made it another check-in
        if key is None or seen is None:
            unit.reports.add(
                StoredReport(device=device.id, key=key, kind=kind, wall=updates.now.wall, body=report.body)
            )
        updates.tell(device.id, "report", moves=moves, report=report.body)
        return True, moves

    def _answer_again(self, updates: Updates, report: CheckIn | Progress) -> _Answer:
        if not isinstance(report, Progress) or report.state is not ReportState.BURNING:
            return _NO_ANSWER
        deployment = self._named(updates, report)
        if deployment is not None and deployment.state is State.INSTALLING:
            return _Answer(go=(deployment.id,))
        return _stop(report.deployment)

    def _after(self, updates: Updates, device_id: DeviceId, deployment_id: DeploymentId) -> None:
        """When a deployment has just ended, the device may be owed another."""
        deployment = updates.unit.deployments.get(deployment_id)
        device = updates.unit.devices.get(device_id)
        if deployment is None or device is None or deployment.state in OPEN:
            return
        # A time-out says nothing about a device that is silent: it is planned again when it checks in.
        if deployment.state is not State.TIMED_OUT and device.state is DeviceState.ACTIVE:
            updates.reconcile(device)


def _has_gone_past(updates: Updates, device: Device, deployment: Deployment, installed: InstalledPart) -> bool:
    """True if this is newer than what was deployed."""
    part = updates.release_of(deployment).parts[deployment.component]
    known = is_known(updates.unit, device.id.product, deployment.component, installed)
    return policy.has_gone_past(device, installed, part, is_known=known)


def _stop(deployment: DeploymentId | None) -> _Answer:
    return _Answer(stop=(deployment,) if deployment is not None else ())


def _acknowledge(updates: Updates, device: Device, key: ReportKey | None, answer: _Answer = _NO_ANSWER) -> None:
    """Queue the acknowledgement of a committed report, for devices whose reports have a key."""
    if key is not None:
        made = ReportAck(
            device=device.id, encoding=device.encoding, boot=key.boot, seqs=(key.seq,), go=answer.go, stop=answer.stop
        )
        updates.outputs.append(made)


def _cause(report: Progress, deployment: Deployment) -> str:
    said = f"said {report.state}"
    if report.state is ReportState.CANCELED and deployment.state is State.CANCELING:
        said = f"{deployment.cause}; {said}"
    details = [text for text in (report.reason, report.result_msg) if text]
    if report.result_code not in {"", "0"}:
        details.insert(0, report.result_code)
    return f"{said}: {' '.join(details)}" if details else said
