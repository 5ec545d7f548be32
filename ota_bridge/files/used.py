"""Links that may be used once: which have been, and until when they still answer.

1. A link is used up once its image was sent to the end. For GRACE_S after that it still answers, because what was sent
   may not have arrived; then it is forbidden.
2. What is used up is kept in a file, 16 bytes each, until the link would have ended anyway. The file is written without
   waiting for the disk: after a power cut a link may work once more, after a kill it does not.
"""

import os
import struct
from pathlib import Path
from typing import Final

from ota_bridge.core.errors import ConfigError
from ota_bridge.files.links import PREFIX_BYTES, Link

GRACE_S: Final = 60.0
_RECORD: Final = struct.Struct(f">{PREFIX_BYTES}sII")
_OWNER_ONLY: Final = 0o600


class UsedLinks:
    """What is in the file."""

    def __init__(self, path: Path, wall: float) -> None:
        """Read it, and leave out what has ended since. Raises ConfigError."""
        self._used: dict[bytes, float] = {}
        try:
            known = path.read_bytes() if path.exists() else b""
            kept = bytearray()
            for start in range(0, len(known) - _RECORD.size + 1, _RECORD.size):
                mark, until_s, used_s = _RECORD.unpack_from(known, start)
                if until_s >= wall:
                    self._used.setdefault(mark, float(used_s))
                    kept += known[start : start + _RECORD.size]
            fresh = path.with_name(path.name + ".new")
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _OWNER_ONLY)
            with os.fdopen(descriptor, "wb") as file:
                file.write(kept)
            fresh.replace(path)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            self._size = len(kept)
        except OSError as error:
            raise ConfigError(f"what links were used cannot be kept in {path}: {error.strerror}") from error

    def is_over(self, link: Link, wall: float) -> bool:
        """True if it was used up, and its grace is over."""
        used_s = self._used.get(link.mark)
        return used_s is not None and wall > used_s + GRACE_S

    def note(self, link: Link, wall: float) -> None:
        """Its image was sent to the end. Raises OSError where that cannot be kept."""
        if link.mark in self._used:
            return
        self._used[link.mark] = wall
        record = _RECORD.pack(link.mark, link.until_s, int(wall) & 0xFFFF_FFFF)
        if os.write(self._descriptor, record) != len(record):
            os.ftruncate(self._descriptor, self._size)
            raise OSError(0, "no space left for another used link")
        self._size += len(record)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)
