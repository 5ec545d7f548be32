"""What is refused of a release when it is made: that no device could ever come to it, or is not known to come to it.

`never` is certain, whatever is released later. `dead_end` knows the catalog and the fleet as they are: mostly a slip,
and sometimes the right order of work, so the operator may say that what leads there comes later (`--in-advance`).
Where no device reports the component there are no dead ends: nobody knows what its devices have from the factory.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ota_bridge.core.catalog import Release, ReleasePart, ReleaseState
from ota_bridge.core.fleet import runs
from ota_bridge.core.messages import InstalledPart
from ota_bridge.core.rollout.paths import after, holds
from ota_bridge.core.versions import is_exact, shown

Fleet = Sequence[Mapping[str, InstalledPart]]
"""What devices of the product report, each combination once."""


def never(release: Release, part: ReleasePart, catalog: Sequence[Release], fleet: Fleet) -> str:
    """Why no device can ever install this part of a release, or nothing. `catalog`: the other releases."""
    manifest, name = part.manifest, f"{release.id} {part.component}"
    if manifest.min_present_seq is not None and manifest.min_present_seq >= manifest.seq:
        return f"{name} was signed for what has seq {manifest.min_present_seq} at least, and has {manifest.seq} itself"
    if manifest.precursor_sha256 == manifest.sha256:
        return f"{name} was signed for its own image alone"
    if any(need.component == part.component for need in manifest.dependencies):
        return f"{name} needs itself; sign a min present seq instead"
    waits = _waiting_round(release, part, catalog, fleet)
    if waits:
        return f"the components of {release.id} wait for one another: {' -> '.join(waits)}"
    if not _is_reached(part, _others(part, catalog), _there(part, fleet), is_open=True):
        round_ = _round(part, _others(part, catalog))
        after_it = f"a cycle: {' -> '.join(round_)}" if round_ else "of which the seq is not lower"
        return f"{name} {part.version} installs only from {shown(part.installs_from)}, {after_it}"
    return ""


def dead_end(release: Release, part: ReleasePart, catalog: Sequence[Release], fleet: Fleet) -> str:
    """Why nothing that is known leads to this part of a release, or nothing."""
    name = f"{release.id} {part.component}"
    for need in part.manifest.dependencies:
        known = [*_known_seqs(need.component, catalog, fleet)]
        own = release.parts.get(need.component)
        highest = max((seq for seq in known if seq is not None), default=None)
        if own is not None:
            highest = max(highest or 0, own.manifest.seq)
        if None in known or (highest is not None and highest >= need.min_seq):
            continue
        has = "which no device reports" if highest is None else f"of which seq {highest} is the highest that is known"
        return f"{name} needs {need.component} with seq {need.min_seq} at least, {has}; add that component first"
    there, others = _there(part, fleet), _others(part, catalog)
    if not there or _is_reached(part, others, there, is_open=False):
        return ""
    devices = _versions(one.version for one in there)
    brought = _versions(other.version for other in others) or "nothing else"
    return (
        f"{name} {part.version} is a dead end: it installs from {shown(part.installs_from)}{_signed(part)}, "
        f"devices run {devices} and the catalog brings {brought}; add first what leads there"
    )


def _is_reached(
    goal: ReleasePart, others: Sequence[ReleasePart], there: Sequence[InstalledPart], *, is_open: bool
) -> bool:
    """Counters rise along a path, so each part needs only those below it. `is_open`: unknown versions may be there."""
    known = {other.version for other in (*others, goal)}
    reached: list[ReleasePart] = []
    for part in sorted((*others, goal), key=lambda one: one.manifest.counter):
        if (
            (is_open and _installs_from_outside(part, known))
            or any(_leads(before, part) for before in there)
            or any(holds(_standing(before, part), part) for before in reached)
        ):
            if part is goal:
                return True
            reached.append(part)
    return False


def _installs_from_outside(part: ReleasePart, known: set[str]) -> bool:
    bounds = part.installs_from
    return not bounds or any(not is_exact(bound) or bound not in known for bound in bounds)


def _leads(before: InstalledPart, part: ReleasePart) -> bool:
    """True if some device could take this part, or has it; whether its seqs count anew is not known here."""
    if runs(before, version=part.version, image_sha256=part.manifest.sha256):
        return True
    return holds(before if part.manifest.epoch == 1 else replace(before, seq=None), part)


def _standing(before: ReleasePart, part: ReleasePart) -> InstalledPart:
    is_of_before = before.manifest.epoch < part.manifest.epoch
    return replace(after(before), seq=0) if is_of_before else after(before)


def _round(goal: ReleasePart, others: Sequence[ReleasePart]) -> list[str]:
    """The versions of a cycle through this part: each installs from the one after it."""
    ways = [[goal]]
    seen: set[int] = set()
    while ways:
        way = ways.pop(0)
        for one in (goal, *others):
            if one.version not in way[-1].installs_from:
                continue
            if one is goal:
                return [part.version for part in (*way, goal)]
            if id(one) not in seen:
                seen.add(id(one))
                ways.append([*way, one])
    return []


def _waiting_round(release: Release, part: ReleasePart, catalog: Sequence[Release], fleet: Fleet) -> list[str]:
    """Components that can only come after one another: each needs a seq that only this release brings."""
    parts = {**release.parts, part.component: part}

    def waits_for(component: str) -> Iterator[str]:
        for need in parts[component].manifest.dependencies:
            known = [*_known_seqs(need.component, catalog, fleet)]
            if need.component in parts and all(seq is not None and seq < need.min_seq for seq in known):
                yield need.component

    ways, seen = [[part.component]], {part.component}
    while ways:
        way = ways.pop(0)
        for component in waits_for(way[-1]):
            if component == part.component:
                return [*way, component]
            if component not in seen:
                seen.add(component)
                ways.append([*way, component])
    return []


def _known_seqs(component: str, catalog: Sequence[Release], fleet: Fleet) -> Iterator[int | None]:
    for release in catalog:
        if component in release.parts and release.state is ReleaseState.ACTIVE:
            yield release.parts[component].manifest.seq
    for parts in fleet:
        if component in parts:
            yield parts[component].seq


def _others(part: ReleasePart, catalog: Sequence[Release]) -> list[ReleasePart]:
    return [
        release.parts[part.component]
        for release in catalog
        if part.component in release.parts and release.state is ReleaseState.ACTIVE
    ]


def _there(part: ReleasePart, fleet: Fleet) -> list[InstalledPart]:
    return [parts[part.component] for parts in fleet if part.component in parts]


def _signed(part: ReleasePart) -> str:
    least = part.manifest.min_present_seq
    return f" with seq {least} at least" if least is not None else ""


def _versions(found: Iterator[str]) -> str:
    names = sorted(set(found))
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")  # noqa: PLR2004 - what fits a line
