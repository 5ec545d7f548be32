"""Releases: named versions of a product, one signed manifest per component.

A release's version names it; each component has a version of its own in its manifest, mostly the same.

A release is immutable but for its state, for components added before its first rollout and for metadata that it lacks.
Only ACTIVE releases are offered.
"""

import re
from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import Final

from ota_bridge.core.errors import Conflict, InvalidInput, NotFound
from ota_bridge.core.manifest import ManifestFacts, class_id
from ota_bridge.core.records import record, replace
from ota_bridge.core.values import ReleaseId, Sha256

METADATA_MAX: Final = 16
METADATA_TEXT_MAX: Final = 4096
_METADATA: Final = re.compile(r"[a-z][a-z0-9_]{0,31}\.[A-Za-z0-9_-]{1,63}")


def checked_metadata(metadata: Mapping[str, object]) -> dict[str, str]:
    """`metadata` if it can stand beside a component; raises InvalidInput that names what was wrong."""
    if len(metadata) > METADATA_MAX:
        raise InvalidInput(f"{len(metadata)} fields of metadata: a component has at most {METADATA_MAX}")
    checked: dict[str, str] = {}
    for name, value in sorted(metadata.items()):
        if not _METADATA.fullmatch(name):
            raise InvalidInput(f"metadata {name[:60]!r}: write DIALECT.NAME, such as aws.signature")
        if not isinstance(value, str) or len(value) > METADATA_TEXT_MAX or not value.isprintable():
            raise InvalidInput(f"metadata {name}: at most {METADATA_TEXT_MAX} printable characters")
        checked[name] = value
    return checked


class ReleaseState(StrEnum):
    """Whether a release may be offered."""

    ACTIVE = "active"
    WITHDRAWN = "withdrawn"


@record
class ReleasePart:
    """One component of a release: the signed envelope, what it says, and facts for other dialects."""

    component: str
    envelope: bytes
    manifest: ManifestFacts
    md5: str
    """Lower-case hex, for devices that check nothing else."""
    file_name: str = ""
    installs_from: tuple[str, ...] = ()
    """Bounds (`versions`) on what runs in the component before, as the operator declared them; empty: any version."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What only the author knows and other dialects need, by name, such as `aws.signature`; nothing of it is signed."""

    @property
    def version(self) -> str:
        """The component's own version, which is the one that was signed and that devices report."""
        return self.manifest.version


@record
class Release:
    """A named version of a product."""

    id: ReleaseId
    product: str
    version: str
    hardware: tuple[str, ...]
    """The hardware ids that the author named; each manifest's classes are derived from them."""
    parts: Mapping[str, ReleasePart]
    state: ReleaseState
    created_wall: float
    created_by: str

    def with_part(self, part: ReleasePart) -> "Release":
        """This release and one more component; raises Conflict if it has it already."""
        if part.component in self.parts:
            raise Conflict(f"release {self.id} already has a {part.component!r} component")
        return replace(self, parts={**self.parts, part.component: part})

    def described(self, component: str, metadata: Mapping[str, str]) -> "Release":
        """This release with more metadata beside a component; raises Conflict where it is known and says otherwise."""
        part = self.parts.get(component)
        if part is None:
            raise NotFound(f"release {self.id} has no component {component[:40]!r}; it has {', '.join(self.parts)}")
        for name, value in metadata.items():
            if part.metadata.get(name, value) != value:
                raise Conflict(f"{name} of release {self.id} is set and does not change; choose another version")
        described = replace(part, metadata={**part.metadata, **metadata})
        return replace(self, parts={**self.parts, component: described})

    def withdrawn(self) -> "Release":
        """This release, never to be offered again; raises Conflict if it is withdrawn already."""
        if self.state is ReleaseState.WITHDRAWN:
            raise Conflict(f"release {self.id} is already withdrawn")
        return replace(self, state=ReleaseState.WITHDRAWN)


def is_compatible(part: ReleasePart, product: str, hw: str) -> bool:
    """True if the signed part names the class of a device of this product and hardware id."""
    return class_id(part.manifest.vendor, product, hw) in part.manifest.classes


def artifact_digests(part: ReleasePart) -> tuple[Sha256, Sha256]:
    """The digests a device asks by: the image and its chunk list (named by the Merkle root)."""
    return Sha256(part.manifest.sha256), Sha256(part.manifest.merkle_root)
