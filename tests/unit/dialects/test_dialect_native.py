"""The native dialect against its vectors, JSON against msgpack, and bytes that mean nothing."""

import base64
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from random import Random

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wild import SEEDS, changed, text, wild

from ota_bridge.core import messages
from ota_bridge.core.errors import BlockRefusal, Malformed
from ota_bridge.core.messages import (
    BlockRequest,
    CheckIn,
    Encoding,
    Event,
    KeysetNotice,
    Offer,
    Progress,
    Rejected,
)
from ota_bridge.core.values import DeploymentId, DeviceId, Sha256
from ota_bridge.dialect import MalformedRequest
from ota_bridge.dialects.native import REPORT_MAX_BYTES, NativeDialect
from ota_bridge.wire import MqttMessage

VECTORS = Path(__file__).parents[2] / "vectors" / "native"
REPORTS, REJECTED, TOPICS, BLOCKS, DOWNLINKS = (
    json.loads((VECTORS / f"{name}.json").read_text())
    for name in ("reports", "rejected", "topics", "blocks", "downlinks")
)
DEVICE = DeviceId("prod", "d1")
NATIVE = NativeDialect("$ota")


def payload_of(vector):
    return bytes.fromhex(vector["hex"]) if "hex" in vector else vector["text"].encode()


def decoded(payload, topic="$ota/report/prod/d1"):
    return NATIVE.decode(MqttMessage(topic=topic, payload=payload, qos=1))


def shown(uplink):
    """An uplink as the vectors write it."""
    key = {"boot": uplink.key.boot if uplink.key else None, "seq": uplink.key.seq if uplink.key else None}
    if isinstance(uplink, CheckIn):
        return {
            "kind": "CheckIn",
            **key,
            **{
                name: getattr(uplink, name)
                for name in ("proto", "hw", "max_packet", "max_block", "max_window", "next_s")
            },
            "nonce": uplink.nonce.hex() if uplink.nonce else None,
            "parts": {
                name: [part.version, part.seq, part.digest8.hex(), part.trial] for name, part in uplink.parts.items()
            },
            "have": [[artifact.hex(), size] for artifact, size in uplink.have],
            **({} if uplink.keyset is None else {"keys": uplink.keyset}),
            **({"keys_refused": uplink.keyset_refused} if uplink.keyset_refused else {}),
            **({} if uplink.stale_s is None else {"stale_s": uplink.stale_s}),
        }
    assert isinstance(uplink, Progress), uplink
    names = ("deployment", "component", "version", "percent", "result_code", "result_msg", "retry_after_s", "reason")
    return {
        "kind": "Progress",
        **key,
        "state": uplink.state.value,
        **{name: getattr(uplink, name) for name in names},
    }


def named(vectors):
    return [pytest.param(vector, id=vector["name"]) for vector in vectors]


# --- reports -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", named(REPORTS["vectors"]))
def test_a_report_means_what_its_vector_says(vector):
    uplink = decoded(payload_of(vector))
    assert vector["expect"] == shown(uplink)
    assert (DEVICE, "native") == (uplink.device, uplink.dialect)


@pytest.mark.parametrize("vector", named(REPORTS["vectors"]))
def test_the_answer_goes_in_the_encoding_of_the_check_in(vector):
    uplink = decoded(payload_of(vector))
    if isinstance(uplink, CheckIn):
        assert (Encoding.JSON if "text" in vector else Encoding.MSGPACK) is uplink.encoding


@pytest.mark.parametrize("vector", named(REJECTED["vectors"]))
def test_what_is_no_report_is_rejected_with_a_short_reason_and_never_raises(vector):
    uplink = decoded(payload_of(vector))
    assert isinstance(uplink, Rejected), uplink
    assert DEVICE == uplink.device
    assert 0 < len(uplink.reason) < 300


@pytest.mark.parametrize("size", [REPORT_MAX_BYTES + 1, 1_000_000])
def test_a_report_that_is_too_long_is_rejected_unread(size):
    uplink = decoded(b'{"type":"report_version","report":{"version":"1"},"x":"' + b"y" * size + b'"}')
    assert isinstance(uplink, Rejected)
    assert "at most" in uplink.reason


@pytest.mark.parametrize("topic", TOPICS["good"])
def test_the_topic_says_who_speaks(topic):
    uplink = decoded(b'{"type":"report_version","report":{"version":"1"}}', topic)
    assert topic == f"$ota/report/{uplink.device}"


@pytest.mark.parametrize("key", ["device", "device_id", "product", "name", "client_id", "topic"])
def test_what_a_payload_says_of_its_device_is_ignored(key):
    plain = {"type": "report_version", "report": {"version": "1"}, "proto": 1, "hw": "r1", "boot": 1, "seq": 1}
    uplink = decoded(json.dumps({**plain, key: "other"}).encode(), "$ota/report/prod/mine")
    assert isinstance(uplink, CheckIn)
    assert DeviceId("prod", "mine") == uplink.device


@pytest.mark.parametrize("topic", TOPICS["bad"])
def test_a_topic_that_names_no_device_is_malformed(topic):
    with pytest.raises(Malformed):
        decoded(b'{"type":"report_version","report":{"version":"1"}}', topic)


def test_a_repeat_has_the_same_key_and_any_other_byte_another_content():
    one = decoded(payload_of(REPORTS["vectors"][0]))
    again = decoded(payload_of(REPORTS["vectors"][0]))
    other = decoded(payload_of(REPORTS["vectors"][0]) + b" ")
    assert one.key == again.key
    assert (one.key.boot, one.key.seq) == (other.key.boot, other.key.seq)
    assert one.key.content != other.key.content


def test_the_body_is_kept_for_people():
    vector = REPORTS["vectors"][0]
    assert json.loads(vector["text"]) == decoded(payload_of(vector)).body


def as_json(value):
    """Binary as base64, the one difference between the two encodings."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, list) else value


CHECK_INS = st.fixed_dictionaries(
    {
        "type": st.just("report_version"),
        "report": st.fixed_dictionaries({"version": st.text("ab1.~+", min_size=1, max_size=32)}),
        "proto": st.integers(1, 9),
        "hw": st.text("abR9.+:", min_size=1, max_size=32),
        "boot": st.integers(0, 2**64 - 1),
        "seq": st.integers(0, 2**64 - 1),
    },
    optional={
        "nonce": st.binary(min_size=16, max_size=16),
        "max_packet": st.integers(128, 2**32 - 1),
        "parts": st.dictionaries(
            st.text("ab_9", min_size=1, max_size=16),
            st.tuples(
                st.text("1.a", min_size=1, max_size=32),
                st.integers(0, 2**32 - 1),
                st.just(b"") | st.binary(min_size=8, max_size=8),
                st.integers(0, 1),
            ).map(list),
            min_size=1,
            max_size=16,
        ),
        "keys": st.integers(1, 2**32 - 1),
        "keys_refused": st.from_regex(r"[A-Z][A-Z_]{0,31}", fullmatch=True),
        "stale_s": st.integers(0, 2**32 - 1),
        "have": st.lists(
            st.tuples(st.binary(min_size=8, max_size=32), st.integers(0, 2**64 - 1)).map(list), max_size=16
        ),
    },
)


@given(CHECK_INS)
def test_json_and_msgpack_mean_the_same(message):
    packed, text = decoded(msgpack.packb(message)), decoded(json.dumps(as_json(message)).encode())
    assert isinstance(packed, CheckIn), packed
    assert replace(packed, encoding=Encoding.JSON, key=None, body={}) == replace(text, key=None, body={})


# --- any bytes ---------------------------------------------------------------------------------------------------

FIELDS = "type report version progress state percent result_code proto hw boot seq nonce parts have id component keys".split()


def field(rng):
    return rng.choice(FIELDS) if rng.random() < 0.7 else text(rng)


def packed(rng):
    """Any value in msgpack, as far as that can say it."""
    try:
        return msgpack.packb(wild(rng, key=field))
    except (OverflowError, ValueError):
        return b"\xc0"


def any_bytes(rng):
    """Noise, values that mean nothing in both encodings, and good reports with a changed byte."""
    return rng.choice(
        (
            lambda: rng.randbytes(rng.randint(0, 200)),
            lambda: packed(rng),
            lambda: json.dumps(as_json(wild(rng, key=field)), default=str).encode(),
            lambda: changed(rng, payload_of(rng.choice(REPORTS["vectors"]))),
        )
    )()


@settings(max_examples=1000, deadline=None)
@given(SEEDS)
def test_any_bytes_are_an_uplink_or_rejected(seed):
    assert isinstance(decoded(any_bytes(Random(seed))), CheckIn | Progress | Rejected)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=90), st.binary(max_size=10))
def test_any_topic_is_a_device_or_malformed(topic, payload):
    for whole in (topic, "$ota/report/" + topic):
        try:
            uplink = decoded(payload, whole)
        except Malformed:
            continue
        assert f"$ota/report/{uplink.device}" == whole


def changed_request(rng):
    return changed(rng, bytes.fromhex(rng.choice(BLOCKS["requests"])["hex"]))


@settings(max_examples=1000, deadline=None)
@given(SEEDS)
def test_any_bytes_are_a_request_or_a_malformed_one(seed):
    rng = Random(seed)
    payload = rng.choice((packed, lambda rng: rng.randbytes(rng.randint(0, 60)), changed_request))(rng)
    try:
        request = NATIVE.decode_request(payload)
    except MalformedRequest as error:
        assert len(error.artifact) in {0, *range(8, 33)}
        assert 0 <= error.offset < 2**64
    else:
        assert isinstance(request, BlockRequest)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=90))
def test_any_block_topic_is_a_device_or_malformed(topic):
    for one in (topic, b"$ota/get/" + topic):
        try:
            device = NATIVE.requester(one)
        except Malformed:
            continue
        assert one.replace(b"/get/", b"/block/") == NATIVE.answer_topic(device)


# --- blocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", named(BLOCKS["requests"]))
def test_a_request_means_what_its_vector_says(vector):
    request = NATIVE.decode_request(bytes.fromhex(vector["hex"]))
    found = [request.artifact.hex(), request.offset, request.size, request.count]
    assert vector["expect"] == [*found, request.missing.hex() if request.missing is not None else None]


@pytest.mark.parametrize("vector", named(BLOCKS["malformed"]))
def test_a_malformed_request_tells_as_much_as_could_be_read(vector):
    with pytest.raises(MalformedRequest) as caught:
        NATIVE.decode_request(bytes.fromhex(vector["hex"]))
    assert (vector["artifact"], vector["offset"]) == (caught.value.artifact.hex(), caught.value.offset)


def block_of(artifact, offset, data):
    before, after = NATIVE.block_frame(artifact, len(data))
    return before + NATIVE.pack_offset(offset) + after + data


@pytest.mark.parametrize("vector", named(BLOCKS["blocks"]))
def test_a_block_is_written_as_its_vector_says(vector):
    data = bytes.fromhex(vector["data"])
    assert vector["hex"] == block_of(bytes.fromhex(vector["artifact"]), vector["offset"], data).hex()


@given(st.binary(min_size=8, max_size=32), st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 255, 256, 65_535, 65_536]))
def test_a_block_is_the_array_that_the_protocol_says_whatever_its_length(artifact, offset, length):
    data = bytes(length)
    assert msgpack.packb([artifact, offset, data]) == block_of(artifact, offset, data)


@pytest.mark.parametrize("vector", named(BLOCKS["refusals"]))
def test_a_refusal_is_written_as_its_vector_says(vector):
    packed = NATIVE.encode_refusal(
        bytes.fromhex(vector["artifact"]),
        vector["offset"],
        BlockRefusal(vector["code"]),
        vector["retry_after_s"],
        16_384,
        16,
    )
    assert vector["hex"] == packed.hex()


def test_an_answer_takes_hardly_more_memory_than_its_bytes():
    def answer():
        return NATIVE.pack_offset(2**40), NATIVE.encode_refusal(b"a" * 32, 2**64 - 1, BlockRefusal.BUSY, 2, 16_384, 16)

    answer()
    tracemalloc.start()
    try:
        written = answer()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - sum(map(len, written)) < 4_096


# --- downlinks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("vector", named(DOWNLINKS["vectors"]))
def test_a_downlink_is_written_as_its_vector_says_in_both_encodings(vector, encoding):
    args = {name: tuple(value) if isinstance(value, list) else value for name, value in vector["args"].items()}
    message = NATIVE.encode(getattr(messages, vector["kind"])(device=DEVICE, encoding=encoding, **args))
    read = json.loads if encoding is Encoding.JSON else msgpack.unpackb
    assert vector["body"] == read(message.payload)
    assert ("$ota/update/prod/d1", 1, False) == (message.topic, message.qos, message.retain)


def offer(**changes):
    plain = Offer(
        device=DEVICE,
        encoding=Encoding.MSGPACK,
        deployment=DeploymentId("0123456789ab"),
        release="prod/1.1.0",
        component="firmware",
        manifest=b"m" * 300,
        manifest_digest=Sha256(b"M" * 32),
        ticket=b"t" * 150,
        ticket_digest=Sha256(b"T" * 32),
        boot=7,
        nonce=bytes(16),
        block_max=16_384,
        window_max=16,
        resend_after_s=60,
        max_packet=8192,
    )
    return replace(plain, **changes)


LONG = {
    "type": "update_firmware", "id": "0123456789ab", "release": "prod/1.1.0", "component": "firmware",
    "manifests": [b"m" * 300], "ticket": b"t" * 150, "boot": 7, "nonce": bytes(16), "apply": "now",
    "block_max": 16_384, "window_max": 16, "resend_after_s": 60,
}  # fmt: skip


def test_an_offer_carries_manifest_and_ticket():
    assert LONG == msgpack.unpackb(NATIVE.encode(offer()).payload)
    assert as_json(LONG) == json.loads(NATIVE.encode(offer(encoding=Encoding.JSON)).payload)


def test_an_offer_larger_than_the_devices_packet_names_what_is_to_be_fetched():
    message = NATIVE.encode(offer(max_packet=400))
    assert LONG | {"manifests": [[b"M" * 32, 300]], "ticket": [b"T" * 32, 150]} == msgpack.unpackb(message.payload)


@pytest.mark.parametrize("encoding", list(Encoding))
def test_the_short_form_is_used_exactly_from_where_the_packet_would_not_fit(encoding):
    long = NATIVE.encode(offer(encoding=encoding, max_packet=None))
    # Longest fixed head 5, topic with its length, packet identifier (MQTT 3.1.1 §3.3).
    packet = 5 + 2 + len(long.topic) + 2 + len(long.payload)
    assert long == NATIVE.encode(offer(encoding=encoding, max_packet=packet))
    assert len(long.payload) > len(NATIVE.encode(offer(encoding=encoding, max_packet=packet - 1)).payload)


def test_an_offer_without_ticket_or_nonce_leaves_them_out():
    body = msgpack.unpackb(NATIVE.encode(offer(ticket=None, ticket_digest=None, nonce=None)).payload)
    assert {key: value for key, value in LONG.items() if key not in {"ticket", "nonce"}} == body


def test_an_offer_on_command_says_so():
    assert "on_command" == msgpack.unpackb(NATIVE.encode(offer(apply_now=False)).payload)["apply"]


STEP = b"s" * 300


def keyset_notice(**changes):
    plain = KeysetNotice(
        device=DEVICE, encoding=Encoding.MSGPACK, version=2, step=STEP, digest=Sha256(b"S" * 32), max_packet=8192
    )
    return replace(plain, **changes)


def test_a_keyset_is_carried_or_named_where_the_packet_would_not_fit():
    body = {"type": "update_keys", "version": 2, "keyset": STEP}
    message = NATIVE.encode(keyset_notice())
    assert (body, 1, False) == (msgpack.unpackb(message.payload), message.qos, message.retain)
    assert as_json(body) == json.loads(NATIVE.encode(keyset_notice(encoding=Encoding.JSON)).payload)
    packet = 5 + 2 + len(message.topic) + 2 + len(message.payload)
    assert message == NATIVE.encode(keyset_notice(max_packet=packet)) == NATIVE.encode(keyset_notice(max_packet=None))
    short = NATIVE.encode(keyset_notice(max_packet=packet - 1))
    assert {**body, "keyset": [b"S" * 32, 300]} == msgpack.unpackb(short.payload)


@pytest.mark.parametrize("fields", [{}, {"proto": None, "boot": None}])
@pytest.mark.parametrize("write", [msgpack.packb, lambda body: json.dumps(body).encode()])
def test_a_report_without_native_fields_is_handed_on_as_it_is(fields, write):
    asked = []
    native = NativeDialect("$ota", lambda device, body: asked.append((device, body)))
    body = {"type": "report_version", "report": {"version": "1"}, **fields}
    native.decode(MqttMessage(topic="$ota/report/prod/d1", payload=write(body)))
    assert [(DEVICE, body)] == asked
    assert "none of the native fields" in decoded(write(body)).reason


def test_another_root_is_used_everywhere():
    other = NativeDialect("ota")
    assert ["ota/report/+/+"] == [one.topic_filter for one in other.subscriptions()]
    assert "ota/get/+/+" == other.block_filter()
    assert b"ota/block/prod/d1" == other.answer_topic(DEVICE)
    assert "ota/update/prod/d1" == other.encode(offer()).topic
    assert "ota/state/bridge" == other.state("bridge", {}).topic


def test_reports_are_subscribed_at_qos_1_and_exactly_two_levels_deep():
    assert [("$ota/report/+/+", 1)] == [(one.topic_filter, one.qos) for one in NATIVE.subscriptions()]


# --- operators ---------------------------------------------------------------------------------------------------


def test_an_event_is_one_plain_json_line_with_bytes_in_hex():
    message = NATIVE.event(
        Event(
            device=DEVICE, wall=0.5, kind="report", data={"report": {"nonce": b"\x01\x02", "note": "a\nb"}, "id": None}
        )
    )
    assert b"\n" not in message.payload
    expected = {
        "at": "1970-01-01T00:00:00.500Z", "event": "report", "product": "prod", "device": "d1",
        "report": {"nonce": "0102", "note": "a\nb"}, "id": None,
    }  # fmt: skip
    assert expected == json.loads(message.payload)
    assert ("$ota/event/prod/d1", 0, False) == (message.topic, message.qos, message.retain)


def test_a_summary_is_retained():
    message = NATIVE.state("rollout/r-000001", {"total": 3})
    assert ("$ota/state/rollout/r-000001", 1, True) == (message.topic, message.qos, message.retain)
    assert {"total": 3} == json.loads(message.payload)
