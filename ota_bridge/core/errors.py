"""Every error that this package raises on purpose, and the refusals it gives on the wire.

    OtaBridgeError                the root; anything else that escapes is a bug
    ├── ConfigError               configuration: a value that cannot be used
    ├── OperatorError             an operator asked for something that cannot be done
    │   ├── NotFound              a name that does not exist
    │   ├── Conflict              it exists already, or its state forbids it
    │   ├── InvalidInput          a file, version or name that cannot be used
    │   └── Forbidden             a role is missing, or a token cannot be used
    ├── Malformed                 bytes from a wire that are not what they should be
    ├── ManifestRefused           a signed manifest that does not hold, with the name of the reason
    ├── KeysetRefused             a signed keyset that does not follow, with the name of the reason
    ├── IllegalTransition         an event that a deployment's state does not know
    ├── StoreError                the database or the artifact store
    │   ├── NewerSchema           written by a newer version of this program
    │   ├── StoreDamaged          an integrity check failed
    │   ├── ArtifactDamaged       an artifact on disk is not what its name says
    │   └── ArtifactCold          it has to be read from disk first
    └── BrokerError               the broker refused us, or said something that is not MQTT

The message of each is one sentence that names what was wrong and, where it can, what to do.
"""

from enum import IntEnum, StrEnum


class OtaBridgeError(Exception):
    """The root of every error raised on purpose."""


class ConfigError(OtaBridgeError):
    """A configuration value that cannot be used; says which one, where it came from and what is allowed."""


class OperatorError(OtaBridgeError):
    """An operator's request that cannot be carried out; nothing was changed."""

    code = "operator_error"


class NotFound(OperatorError):
    """A device, release, rollout or key of that name does not exist."""

    code = "not_found"


class Conflict(OperatorError):
    """The thing exists already, or its state forbids what was asked."""

    code = "conflict"


class InvalidInput(OperatorError):
    """A file, name, version or number that cannot be used."""

    code = "invalid"


class Forbidden(OperatorError):
    """Who asks has not the role that it takes, or shows a token that cannot be used."""

    code = "forbidden"


class Malformed(OtaBridgeError):
    """Bytes from outside that do not decode; the only exception that leaves a decoder."""


class ManifestRefused(OtaBridgeError):
    """A manifest that does not hold. `reason` is the name that devices report too."""

    def __init__(self, reason: "RefusedReason", message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


class KeysetRefused(OtaBridgeError):
    """A keyset that does not follow the one before it. `reason` is the name that devices report too."""

    def __init__(self, reason: "KeysetReason", detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class IllegalTransition(OtaBridgeError):
    """The deployment's state has no row for this event; nothing was changed."""


class StoreError(OtaBridgeError):
    """The database or the artifact store cannot do what was asked."""


class NewerSchema(StoreError):
    """The database was written by a newer version; upgrade this program or restore a backup."""


class StoreDamaged(StoreError):
    """The database failed its integrity check; restore a backup."""


class ArtifactDamaged(StoreError):
    """The bytes on disk do not match the digest they are stored under."""


class ArtifactCold(StoreError):
    """These bytes are not in memory: fetch them in a thread, then ask again."""


class BrokerError(OtaBridgeError):
    """The broker refused the connection or broke the protocol."""


class RefusedReason(StrEnum):
    """Why a device (or the bridge, at upload) refuses a manifest or an image. Source: reliability §1, protocol §6."""

    SIG = "REFUSED_SIG"
    TYPE = "REFUSED_TYPE"
    CLASS = "REFUSED_CLASS"
    ROLLBACK = "REFUSED_ROLLBACK"
    STALE = "REFUSED_STALE"
    DEP = "REFUSED_DEP"
    SIZE = "REFUSED_SIZE"
    PRECURSOR = "REFUSED_PRECURSOR"
    DIGEST = "REFUSED_DIGEST"


class KeysetReason(StrEnum):
    """Why a device (or the bridge, when it is published) refuses a keyset."""

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


class BlockRefusal(IntEnum):
    """Third element of a refusal on the block topic (protocol §5)."""

    NOT_OPEN = 1
    PAST_END = 2
    ABOVE_LIMIT = 3
    BUSY = 4
    PAUSED = 5
    WITHDRAWN = 6
    MALFORMED = 7
