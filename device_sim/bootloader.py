"""What runs before the firmware: it picks the slot, and gives a new image exactly one chance.

1. A pending trial whose manifest and digest hold boots once; the boot is recorded before the image runs.
2. A trial that was booted and is not confirmed now (watchdog, reboot, power cut) is over: back to the other.
3. No image boots whose digest or manifest signature does not hold, that was made for another class, or whose
   seq is below the stored one; the firmware of the factory is in ROM, so there is always something that can
   check in. What was confirmed needs no signature again: its author's key may be revoked, its epoch over.
4. Each boot writes one record: boot counter, trial and the report of what happened change together.
5. Each boot is logged with the digest of the bytes that are in the slot, whatever its manifest says.
"""

import hashlib
import logging
from dataclasses import dataclass
from typing import Any

from device_sim.errors import ManifestRefused
from device_sim.manifest import Identity, Installed, Manifest, judge, own_manifest, read_manifest
from device_sim.settings import Final, Trial
from device_sim.storage import Storage
from device_sim.trust import Trust

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Boot:
    """What was booted. `manifest` is None, and `digest` empty, for the firmware of the factory."""

    number: int
    slot: int
    version: str
    trial: bool
    manifest: Manifest | None
    digest: bytes


def boot(storage: Storage, trust: Trust, identity: Identity, *, factory_version: str) -> Boot:
    """Pick what runs now, record it, and say so."""
    storage.mount(factory_version)
    settings = storage.settings
    number = settings.boot + 1
    if settings.trial is Trial.PENDING:
        found = verified(storage, trust, identity, 1 - settings.active)
        if found is not None:
            storage.save(boot=number, trial=Trial.BOOTED, installing=False)
            return _booted(number, 1 - settings.active, found, trial=True)
        storage.save(boot=number, **_back(storage, manifest_version(storage, trust), "the new image does not verify"))
    elif settings.trial is Trial.BOOTED:
        storage.save(boot=number, **_back(storage, manifest_version(storage, trust), "not confirmed"))
    elif settings.installing:
        storage.save(boot=number, **_back(storage, manifest_version(storage, trust), "restarted while installing"))
    else:
        storage.save(boot=number)
    return _old(storage, trust, identity, number, factory_version)


def verified(
    storage: Storage, trust: Trust, identity: Identity, slot: int, *, confirmed: bytes = b""
) -> tuple[Manifest, bytes] | None:
    """Manifest and digest of a slot's image, if it may run: signed or confirmed, for this device, and whole."""
    envelope, settings = storage.envelope(slot), storage.settings
    if envelope is None:
        return None
    size_bytes = storage.layout.slots[slot].size_bytes
    is_known = hashlib.sha256(envelope).digest() == confirmed
    try:
        manifest = own_manifest(envelope) if is_known else read_manifest(trust, envelope)
        installed = Installed(
            digest=settings.digest,
            epoch=manifest.epoch if is_known else trust.epoch,
            seqs=settings.seqs,
            security_counter=settings.security_counter,
            slot_bytes=size_bytes,
        )
        judge(manifest, identity, installed)
    except ManifestRefused as refused:
        log.warning("slot %d is not booted: %s", slot, refused)
        return None
    if not 0 < manifest.size_bytes <= size_bytes:
        return None
    digest = storage.digest(slot, manifest.size_bytes)
    return (manifest, digest) if digest == manifest.digest else None


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


def _old(storage: Storage, trust: Trust, identity: Identity, number: int, factory_version: str) -> Boot:
    slot = storage.settings.active
    if not storage.settings.factory:
        found = verified(storage, trust, identity, slot, confirmed=storage.settings.envelope_digest)
        if found is not None:
            return _booted(number, slot, found, trial=False)
        log.warning("boot %d: slot %d does not verify, back to the factory's", number, slot)
        storage.save(
            factory=True, version=factory_version, digest=b"", size_bytes=0, envelope_digest=b"", download=None
        )
    log.info("boot %d: the factory's, %s", number, storage.settings.version)
    version = storage.settings.version
    return Boot(number=number, slot=slot, version=version, trial=False, manifest=None, digest=b"")


def _booted(number: int, slot: int, found: tuple[Manifest, bytes], *, trial: bool) -> Boot:
    manifest, digest = found
    log.info("boot %d: slot %d, %s, sha256 %s", number, slot, manifest.version, digest.hex())
    return Boot(number=number, slot=slot, version=manifest.version, trial=trial, manifest=manifest, digest=digest)
