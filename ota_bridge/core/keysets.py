"""Keysets on their way to devices: which step a device is sent, and why its offers wait. What a step says is opaque.

1. A device that reports no keyset takes none: its trust is its own affair, and offers do not wait for it.
2. Any other gets the step to the next keyset in answer to each check-in, one at a time, until it has the newest.
3. Until then it gets no offers: a manifest of newer keys would be refused for good.
"""

import hashlib
from dataclasses import dataclass

from ota_bridge.core.fleet import Device, DeviceState
from ota_bridge.core.messages import KeysetNotice
from ota_bridge.core.values import Sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysetStanding:
    """What the bridge holds for a device at some keyset: the newest version, and the signed step to the next."""

    newest: int
    following: bytes | None = None


def none_newer(version: int) -> KeysetStanding:
    """Where no keyset was ever published."""
    return KeysetStanding(newest=version)


def notice(device: Device, standing: KeysetStanding) -> KeysetNotice | None:
    """The step that this device is to be sent now, or None."""
    if device.keyset is None or standing.following is None or device.state is not DeviceState.ACTIVE:
        return None
    return KeysetNotice(
        device=device.id,
        encoding=device.encoding,
        version=device.keyset + 1,
        step=standing.following,
        digest=Sha256(hashlib.sha256(standing.following).digest()),
        max_packet=device.max_packet,
    )


def hindrance(device: Device, standing: KeysetStanding) -> str:
    """Why offers to this device wait for its keyset, or nothing."""
    if device.keyset is None or device.keyset == standing.newest:
        return ""
    if device.keyset > standing.newest:
        return (
            f"the device has keyset {device.keyset} and the bridge only {standing.newest}: "
            "publish the rotations that are missing here"
        )
    if standing.following is None:
        return f"the device has keyset {device.keyset} and the bridge does not hold the step to the next"
    refused = f", and refused the next: {device.trouble.keyset_refused}" if device.trouble.keyset_refused else ""
    return f"the device has keyset {device.keyset} of {standing.newest}{refused}"
