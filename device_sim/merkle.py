"""The hash tree over an image's chunks (RFC 9162 §2.1): one root in the manifest stands for the chunk list.

leaf = SHA-256(00 || chunk), node = SHA-256(01 || left || right), split at the largest power of two below n.
The chunk list is the leaves one after the other; it is checked against the root before it is believed.
"""

import hashlib
from typing import Final

HASH_BYTES: Final = 32


def leaf_hash(chunk: bytes | bytearray | memoryview) -> bytes:
    """The hash of one chunk as it stands in the chunk list."""
    digest = hashlib.sha256(b"\x00")
    digest.update(chunk)
    return digest.digest()


def root_of(leaves: bytes) -> bytes:
    """The root over a chunk list; keeps one hash per level, as a small device would."""
    count, odd = divmod(len(leaves), HASH_BYTES)
    if odd or not count:
        raise ValueError(f"a chunk list of {len(leaves)} bytes is no row of {HASH_BYTES}-byte hashes")
    stack: list[tuple[int, bytes]] = []
    for index in range(count):
        level, node = 0, leaves[index * HASH_BYTES : (index + 1) * HASH_BYTES]
        while stack and stack[-1][0] == level:
            node = hashlib.sha256(b"\x01" + stack.pop()[1] + node).digest()
            level += 1
        stack.append((level, node))
    node = stack.pop()[1]
    while stack:
        node = hashlib.sha256(b"\x01" + stack.pop()[1] + node).digest()
    return node


def chunk_count(size_bytes: int, chunk_bytes: int) -> int:
    """How many chunks an image has; the last may be short."""
    return -(-size_bytes // chunk_bytes)
