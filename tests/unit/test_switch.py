import pytest
from toy_dialect import ToyDialect

from ota_bridge.core.errors import Malformed
from ota_bridge.core.messages import Rejected, Said
from ota_bridge.core.values import DeviceId
from ota_bridge.dialects.native import NativeDialect
from ota_bridge.switch import Switch
from ota_bridge.wire import MqttMessage, Subscription, matches

TOY = DeviceId("prod", "t1")


def switch():
    return Switch(NativeDialect("$ota"), [ToyDialect({}), ToyDialect({})])


def message(topic, payload=b"{}"):
    return MqttMessage(topic=topic, payload=payload)


def test_each_filter_is_subscribed_once():
    expected = [Subscription(topic_filter="$ota/report/+/+", qos=1), Subscription(topic_filter="toy/+/+/up", qos=1)]
    assert expected == switch().subscriptions()


def test_a_message_goes_to_the_dialect_whose_filter_takes_it():
    assert Said(device=TOY, dialect="toy", said={}, body={}) == switch().decode(message("toy/prod/t1/up"))
    found = switch().decode(message("$ota/report/prod/d1"))
    assert isinstance(found, Rejected)
    assert DeviceId("prod", "d1") == found.device


@pytest.mark.parametrize("topic", ["toy/prod/t1/down", "toy/prod", "", "toy/pr od/t1/up"])
def test_a_topic_of_nobody_is_malformed_and_names_no_device(topic):
    with pytest.raises(Malformed):
        switch().decode(message(topic))
    assert None is switch().device_of(topic)


def test_whose_topic_it_is_can_be_told_without_a_payload():
    assert TOY == switch().device_of("toy/prod/t1/up")
    assert DeviceId("prod", "d1") == switch().device_of("$ota/report/prod/d1")


def test_what_the_block_plane_answers_is_passed_over():
    assert switch().is_for_blocks(message("toy/prod/t1/up", b'{"get": 0}'))
    assert not switch().is_for_blocks(message("toy/prod/t1/up", b'{"runs": "1"}'))
    assert not switch().is_for_blocks(message("$ota/report/prod/d1", b'{"get": 0}'))


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("a/+/c", "a/b/c", True),
        ("a/+/c", "a/b/d", False),
        ("a/+", "a/b/c", False),
        ("a/+", "a", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("#", "a/b", True),
        ("#", "$ota/b", False),
        ("+/b", "$ota/b", False),
        ("$ota/+", "$ota/b", True),
        ("/a", "/a", True),
        ("/a", "a", False),
        ("+/a", "/a", True),
    ],
)
def test_filters_match_as_the_standard_says(topic_filter, topic, expected):
    assert expected is matches(topic_filter, topic)
