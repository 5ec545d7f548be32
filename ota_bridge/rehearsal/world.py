"""The real bridge among twins, in a time that jumps from one event to the next.

1. The bridge is `core.bridge` over records in memory; a rollout starts by the operation that starts a real one. Time is
   counted, never slept; the same site, cohorts and seed give the same rehearsal.
2. What takes time: downloads share the site (`flows`) and its slots (the block plane's own `DownloadSlots`); reboots;
   the planner, which works once a second, in slices that leave the reports room.
3. It ends when every rollout has come to its end and nothing is open, when one is held or asks for a person who
   does not answer, when nothing can happen any more, or when `limit_s` has passed.
4. A twin may stand for `weight` devices: `weights` has divided what is counted, and what is told is multiplied.
"""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import ceil, inf
from random import Random
from typing import Any, Final

from ota_bridge.core.bridge import Bridge
from ota_bridge.core.deployment import TERMINAL, State
from ota_bridge.core.explain_rollout import why_rollout
from ota_bridge.core.fleet import Device
from ota_bridge.core.manifest import ManifestFacts
from ota_bridge.core.messages import (
    CancelUpdate,
    CheckInRequest,
    Event,
    GrantsChanged,
    GrantState,
    Offer,
    Output,
    ReportAck,
    Uplink,
)
from ota_bridge.core.operations import OPERATIONS, Context
from ota_bridge.core.ports import Calendar, Queries
from ota_bridge.core.rollout.model import Rollout, RolloutState
from ota_bridge.core.shares import TOLD_PART, WINDOW_S, DownloadSlots
from ota_bridge.core.slices import Slice
from ota_bridge.core.terms import OFFER_COUNTS_S
from ota_bridge.core.values import DeviceId, Now, RolloutId, StandingLimits
from ota_bridge.rehearsal.cohort import Cohort, checked_cohorts, dealt
from ota_bridge.rehearsal.curve import Curve
from ota_bridge.rehearsal.flows import Flows
from ota_bridge.rehearsal.ledger import Ledger
from ota_bridge.rehearsal.site import Site
from ota_bridge.rehearsal.timeline import Timeline
from ota_bridge.rehearsal.twin import ANY_TIME, Twin, Wake

BEAT_S: Final = 1.0
"""The daemon looks at what is due, and plans, so often."""
SLICE_S: Final = 0.002
REST_S: Final = 0.006
"""So long a slice of planning lasts, and so long the reports and the commit have until the next."""
LOOK_S: Final = 0.00011
OPEN_S: Final = 0.0006
"""What it costs the daemon to look at a device, and to open and offer a deployment."""
LIMIT_S: Final = 90 * 86_400.0
NEVER: Final = inf
TOLD_BEFORE: Final = 0.9
"""Part of the time after which a download counts as stalled, or loses its slot: so often a twin's is told of."""
ACTOR: Final = "rehearsal"

Progress = Callable[[float, int], None]
"""Told now and then: simulated seconds, deployments that have ended."""
_TOLD_EVERY: Final = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What is rehearsed."""

    site: Site
    arguments: Mapping[str, Any]
    """Of `rollout.start`."""
    cohorts: Sequence[Cohort]
    seed: int = 1
    weight: int = 1
    limit_s: float = LIMIT_S
    person_after_s: float | None = 0.0
    """How long a person who is asked takes to let the next stage open; None: nobody answers."""
    site_bytes_per_s: float = inf
    """What broker, line and fleet can carry together."""


class World:
    """See the module."""

    def __init__(
        self, script: Script, *, queries: Queries, calendar: Calendar, progress: Progress | None = None
    ) -> None:
        self.script, site = script, script.site
        self.now_s, self.wall = 0.0, site.start_wall
        self.curve, self.timeline = Curve(), Timeline(script.weight)
        self.ended_by, self.ended_sentence = "", ""
        self.last_end_s = 0.0
        self.ledger = Ledger.new()
        self.flows = Flows(_capacity(script), self.curve.served)
        self.slots = DownloadSlots(site.limits.downloads, site.lease_s, -10.0) if site.limits.downloads else None
        stall_s = site.rules.pacing.stall_after_s
        self.tell_every_s = TOLD_BEFORE * (stall_s if self.slots is None else min(stall_s, site.lease_s))
        self.twins: dict[DeviceId, Twin] = {}
        self._chance = Random(script.seed)  # noqa: S311 - seeded, not secret
        self._beat_s = self._chance.random() * BEAT_S
        self._plan_s = NEVER
        self._heap: list[tuple[float, int, Twin | None, int, int]] = []
        self._number = 0
        self._progress, self._ended = progress, 0
        self._trusted = {part.envelope: part.manifest for one in site.releases for part in one.parts.values()}
        self._bridge = Bridge(site.rules, verify=self._verify, ticket=_no_ticket, queries=queries, calendar=calendar)
        self._hears: Mapping[type[Output], Callable[[Any], None]] = {
            Event: self._event,
            Offer: self._offer,
            ReportAck: self._acknowledgement,
            CancelUpdate: self._cancel,
            CheckInRequest: self._request,
            GrantsChanged: self._grants,
        }
        self._populate()

    # --- making ------------------------------------------------------------------------------------------

    def _populate(self) -> None:
        unit, site = self.ledger, self.script.site
        for release in site.releases:
            unit.releases.put(release)
        for device in site.devices:
            unit.devices.put(device)
        unit.limits.put(StandingLimits(limits=site.limits))
        for twin in dealt_twins(site.devices, checked_cohorts(self.script.cohorts), self._chance):
            self.twins[twin.id] = twin

    def _verify(self, envelope: bytes) -> ManifestFacts:
        return self._trusted[envelope]

    # --- running -----------------------------------------------------------------------------------------

    def run(self) -> None:
        """From the start to the end."""
        gc.freeze()  # a million records that stay: to look through them again and again is a third of the time
        gc.disable()
        try:
            self._run()
        finally:
            gc.enable()
            gc.unfreeze()

    def _run(self) -> None:
        context = self._context()
        OPERATIONS["rollout.start"].function(context, **self.script.arguments)
        self._put(context.updates.outputs)
        self.timeline.looks_at(self.ledger, self.now_s, self.wall)
        self._plan_s = self.now_s
        while not self.ended_by:
            self._step()

    def _step(self) -> None:
        event_s = self._heap[0][0] if self._heap else NEVER
        flow_s = self.flows.next_end_s()
        at_s = min(event_s, flow_s, self._plan_s)
        if at_s > self.script.limit_s:
            self._stop_short(at_s)
            return
        self.now_s, self.wall = at_s, self.script.site.start_wall + at_s
        if at_s == self._plan_s:
            self._plan()
        elif at_s == flow_s:
            for key in self.flows.whole(at_s):
                self.twins[key].has_fetched(self)  # type: ignore[index]
        else:
            _, _, twin, turn, what = heappop(self._heap)
            if twin is None:
                self._person_says_next()
            elif what in ANY_TIME or turn == twin.turn:
                twin.wakes(Wake(what), self)

    def _stop_short(self, at_s: float) -> None:
        running = [one for one in self.ledger.rollouts.all() if one.state is not RolloutState.CANCELED]
        found = [why_rollout(self._bridge.updates(self.ledger, self._now()).terms, one).sentence for one in running]
        if at_s == NEVER:
            self.ended_by = "stuck"
            self.ended_sentence = f"nothing can happen any more: {' '.join(found)}"
            return
        self.ended_by = "too_long"
        self.now_s = self.script.limit_s
        self.ended_sentence = f"it has not ended after {self.script.limit_s / 86_400:g} days: {' '.join(found)}"

    def _now(self) -> Now:
        return Now(wall=self.wall, mono=self.now_s)

    def _context(self) -> Context:
        updates = self._bridge.updates(self.ledger, self._now())
        return Context(unit=self.ledger, now=self._now(), actor=ACTOR, bridge=self._bridge, updates=updates)

    # --- the planner -------------------------------------------------------------------------------------

    def _plan(self) -> None:
        """One slice, as the daemon does it."""
        ledger, now = self.ledger, self._now()
        looked, before = 0, ledger.opened

        def cost_s() -> float:
            return (looked * LOOK_S + (ledger.opened - before) * OPEN_S) * self.script.weight

        def go_on() -> bool:
            nonlocal looked
            looked += 1
            return cost_s() < SLICE_S

        due = self._bridge.next_deadline(ledger)
        done = Slice([], more=False) if due is None or due > now.wall else self._bridge.tick(ledger, now, go_on)
        if not done.more:
            planned = self._bridge.plan(ledger, now, go_on)
            done = Slice([*done.outputs, *planned.outputs], more=planned.more)
        self._plan_s = NEVER
        self._put(done.outputs)
        self.timeline.looks_at(ledger, self.now_s, self.wall)
        if done.more:
            looked = max(0, looked - 1)  # the last question comes after the rollout, not after a device
            # A heavy twin takes as many slices as the devices that it stands for, with as many rests.
            self._plan_s = self.now_s + cost_s() + REST_S * max(1.0, cost_s() / SLICE_S)
        else:
            self._rest()

    def _rest(self) -> None:
        """Nothing is left to be planned now: is it over, and if not, when is the planner wanted without a report?"""
        rollouts = self.ledger.rollouts.all()
        held = [one for one in rollouts if one.state in {RolloutState.PAUSED, RolloutState.WAITING}]
        if held:
            self.ended_by, self.ended_sentence = "held", f"{held[0].id} waits for a person: {held[0].cause}"
            return
        if all(self._is_over(one) for one in rollouts) and not len(self.ledger.state.index.open):
            self.ended_by, self.ended_sentence = "complete", "every device has ended"
            return
        self._ask_person(rollouts)
        self._wanted_at(min((wall for one in rollouts for wall in self._wanted_walls(one)), default=NEVER))

    def _is_over(self, rollout: Rollout) -> bool:
        if rollout.state is RolloutState.CANCELED:
            return not rollout.is_planning
        return rollout.standing.is_through and not self.ledger.members.count(rollout.id)

    def _wanted_walls(self, rollout: Rollout) -> Sequence[float]:
        """When time alone makes the planner do something for a rollout."""
        due = self._bridge.next_deadline(self.ledger)
        found = [NEVER if due is None else due]
        plan, standing = rollout.plan, rollout.standing
        if rollout.state is not RolloutState.RUNNING:
            return found
        if standing.started_wall is None:
            return [*found, plan.start_wall or self.wall]
        if plan.deadline_s is not None:
            found.append(standing.started_wall + plan.deadline_s)
        if standing.met_wall is not None and rollout.stage is not None:
            found.append(standing.met_wall + rollout.stage.success.soak_s)
        if standing.admits_wall > self.wall and self.ledger.members.page(rollout.id, end=standing.end, limit=1):
            found.append(standing.admits_wall)
        if self.ledger.deployments.waiting_for_slots(1):
            offered = self.ledger.state.index.offered_wall_after(self.wall - OFFER_COUNTS_S)
            found.append(NEVER if offered is None else offered + OFFER_COUNTS_S)
        return found

    def _wanted_at(self, wall: float) -> None:
        """Have the planner work at the first beat from then on."""
        if wall == NEVER:
            return
        from_s = max(self.now_s + 1e-6, wall - self.script.site.start_wall)
        self._plan_s = min(self._plan_s, ceil((from_s - self._beat_s) / BEAT_S) * BEAT_S + self._beat_s)

    def _ask_person(self, rollouts: Sequence[Rollout]) -> None:
        asked = [one for one in rollouts if one.state is RolloutState.RUNNING and one.standing.waits_for_person]
        if not asked or any(twin is None for _, _, twin, _, _ in self._heap):
            return
        if self.script.person_after_s is None:
            self.ended_by, self.ended_sentence = "held", f"{asked[0].id} waits for a person: rollout next"
            return
        self._number += 1
        heappush(self._heap, (self.now_s + self.script.person_after_s, self._number, None, 0, 0))

    def _person_says_next(self) -> None:
        for rollout in self.ledger.rollouts.all(state=RolloutState.RUNNING):
            if rollout.standing.waits_for_person:
                context = self._context()
                OPERATIONS["rollout.next"].function(context, rollout.id)
                self._put(context.updates.outputs)
        self.timeline.looks_at(self.ledger, self.now_s, self.wall)
        self._plan_s = self.now_s

    # --- what twins want ---------------------------------------------------------------------------------

    def say(self, uplink: Uplink) -> None:
        """The bridge hears it at once."""
        self._put(self._bridge.receive(self.ledger, uplink, self._now()))
        if self._plan_s > self.now_s + BEAT_S:
            self._wanted_at(self.wall)

    def later(self, twin: Twin, after_s: float, what: Wake) -> None:
        """Wake it then, unless it has turned to something else."""
        self._number += 1
        heappush(self._heap, (self.now_s + after_s, self._number, twin, twin.turn, what))

    def slot(self, twin: Twin) -> int:
        """0: it may fetch; else after how many seconds to ask again."""
        return 0 if self.slots is None else self.slots.ask(twin.id, self.now_s)

    def fetch(self, twin: Twin, size_bytes: float) -> None:
        """It downloads from now on."""
        served = self.script.site.device_blocks_per_s * twin.cohort.block_bytes
        self.flows.begin(twin.id, size_bytes, min(twin.cohort.link_bytes_per_s, served), self.now_s)

    def halt(self, twin: Twin) -> float:
        """End its download; how many bytes it lacks."""
        return self.flows.stop(twin.id, self.now_s)

    def image(self, offer: Offer) -> ManifestFacts:
        """What the manifest says that was offered."""
        return self._trusted[offer.manifest]

    # --- what the bridge says ----------------------------------------------------------------------------

    def _put(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            hear = self._hears.get(type(output))
            if hear is not None:
                hear(output)

    def _offer(self, offer: Offer) -> None:
        self.twins[offer.device].hears_offer(offer, self)

    def _acknowledgement(self, ack: ReportAck) -> None:
        if ack.go or ack.stop:
            self.twins[ack.device].hears_acknowledgement(ack, self)

    def _cancel(self, cancel: CancelUpdate) -> None:
        self.twins[cancel.device].hears_cancel(cancel.deployment, self)

    def _request(self, request: CheckInRequest) -> None:
        self.twins[request.device].hears_request(self)

    def _grants(self, change: GrantsChanged) -> None:
        if self.slots is not None and not any(
            grant.state is GrantState.OPEN and not grant.is_whole for grant in change.grants
        ):
            self.slots.end(change.device, self.now_s)

    def _event(self, event: Event) -> None:
        if event.kind != "state":
            if event.kind == "not_offered":
                self.twins[event.device].is_owed(self)
            return
        after = event.data["after"]
        if event.data["before"] is None:
            self.curve.moved(self.now_s, 1)
        elif after in TERMINAL:
            self.curve.moved(self.now_s, -1)
            self.last_end_s = self.now_s
            self._ended += 1
            if self._progress is not None and not self._ended % _TOLD_EVERY:
                self._progress(self.now_s, self._ended)
            if after is State.TIMED_OUT:
                self.twins[event.device].is_owed(self)

    # --- what has become of it ---------------------------------------------------------------------------

    def counts(self, rollout: RolloutId) -> Mapping[tuple[int, State], int]:
        """Devices by stage and state."""
        found: dict[tuple[int, State], int] = {}
        for (stage, state, _), number in sorted(self.ledger.deployments.tallies(rollout).items(), key=str):
            found[stage, state] = found.get((stage, state), 0) + number * self.script.weight
        return found


def dealt_twins(devices: Sequence[Device], cohorts: Sequence[Cohort], chance: Random) -> list[Twin]:
    """A twin for each device: who is in which cohort, who is away and who fails is drawn, how many of them is not."""
    order = list(range(len(devices)))
    chance.shuffle(order)
    found: list[Twin] = []
    first = 0
    for cohort, count in zip(cohorts, dealt(len(devices), [one.share for one in cohorts]), strict=True):
        members = [devices[place] for place in order[first : first + count]]
        first += count
        away = dealt(count, [cohort.offline])[0]
        twins = [_twin(device, cohort, chance) for device in members]
        for twin in twins[:away]:
            twin.away_until_s = cohort.offline_for_s
        chance.shuffle(twins)
        begin = 0
        for end, number in zip(cohort.fail, dealt(count, list(cohort.fail.values())), strict=True):
            for twin in twins[begin : begin + number]:
                twin.ends = end
            begin += number
        found += twins
    return found


def _twin(device: Device, cohort: Cohort, chance: Random) -> Twin:
    return Twin(
        id=device.id,
        cohort=cohort,
        chance=chance,
        parts=dict(device.parts),
        hw=device.hw,
        boot=device.boot or 0,
        slept_s=chance.random() * cohort.period_s,
    )


def _capacity(script: Script) -> float:
    """What all downloads together get, by the site and by the caps as the block plane keeps them."""
    limits, block_bytes = script.site.limits, max(one.block_bytes for one in script.cohorts)
    found = [script.site_bytes_per_s / script.weight]
    if limits.blocks_per_s:
        found.append(limits.blocks_per_s * block_bytes / WINDOW_S)
    if limits.bytes_per_s:
        found.append(limits.bytes_per_s * (1 - 1 / TOLD_PART) / WINDOW_S)
    return min(found)


def _no_ticket(device: DeviceId, nonce: bytes, manifest_digest: bytes, wall: float) -> bytes | None:
    """Twins believe the bridge."""
    del device, nonce, manifest_digest, wall
    return None
