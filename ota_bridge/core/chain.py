"""The audit log as a chain: each entry holds the digest of the one before it.

1. The digest of an entry is the SHA-256 of the digest before it (32 zero bytes before the first) and the entry's
   canonical form: a JSON array of its values in the order of the fields, without spaces, in ASCII.
2. Numbers begin with 1 and leave nothing out.
3. So an entry that was altered, taken out, put in or moved is found at the first place that does not fit, by anybody
   who has the log. Whoever can write the database can write a whole new chain, or cut the end off: that shows only
   beside a head (the number and digest of an entry) that was kept elsewhere.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from ota_bridge.core.errors import InvalidInput

GENESIS: Final = bytes(32)
"""Stands for the entry before the first."""

_DIGEST_BYTES: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Who did what, when, to what, and how it ended. `detail` is compact JSON text, kept as it was hashed."""

    n: int
    wall_ms: int
    actor: str
    how: str
    action: str
    subject: str
    result: str
    detail: str
    digest: bytes = b""

    def canonical(self) -> bytes:
        """What the digest covers."""
        values = (self.n, self.wall_ms, self.actor, self.how, self.action, self.subject, self.result, self.detail)
        return json.dumps(values, ensure_ascii=True, separators=(",", ":")).encode("ascii")

    def after(self, digest: bytes) -> "Entry":
        """This entry, with its digest, behind the one that has `digest`."""
        return replace(self, digest=hashlib.sha256(digest + self.canonical()).digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The place of an entry in the chain: as `N:HEX` it can be kept elsewhere."""

    n: int = 0
    digest: bytes = GENESIS

    def __str__(self) -> str:
        return f"{self.n}:{self.digest.hex()}"

    @classmethod
    def of(cls, entry: Entry | None) -> "Head":
        """The place of `entry`; None: before the first."""
        return cls() if entry is None else cls(n=entry.n, digest=entry.digest)

    @classmethod
    def parse(cls, text: str) -> "Head":
        """Read `N:HEX`; raises InvalidInput."""
        number, _, digest = text.partition(":")
        try:
            head = cls(n=int(number), digest=bytes.fromhex(digest))
        except ValueError:
            head = cls(n=-1)
        if head.n < 0 or len(head.digest) != _DIGEST_BYTES or not number.isdecimal():
            raise InvalidInput(f"head {text[:80]!r}: write it as N:HEX, as `audit verify` shows it")
        return head


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a look at the whole chain found. `wrong` is the first entry that does not fit; None: all do."""

    head: Head
    wrong: int | None = None
    reason: str = ""


def verify(entries: Iterable[Entry], kept: Head | None = None) -> Verdict:
    """Whether `entries`, all of them from the first on, are a chain, and whether it still leads through `kept`."""
    head = Head()
    for entry in entries:
        expected = head.n + 1
        if entry.n != expected:
            return Verdict(head=head, wrong=expected, reason=f"entry {expected} is missing: {entry.n} follows {head.n}")
        if entry.after(head.digest).digest != entry.digest:
            reason = f"entry {entry.n} is not what was written, or does not follow what stands before it"
            return Verdict(head=head, wrong=entry.n, reason=reason)
        head = Head.of(entry)
        if kept is not None and kept.n == entry.n and kept.digest != entry.digest:
            reason = f"entry {entry.n} is not the one whose digest was kept: the chain was written anew"
            return Verdict(head=head, wrong=entry.n, reason=reason)
    if kept is not None and kept.n > head.n:
        reason = f"the log ends with entry {head.n}, and entry {kept.n} was there: its end is cut off"
        return Verdict(head=head, wrong=head.n + 1, reason=reason)
    return Verdict(head=head)
