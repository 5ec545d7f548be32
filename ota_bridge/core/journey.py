"""The way of a device's component to the release that it is assigned, in words: for `why` and for `release path`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ota_bridge.core.catalog import Release, ReleasePart
from ota_bridge.core.deployment import Deployment, State
from ota_bridge.core.fleet import Assignment, Device, DeviceState
from ota_bridge.core.known import is_known
from ota_bridge.core.messages import InstalledPart
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.core.rollout import needs, planner, policy
from ota_bridge.core.rollout.paths import NoPath, Path, Paths, Route, after
from ota_bridge.core.rollout.policy import Obstacle
from ota_bridge.core.values import DeviceId, ReleaseId

STEPS_MAX = 50
"""Deployments of a device among which its earlier steps are looked for."""


def assigned_releases(unit: UnitOfWork, device: Device) -> Mapping[ReleaseId, Release]:
    """The releases that a device is assigned."""
    found = (unit.releases.get(held.release) for held in device.assigned.values())
    return {release.id: release for release in found if release is not None}


def route_of(unit: UnitOfWork, device: Device) -> Route:
    """The paths of one device by the catalog as it is."""
    return Paths().route(
        lambda: unit.releases.all(product=device.id.product),
        lambda: needs.seqs(device, assigned_releases(unit, device)),
    )


def next_step(
    unit: UnitOfWork, device: Device, component: str, target: Release, *, is_known: bool
) -> tuple[Obstacle | None, Release]:
    """As `planner.next_step`, from the records alone."""
    releases, route = assigned_releases(unit, device), route_of(unit, device)
    return planner.next_step(device, component, target, releases, route, is_known=is_known)


def obstacle_sentence(
    unit: UnitOfWork, device: Device, component: str, target: Release, step: Release, obstacle: Obstacle
) -> str | None:
    """The sentence of an obstacle on the way, with its names; None for any other."""
    if obstacle is Obstacle.NO_PATH:
        found = route_of(unit, device)(device, component, target)
        return found.sentence if isinstance(found, NoPath) else None
    if obstacle not in {Obstacle.WAITS_FOR_COMPONENT, Obstacle.LACKS_COMPONENT}:
        return None
    need = needs.pressing(device, step.parts[component], assigned_releases(unit, device))
    if need is None:
        return None
    installed = device.parts.get(need.component)
    has = "it is not there" if installed is None else "has none that it tells"
    if installed is not None and installed.seq is not None:
        has = f"has seq {installed.seq}" + (" on trial" if installed.trial else "")
    wants = f"it needs {need.component} with seq {need.min_seq} at least, {has}"
    if obstacle is Obstacle.LACKS_COMPONENT:
        return f"{wants}, and nothing that is assigned to it brings that"
    return f"{wants}, and waits until that is confirmed"


def imagined(unit: UnitOfWork, release: Release, version: str, components: Sequence[str]) -> Device:
    """A device of a release's first hardware that runs a version: by the catalog, else with no seq to tell."""
    parts = {component: InstalledPart(version=version) for component in components}
    for other in unit.releases.all(product=release.product):
        for component in components:
            if component in other.parts and other.parts[component].version == version:
                parts[component] = after(other.parts[component])
    return Device(
        id=DeviceId(release.product, "imagined"),
        state=DeviceState.ACTIVE,
        created_wall=0.0,
        hw=release.hardware[0],
        proto=1,
        parts=parts,
        last_report_wall=0.0,
    )


def path_view(unit: UnitOfWork, device: Device, component: str, target: Release) -> dict[str, Any]:
    """The path of one component, as if the device were assigned the release: what `release path` shows."""
    ahead = replace(device, assigned={name: Assignment(release=target.id, rollout=None) for name in target.parts})
    installed = device.parts.get(component)
    view: dict[str, Any] = {"runs": installed.version if installed else None, "steps": [], "code": None, "reason": None}
    obstacle = policy.fits(ahead, target, target.parts[component])
    if obstacle is None:
        known = is_known(unit, device.id.product, component, installed)
        obstacle, step = next_step(unit, ahead, component, target, is_known=known)
        view["reason"] = obstacle_sentence(unit, ahead, component, target, step, obstacle) if obstacle else None
    view["code"] = obstacle.value if obstacle else None
    found = route_of(unit, ahead)(ahead, component, target) if installed is not None else None
    if isinstance(found, Path) and obstacle in {None, Obstacle.WAITS_FOR_COMPONENT}:
        view["steps"] = [_step_view(step.id, step.parts[component]) for step in found.steps]
    return view


def _step_view(release: ReleaseId, part: ReleasePart) -> dict[str, Any]:
    return {
        "release": release,
        "version": part.version,
        "seq": part.manifest.seq,
        "size_bytes": part.manifest.size_bytes,
    }


def told(unit: UnitOfWork, device: Device, deployment: Deployment) -> str:
    """`1.0 -> 2.0 -> 3.0: step 1 of 2` for a deployment that is one of several steps; else nothing."""
    held = device.assigned.get(deployment.component)
    target = unit.releases.get(held.release) if held is not None and held.rollout == deployment.rollout else None
    if target is None or deployment.component not in target.parts:
        return ""
    before = _before(unit, deployment)
    ahead = _ahead(unit, device, deployment, target)
    if len(before) + len(ahead) == 1:
        return ""
    return _shown([*before, deployment.old_version, *ahead], len(before) + 1)


def told_next(unit: UnitOfWork, device: Device, component: str, target: Release) -> str:
    """The same for the step that comes next, while none is open."""
    found = route_of(unit, device)(device, component, target)
    if isinstance(found, NoPath) or len(found.steps) == 1:
        return ""
    return _shown([device.parts[component].version, *(step.parts[component].version for step in found.steps)], 1)


def _before(unit: UnitOfWork, deployment: Deployment) -> list[str]:
    """What ran before each earlier step of the same rollout, oldest first."""
    found: list[str] = []
    version, is_earlier = deployment.old_version, False
    for earlier in unit.deployments.recent_of(deployment.device, limit=STEPS_MAX):
        if is_earlier and _is_step(earlier, deployment) and _version(unit, earlier) == version:
            version = earlier.old_version
            found.append(version)
        is_earlier = is_earlier or earlier.id == deployment.id
    return found[::-1]


def _is_step(earlier: Deployment, deployment: Deployment) -> bool:
    same = (earlier.component, earlier.rollout) == (deployment.component, deployment.rollout)
    return same and earlier.state is State.CONFIRMED and earlier.release != deployment.release


def _version(unit: UnitOfWork, deployment: Deployment) -> str:
    release = unit.releases.get(deployment.release)
    return release.parts[deployment.component].version if release is not None else ""


def _ahead(unit: UnitOfWork, device: Device, deployment: Deployment, target: Release) -> list[str]:
    """What this deployment brings, and what follows."""
    component, stone = deployment.component, unit.releases.get(deployment.release)
    if stone is None or stone.id == target.id or component not in device.parts:
        return [target.parts[component].version]
    there = replace(device, parts={**device.parts, component: after(stone.parts[component])})
    found = route_of(unit, device)(there, component, target)
    rest = [] if isinstance(found, NoPath) else [step.parts[component].version for step in found.steps]
    return [stone.parts[component].version, *rest]


def _shown(versions: list[str], step: int) -> str:
    return f"{' -> '.join(versions)}: step {step} of {len(versions) - 1}"
