"""The hash tree over the chunks of an artifact: RFC 9162 §2.1 with SHA-256.

A leaf is SHA-256(00 ‖ chunk), a node SHA-256(01 ‖ left ‖ right), and a tree of n leaves splits at the largest
power of two below n. The chunk list, all leaf hashes one after the other, is an artifact of its own: a device
fetches it under the root's digest, checks it against the signed root, and then each chunk against its leaf.
"""

import hashlib
from typing import Final

HASH_BYTES: Final = 32


def chunk_count(size_bytes: int, chunk_bytes: int) -> int:
    """How many chunks an artifact has; the last may be short."""
    return -(-size_bytes // chunk_bytes)


def leaf_hash(chunk: bytes | memoryview) -> bytes:
    """The leaf of one chunk."""
    digest = hashlib.sha256(b"\x00")
    digest.update(chunk)
    return digest.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The parent of two nodes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier:
    """The root over leaves given one after the other; memory grows with the logarithm of their number."""

    __slots__ = ("_count", "_peaks")

    def __init__(self) -> None:
        self._count = 0
        self._peaks: list[bytes] = []  # roots of perfect subtrees, one for each 1 bit of the count, largest first

    def append(self, leaf: bytes) -> None:
        """Add the next leaf."""
        node = leaf
        merges = self._count
        while merges & 1:
            node = node_hash(self._peaks.pop(), node)
            merges >>= 1
        self._peaks.append(node)
        self._count += 1

    def root(self) -> bytes:
        """The root over the leaves so far; of none it is SHA-256 of nothing (RFC 9162)."""
        if not self._peaks:
            return hashlib.sha256().digest()
        node = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            node = node_hash(peak, node)
        return node


class ChunkHasher:
    """Cuts a stream of bytes into chunks and hashes them; with `keep_list` it collects the chunk list."""

    __slots__ = ("_chunk_bytes", "_frontier", "_list", "_rest")

    def __init__(self, chunk_bytes: int, *, keep_list: bool = False) -> None:
        self._chunk_bytes = chunk_bytes
        self._frontier = Frontier()
        self._rest = bytearray()
        self._list: bytearray | None = bytearray() if keep_list else None

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes, of any length."""
        view = memoryview(data)
        start = 0
        if self._rest:
            start = min(self._chunk_bytes - len(self._rest), len(view))
            self._rest += view[:start]
            if len(self._rest) < self._chunk_bytes:
                return
            self._append(bytes(self._rest))
            self._rest.clear()
        whole_end = start + (len(view) - start) // self._chunk_bytes * self._chunk_bytes
        for offset in range(start, whole_end, self._chunk_bytes):
            self._append(view[offset : offset + self._chunk_bytes])
        self._rest += view[whole_end:]

    def finish(self) -> bytes:
        """Take what is left as the last chunk and return the root; nothing may follow."""
        if self._rest:
            self._append(bytes(self._rest))
            self._rest.clear()
        return self._frontier.root()

    @property
    def chunk_list(self) -> bytes:
        """All leaf hashes so far; empty unless they are kept."""
        return bytes(self._list or b"")

    def _append(self, chunk: bytes | memoryview) -> None:
        leaf = leaf_hash(chunk)
        self._frontier.append(leaf)
        if self._list is not None:
            self._list += leaf


def root_of_list(chunk_list: bytes | memoryview) -> bytes:
    """The root over a chunk list; a tail shorter than one hash is a fault of the caller's."""
    if len(chunk_list) % HASH_BYTES:
        raise ValueError(f"a chunk list of {len(chunk_list)} bytes is not made of {HASH_BYTES}-byte hashes")
    frontier = Frontier()
    for offset in range(0, len(chunk_list), HASH_BYTES):
        frontier.append(bytes(chunk_list[offset : offset + HASH_BYTES]))
    return frontier.root()
