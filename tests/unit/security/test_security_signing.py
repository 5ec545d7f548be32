"""Signing a file: what is hashed is the file, in one pass, and a file that moves is refused."""

import hashlib
import json
import os
import tracemalloc
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from ota_bridge.core.errors import InvalidInput, NotFound
from ota_bridge.core.merkle import ChunkHasher
from ota_bridge.security import manifest
from ota_bridge.security.keys import Algorithm, SigningKey
from ota_bridge.security.signing import check_file, hash_image, sign_file
from ota_bridge.security.trust import Trust

VECTOR = json.loads((Path(__file__).parents[2] / "vectors" / "manifest" / "ed25519.json").read_text())
KEY = SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(VECTOR["keys"][0]["private"])))
IMAGE = bytes(i * i % 251 for i in range(10_000))
ARGUMENTS = {
    "keys": [KEY],
    "vendor_domain": "example.com",
    "product": "lamp",
    "hw": ["r1"],
    "version": "1.1.0",
    "seq": 4,
}


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.bin"
    path.write_bytes(IMAGE)
    return path


def message(path, **changes):
    with pytest.raises(InvalidInput) as caught:
        sign_file(path, **{**ARGUMENTS, **changes})
    return str(caught.value)


def test_a_signed_file_is_the_vector(image):
    signed = sign_file(image, **ARGUMENTS)
    assert VECTOR["envelope"] == signed.envelope.hex()
    assert manifest.verify(signed.envelope, Trust.parse(json.dumps(VECTOR["trust"]).encode())) == signed.facts


def test_the_order_of_the_hardware_ids_does_not_matter(image):
    one = sign_file(image, **{**ARGUMENTS, "hw": ["r1", "r2", "r3"]})
    assert one == sign_file(image, **{**ARGUMENTS, "hw": ["r3", "r1", "r2", "r1"]})
    assert len(one.facts.classes) == 3


@pytest.mark.parametrize(("keys", "expected"), [(1, 223), (2, 306)])
def test_a_usual_envelope_is_small(image, keys, expected):
    signers = [KEY, SigningKey.generate(Algorithm.P256)][:keys]
    assert expected == len(sign_file(image, **{**ARGUMENTS, "keys": signers}).envelope)


@pytest.mark.parametrize("size", [1, 255, 256, 257, 4096, 2**20 - 1, 2**20, 2**20 + 1, 3 * 2**20 + 5])
def test_hashes_are_those_of_the_whole_file(tmp_path, size):
    data = os.urandom(size)
    path = tmp_path / "image.bin"
    path.write_bytes(data)
    seen = []
    hashes = hash_image(path, chunk_bytes=256, progress=lambda done, total: seen.append((done, total)))
    chunks = ChunkHasher(256)
    chunks.update(data)
    assert (size, hashlib.sha256(data).digest(), chunks.finish()) == (
        hashes.size_bytes,
        hashes.sha256,
        hashes.merkle_root,
    )
    assert (size, size) == seen[-1]


def test_memory_does_not_grow_with_the_file(tmp_path):
    path = tmp_path / "sparse.bin"
    path.touch()
    os.truncate(path, 24 << 20)
    tracemalloc.start()
    try:
        hash_image(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def appended(path):
    with path.open("ab") as file:
        file.write(b"x")


def cut(path):
    os.truncate(path, 5)


def overwritten(path):
    with path.open("r+b") as file:
        file.write(b"changed")
    os.utime(path, ns=(1, 1))


def replaced(path):
    other = path.with_suffix(".new")
    other.write_bytes(IMAGE)
    other.replace(path)


@pytest.mark.parametrize("change", [appended, cut, overwritten, replaced])
def test_a_file_that_changes_while_it_is_read_is_refused(image, change):
    changed = []

    def progress(_done, _total):
        if not changed:
            changed.append(True)
            change(image)

    assert f"image {image} changed while it was read; nothing was signed" == message(image, progress=progress)


def test_a_file_that_grows_for_ever_is_not_read_for_ever(image):
    with pytest.raises(InvalidInput, match="changed while it was read"):
        hash_image(image, progress=lambda _done, _total: appended(image))


def test_a_file_that_disappears_is_refused(image):
    with pytest.raises(NotFound, match="does not exist"):
        hash_image(image, progress=lambda _done, _total: image.unlink())


def test_what_is_no_image_is_refused(tmp_path, image):
    with pytest.raises(NotFound, match="does not exist"):
        sign_file(tmp_path / "none", **ARGUMENTS)
    assert f"image {tmp_path} cannot be read: Is a directory" == message(tmp_path)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert f"image {fifo} is not a regular file" == message(fifo)
    empty = tmp_path / "empty"
    empty.touch()
    assert f"image {empty} is empty" == message(empty)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seq": 0}, "seq 0: it starts at 1, a device has 0 from the factory"),
        ({"seq": 2**32}, "manifest: seq must be 0..4294967295, not 4294967296"),
        ({"vendor_domain": "Example"}, "vendor 'Example' is not a domain name in lower case, such as example.com"),
        ({"hw": []}, "0 hardware classes, 1..8 are allowed"),
        ({"chunk_bytes": 1000}, "chunk size 1000 is not a power of two"),
        ({"keys": []}, "at least one key must sign"),
        ({"keys": [KEY, KEY]}, "the same key signs twice"),
    ],
)
def test_a_wrong_argument_is_refused_with_a_sentence(image, changes, expected):
    assert expected == message(image, **changes)


@pytest.mark.parametrize("changes", [{"product": "a/b"}, {"hw": ["a/b"]}, {"version": "1 0"}, {"component": "X"}])
def test_a_wrong_name_is_refused(image, changes):
    assert "is not valid" in message(image, **changes)


def test_the_next_author_checks_the_file_first(image):
    facts = sign_file(image, **ARGUMENTS).facts
    check_file(image, facts)
    image.write_bytes(IMAGE[:-1] + b"\xff")
    with pytest.raises(InvalidInput, match="is not the one that the manifest was made for"):
        check_file(image, facts)
    image.write_bytes(IMAGE[:-1])
    with pytest.raises(InvalidInput, match="has 9999 bytes, the manifest says 10000"):
        check_file(image, facts)
