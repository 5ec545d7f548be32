"""The way of one message through the bridge; read this first.

    MQTT in → dialect.decode → store.submit(bridge.receive) → commit → grants, acks, notices, events → MQTT out

Rules:
1. `bridge.receive` runs on the store's writer thread, inside the group's transaction. Its outputs are released here, on
   the event loop, after the commit and in order: the block plane's table before any notice, the broker's
   acknowledgement last.
2. A report whose commit failed is not acknowledged, neither to the device nor to the broker; it is submitted again
   every second until the store takes it, and what comes after it waits behind it.
3. What does not decode is counted and acknowledged to the broker, so that it cannot come for ever. A message on which
   the core fails is logged with its topic and acknowledged too.
4. Retained messages on report topics are dropped and counted. So is what a device reports faster than its rate, before
   it is decoded: nobody's reports wait behind a flood. It is not acknowledged to the device; `why` and an event tell
   of it once a second.
5. Events and summaries may be lost; both can be derived from the database again.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, assert_never

from ota_bridge import __version__
from ota_bridge.audit_head import AuditHead
from ota_bridge.block_plane import BlockPlane
from ota_bridge.block_table import BlockTable
from ota_bridge.clock import ClockWatch
from ota_bridge.core.bridge import Bridge
from ota_bridge.core.errors import Malformed, OtaBridgeError, StoreError
from ota_bridge.core.fleet import ReportLimit
from ota_bridge.core.history import Rounds
from ota_bridge.core.messages import (
    BlockActivity,
    BlockTrouble,
    CancelUpdate,
    CheckInRequest,
    Event,
    GrantsChanged,
    GrantState,
    KeysetNotice,
    LimitsChanged,
    Offer,
    Output,
    Rejected,
    ReportAck,
    RolloutChanged,
    RolloutHeld,
    Saying,
    Uplink,
)
from ota_bridge.core.operations import OPERATIONS, perform
from ota_bridge.core.people import Caller, without_tokens
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.core.shares import WINDOW_S
from ota_bridge.core.slices import Slice
from ota_bridge.core.steering import holds
from ota_bridge.core.values import DeviceId, Now, RolloutId
from ota_bridge.core.views import iso, rollout_view
from ota_bridge.counters import GatewayCounters
from ota_bridge.dialects.native import NativeDialect, event_line
from ota_bridge.door import Door
from ota_bridge.mqtt.control import AckToken, Incoming
from ota_bridge.outlet import Outlet, Publisher, call_soon, nothing
from ota_bridge.store.outcome import Committed, Failed, Outcome, Store
from ota_bridge.subscriber import Subscriber
from ota_bridge.switch import Switch
from ota_bridge.wire import MqttMessage

T = TypeVar("T")
_Taken = Outcome[list[Output]]  # a name, since an annotation of an inner function is worked out at each definition

PUMP_S: Final = 1.0
"""How often progress is written, time-outs are looked at and summaries are published."""
RETRY_S: Final = 1.0
WAITING_MAX: Final = 10_000
"""What may wait for the store: above it the block plane's counts and reports of QoS 0 are dropped. The broker bounds
the other reports, for it keeps what is not acknowledged and delivers only so many of it."""
WORK_S: Final = 0.002
"""How long one slice of what concerns the whole fleet may hold the store, and what it costs the block plane at most."""
REST_S: Final = 0.004
"""Between two slices: reports and blocks have the processor to themselves."""
BACKLOG_MAX: Final = 256
"""Messages that wait on the control link: above it no slice begins, or acknowledgements would wait behind offers."""
ANSWER_S: Final = 0.5
"""An operator's answer waits this long for the planner, so that small fleets are counted in it."""
SETTLE_S: Final = WINDOW_S
"""How long a change of the limits is in force before its operator is answered: what was on its way has arrived."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Planes:
    """Which of the two links is up."""

    control: bool = False
    blocks: bool = False
    published: tuple[bool, bool] | None = None


@dataclass(slots=True)
class Gateway:
    """Owns no thread and no socket; the daemon joins it to them."""

    bridge: Bridge
    store: Store
    switch: Switch
    blocks: BlockPlane
    link: Publisher | None = None
    wall: Callable[[], float] = time.time
    mono: Callable[[], float] = time.monotonic
    soon: Callable[[Callable[[], None]], object] = call_soon
    limit: ReportLimit = field(default_factory=ReportLimit)
    counters: GatewayCounters = field(default_factory=GatewayCounters)
    _planes: _Planes = field(default_factory=_Planes)
    _rollouts: dict[RolloutId, None] = field(default_factory=dict)
    _subscribers: set[Subscriber] = field(default_factory=set)
    _heard: list[tuple[Uplink, AckToken, str]] = field(default_factory=list)
    _waiting: deque[tuple[Uplink, AckToken | None, str]] = field(default_factory=deque)
    _is_working: bool = False
    _is_wanted_again: bool = False
    _done: asyncio.Event = field(default_factory=asyncio.Event)
    _rounds: Rounds = field(default_factory=Rounds)
    _all_rollouts: bool = False
    _table: BlockTable = field(init=False)
    _outlet: Outlet = field(init=False)
    _clock: ClockWatch = field(init=False)
    door: Door = field(init=False)
    _head: AuditHead = field(init=False)

    def __post_init__(self) -> None:
        self._clock = ClockWatch(store=self.store, move=self.bridge.clock_stepped, followed=self._clock_followed)
        self.door, self._head = Door(self.store, self.now), AuditHead(self.store)
        self._table = BlockTable(
            self.blocks, self.store, lambda unit, after: self.bridge.grants_page(unit, self.now(), after)
        )
        self._outlet = Outlet(self._let_out, table=self._table.grant, mono=self.mono, soon=self.soon)

    def _clock_followed(self) -> None:
        self.counters.clock_steps += 1

    def now(self) -> Now:
        """Both clocks."""
        return Now(wall=self.wall(), mono=self.mono())

    @property
    def dialect(self) -> NativeDialect:
        """The native protocol, in which operators are told too."""
        return self.switch.native

    # --- in ----------------------------------------------------------------------------------------------

    def hear(self, incoming: Incoming) -> None:
        """One message of a bundle of the control link, which `take` takes in."""
        self.counters.reports += 1
        uplink = self._meaning(incoming.message)
        if uplink is None:
            self._ack(incoming.token)
        else:
            self._heard.append((uplink, incoming.token, incoming.message.topic))

    def take(self, then: Callable[[], None]) -> None:
        """Take in what was heard; call `then` once the last of it is committed and its answers are out.

        In one go: the store's thread would work on the first meanwhile, and be in the way of reading the others.
        """
        heard, self._heard = self._heard, []
        for one in heard[:-1]:
            self._submit(*one)
        if heard:
            self._submit(*heard[-1], then)
        else:
            then()

    def _meaning(self, message: MqttMessage) -> Uplink | None:
        """What is to be taken in; None: nothing."""
        if message.retain:
            self.counters.retained_dropped += 1
            return None
        if self.switch.vendors and self.switch.is_for_blocks(message):
            return None
        if not self.limit.allow(message.topic, self.mono()):
            self.counters.flooded += 1
            return None
        try:
            uplink = self.switch.decode(message)
        except Malformed as error:
            self.counters.strangers += 1
            _log.warning("dropped a message: %s", error)
            return None
        if isinstance(uplink, Rejected):
            self.counters.rejected += 1
            _log.warning("%s: rejected a report: %s", uplink.device, uplink.reason)
        return uplink

    def _submit(self, uplink: Uplink, token: AckToken | None, origin: str, then: Callable[[], None] = nothing) -> None:
        # Not past one that waits: a report of an older boot would supersede the one that came after it.
        if self._waiting:
            self._wait(uplink, token, origin)
            then()
            return

        def work(unit: UnitOfWork) -> list[Output]:
            return self.bridge.receive(unit, uplink, self.now())

        def on_done(outcome: _Taken) -> None:
            match outcome:
                case Committed(outputs):
                    self.counters.committed += 1
                    self._outlet.put(outputs, lambda: self._ack(token))
                case Failed(StoreError() as error):
                    self._retry_later(uplink, token, origin, error)
                case Failed(error):
                    self.counters.core_failures += 1
                    _log.error("the core failed on a message of %s; it is dropped", origin, exc_info=error)
                    self._ack(token)
            if then is not nothing:
                self._outlet.put((), then)

        try:
            self.store.submit(work, on_done)
        except StoreError as error:
            self._retry_later(uplink, token, origin, error)
            then()

    def _retry_later(self, uplink: Uplink, token: AckToken | None, origin: str, error: StoreError) -> None:
        self.counters.store_failures += 1
        _log.error("not committed, trying again in %.0f s: %s", RETRY_S, error)
        if not self._waiting:
            asyncio.get_running_loop().call_later(RETRY_S, self._try_again)
        self._wait(uplink, token, origin)

    def _wait(self, uplink: Uplink, token: AckToken | None, origin: str) -> None:
        if (token is not None and token.qos) or len(self._waiting) < WAITING_MAX:
            self._waiting.append((uplink, token, origin))

    def _try_again(self) -> None:
        waiting = list(self._waiting)
        self._waiting.clear()
        for uplink, token, origin in waiting:
            self._submit(uplink, token, origin)

    def _ack(self, token: AckToken | None) -> None:
        if token is not None and self.link is not None:
            self.link.ack(token)

    # --- out ---------------------------------------------------------------------------------------------

    def _let_out(self, output: Output) -> None:
        match output:
            case GrantsChanged():
                self._table.grant([output])
            case LimitsChanged():
                self._table.set_limits(output.limits)
            case ReportAck() | Offer() | CancelUpdate() | CheckInRequest() | KeysetNotice() | Saying():
                message = self.dialect.encode(output)
                if message is not None:
                    self._publish(message)
            case Event():
                self._publish(self.dialect.event(output))
                self._tell_subscribers(output)
            case RolloutHeld():
                self._table.hold(output.rollout, output.state)
            case RolloutChanged():
                self._rollouts[output.rollout] = None
            case _ as unreachable:
                assert_never(unreachable)

    def _publish(self, message: MqttMessage) -> None:
        if self.link is None or not self.link.publish(message):
            self.counters.unsent += 1

    def _tell_subscribers(self, event: Event) -> None:
        for subscriber in self._subscribers:
            subscriber.offer(event)

    async def events(self, device: DeviceId | None = None) -> AsyncIterator[dict[str, Any]]:
        """Events as they happen, for the local socket."""
        subscriber = Subscriber(device)
        self._subscribers.add(subscriber)
        try:
            while True:
                yield {"line": event_line(await subscriber.next())}
        finally:
            self._subscribers.discard(subscriber)

    # --- operators ---------------------------------------------------------------------------------------

    async def operate(self, caller: Caller, name: str, args: Mapping[str, Any]) -> Any:
        """Run one operation; raises OperatorError."""
        operation = OPERATIONS.get(name)

        def work(unit: UnitOfWork, name: str = name) -> tuple[Any, list[Output]]:
            return perform(unit, self.bridge, name, args, caller=caller, now=self.now())

        if operation is None or not operation.writes:
            async with self.door.recording(caller, name, args, writes=False):
                result, _ = await asyncio.to_thread(self.store.read, work)
            return result
        _log.info("%s: %s %.300s", caller.user, name, without_tokens(str(dict(args))))  # an import can be long
        async with self.door.recording(caller, name, args, writes=True):
            await self.door.admit(caller, name)  # not in `work` alone: to hold the block plane is to act
            if operation.first:
                await asyncio.to_thread(self.store.read, lambda unit: work(unit, operation.first))
            with contextlib.ExitStack() as held:
                await self._hold(name, args, held)
                result = await self.commit(work)
                held.pop_all()
        if name == "limits.set":
            await self.blocks.settled()
            await asyncio.sleep(SETTLE_S)
        if isinstance(result, dict) and result.get("planning"):
            return {**result, **await self._planned(RolloutId(result["id"]))}
        return result

    async def _planned(self, rollout: RolloutId) -> dict[str, Any]:
        """Plan; how far the rollout has come once all its devices were looked at, or after a moment."""
        self._done.clear()
        self._work()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._done.wait(), ANSWER_S)

        def view(unit: UnitOfWork) -> dict[str, Any]:
            found = unit.rollouts.get(rollout)
            return rollout_view(found, unit.deployments.tallies(rollout)) if found is not None else {}

        return await asyncio.to_thread(self.store.read, view)

    async def commit(self, work: Callable[[UnitOfWork], tuple[T, list[Output]]]) -> T:
        """Run `work` as a unit of work, release its outputs after the commit, return its result."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def on_done(outcome: Outcome[tuple[T, list[Output]]]) -> None:
            match outcome:
                case Committed((result, outputs)):
                    self._outlet.put(outputs, lambda: None if done.done() else done.set_result(result))
                case Failed(error):
                    if not done.done():
                        done.set_exception(error)

        self.store.submit(work, on_done)
        return await done

    async def _hold(self, name: str, args: Mapping[str, Any], held: contextlib.ExitStack) -> None:
        """Pause and withdrawal reach the block plane before their commit; `held` takes that back if there is none."""
        state = {"rollout.pause": GrantState.PAUSED, "release.withdraw": GrantState.WITHDRAWN}.get(name)
        if state is None:
            return
        wanted = str(args.get("rollout") or args.get("release") or "")
        for one, before in await asyncio.to_thread(self.store.read, holds):
            if wanted in {one.id, one.release, one.release.partition("/")[2]}:
                self._table.hold(one.id, state)
                held.callback(self._table.hold, one.id, before)
        await self.blocks.settled()

    # --- time --------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Before anything else: was the clock set back while nothing ran?"""
        await self._clock.begin(self.now())

    async def load(self) -> None:
        """Fill the block plane's table from the database."""
        await self._table.load()

    def on_served(self, served: Sequence[BlockActivity | BlockTrouble]) -> None:
        """What the block plane served lately."""
        for one in served:
            self._submit(one, None, "block plane")

    async def run(self) -> None:
        """The pump: every second look at what is due, publish summaries."""
        while True:
            await asyncio.sleep(PUMP_S)
            try:
                await self.pump()
            except OtaBridgeError as error:
                _log.error("the pump failed, going on: %s", error)

    async def pump(self) -> None:
        """One beat."""
        self._tell_floods()
        if self._clock.follow(self.now()):
            self._work()
        if self._planes.control and (head := await self._head.news()) is not None:
            self._publish(self.dialect.state("audit", head))
        await self._publish_summaries()

    def _tell_floods(self) -> None:
        for topic, count in self.limit.dropped().items():
            if (device := self.switch.device_of(topic)) is not None:
                reason = f"{count} reports were dropped: more than {self.limit.per_s:g} a second"
                _log.warning("%s: %s", device, reason)
                self._submit(Rejected(device=device, reason=reason), None, topic)

    def _work(self) -> None:
        """A slice of what is due and of what is to be planned; the next one follows once its outputs are out."""
        if self._clock.was_set(self.now()):  # the next beat takes the deadlines along, and then goes on
            self._is_working = False
            return
        if self._is_working:
            self._is_wanted_again = True
            return

        def on_done(outcome: Outcome[Slice]) -> None:
            match outcome:
                case Committed(done):
                    self._outlet.put(done.outputs, lambda: self._rest(more=done.more))
                case Failed(error):
                    self._is_working = False
                    _log.error("what is due could not be done, trying again: %s", error, exc_info=error)

        self._is_working, self._is_wanted_again = True, False
        try:
            self.store.submit(self._slice, on_done)
        except StoreError:
            self._is_working = False

    def _slice(self, unit: UnitOfWork) -> Slice:
        now = self.now()
        if self._clock.was_set(now):
            return Slice([], more=False)

        def go_on() -> bool:
            return self.mono() - now.mono < WORK_S

        due = self.bridge.next_deadline(unit)
        ticked = Slice([], more=False) if due is None or due > now.wall else self.bridge.tick(unit, now, go_on)
        if ticked.more:
            return ticked
        planned = self.bridge.plan(unit, now, go_on)
        if planned.more or not go_on():
            return Slice(ticked.outputs + planned.outputs, more=planned.more)
        looked = self._rounds.look(self.bridge.updates(unit, now), go_on)
        return Slice(ticked.outputs + planned.outputs + looked.outputs, more=looked.more)

    def _rest(self, *, more: bool) -> None:
        if more or self._is_wanted_again:
            asyncio.get_running_loop().call_later(REST_S, self._go_on)
            return
        self._is_working = False
        self._done.set()

    def _go_on(self) -> None:
        if self.link is not None and self.link.queued > BACKLOG_MAX:
            asyncio.get_running_loop().call_later(REST_S, self._go_on)
            return
        self._is_working = False
        self._work()

    # --- summaries ---------------------------------------------------------------------------------------

    def set_plane(self, *, control: bool | None = None, blocks: bool | None = None) -> None:
        """A link went up or down."""
        if control is not None:
            self._head.forget()
            self._planes.control = control
            self._planes.published = None
            self._all_rollouts = control  # what was in flight, and what a new broker never had
        if blocks is not None:
            self._planes.blocks = blocks
        self.publish_planes()

    def publish_planes(self) -> None:
        """`state/bridge`: which of the two planes is up. Retained, and the control link's last will."""
        current = (self._planes.control, self._planes.blocks)
        if self._planes.control and current != self._planes.published:
            self._planes.published = current
            self._publish(self.dialect.state("bridge", self.planes()))

    def planes(self) -> dict[str, Any]:
        """The summary that `state/bridge` holds."""
        return {
            "control": "up" if self._planes.control else "down",
            "blocks": "up" if self._planes.blocks else "down",
            "version": __version__,
            "at": iso(self.wall()),
        }

    async def _publish_summaries(self) -> None:
        if not (self._rollouts or self._all_rollouts) or not self._planes.control:
            return
        wanted, everything = list(self._rollouts), self._all_rollouts
        self._rollouts.clear()
        self._all_rollouts = False

        def work(unit: UnitOfWork) -> list[dict[str, Any]]:
            found = list(unit.rollouts.all()) if everything else [unit.rollouts.get(name) for name in wanted]
            return [rollout_view(rollout, unit.deployments.tallies(rollout.id)) for rollout in found if rollout]

        for view in await asyncio.to_thread(self.store.read, work):
            self._publish(self.dialect.state(f"rollout/{view['id']}", view))
