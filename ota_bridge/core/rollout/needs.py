"""Components that need one another: what has to be there before a part is offered, and whether it is going to come.

The author signs what a part needs, and the device refuses it without. So the order of a device's components follows
from what is signed: one waits until the other is confirmed.
"""

from collections.abc import Mapping

from ota_bridge.core.catalog import Release, ReleasePart, ReleaseState
from ota_bridge.core.fleet import Device, runs
from ota_bridge.core.manifest import Dependency
from ota_bridge.core.rollout import policy
from ota_bridge.core.rollout.paths import Seqs
from ota_bridge.core.rollout.policy import Obstacle
from ota_bridge.core.values import ReleaseId

Releases = Mapping[ReleaseId, Release]


def obstacle(device: Device, part: ReleasePart, releases: Releases) -> Obstacle | None:
    """What this part waits for, or lacks for good. `releases`: those that the device is assigned."""
    found: Obstacle | None = None
    for need in part.manifest.dependencies:
        if policy.is_met(device, need) and not _is_coming_unseen(device, need, releases):
            continue
        if not _gets(device, need, releases):
            return Obstacle.LACKS_COMPONENT
        found = Obstacle.WAITS_FOR_COMPONENT
    return found


def pressing(device: Device, part: ReleasePart, releases: Releases) -> Dependency | None:
    """The need that `obstacle` speaks of: one that is lacked before one that is waited for."""
    open_needs = [
        need
        for need in part.manifest.dependencies
        if not policy.is_met(device, need) or _is_coming_unseen(device, need, releases)
    ]
    return next((need for need in open_needs if not _gets(device, need, releases)), next(iter(open_needs), None))


def seqs(device: Device, releases: Releases) -> Seqs:
    """What each component of a device has, or gets with what it is assigned."""
    found: dict[str, int | None] = {name: installed.seq for name, installed in device.parts.items()}
    for component in device.assigned:
        part, has = _assigned(device, component, releases), found.get(component, 0)
        if part is not None and has is not None:
            found[component] = max(has, part.manifest.seq)
    return found


def _gets(device: Device, need: Dependency, releases: Releases) -> bool:
    """True if what is assigned brings it, or what is on trial there already has it."""
    installed = device.parts.get(need.component)
    if installed is not None and installed.trial and (installed.seq is None or installed.seq >= need.min_seq):
        return True
    part = _assigned(device, need.component, releases)
    return part is not None and part.manifest.seq >= need.min_seq


def _is_coming_unseen(device: Device, need: Dependency, releases: Releases) -> bool:
    """A device that tells no seq has what it needs as soon as it runs what it is assigned there."""
    installed = device.parts.get(need.component)
    return installed is not None and installed.seq is None and _gets(device, need, releases)


def _assigned(device: Device, component: str, releases: Releases) -> ReleasePart | None:
    """The part that a component is to run and does not run yet; the bytes that run there are not sent again."""
    held = device.assigned.get(component)
    release = releases.get(held.release) if held is not None else None
    if release is None or release.state is not ReleaseState.ACTIVE or component not in release.parts:
        return None
    part = release.parts[component]
    if policy.fits(device, release, part) is not None:
        return None
    manifest = part.manifest
    return None if runs(device.parts.get(component), version=part.version, image_sha256=manifest.sha256) else part
