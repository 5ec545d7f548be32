"""Devices: who they are, what they run, what is assigned to them, when they were last heard.

Rules: the topic is the only proof of identity; a device's own reports are the truth about what it runs; a hardware id
that changes is recorded beside the registered one, never over it, and stops offers until an operator decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from ota_bridge.core.errors import BlockRefusal, Conflict
from ota_bridge.core.messages import CheckIn, Encoding, InstalledPart
from ota_bridge.core.records import record, replace
from ota_bridge.core.values import DeviceId, ReleaseId, RolloutId, Share

HEARD_MAX: Final = 100_000
"""Topics that a limit of reports remembers; those that are quiet are forgotten first."""
TOPIC_MAX: Final = 256
"""A longer topic names no device; it is not remembered."""


class DeviceState(StrEnum):
    """Whether a device takes part."""

    PENDING = "pending"
    """Seen, waiting for an operator's approval (`enrol = approve`)."""
    ACTIVE = "active"
    RETIRED = "retired"


class Enrol(StrEnum):
    """Who may appear."""

    OPEN = "open"
    LISTED = "listed"
    APPROVE = "approve"


@record
class Assignment:
    """The release that a component of a device should run, and the rollout that said so."""

    release: ReleaseId
    rollout: RolloutId | None


@record
class Silence:
    """The last things that happened on the way to a device that are not reports; for `why`."""

    refusal: BlockRefusal | None = None
    refusal_wall: float | None = None
    refusals: int = 0
    waits_for: Share | None = None
    """What the last refusal was for want of, and after how long it told the device to come back."""
    retry_after_s: int = 0
    rejected: int = 0
    rejected_reason: str = ""
    rejected_wall: float | None = None
    clashes: int = 0
    """Reports that reused the key of another with other content."""
    keyset_refused: str = ""
    """Why it refused the step to the next keyset, as its last check-in says."""
    told_silent_wall: float | None = None
    """Since when it was expected in vain as operators were told that it is silent: once for each such time."""


@record
class Device:
    """One device as the bridge knows it. Times are wall seconds."""

    id: DeviceId
    state: DeviceState
    created_wall: float
    hw: str | None = None
    hw_reported: str | None = None
    """Set while it differs from `hw`."""
    label: str = ""
    tags: tuple[str, ...] = ()
    attrs: Mapping[str, str | int] = field(default_factory=dict)
    """What operators attached by name (batch, model, year …); queries ask for it."""
    dialect: str = ""
    encoding: Encoding = Encoding.JSON
    proto: int = 0
    boot: int | None = None
    nonce: bytes | None = None
    max_packet: int | None = None
    max_block: int | None = None
    max_window: int | None = None
    parts: Mapping[str, InstalledPart] = field(default_factory=dict)
    have: tuple[tuple[bytes, int], ...] = ()
    assigned: Mapping[str, Assignment] = field(default_factory=dict)
    keyset: int | None = None
    """The version of its keyset; None: it takes no other than the factory's."""
    last_report_wall: float | None = None
    next_check_in_wall: float | None = None
    last_offer_wall: float | None = None
    last_block_wall: float | None = None
    trouble: Silence = Silence()

    @property
    def has_hw_conflict(self) -> bool:
        """True while the device reports another hardware id than it is registered with."""
        return self.hw_reported is not None

    def checked_in(self, report: CheckIn, wall: float) -> "Device":
        """This device after a check-in: what it runs, can take and speaks now."""
        changed_hw = self.hw is not None and report.hw is not None and report.hw != self.hw
        trouble = self.trouble
        if trouble.keyset_refused != report.keyset_refused:
            trouble = replace(trouble, keyset_refused=report.keyset_refused)
        return replace(
            self,
            hw=self.hw or report.hw,
            hw_reported=report.hw if changed_hw else None,
            dialect=report.dialect,
            encoding=report.encoding,
            proto=report.proto,
            boot=report.key.boot if report.key else None,
            nonce=report.nonce,
            max_packet=report.max_packet,
            max_block=report.max_block,
            max_window=report.max_window,
            parts={**self.parts, **report.parts} if report.keeps_parts else dict(report.parts),
            have=report.have,
            keyset=report.keyset,
            trouble=trouble,
            last_report_wall=wall,
            next_check_in_wall=None if report.next_s is None else wall + report.next_s,
        )

    def assign(self, component: str, assignment: Assignment | None) -> "Device":
        """This device with another standing assignment for a component; None takes it away."""
        assigned = {name: kept for name, kept in self.assigned.items() if name != component}
        if assignment is not None:
            assigned[component] = assignment
        return replace(self, assigned=assigned)

    def approved(self) -> "Device":
        """This device, taking part; raises Conflict unless it waits for approval."""
        if self.state is not DeviceState.PENDING:
            raise Conflict(f"device {self.id} is {self.state}, not pending")
        return replace(self, state=DeviceState.ACTIVE)

    def retired(self) -> "Device":
        """This device, out of every rollout; raises Conflict if it is retired already."""
        if self.state is DeviceState.RETIRED:
            raise Conflict(f"device {self.id} is already retired")
        return replace(self, state=DeviceState.RETIRED, assigned={})


def runs(installed: InstalledPart | None, *, version: str, image_sha256: bytes) -> bool:
    """True if `installed` is that image: by digest where the device knows it, else by version."""
    if installed is None:
        return False
    if installed.digest8:
        return image_sha256.startswith(installed.digest8)
    return installed.version == version


@dataclass(slots=True)
class CreationLimit:
    """How fast unknown devices may be created: `per_s` on average, `burst` at once (GCRA, one field of state)."""

    per_s: float
    burst: int
    _ready_mono: float = 0.0

    def allow(self, mono: float) -> bool:
        """True, and counted, if one more device may be created at `mono`."""
        interval_s = 1.0 / self.per_s
        ready = max(self._ready_mono, mono)
        if ready - mono > interval_s * (self.burst - 1) + 1e-9:
            return False
        self._ready_mono = ready + interval_s
        return True


@dataclass(slots=True)
class ReportLimit:
    """How many reports are taken on one topic: `per_s` on average, `burst` at once (GCRA, a number for each topic)."""

    per_s: float = 10.0
    burst: int = 100
    _ready_mono: dict[str, float] = field(default_factory=dict)
    _dropped: dict[str, int] = field(default_factory=dict)

    def allow(self, topic: str, mono: float) -> bool:
        """True, and counted, if one more report may be taken at `mono`."""
        if len(topic) > TOPIC_MAX:
            return True
        interval_s = 1.0 / self.per_s
        ready = max(self._ready_mono.get(topic, mono), mono)
        if ready - mono > interval_s * (self.burst - 1) + 1e-9:
            self._dropped[topic] = self._dropped.get(topic, 0) + 1
            return False
        if len(self._ready_mono) >= HEARD_MAX and topic not in self._ready_mono:
            self._forget_quiet(mono)
        self._ready_mono[topic] = ready + interval_s
        return True

    def dropped(self) -> dict[str, int]:
        """How many were dropped on which topic since this was last asked."""
        dropped, self._dropped = self._dropped, {}
        return dropped

    def _forget_quiet(self, mono: float) -> None:
        kept = {topic: ready for topic, ready in self._ready_mono.items() if ready > mono}
        self._ready_mono = kept if len(kept) < HEARD_MAX else {}
