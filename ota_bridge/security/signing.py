"""Signing an image, offline: the signer reads the file itself, so that what is signed is what was seen.

One pass gives the SHA-256 and the Merkle root, in memory that does not grow with the file. A file that
changes while it is read is refused.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final

from ota_bridge.core.errors import InvalidInput, NotFound
from ota_bridge.core.manifest import (
    CHUNK_BYTES_DEFAULT,
    CHUNK_BYTES_MAX,
    CHUNK_BYTES_MIN,
    Dependency,
    ManifestContent,
    ManifestFacts,
    PayloadType,
    class_id,
    vendor_id,
)
from ota_bridge.core.merkle import ChunkHasher
from ota_bridge.core.values import FIRMWARE, Sha256, checked_hardware_id, checked_product
from ota_bridge.security import manifest
from ota_bridge.security.keys import SigningKey

Progress = Callable[[int, int], None]
"""Told (bytes done, bytes in all) as the file is read."""

_READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHashes:
    """What a manifest says of the bytes of an image."""

    size_bytes: int
    sha256: Sha256
    chunk_bytes: int
    merkle_root: Sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedImage:
    """A signed manifest, and what it says."""

    envelope: bytes
    facts: ManifestFacts


def hash_image(path: Path, *, chunk_bytes: int = CHUNK_BYTES_DEFAULT, progress: Progress | None = None) -> ImageHashes:
    """Hash a file in one pass; raises NotFound, or InvalidInput when it is empty, no file, or changes."""
    if not CHUNK_BYTES_MIN <= chunk_bytes <= CHUNK_BYTES_MAX or chunk_bytes & (chunk_bytes - 1):
        raise InvalidInput(f"chunk size {chunk_bytes}: a power of two {CHUNK_BYTES_MIN}..{CHUNK_BYTES_MAX} is needed")
    digest = hashlib.sha256()
    chunks = ChunkHasher(chunk_bytes)
    try:
        with FileIO(path, opener=_open_at_once) as file:
            before = os.fstat(file.fileno())
            _check_regular(path, before)
            done = 0
            while done <= before.st_size and (data := file.read(_READ_BYTES)):
                digest.update(data)
                chunks.update(data)
                done += len(data)
                if progress is not None:
                    progress(done, before.st_size)
            changed = done != before.st_size or _identity(before) != _identity(path.stat())
    except FileNotFoundError:
        raise NotFound(f"image {path} does not exist") from None
    except OSError as error:
        raise InvalidInput(f"image {path} cannot be read: {error.strerror}") from None
    if changed:
        raise InvalidInput(f"image {path} changed while it was read; nothing was signed")
    return ImageHashes(
        size_bytes=done,
        sha256=Sha256(digest.digest()),
        chunk_bytes=chunk_bytes,
        merkle_root=Sha256(chunks.finish()),
    )


def sign_file(
    path: Path,
    *,
    keys: Sequence[SigningKey],
    vendor_domain: str,
    product: str,
    hw: Sequence[str],
    version: str,
    seq: int,
    component: str = FIRMWARE,
    payload_type: PayloadType = PayloadType.RAW,
    chunk_bytes: int = CHUNK_BYTES_DEFAULT,
    min_present_seq: int | None = None,
    expires_s: int | None = None,
    security_counter: int | None = None,
    device: bytes | None = None,
    dependencies: tuple[Dependency, ...] = (),
    epoch: int = 1,
    metadata_sha256: Sha256 | None = None,
    progress: Progress | None = None,
) -> SignedImage:
    """Hash the file and sign its manifest with each key; raises NotFound or InvalidInput."""
    vendor = vendor_id(vendor_domain)
    checked_product(product)
    classes = tuple(sorted({class_id(vendor, product, checked_hardware_id(one)) for one in hw}))
    if seq < 1:
        raise InvalidInput(f"seq {seq}: it starts at 1, a device has 0 from the factory")

    def content(hashes: ImageHashes) -> ManifestContent:
        return ManifestContent(
            seq=seq,
            vendor=vendor,
            classes=classes,
            version=version,
            component=component,
            payload_type=payload_type,
            size_bytes=hashes.size_bytes,
            sha256=hashes.sha256,
            chunk_bytes=hashes.chunk_bytes,
            merkle_root=hashes.merkle_root,
            min_present_seq=min_present_seq,
            expires_s=expires_s,
            security_counter=security_counter,
            device=device,
            dependencies=dependencies,
            epoch=epoch,
            metadata_sha256=metadata_sha256,
        )

    placeholder = Sha256(bytes(32))
    # a wrong argument is refused before a large file is read
    content(ImageHashes(size_bytes=1, sha256=placeholder, chunk_bytes=chunk_bytes, merkle_root=placeholder))
    payload = manifest.encode_payload(content(hash_image(path, chunk_bytes=chunk_bytes, progress=progress)))
    signed = manifest.sign(payload, keys)
    return SignedImage(envelope=signed, facts=manifest.read(signed))


def check_file(path: Path, facts: ManifestContent, *, progress: Progress | None = None) -> None:
    """Refuse with InvalidInput a file that is not this manifest's image: the next author runs it first."""
    hashes = hash_image(path, chunk_bytes=facts.chunk_bytes, progress=progress)
    if hashes.size_bytes != facts.size_bytes:
        raise InvalidInput(f"image {path} has {hashes.size_bytes} bytes, the manifest says {facts.size_bytes}")
    if hashes.sha256 != facts.sha256 or hashes.merkle_root != facts.merkle_root:
        raise InvalidInput(f"image {path} is not the one that the manifest was made for")


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a FIFO without a writer would hold the open for ever


def _check_regular(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise InvalidInput(f"image {path} is not a regular file")
    if status.st_size == 0:
        raise InvalidInput(f"image {path} is empty")


def _identity(status: os.stat_result) -> tuple[int, int, int, int, int]:
    """Differs between two looks at a path when it was written to or replaced."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
