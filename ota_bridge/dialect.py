"""What every dialect is: pure functions between MQTT messages and the core's messages.

`Dialect` and `BlockDialect` are the native protocol's. A vendor's protocol is a `VendorDialect`, and a `VendorBlocks`
where its devices fetch over MQTT; CONTRIBUTING.md walks through writing one.

A dialect does no I/O and reads no clock. It never publishes to a topic taken from a payload: the topic of an answer
is derived from the topic that came in. Built-in dialects and third parties' (entry point `ota_bridge.dialects`) enter
by the same door, the registry in `dialects/`.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol, runtime_checkable

from ota_bridge.core.conversation import Conversation
from ota_bridge.core.errors import BlockRefusal, ConfigError, InvalidInput, Malformed
from ota_bridge.core.messages import BlockRequest, Downlink, Rejected, Said, Uplink
from ota_bridge.core.values import DeviceId, checked_product
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


Piece = tuple[bytes, Sequence[bytes | memoryview]]
"""A message: topic, and its payload in pieces that need not be joined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request for blocks in a vendor's protocol, read as far as its message goes.

    Which of the device's granted artifacts it means is said by whatever its protocol names: what is empty fits all.
    """

    device: DeviceId
    offset: int
    size: int
    """Of each block, in bytes; 0: the whole artifact in one."""
    count: int = 1
    missing: bytes | None = None
    """As in `BlockRequest`: bit j of byte k stands for block 8 k + j from `offset`, at most `count` of them."""
    artifact: bytes = b""
    """The first bytes of its SHA-256, as many as the protocol carries."""
    component: str = ""
    version: str = ""
    frame_bytes: int = 512
    """No packet of the answer has more than this beside its data: what the caps on bytes count."""
    download: Hashable = None
    """Requests of a device that share it are for one artifact: what is asked after offset 0 is not answered with bytes
    of another that was granted meanwhile. None: each request stands for itself.
    """
    reply_to: Any = None
    """The dialect's own: what the answer needs of the question (request id, token, topic)."""


class VendorDialect(Conversation, Protocol):
    """The control plane of a vendor's protocol.

    `hear` and `tell` (see `Conversation`) run on the store's thread, `read` and `is_for_blocks` on the event loop.
    """

    def subscriptions(self) -> Sequence[Subscription]:
        """What the control link subscribes for it."""
        ...

    def is_for_blocks(self, message: MqttMessage) -> bool:
        """True for what the block plane answers on a topic that both subscribe; it is passed over, and not limited."""
        ...

    def read(self, message: MqttMessage) -> Said | Rejected | None:
        """A message on one of its topics. None: it is nobody's, say no more. `Rejected`: a bad payload on a device's
        own topic. Raises Malformed where the topic names no device, and nothing else.
        """
        ...

    @property
    def blocks(self) -> "VendorBlocks | None":
        """Its block plane; None: its devices fetch by URL."""
        ...


class VendorBlocks(Protocol):
    """The block plane of a vendor's protocol. Runs in the block plane's process; raises what is said, nothing else."""

    @property
    def block_max_bytes(self) -> int:
        """The largest block that this protocol may be given, whatever the native limit is."""
        ...

    @property
    def count_max(self) -> int:
        """The most blocks in answer to one request."""
        ...

    @property
    def repeat_s(self) -> float:
        """A request that is the same, byte for byte, as the device's last one, which was answered less than this long
        before, stays unanswered; 0: each is answered.
        """
        ...

    def filters(self) -> Sequence[str]:
        """The topic filters of its requests, subscribed at QoS 0."""
        ...

    def read(self, topic: bytes, payload: bytes) -> Asked | None:
        """A request; None for what is none. Raises Malformed where the topic names no device, MalformedFrom else."""
        ...

    def blocks_of(self, asked: Asked, blocks: Sequence[tuple[int, memoryview]], size_bytes: int) -> Sequence[Piece]:
        """The messages that carry these blocks, (offset, data) each, of an artifact of `size_bytes`."""
        ...

    def refusal(self, asked: Asked, code: BlockRefusal, retry_after_s: int) -> Sequence[Piece]:
        """What to say instead of blocks; none: silence. Past the end of the artifact comes here as PAST_END."""
        ...

    def malformed(self, error: "MalformedFrom") -> Sequence[Piece]:
        """What to say to a request that could not be read."""
        ...


@runtime_checkable
class PatientBlocks(Protocol):
    """A `VendorBlocks` whose devices ask once: what has to wait for its turn is kept and answered then."""

    @property
    def wait_max_s(self) -> float:
        """How long at most; after that it is refused."""
        ...


class MalformedFrom(Malformed):
    """A request of a known device that does not decode. `reply_to`: what an answer needs, as in `Asked`."""

    def __init__(self, message: str, *, device: DeviceId, reply_to: Any = None) -> None:
        super().__init__(message)
        self.device = device
        self.reply_to = reply_to


@dataclass(frozen=True, slots=True, kw_only=True)
class Products:
    """Which product a device belongs to whose topics do not say so: by patterns of names, the first that fits."""

    patterns: Sequence[tuple[str, str]] = ()
    """Shell patterns (`meter-*`) and products."""
    default: str = ""

    def device(self, name: str) -> DeviceId:
        """Raises Malformed where the name cannot be one or no product is set for it."""
        product = next((found for pattern, found in self.patterns if fnmatchcase(name, pattern)), self.default)
        if not product:
            raise Malformed(
                f"device {name[:60]!r}: no product is set for it; set `product` or `products` of its dialect"
            )
        try:
            return DeviceId(product, name)
        except InvalidInput as error:
            raise Malformed(f"topic: {error}") from error


def read_options(dialect: str, options: Mapping[str, Any], known: Mapping[str, type]) -> dict[str, Any]:
    """The settings of `[dialects.NAME]`, checked by name and type; raises ConfigError that names what was wrong."""
    for name, value in options.items():
        kind = known.get(name)
        if kind is None:
            raise ConfigError(f"dialects.{dialect}.{name[:40]} is not a setting; known are {', '.join(sorted(known))}")
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ConfigError(f"dialects.{dialect}.{name} = {str(value)[:40]!r}: {kind.__name__} is expected")
    return dict(options)


def products_of(dialect: str, options: Mapping[str, Any]) -> Products:
    """From the settings `product` (text) and `products` (a table of patterns and products); raises ConfigError."""
    patterns = options.get("products", {})
    given = {f"products.{pattern[:40]}": product for pattern, product in patterns.items()}
    given |= {"product": options["product"]} if "product" in options else {}
    if not given:
        raise ConfigError(f"dialects.{dialect}: the topics name no product; set `product`, or a table `products`")
    for name, product in given.items():
        try:
            checked_product(product if isinstance(product, str) else "")
        except InvalidInput as error:
            raise ConfigError(f"dialects.{dialect}.{name} = {str(product)[:40]!r}: {error}") from error
    return Products(patterns=tuple(patterns.items()), default=options.get("product", ""))
