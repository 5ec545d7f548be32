"""Releases: added, described, shown, withdrawn."""

from dataclasses import dataclass
from typing import Any

from ota_bridge.core import journey, steering
from ota_bridge.core.catalog import Release, ReleasePart, ReleaseState, checked_metadata
from ota_bridge.core.deployment import State
from ota_bridge.core.errors import Conflict, InvalidInput
from ota_bridge.core.operations.named import all_devices, device_named, release_named
from ota_bridge.core.operations.registry import Context, operation
from ota_bridge.core.people import Role
from ota_bridge.core.rollout import policy, reach
from ota_bridge.core.rollout.model import RolloutState
from ota_bridge.core.values import FIRMWARE, DeploymentId, RolloutId, checked_version, release_id
from ota_bridge.core.versions import shown
from ota_bridge.core.views import Json, release_view


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A verified manifest and a stored artifact, on their way to become a part of a release."""

    product: str
    version: str
    """Of the release; the component has its own in its manifest."""
    hardware: tuple[str, ...]
    part: ReleasePart
    in_advance: bool = False
    """What it installs from, or needs, comes later: the catalog and the fleet need not know it."""


def add_release(context: Context, upload: Upload) -> Json:
    """Add a release, or a component to one without a rollout. The edge has verified the upload."""
    unit, manifest = context.unit, upload.part.manifest
    name = release_id(upload.product, upload.version)
    for release in unit.releases.all(product=upload.product):
        other = release.parts.get(manifest.component)
        if other is None or release.id == name or other.manifest.sha256 == manifest.sha256:
            continue  # a component that did not change stands in several releases as it was signed
        if other.manifest.counter == manifest.counter:
            raise Conflict(
                f"seq {manifest.seq} of {upload.product} {manifest.component} is taken by {release.id}; sign a higher"
            )
    existing = unit.releases.get(name)
    held = existing.parts.get(manifest.component) if existing is not None else None
    if existing is not None and held is not None and held.envelope == upload.part.envelope:
        if upload.part.installs_from not in {(), held.installs_from}:
            bounds = shown(held.installs_from)
            raise Conflict(f"release {name} installs from {bounds}, which does not change; choose another version")
        described = existing.described(manifest.component, upload.part.metadata)
        unit.releases.put(described)  # its file was put back, nothing else changes
        return {**release_view(described), "lacks": _lacks(context, described)}
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
    _check_reach(context, added, upload)
    unit.releases.put(added)
    return {**release_view(added), "lacks": _lacks(context, added)}


def _check_reach(context: Context, release: Release, upload: Upload) -> None:
    """Raises InvalidInput for what no device can come to."""
    part, unit = upload.part, context.unit
    signed = part.manifest
    if not (part.installs_from or signed.dependencies or signed.min_present_seq or signed.precursor_sha256):
        return  # it installs from anything
    catalog = [other for other in unit.releases.all(product=release.product) if other.id != release.id]
    fleet = unit.devices.installed(product=release.product)
    why = reach.never(release, part, catalog, fleet)
    if why:
        raise InvalidInput(why)
    why = "" if upload.in_advance else reach.dead_end(release, part, catalog, fleet)
    if why:
        raise InvalidInput(f"{why}, or say --in-advance if that comes later")


def _lacks(context: Context, release: Release) -> dict[str, dict[str, str]]:
    """What devices of vendors' protocols need and the release does not say: by component, what each is."""
    wanted = {
        name: what for dialect in context.bridge.dialects.values() for name, what in dialect.author_fields.items()
    }
    found = {
        component: {name: what for name, what in sorted(wanted.items()) if name not in part.metadata}
        for component, part in release.parts.items()
    }
    return {component: missing for component, missing in found.items() if missing}


@operation("release.describe", writes=True, role=Role.AUTHOR)
def release_describe(context: Context, release: str, metadata: dict[str, Any], component: str = FIRMWARE) -> Json:
    """Add what only the author knows and devices of vendors' protocols need."""
    described = release_named(context, release).described(component, checked_metadata(metadata))
    context.unit.releases.put(described)
    for rollout in context.unit.rollouts.all(product=described.product):
        if rollout.state is RolloutState.RUNNING:
            _offer_again(context, rollout.id, described)
    return {**release_view(described), "lacks": _lacks(context, described)}


def _offer_again(context: Context, rollout: RolloutId, release: Release) -> None:
    """What was held back for want of it has waited long enough."""
    deployments = context.unit.deployments
    after: DeploymentId | None = None
    while page := deployments.of_rollout(rollout, open_only=True, after=after):
        for held in page:
            if held.release == release.id and held.state is State.QUEUED and held.due_wall is None:
                context.updates.schedule(held)
        after = page[-1].id


@operation("release.list", writes=False, role=Role.VIEWER)
def release_list(context: Context, product: str | None = None) -> list[Json]:
    """All releases."""
    return [release_view(release) for release in context.unit.releases.all(product=product)]


@operation("release.show", writes=False, role=Role.VIEWER)
def release_show(context: Context, release: str) -> Json:
    """One release."""
    return release_view(release_named(context, release))


@operation("release.path", writes=False, role=Role.VIEWER)
def release_path(
    context: Context, release: str, device: str | None = None, version: str | None = None, component: str | None = None
) -> Json:
    """By which steps a device, or one that runs a version, comes to a release."""
    found = release_named(context, release)
    if (device is None) is (version is None):
        raise InvalidInput("release path: name a device, or the version that one runs, and not both")
    if component is not None and component not in found.parts:
        raise InvalidInput(f"release {found.id} has no component {component[:40]!r}; it has {', '.join(found.parts)}")
    components = [component] if component is not None else sorted(found.parts)
    if device is not None:
        known = device_named(context.unit, device)
        if known.id.product != found.product:
            raise InvalidInput(f"device {known.id} is not a {found.product}")
        rows = {name: journey.path_view(context.unit, known, name, found) for name in components}
        return {"release": found.id, "device": str(known.id), "parts": rows}
    at = journey.imagined(context.unit, found, checked_version(version or ""), components)
    rows = {name: journey.path_view(context.unit, at, name, found) for name in components}
    return {"release": found.id, "device": None, "parts": rows}


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
    """Stop offering a release; its rollouts end, and every open deployment of it is canceled.

    `canceled`: how many these are, but for those of `follow`: rollouts to other releases in which it may be a stepping
    stone of more devices than are looked at at once; these follow in slices.
    """
    found = release_named(context, release).withdrawn()
    context.unit.releases.put(found)
    cause = f"withdrawn by {context.actor}" + (f": {reason[:200]}" if reason else "")
    canceled, follow = 0, []
    for rollout in context.unit.rollouts.all(product=found.product):
        if rollout.release == found.id:
            if rollout.state is not RolloutState.CANCELED:
                rollout = steering.cancel(context.updates, rollout, context.actor, cause)  # noqa: PLW2901
            canceled += steering.cancel_open(context.updates, rollout, cause)
            steering.hold(context.updates, rollout)
        else:
            stones, is_more = steering.cancel_stones(context.updates, rollout, found.id, cause)
            canceled += stones
            if is_more:
                follow.append(rollout.id)
    return {**release_view(found), "canceled": canceled, "follow": follow}
