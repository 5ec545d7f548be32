"""What every dialect is: pure functions between MQTT messages and the core's messages.

A dialect does no I/O and reads no clock. It never publishes to a topic taken from a payload: the topic of an answer
is derived from the topic that came in. Built-in dialects and third parties' (entry point `ota_bridge.dialects`) enter
by the same door, the registry in `dialects/`.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from ota_bridge.core.errors import BlockRefusal, Malformed
from ota_bridge.core.messages import BlockRequest, Downlink, Uplink
from ota_bridge.core.values import DeviceId
from ota_bridge.wire import MqttMessage, Subscription


class MalformedRequest(Malformed):
    """A block request that does not decode; `artifact` and `offset` as far as they could be read."""

    def __init__(self, message: str, *, artifact: bytes = b"", offset: int = 0) -> None:
        super().__init__(message)
        self.artifact = artifact
        self.offset = offset


class Dialect(Protocol):
    """The control plane of one protocol."""

    @property
    def name(self) -> str: ...

    def subscriptions(self) -> Sequence[Subscription]:
        """What the control link subscribes for it."""
        ...

    def decode(self, message: MqttMessage) -> Uplink:
        """The meaning of a message. A bad payload on a device's own topic is `Rejected`; raises Malformed where the
        topic names no device.
        """
        ...

    def encode(self, downlink: Downlink) -> MqttMessage | None:
        """The message for a downlink; None where this protocol has none."""
        ...


class BlockDialect(Protocol):
    """The block plane of one protocol."""

    def block_filter(self) -> str:
        """The topic filter of block requests."""
        ...

    def requester(self, topic: bytes) -> DeviceId:
        """Who asks, from the topic; raises Malformed."""
        ...

    def decode_request(self, payload: bytes) -> BlockRequest:
        """Raises MalformedRequest."""
        ...

    def answer_topic(self, device: DeviceId) -> bytes:
        """Where the blocks of this device go."""
        ...

    def quick_request(self, payload: bytes) -> Sequence[Any] | None:
        """`artifact, offset, size, count` of a plain request, for the fast lane: exactly what `decode_request` would
        say of it, with any size and count. None: not plain, or wrong; read it with `decode_request`.
        """
        ...

    def pack_offset(self, offset: int) -> bytes:
        """An offset as it stands in a block."""
        ...

    def block_frame(self, artifact: bytes, length: int) -> tuple[bytes, bytes]:
        """What stands before and after the packed offset; then follow `length` bytes of data."""
        ...

    def encode_refusal(
        self, artifact: bytes, offset: int, code: BlockRefusal, retry_after_s: int, size_max: int, count_max: int
    ) -> bytes:
        """A refusal; it always tells the limits."""
        ...
