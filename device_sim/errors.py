"""Every error that this package raises on purpose, and the names by which a device refuses an update.

    DeviceSimError            the root; anything else that escapes is a bug
    ├── OptionError           the command line: a value that cannot be used
    ├── TrustError            the trust document is missing or is not one
    ├── BrokerUnreachable     no device could connect in the time given
    ├── Malformed             bytes from the wire that are not what they should be: counted and dropped
    ├── ManifestRefused       a manifest or ticket that does not hold, with the name of the reason
    ├── KeysetRefused         a keyset that does not follow the device's own, with the name of the reason
    └── FlashError            the flash chip
        ├── FlashMisuse       a write that real flash would not carry out
        └── FlashPowerCut     the power went away in the middle of an operation

The message of each is one sentence that names what was wrong and, where it can, what to do.
"""

from enum import StrEnum


class Refusal(StrEnum):
    """Why a device refuses an update: part of the wire contract, reported as the `result_code`."""

    SIG = "REFUSED_SIG"
    TYPE = "REFUSED_TYPE"
    CLASS = "REFUSED_CLASS"
    ROLLBACK = "REFUSED_ROLLBACK"
    STALE = "REFUSED_STALE"
    DEP = "REFUSED_DEP"
    SIZE = "REFUSED_SIZE"
    PRECURSOR = "REFUSED_PRECURSOR"
    DIGEST = "REFUSED_DIGEST"


class KeysetRefusal(StrEnum):
    """Why a device refuses a keyset: part of the wire contract, told in its next check-ins."""

    SIZE = "REFUSED_KEYS_SIZE"
    FORM = "REFUSED_KEYS_FORM"
    TWICE = "REFUSED_KEYS_TWICE"
    SIG = "REFUSED_KEYS_SIG"
    OLD = "REFUSED_KEYS_OLD"
    VENDOR = "REFUSED_KEYS_VENDOR"
    ROLLBACK = "REFUSED_KEYS_ROLLBACK"
    STEP = "REFUSED_KEYS_STEP"
    EPOCH = "REFUSED_KEYS_EPOCH"
    NEW = "REFUSED_KEYS_NEW"


class DeviceSimError(Exception):
    """The root of every error raised on purpose."""


class OptionError(DeviceSimError):
    """A command line option that cannot be used."""


class TrustError(DeviceSimError):
    """The trust document is missing, unreadable or not what it should be."""


class BrokerUnreachable(DeviceSimError):
    """Not one device could connect to the broker in the time given."""


class Malformed(DeviceSimError):
    """Bytes from the wire that do not say what they should; the message is dropped and counted."""


class ManifestRefused(DeviceSimError):
    """A manifest or ticket that does not hold; `code` is the name that goes on the wire."""

    def __init__(self, code: Refusal, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class KeysetRefused(DeviceSimError):
    """A keyset that does not follow; `code` is the name that goes on the wire."""

    def __init__(self, code: KeysetRefusal, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class FlashError(DeviceSimError):
    """The flash chip cannot do what it was asked."""


class FlashMisuse(FlashError):
    """A write outside the chip, off the grid, or over words that are not erased."""


class FlashPowerCut(FlashError):
    """The power went away in the middle of a flash operation; the chip is dead until `power_on`."""
