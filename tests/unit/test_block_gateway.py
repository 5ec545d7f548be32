"""The block plane's way of one message: bytes in, blocks or a refusal out, never an exception."""

import random

import msgpack
import pytest
from core_world import MemorySource, facts_of, image_of
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.block_gateway import BlockGateway
from ota_bridge.core.blocks import BlockServer
from ota_bridge.core.errors import ArtifactCold, ArtifactDamaged, BlockRefusal
from ota_bridge.core.messages import Grant, GrantsChanged, GrantState
from ota_bridge.core.values import DeploymentId, DeviceId, Limits, RolloutId
from ota_bridge.dialect import MalformedRequest
from ota_bridge.dialects.native import NativeDialect
from ota_bridge.mqtt.codec import Decoder, publish_head

DEVICE, TOPIC, ANSWER = DeviceId("prod", "d1"), b"$ota/get/prod/d1", b"$ota/block/prod/d1"
IMAGE, FACTS = image_of("1.1.0"), facts_of()
NAME = FACTS.sha256[:8]


@pytest.fixture
def gateway():
    return made()


def made(*, fast=True, **options):
    source = MemorySource()
    source.put(IMAGE)
    options = {"device_burst_blocks": 10**6} | options
    server = BlockServer(source, **({"block_max": 16_384, "window_max": 16, "refusals_per_s": 1_000_000} | options))
    server.is_loaded = True
    grant = Grant(
        deployment=DeploymentId("0123456789ab"), rollout=RolloutId("r-000001"), state=GrantState.OPEN, manifest=FACTS
    )
    server.apply(GrantsChanged(device=DEVICE, grants=(grant,)))
    return BlockGateway(server, NativeDialect("$ota"), fast=fast)


def answers(gateway, payload, topic=TOPIC, mono=10.0):
    raw = payload if isinstance(payload, bytes) else msgpack.packb(payload)
    return [(where, msgpack.unpackb(said)) for where, said in packets(gateway, raw, topic, mono)]


def packets(gateway, raw, topic=TOPIC, mono=10.0):
    out = []
    gateway.handle(topic, raw, mono, out)
    return Decoder(max_packet_bytes=1 << 20).feed(b"".join(out))


def test_a_request_is_answered_block_by_block_on_the_devices_own_topic(gateway):
    expected = [(ANSWER, [NAME, 9000, IMAGE[9000:9600]]), (ANSWER, [NAME, 9600, IMAGE[9600:]])]
    assert expected == answers(gateway, [NAME, 9000, 600, 4])


@pytest.mark.parametrize("length", [8, 20, 32])
def test_the_answer_names_the_artifact_as_the_request_did(gateway, length):
    assert FACTS.sha256[:length] == answers(gateway, [FACTS.sha256[:length], 0, 64, 1])[0][1][0]


def test_missing_blocks_alone_are_sent(gateway):
    found = answers(gateway, [NAME, 0, 100, 16, b"\x09\x01"])
    assert [0, 300, 800] == [body[1] for _, body in found]


@pytest.mark.parametrize(
    ("request_", "refusal"),
    [
        ([b"nonsense", 7, 64, 1], [b"nonsense", 7, 1, 30, 16_384, 16]),
        ([NAME, 10_000, 64, 1], [NAME, 10_000, 2, 0, 16_384, 16]),
        ([NAME, 0, 16_385, 1], [NAME, 0, 3, 0, 16_384, 16]),
        ([NAME, 0, 64, 17], [NAME, 0, 3, 0, 16_384, 16]),
        ([NAME, 0, 0, 1], [NAME, 0, 7, 0, 16_384, 16]),
        (b"\xc1", [b"", 0, 7, 0, 16_384, 16]),
    ],
)
def test_each_refusal_tells_the_limits(gateway, request_, refusal):
    assert [(ANSWER, refusal)] == answers(gateway, request_)


def test_before_the_table_is_loaded_the_answer_is_busy(gateway):
    gateway.server.is_loaded = False
    assert [(ANSWER, [b"nonsense", 0, 4, 2, 16_384, 16])] == answers(gateway, [b"nonsense", 0, 64, 1])


def test_a_loop_of_bad_requests_becomes_silent_and_stays_counted():
    gateway = made(refusals_per_s=1)
    said = [len(answers(gateway, b"\xc1")) for _ in range(10)]
    assert [1, 1, 1, 1, 0, 0, 0, 0, 0, 0] == said
    assert 6 == gateway.server.counters.silent


@pytest.mark.parametrize(
    "topic",
    [
        b"",
        b"$ota/get/",
        b"$ota/get/prod",
        b"$ota/get/prod/d1/x",
        b"$ota/get/prod/+",
        b"\xff",
        b"$ota/get/prod/\xff",
        b"$ota/report/prod/d1",
    ],
)
def test_a_topic_that_names_no_device_is_counted_and_unanswered(gateway, topic):
    assert [] == answers(gateway, [NAME, 0, 64, 1], topic)
    assert 1 == gateway.strangers


def test_another_device_gets_nothing_of_it_and_is_answered_on_its_own_topic(gateway):
    assert [(b"$ota/block/prod/d2", [NAME, 0, 1, 30, 16_384, 16])] == answers(
        gateway, [NAME, 0, 64, 1], b"$ota/get/prod/d2"
    )


def test_a_damaged_artifact_is_busy(gateway):
    gateway.server._source.damaged, gateway.server._source.error = True, ArtifactDamaged
    assert [(ANSWER, [NAME, 0, 4, 2, 16_384, 16])] == answers(gateway, [NAME, 0, 64, 1])


def random_payload(rng):
    """Half of it nearly right: what a fuzzer of bytes alone would never find."""
    if rng.random() < 0.3:
        return rng.randbytes(rng.randrange(60))
    pick = [NAME, FACTS.sha256, b"x" * rng.randrange(40), None, "text", -1, True, 2**64 - 1, 1.5, [], {}]
    items = [
        rng.choice(pick) if rng.random() < 0.1 else NAME,
        rng.choice([0, 1, 4096, 9_999, 10_000, 2**32, 2**64 - 1, rng.choice(pick)]),
        rng.choice([1, 64, 1000, 16_384, 16_385, 2**32 - 1, rng.choice(pick)]),
        rng.choice([1, 4, 16, 17, 2**32 - 1, rng.choice(pick)]),
    ]
    if rng.random() < 0.3:
        items.append(rng.choice([b"\xff" * 30, b"\0", rng.randbytes(9), rng.choice(pick)]))
    raw = msgpack.packb(items)
    if rng.random() < 0.2:
        at = rng.randrange(len(raw))
        raw = raw[:at] + rng.randbytes(1) + raw[at + 1 :]
    return raw[: rng.randrange(len(raw))] if rng.random() < 0.1 else raw


def test_no_bytes_at_all_raise_and_each_request_is_answered(gateway):
    rng = random.Random(20261123)
    served = refused = 0
    for number in range(10_000):
        found = answers(gateway, random_payload(rng), mono=float(number))
        assert found
        for where, body in found:
            assert ANSWER == where
            if isinstance(body[2], int):
                assert body[2] in range(1, 8)
                refused += 1
            else:
                assert IMAGE[body[1] : body[1] + len(body[2])] == body[2]
                served += 1
    assert served > 1000
    assert refused > 1000


CAPS = [Limits(blocks_per_s=40, downloads=1), Limits(bytes_per_s=50_000), Limits(downloads=1), Limits(downloads=2)]

# --- the two lanes -----------------------------------------------------------------------------------------------


def happening(rng, gateways, number):
    """One thing that happens to both: what each answers to it."""
    kind = rng.random()
    held = rng.choice([None, None, None, GrantState.PAUSED, GrantState.WITHDRAWN])
    state, damaged = rng.choice([GrantState.OPEN] * 4 + list(GrantState)), rng.random() < 0.2
    limits = rng.choice([*[Limits()] * 4, *CAPS])
    raw, burst = random_payload(rng), rng.random() < 0.01
    if rng.random() < 0.5:
        raw = msgpack.packb([NAME, rng.randrange(11_000), rng.choice([64, 1000, 4096]), rng.randint(1, 16)])
    topic = TOPIC if rng.random() < 0.9 else rng.choice([b"$ota/get/prod/d2", b"$ota/get/prod", b"x"])
    found = []
    for gateway in gateways:
        if kind < 0.005:
            gateway.server.hold(RolloutId("r-000001"), held)
        elif kind < 0.01:
            grant = Grant(
                deployment=DeploymentId("0123456789ab"), rollout=RolloutId("r-000001"), state=state, manifest=FACTS
            )
            gateway.server.apply(GrantsChanged(device=DEVICE, grants=() if damaged else (grant,)))
        elif kind < 0.02:
            gateway.server._source.damaged = damaged
        elif kind < 0.04:
            gateway.server.set_limits(limits, number / 50)
        elif kind < 0.045:
            found.append((gateway.server.drain(float(number), float(number)), gateway.server.counters))
            continue
        found.append([packets(gateway, raw, topic, number / 50) for _ in range(200 if burst else 1)])
    return found


@pytest.mark.parametrize("seed", range(8))
def test_the_fast_lane_and_the_general_one_cannot_be_told_apart(seed):
    rng = random.Random(seed)
    options = {"refusals_per_s": 3, "device_blocks_per_s": 1000, "device_burst_blocks": 600}
    gateways = [made(fast=True, **options), made(fast=False, **options)]
    taken = []
    serve = gateways[0]._serve
    gateways[0]._serve = lambda *args: taken.append(1) or serve(*args)
    for number in range(2_500):
        fast, general = happening(rng, gateways, number)
        assert fast == general
        assert gateways[0].strangers == gateways[1].strangers
    counters = [gateway.server.counters for gateway in gateways]
    assert counters[0] == counters[1]
    assert len(taken) > 50, "the fast lane was hardly used"
    assert counters[0].silent, "nothing flooded"


@given(
    st.binary(max_size=70)
    | st.lists(st.integers() | st.binary(max_size=33) | st.none(), max_size=6).map(
        lambda items: msgpack.packb([item if not isinstance(item, int) else item % 2**64 for item in items])
    )
)
def test_a_plain_request_means_what_the_strict_reader_says(payload):
    dialect = NativeDialect("$ota")
    quick = dialect.quick_request(payload)
    try:
        strict = dialect.decode_request(payload)
    except MalformedRequest:
        # The fast lane serves only names and limits that are known, so these two alone may be out of bounds.
        assert quick is None or not 8 <= len(quick[0]) <= 32 or max(quick[2:]) >= 2**32
    else:
        if quick is not None:
            assert [strict.artifact, strict.offset, strict.size, strict.count, None] == [*quick, strict.missing]


# --- fleet-wide caps ---------------------------------------------------------------------------------------------


def test_a_device_with_a_slot_goes_by_the_fast_lane_and_under_a_capped_rate_none_does():
    for limits, expected in ((Limits(downloads=1), 9), (Limits(downloads=1, blocks_per_s=1000), 0)):
        gateway, taken = made(), []
        gateway.server.set_limits(limits, 0.0)
        serve = gateway._serve
        gateway._serve = lambda *args, serve=serve, taken=taken: taken.append(1) or serve(*args)
        for number in range(10):
            assert IMAGE[:64] == answers(gateway, [NAME, 0, 64, 1], mono=10 + number / 100)[0][1][2]
        assert expected == len(taken)


def test_no_packet_has_more_beside_its_data_than_the_caps_count_for_it(gateway):
    name = FACTS.sha256
    for offset, size, count in ((0, 1, 1), (0, 100, 16), (7, 4096, 2), (0, 10_000, 1), (0, 20_000, 1), (2**63, 9, 9)):
        out = []
        gateway.handle(TOPIC, msgpack.packb([name, offset, size, count]), 10.0, out)
        frame = gateway.server.client(DEVICE).frame_bytes
        for _, payload in Decoder(max_packet_bytes=1 << 20).feed(b"".join(out)):
            body = msgpack.unpackb(payload)
            data = body[2] if isinstance(body[2], bytes) else b""
            packet = publish_head(ANSWER, len(payload)) + payload
            assert len(packet) - len(data) <= frame <= len(packet) - len(data) + 40


def test_no_second_shows_more_than_the_cap_on_bytes_whatever_is_asked():
    gateway = made(refusals_per_s=50)
    gateway.server.set_limits(Limits(bytes_per_s=20_000), 0.0)
    rng, seen = random.Random(3), []
    for number in range(4_000):
        mono = 2 + number / 500
        topic = rng.choice([TOPIC, b"$ota/get/prod/d2", b"$ota/get/prod/d3"])
        for where, payload in packets(gateway, msgpack.packb([NAME, 0, rng.randint(1, 3000), 4]), topic, mono):
            seen.append((mono, len(publish_head(where, len(payload))) + len(payload)))
    for first in range(0, 4_000, 50):
        since = 2 + first / 500
        assert sum(size for mono, size in seen if since <= mono < since + 1.0) <= 20_000
    assert sum(size for _, size in seen) > 20_000 * 8 / 2


# --- a device that asks too fast ---------------------------------------------------------------------------------


def test_a_flood_is_told_busy_now_and_then_and_served_at_its_rate():
    gateway = made(refusals_per_s=1, device_blocks_per_s=100, device_burst_blocks=50)
    asked = msgpack.packb([NAME, 0, 100, 1])
    said = [packets(gateway, asked, mono=10 + number / 10_000) for number in range(20_000)]
    bodies = [msgpack.unpackb(found[0][1]) for found in said if found]
    blocks = [body for body in bodies if len(body) == 3]
    assert 50 + 200 <= len(blocks) <= 50 + 200 + 2
    told = [body for body in bodies if len(body) == 6]
    assert [[NAME, 0, 4, 2, 16_384, 16]] * len(told) == told
    assert 4 <= len(told) <= 4 + 2
    counters = gateway.server.counters
    assert 20_000 == counters.requests == counters.blocks + counters.refused[BlockRefusal.BUSY]


def test_a_flood_of_one_device_does_not_touch_another():
    gateway = made(device_blocks_per_s=100, device_burst_blocks=50)
    other = Grant(deployment=DeploymentId("ba9876543210"), rollout=None, state=GrantState.OPEN, manifest=FACTS)
    gateway.server.apply(GrantsChanged(device=DeviceId("prod", "d2"), grants=(other,)))
    asked = msgpack.packb([NAME, 0, 100, 1])
    for _ in range(1_000):
        packets(gateway, asked, mono=10.0)
    assert [NAME, 0, IMAGE[:100]] == answers(gateway, asked, b"$ota/get/prod/d2")[0][1]


# --- what has to be read from disk -------------------------------------------------------------------------------


class ColdSource(MemorySource):
    """Nothing is in memory until it was fetched; `wanted` holds what is asked of the disk."""

    def open(self, manifest):
        artifact, warm = super().open(manifest), set()
        view = artifact.view

        def cold_view(offset, length):
            if offset not in warm:
                raise ArtifactCold("not in memory")
            return view(offset, length)

        object.__setattr__(artifact, "view", cold_view)
        object.__setattr__(artifact, "fetch", lambda offset, _length: warm.add(offset))
        return artifact


def cold_gateway():
    wanted, late = [], []
    gateway = made()
    source = gateway.server._source = ColdSource()
    source.put(IMAGE)
    gateway._lines._read = lambda cold, done: wanted.append((cold, done))
    gateway._lines._mono = lambda: 10.0
    gateway.send = lambda pieces: late.append(b"".join(pieces)) or True
    return gateway, wanted, late


def read_next(wanted):
    cold, done = wanted.pop(0)
    cold.artifact.fetch(cold.offset, cold.length)
    done()


def said_by(late):
    """Offsets of what was answered later, in order."""
    found = Decoder(max_packet_bytes=1 << 20).feed(b"".join(late))
    return [msgpack.unpackb(payload)[1] for _, payload in found]


def test_a_cold_request_waits_for_the_disk_and_is_answered_the_oldest_first():
    gateway, wanted, late = cold_gateway()
    for offset in (300, 200):
        assert [] == answers(gateway, [NAME, offset, 100, 1])
    assert 0 == gateway.server.counters.requests
    assert 1 == len(wanted)
    while wanted:
        read_next(wanted)
    assert [300, 200] == said_by(late)
    assert (2, 2) == (gateway.server.counters.requests, gateway.server.counters.blocks)
    assert ({}, 0) == (gateway._lines._lines, gateway._lines._waiting_in_all)
    assert [NAME, 300, IMAGE[300:400]] == answers(gateway, [NAME, 300, 100, 1])[0][1]


@pytest.mark.parametrize("later", [[NAME, 0, 100, 1], [NAME, 0, 1, 17], [b"nonsense", 0, 1, 1], b"\xc1"])
def test_a_device_is_answered_in_the_order_in_which_it_asked_whatever_waits_for_the_disk(later):
    gateway, wanted, late = cold_gateway()
    answers(gateway, [NAME, 0, 100, 1])
    read_next(wanted)  # this offset is in memory now
    late.clear()
    assert [] == answers(gateway, [NAME, 500, 100, 1])
    assert [] == answers(gateway, later)
    read_next(wanted)
    assert 2 == len(said_by(late))
    assert 500 == said_by(late)[0]
    assert not wanted


def test_one_device_that_waits_for_the_disk_holds_up_no_other():
    gateway, wanted, _ = cold_gateway()
    other = DeviceId("prod", "d2")
    grant = gateway.server.client(DEVICE).grants[0]
    gateway.server.apply(GrantsChanged(device=other, grants=(grant,)))
    answers(gateway, [NAME, 0, 100, 1])
    read_next(wanted)
    answers(gateway, [NAME, 500, 100, 1])
    gateway.server.client(other).passes = gateway.server.client(DEVICE).passes
    assert 1 == len(answers(gateway, [NAME, 0, 100, 1], topic=b"$ota/get/prod/d2"))


def test_what_waits_when_its_device_is_forgotten_is_answered_by_what_holds_then():
    gateway, wanted, late = cold_gateway()
    answers(gateway, [NAME, 500, 100, 1])
    gateway.server.apply(GrantsChanged(device=DEVICE, grants=()))
    gateway.server.drain(0.0, 0.0)
    read_next(wanted)
    assert [(500, 1)] == [tuple(msgpack.unpackb(body)[1:3]) for _, body in Decoder(max_packet_bytes=999).feed(late[0])]
    assert ({}, 0) == (gateway._lines._lines, gateway._lines._waiting_in_all)


def test_what_waits_is_bounded_for_each_device_and_then_busy():
    gateway, wanted, _ = cold_gateway()
    for offset in range(16):
        assert [] == answers(gateway, [NAME, offset, 100, 1])
    assert [NAME, 16, 4, 2, 16_384, 16] == answers(gateway, [NAME, 16, 100, 1])[0][1]
    read_next(wanted)
    assert [] == answers(gateway, [NAME, 17, 100, 1])


def test_what_never_becomes_readable_ends_busy():
    gateway, wanted, late = cold_gateway()
    assert [] == answers(gateway, [NAME, 0, 100, 1])
    while wanted:
        wanted.pop(0)[1]()
    assert [NAME, 0, 4, 2, 16_384, 16] == msgpack.unpackb(Decoder(max_packet_bytes=9999).feed(late[0])[0][1])
