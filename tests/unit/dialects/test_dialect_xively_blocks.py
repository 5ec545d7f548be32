"""One chunk for each request of a Xively device, and silence to whatever could spoil its file."""

import cbor2
import pytest

from ota_bridge.core.errors import BlockRefusal, Malformed
from ota_bridge.core.values import DeviceId
from ota_bridge.dialect import MalformedFrom, Products
from ota_bridge.dialects import xively_blocks
from ota_bridge.dialects.xively_blocks import CHUNK_MAX_BYTES, XivelyBlocks, down_topic, named
from ota_bridge.dialects.xively_files import FileNames

TOPIC = b"xi/ctrl/v1/d1/svc"


class Plane:
    """The blocks of one bridge, asked as the gateway asks: read, and where it is served, written."""

    def __init__(self, **named_files):
        self.blocks = XivelyBlocks(Products(default="prod"), FileNames(named_files))

    def told(self, topic=TOPIC, **body):
        return self.blocks.read(topic, cbor2.dumps({"msgtype": 2, "msgver": 1, "N": "f", "R": "1"} | body))

    def asks(self, offset, length=1024, *, served=None, name="f", topic=TOPIC):
        """The offset and bytes of the chunk, or None for silence. `served`: how much of it there was."""
        asked = self.told(topic, N=name, O=offset, L=length)
        if asked is None:
            return None
        data = memoryview(bytes(asked.size if served is None else served))
        ((topic, (head, body)),) = self.blocks.blocks_of(asked, [(offset, data)], 10_000)
        found = cbor2.loads(head + bytes(body))
        assert topic == down_topic(asked.device).encode()
        assert (name, "1") == (found["N"], found["R"])
        return found["O"], len(found["C"])


def test_each_request_in_its_turn_gets_its_chunk():
    plane = Plane()
    assert [(0, 1024), (1024, 1024), (2048, 452)] == [
        plane.asks(0), plane.asks(1024), plane.asks(2048, 452),
    ]  # fmt: skip


def test_a_request_says_file_component_version_and_range():
    asked = Plane(f="bootloader").told(O=5, L=7)
    assert (DeviceId("prod", "d1"), "bootloader", "1", 5, 7, 1, b"") == (
        asked.device, asked.component, asked.version, asked.offset, asked.size, asked.count, asked.artifact,
    )  # fmt: skip


@pytest.mark.parametrize("offset", [1024, 4096, 1, 2**32 - 1])
def test_a_request_that_does_not_follow_the_last_chunk_stays_unanswered(offset):
    plane = Plane()
    plane.asks(0)
    plane.asks(1024)
    assert plane.asks(offset) is None
    assert (2048, 1024) == plane.asks(2048)


def test_a_file_may_start_again_and_then_goes_on_from_there():
    plane = Plane()
    plane.asks(0)
    plane.asks(1024)
    assert (0, 1024) == plane.asks(0)
    assert plane.asks(2048) is None
    assert (1024, 1024) == plane.asks(1024)


def test_another_file_begins_at_its_first_byte():
    plane = Plane()
    plane.asks(0)
    assert plane.asks(1024, name="g") is None
    assert (0, 1024) == plane.asks(0, name="g")
    assert plane.asks(1024, name="f") is None


def test_a_chunk_that_ended_early_is_followed_from_its_end():
    plane = Plane()
    plane.asks(0, served=100)
    assert plane.asks(1024) is None
    assert (100, 1024) == plane.asks(100)


def test_what_was_not_served_leaves_the_place_as_it_was():
    plane = Plane()
    plane.asks(0)
    assert plane.told(O=1024, L=1024) is not None
    assert (1024, 1024) == plane.asks(1024)


def test_after_a_result_only_a_first_byte_is_served():
    plane = Plane()
    plane.asks(0)
    plane.told(msgtype=4, P=3, S=-5)
    assert plane.asks(1024) is None
    assert (0, 1024) == plane.asks(0)


def test_a_result_after_which_the_device_waits_on_changes_nothing():
    plane = Plane()
    plane.asks(0)
    plane.told(msgtype=4, P=3, S=-1)
    assert (1024, 1024) == plane.asks(1024)


def test_after_another_connection_or_a_restart_of_the_bridge_any_place_is_served():
    plane = Plane()
    plane.asks(0)
    plane.told(msgtype=0, list=[{"N": "f", "R": "1"}])
    assert (4096, 1024) == plane.asks(4096)
    assert (8192, 1024) == Plane().asks(8192)


def test_devices_do_not_disturb_each_other():
    plane = Plane()
    plane.asks(0)
    assert (5120, 1024) == plane.asks(5120, topic=b"xi/ctrl/v1/d2/svc")
    assert (1024, 1024) == plane.asks(1024)


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(xively_blocks, "SERVED_MAX", 3)
    plane = Plane()
    for number in range(10):
        plane.asks(0, topic=b"xi/ctrl/v1/d%d/svc" % number)
    assert 3 >= len(plane.blocks._next)


def test_more_than_a_small_device_can_count_is_never_sent():
    assert CHUNK_MAX_BYTES == Plane().told(O=0, L=65_536).size
    assert 32_767 == Plane().blocks.block_max_bytes


def test_a_request_for_no_bytes_stays_unanswered():
    assert Plane().told(O=0, L=0) is None


def test_a_request_that_cannot_be_read_is_malformed_and_other_garbage_the_control_planes():
    with pytest.raises(MalformedFrom) as caught:
        Plane().told(O=-1, L=1024)
    assert DeviceId("prod", "d1") == caught.value.device
    assert [] == list(Plane().blocks.malformed(caught.value))
    assert Plane().blocks.read(TOPIC, b"\xff") is None
    assert Plane().told(N="../x", msgtype=4) is None


@pytest.mark.parametrize("code", list(BlockRefusal))
def test_a_refusal_is_silence(code):
    assert [] == list(Plane().blocks.refusal(Plane().told(O=0, L=1024), code, 5))


@pytest.mark.parametrize("topic", [b"xi/ctrl/v1/svc", b"xi/ctrl/v1//svc", b"xi/ctrl/v1/\xff/svc", b"xi/ctrl/v1/d1/cln"])
def test_a_topic_that_names_no_device_is_malformed(topic):
    with pytest.raises(Malformed):
        Plane().told(topic, O=0, L=1024)


def test_topics():
    assert ("d1", "xi/ctrl/v1/d1/cln") == (named("xi/ctrl/v1/d1/svc"), down_topic(DeviceId("prod", "d1")))
    assert ("xi/ctrl/v1/+/svc",) == Plane().blocks.filters()
