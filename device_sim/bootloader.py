"""What runs before the firmware: it picks the slot, and gives a new image exactly one chance.

1. A pending trial whose manifest and digest hold boots once; the boot is recorded before the image runs.
2. A trial that was booted and is not confirmed now (watchdog, reboot, power cut) is over: back to the other.
3. No image boots whose digest or manifest signature does not hold; the factory firmware is in ROM, so there
   is always something that can check in.
4. Each boot writes one record: boot counter, trial and the report of what happened change together.
"""

import logging
from dataclasses import dataclass
from typing import Any

from device_sim.errors import ManifestRefused
from device_sim.manifest import Manifest, read_manifest
from device_sim.settings import Final, Trial
from device_sim.storage import Storage
from device_sim.trust import Trust

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What was booted. `manifest` is None for the firmware of the factory."""

    number: int
    slot: int
    version: str
    trial: bool
    manifest: Manifest | None


def boot(storage: Storage, trust: Trust, *, factory_version: str) -> Boot:
    """Pick what runs now, record it, and say so."""
    storage.mount(factory_version)
    settings = storage.settings
    number = settings.boot + 1
    if settings.trial is Trial.PENDING:
        manifest = verified(storage, trust, 1 - settings.active)
        if manifest is not None:
            storage.save(boot=number, trial=Trial.BOOTED, installing=False)
            return _booted(number, 1 - settings.active, manifest, trial=True)
        storage.save(boot=number, **_back(storage, manifest_version(storage, trust), "the new image does not verify"))
    elif settings.trial is Trial.BOOTED:
        storage.save(boot=number, **_back(storage, manifest_version(storage, trust), "not confirmed"))
    elif settings.installing:
        storage.save(boot=number, **_back(storage, manifest_version(storage, trust), "restarted while installing"))
    else:
        storage.save(boot=number)
    return _old(storage, trust, number, factory_version)


def verified(storage: Storage, trust: Trust, slot: int) -> Manifest | None:
    """The manifest of a slot whose signature holds and whose image is the one it names."""
    envelope = storage.envelope(slot)
    if envelope is None:
        return None
    try:
        manifest = read_manifest(trust, envelope)
    except ManifestRefused:
        return None
    if not 0 < manifest.size_bytes <= storage.slot_bytes:
        return None
    return manifest if storage.digest(slot, manifest.size_bytes) == manifest.digest else None


def manifest_version(storage: Storage, trust: Trust) -> str:
    """The version that the inactive slot's manifest names, for a report about it."""
    envelope = storage.envelope(1 - storage.settings.active)
    try:
        return "" if envelope is None else read_manifest(trust, envelope).version
    except ManifestRefused:
        return ""


def _back(storage: Storage, version: str, reason: str) -> dict[str, Any]:
    deployment = storage.settings.trial_id
    final = Final(id=deployment, state="rolled_back", code="-1", reason=reason, version=version)
    return {
        "trial": Trial.NONE,
        "trial_id": "",
        "installing": False,
        "download": None,
        "final": final if deployment else storage.settings.final,
    }


def _old(storage: Storage, trust: Trust, number: int, factory_version: str) -> Boot:
    settings = storage.settings
    if settings.factory:
        return Boot(number=number, slot=settings.active, version=settings.version, trial=False, manifest=None)
    manifest = verified(storage, trust, settings.active)
    if manifest is not None:
        return _booted(number, settings.active, manifest, trial=False)
    log.warning("boot %d: slot %d does not verify, back to the factory's", number, settings.active)
    storage.save(factory=True, version=factory_version, digest=b"", size_bytes=0, download=None)
    return Boot(number=number, slot=settings.active, version=factory_version, trial=False, manifest=None)


def _booted(number: int, slot: int, manifest: Manifest, *, trial: bool) -> Boot:
    log.info("boot %d: slot %d, %s, sha256 %s", number, slot, manifest.version, manifest.digest.hex())
    return Boot(number=number, slot=slot, version=manifest.version, trial=trial, manifest=manifest)
