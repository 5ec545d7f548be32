"""Artifacts as they are served: any range of them, and never a byte that was altered."""

import os
import threading
from pathlib import Path

import pytest
from contract.artifact_samples import CHUNK, IMAGE, Clock, alter, manifest_of, store_image
from contract.store_samples import facts
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.errors import ArtifactDamaged, StoreError
from ota_bridge.core.merkle import Frontier, leaf_hash
from ota_bridge.core.values import Sha256
from ota_bridge.store.artifact import CHECK_S
from ota_bridge.store.blobs import BlobStore


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def blobs(tmp_path, clock):
    opened = BlobStore(tmp_path / "artifacts", clock=clock)
    yield opened
    opened.close()


# --- reading -------------------------------------------------------------------------------------------------


@given(data=st.data(), image=st.binary(min_size=1, max_size=5 * CHUNK))
def test_any_range_is_the_images(tmp_path_factory, data, image):
    blobs = BlobStore(tmp_path_factory.mktemp("artifacts"))
    manifest, _ = store_image(blobs, image)
    artifact = blobs.open(manifest)
    for _ in range(3):
        offset = data.draw(st.integers(0, len(image)))
        length = data.draw(st.integers(0, len(image) - offset))
        assert bytes(artifact.view(offset, length)) == image[offset : offset + length]
        assert artifact.is_checked(offset, length)
    blobs.close()


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (0, len(IMAGE) + 1), (len(IMAGE), 1)])
def test_a_range_outside_is_an_error(blobs, offset, length):
    manifest, _ = store_image(blobs)

    for artifact in (blobs.open(manifest), blobs.open_chunk_list(manifest)):
        with pytest.raises(ValueError, match="of an artifact of"):
            artifact.view(offset, length)


def test_views_are_slices_of_the_map_and_outlive_the_artifact(blobs):
    manifest, _ = store_image(blobs)
    artifact = blobs.open(manifest)
    view = artifact.view(10, 20)
    assert type(view.obj).__name__ == "mmap"
    assert view.readonly

    artifact.close()
    blobs.close()
    del artifact
    assert bytes(view) == IMAGE[10:30]


def open_files(path):
    return sum(os.path.realpath(link) == str(path) for link in Path("/proc/self/fd").iterdir())


def test_the_file_is_let_go_when_the_last_who_opened_it_and_the_last_view_are_gone(blobs):
    manifest, _ = store_image(blobs)
    path = blobs.blob_path(manifest.sha256)
    first, second = blobs.open(manifest), blobs.open(manifest)
    assert first is second

    first.close()
    view = second.view(0, 4)
    second.close()
    with pytest.raises(StoreError, match="closed"):
        second.view(0, 4)
    assert open_files(path) == 1
    del view
    assert open_files(path) == 0
    assert bytes(blobs.open(manifest).view(0, 4)) == IMAGE[:4]


def test_a_chunk_counts_as_checked_once_it_was_touched(blobs):
    manifest, _ = store_image(blobs)
    artifact = blobs.open(manifest)

    assert not artifact.is_checked(0, 1)
    artifact.view(0, 1)
    assert artifact.is_checked(0, CHUNK)
    assert not artifact.is_checked(0, CHUNK + 1)


def test_two_manifests_of_one_image_are_each_checked_by_their_own_tree(blobs):
    small, _ = store_image(blobs)
    large = manifest_of(IMAGE, 512)
    writer = blobs.begin(512)
    writer.write(IMAGE)
    writer.finish(large)

    assert bytes(blobs.open(small).view(0, len(IMAGE))) == IMAGE
    assert bytes(blobs.open(large).view(0, len(IMAGE))) == IMAGE
    assert blobs.open_chunk_list(large).size_bytes < blobs.open_chunk_list(small).size_bytes


def test_many_threads_may_read_one_artifact(blobs, clock):
    manifest, _ = store_image(blobs)
    artifact = blobs.open(manifest)
    wrong = []

    def read_all():
        for offset in range(0, len(IMAGE) - 50, 7):
            clock.now += CHECK_S / 10
            if bytes(artifact.view(offset, 50)) != IMAGE[offset : offset + 50]:
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
    assert bytes(artifact.view(size - 10, 10)) == b"\0\0\0" + end
    assert bytes(artifact.view((1 << 32) - 3, 6)) == bytes(6)
    assert not artifact.is_checked(0, 1)
    alter(image, (1 << 32) + chunk_bytes // 2)
    fresh = BlobStore(blobs._root)
    assert bytes(fresh.open(manifest).view(size - 7, 7)) == end
    with pytest.raises(ArtifactDamaged, match="chunk 65536"):
        fresh.open(manifest).view(1 << 32, 1)
    fresh.close()


# --- faults --------------------------------------------------------------------------------------------------


def test_a_flipped_byte_fails_its_chunk_and_no_other(blobs):
    manifest, _ = store_image(blobs)
    alter(blobs.blob_path(manifest.sha256), 3 * CHUNK + 9)
    artifact = blobs.open(manifest)

    for _ in range(2):
        with pytest.raises(ArtifactDamaged, match="chunk 3 was altered"):
            artifact.view(3 * CHUNK - 1, 2)
    assert bytes(artifact.view(0, 3 * CHUNK)) == IMAGE[: 3 * CHUNK]
    assert bytes(artifact.view(4 * CHUNK, CHUNK)) == IMAGE[4 * CHUNK : 5 * CHUNK]


def test_a_byte_flipped_under_a_checked_chunk_is_found_at_the_next_look(blobs, clock):
    manifest, _ = store_image(blobs)
    artifact = blobs.open(manifest)
    artifact.view(0, len(IMAGE))
    path = blobs.blob_path(manifest.sha256)
    alter(path, 9)
    os.utime(path, ns=(1, 1))
    clock.now += CHECK_S

    with pytest.raises(ArtifactDamaged, match="chunk 0"):
        artifact.view(0, 1)
    assert bytes(artifact.view(CHUNK, 10)) == IMAGE[CHUNK : CHUNK + 10]


@pytest.mark.parametrize("size", [0, CHUNK, len(IMAGE) - 1])
def test_a_file_cut_short_is_damaged_at_open_and_at_the_next_look(blobs, clock, size):
    manifest, _ = store_image(blobs)
    artifact = blobs.open(manifest)
    artifact.view(0, len(IMAGE))
    path = blobs.blob_path(manifest.sha256)
    path.chmod(0o644)
    os.truncate(path, size)
    clock.now += CHECK_S

    for _ in range(2):
        with pytest.raises(ArtifactDamaged, match=f"has {size} bytes, its manifest says {len(IMAGE)}"):
            artifact.view(0, 1)
    artifact.close()
    with pytest.raises(ArtifactDamaged):
        blobs.open(manifest)


def test_a_file_cut_short_between_two_looks_fails_at_the_first_touch_of_a_chunk_instead_of_killing_the_process(blobs):
    manifest, _ = store_image(blobs)
    artifact = blobs.open(manifest)
    path = blobs.blob_path(manifest.sha256)
    path.chmod(0o644)
    os.truncate(path, 0)

    with pytest.raises(ArtifactDamaged, match="ends before byte"):
        artifact.view(2 * CHUNK, 1)


def test_a_missing_file_is_damaged_at_open_and_at_the_next_look(blobs, clock):
    manifest, _ = store_image(blobs)
    artifact = blobs.open(manifest)
    blobs.blob_path(manifest.sha256).unlink()
    clock.now += CHECK_S

    with pytest.raises(ArtifactDamaged, match="cannot be read: No such file"):
        artifact.view(0, 1)
    artifact.close()
    with pytest.raises(ArtifactDamaged, match="cannot be read: No such file"):
        blobs.open(manifest)
    assert not blobs.has(manifest)


@pytest.mark.parametrize("same", [True, False])
def test_a_replaced_file_is_checked_anew(blobs, clock, tmp_path, same):
    manifest, _ = store_image(blobs)
    artifact = blobs.open(manifest)
    artifact.view(0, len(IMAGE))
    (tmp_path / "other").write_bytes(IMAGE if same else bytes(len(IMAGE)))
    (tmp_path / "other").replace(blobs.blob_path(manifest.sha256))
    clock.now += CHECK_S

    if same:
        assert bytes(artifact.view(0, len(IMAGE))) == IMAGE
    else:
        with pytest.raises(ArtifactDamaged, match="chunk 0 was altered"):
            artifact.view(0, 1)


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
            open_it(manifest)
