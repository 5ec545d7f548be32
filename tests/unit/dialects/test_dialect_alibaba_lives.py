"""Alibaba's clients and the bridge over whole lives, with neither a wire nor a clock."""

import hashlib
from random import Random

import pytest
from vendor_world import VendorWorld

from device_sim.clients.alibaba import alibaba_client
from device_sim.clients.model import ClientOptions
from ota_bridge.core.values import DeviceId
from ota_bridge.dialects.alibaba import AlibabaDialect

IMAGE = Random(3).randbytes(120_001)
KINDS = [("subscribed",), ("subscribed", "queries"), ("subscribed", "brisk"), ("field",), ("polls",)]


class Fleet(VendorWorld):
    def __init__(self, *kinds, options=None, prefix="", **rules):
        super().__init__(AlibabaDialect(options or {}), **rules)
        for number, variants in enumerate(kinds):
            self.joins(f"d{number}", *variants, prefix=prefix.format(device=f"d{number}"))

    def joins(self, name, *variants, prefix=""):
        block_bytes = 256 if {"field", "polls"} & set(variants) else 10240
        options = ClientOptions(
            product="prod", name=name, variants=frozenset(variants), block_bytes=block_bytes, prefix=prefix
        )
        self.add(name, alibaba_client(options))
        self.power_on(name)

    def outcomes(self):
        return [script.client.outcome for script in self.scripts.values()]

    def of(self, name="d0"):
        return self.states(DeviceId("prod", name))


def updated(fleet):
    whole = ("2.0.0", hashlib.sha256(IMAGE).hexdigest(), False)
    return [whole] * len(fleet.scripts) == [(one.version, one.sha256, one.is_busy) for one in fleet.outcomes()]


@pytest.mark.parametrize("prefix", ["", "ali/{device}", "ali/{device}/"])
def test_every_kind_of_client_is_updated_by_one_task_and_confirmed(prefix):
    fleet = Fleet(*KINDS, prefix=prefix, options={"prefix": "ali"} if prefix else {})
    fleet.rollout("2.0.0", IMAGE)
    fleet.passes(130)
    assert updated(fleet)
    assert [["CONFIRMED"]] * len(KINDS) == [fleet.of(name) for name in fleet.scripts]
    assert [(1, 0)] * len(KINDS) == [(s.client.tasks, s.client.tasks_while_busy) for s in fleet.scripts.values()]
    assert [] == fleet.rejected
    assert [] == fleet.world.events("dialect_failed")


def test_nothing_is_heard_by_an_sdk_that_nobody_subscribes_for_and_it_is_left_in_peace():
    fleet = Fleet(("sdk",))
    fleet.rollout("2.0.0", IMAGE)
    fleet.passes(3600)
    assert (["OFFERED"], 4) == (fleet.of(), len(fleet.told))


@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_block_costs_time_and_no_more(kind):
    fleet = Fleet(kind)
    lost = []

    def loses(_name, topic, payload):
        if topic.endswith("download_reply") and len(lost) < 1 and len(fleet.blocks) == 3:
            lost.append(payload)
            return True
        return False

    fleet.loses = loses
    fleet.rollout("2.0.0", IMAGE)
    fleet.passes(200)
    assert (1, True, ["CONFIRMED"]) == (len(lost), updated(fleet), fleet.of())


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_that_breaks_in_the_middle_costs_time_and_no_more(kind):
    fleet = Fleet(kind)
    script, broken = fleet.scripts["d0"], []

    def loses(_name, topic, _payload):
        if topic.endswith("download_reply") and len(fleet.blocks) == 10 and not broken:
            broken.append(topic)
            script.break_link()
        return bool(broken) and not script.is_up

    fleet.loses = loses
    fleet.rollout("2.0.0", IMAGE)
    while not broken:
        fleet.passes(1)
    script.connect()
    fleet.pump()
    fleet.passes(200)
    assert (True, ["CONFIRMED"]) == (updated(fleet), fleet.of())


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_restarts_in_the_middle_is_updated_all_the_same(kind):
    fleet = Fleet(kind)
    fleet.loses = lambda _name, topic, _payload: topic.endswith("download_reply") and len(fleet.blocks) >= 10
    fleet.rollout("2.0.0", IMAGE)
    fleet.passes(3)
    fleet.loses = lambda *_message: False
    fleet.power_on("d0")
    fleet.passes(200)
    assert (True, ["CONFIRMED"]) == (updated(fleet), fleet.of())


def test_a_checksum_that_never_matches_ends_in_failure_after_bounded_attempts_and_then_nothing_is_said():
    fleet = Fleet(("subscribed", "bad-flash"))
    fleet.rollout("2.0.0", IMAGE)
    fleet.passes(3600)
    attempts = fleet.world.bridge.rules.retries.max_attempts
    assert ["FAILED"] * attempts == fleet.of()
    assert ("-3",) * attempts == fleet.outcomes()[0].failures
    assert attempts == fleet.scripts["d0"].client.tasks
    told = len(fleet.told)
    fleet.power_on("d0")
    fleet.passes(100_000)
    assert told == len(fleet.told)
    assert "-3" in fleet.world.do("why", device="prod/d0")["sentence"]


@pytest.mark.parametrize("kind", [("subscribed", "reverts"), ("field", "reverts"), ("polls", "reverts")])
def test_an_image_that_does_not_come_up_is_tried_a_bounded_number_of_times(kind):
    fleet = Fleet(kind)
    fleet.rollout("2.0.0", IMAGE)
    fleet.passes(7200)
    installs = fleet.outcomes()[0].installs
    assert 2 <= installs <= fleet.world.bridge.rules.retries.max_attempts
    fleet.passes(100_000)
    assert installs == fleet.outcomes()[0].installs
    assert set(fleet.of()) <= {"FAILED", "ROLLED_BACK"}


def test_a_canceled_download_of_the_sdk_ends_at_once_and_of_others_at_the_next_task():
    fleet = Fleet(("subscribed",), ("field",))
    fleet.loses = lambda _name, topic, _payload: topic.endswith("file/download") and len(fleet.blocks) >= 20
    rollout = fleet.rollout("2.0.0", IMAGE)
    fleet.passes(2)
    fleet.loses = lambda *_message: False
    fleet.do("rollout.cancel", rollout=rollout)
    fleet.passes(15)
    assert [["CANCELED"]] * 2 == [fleet.of("d0"), fleet.of("d1")]
    assert ("-4",) == fleet.outcomes()[0].failures
    newer = Random(5).randbytes(100_000)
    fleet.rollout("3.0.0", newer, seq=3)
    fleet.passes(100)
    assert ["3.0.0", "3.0.0"] == [one.version for one in fleet.outcomes()]


def test_a_device_that_was_off_finds_its_task_when_it_informs():
    fleet = Fleet(("subscribed",))
    fleet.scripts["d0"].break_link()
    fleet.rollout("2.0.0", IMAGE)
    fleet.passes(7200)
    fleet.power_on("d0")
    fleet.passes(30)
    assert (True, ["CONFIRMED"]) == (updated(fleet), fleet.of())


def test_a_long_wait_for_a_free_slot_is_not_the_devices_failure():
    fleet = Fleet(("subscribed",), ("subscribed",))
    fleet.world.server.is_loaded = False  # it says "busy" to all
    fleet.rollout("2.0.0", IMAGE)
    fleet.passes(60)
    assert [["DEFERRED"]] * 2 == [fleet.of("d0"), fleet.of("d1")]
    fleet.world.server.is_loaded = True
    fleet.passes(400)
    assert (True, ["CONFIRMED"]) == (updated(fleet), fleet.of())
