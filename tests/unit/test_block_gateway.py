"""The block plane's way of one message: bytes in, blocks or a refusal out, never an exception."""

import random

import msgpack
import pytest
from core_world import MemorySource, facts_of, image_of

from ota_bridge.block_gateway import BlockGateway
from ota_bridge.core.delivery import BlockServer
from ota_bridge.core.errors import ArtifactDamaged
from ota_bridge.core.messages import Grant, GrantsChanged, GrantState
from ota_bridge.core.values import DeploymentId, DeviceId, RolloutId
from ota_bridge.dialects.native import NativeDialect

DEVICE, TOPIC, ANSWER = DeviceId("prod", "d1"), b"$ota/get/prod/d1", b"$ota/block/prod/d1"
IMAGE, FACTS = image_of("1.1.0"), facts_of()
NAME = FACTS.sha256[:8]


@pytest.fixture
def gateway():
    return made()


def made(**options):
    source = MemorySource()
    source.put(IMAGE)
    server = BlockServer(source, **({"block_max": 16_384, "window_max": 16, "refusals_per_s": 1_000_000} | options))
    server.is_loaded = True
    grant = Grant(
        deployment=DeploymentId("0123456789ab"), rollout=RolloutId("r-000001"), state=GrantState.OPEN, manifest=FACTS
    )
    server.apply(GrantsChanged(device=DEVICE, grants=(grant,)))
    return BlockGateway(server, NativeDialect("$ota"), wall=lambda: 5.0)


def answers(gateway, payload, topic=TOPIC, mono=10.0):
    raw = payload if isinstance(payload, bytes) else msgpack.packb(payload)
    return [(where, msgpack.unpackb(b"".join(pieces))) for where, pieces in gateway.handle(topic, raw, mono)]


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
