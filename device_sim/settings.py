"""What a device remembers over a restart, beside its images: one record, replaced as a whole.

A confirm, a revert, another keyset and the raising of the anti-rollback counter are therefore one write each: no
power cut can leave one done and the other not.
"""

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Self

import cbor2


class Trial(StrEnum):
    """How far a new image is on its one chance."""

    NONE = "none"
    PENDING = "pending"
    BOOTED = "booted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """The update being fetched into the inactive slot; `id` is empty when no deployment asks for it now."""

    id: str
    slot: int
    envelope_digest: bytes
    apply_now: bool = False
    list_verified: bool = False
    list_spoiled: bool = False
    image_verified: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """A last word on a deployment that the bridge has not acknowledged yet."""

    id: str
    state: str
    code: str
    reason: str
    version: str

    @property
    def sentence(self) -> str:
        """The reason for people; a refusal begins with its name."""
        return f"{self.code}: {self.reason}" if self.code.startswith("REFUSED") else self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The record. `factory` means that the active slot runs what the device was delivered with.

    `envelope_digest` names the manifest of the active slot: it was verified when it was installed, and its author's
    key may have been revoked since. `keyset` is the keyset that counts, empty for the factory's; `seqs` are of `epoch`.
    """

    boot: int = 0
    active: int = 0
    factory: bool = True
    version: str
    digest: bytes = b""
    size_bytes: int = 0
    envelope_digest: bytes = b""
    seqs: dict[str, int] = field(default_factory=dict)
    epoch: int = 1
    security_counter: int = 0
    trial: Trial = Trial.NONE
    trial_id: str = ""
    installing: bool = False
    installed_id: str = ""
    keyset: bytes = b""
    download: Download | None = None
    final: Final | None = None

    def pack(self) -> bytes:
        """The record's bytes."""
        return cbor2.dumps(asdict(self), canonical=True)

    @classmethod
    def unpack(cls, body: bytes) -> Self:
        """The record from its bytes; they passed a CRC, so they are what `pack` wrote."""
        fields: dict[str, Any] = cbor2.loads(body)
        fields["trial"] = Trial(fields["trial"])
        fields["download"] = None if fields["download"] is None else Download(**fields["download"])
        fields["final"] = None if fields["final"] is None else Final(**fields["final"])
        return cls(**fields)
