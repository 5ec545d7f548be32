"""What Tencent's devices say, against vectors, and the bytes of what is said to them."""

import dataclasses
import json
from pathlib import Path

import pytest

from ota_bridge.core.messages import Rejected
from ota_bridge.core.values import DeviceId
from ota_bridge.dialects import tencent_messages as messages
from ota_bridge.dialects.native import NativeDialect
from ota_bridge.dialects.tencent import TencentDialect
from ota_bridge.dialects.tencent_messages import DEVICES_MAX, RESOURCES_MAX
from ota_bridge.wire import MqttMessage

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/tencent/messages.json").read_text())
TOPICS = ("$ota/report/p/d", "$gateway/operation/p/d", "$thing/up/service/p/d")
DIALECT = TencentDialect({"resources": ["voice"]})
NATIVE = NativeDialect("$ota", DIALECT.report)


def read(kind, text):
    message = MqttMessage(topic=TOPICS[kind], payload=text.encode())
    return NATIVE.decode(message) if kind == 0 else DIALECT.read(message)


@pytest.mark.parametrize("vector", VECTORS["good"], ids=lambda vector: vector["text"][:60])
def test_a_message_means_what_its_vector_says(vector):
    found = read(vector["kind"], vector["text"])
    if vector["expect"] is None:
        assert found is None
        return
    name, fields = vector["expect"]
    assert (name, DeviceId("p", "d")) == (type(found.said).__name__, found.device)
    assert fields == {key: value for key, value in dataclasses.asdict(found.said).items() if key in fields}
    assert json.loads(vector["text"]) == found.body


@pytest.mark.parametrize("vector", VECTORS["bad"], ids=lambda vector: vector["text"][:60])
def test_what_is_none_is_rejected_with_its_reason(vector):
    found = read(vector["kind"], vector["text"])
    assert isinstance(found, Rejected), found
    assert vector["why"] in found.reason
    assert len(found.reason) < 300


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (1, {"type": "online", "payload": {"devices": [{"product_id": "p", "device_name": "d"}] * (DEVICES_MAX + 1)}}),
        (2, {"method": "report_version", "report": {"resource_list": [{}] * (RESOURCES_MAX + 1)}}),
        (1, {"type": "online", "x": "x" * 9000}),
    ],
)
def test_lists_and_messages_are_bounded(kind, text):
    assert isinstance(read(kind, json.dumps(text)), Rejected)


def test_answers_to_a_gateway_have_its_own_shape():
    text = messages.operation_answer("online", [DeviceId("E69UADXUYY", "light1")])
    assert (
        b'{"type":"online","payload":{"devices":[{"product_id":"E69UADXUYY","device_name":"light1","result":0}]}}'
        == text
    )


def test_answers_to_reports_have_code_0():
    assert {0} == {
        json.loads(text)["result_code"] for text in (messages.version_answer("1"), messages.resource_answer([]))
    }


def test_nothing_goes_out_at_qos_1_or_retained():
    message = messages.to("a/b", b"{}")
    assert (0, False) == (message.qos, message.retain)
