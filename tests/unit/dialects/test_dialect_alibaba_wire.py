"""Topics, JSON as devices write it, and the texts that they can read."""

import json
import re

import pytest

from ota_bridge.core.conversation import Update
from ota_bridge.core.deployment import State
from ota_bridge.core.errors import Malformed
from ota_bridge.core.values import DeploymentId, DeviceId, Sha256
from ota_bridge.dialects.alibaba_wire import (
    PAYLOAD_MAX_BYTES,
    Address,
    Kind,
    Places,
    get_reply,
    push,
    read_body,
    read_id,
    stream_id,
    task_data,
)
from ota_bridge.wire import matches

BARE, BEHIND = Places(products={"a1Pk": "pump"}), Places(prefix="site/ali", products={})
TOPICS = {
    Kind.INFORM: "/ota/device/inform/a1Pk/dn",
    Kind.PROGRESS: "/ota/device/progress/a1Pk/dn",
    Kind.GET: "/sys/a1Pk/dn/thing/ota/firmware/get",
    Kind.DOWNLOAD: "/sys/a1Pk/dn/thing/file/download",
}


def update(**changes):
    plain = {
        "id": DeploymentId("0123456789ab"), "release": "pump/2.0.0", "component": "firmware", "version": "2.0.0",
        "attempt": 1, "state": State.OFFERED, "cause": "", "size_bytes": 300_001, "sha256": Sha256(b"\x15\x52\x61" * 11),
        "md5": "58860fbb20c24eb37947b4d588cc9229", "file_name": "", "metadata": {}, "url": "", "offers": 1,
        "created_wall": 0.0, "changed_wall": 0.0, "last_block_wall": None, "high_water_bytes": 0,
    }  # fmt: skip
    return Update(**(plain | changes))


# --- topics ---


@pytest.mark.parametrize("kind", list(Kind))
def test_a_device_is_who_its_topic_says_and_its_product_what_the_settings_say(kind):
    address = Address(root="/", product_key="a1Pk", name="dn")
    assert (DeviceId("pump", "dn"), address, kind) == BARE.read(TOPICS[kind])


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize(("joint", "root"), [("", "site/ali/dev1/"), ("/", "site/ali/dev1//")])
def test_behind_a_prefix_it_is_who_the_broker_says_with_or_without_a_slash_too_many(kind, joint, root):
    found = BEHIND.read(f"site/ali/dev1{joint}{TOPICS[kind]}")
    assert (DeviceId("a1Pk", "dev1"), Address(root=root, product_key="a1Pk", name="dn"), kind) == found


@pytest.mark.parametrize("places", [BARE, BEHIND])
def test_each_filter_takes_what_is_read(places):
    before = "site/ali/dev1" if places.prefix else ""
    for kind in Kind:
        topics = [before + TOPICS[kind]] + ([f"{before}/{TOPICS[kind]}"] if before else [])
        for topic in topics:
            assert [True] == [True for one in places.filters(kind) if matches(one, topic)]


def test_one_product_can_stand_for_all():
    assert DeviceId("pump", "dn") == Places(products={}, product="pump").read(TOPICS[Kind.INFORM])[0]


@pytest.mark.parametrize(
    "topic",
    [
        "", "/", "//", "/ota/device/inform/a1Pk", "/ota/device/inform/a1Pk/dn/x", "ota/device/inform/a1Pk/dn",
        "/ota/device/upgrade/a1Pk/dn", "/ota/device/inform//dn", "/ota/device/inform/a1Pk/", "/ota/device/inform/+/dn",
        "/sys/a1Pk/dn/thing/file/download_reply", "/sys/a1Pk/dn/thing/file", "/sys/a1Pk/d n/thing/file/download",
        "/ota/device/inform/a1Pk/../x", "/ota/device/inform/a1Pk/" + "n" * 65, "/ota/device/inform/a1Pk/d@n",
        "site/ali/dev1/ota/device/inform/a1Pk/dn",
    ],
)  # fmt: skip
def test_a_topic_that_names_nobody_is_malformed(topic):
    with pytest.raises(Malformed):
        BARE.read(topic)


@pytest.mark.parametrize(
    "topic",
    [TOPICS[Kind.INFORM], "site/ali", "site/ali/", "site/ali/dev1", "site/ali/dev1///ota/device/inform/a1Pk/dn",
     "site/other/dev1/ota/device/inform/a1Pk/dn", "site/ali//ota/device/inform/a1Pk/dn",
     "site/ali/de v/ota/device/inform/a1Pk/dn"],
)  # fmt: skip
def test_behind_a_prefix_nothing_else_is_read(topic):
    with pytest.raises(Malformed):
        BEHIND.read(topic)


# --- what devices write ---


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"a":{"b":1,}}', {"a": {"b": 1}}),
        (b'{"a":[1,2, ],\n}', {"a": [1, 2]}),
        (b'{"a":"x,}"}', {"a": "x,}"}),
        (b'{"a":"x\\",}"}', {"a": 'x",}'}),
        (b'{"a":1}\0\0', {"a": 1}),
        (b' {"a":1.5} \r\n', {"a": 1.5}),
    ],
)
def test_json_is_read_with_the_faults_that_devices_have(payload, expected):
    assert expected == read_body(payload)._items


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"1", b"{", b'{"a":1,,}', b'{"a"}', b"\xff", b'{"a":' * 9 + b"1" + b"}" * 9, b"{" * 2000,
     b" " * (PAYLOAD_MAX_BYTES + 1), b'{"a":1,"a":2}', b'{"a":' + b"9" * 400 + b"}", b'"' * 2000, b'{"a":NaN}'],
)  # fmt: skip
def test_what_is_no_message_is_malformed(payload):
    with pytest.raises(Malformed):
        read_body(payload)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [(b'{"id":7}', "7"), (b'{"id":"7"}', '"7"'), (b'{"id":"a-1.b:2_c"}', '"a-1.b:2_c"'), (b"{}", '"0"')],
)
def test_an_id_comes_back_as_it_was_written(payload, expected):
    assert expected == read_id(read_body(payload))


@pytest.mark.parametrize("value", [b'"a\\"b"', b'"a b"', b'"' + b"x" * 41 + b'"', b"-1", b"1.5", b"true", b"{}"])
def test_an_id_that_could_break_an_answer_is_malformed(value):
    with pytest.raises(Malformed):
        read_id(read_body(b'{"id":' + value + b"}"))


# --- what devices read ---


def test_a_task_is_to_the_letter_what_the_vendors_cloud_sends():
    data = task_data(update(), "")
    assert (
        b'{"code":"1000","data":{"size":300001,"streamId":1397345,"sign":"58860fbb20c24eb37947b4d588cc9229",'
        b'"dProtocol":"mqtt","version":"2.0.0","signMethod":"Md5","streamFileId":1,'
        b'"md5":"58860fbb20c24eb37947b4d588cc9229"},"id":1795323450848,"message":"success"}'
    ) == push(data, 1795323450.848)


def test_a_module_stands_right_behind_the_stream():
    data = task_data(update(component="mcu"), "McuModule")
    assert '"streamId":1397345,"module":"McuModule","sign":' in data


def test_an_answer_has_the_number_200_and_the_id_that_was_asked_with():
    assert b'{"code":200,"data":{},"id":"12","message":"success"}' == get_reply("{}", '"12"')
    assert 7 == json.loads(get_reply(task_data(update(), ""), "7"))["id"]


def test_nothing_in_a_text_has_white_space_or_an_escape():
    text = push(task_data(update(version="2.0.0-rc.1+b~2:x"), "m"), 1.5)
    assert not re.search(rb"[\s\\]", text)


def test_a_stream_id_fits_into_a_signed_number():
    assert (0, 2**24 - 1) == (stream_id(b"\0" * 32), stream_id(b"\xff" * 32))
