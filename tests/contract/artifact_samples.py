"""One image, its manifest, and ways to store and to damage it."""

import hashlib

from contract.store_samples import facts

from ota_bridge.core.manifest import ManifestFacts
from ota_bridge.core.merkle import ChunkHasher
from ota_bridge.core.values import Sha256

CHUNK = 256
IMAGE = hashlib.shake_256(b"image").digest(10 * CHUNK + 17)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def manifest_of(image, chunk_bytes=CHUNK, **changes) -> ManifestFacts:
    hasher = ChunkHasher(chunk_bytes)
    hasher.update(image)
    plain = {
        "size_bytes": len(image),
        "sha256": Sha256(hashlib.sha256(image).digest()),
        "chunk_bytes": chunk_bytes,
        "merkle_root": Sha256(hasher.finish()),
    }
    return facts(**(plain | changes))


def store_image(blobs, image=IMAGE, piece=1000):
    manifest = manifest_of(image)
    writer = blobs.begin(CHUNK)
    for start in range(0, len(image), piece):
        writer.write(image[start : start + piece])
    return manifest, writer.finish(manifest)


def alter(path, offset, data=b"\xff\x00\xff"):
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
