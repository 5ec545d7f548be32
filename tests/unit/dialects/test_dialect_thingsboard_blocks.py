"""ThingsBoard's chunk requests, and what is said instead of a chunk."""

import pytest

from ota_bridge.core.errors import BlockRefusal, Malformed
from ota_bridge.core.values import FIRMWARE, DeviceId
from ota_bridge.dialect import Asked, MalformedFrom
from ota_bridge.dialects.thingsboard import ThingsBoard

DEVICE = DeviceId("prod", "d1")
ANSWER = b"tb/d1/v2/fw/response/%d/chunk/%d"
ERROR = b"tb/d1/v2/fw/error"


def blocks():
    return ThingsBoard({"product": "prod"}).blocks


def asks(payload, *, rid="1", n="0", of=None):
    return (of or blocks()).read(f"tb/d1/v2/fw/request/{rid}/chunk/{n}".encode(), payload)


def test_a_request_is_for_the_firmware_and_its_size_is_in_its_payload():
    assert Asked(
        device=DEVICE, offset=12_288, size=4096, component=FIRMWARE, frame_bytes=7 + len(ANSWER % (7, 3)), download="7",
        reply_to=ANSWER % (7, 3),
    ) == asks(b"4096", rid="7", n="3")  # fmt: skip


def test_without_a_size_it_is_the_last_one_of_that_request_id_or_the_whole_image():
    one = blocks()
    assert (0, 0) == (asks(b"", of=one).offset, asks(b"", of=one).size)
    assert (0, 0) == (asks(b"", n="5", of=one).offset, asks(b"", n="5", of=one).size)
    asks(b"512", of=one)
    assert (2560, 512) == (asks(b"", n="5", of=one).offset, asks(b"", n="5", of=one).size)
    assert 0 == asks(b"", rid="2", of=one).size


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"65537", b"PAYLOAD_TOO_LARGE"),
        (b"9999999999", b"PAYLOAD_TOO_LARGE"),
        (b"0", b"FAILURE"),
        (b"-1", b"FAILURE"),
        (b"1e3", b"FAILURE"),
        (b" 4096", b"FAILURE"),
        (b"4096\0", b"FAILURE"),
        ("４０９６".encode(), b"FAILURE"),
        (b"9" * 4000, b"FAILURE"),
    ],
)
def test_a_size_that_is_none_is_an_error_for_those_who_listen(payload, error):
    with pytest.raises(MalformedFrom) as caught:
        asks(payload)
    assert [(ERROR, (error,))] == list(blocks().malformed(caught.value))


@pytest.mark.parametrize(
    ("rid", "n"), [("x", "0"), ("1", "-1"), ("1", ""), ("1", "12345678901"), ("1", "0/more"), ("+", "0")]
)
def test_a_topic_that_asks_for_no_chunk_is_malformed(rid, n):
    with pytest.raises(MalformedFrom):
        asks(b"4096", rid=rid, n=n)


@pytest.mark.parametrize("topic", [b"", b"tb/d1", b"tb/\xff/v2/fw/request/1/chunk/0", b"x/d1/v2/fw/request/1/chunk/0"])
def test_a_topic_that_names_nobody_is_nobodys(topic):
    with pytest.raises(Malformed) as caught:
        blocks().read(topic, b"4096")
    assert not isinstance(caught.value, MalformedFrom)


def test_a_chunk_is_the_bytes_and_nothing_else():
    data = memoryview(b"data")
    assert [(ANSWER % (1, 0), (data,))] == list(blocks().blocks_of(asks(b"4"), [(0, data)], 4))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (BlockRefusal.PAST_END, [(ANSWER % (1, 9), ())]),
        (BlockRefusal.NOT_OPEN, [(ERROR, (b"NOT_FOUND",))]),
        (BlockRefusal.WITHDRAWN, [(ERROR, (b"NOT_FOUND",))]),
        (BlockRefusal.ABOVE_LIMIT, [(ERROR, (b"PAYLOAD_TOO_LARGE",))]),
        (BlockRefusal.BUSY, []),
        (BlockRefusal.PAUSED, []),
    ],
)
def test_past_the_end_is_an_empty_chunk_and_who_is_to_wait_hears_nothing(code, expected):
    assert expected == list(blocks().refusal(asks(b"4096", n="9"), code, 2))


def test_it_subscribes_chunks_of_all_its_devices():
    assert ["tb/+/v2/fw/request/+/chunk/+"] == list(blocks().filters())
