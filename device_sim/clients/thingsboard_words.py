"""What ThingsBoard's two official clients have in common: topics, states, the keys of a firmware, and checksums.

Both take their topics as fixed strings and are told apart by their credentials alone, so beside a broker they need
something that puts a prefix before every topic. Both also subscribe to `v2/fw/response/+`, which by the rules of MQTT
matches no chunk. With a prefix in its options a client here stands behind such a thing, which therefore adds the
filter that does match, as an automatic subscription of the broker would; without one it says what the real one says.
"""

import hashlib
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from device_sim.clients.model import Subscribe

TELEMETRY: Final = "v1/devices/me/telemetry"
ATTRIBUTES: Final = "v1/devices/me/attributes"
ATTRIBUTES_REQUEST: Final = "v1/devices/me/attributes/request/"
ATTRIBUTES_RESPONSE: Final = "v1/devices/me/attributes/response/"
RPC_REQUEST: Final = "v1/devices/me/rpc/request/"
RPC_RESPONSE: Final = "v1/devices/me/rpc/response/"
CHUNK_FILTER: Final = "v2/fw/response/+"
"""What both clients subscribe: it has four levels and chunks come on six."""
_CHUNK_FILTER_THAT_MATCHES: Final = "v2/fw/response/+/chunk/+"

KEYS: Final = ("fw_checksum", "fw_checksum_algorithm", "fw_size", "fw_title", "fw_version")

PATIENCE_S: Final = 180.0
"""How long a client here waits for a chunk that the real one would wait for without end."""
ROUNDS_MAX: Final = 8
"""Downloads in a row that end in a wrong checksum: the real clients go on without end."""


class State(StrEnum):
    """The values of `fw_state`."""

    IDLE = "IDLE"
    DOWNLOADING = "DOWNLOADING"
    DOWNLOADED = "DOWNLOADED"
    VERIFIED = "VERIFIED"
    UPDATING = "UPDATING"
    UPDATED = "UPDATED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a client's topics are: as they are, or behind a prefix."""

    prefix: str = ""

    def topic(self, topic: str) -> str:
        """As it goes to the broker."""
        return self.prefix + topic

    def own(self, topic: str) -> str:
        """As the client knows it; one that is not behind the prefix stays as it is, and so means nothing."""
        return topic.removeprefix(self.prefix)

    def added(self) -> list[Subscribe]:
        """What the thing that puts the prefix there subscribes for a client that connects."""
        return [Subscribe(topic_filter=self.prefix + _CHUNK_FILTER_THAT_MATCHES)] if self.prefix else []


def little_endian_crc32(data: bytes) -> str:
    """CRC-32 as ThingsBoard writes it: the lowest byte first."""
    return zlib.crc32(data).to_bytes(4, "little").hex()


def checksum(algorithm: str, data: bytes) -> str | None:
    """In lower-case hex; None: not an algorithm of the cryptographic kind."""
    if algorithm not in {"MD5", "SHA256", "SHA384", "SHA512"}:
        return None
    return hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()


def is_whole(value: Any) -> bool:
    """Whether JSON said a whole number."""
    return type(value) is int
