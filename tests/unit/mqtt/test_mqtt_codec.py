"""The codec against vectors, every cut of a stream, amqtt's encoder and decoder as oracle, and random bytes."""

import asyncio
import itertools
import json
from pathlib import Path

import pytest
from amqtt.adapters import BufferReader
from amqtt.mqtt.connack import ConnackPacket
from amqtt.mqtt.connect import ConnectPacket
from amqtt.mqtt.packet import MQTTFixedHeader
from amqtt.mqtt.pingresp import PingRespPacket
from amqtt.mqtt.publish import PublishPacket
from amqtt.mqtt.suback import SubackPacket
from amqtt.mqtt.subscribe import SubscribePacket
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.errors import ConfigError, Malformed
from ota_bridge.mqtt import codec
from ota_bridge.mqtt.codec import Connack, Decoder, Pingresp, Puback, Publish, Suback, Will

VECTORS = Path(__file__).parents[2] / "vectors" / "mqtt"
LIMIT = 65_536


def load(name):
    vectors = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))["vectors"]
    return [pytest.param(vector, id=vector["clause"]) for vector in vectors]


def packet_of(fields):
    match fields["type"]:
        case "connack":
            return Connack(fields["session_present"], fields["code"])
        case "suback":
            return Suback(fields["packet_id"], bytes.fromhex(fields["codes"]))
        case "puback":
            return Puback(fields["packet_id"])
        case "pingresp":
            return Pingresp()
    payload = bytes.fromhex(fields["payload"]) + bytes(fields.get("pad", 0))
    return message(fields["topic"].encode(), payload, fields["qos"], fields["retain"], fields["packet_id"])


def message(topic, payload, qos=0, retain=False, packet_id=0):
    """What the decoder makes of a PUBLISH: a plain tuple of the commonest kind."""
    return Publish(topic, payload, qos, retain, packet_id) if qos or retain else (topic, payload)


def wire_of(vector):
    return bytes.fromhex(vector["hex"]) + bytes(vector.get("pad", 0))


def feed_all(pieces):
    decoder = Decoder(max_packet_bytes=LIMIT)
    return [packet for piece in pieces for packet in decoder.feed(piece)]


# -- vectors --


@pytest.mark.parametrize("vector", load("decode"))
def test_a_packet_of_the_server_reads_as_its_clause_says(vector):
    expected = [packet_of(fields) for fields in vector["packets"]]
    actual = feed_all([wire_of(vector)])
    assert expected == actual
    assert [type(packet) for packet in expected] == [type(packet) for packet in actual]


@pytest.mark.parametrize("vector", load("decode"))
def test_every_prefix_of_a_packet_is_incomplete_and_never_wrong(vector):
    wire = wire_of(vector)
    packets = feed_all([wire])
    cuts = range(len(wire)) if len(wire) < 300 else [*range(20), len(wire) // 2, len(wire) - 2, len(wire) - 1]
    for cut in cuts:
        before = feed_all([wire[:cut]])
        assert packets[: len(before)] == before
        assert len(before) < len(packets)


@pytest.mark.parametrize("vector", load("malformed"))
def test_malformed_bytes_are_refused_by_name_and_nothing_is_read_after_them(vector):
    wire = bytes.fromhex(vector["hex"])
    decoder = Decoder(max_packet_bytes=LIMIT)
    with pytest.raises(Malformed, match=vector["says"]):
        decoder.feed(wire)
    with pytest.raises(Malformed, match="after a malformed packet"):
        decoder.feed(b"\xd0\x00")


@pytest.mark.parametrize("vector", load("malformed"))
def test_malformed_bytes_are_refused_however_they_are_cut(vector):
    wire = bytes.fromhex(vector["hex"])
    for cut in range(1, len(wire)):
        with pytest.raises(Malformed, match=vector["says"]):
            feed_all([wire[:cut], wire[cut:]])
    with pytest.raises(Malformed, match=vector["says"]):
        feed_all([bytes([byte]) for byte in wire])


@pytest.mark.parametrize("vector", load("encode"))
def test_a_packet_of_the_client_is_written_as_its_clause_says(vector):
    arguments = dict(vector["with"])
    if "will" in arguments:
        topic, payload, qos, retain = arguments["will"]
        arguments["will"] = Will(topic, bytes.fromhex(payload), qos, retain)
    if vector["encode"] == "publish_head":
        arguments["topic"] = arguments["topic"].encode()
    if "payload" in arguments:
        arguments["payload"] = bytes.fromhex(arguments["payload"])
    encode = {
        "connect": codec.encode_connect,
        "subscribe": codec.encode_subscribe,
        "publish": codec.encode_publish,
        "puback": codec.encode_puback,
        "publish_head": codec.publish_head,
        "pingreq": lambda: codec.PINGREQ,
        "disconnect": lambda: codec.DISCONNECT,
    }[vector["encode"]]
    assert bytes.fromhex(vector["hex"]) == encode(**arguments)


# -- cuts of a stream --

STREAM = b"".join(wire_of(param.values[0]) for param in load("decode") if param.values[0].get("pad", 0) < 200)


def test_a_stream_cut_in_two_anywhere_gives_the_same_packets():
    expected = feed_all([STREAM])
    assert len(expected) > 20
    for cut in range(len(STREAM) + 1):
        assert expected == feed_all([STREAM[:cut], STREAM[cut:]])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64])
def test_a_stream_in_pieces_of_any_size_gives_the_same_packets(size):
    pieces = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    assert feed_all([STREAM]) == feed_all(pieces)


@given(st.lists(st.integers(0, len(STREAM))))
def test_a_stream_cut_anywhere_and_often_gives_the_same_packets(cuts):
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[start:end] for start, end in itertools.pairwise(edges)]
    assert feed_all([STREAM]) == feed_all(pieces)


# -- bounds --


def test_a_packet_of_exactly_the_limit_passes_and_one_byte_more_does_not():
    wire = codec.publish_head(b"a", 120) + bytes(120)
    assert [(b"a", bytes(120))] == Decoder(max_packet_bytes=len(wire)).feed(wire)
    with pytest.raises(Malformed, match=f"{len(wire)} bytes is over the limit of {len(wire) - 1}"):
        Decoder(max_packet_bytes=len(wire) - 1).feed(wire)


def test_an_oversize_packet_is_refused_by_its_head_alone():
    head = codec.publish_head(b"a", LIMIT)
    decoder = Decoder(max_packet_bytes=LIMIT)
    with pytest.raises(Malformed, match="over the limit"):
        decoder.feed(head[:4])


def test_what_is_held_back_is_less_than_one_packet():
    wire = codec.publish_head(b"a", 50_000) + bytes(50_000)
    decoder = Decoder(max_packet_bytes=LIMIT)
    for _ in range(20):
        for at in range(0, len(wire), 1_000):
            decoder.feed(wire[at : at + 1_000])
            assert len(decoder._rest) < len(wire)
    assert decoder._rest == b""


def test_a_packet_that_trickles_in_is_parsed_only_when_it_is_whole():
    wire = codec.publish_head(b"a", 50_000) + bytes(50_000)
    decoder = Decoder(max_packet_bytes=LIMIT)
    decoder.feed(wire[:10])
    assert len(wire) == decoder._needed_bytes


def test_more_topics_than_are_remembered_are_still_read_and_checked(monkeypatch):
    monkeypatch.setattr(codec, "_TOPICS_KNOWN_MAX", 3)
    decoder = Decoder(max_packet_bytes=LIMIT)
    topics = [b"a%d" % number for number in range(10)] * 2 + [b"t" * 300]
    packets = decoder.feed(b"".join(codec.publish_head(topic, 0) for topic in topics))
    assert topics == [topic for topic, _ in packets]
    assert len(decoder._topics_known) <= 3
    with pytest.raises(Malformed, match="wildcard"):
        decoder.feed(b"\x30\x04\x00\x02a#")


# -- amqtt as an independent oracle --

TOPICS = st.text(st.characters(exclude_characters="+#\0", exclude_categories=["Cs"]), min_size=1, max_size=200)
PACKET_IDS = st.integers(1, 0xFFFF)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=60)

SERVER_PACKETS = st.one_of(
    st.builds(message, TOPICS.map(str.encode), st.binary(max_size=300), st.just(0), st.booleans(), st.just(0)),
    st.builds(Publish, TOPICS.map(str.encode), st.binary(max_size=300), st.just(1), st.booleans(), PACKET_IDS),
    st.builds(Connack, st.just(False), st.integers(0, 5)),
    st.builds(Puback, PACKET_IDS),
    st.builds(Suback, PACKET_IDS, st.lists(st.sampled_from([0, 1, 2, 0x80]), min_size=1).map(bytes)),
    st.just(Pingresp()),
)


def oracle_encode(packet):
    match packet:
        case bytes(topic), bytes(payload):
            built = PublishPacket.build(topic.decode(), payload, None, False, 0, False)
        case Publish(topic, payload, qos, retain, packet_id):
            identifier = packet_id or None
            built = PublishPacket.build(topic.decode(), payload, identifier, False, qos, retain)
        case Connack(session_present, code):
            built = ConnackPacket.build(int(session_present), code)
        case Puback(packet_id):
            return b"\x40\x02" + packet_id.to_bytes(2, "big")
        case Suback(packet_id, codes):
            built = SubackPacket.build(packet_id, list(codes))
        case _:
            built = PingRespPacket.build()
    return bytes(built.to_bytes())


def oracle_decode(kind, wire):
    async def read():
        reader = BufferReader(wire)
        header = await MQTTFixedHeader.from_stream(reader)
        packet = await kind.from_stream(reader, fixed_header=header)
        assert await reader.read() == b""
        return packet

    return asyncio.run(read())


@given(st.lists(SERVER_PACKETS, max_size=8), st.data())
def test_what_another_encoder_wrote_reads_back_the_same(packets, data):
    wire = b"".join(oracle_encode(packet) for packet in packets)
    cut = data.draw(st.integers(0, len(wire)))
    actual = feed_all([wire[:cut], wire[cut:]])
    assert packets == actual
    assert [type(packet) for packet in packets] == [type(packet) for packet in actual]


@given(TOPICS, st.binary(max_size=400))
def test_a_publish_is_byte_for_byte_what_another_encoder_writes(topic, payload):
    expected = oracle_encode(Publish(topic.encode(), payload))
    assert expected == codec.publish_head(topic.encode(), len(payload)) + payload


@given(
    TEXTS,
    st.integers(0, 0xFFFF),
    st.none() | TEXTS,
    st.none() | TEXTS,
    st.none() | st.tuples(TOPICS, st.binary(max_size=50)),
)
def test_another_decoder_reads_our_connect(client_id, keepalive_s, username, password, will):
    password = password if username is not None else None
    wire = codec.encode_connect(
        client_id=client_id,
        keepalive_s=keepalive_s,
        username=username,
        password=password,
        will=Will(*will, 1, True) if will else None,
    )
    packet = oracle_decode(ConnectPacket, wire)
    header, payload = packet.variable_header, packet.payload
    assert (4, keepalive_s, True) == (header.proto_level, header.keep_alive, header.clean_session_flag)
    assert (client_id, username, password) == (payload.client_id, payload.username, payload.password)
    assert (will or (None, None)) == (payload.will_topic, payload.will_message)
    assert ((1, True) if will else (0, False)) == (header.will_qos, header.will_retain_flag)


@given(PACKET_IDS, TOPICS, st.integers(0, 1))
def test_another_decoder_reads_our_subscribe(packet_id, topic_filter, qos):
    packet = oracle_decode(SubscribePacket, codec.encode_subscribe(packet_id, topic_filter, qos))
    assert packet_id == packet.variable_header.packet_id
    assert [(topic_filter, qos)] == packet.payload.topics


# -- fuzz: only Malformed leaves --


def decode_or_refuse(pieces):
    decoder = Decoder(max_packet_bytes=1_000)
    refused = False
    for piece in pieces:
        try:
            packets = decoder.feed(piece)
        except Malformed:
            refused = True
        else:
            assert not refused, "a decoder that refused once took input again"
            for packet in packets:
                if type(packet) is tuple:
                    topic, payload = packet
                    assert topic.decode()
                    assert isinstance(payload, bytes)
                    continue
                assert isinstance(packet, Publish | Connack | Suback | Puback | Pingresp)
                if isinstance(packet, Publish):
                    assert packet.topic.decode()
                    assert packet.qos == 1 or packet.retain
        assert len(decoder._rest) < 1_000


@given(st.lists(st.binary(max_size=80), max_size=6))
def test_random_bytes_give_packets_or_malformed(pieces):
    decode_or_refuse(pieces)


@given(st.lists(SERVER_PACKETS, min_size=1, max_size=4), st.data())
def test_a_stream_with_flipped_dropped_or_added_bytes_gives_packets_or_malformed(packets, data):
    wire = bytearray(b"".join(oracle_encode(packet) for packet in packets))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(wire) - 1, 0)))
        change = data.draw(st.sampled_from(["flip", "drop", "add"]))
        if change == "flip" and wire:
            wire[at] ^= 1 << data.draw(st.integers(0, 7))
        elif change == "drop":
            del wire[at : at + 1]
        else:
            wire.insert(at, data.draw(st.integers(0, 255)))
    cut = data.draw(st.integers(0, len(wire)))
    decode_or_refuse([bytes(wire[:cut]), bytes(wire[cut:])])


def test_every_first_byte_with_every_short_body_gives_packets_or_malformed():
    for first in range(256):
        for body in (
            b"\x00",
            b"\x01\x00",
            b"\x02\x00\x00",
            b"\x03\x00\x01a",
            b"\x05\x00\x01a\x00\x01",
            b"\xff\xff\xff\xff",
        ):
            decode_or_refuse([bytes([first]) + body])


# -- what an operator or a caller gets wrong --


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"client_id": "c\0"}, "client id holds a NUL"),
        ({"client_id": "c" * 65_536}, "client id is longer than 65535"),
        ({"client_id": "\ud800"}, "client id is not Unicode"),
        ({"keepalive_s": 65_536}, "keep-alive of 65536 s"),
        ({"keepalive_s": -1}, "keep-alive of -1 s"),
        ({"password": "secret"}, "without a user name"),
        ({"username": "u\0"}, "user name holds a NUL"),
        ({"username": "u", "password": "p" * 65_536}, "password is longer"),
        ({"will": Will("a/#", b"")}, "may not be empty nor hold"),
        ({"will": Will("", b"")}, "may not be empty nor hold"),
        ({"will": Will("a", bytes(65_536))}, "will payload is longer"),
    ],
)
def test_a_connect_that_cannot_be_said_is_refused_without_its_secret(arguments, says):
    with pytest.raises(ConfigError, match=says) as caught:
        codec.encode_connect(**{"client_id": "c", "keepalive_s": 30, **arguments})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("topic_filter", ["", "a/#/b", "a#", "a/b#", "a+/b", "+a", "##"])
def test_a_filter_that_is_none_is_refused(topic_filter):
    with pytest.raises(ConfigError, match="topic filter"):
        codec.encode_subscribe(1, topic_filter)


@pytest.mark.parametrize("packet_id", [0, 65_536])
def test_a_packet_identifier_out_of_range_is_refused(packet_id):
    with pytest.raises(ValueError, match="packet identifier"):
        codec.encode_subscribe(packet_id, "a")


@pytest.mark.parametrize(
    ("topic", "payload_length", "says"),
    [
        (b"", 1, "empty topic"),
        (b"a/+", 1, "wildcard"),
        (b"a\0", 1, "U\\+0000"),
        (b"\xff", 1, "not UTF-8"),
        (b"a" * 65_536, 1, "longer than 65535"),
        (b"a", codec.LENGTH_MAX, "MQTT ends at"),
    ],
)
def test_a_publish_that_cannot_be_said_is_refused(topic, payload_length, says):
    with pytest.raises((ValueError, ConfigError), match=says):
        codec.publish_head(topic, payload_length)


def test_without_looking_at_topics_only_an_empty_one_is_refused():
    decoder = Decoder(max_packet_bytes=LIMIT, checks_topics=False)
    assert [(b"\xff/+", b"1"), Publish(b"a\0#", b"2", 1, packet_id=7)] == decoder.feed(
        b"\x30\x06\x00\x03\xff/+1" + b"\x32\x08\x00\x03a\0#\x00\x072"
    )
    with pytest.raises(Malformed, match="empty topic"):
        decoder.feed(b"\x32\x04\x00\x00\x00\x01")


@pytest.mark.parametrize("topic", ["", "a/+", "#", "a\0b", "\ud800", "x" * 65_536])
def test_a_topic_that_mqtt_cannot_carry_is_not_published(topic):
    with pytest.raises((ValueError, ConfigError)):
        codec.encode_publish(topic, b"")
