"""What is written into the audit log: bounded, printable, without secrets, and one behind the other."""

import json

import pytest
from core_world import World

from ota_bridge.core.audit import DETAIL_MAX_BYTES, audit, bounded, shown
from ota_bridge.core.chain import Head, verify
from ota_bridge.core.people import TokenId, token_text

TOKEN = token_text(TokenId("0123abcd"), bytes(32))


def test_the_bridge_writes_under_its_own_name():
    world = World()

    def work(unit):
        for number in (1, 2):
            audit(unit, world.now, "stage.opened", subject=f"rollout r-{number}", detail={"n": number})

    world.store.submit(work, lambda outcome: None)
    first, second = world.read(lambda unit: unit.audit.page())
    assert ("ota-bridge", "system", "stage.opened", "rollout r-1", "ok", '{"n":1}') == (
        *(first.actor, first.how, first.action, first.subject, first.result, first.detail),
    )
    assert Head.of(second) == verify([first, second]).head


def test_a_short_detail_is_kept_as_it_is_whatever_the_order_of_its_names():
    assert bounded({"b": 1, "a": [None, "é"]}) == bounded({"a": [None, "é"], "b": 1}) == '{"a":[null,"\\u00e9"],"b":1}'


def test_of_what_is_too_long_size_and_digest_are_kept_and_the_rest_as_it_is():
    rows = [{"device": f"prod/d{number}"} for number in range(1000)]
    found = json.loads(bounded({"args": {"rows": rows, "why": "moved"}}))
    assert "moved" == found["args"]["why"]
    assert len(json.dumps(rows, separators=(",", ":"))) == found["args"]["rows"]["bytes"]
    assert 64 == len(found["args"]["rows"]["sha256"])


def test_a_long_text_is_told_by_its_digest_and_a_list_of_some_devices_is_kept():
    names = [f"prod/d{number}" for number in range(100)]
    found = json.loads(bounded({"args": {"envelope": "g" * 300, "devices": names}}))["args"]
    assert (302, names) == (found["envelope"]["bytes"], found["devices"])


@pytest.mark.parametrize("detail", [{"a": "x" * 10**6}, {str(n): n for n in range(10_000)}, {"a": [["x"] * 9] * 999}])
def test_no_detail_is_longer_than_the_bound(detail):
    assert len(bounded(detail)) <= DETAIL_MAX_BYTES
    assert json.loads(bounded(detail))


def test_tokens_lose_their_secret_wherever_they_stand():
    assert '{"args":{"token":"ota_0123abcd_..."}}' == bounded({"args": {"token": TOKEN}})
    assert "token ota_0123abcd_..." == shown(f"token {TOKEN}")


@pytest.mark.parametrize("text", ["a\nb", "\ud800", "\x1b[31m", "x" * 1000])
def test_what_stands_in_a_field_is_short_and_can_be_printed_and_kept(text):
    assert shown(text).isprintable()
    assert len(shown(text)) <= 200
    shown(text).encode()
