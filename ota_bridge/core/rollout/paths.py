"""The way of a component from what a device runs to its target, over stepping stones where it cannot be taken at once.

A path has the fewest steps, then the fewest bytes, then the lower names. A step to a part of a release holds if

1. its counter is above the one before it, and its image another one;
2. the bounds that the operator declared admit the version before it;
3. what its author signed about the image before it holds: min present seq and precursor.

A stone, unlike the target, must be of an active release and for the device's hardware, count in the target's epoch, and
need no other component that the device neither has nor gets. What a device does not tell (its seq, its digest) hinders
no step: it is the device that checks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Final

from ota_bridge.core.catalog import Release, ReleasePart, ReleaseState, is_compatible
from ota_bridge.core.fleet import Device, runs
from ota_bridge.core.messages import InstalledPart
from ota_bridge.core.records import record
from ota_bridge.core.values import ReleaseId
from ota_bridge.core.versions import admits, shown

KEPT_MAX: Final = 4096
"""Paths that are kept for a product; more, and all are found again."""


@record
class Path:
    """What is installed one after the other; the last is the target."""

    steps: tuple[Release, ...]
    size_bytes: int


@record
class NoPath:
    """The target cannot be reached; why, in words."""

    sentence: str


Found = Path | NoPath
Route = Callable[[Device, str, Release], Found]
"""The path of a device's component to a release."""
_Way = tuple[int, int, tuple[ReleaseId, ...], tuple[Release, ...]]
"""What a path is judged by, and the path: the number of its steps, their bytes, their names."""
Seqs = Mapping[str, int | None]
"""The seqs that the device's components have or are going to have; None: untold."""


def holds(before: InstalledPart, part: ReleasePart) -> bool:
    """True if this part can be installed where `before` runs."""
    return _rises(before, part) and not unmet(before, part)


def unmet(before: InstalledPart, part: ReleasePart) -> list[str]:
    """What was declared and signed about the image before this part and is not so, in words."""
    manifest = part.manifest
    found: list[str] = []
    if not admits(part.installs_from, before.version):
        found.append(f"installs from {shown(part.installs_from)}")
    if manifest.min_present_seq is not None and before.seq is not None and before.seq < manifest.min_present_seq:
        found.append(f"was signed for what has seq {manifest.min_present_seq} at least")
    precursor = manifest.precursor_sha256
    if precursor is not None and before.digest8 and not precursor.startswith(before.digest8):
        found.append(f"was signed for the image {precursor.hex()[:16]} alone")
    return found


def before_step(device: Device, part: ReleasePart) -> InstalledPart:
    """What runs before a step to this part; its seq is 0 if the device counts anew before it could take it."""
    installed = device.parts[part.component]
    if device.keyset is None or device.keyset >= part.manifest.epoch:
        return installed
    return InstalledPart(version=installed.version, seq=0, digest8=installed.digest8)


def direct(device: Device, component: str, target: Release) -> Found:
    """The route that knows no stones."""
    part = target.parts[component]
    before = before_step(device, part)
    if holds(before, part):
        return Path(steps=(target,), size_bytes=part.manifest.size_bytes)
    return _no_path(before, part)


@dataclass(slots=True)
class Paths:
    """The paths of a catalog, each searched once for all devices that stand at the same place. For one thread."""

    _catalogs: dict[str, "_Catalog"] = field(default_factory=dict)

    def route(self, catalog: Callable[[], Sequence[Release]], seqs: Callable[[], Seqs]) -> Route:
        """The paths of one device, whose components have or get these seqs."""
        return lambda device, component, target: self.find(device, component, target, catalog, seqs)

    def find(
        self,
        device: Device,
        component: str,
        target: Release,
        catalog: Callable[[], Sequence[Release]],
        seqs: Callable[[], Seqs],
    ) -> Found:
        """The path to `target`. `catalog` (all of the product) and `seqs` are asked only if stones are needed."""
        at_once = direct(device, component, target)
        if isinstance(at_once, Path):
            return at_once
        known = self._known(device.id.product, catalog())
        before = before_step(device, target.parts[component])
        hw = device.hw if device.hw is not None or device.proto > 0 else ""
        has = seqs()
        needed = tuple(has.get(name, 0) for name in known.needed)
        key = (target.id, component, before.version, before.seq, before.digest8, hw, needed)
        found = known.paths.get(key)
        if found is None:
            if len(known.paths) >= KEPT_MAX:
                known.paths.clear()
            found = known.paths[key] = _search(before, component, target, known.releases, hw, has)
        return found

    def _known(self, product: str, releases: Sequence[Release]) -> "_Catalog":
        known = self._catalogs.get(product)
        if known is None or len(known.releases) != len(releases) or not all(map(is_, known.releases, releases)):
            known = self._catalogs[product] = _Catalog(releases)
        return known


class _Catalog:
    """Releases, the components that any of them needs, and the paths that were found among them."""

    def __init__(self, releases: Sequence[Release]) -> None:
        self.releases = tuple(releases)
        self.needed = sorted(
            {
                one.component
                for release in releases
                for part in release.parts.values()
                for one in part.manifest.dependencies
            }
        )
        self.paths: dict[tuple[object, ...], Found] = {}


def _search(
    before: InstalledPart, component: str, target: Release, releases: Sequence[Release], hw: str | None, seqs: Seqs
) -> Found:
    stones = [
        release
        for release in releases
        if component in release.parts and _is_stone(release.parts[component], target, component, hw, seqs)
    ]
    steps = _fewest(before, component, target, [stone for stone in stones if stone.state is ReleaseState.ACTIVE])
    if steps:
        return Path(steps=steps, size_bytes=sum(step.parts[component].manifest.size_bytes for step in steps))
    found = _no_path(before, target.parts[component])
    withdrawn = [
        step.version
        for step in _fewest(before, component, target, stones)
        if step.state is ReleaseState.WITHDRAWN and step.id != target.id
    ]
    return NoPath(sentence=f"{found.sentence}; {withdrawn[0]} would, but is withdrawn") if withdrawn else found


def _is_stone(part: ReleasePart, target: Release, component: str, hw: str | None, seqs: Seqs) -> bool:
    goal = target.parts[component].manifest
    if part.manifest.epoch != goal.epoch or part.manifest.seq >= goal.seq:
        return False
    if hw is None or (hw and not is_compatible(part, target.product, hw)):
        return False
    return all((seq := seqs.get(one.component, 0)) is None or seq >= one.min_seq for one in part.manifest.dependencies)


def _fewest(before: InstalledPart, component: str, target: Release, stones: Sequence[Release]) -> tuple[Release, ...]:
    """The best steps to the target; none if there is no way. Counters rise, so each stone needs only those below it."""
    best: list[_Way] = []
    for release in [*sorted(stones, key=lambda one: (one.parts[component].manifest.seq, one.id)), target]:
        part = release.parts[component]
        size = part.manifest.size_bytes
        ways: list[_Way] = [(1, size, (release.id,), (release,))] if holds(before, part) else []
        for number, size_bytes, names, steps in best:
            if holds(after(steps[-1].parts[component]), part):
                ways.append((number + 1, size_bytes + size, (*names, release.id), (*steps, release)))
        if ways:
            best.append(min(ways, key=lambda way: way[:3]))
    return best[-1][3] if best and best[-1][3][-1] is target else ()


def after(part: ReleasePart) -> InstalledPart:
    """What runs once this part was installed."""
    return InstalledPart(version=part.version, seq=part.manifest.seq, digest8=part.manifest.sha256[:8])


def _rises(before: InstalledPart, part: ReleasePart) -> bool:
    if runs(before, version=part.version, image_sha256=part.manifest.sha256):
        return False
    return before.seq is None or part.manifest.seq > before.seq


def _no_path(before: InstalledPart, part: ReleasePart) -> NoPath:
    if not _rises(before, part):
        return NoPath(sentence=f"no path from {before.version} to {part.version}: its seq is not above what runs")
    wants = " and ".join(unmet(before, part))
    return NoPath(
        sentence=f"no path from {before.version} to {part.version}: {part.version} {wants}, "
        f"and no release leads from {before.version} to there"
    )
