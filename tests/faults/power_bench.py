"""One device that loses its power, the bridge at its other end, and the time between them: no socket, no process.

The bridge is the scripted one of the device's unit tests; it signs, offers, serves, acknowledges, and opens another
deployment when one was rolled back or failed, as the protocol says (a check-in of the old image after the `go`).
"""

from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from heapq import heappop
from random import Random

from device_sim.device import Device
from device_sim.errors import FlashPowerCut
from device_sim.flash import Contents, Cut, Flash
from device_sim.model import DeviceConfig, Fault, FaultKind, Phase, Reboot
from device_sim.outbox import Kind
from device_sim.settings import Trial
from device_sim.storage import Storage
from device_sim.trust import parse_trust
from tests.faults.families import Broken
from tests.faults.power_watch import Watch
from tests.faults.power_worlds import AUTHOR, NEWEST, REPLACED, Release, World
from tests.unit.device_sim.device_sim_bridge import Lab, leaves_of, sha, trust_document

LIMIT_S = 1200.0  # of the device's time, after the last cut
MAX_EVENTS = 10_000  # ten times what five cuts lead to
TRUST = parse_trust(trust_document([AUTHOR]))
SHORT = 8  # bytes by which a check-in names its image


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerCut:
    """At the n-th flash operation, or before the n-th event, after the power came (back), or after a moment did."""

    operation: int = 0
    event: int = 0
    how: Cut = Cut.TORN
    moment: str = ""

    def __str__(self) -> str:
        what = f"{self.how} operation {self.operation}" if self.operation else f"before event {self.event}"
        return f"{what} of {self.moment}" if self.moment else what


def no_cut(bench: "Bench") -> PowerCut | None:
    """The plan of a device that keeps its power."""
    return None


@contextmanager
def crashes():
    """What firmware raises that is no power cut is its crash."""
    try:
        yield
    except (Broken, FlashPowerCut, AssertionError):
        raise
    except Exception as error:
        raise Broken("I3", f"the firmware crashed: {type(error).__name__}: {error}") from error


@dataclass
class Bench(Lab):
    """A `Lab` whose chip stays while the power comes and goes."""

    world: World = None
    watch: Watch = None
    plan: Callable = no_cut  # asked with the bench at each power-on: the next cut, or None

    @classmethod
    def on_blank_chip(cls, world: World, offered: Release) -> "Bench":
        """A device fresh from the factory."""
        return cls._made(world, Flash(None, world.layout.chip), None, offered, seed=1)

    @classmethod
    def on(cls, world: World, contents: Contents, *, offered: Release, installed=None, seed=1, plan=no_cut) -> "Bench":
        """A device whose chip holds something."""
        flash = Flash(None, world.layout.chip)
        flash.restore(contents)
        return cls._made(world, flash, installed, offered, seed, plan)

    @classmethod
    def _made(cls, world, flash, installed, offered, seed, plan=no_cut):
        board = world.make
        config = DeviceConfig(
            product="p", device="d1", hw="r1", level=board.level, block_bytes=board.block_bytes, window=board.window
        )
        bad = world.story == "revert" and offered.seq == NEWEST
        return cls(
            path=flash,
            image=offered.image,
            payload=offered.payload,
            envelope=offered.envelope,
            config=config,
            fault=Fault(kind=FaultKind.NEVER_CONFIRM if bad else FaultKind.NONE),
            seed=seed,
            world=world,
            watch=Watch(flash, world, installed, offered),
            plan=plan,
        )

    def __post_init__(self):
        self.flash = self.path
        self.flash.probe = self.watch.operated
        self.booting_with = None
        self.armed = False
        self.cut = None  # the one that is to come
        self.cuts: list[str] = []  # those that came
        self.ended: Counter = Counter()  # what was said of deployments that are over, once for each
        self.over: set[str] = set()
        self.heard = None  # the last check-in that was acknowledged
        self.attempt = 1
        self.stage = "offered"
        self.go_in_boot = 0
        self.events = 0  # since the power came
        self.all_events = 0
        self.other_events: list[int] = []  # that are not blocks
        self.spoilt: Counter = Counter()
        super().__post_init__()
        if self.world.story == "spoiled" and self.watch.new.seq == NEWEST:
            self.mangle = self._spoil
            self.spoil_at = Random(self.seed).randrange(len(self.image))
        if self.world.story == "replaced" and self.watch.new.seq == NEWEST:
            other = self.world.release(REPLACED)
            self.watch.may_fetch.append(other.image)
            self.serve(other.digest, other.image)
            self.serve(other.payload[11], b"".join(leaves_of(other.image, 1 << self.world.make.chunk_log2)))

    # --- the device ---------------------------------------------------------------------------------------------

    def power_on(self):
        """The power comes (back): everything but the chip is gone."""
        with crashes():
            self._power_on()

    def _power_on(self):
        while True:
            self.queue.clear()
            self.events = 0
            self.flash.power_on()
            self.watch.settings_changed()
            self.cut, self.armed = self.plan(self), False
            try:
                self.storage = Storage(self.flash, self.world.layout, version=self.config.version)
                self.device = Device(
                    config=self.config, storage=self.storage, trust=TRUST, rng=self.rng, fault=self.fault
                )
                self._boot()
            except FlashPowerCut:
                self._note_cut()
            else:
                return

    def _boot(self):
        self.booting_with = self.watch.settings.trial
        self._arm()
        self.device.boot(self.now)
        self.booting_with = None
        self.watch.booted(self.device.boot_log[-1])
        self._do(self.device.connected(self.now))

    def _do(self, actions):
        for action in actions:
            if isinstance(action, Reboot):
                self.queue.clear()
                self._boot()
                return
            super()._do([action])

    def _arm(self):
        cut = self.cut
        if cut is not None and cut.operation and not self.armed and cut.moment in {"", self.moment()}:
            self.flash.cut_power_at(cut.operation, cut.how, self.rng)
            self.armed = True

    def _note_cut(self):
        self.cuts.append(f"{self.cut} ({self.moment()})")
        self.cut = None

    def moment(self):
        """What the device is about."""
        if self.booting_with is not None:
            return {Trial.NONE: "boot", Trial.PENDING: "trial", Trial.BOOTED: "revert"}[self.booting_with]
        phase = self.device.mark[0]
        if phase is Phase.TRIAL:
            return "confirm" if self.watch.trial_heard else "trial"
        if phase in {Phase.DOWNLOADED, Phase.INSTALLING}:
            return "switch"
        if phase is Phase.IDLE and self.watch.settings.final is not None:
            return "revert"
        if phase is Phase.IDLE and self.watch.settings.digest == self.digest:
            return "confirm"
        return "download"

    # --- time ---------------------------------------------------------------------------------------------------

    def go_on(self, until, what):
        """Let things happen until `until()`; cuts come as they were planned."""
        end, came = self.now + LIMIT_S, len(self.cuts)
        while not until():
            self.events += 1
            self.all_events += 1
            if self.now >= end or self.all_events > MAX_EVENTS:
                seen = f"{self.device.snapshot()} {self.states()[-8:]}"
                raise Broken("I3", f"{what}: not within {LIMIT_S:.0f} s and {MAX_EVENTS:,} events: {seen}")
            try:
                if self.cut is not None and self.events == self.cut.event:
                    self._note_cut()
                    self.power_on()
                else:
                    self._arm()
                    with crashes():
                        self._next_event(end)
            except FlashPowerCut:
                self._note_cut()
                self.power_on()
            if len(self.cuts) > came:
                end, came = self.now + LIMIT_S, len(self.cuts)

    def _next_event(self, end):
        deadline = self.device.deadline_s()
        if self.queue and (deadline is None or self.queue[0][0] <= max(deadline, self.now)):
            self.now = max(self.now, self.queue[0][0])
            _, _, kind, payload = heappop(self.queue)
            self.other_events += [self.events] if kind == "update" else []
            event = self.device.update if kind == "update" else self.device.block
            self._do(event(payload, self.now))
            return
        self.now = max(self.now, end if deadline is None else deadline)
        self.other_events.append(self.events)
        self._do(self.device.tick(self.now))

    # --- the bridge ---------------------------------------------------------------------------------------------

    def _report(self, payload):
        self.on_report = self._listen
        super()._report(payload)

    def _listen(self, report):
        if report["type"] == "report_version":
            self._listen_to_check_in(report)
            return
        state, deployment = report["report"]["progress"]["state"], report["id"]
        if state == "burning":
            self.watch.allowed.add(deployment)
            self.stage, self.go_in_boot = "installing", report["boot"]
        elif state in {"rolled_back", "fail"} and deployment not in self.over:
            self.over.add(deployment)
            self.ended[state] += 1
            if deployment == self.deployment:
                self._next_attempt()

    def _listen_to_check_in(self, report):
        self.heard = report
        _, _, digest, trial = report["parts"]["firmware"]
        if digest == self.digest[:SHORT]:
            self.stage = "trial" if trial else "confirmed"
            self.watch.trial_heard = bool(trial)
        elif self.stage in {"installing", "trial"} and report["boot"] != self.go_in_boot:
            if self.stage == "trial" and self.world.story == "revert":
                self.offering = False  # enough is known of this image
            self._next_attempt()

    def _next_attempt(self):
        self.attempt += 1
        self.deployment = f"attempt{self.attempt}"
        self.stage = "offered"

    def _spoil(self, block):
        """Damage one block of the chunk list and one of the image, once each."""
        artifact, offset, data = block
        hit = artifact != self.digest[: len(artifact)] or offset <= self.spoil_at < offset + len(data)
        if artifact == sha(self.envelope)[: len(artifact)] or self.spoilt[artifact] or not hit:
            return block
        self.spoilt[artifact] += 1
        return [artifact, offset, bytes([data[0] ^ 0x10]) + data[1:]]

    # --- the end ------------------------------------------------------------------------------------------------

    @property
    def wanted(self) -> Release:
        """What the device is to run in the end."""
        bad = self.fault.kind is FaultKind.NEVER_CONFIRM
        return self.watch.old if bad else self.watch.new

    def is_over(self):
        """The bridge has heard all that there is to hear, and the device rests."""
        if self.heard is None or self.stage in {"installing", "trial"} or self.device.mark[0] is not Phase.IDLE:
            return False
        settings = self.storage.settings
        if self.fault.kind is FaultKind.NEVER_CONFIRM and self.offering:
            return False
        told = self.heard["boot"] == settings.boot and self.heard["parts"]["firmware"][2:] == [
            self.wanted.digest[:SHORT],
            0,
        ]
        waits = any(self.device._session.outbox.waits(kind) for kind in (Kind.CHECK_IN, Kind.FINAL))
        return told and settings.final is None and not waits

    def to_the_end(self):
        """Run the update to where it rests, and look at what has become of it."""
        self.go_on(self.is_over, "the update did not end")
        count = len(self.check_ins())
        self.send({"type": "check_in"}, after_s=2.0)
        self.go_on(lambda: len(self.check_ins()) > count and self.is_over(), "a check-in that was asked for")
        self.heard = None
        self.power_on()
        self.go_on(self.is_over, "the first check-in of a quiet boot")
        self._check_end()

    def _check_end(self):
        watch, boot = self.watch, self.watch.boots[-1]
        counter = self.storage.settings.seqs.get("firmware", 0)
        if (boot.digest, counter, boot.trial) != (self.wanted.digest, self.wanted.seq, False):
            raise Broken(
                "I6", f"the bridge believes in seq {self.wanted.seq}, the device runs {boot}, counter {counter}"
            )
        unconfirmed = watch.trials - watch.confirms
        if self.ended["rolled_back"] != unconfirmed:
            raise Broken("I3", f"{unconfirmed} trials failed, {self.ended['rolled_back']} were reported")
        spoilt = sum(self.spoilt.values()) if self.config.level == "L0" else 0
        if self.ended["fail"] > spoilt:
            raise Broken("I3", f"the device failed {self.ended['fail']} updates: {self.reports[-9:]}")
        whole = 1 + unconfirmed + self.ended["fail"]
        board = self.world.make
        slot = self.world.layout.slots[boot.slot if self.wanted is watch.new else 1 - boot.slot]
        self._check_fetched(self.digest, len(self.image), slot.unit_bytes(1 << board.chunk_log2), whole)
        if board.level == "L1":
            leaves = -(-len(self.image) // (1 << board.chunk_log2)) * 32
            self._check_fetched(self.payload[11], leaves, self.world.layout.chunk_list.sector_bytes, whole)

    def _check_fetched(self, digest, size, unit, whole):
        window = self.config.block_bytes * self.config.window
        asked = 0
        for artifact, offset, block, count, *missing in self.requests:
            if digest.startswith(artifact):
                wanted = sum(byte.bit_count() for byte in missing[0]) if missing else count
                asked += min(min(wanted, count) * block, size - offset)
        again = size if digest != self.digest else unit + window  # what a damaged block costs
        allowed = whole * size + len(self.cuts) * (min(unit, size) + window) + self.spoilt[digest[:8]] * again
        if asked > allowed:
            raise Broken("I9", f"{asked} bytes of {size} were fetched, {allowed} are allowed")
