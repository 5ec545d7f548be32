"""AWS IoT Jobs and MQTT file streams, for devices of that service on any broker (docs/dialects/aws.md).

Rules of this dialect:
1. Only the topic says who speaks: `$aws/things/{thing}/…`. Its answer goes to a topic that begins like its own.
2. Such devices do not say what they run; what one has is known when it says that an update has SUCCEEDED.
3. Nothing is ever retained: a device subscribes anew with every request and would get an old notice each time.
4. Blocks go out at QoS 0 and as they were asked for; a block is never sent unasked, because devices append what comes.
5. What the state machine of jobs demands is in `aws_jobs`, what streams demand in `aws_streams`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from ota_bridge.core.conversation import Occasion, Standing, Telling, Turn
from ota_bridge.core.errors import BlockRefusal, ConfigError, Malformed
from ota_bridge.core.messages import CheckIn, Encoding, InstalledPart, Rejected, Said
from ota_bridge.core.values import FIRMWARE, DeviceId
from ota_bridge.decode import shown
from ota_bridge.dialect import Asked, MalformedFrom, Piece, Products, products_of, read_options
from ota_bridge.dialects import aws_jobs
from ota_bridge.dialects.aws_answers import AUTHOR_PREFIX, SIGNATURE
from ota_bridge.dialects.aws_requests import BadRequest, JobsRequest, read_request, read_topic
from ota_bridge.dialects.aws_streams import (
    ANSWER_MAX_BYTES,
    BLOCK_MIN_BYTES,
    StreamRefused,
    artifact_of,
    read_describe,
    read_get,
    write_block,
    write_description,
    write_refusal,
)
from ota_bridge.wire import MqttMessage, Subscription

NOT_SAID: Final = "unknown"
"""What a device runs that has never said so."""
_THINGS: Final = "$aws/things/"
_SETTINGS: Final[Mapping[str, type]] = {
    "product": str,
    "products": dict,
    "prefix": str,
    "signature": str,
    "answer_on_notify_next": list,
}
_SIGNATURE: Final = re.compile(r"(sig-[a-z0-9]{1,16}-[a-z0-9]{1,16})?", re.ASCII)
_PREFIX: Final = re.compile(r"([A-Za-z0-9_$.:-]+/)*", re.ASCII)
_FRAME_BYTES: Final = 160
"""More than a block's message has beside its data and its topic, in either encoding."""


class AwsDialect:
    """The control plane."""

    name = aws_jobs.NAME

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Raises ConfigError."""
        settings = read_options(self.name, options, _SETTINGS)
        self._products = products_of(self.name, settings)
        self._prefix = _checked(settings, "prefix", "", _PREFIX, "levels of a topic, each ended by a slash")
        self._answers_on_next = _patterns(settings.get("answer_on_notify_next", []))
        signature = _checked(settings, "signature", SIGNATURE, _SIGNATURE, "sig-HASH-ALGORITHM, or empty")
        what = "the author's signature of the image, in base64, as the devices verify it"
        self.author_fields: Mapping[str, str] = {AUTHOR_PREFIX + signature: what} if signature else {}
        self._things = self._prefix + _THINGS

    @property
    def blocks(self) -> "AwsBlocks":
        """Its streams."""
        return AwsBlocks(self._prefix, self._products)

    def subscriptions(self) -> Sequence[Subscription]:
        """The four requests; the answers, which stand beside them, are not among these topics."""
        jobs = f"{self._things}+/jobs/"
        suffixes = ("get", "start-next", "+/get", "+/update")
        return [Subscription(topic_filter=jobs + suffix, qos=1) for suffix in suffixes]

    def is_for_blocks(self, message: MqttMessage) -> bool:
        """Never: no topic is both planes'."""
        return "/jobs/" not in message.topic

    def read(self, message: MqttMessage) -> Said | Rejected | None:
        """A request."""
        thing, found, suffix = message.topic.removeprefix(self._things).partition("/jobs/")
        if not found or not message.topic.startswith(self._things):
            raise Malformed(f"topic {message.topic[:80]!r} is not one of jobs")
        device = self._products.device(thing)
        try:
            topic = read_topic(suffix)
        except Malformed as error:
            return Rejected(device=device, reason=str(error))
        said = read_request(topic, message.payload)
        return Said(device=device, dialect=self.name, said=said, body=_for_people(said))

    def hear(self, said: object, standing: Standing) -> Turn:
        """A request is also a sign of life, and a poll where it asks for what waits; `tell` carries it out."""
        if isinstance(said, BadRequest):
            return Turn(uplinks=[Rejected(device=standing.device, reason=f"{said.code}: {said.message}")])
        is_poll = isinstance(said, JobsRequest) and said.is_poll
        if not is_poll and FIRMWARE in standing.parts:
            return Turn()
        unknown = {} if FIRMWARE in standing.parts else {FIRMWARE: InstalledPart(version=NOT_SAID)}
        check_in = CheckIn(
            device=standing.device,
            dialect=self.name,
            encoding=Encoding.JSON,
            key=None,
            parts=unknown,
            keeps_parts=True,
            body=_for_people(said),
        )
        return Turn(uplinks=[check_in])

    def tell(self, occasion: Occasion, standing: Standing) -> Telling:
        """Answers and notices."""
        device = standing.device
        return aws_jobs.tell(
            occasion,
            standing,
            base=f"{self._things}{device.name}/jobs/",
            answers_on_next=any(fnmatchcase(device.product, pattern) for pattern in self._answers_on_next),
        )


def _checked(settings: Mapping[str, Any], name: str, default: str, allowed: re.Pattern[str], what: str) -> str:
    value: str = settings.get(name, default)
    if not allowed.fullmatch(value):
        raise ConfigError(f"dialects.{aws_jobs.NAME}.{name} = {value[:40]!r}: {what} is expected")
    return value


def _patterns(values: Sequence[Any]) -> Sequence[str]:
    for value in values:
        if not isinstance(value, str):
            raise ConfigError(
                f"dialects.{aws_jobs.NAME}.answer_on_notify_next: {shown(value)}: names of products are expected"
            )
    return tuple(values)


def _for_people(said: object) -> Mapping[str, Any]:
    """A request as events show it."""
    if isinstance(said, BadRequest):
        return {"request": said.topic.suffix, "code": said.code, "message": said.message}
    if not isinstance(said, JobsRequest):
        return {}
    body: dict[str, Any] = {"request": said.topic.suffix}
    if said.status is not None:
        body["status"] = said.status
    if said.details is not None:
        body["statusDetails"] = dict(said.details)
    return body


# --- streams ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reply:
    """What an answer needs of its request."""

    stream: bytes
    """The topic of the stream, with its slash."""
    is_cbor: bool
    token: str | None = None
    block_bytes: int = 0
    """0: a description is asked for."""
    refused: StreamRefused | None = None

    def topic(self, kind: bytes) -> bytes:
        return self.stream + kind + (b"/cbor" if self.is_cbor else b"/json")


class AwsBlocks:
    """The block plane."""

    block_max_bytes = ANSWER_MAX_BYTES
    count_max = ANSWER_MAX_BYTES // BLOCK_MIN_BYTES
    repeat_s = 0.4
    """One device asks again at once for each block that comes twice, and so would have every block twice."""
    wait_max_s = 2.0
    """Shorter than the shortest time (3 s) after which one asks again."""

    def __init__(self, prefix: str, products: Products) -> None:
        self._things = prefix + _THINGS
        self._products = products

    def filters(self) -> Sequence[str]:
        """GetStream and DescribeStream."""
        return [f"{self._things}+/streams/+/{operation}/+" for operation in ("get", "describe")]

    def read(self, topic: bytes, payload: bytes) -> Asked | None:
        """A request for blocks or for a description."""
        text = topic.decode("utf-8", "replace")
        levels = text.removeprefix(self._things).split("/")
        if not text.startswith(self._things) or len(levels) != 5:  # noqa: PLR2004  thing, streams, name, get, encoding
            raise Malformed(f"topic {text[:80]!r} is not one of streams")
        thing, _, stream, operation, encoding = levels
        device = self._products.device(thing)
        if encoding not in {"json", "cbor"}:
            return None
        reply = _Reply(stream=topic[: -len(f"{operation}/{encoding}".encode())], is_cbor=encoding == "cbor")
        try:
            return _asked(device, stream, operation, payload, reply, len(topic))
        except StreamRefused as refused:
            answer = _Reply(stream=reply.stream, is_cbor=reply.is_cbor, refused=refused)
            raise MalformedFrom(str(refused), device=device, reply_to=answer) from refused

    def blocks_of(self, asked: Asked, blocks: Sequence[tuple[int, memoryview]], size_bytes: int) -> Sequence[Piece]:
        """One message per block, or the description."""
        reply: _Reply = asked.reply_to
        if not reply.block_bytes:
            payload = write_description(size_bytes, reply.token, "", is_cbor=reply.is_cbor)
            return [(reply.topic(b"description"), (payload,))]
        topic = reply.topic(b"data")
        return [
            (topic, (write_block(offset // reply.block_bytes, data, reply.token, is_cbor=reply.is_cbor),))
            for offset, data in blocks
        ]

    def refusal(self, asked: Asked, code: BlockRefusal, retry_after_s: int) -> Sequence[Piece]:
        """No vendor's library listens to it; it is for those who look what goes on."""
        reply: _Reply = asked.reply_to
        name, message = _REFUSALS[code]
        if retry_after_s:
            message += f"; ask again in {retry_after_s} s"
        return _refused(reply, StreamRefused(name, message, token=reply.token))

    def malformed(self, error: MalformedFrom) -> Sequence[Piece]:
        """The code that the service has for it."""
        reply: _Reply = error.reply_to
        return () if reply.refused is None else _refused(reply, reply.refused)


_REFUSALS: Final = {
    BlockRefusal.NOT_OPEN: ("ResourceNotFound", "nothing of this stream is open for this thing"),
    BlockRefusal.PAST_END: ("InvalidRequest", "the data requested is out of the range of data available"),
    BlockRefusal.ABOVE_LIMIT: ("BlockSizeOutOfBounds", "the block is larger than what may be served now"),
    BlockRefusal.BUSY: ("InternalError", "busy"),
    BlockRefusal.PAUSED: ("InternalError", "paused"),
    BlockRefusal.WITHDRAWN: ("ResourceNotFound", "the stream was withdrawn"),
    BlockRefusal.MALFORMED: ("InvalidRequest", "the request cannot be used"),
}


def _refused(reply: _Reply, refused: StreamRefused) -> Sequence[Piece]:
    return [(reply.topic(b"rejected"), (write_refusal(refused, is_cbor=reply.is_cbor),))]


def _asked(device: DeviceId, stream: str, operation: str, payload: bytes, reply: _Reply, topic_bytes: int) -> Asked:
    """Raises StreamRefused."""
    describes = operation == "describe"
    request = None if describes else read_get(payload, is_cbor=reply.is_cbor)
    token = read_describe(payload, is_cbor=reply.is_cbor) if request is None else request.token
    artifact = artifact_of(stream)
    if artifact is None:
        raise StreamRefused("ResourceNotFound", f"there is no stream {stream[:60]!r}", token=token)
    size = 1 if request is None else request.block_bytes
    base64_bytes = 0 if reply.is_cbor else size // 3 + 3
    return Asked(
        device=device,
        offset=0 if request is None else request.offset * size,
        size=size,
        count=1 if request is None else request.count,
        missing=None if request is None else request.bitmap,
        artifact=artifact,
        frame_bytes=_FRAME_BYTES + topic_bytes + base64_bytes,
        reply_to=_Reply(stream=reply.stream, is_cbor=reply.is_cbor, token=token, block_bytes=0 if describes else size),
    )
