"""Releases: added, shown, withdrawn."""

from dataclasses import dataclass, replace

from ota_bridge.core import steering
from ota_bridge.core.catalog import Release, ReleasePart, ReleaseState
from ota_bridge.core.errors import Conflict
from ota_bridge.core.operations.named import all_devices, release_named
from ota_bridge.core.operations.registry import Context, operation
from ota_bridge.core.people import Role
from ota_bridge.core.rollout import policy
from ota_bridge.core.rollout.model import RolloutState
from ota_bridge.core.values import release_id
from ota_bridge.core.views import Json, release_view


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A verified manifest and a stored artifact, on their way to become a part of a release."""

    product: str
    version: str
    """Of the release; the component has its own in its manifest."""
    hardware: tuple[str, ...]
    part: ReleasePart


def add_release(context: Context, upload: Upload) -> Json:
    """Add a release, or a component to one without a rollout. The edge has verified the upload."""
    unit, manifest = context.unit, upload.part.manifest
    name = release_id(upload.product, upload.version)
    for release in unit.releases.all(product=upload.product):
        other = release.parts.get(manifest.component)
        if other is not None and release.id != name and other.manifest.counter == manifest.counter:
            raise Conflict(
                f"seq {manifest.seq} of {upload.product} {manifest.component} is taken by {release.id}; sign a higher"
            )
    existing = unit.releases.get(name)
    held = existing.parts.get(manifest.component) if existing is not None else None
    if existing is not None and held is not None and held.envelope == upload.part.envelope:
        return release_view(existing)  # its file was put back, nothing else changes
    if held is not None and held.manifest.sha256 == manifest.sha256:
        seq = held.manifest.seq
        raise Conflict(
            f"release {name} holds this image, signed with seq {seq}; to put its file back name --seq {seq}, "
            "to sign it anew choose another version"
        )
    if existing is None:
        existing = Release(
            id=name,
            product=upload.product,
            version=upload.version,
            hardware=upload.hardware,
            parts={},
            state=ReleaseState.ACTIVE,
            created_wall=context.now.wall,
            created_by=context.actor,
        )
    elif any(rollout.release == name for rollout in unit.rollouts.all(product=upload.product)):
        raise Conflict(f"release {name} has a rollout and can no longer change; choose another version")
    elif existing.hardware != upload.hardware:
        raise Conflict(
            f"release {name} is for hardware {', '.join(existing.hardware)}; all components must name the same"
        )
    added = existing.with_part(upload.part)
    unit.releases.put(added)
    return release_view(added)


@operation("release.list", writes=False, role=Role.VIEWER)
def release_list(context: Context, product: str | None = None) -> list[Json]:
    """All releases."""
    return [release_view(release) for release in context.unit.releases.all(product=product)]


@operation("release.show", writes=False, role=Role.VIEWER)
def release_show(context: Context, release: str) -> Json:
    """One release."""
    return release_view(release_named(context, release))


@operation("release.ahead", writes=False, role=Role.VIEWER)
def release_ahead(context: Context, release: str) -> Json:
    """How many devices report a seq that is not below the release's and run something else: they will not take it."""
    found = release_named(context, release)
    ahead: list[int] = []
    for device in all_devices(context.unit, found.product):
        for component, part in found.parts.items():
            installed = device.parts.get(component)
            if installed is None or installed.seq is None or policy.fits(device, found, part) is not None:
                continue
            if policy.is_needed(device, part) is policy.Obstacle.ANTI_ROLLBACK:
                ahead.append(installed.seq)
                break
    return {"release": found.id, "devices": len(ahead), "seq": max(ahead, default=None)}


@operation("release.withdraw", writes=True, role=Role.AUTHOR)
def release_withdraw(context: Context, release: str, reason: str = "") -> Json:
    """Stop offering a release; its rollouts end, and every open deployment of it is canceled."""
    found = release_named(context, release).withdrawn()
    context.unit.releases.put(found)
    cause = f"withdrawn by {context.actor}" + (f": {reason[:200]}" if reason else "")
    canceled = 0
    for rollout in context.unit.rollouts.all(product=found.product):
        if rollout.release == found.id:
            if rollout.state is not RolloutState.CANCELED:
                rollout = steering.cancel(context.updates, rollout, context.actor, cause)  # noqa: PLW2901
            canceled += steering.cancel_open(context.updates, rollout, cause)
            steering.store(context.updates, replace(rollout, sweep=None))
        else:
            canceled += steering.cancel_stones(context.updates, rollout, found.id, cause)
    return {**release_view(found), "canceled": canceled}
