"""Artifacts as they are served: any range of them, and never a byte that was altered."""

import os
import threading
from pathlib import Path

import pytest
from contract.artifact_samples import CHUNK, IMAGE, Clock, alter, manifest_of, store_image
from contract.store_samples import facts
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.errors import ArtifactCold, ArtifactDamaged
from ota_bridge.core.merkle import Frontier, leaf_hash
from ota_bridge.core.values import Sha256
from ota_bridge.store.artifact import SEGMENT_BYTES, SegmentCache
from ota_bridge.store.blobs import IDLE_S, BlobStore


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def blobs(tmp_path, clock):
    opened = BlobStore(tmp_path / "artifacts", clock=clock)
    yield opened
    opened.close()


def read(artifact, offset, length):
    """These bytes, fetched from disk if need be."""
    try:
        return bytes(artifact.view(offset, length))
    except ArtifactCold:
        artifact.fetch(offset, length)
        return bytes(artifact.view(offset, length))


# --- reading -------------------------------------------------------------------------------------------------


@given(data=st.data(), image=st.binary(min_size=1, max_size=5 * CHUNK))
def test_any_range_is_the_images(tmp_path_factory, data, image):
    blobs = BlobStore(tmp_path_factory.mktemp("artifacts"))
    manifest, _ = store_image(blobs, image)
    artifact = blobs.open(manifest)
    for _ in range(3):
        offset = data.draw(st.integers(0, len(image)))
        length = data.draw(st.integers(0, len(image) - offset))
        assert read(artifact, offset, length) == image[offset : offset + length]
    blobs.close()


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (0, len(IMAGE) + 1), (len(IMAGE), 1)])
def test_a_range_outside_is_an_error(blobs, offset, length):
    manifest, _ = store_image(blobs)

    for artifact in (blobs.open(manifest), blobs.open_chunk_list(manifest)):
        with pytest.raises(ValueError, match="of an artifact of"):
            artifact.view(offset, length)


def test_a_view_outlives_the_artifact(blobs):
    manifest, _ = store_image(blobs)
    artifact = blobs.open(manifest)
    assert read(artifact, 0, 1)
    view = artifact.view(10, 20)
    assert view.readonly
    artifact.close()
    blobs.close()
    del artifact
    assert bytes(view) == IMAGE[10:30]


def open_files(path):
    return sum(os.path.realpath(link) == str(path) for link in Path("/proc/self/fd").iterdir())


def test_what_nobody_has_open_is_kept_for_a_while_and_then_let_go(blobs, clock):
    manifest, _ = store_image(blobs)
    path = blobs.blob_path(manifest.sha256)
    first, second = blobs.open(manifest), blobs.open(manifest)
    assert first is second
    read(first, 0, 4)
    first.close()
    second.close()
    clock.now += IDLE_S - 1
    blobs.look()
    assert blobs.open(manifest) is first
    first.close()
    clock.now += IDLE_S
    blobs.look()
    assert open_files(path) == 0
    assert {} == blobs._opened or not any(key[0] == "blob" for key in blobs._opened)
    assert read(blobs.open(manifest), 0, 4) == IMAGE[:4]


def test_opening_touches_no_disk_and_the_first_view_says_that_it_is_cold(blobs):
    artifact = blobs.open(manifest_of(b"was never stored"))
    assert 16 == artifact.size_bytes
    for one in (artifact, blobs.open_chunk_list(manifest_of(b"was never stored"))):
        with pytest.raises(ArtifactCold):
            one.view(0, 1)
        one.fetch(0, 1)
        with pytest.raises(ArtifactDamaged, match="No such file"):
            one.view(0, 1)


def test_what_the_page_cache_holds_is_read_on_the_spot(blobs):
    manifest, _ = store_image(blobs, os.urandom(4 * SEGMENT_BYTES))
    artifact = blobs.open(manifest)
    artifact.fetch(0, 1)
    for index in range(4):
        assert len(artifact.view(index * SEGMENT_BYTES, CHUNK)) == CHUNK


def test_what_is_kept_of_all_artifacts_is_bounded_and_what_is_used_stays(tmp_path):
    blobs = BlobStore(tmp_path / "artifacts", cache_bytes=8 * SEGMENT_BYTES)
    image = os.urandom(40 * SEGMENT_BYTES)
    manifest, _ = store_image(blobs, image)
    artifact = blobs.open(manifest)
    artifact.fetch(0, 1)
    for index in range(40):
        artifact.fetch(index * SEGMENT_BYTES, 1)
        assert artifact.view(5, 10) == image[5:15]
        assert len({**artifact.young, **artifact.old}) <= 8
        assert 0 in artifact.young or 0 in artifact.old
    blobs.close()
    assert ({}, {}) == (artifact.young, artifact.old)


def test_dropping_an_artifact_makes_room(tmp_path):
    cache = SegmentCache(4 * SEGMENT_BYTES)
    blobs = BlobStore(tmp_path / "artifacts")
    manifest, _ = store_image(blobs)
    artifact = blobs.open(manifest)
    cache.add(artifact, 0, memoryview(bytes(SEGMENT_BYTES)))
    cache.drop(artifact)
    assert 0 == cache._young_bytes


def test_two_manifests_of_one_image_are_each_checked_by_their_own_tree(blobs):
    small, _ = store_image(blobs)
    large = manifest_of(IMAGE, 512)
    writer = blobs.begin(512)
    writer.write(IMAGE)
    writer.finish(large)

    assert read(blobs.open(small), 0, len(IMAGE)) == IMAGE
    assert read(blobs.open(large), 0, len(IMAGE)) == IMAGE
    assert blobs.open_chunk_list(large).size_bytes < blobs.open_chunk_list(small).size_bytes


def test_many_threads_may_read_one_artifact(blobs, clock):
    manifest, _ = store_image(blobs)
    artifact = blobs.open(manifest)
    wrong = []

    def read_all():
        for offset in range(0, len(IMAGE) - 50, 7):
            if offset % 91 == 0:
                blobs.look()
            if read(artifact, offset, 50) != IMAGE[offset : offset + 50]:
                wrong.append(offset)

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_offsets_beyond_4_gib_are_served_and_checked(blobs):
    chunk_bytes, chunks = 65536, 65536 + 2
    size, end = chunks * chunk_bytes - 5, b"the end"
    last = bytes(chunk_bytes - 5 - len(end)) + end
    zero_leaf, last_leaf = leaf_hash(bytes(chunk_bytes)), leaf_hash(last)
    frontier = Frontier()
    for _ in range(chunks - 1):
        frontier.append(zero_leaf)
    frontier.append(last_leaf)
    manifest = facts(
        size_bytes=size, chunk_bytes=chunk_bytes, sha256=Sha256(b"\1" * 32), merkle_root=Sha256(frontier.root())
    )
    image, leaves = blobs.blob_path(manifest.sha256), blobs.chunk_list_path(manifest.merkle_root)
    image.parent.mkdir()
    leaves.parent.mkdir()
    leaves.write_bytes(zero_leaf * (chunks - 1) + last_leaf)
    with image.open("wb") as file:
        file.truncate(size)
        file.seek(size - len(end))
        file.write(end)

    artifact = blobs.open(manifest)
    assert artifact.size_bytes == size > 1 << 32
    assert read(artifact, size - 10, 10) == b"\0\0\0" + end
    for offset in ((1 << 31) - 1, 1 << 31, (1 << 32) - 3, 1 << 32):
        assert read(artifact, offset, 6) == bytes(6)
    alter(image, (1 << 32) + chunk_bytes // 2)
    fresh = BlobStore(blobs._root)
    assert read(fresh.open(manifest), size - 7, 7) == end
    with pytest.raises(ArtifactDamaged, match="chunk 65536"):
        read(fresh.open(manifest), 1 << 32, 1)
    fresh.close()


# --- faults --------------------------------------------------------------------------------------------------


def test_a_flipped_byte_fails_its_segment_and_no_other(blobs):
    image = os.urandom(3 * SEGMENT_BYTES)
    manifest, _ = store_image(blobs, image)
    alter(blobs.blob_path(manifest.sha256), SEGMENT_BYTES + 3 * CHUNK + 9)
    artifact = blobs.open(manifest)

    for _ in range(2):
        with pytest.raises(ArtifactDamaged, match=f"chunk {SEGMENT_BYTES // CHUNK + 3} was altered"):
            read(artifact, SEGMENT_BYTES - 1, 2)
    assert read(artifact, 0, SEGMENT_BYTES) == image[:SEGMENT_BYTES]
    assert read(artifact, 2 * SEGMENT_BYTES, CHUNK) == image[2 * SEGMENT_BYTES : 2 * SEGMENT_BYTES + CHUNK]


def test_a_byte_flipped_under_what_was_checked_is_never_served_and_found_at_the_next_look(blobs):
    manifest, _ = store_image(blobs)
    artifact = blobs.open(manifest)
    read(artifact, 0, len(IMAGE))
    path = blobs.blob_path(manifest.sha256)
    alter(path, 9)
    os.utime(path, ns=(1, 1))
    assert read(artifact, 0, len(IMAGE)) == IMAGE

    blobs.look()
    with pytest.raises(ArtifactDamaged, match="chunk 0"):
        read(artifact, 0, 1)


@pytest.mark.parametrize("size", [0, CHUNK, len(IMAGE) - 1])
def test_a_file_cut_short_is_damaged_at_the_next_look_and_heals(blobs, size):
    manifest, _ = store_image(blobs)
    artifact = blobs.open(manifest)
    read(artifact, 0, len(IMAGE))
    path = blobs.blob_path(manifest.sha256)
    path.chmod(0o644)
    os.truncate(path, size)
    blobs.look()

    for _ in range(2):
        with pytest.raises(ArtifactDamaged, match=f"has {size} bytes, its manifest says {len(IMAGE)}"):
            read(artifact, 0, 1)
    store_image(blobs)
    blobs.look()
    assert read(artifact, 0, len(IMAGE)) == IMAGE


def test_a_file_cut_short_between_two_looks_is_an_error_and_not_the_end_of_the_process(blobs):
    image = os.urandom(2 * SEGMENT_BYTES)
    manifest, _ = store_image(blobs, image)
    artifact = blobs.open(manifest)
    assert read(artifact, 0, 1) == image[:1]
    path = blobs.blob_path(manifest.sha256)
    path.chmod(0o644)
    os.truncate(path, 0)

    with pytest.raises(ArtifactDamaged, match="ends before byte"):
        read(artifact, SEGMENT_BYTES, 1)
    assert read(artifact, 0, SEGMENT_BYTES) == image[:SEGMENT_BYTES], "what was checked is in memory"


def test_a_missing_file_is_damaged_at_the_next_look(blobs):
    manifest, _ = store_image(blobs)
    artifact = blobs.open(manifest)
    read(artifact, 0, 1)
    blobs.blob_path(manifest.sha256).unlink()
    blobs.look()

    with pytest.raises(ArtifactDamaged, match="cannot be read: No such file"):
        read(artifact, 0, 1)
    assert not blobs.has(manifest)


@pytest.mark.parametrize("same", [True, False])
def test_a_replaced_file_is_checked_anew(blobs, tmp_path, same):
    manifest, _ = store_image(blobs)
    artifact = blobs.open(manifest)
    read(artifact, 0, len(IMAGE))
    (tmp_path / "other").write_bytes(IMAGE if same else bytes(len(IMAGE)))
    (tmp_path / "other").replace(blobs.blob_path(manifest.sha256))
    blobs.look()

    if same:
        assert read(artifact, 0, len(IMAGE)) == IMAGE
    else:
        with pytest.raises(ArtifactDamaged, match="chunk 0 was altered"):
            read(artifact, 0, 1)


def test_a_good_copy_with_the_size_and_the_time_of_the_damaged_file_heals_it(blobs, tmp_path):
    manifest, _ = store_image(blobs)
    path = blobs.blob_path(manifest.sha256)
    alter(path, 9)
    artifact = blobs.open(manifest)
    with pytest.raises(ArtifactDamaged, match="chunk 0 was altered"):
        read(artifact, 0, 1)
    copy, state = tmp_path / "copy", path.stat()
    copy.write_bytes(IMAGE)
    os.utime(copy, ns=(state.st_atime_ns, state.st_mtime_ns))
    copy.replace(path)
    blobs.look()

    assert read(artifact, 0, len(IMAGE)) == IMAGE


@pytest.mark.parametrize("fault", ["flip", "cut", "longer", "missing"])
def test_a_damaged_chunk_list_is_found_at_open(blobs, fault):
    manifest, _ = store_image(blobs)
    path = blobs.chunk_list_path(manifest.merkle_root)
    size = path.stat().st_size
    match fault:
        case "flip":
            alter(path, 40)
        case "cut":
            path.chmod(0o644)
            os.truncate(path, size - 32)
        case "longer":
            alter(path, size, bytes(32))
        case "missing":
            path.unlink()

    for open_it in (blobs.open, blobs.open_chunk_list):
        with pytest.raises(ArtifactDamaged, match="chunk list"):
            read(open_it(manifest), 0, 1)
