"""What is left of a device's reports that were pruned: enough to tell a repeat and a late boot from something new.

1. Of the boot that the device was in when it was pruned, the last `KEYS_KEPT` keys with their content: a repeat of one
   is still a repeat, and another report under its key still a clash.
2. Of every boot, its number, for the last `BOOTS_KEPT` boots: a report of an earlier boot does not supersede the
   present one, however late it comes.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from ota_bridge.core.messages import ReportKey

KEYS_KEPT: Final = 256
BOOTS_KEPT: Final = 64
_HEAD: Final = struct.Struct(">QB")
_BOOT: Final = struct.Struct(">Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class OldKeys:
    """Of one device. `keys` are those of `boot`, the oldest first; so are `boots`."""

    boot: int | None = None
    keys: tuple[tuple[int, bytes], ...] = ()
    boots: tuple[int, ...] = ()

    def content(self, boot: int, seq: int) -> bytes | None:
        """The content of the report of that key, if it is known."""
        return dict(self.keys).get(seq) if boot == self.boot else None

    def knows_boot(self, boot: int) -> bool:
        """True if a report of that boot was pruned."""
        return boot in self.boots

    def after(self, pruned: Iterable[ReportKey], boot: int | None) -> "OldKeys":
        """What is known once these reports are pruned too, as the device is in this boot; the oldest come first."""
        keys = dict(self.keys) if boot == self.boot else {}
        boots = dict.fromkeys(self.boots)
        for key in pruned:
            if key.boot == boot:
                keys[key.seq] = key.content
            boots.pop(key.boot, None)
            boots[key.boot] = None
        return OldKeys(boot=boot, keys=tuple(keys.items())[-KEYS_KEPT:], boots=tuple(boots)[-BOOTS_KEPT:])

    def packed(self) -> tuple[bytes, bytes]:
        """Keys and boots as bytes."""
        keys = b"".join(_HEAD.pack(seq, len(content)) + content for seq, content in self.keys)
        return keys, b"".join(map(_BOOT.pack, self.boots))

    @classmethod
    def unpacked(cls, boot: int | None, keys: bytes, boots: bytes) -> "OldKeys":
        """The reverse of `packed`."""
        found: list[tuple[int, bytes]] = []
        at = 0
        while at < len(keys):
            seq, length = _HEAD.unpack_from(keys, at)
            at += _HEAD.size + length
            found.append((seq, keys[at - length : at]))
        return cls(boot=boot, keys=tuple(found), boots=tuple(one for (one,) in _BOOT.iter_unpack(boots)))
