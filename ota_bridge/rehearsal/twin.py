"""A device of a rehearsal: what it does when it hears from the bridge, and when its time has come.

Written from the protocol, as a device is: it fetches what it is offered, says what it has, installs on the word `go`,
checks in from the new image, and confirms it. It knows no clock: `Here` tells it the time and does what it wants done.
A report is committed and acknowledged at once here, so a twin repeats none; and it does not poll while there is nothing
that a poll could change.
"""

from dataclasses import dataclass
from enum import IntEnum, auto
from math import inf
from random import Random
from typing import Final, Protocol

from ota_bridge.core.deployment import State
from ota_bridge.core.errors import RefusedReason
from ota_bridge.core.manifest import ManifestFacts
from ota_bridge.core.messages import (
    BlockActivity,
    CheckIn,
    Encoding,
    InstalledPart,
    Offer,
    Progress,
    ReportAck,
    ReportKey,
    ReportState,
    Uplink,
)
from ota_bridge.core.values import DeploymentId, DeviceId
from ota_bridge.rehearsal.cohort import Cohort

TOLD_S: Final = 1.0
"""The block plane tells what it served once a second."""
LEAF_BYTES: Final = 32
COME_BACK: Final = (1.0, 1.5)
"""Who is told to wait for so long comes back after that, times a number between these."""
_CONTENT: Final = bytes(8)
_NONCE: Final = bytes(16)


class Phase(IntEnum):
    """What a twin is busy with."""

    IDLE = auto()
    ASKING = auto()
    """For a download slot."""
    FETCHING = auto()
    ASLEEP = auto()
    """In the middle of a download."""
    DOWNLOADED = auto()
    """It was told to wait with the install."""
    INSTALLING = auto()
    TRIAL = auto()


class Wake(IntEnum):
    """What a twin wanted to be called for."""

    ASK = auto()
    TELL = auto()
    """The block plane's word of what it was served."""
    BOOT = auto()
    GIVE_UP = auto()
    FALL_ASLEEP = auto()
    COME_BACK = auto()
    POLL = auto()


ANY_TIME: Final = frozenset({Wake.COME_BACK, Wake.POLL})
"""These stay wanted when the twin has gone on to something else."""


class Here(Protocol):
    """What surrounds a twin."""

    @property
    def now_s(self) -> float: ...
    @property
    def wall(self) -> float: ...
    @property
    def tell_every_s(self) -> float:
        """How often a long download is told of."""
        ...

    def say(self, uplink: Uplink) -> None: ...
    def later(self, twin: "Twin", after_s: float, what: Wake) -> None: ...
    def slot(self, twin: "Twin") -> int:
        """0: it may fetch; else after how many seconds to ask again."""
        ...

    def fetch(self, twin: "Twin", size_bytes: float) -> None: ...
    def halt(self, twin: "Twin") -> float:
        """End its download; how many bytes it lacks."""
        ...

    def image(self, offer: Offer) -> ManifestFacts:
        """What the manifest says that was offered."""
        ...


@dataclass(slots=True, eq=False, kw_only=True)
class Twin:
    """See the module."""

    id: DeviceId
    cohort: Cohort
    chance: Random
    parts: dict[str, InstalledPart]
    hw: str | None = "r1"
    ends: State = State.CONFIRMED
    """How each attempt ends on this device."""
    away_until_s: float = 0.0
    slept_s: float = 0.0
    """How far into its sleep's period it was at the start."""
    boot: int = 1
    seq: int = 0
    phase: Phase = Phase.IDLE
    turn: int = 0
    """Counts what it began; what it wanted to be called for before is void then."""
    deployment: DeploymentId | None = None
    manifest: ManifestFacts | None = None
    lacks_bytes: float = 0.0
    is_awaited: bool = False
    """It will be called when it is back."""

    # --- what it hears -----------------------------------------------------------------------------------

    def hears_offer(self, offer: Offer, here: Here) -> None:
        """A notice that an update waits."""
        if not self._listens(here):
            return
        if self.phase in {Phase.INSTALLING, Phase.TRIAL}:
            return  # the check-in that follows is answered with it again
        if self.deployment == offer.deployment:
            if self.phase is Phase.DOWNLOADED:
                self._burn(here)
            return
        if self.phase is Phase.FETCHING:
            here.halt(self)
        manifest = here.image(offer)
        self.deployment, self.manifest = offer.deployment, manifest
        chunks = -(-manifest.size_bytes // manifest.chunk_bytes)
        # The last window comes as fast as the line is: a device waits before it asks, not after.
        whole = manifest.size_bytes + LEAF_BYTES * chunks - self.cohort.block_bytes * self.cohort.window
        cut_short = self.ends in {State.FAILED, State.TIMED_OUT}
        self.lacks_bytes = max(1.0, whole) * (self.chance.random() if cut_short else 1.0)
        self._ask(here)

    def hears_acknowledgement(self, ack: ReportAck, here: Here) -> None:
        """What the bridge says to `burning`."""
        if self.phase is not Phase.INSTALLING or not self._listens(here):
            return
        if self.deployment in ack.go:
            self._goes_on(Phase.INSTALLING)
            here.later(self, self.chance.uniform(*self.cohort.reboot_s), Wake.BOOT)
        elif self.deployment in ack.stop:
            self._goes_on(Phase.DOWNLOADED)

    def hears_cancel(self, deployment: DeploymentId, here: Here) -> None:
        """Nobody wants it any more."""
        if not self._listens(here):
            return
        if self.deployment == deployment and self.phase in {Phase.INSTALLING, Phase.TRIAL}:
            self._says(here, ReportState.TOO_LATE, deployment)
            return
        if self.deployment == deployment:
            here.halt(self)
            self._ends()
        self._says(here, ReportState.CANCELED, deployment)

    def hears_request(self, here: Here) -> None:
        """Check in now."""
        if self._listens(here):
            here.later(self, self.chance.uniform(0.0, 0.1), Wake.POLL)

    def is_owed(self, here: Here) -> None:
        """Its next poll can change something."""
        if self._listens(here):
            here.later(self, self.chance.uniform(0.0, self.cohort.check_in_every_s), Wake.POLL)

    # --- when its time has come --------------------------------------------------------------------------

    def wakes(self, what: Wake, here: Here) -> None:
        """What it wanted to be called for is due."""
        match what:
            case Wake.ASK:
                self._ask(here)
            case Wake.TELL:
                self._is_told_of(here)
            case Wake.BOOT:
                self._boots_new(here)
            case Wake.GIVE_UP:
                self._boots_old(here)
            case Wake.FALL_ASLEEP:
                self._falls_asleep(here)
            case Wake.COME_BACK:
                self._comes_back(here)
            case Wake.POLL:
                if self._listens(here):
                    self.checks_in(here)

    def has_fetched(self, here: Here) -> None:
        """The last byte has come, or the last that this device takes."""
        self.lacks_bytes = 0.0
        deployment = self.deployment
        assert deployment is not None
        if self.ends is State.TIMED_OUT:
            self._goes_on(Phase.IDLE)
            self.away_until_s = inf
        elif self.ends is State.FAILED:
            self._ends()
            self._says(here, ReportState.FAIL, deployment, code=RefusedReason.DIGEST)
        else:
            self._goes_on(Phase.DOWNLOADED)
            self._says(here, ReportState.DOWNLOADED, deployment)
            self._burn(here)

    def checks_in(self, here: Here, *, new_boot: bool = False) -> None:
        """Say what runs."""
        if new_boot:
            self.boot, self.seq = self.boot + 1, 0
        self.seq += 1
        here.say(
            CheckIn(
                device=self.id,
                dialect="native",
                encoding=Encoding.MSGPACK,
                key=ReportKey(boot=self.boot, seq=self.seq, content=_CONTENT),
                parts=dict(self.parts),
                proto=1,
                hw=self.hw,
                nonce=_NONCE,
            )
        )

    # --- what it does ------------------------------------------------------------------------------------

    def _goes_on(self, phase: Phase) -> None:
        self.phase = phase
        self.turn += 1

    def _ends(self) -> None:
        self._goes_on(Phase.IDLE)
        self.deployment = self.manifest = None

    def _ask(self, here: Here) -> None:
        if not self._listens(here):
            self._goes_on(Phase.ASLEEP)
            return
        wait_s = here.slot(self)
        self._goes_on(Phase.ASKING if wait_s else Phase.FETCHING)
        if wait_s:
            here.later(self, wait_s * self.chance.uniform(*COME_BACK), Wake.ASK)
            return
        here.fetch(self, self.lacks_bytes)
        here.later(self, self.chance.uniform(0.0, TOLD_S), Wake.TELL)
        if self.cohort.period_s:
            here.later(self, self.cohort.awake_s - self._in_period_s(here.now_s), Wake.FALL_ASLEEP)

    def _is_told_of(self, here: Here) -> None:
        assert self.deployment is not None
        here.slot(self)  # its requests keep the slot
        here.say(
            BlockActivity(
                device=self.id,
                deployment=self.deployment,
                wall=here.wall,
                bytes_sent=self.cohort.block_bytes,
                blocks_sent=1,
                requests=1,
                high_water_bytes=self.cohort.block_bytes,
            )
        )
        here.later(self, here.tell_every_s, Wake.TELL)

    def _burn(self, here: Here) -> None:
        assert self.deployment is not None
        self._goes_on(Phase.INSTALLING)
        self._says(here, ReportState.BURNING, self.deployment)

    def _boots_new(self, here: Here) -> None:
        manifest = self.manifest
        assert manifest is not None
        self._goes_on(Phase.TRIAL)
        before = self.parts.get(manifest.component)
        new = InstalledPart(version=manifest.version, seq=manifest.seq, digest8=bytes(manifest.sha256[:8]), trial=True)
        self.parts[manifest.component] = new
        self.checks_in(here, new_boot=True)
        if self.ends is State.ROLLED_BACK:
            if before is not None:
                self.parts[manifest.component] = before
            here.later(self, self.cohort.watchdog_s + self.chance.uniform(*self.cohort.reboot_s), Wake.GIVE_UP)
            return
        self.parts[manifest.component] = InstalledPart(version=new.version, seq=new.seq, digest8=new.digest8)
        self._ends()
        self.checks_in(here)

    def _boots_old(self, here: Here) -> None:
        self._ends()
        self.checks_in(here, new_boot=True)

    def _says(self, here: Here, state: ReportState, deployment: DeploymentId, *, code: str = "0") -> None:
        self.seq += 1
        component = "firmware" if self.manifest is None else self.manifest.component
        here.say(
            Progress(
                device=self.id,
                dialect="native",
                key=ReportKey(boot=self.boot, seq=self.seq, content=_CONTENT),
                deployment=deployment,
                component=component,
                state=state,
                result_code=code,
            )
        )

    # --- whether it is there -----------------------------------------------------------------------------

    def _in_period_s(self, now_s: float) -> float:
        return (now_s + self.slept_s) % self.cohort.period_s

    def back_after_s(self, now_s: float) -> float:
        """How long until it hears something; 0: it does."""
        if now_s < self.away_until_s:
            return self.away_until_s - now_s
        period_s = self.cohort.period_s
        if not period_s:
            return 0.0
        at_s = self._in_period_s(now_s)
        return 0.0 if at_s < self.cohort.awake_s else period_s - at_s

    def _listens(self, here: Here) -> bool:
        """True if it is there; else it will check in once it is, for it has missed something."""
        back_s = self.back_after_s(here.now_s)
        if not back_s:
            return True
        if back_s < inf and not self.is_awaited:
            self.is_awaited = True
            here.later(self, back_s, Wake.COME_BACK)
        return False

    def _falls_asleep(self, here: Here) -> None:
        self.lacks_bytes = here.halt(self)
        self._goes_on(Phase.ASLEEP)
        self._listens(here)

    def _comes_back(self, here: Here) -> None:
        self.is_awaited = False
        if not self._listens(here):
            return
        self.checks_in(here)
        if self.phase is Phase.ASLEEP:
            self._ask(here)
