"""MQTT 3.1.1 for a client that publishes and subscribes at QoS 0 and 1: bytes in, packets out, no I/O and no clock.

1. `Decoder.feed` takes what a read brought, however it was cut, and returns the packets that are complete.
2. A packet that a server may not send, or not to this client, raises `Malformed` and nothing else. Packets
   before it in the same read go with it, and the decoder refuses all further input: close the connection.
3. What is held back between two reads is less than one packet, and no packet exceeds `max_packet_bytes`: a
   larger one is refused as soon as its length is read.
4. The encoders check what an operator configures (`ConfigError`) and what a caller passes (`ValueError`).

Clauses in brackets, [MQTT-3.3.1-4], are those of the OASIS standard; `tests/vectors/mqtt/` has their bytes.
The order of packets (CONNACK first, SUBACK once) is the caller's to judge: see `blocks.py`, `control_connection.py`.
"""

# The numbers compared with here are the wire's own; the clause or table they come from stands beside them.
# ruff: noqa: PLR2004

import functools
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from ota_bridge.core.errors import ConfigError, Malformed

PINGREQ: Final = b"\xc0\x00"
DISCONNECT: Final = b"\xe0\x00"

LENGTH_MAX: Final = 268_435_455
"""The largest remaining length that four bytes can say (§2.2.3)."""

REFUSALS: Final = {
    1: "unacceptable protocol version: it does not speak MQTT 3.1.1",
    2: "identifier rejected: the client id is not allowed",
    3: "server unavailable",
    4: "bad user name or password",
    5: "not authorized",
}
"""What a return code of CONNACK means (table 3.1)."""

_TOPICS_KNOWN_MAX: Final = 16_384
_TOPIC_KNOWN_BYTES_MAX: Final = 256
"""Valid topics are remembered so that each is checked once; these bound what is remembered."""

_PACKET_NAMES: Final = (
    *("reserved type 0", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP"),
    *(
        "SUBSCRIBE",
        "SUBACK",
        "UNSUBSCRIBE",
        "UNSUBACK",
        "PINGREQ",
        "PINGRESP",
        "DISCONNECT",
        "reserved type 15",
    ),
)


Message = tuple[bytes, bytes]
"""Topic and payload of a QoS 0 PUBLISH that is not retained: a plain tuple, for a record costs as much as the rest."""


class Publish(NamedTuple):
    """Any other message from the broker; `packet_id` is 0 at QoS 0."""

    topic: bytes
    payload: bytes
    qos: int = 0
    retain: bool = False
    packet_id: int = 0


class Connack(NamedTuple):
    """The broker's answer to CONNECT; `code` 0 is welcome, 1 to 5 are refusals (§3.2.2.3)."""

    session_present: bool
    code: int


class Suback(NamedTuple):
    """The broker's answer to SUBSCRIBE: for each filter the QoS granted, or 0x80: refused."""

    packet_id: int
    codes: bytes


class Puback(NamedTuple):
    """The broker has what was published at QoS 1 with this packet identifier."""

    packet_id: int


class Pingresp(NamedTuple):
    """The broker's answer to PINGREQ."""


Packet = Message | Publish | Connack | Suback | Puback | Pingresp


class Will(NamedTuple):
    """What the broker publishes for a client that it loses."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False


class Decoder:
    """The receiving half of one connection; see the module for its rules."""

    def __init__(self, *, max_packet_bytes: int, checks_topics: bool = True) -> None:
        """Without `checks_topics` only an empty topic is refused, and the caller looks at what is in it."""
        self._max_packet_bytes = max_packet_bytes
        self._check_topic = _check_topic_name if checks_topics else _check_not_empty
        self._rest = bytearray()
        self._needed_bytes = 0
        self._refused: str | None = None
        self._topics_known: set[bytes] = set()

    def feed(self, data: bytes) -> list[Packet]:
        """Return the packets that `data` completes; raise `Malformed` once and for ever."""
        if self._refused is not None:
            raise Malformed(f"input after a malformed packet ({self._refused})")
        if self._rest:
            # Parsing only once the packet is whole: one that trickles in would else cost its length squared.
            self._rest += data
            if len(self._rest) < self._needed_bytes:
                return []
            data = bytes(self._rest)
            self._rest = bytearray()
        try:
            return self._decode(data)
        except Malformed as error:
            self._refused = str(error)
            raise

    def _decode(self, data: bytes) -> list[Packet]:
        packets: list[Packet] = []
        topics_known = self._topics_known
        size_max = self._max_packet_bytes
        start, available = 0, len(data)
        while start < available:
            first = data[start]
            parse = None if first & 0xFE == 0x30 else _parser_of(first)
            # One byte of length is the common case; its bounds are checked by hand to save the call.
            if start + 1 < available and (length := data[start + 1]) < 0x80:
                body = start + 2
            else:
                length, body = _read_length(data, start + 1)
            end = body + length
            if end - start > size_max:
                raise Malformed(f"a packet of {end - start} bytes is over the limit of {size_max}")
            if end > available:
                break
            if parse is None:
                if length < 2:  # two bytes of topic length
                    raise Malformed("PUBLISH ends inside its topic length")
                topic_end = body + 2 + (data[body] << 8 | data[body + 1])
                if topic_end > end:
                    raise Malformed("PUBLISH topic reaches beyond its packet")
                topic = data[body + 2 : topic_end]
                if topic not in topics_known:
                    self._learn(topic)
                if first == 0x30:
                    packets.append((topic, data[topic_end:end]))
                else:
                    packets.append(Publish(topic, data[topic_end:end], 0, retain=True))
            else:
                packet = parse(first, data[body:end])
                if type(packet) is Publish and packet.topic not in topics_known:
                    self._learn(packet.topic)
                packets.append(packet)
            start = end
        if start < available:
            self._rest += data[start:]
            self._needed_bytes = end - start
        return packets

    def _learn(self, topic: bytes) -> None:
        self._check_topic(topic)
        if len(topic) > _TOPIC_KNOWN_BYTES_MAX:
            return
        if len(self._topics_known) >= _TOPICS_KNOWN_MAX:
            self._topics_known.clear()
        self._topics_known.add(topic)


def _read_length(data: bytes, at: int) -> tuple[int, int]:
    """Return the remaining length that starts at `at` and where the body starts.

    Where the bytes end too early, the body is said to start one byte past them: so the packet is incomplete.
    """
    length = 0
    for index, byte in enumerate(data[at : at + 4]):
        length |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:  # the continuation bit
            return length, at + index + 1
    if len(data) - at >= 4:  # §2.2.3 allows four bytes
        raise Malformed("the remaining length is longer than four bytes")
    return 0, len(data) + 1


def _parse_publish_qos1(first: int, body: bytes) -> Publish:
    topic_end = 2 + int.from_bytes(body[:2], "big")
    if len(body) < topic_end + 2:
        raise Malformed("PUBLISH topic or packet identifier reaches beyond its packet")
    topic = body[2:topic_end]
    packet_id = int.from_bytes(body[topic_end : topic_end + 2], "big")
    if packet_id == 0:
        raise Malformed("PUBLISH with packet identifier 0 [MQTT-2.3.1-1]")
    return Publish(topic, body[topic_end + 2 :], 1, bool(first & 1), packet_id)


def _parse_connack(_first: int, body: bytes) -> Connack:
    if len(body) != 2:  # §3.2.1
        raise Malformed(f"CONNACK of {len(body)} bytes, not 2")
    flags, code = body
    if flags > 1:
        raise Malformed("CONNACK with reserved flags set")
    if code > 5:  # table 3.1
        raise Malformed(f"CONNACK with the reserved return code {code}")
    if flags and code:
        raise Malformed("CONNACK refuses and names a session [MQTT-3.2.2-4]")
    return Connack(bool(flags), code)


def _parse_suback(_first: int, body: bytes) -> Suback:
    if len(body) < 3:  # packet identifier and one return code
        raise Malformed("SUBACK without a return code")
    packet_id, codes = int.from_bytes(body[:2], "big"), body[2:]
    if packet_id == 0:
        raise Malformed("SUBACK with packet identifier 0 [MQTT-2.3.1-1]")
    if codes.strip(b"\x00\x01\x02\x80"):
        raise Malformed("SUBACK with a reserved return code [MQTT-3.9.3-2]")
    return Suback(packet_id, codes)


def _parse_puback(_first: int, body: bytes) -> Puback:
    if len(body) != 2:  # §3.4
        raise Malformed(f"PUBACK of {len(body)} bytes, not 2")
    packet_id = int.from_bytes(body, "big")
    if packet_id == 0:
        raise Malformed("PUBACK with packet identifier 0 [MQTT-2.3.1-1]")
    return Puback(packet_id)


def _parse_pingresp(_first: int, body: bytes) -> Pingresp:
    if body:
        raise Malformed("PINGRESP with a body")
    return Pingresp()


_PARSERS: Final[dict[int, Callable[[int, bytes], Packet]]] = {
    0x20: _parse_connack,
    0x32: _parse_publish_qos1,
    0x33: _parse_publish_qos1,
    0x3A: _parse_publish_qos1,
    0x3B: _parse_publish_qos1,
    0x40: _parse_puback,
    0x90: _parse_suback,
    0xD0: _parse_pingresp,
}
"""By first byte; PUBLISH at QoS 0 stands in the decoder's loop."""


_PUBLISH_FAULTS: Final = {
    0: "PUBLISH with DUP at QoS 0 [MQTT-3.3.1-2]",
    2: "PUBLISH at QoS 2, which nobody asked for",
    3: "PUBLISH at QoS 3 [MQTT-3.3.1-4]",
}


def _parser_of(first: int) -> Callable[[int, bytes], Packet]:
    try:
        return _PARSERS[first]
    except KeyError:
        raise Malformed(_why_not(first)) from None


def _why_not(first: int) -> str:
    """Say why a packet may not start with this byte."""
    name = _PACKET_NAMES[first >> 4]
    if first >> 4 == 3:  # PUBLISH, §2.2.1
        return _PUBLISH_FAULTS[first >> 1 & 3]
    if first >> 4 in {2, 9, 13}:
        return f"{name} with reserved flags set [MQTT-2.2.2-2]"
    return f"{name} from a server, or in answer to nothing"


def _check_not_empty(topic: bytes) -> None:
    if not topic:
        raise Malformed("an empty topic [MQTT-4.7.3-1]")


def _check_topic_name(topic: bytes) -> None:
    _check_not_empty(topic)
    if b"\0" in topic:
        raise Malformed("a topic with U+0000 [MQTT-1.5.3-2]")
    if b"+" in topic or b"#" in topic:
        raise Malformed("a topic with a wildcard [MQTT-3.3.2-2]")
    try:
        topic.decode()
    except UnicodeDecodeError:
        raise Malformed("a topic that is not UTF-8 [MQTT-1.5.3-1]") from None


# -- encoders --


def encode_connect(
    *,
    client_id: str,
    keepalive_s: int,
    username: str | None = None,
    password: str | None = None,
    will: Will | None = None,
    keeps_session: bool = False,
) -> bytes:
    """CONNECT (§3.1), with a clean session or one to keep; raises ConfigError where the protocol cannot say it."""
    if password is not None and username is None:
        raise ConfigError("a broker password without a user name [MQTT-3.1.2-22]: name both or neither")
    if not 0 <= keepalive_s <= 0xFFFF:  # two bytes
        raise ConfigError(f"keep-alive of {keepalive_s} s: it must be 0 to 65535")
    flags = (not keeps_session) << 1 | (username is not None) << 7 | (password is not None) << 6
    fields = [_text("client id", client_id)]
    if will is not None:
        flags |= 0x04 | will.qos << 3 | will.retain << 5
        fields += [_topic(will.topic), _field("will payload", will.payload)]
    if username is not None:
        fields.append(_text("user name", username))
    if password is not None:
        fields.append(_text("password", password))
    head = b"\x00\x04MQTT\x04" + bytes([flags]) + keepalive_s.to_bytes(2, "big")
    return _packet(0x10, head + b"".join(fields))


def encode_subscribe(packet_id: int, topic_filter: str, qos: int = 0, *, also: Sequence[str] = ()) -> bytes:
    """SUBSCRIBE to one filter, and `also` to others (§3.8); raises ConfigError where one is none."""
    if not 1 <= packet_id <= 0xFFFF:  # two bytes, not zero
        raise ValueError(f"packet identifier {packet_id}")
    wanted = b"".join(_filter(one) + bytes([qos]) for one in (topic_filter, *also))
    return _packet(0x82, packet_id.to_bytes(2, "big") + wanted)


def _filter(topic_filter: str) -> bytes:
    levels = topic_filter.split("/")
    if not topic_filter or "#" in levels[:-1] or any(len(x) > 1 and ("#" in x or "+" in x) for x in levels):
        raise ConfigError(f"topic filter {topic_filter!r}: + stands for a whole level, # for the last ones")
    return _text("topic filter", topic_filter)


def encode_publish(topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, packet_id: int = 0) -> bytes:
    """PUBLISH at QoS 0 or 1 (§3.3); raises ValueError or ConfigError for what MQTT cannot carry."""
    if not topic or "+" in topic or "#" in topic or not topic.isascii() or "\0" in topic or len(topic) > 0xFFFF:
        name = _topic(topic)
    else:  # what nearly all are, without a call
        name = len(topic).to_bytes(2, "big") + topic.encode()
    number = packet_id.to_bytes(2, "big") if qos else b""
    length = _length(len(name) + len(number) + len(payload))
    return b"%c%b%b%b%b" % (0x30 | qos << 1 | retain, length, name, number, payload)


def encode_puback(packet_id: int) -> bytes:
    """PUBACK (§3.4): this message is safe here."""
    return b"\x40\x02" + packet_id.to_bytes(2, "big")


@functools.lru_cache(maxsize=1_024)
def publish_head(topic: bytes, payload_length: int) -> bytes:
    """All of a QoS 0 PUBLISH that stands before its payload; cached: a download repeats it."""
    try:
        _check_topic_name(topic)
    except Malformed as error:
        raise ValueError(f"cannot publish to {error}") from None
    return b"\x30" + _length(2 + len(topic) + payload_length) + _field("topic", topic)


def _packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + _length(len(body)) + body


@functools.lru_cache(maxsize=4096)
def _length(value: int) -> bytes:
    if not 0 <= value <= LENGTH_MAX:
        raise ValueError(f"a packet of {value} bytes: MQTT ends at {LENGTH_MAX}")
    encoded = bytearray()
    while value > 0x7F:  # seven bits a byte
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _topic(topic: str) -> bytes:
    if not topic or "+" in topic or "#" in topic:
        raise ConfigError(f"topic {topic!r}: it may not be empty nor hold + or #")
    return _text("topic", topic)


def _text(what: str, text: str) -> bytes:
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"the {what} is not Unicode text") from None
    if b"\0" in encoded:
        raise ConfigError(f"the {what} holds a NUL character")
    return _field(what, encoded)


def _field(what: str, value: bytes) -> bytes:
    if len(value) > 0xFFFF:  # two bytes of length
        raise ConfigError(f"the {what} is longer than 65535 bytes")
    return len(value).to_bytes(2, "big") + value
