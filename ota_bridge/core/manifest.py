"""What a signed manifest says, as plain data (native protocol §6).

`security.manifest` reads, signs and verifies it. Every record checks its ranges at construction and raises
InvalidInput that names the field.
"""

import re
import uuid
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final

from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.values import Sha256, checked_component, checked_version

CHUNK_BYTES_DEFAULT: Final = 4096
CHUNK_BYTES_MIN: Final = 1 << 8
CHUNK_BYTES_MAX: Final = 1 << 16
CLASSES_MAX: Final = 8
DEPENDENCIES_MAX: Final = 8
_U32: Final = 2**32 - 1
_U64: Final = 2**64 - 1
_UUID_BYTES: Final = 16
_SHA256_BYTES: Final = 32
_DOMAIN: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


class PayloadType(IntEnum):
    """What the artifact is; RAW and CONFIG are the ones issued today."""

    RAW = 1
    DELTA = 2
    CONFIG = 3
    MCUBOOT = 4
    SUIT = 5


def checked_domain(domain: str) -> str:
    """`domain` if it can stand for a vendor: a DNS name in lower case; raises InvalidInput."""
    if not _DOMAIN.fullmatch(domain):
        raise InvalidInput(f"vendor {domain[:40]!r} is not a domain name in lower case, such as example.com")
    return domain


def vendor_id(domain: str) -> bytes:
    """The vendor's 16 bytes: UUID5 of its domain in the DNS name space (RFC 9562 §5.5)."""
    return uuid.uuid5(uuid.NAMESPACE_DNS, checked_domain(domain)).bytes


@lru_cache(maxsize=4096)
def class_id(vendor: bytes, product: str, hw: str) -> bytes:
    """The 16 bytes that name a kind of hardware: UUID5 of `product/hw` in the vendor's name space."""
    return uuid.uuid5(uuid.UUID(bytes=vendor), f"{product}/{hw}").bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """Another component of the same device that must be there, at least at this seq."""

    component: str
    min_seq: int

    def __post_init__(self) -> None:
        checked_component(self.component)
        _check_range("dependency seq", self.min_seq, 0, _U32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestContent:
    """The signed facts about one artifact for one component."""

    seq: int
    """Anti-rollback counter of vendor, class and component: a device takes only a higher one."""
    vendor: bytes
    classes: tuple[bytes, ...]
    """Ascending and unique: the hardware that may run it."""
    version: str
    component: str
    payload_type: PayloadType
    size_bytes: int
    sha256: Sha256
    chunk_bytes: int
    merkle_root: Sha256
    min_present_seq: int | None = None
    expires_s: int | None = None
    """Unix time; only devices with a clock look at it."""
    security_counter: int | None = None
    installed_size_bytes: int | None = None
    installed_sha256: Sha256 | None = None
    precursor_sha256: Sha256 | None = None
    device: bytes | None = None
    """The one device it is for, as in a ticket; None means every device of the classes."""
    dependencies: tuple[Dependency, ...] = ()
    epoch: int = 1
    """Version of the keyset since which `seq` counts; another epoch's seqs cannot be compared with it."""
    metadata_sha256: Sha256 | None = None
    """Of the author's metadata that travels beside the manifest."""

    def __post_init__(self) -> None:
        _check_range("seq", self.seq, 0, _U32)
        _check_length("vendor", self.vendor, _UUID_BYTES)
        self._check_classes()
        checked_version(self.version)
        checked_component(self.component)
        _check_range("size", self.size_bytes, 1, _U64)
        _check_length("sha256", self.sha256, _SHA256_BYTES)
        _check_range("chunk size", self.chunk_bytes, CHUNK_BYTES_MIN, CHUNK_BYTES_MAX)
        if self.chunk_bytes & (self.chunk_bytes - 1):
            raise InvalidInput(f"chunk size {self.chunk_bytes} is not a power of two")
        _check_length("Merkle root", self.merkle_root, _SHA256_BYTES)
        _check_range("min present seq", self.min_present_seq, 0, _U32)
        _check_range("expires", self.expires_s, 0, _U64)
        _check_range("security counter", self.security_counter, 0, _U32)
        _check_range("installed size", self.installed_size_bytes, 1, _U64)
        _check_length("installed sha256", self.installed_sha256, _SHA256_BYTES)
        _check_length("precursor sha256", self.precursor_sha256, _SHA256_BYTES)
        _check_length("device", self.device, _UUID_BYTES)
        if len(self.dependencies) > DEPENDENCIES_MAX:
            raise InvalidInput(f"{len(self.dependencies)} dependencies, at most {DEPENDENCIES_MAX} are allowed")
        _check_range("epoch", self.epoch, 1, _U32)
        _check_length("metadata sha256", self.metadata_sha256, _SHA256_BYTES)

    @property
    def counter(self) -> tuple[int, int]:
        """What anti-rollback compares: epoch, then seq."""
        return self.epoch, self.seq

    def _check_classes(self) -> None:
        if not 1 <= len(self.classes) <= CLASSES_MAX:
            raise InvalidInput(f"{len(self.classes)} hardware classes, 1..{CLASSES_MAX} are allowed")
        for one in self.classes:
            _check_length("class", one, _UUID_BYTES)
        if list(self.classes) != sorted(set(self.classes)):
            raise InvalidInput("the hardware classes must be ascending, each once")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestFacts(ManifestContent):
    """A manifest as it was read: its content, and the SHA-256 of the envelope, by which tickets name it."""

    digest: Sha256


def _check_range(name: str, value: int | None, minimum: int, maximum: int) -> None:
    if value is not None and not minimum <= value <= maximum:
        raise InvalidInput(f"manifest: {name} must be {minimum}..{maximum}, not {value}")


def _check_length(name: str, value: bytes | None, length: int) -> None:
    if value is not None and len(value) != length:
        raise InvalidInput(f"manifest: {name} must be {length} bytes, not {len(value)}")
