"""What a run of the simulator found out, for people and for programs."""

from dataclasses import asdict, dataclass
from typing import Any

from device_sim.device import Device
from device_sim.model import Fault, Result
from device_sim.storage import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceReport:
    """How one device ended. `slot_ok`: the image read back from its slot is the one its manifest names."""

    device: str
    old_version: str
    new_version: str
    result: str
    reason: str
    slot_ok: bool
    stale: bool
    sha256: str
    bytes_payload: int
    bytes_image: int
    blocks: int
    retries: int
    seconds: float
    boots: int
    erases: int
    requests: int
    bad_chunks: int
    malformed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetReport:
    """How all of them ended; `ok` when every device that was meant to confirm has, with the right image."""

    devices: tuple[DeviceReport, ...]
    ok: bool

    def totals(self) -> dict[str, Any]:
        """The sums over the fleet."""
        results = [device.result for device in self.devices]
        sums = {
            name: sum(getattr(device, name) for device in self.devices)
            for name in ("bytes_payload", "bytes_image", "blocks", "retries", "requests")
        }
        seconds = max((device.seconds for device in self.devices), default=0.0)
        counts = {result: results.count(result) for result in sorted(set(results))}
        ratio = round(sums["bytes_payload"] / sums["bytes_image"], 4) if sums["bytes_image"] else 0.0
        stale = sum(device.stale for device in self.devices)
        counts |= {"stale": stale} if stale else {}
        return {"devices": len(results), **counts, **sums, "payload_ratio": ratio, "seconds": seconds, "ok": self.ok}

    def as_json(self) -> dict[str, Any]:
        """The final line of `--json`."""
        return {"type": "report", "devices": [asdict(device) for device in self.devices], "totals": self.totals()}


def device_report(device: Device, storage: Storage, *, started_as: str, failure: str, now_s: float) -> DeviceReport:
    """Read a device's image back from its slot and say how it ended."""
    settings, seen, stats = storage.settings, device.snapshot(), device.stats
    digest = b"" if settings.factory else storage.digest(settings.active, settings.size_bytes)
    slot_ok = settings.factory or digest == settings.digest
    result, reason = str(seen.result), seen.reason
    if seen.result is Result.NONE or not (seen.settled or failure):
        result, reason = "unfinished", reason or f"still {seen.phase}"
    if failure:
        result, reason = str(Result.FAILED), failure
    if not slot_ok:
        result, reason = str(Result.FAILED), "the image in the slot is not the one that was installed"
    began_s = now_s if stats.started_s is None else stats.started_s
    ended_s = now_s if stats.ended_s is None else stats.ended_s
    return DeviceReport(
        device=device.config.device,
        old_version=started_as if started_as != settings.version else device.config.version,
        new_version=settings.version,
        result=result,
        reason=reason,
        slot_ok=slot_ok,
        stale=device.look_stale(now_s),
        sha256=digest.hex(),
        bytes_payload=stats.bytes_payload,
        bytes_image=settings.size_bytes,
        blocks=stats.blocks,
        retries=stats.retries,
        seconds=round(ended_s - began_s, 3),
        boots=stats.boots,
        erases=storage.image_erases,
        requests=stats.requests,
        bad_chunks=stats.bad_chunks,
        malformed=stats.malformed,
    )


def is_ok(report: DeviceReport, fault: Fault) -> bool:
    """Whether a device ended as it was meant to."""
    return report.slot_ok and (report.result == Result.CONFIRMED or not fault.may_confirm)
