"""Bytes that can be served, as the block plane sees them: where they are and how they are checked is the store's.

An artifact is named by a digest, and what `view` gives is what the digest says, or nothing.
"""

from dataclasses import dataclass
from typing import Protocol

from ota_bridge.core.manifest import ManifestFacts


class Artifact(Protocol):
    """Bytes that can be served: an image, a chunk list, a manifest."""

    @property
    def size_bytes(self) -> int: ...

    def view(self, offset: int, length: int) -> memoryview:
        """These bytes, checked against their digest.

        Raises ArtifactCold where the disk has to be read first (`fetch`), ArtifactDamaged, or another StoreError.
        """
        ...

    def fetch(self, offset: int, length: int) -> None:
        """Read the disk so that `view` need not; for a thread. Raises nothing that `view` will not say."""
        ...

    def close(self) -> None:
        """No more views will be asked for."""
        ...


class ArtifactSource(Protocol):
    """Opens what a manifest names. Touches no disk: what is missing or damaged shows at the first view."""

    def open(self, manifest: ManifestFacts) -> Artifact:
        """The image."""
        ...

    def open_chunk_list(self, manifest: ManifestFacts) -> Artifact:
        """The leaves of its hash tree, 32 bytes each."""
        ...


@dataclass(frozen=True, slots=True)
class Inline:
    """A small artifact held in memory."""

    data: bytes

    @property
    def size_bytes(self) -> int:
        """Its length."""
        return len(self.data)

    def view(self, offset: int, length: int) -> memoryview:
        """A slice of it."""
        return memoryview(self.data)[offset : offset + length]

    def fetch(self, offset: int, length: int) -> None:
        """It is there."""

    def close(self) -> None:
        """Nothing to free."""
