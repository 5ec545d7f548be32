"""The plain data of one simulated device: how it is configured, what it counts, what it asks its shell to do."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, Self

from device_sim.errors import OptionError
from device_sim.wire import Encoding

Level = Literal["L0", "L1"]
DEFAULT_SLOT_BYTES: Final = 16 * 1024 * 1024
DEFAULT_STALE_AFTER_S: Final = 30.0 * 86_400


class Phase(StrEnum):
    """What a device is busy with."""

    IDLE = "idle"
    FETCHING = "fetching"
    DOWNLOADING = "downloading"
    DOWNLOADED = "downloaded"
    INSTALLING = "installing"
    TRIAL = "trial"


class Result(StrEnum):
    """How the last update ended."""

    NONE = "none"
    CONFIRMED = "confirmed"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    CANCELED = "canceled"


class FaultKind(StrEnum):
    """Something that goes wrong on purpose."""

    NONE = "none"
    NEVER_CONFIRM = "never_confirm"
    REBOOT_IN = "reboot_in"
    FACTORY_RESET = "factory_reset"
    CORRUPT_CHUNK = "corrupt_chunk"
    CORRUPT_CHUNK_ONCE = "corrupt_chunk_once"
    POWER_CUTS = "power_cuts"


REBOOT_PHASES: Final = (Phase.DOWNLOADED, Phase.INSTALLING, Phase.TRIAL)


@dataclass(slots=True, kw_only=True)
class Fault:
    """One fault of one device; it fires once, except those that stand for a broken image, line or power supply."""

    kind: FaultKind = FaultKind.NONE
    phase: Phase | None = None
    chunk: int = -1
    cuts: int = 0
    armed: bool = True

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a fault as the command line names it; the error of an unknown one lists them all."""
        name, _, value = text.partition("=")
        try:
            kind = FaultKind(name)
            if kind is FaultKind.REBOOT_IN and Phase(value.lower()) in REBOOT_PHASES:
                return cls(kind=kind, phase=Phase(value.lower()))
            if kind in {FaultKind.CORRUPT_CHUNK, FaultKind.CORRUPT_CHUNK_ONCE} and value.isdecimal():
                return cls(kind=kind, chunk=int(value))
            if kind is FaultKind.POWER_CUTS and value.isdecimal():
                return cls(kind=kind, cuts=int(value))
            if kind in {FaultKind.NONE, FaultKind.NEVER_CONFIRM, FaultKind.FACTORY_RESET} and not value:
                return cls(kind=kind)
        except ValueError:
            pass
        raise OptionError(
            f"there is no fault {text[:40]!r}: never_confirm, reboot_in=DOWNLOADED|INSTALLING|TRIAL, factory_reset,"
            " corrupt_chunk=N, corrupt_chunk_once=N or power_cuts=N"
        )

    def fires(self, kind: FaultKind, phase: Phase | None = None) -> bool:
        """Whether this fault happens now; afterwards it does not any more."""
        if not self.armed or self.kind is not kind or self.phase is not phase:
            return False
        self.armed = False
        return True

    @property
    def may_confirm(self) -> bool:
        """Whether a device with this fault is meant to confirm in the end."""
        if self.kind is FaultKind.REBOOT_IN:
            return self.phase is Phase.DOWNLOADED
        # A power cut in a trial ends it, by rule.
        return self.kind not in {FaultKind.NEVER_CONFIRM, FaultKind.CORRUPT_CHUNK, FaultKind.POWER_CUTS}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """One device as it left the factory, and how it behaves. `version` is the factory's."""

    product: str
    device: str
    hw: str
    version: str = "1.0.0"
    component: str = "firmware"
    until: str = ""
    block_bytes: int = 1024
    window: int = 4
    max_packet: int = 20_000
    pace_bps: int = 0
    encoding: Encoding = "msgpack"
    level: Level = "L1"
    slot_bytes: int = DEFAULT_SLOT_BYTES
    check_in_every_s: float = 30.0
    sleeps_s: float = 0.0
    watchdog_s: float = 120.0
    stale_after_s: float = DEFAULT_STALE_AFTER_S


@dataclass(slots=True, kw_only=True)
class Stats:
    """What a device counted since its process began."""

    bytes_payload: int = 0
    blocks: int = 0
    requests: int = 0
    retries: int = 0
    reports: int = 0
    boots: int = 0
    bad_chunks: int = 0
    malformed: int = 0
    dropped: int = 0
    block_refusals: int = 0
    started_s: float | None = None
    ended_s: float | None = None


@dataclass(frozen=True, slots=True)
class Publish:
    """Send these bytes: a report (QoS 1) or a block request (QoS 0)."""

    topic: Literal["report", "get"]
    payload: bytes


@dataclass(frozen=True, slots=True)
class Reboot:
    """Drop the connection, lose the memory, boot."""


Action = Publish | Reboot


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What there is to see of a device from outside."""

    device: str
    phase: Phase
    result: Result
    reason: str
    version: str
    offered_version: str
    position: int
    size_bytes: int
    settled: bool
    stale: bool
    stats: Stats = field(default_factory=Stats)
