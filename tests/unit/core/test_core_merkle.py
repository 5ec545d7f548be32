"""The hash tree against a naive recursion written from RFC 9162 §2.1.1."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.merkle import ChunkHasher, Frontier, chunk_count, leaf_hash, root_of_list

CHUNK = 256


def naive_root(leaves):
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + naive_root(leaves[:split]) + naive_root(leaves[split:])).digest()


def naive_leaves(data, chunk):
    return [hashlib.sha256(b"\x00" + data[i : i + chunk]).digest() for i in range(0, len(data), chunk)]


def image(size):
    return bytes(i * 31 % 251 for i in range(size))


@pytest.mark.parametrize("count", [*range(71), 127, 128, 129, 255, 256, 257])
def test_the_root_is_that_of_the_recursion(count):
    leaves = [leaf_hash(bytes([i % 256])) for i in range(count)]
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    assert naive_root(leaves) == frontier.root() == root_of_list(b"".join(leaves))


@pytest.mark.parametrize("size", [1, 255, 256, 257, 511, 512, 513, 767, 768, 769, 4095, 4096, 4097])
@pytest.mark.parametrize("piece", [1, 7, 255, 256, 257, 600, 10_000])
def test_the_cut_of_the_stream_does_not_matter(size, piece):
    data = image(size)
    hasher = ChunkHasher(CHUNK, keep_list=True)
    for start in range(0, size, piece):
        hasher.update(data[start : start + piece])
    root = hasher.finish()
    leaves = naive_leaves(data, CHUNK)
    assert (naive_root(leaves), b"".join(leaves)) == (root, hasher.chunk_list)
    assert chunk_count(size, CHUNK) == len(leaves)


@given(pieces=st.lists(st.binary(max_size=700), max_size=12))
def test_any_pieces_give_the_root_of_the_whole(pieces):
    hasher = ChunkHasher(CHUNK)
    for piece in pieces:
        hasher.update(memoryview(piece))
    assert naive_root(naive_leaves(b"".join(pieces), CHUNK)) == hasher.finish()
    assert hasher.chunk_list == b""


def test_a_leaf_is_no_node():
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != root_of_list(left + right)


def test_two_equal_halves_do_not_stand_for_one():
    leaf = leaf_hash(b"a")
    assert len({root_of_list(leaf * count) for count in range(1, 9)}) == 8


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1, 1), (4096, 1), (4097, 2), (2**31 - 1, 2**19), (2**31, 2**19), (2**32, 2**20), (2**32 + 1, 2**20 + 1)],
)
def test_chunks_are_counted_without_a_32_bit_limit(size, expected):
    assert expected == chunk_count(size, 4096)


def test_a_torn_chunk_list_is_refused():
    with pytest.raises(ValueError, match="chunk list of 33 bytes"):
        root_of_list(bytes(33))


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
        (2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
        (3, "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
        (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
    ],
)
def test_the_reference_tree_of_certificate_transparency(count, expected):
    entries = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    leaves = [leaf_hash(bytes.fromhex(entry)) for entry in entries[:count]]
    assert expected == root_of_list(b"".join(leaves)).hex()
