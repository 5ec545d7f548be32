"""Artifacts on disk: what is kept, and what is refused."""

import hashlib
import resource
import stat

import pytest
from contract.artifact_samples import CHUNK, IMAGE, Clock, alter, manifest_of, store_image

from ota_bridge.core.errors import InvalidInput, StoreError
from ota_bridge.core.merkle import leaf_hash
from ota_bridge.core.values import Sha256
from ota_bridge.store.blobs import BlobStore


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def blobs(tmp_path, clock):
    opened = BlobStore(tmp_path / "artifacts", clock=clock)
    yield opened
    opened.close()


def files_under(blobs):
    return sorted(str(path.relative_to(blobs._root)) for path in blobs._root.rglob("*") if path.is_file())


def test_what_was_stored_comes_back_with_its_digests(blobs):
    manifest, stored = store_image(blobs)

    assert (stored.sha256, stored.merkle_root) == (manifest.sha256, manifest.merkle_root)
    assert (stored.size_bytes, stored.md5) == (len(IMAGE), hashlib.md5(IMAGE).hexdigest())
    artifact = blobs.open(manifest)
    artifact.fetch(0, len(IMAGE))
    assert bytes(artifact.view(0, len(IMAGE))) == IMAGE
    assert blobs.has(manifest)


def test_the_chunk_list_is_the_leaf_hashes(blobs):
    manifest, _ = store_image(blobs)
    chunks = blobs.open_chunk_list(manifest)

    expected = b"".join(leaf_hash(IMAGE[start : start + CHUNK]) for start in range(0, len(IMAGE), CHUNK))
    chunks.fetch()
    assert bytes(chunks.view(0, chunks.size_bytes)) == expected
    assert bytes(chunks.view(32, 64)) == expected[32:96]


def test_files_are_named_by_content_and_read_only_in_directories_of_the_owner(blobs):
    manifest, _ = store_image(blobs)
    image, chunks = manifest.sha256.hex(), manifest.merkle_root.hex()

    assert files_under(blobs) == [f"blobs/{image[:2]}/{image}", f"chunks/{chunks[:2]}/{chunks}"]
    for path in (blobs.blob_path(manifest.sha256), blobs.chunk_list_path(manifest.merkle_root)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
        assert [stat.S_IMODE(parent.stat().st_mode) for parent in list(path.parents)[:3]] == [0o700] * 3


@pytest.mark.parametrize("image", [IMAGE, IMAGE[:CHUNK], IMAGE[:1]], ids=["many chunks", "one chunk", "one byte"])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"size_bytes": 3_000}, "its manifest says 3000"),
        ({"sha256": Sha256(bytes(32))}, "SHA-256"),
        ({"merkle_root": Sha256(bytes(32))}, "Merkle root"),
        ({"chunk_bytes": 512}, "chunks of 256 bytes"),
    ],
)
def test_an_image_that_is_not_the_manifests_is_refused_and_leaves_nothing(blobs, image, change, sentence):
    writer = blobs.begin(CHUNK)
    writer.write(image)

    with pytest.raises(InvalidInput, match=sentence):
        writer.finish(manifest_of(image, **change))
    assert files_under(blobs) == []


def test_storing_the_same_image_again_is_fine_and_heals_a_damaged_one(blobs, clock):
    manifest, _ = store_image(blobs)
    artifact = blobs.open(manifest)
    alter(blobs.blob_path(manifest.sha256), 5)
    store_image(blobs)
    blobs.look()
    artifact.fetch(0, len(IMAGE))
    assert bytes(artifact.view(0, len(IMAGE))) == IMAGE


def test_an_aborted_or_unfinished_image_leaves_nothing(blobs, tmp_path):
    writer = blobs.begin(CHUNK)
    writer.write(IMAGE)
    writer.abort()
    writer.abort()
    assert files_under(blobs) == []

    unfinished = blobs.begin(CHUNK)
    unfinished.write(IMAGE)
    assert len(files_under(blobs)) == 1
    BlobStore(tmp_path / "artifacts")
    assert files_under(blobs) == []
    unfinished.abort()


def test_a_disk_that_takes_no_more_is_a_store_error(blobs):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = blobs.begin(CHUNK)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        with pytest.raises(StoreError, match="cannot be written"):
            writer.write(IMAGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.abort()
    assert files_under(blobs) == []


def test_a_directory_that_cannot_be_made_is_a_store_error(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(StoreError, match="cannot be used"):
        BlobStore(tmp_path / "file")


def test_an_artifact_is_on_disk_before_it_has_its_name_and_its_name_before_it_counts_as_stored(blobs, disk):
    manifest, _ = store_image(blobs)

    disk.assert_survives(blobs.blob_path(manifest.sha256))
    disk.assert_survives(blobs.chunk_list_path(manifest.merkle_root))
