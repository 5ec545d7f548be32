"""The file of a backup: an uncompressed tar, in which what was left out or altered shows.

    ota-bridge.sqlite             the database
    blobs/ab/<sha256, hex>        images
    chunks/ab/<Merkle root, hex>  their chunk lists
    ota-bridge-backup.json        the index, last: each member with its size and SHA-256

1. It is written and read by rules of its own, 512 bytes of head and then the content: plain files with these names and
   nothing else, so nothing that a tar can hold otherwise (links, devices, paths that lead out) is ever acted on.
2. The index stands at the end, because what a digest is shows when it was written: a file without it is not whole.
3. `read` gives nothing that it has not checked: only after the index has come is anything known to be right.
"""

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from ota_bridge.core.errors import InvalidInput, Malformed, NewerSchema, StoreDamaged
from ota_bridge.decode import Fields, read_json

FORMAT: Final = 1
DATABASE_MEMBER: Final = "ota-bridge.sqlite"
INDEX_MEMBER: Final = "ota-bridge-backup.json"
PIECE_BYTES: Final = 1 << 20
INDEX_MAX_BYTES: Final = 1 << 26
_ITEMS_MAX: Final = 2_000_000
_BLOCK: Final = 512
_END: Final = bytes(2 * _BLOCK)
_MODE: Final = 0o600
_ARTIFACT: Final = re.compile(r"(blobs|chunks)/([0-9a-f]{2})/\2[0-9a-f]{62}")
_HEX64: Final = re.compile(r"[0-9a-f]{64}")
_U63: Final = 2**63 - 1

Piece = Callable[[int], None]
"""Told how many bytes have gone by."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a backup."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """What a backup says of itself; `missing` names artifacts that were not there when it was made."""

    taken_s: int
    """Wall seconds."""
    as_of_s: int | None
    """When something was last committed before that."""
    schema: int
    members: dict[str, Member]
    missing: tuple[str, ...]


class ArchiveWriter:
    """Writes one archive into an open file."""

    def __init__(self, file: BinaryIO, taken_s: int) -> None:
        self._file = file
        self._taken_s = taken_s
        self._members: dict[str, Member] = {}

    def add(self, name: str, source: BinaryIO, size: int, gone: Piece, expected: str | None = None) -> bool:
        """Copy `size` bytes; False, and nothing is kept, where the source has fewer or is not what is expected."""
        start = self._file.tell()
        self._file.write(_head(name, size, self._taken_s))
        digest, left = hashlib.sha256(), size
        while left and (data := given(source, min(left, PIECE_BYTES))):
            self._file.write(data)
            digest.update(data)
            left -= len(data)
            gone(len(data))
        if left or (expected is not None and digest.hexdigest() != expected):
            self._file.seek(start)
            self._file.truncate()
            return False
        self._file.write(bytes(-size % _BLOCK))
        self._members[name] = Member(size, digest.hexdigest())
        return True

    def finish(self, *, as_of_s: int | None, schema: int, missing: tuple[str, ...]) -> Index:
        """Write the index and the end; the file is neither flushed nor closed."""
        index = Index(
            taken_s=self._taken_s, as_of_s=as_of_s, schema=schema, members=dict(self._members), missing=missing
        )
        document = {
            "format": FORMAT,
            "taken_s": index.taken_s,
            "as_of_s": index.as_of_s,
            "schema": index.schema,
            "missing": index.missing,
            "members": {name: [one.size_bytes, one.sha256] for name, one in index.members.items()},
        }
        text = json.dumps(document, indent=1).encode("ascii")
        self._file.write(_head(INDEX_MEMBER, len(text), self._taken_s) + text + bytes(-len(text) % _BLOCK) + _END)
        return index


def given(source: BinaryIO, size: int) -> bytes:
    """At most `size` bytes; fewer where the source ends or cannot be read."""
    try:
        return source.read(size)
    except OSError:  # a bad sector: as if it ended here
        return b""


def is_archive(path: Path) -> bool:
    """True if the file begins as a backup does; raises OSError."""
    with path.open("rb") as file:
        head = _read_head(file.read(_BLOCK))
    return head is not None and head.name in {DATABASE_MEMBER, INDEX_MEMBER}


def read(path: Path, gone: Piece, keep: Callable[[str], Path | None]) -> Index:
    """Go through a whole backup, write each member to where `keep` says, and check everything against the index.

    Raises StoreDamaged or one of its kin, InvalidInput for a file that is no backup, OSError. What was kept until
    then is the caller's to remove.
    """
    if not is_archive(path):
        raise InvalidInput(f"{path} is not a backup of the bridge")
    found: dict[str, Member] = {}
    with path.open("rb") as file:
        for name, size in _members(file, path):
            if name == INDEX_MEMBER:
                index = _read_index(_exactly(file, size, path), path)
                if index.members != found:
                    raise _damaged(path, "its index does not fit what it holds")
                return index
            found[name] = Member(size, _copied(file, size, path, gone, keep(name)))
            file.seek(-size % _BLOCK, os.SEEK_CUR)
    raise _damaged(path, "its end is missing")


def _members(file: BinaryIO, path: Path) -> Iterator[tuple[str, int]]:
    seen: set[str] = set()
    while True:
        head = _read_head(file.read(_BLOCK))
        if head is None:
            raise _damaged(path, f"at byte {file.tell()} there is no file")
        name = head.name
        if name in seen or not (name in {DATABASE_MEMBER, INDEX_MEMBER} or _ARTIFACT.fullmatch(name)):
            raise _damaged(path, f"it holds {name[:80]!r}, which no backup does, or holds it twice")
        if name == INDEX_MEMBER and head.size > INDEX_MAX_BYTES:
            raise _damaged(path, "its index is too long")
        seen.add(name)
        yield name, head.size


def _head(name: str, size: int, taken_s: int) -> bytes:
    head = tarfile.TarInfo(name)
    head.size, head.mode, head.mtime = size, _MODE, taken_s
    return head.tobuf(tarfile.GNU_FORMAT)


def _read_head(block: bytes) -> tarfile.TarInfo | None:
    """The head of a plain file, or None."""
    try:
        head = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.TarError, ValueError):
        return None
    return head if head.type == tarfile.REGTYPE and head.size >= 0 else None


def _copied(file: BinaryIO, size: int, path: Path, gone: Piece, target: Path | None) -> str:
    """The SHA-256 of the next `size` bytes, which go to `target` if there is one, durably."""
    digest, left = hashlib.sha256(), size
    descriptor = -1
    try:
        if target is not None:
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        while left:
            data = _exactly(file, min(left, PIECE_BYTES), path)
            rest = memoryview(data)
            while descriptor >= 0 and rest:
                rest = rest[os.write(descriptor, rest) :]
            digest.update(data)
            left -= len(data)
            gone(len(data))
        if descriptor >= 0:
            os.fsync(descriptor)
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return digest.hexdigest()


def _exactly(file: BinaryIO, size: int, path: Path) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise _damaged(path, "it is cut off")
    return data


def _read_index(text: bytes, path: Path) -> Index:
    try:
        fields = Fields(read_json(text, max_bytes=INDEX_MAX_BYTES, max_items=_ITEMS_MAX), name="index")
        version = fields.uint("format", maximum=_U63)
        if version > FORMAT:
            raise NewerSchema(f"backup {path} has format {version}, this program knows {FORMAT}: upgrade the program")
        return _index(fields)
    except Malformed as error:
        raise _damaged(path, f"its index cannot be read: {error}") from error


def _index(fields: Fields) -> Index:
    listed, missing = fields.mapping("members"), fields.array("missing", max_items=_ITEMS_MAX)
    members: dict[str, Member] = {}
    for name in listed:
        pair = listed.array(name, min_items=2, max_items=2)
        members[name] = Member(pair.uint(0, maximum=_U63), pair.text(1, max_bytes=64, pattern=_HEX64))
    return Index(
        taken_s=fields.uint("taken_s", maximum=_U63),
        as_of_s=fields.optional(fields.uint, "as_of_s", maximum=_U63),
        schema=fields.uint("schema", maximum=_U63),
        members=members,
        missing=tuple(missing.text(number, max_bytes=1024) for number in range(len(missing))),
    )


def _damaged(path: Path, what: str) -> StoreDamaged:
    return StoreDamaged(f"backup {path} is damaged ({what}): use another")
