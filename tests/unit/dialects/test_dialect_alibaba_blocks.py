"""Block requests and the binary frame."""

import json
from random import Random

import pytest

from ota_bridge.core.errors import BlockRefusal, Malformed
from ota_bridge.core.values import DeviceId
from ota_bridge.dialect import Asked, MalformedFrom
from ota_bridge.dialects.alibaba_blocks import AlibabaBlocks, crc16, full_request, quick_request
from ota_bridge.dialects.alibaba_wire import Places

BLOCKS = AlibabaBlocks(Places(products={}))
TOPIC = b"/sys/pk/dn/thing/file/download"
SDK = (
    b'{"id":"1","version":"1.0","params":{"fileToken":"default","fileInfo":{"streamId":1397345,"fileId":1,},'
    b'"fileBlock":{"size":10240,"offset":20480}}}'
)
FIELD = (
    b'{ "id": "2331","version": "1.0","params": {"fileInfo":{"streamId":1397345,"fileId":1},'
    b'"fileBlock":{"size":256,"offset":512 }}}'
)


def read(payload=SDK):
    return BLOCKS.read(TOPIC, payload)


def joined(pieces):
    return [(topic, b"".join(bytes(part) for part in parts)) for topic, parts in pieces]


# --- requests ---


def test_the_sdks_request_is_read_although_it_is_no_json():
    assert (
        Asked(
            device=DeviceId("pk", "dn"),
            offset=20480,
            size=10240,
            artifact=bytes.fromhex("155261"),
            reply_to=(TOPIC + b"_reply", '"1"', '"default"'),
        )
        == read()
    )


def test_a_field_clients_request_has_no_token():
    asked = read(FIELD)
    assert (512, 256, (TOPIC + b"_reply", '"2331"', "")) == (asked.offset, asked.size, asked.reply_to)


def test_numbers_may_be_text_and_the_id_a_number():
    asked = read(SDK.replace(b"1397345", b'"1397345"').replace(b"10240", b'"10240"').replace(b'"id":"1"', b'"id":1'))
    assert (10240, '"1"') == (asked.size, asked.reply_to[1])


@pytest.mark.parametrize("payload", [SDK, FIELD, SDK.replace(b"default", b""), SDK.replace(b'"1.0"', b'"2"')])
def test_plain_requests_are_read_quickly_and_exactly_as_any(payload):
    quick = quick_request(DeviceId("pk", "dn"), TOPIC, payload)
    assert quick is not None
    assert quick == full_request(DeviceId("pk", "dn"), TOPIC, payload)


@pytest.mark.parametrize(
    "payload",
    [
        SDK.replace(b"1397345", b"16777216"), SDK.replace(b"20480", b"4294967296"), SDK.replace(b"10240", b"4294967296"),
        SDK.replace(b"10240", b"0"), SDK.replace(b'"fileId":1', b'"fileId":2'), SDK.replace(b"1397345", b"007"),
        SDK.replace(b"default", b"t" * 128), SDK.replace(b"default", b'a\\"b'), SDK + b" ",
    ],
)  # fmt: skip
def test_what_is_not_plain_is_left_to_the_reader_of_any(payload):
    assert quick_request(DeviceId("pk", "dn"), TOPIC, payload) is None


def test_a_request_that_is_looked_at_twice_is_read_once():
    assert BLOCKS.read(TOPIC, SDK) is BLOCKS.read(TOPIC, SDK)
    assert BLOCKS.read(TOPIC, FIELD) != BLOCKS.read(TOPIC, SDK)


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"{}", b"[]", SDK[:-3], SDK.replace(b"10240", b"0"), SDK.replace(b"10240", b"-1"),
        SDK.replace(b"10240", b"4294967296"), SDK.replace(b"20480", b"1.5"), SDK.replace(b"1397345", b"16777216"),
        SDK.replace(b'"fileId":1', b'"fileId":2'), SDK.replace(b"fileInfo", b"info"), SDK.replace(b"params", b"param"),
        SDK.replace(b"default", b'a\\"b'), SDK.replace(b"default", b"t" * 128), SDK.replace(b"default", b"\xc3\xa9"),
        SDK.replace(b"default", b"a\\\\"), SDK.replace(b'"default"', b"1"), SDK.replace(b'"id":"1"', b'"id":{}'),
    ],
)  # fmt: skip
def test_a_request_that_says_nothing_useful_is_of_its_device_and_gets_silence(payload):
    with pytest.raises(MalformedFrom) as found:
        read(payload)
    assert DeviceId("pk", "dn") == found.value.device
    assert () == BLOCKS.malformed(found.value)


@pytest.mark.parametrize("topic", [b"", b"\xff", b"/sys/pk/dn/thing/file", b"/sys/pk/a b/thing/file/download"])
def test_a_topic_of_nobody_is_malformed(topic):
    with pytest.raises(Malformed):
        BLOCKS.read(topic, SDK)


def test_another_topic_of_a_device_is_no_request():
    assert BLOCKS.read(b"/ota/device/inform/pk/dn", SDK) is None


@pytest.mark.parametrize("token", ["", "default", "t" * 127])
def test_a_frame_has_all_that_both_kinds_of_reader_look_for(token):
    payload = SDK.replace(b"default", token.encode()) if token else FIELD
    data = Random(1).randbytes(256)
    [(topic, frame)] = joined(BLOCKS.blocks_of(read(payload), [(512, memoryview(data))], 300_001))
    head_bytes = int.from_bytes(frame[:2], "big")
    head = frame[2 : 2 + head_bytes]
    assert TOPIC + b"_reply" == topic
    assert len(frame) == 2 + head_bytes + len(data) + 2
    named = {"fileToken": token} if token else {}
    assert {
        "code": 200,
        "data": {"bOffset": 512, "fileLength": 300_001, "bSize": 256} | named,
        "id": "1" if token else "2331",
        "message": "success",
    } == json.loads(head)
    assert head.startswith(b'{"code":200,"data":{"bOffset":512,"fileLength":300001,"bSize":256')
    assert data == frame.partition(b'success"}')[2][:256] == frame[-258:-2]
    assert crc16(data) == int.from_bytes(frame[-2:], "little")


def test_a_frame_of_a_small_block_fits_into_the_buffer_of_a_small_client():
    [(topic, frame)] = joined(BLOCKS.blocks_of(read(FIELD), [(299_776, memoryview(bytes(256)))], 300_001))
    assert 512 > 5 + len(topic) + len(frame) + 30  # names may be longer


def test_a_block_that_many_ask_for_has_the_same_crc_for_each():
    data = Random(2).randbytes(999)
    frames = [joined(BLOCKS.blocks_of(read(), [(0, memoryview(data))], 999)) for _ in range(2)]
    assert frames[0] == frames[1]
    assert slow_crc(data).to_bytes(2, "little") == frames[1][0][1][-2:]


# --- refusals ---


@pytest.mark.parametrize("code", [code for code in BlockRefusal if code.name not in {"BUSY", "PAUSED", "MALFORMED"}])
def test_not_any_more_is_an_error_to_the_sdk_and_silence_to_those_that_take_all_for_a_block(code):
    [(topic, frame)] = joined(BLOCKS.refusal(read(SDK), code, 0))
    assert 404 == json.loads(frame[2:-2])["code"]
    assert (TOPIC + b"_reply", len(frame) - 4) == (topic, int.from_bytes(frame[:2], "big"))
    assert () == BLOCKS.refusal(read(FIELD), code, 0)


@pytest.mark.parametrize("code", [BlockRefusal.BUSY, BlockRefusal.PAUSED])
@pytest.mark.parametrize("payload", [SDK, FIELD])
def test_not_now_is_silence(code, payload):
    assert () == BLOCKS.refusal(read(payload), code, 30)


# --- CRC ---


def slow_crc(data):
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
    return crc


@pytest.mark.parametrize("size", [0, 1, 2, 3, 255, 256, 1001])
def test_the_crc_is_that_of_its_definition(size):
    data = Random(size).randbytes(size)
    assert slow_crc(data) == crc16(data) == crc16(memoryview(data))


def test_the_crc_has_its_check_value():
    assert 0xBB3D == crc16(b"123456789")
