"""Devices that are behind get the next keyset with each check-in, and no offer until they have the newest."""

import hashlib

import pytest
from core_world import World

from ota_bridge.core.blocks import Refused, Served
from ota_bridge.core.deployment import State
from ota_bridge.core.errors import BlockRefusal, Conflict, RefusedReason
from ota_bridge.core.fleet import Enrol
from ota_bridge.core.messages import BlockRequest, GrantsChanged, KeysetNotice, Offer, ReportAck

TO_2, TO_3 = b"the signed step to keyset 2", b"the signed step to keyset 3"


@pytest.fixture
def world():
    made = World()
    made.steps = {2: TO_2, 3: TO_3}
    return made


def sent(world, outputs):
    return [(one.version, one.step) for one in world.sent(KeysetNotice, outputs)]


def test_a_device_goes_through_each_keyset_one_check_in_at_a_time(world):
    device = world.device(check_in=False)
    assert [(2, TO_2)] == sent(world, device.check_in(keyset=1))
    assert [(2, TO_2)] == sent(world, device.check_in(keyset=1))
    assert [(3, TO_3)] == sent(world, device.check_in(keyset=2))
    assert [] == sent(world, device.check_in(keyset=3))
    assert 3 == device.record.keyset


def test_a_device_that_reports_no_keyset_gets_none_and_waits_for_none(world):
    device = world.device(check_in=False)
    world.release()
    world.rollout()
    outputs = device.check_in()
    assert ([], 1) == (sent(world, outputs), len(world.sent(Offer, outputs)))


def test_the_acknowledgement_goes_before_the_keyset(world):
    outputs = world.device(check_in=False).check_in(keyset=1)
    kinds = [type(one) for one in outputs if isinstance(one, ReportAck | KeysetNotice)]
    assert [ReportAck, KeysetNotice] == kinds


def test_a_repeated_report_brings_no_second_keyset(world):
    device = world.device(check_in=False)
    device.check_in(keyset=1)
    assert [] == sent(world, device.repeats())


def test_offers_wait_until_the_device_has_the_newest_keyset(world):
    world.release()
    device = world.device(check_in=False)
    device.check_in(keyset=1)
    world.rollout()
    for keyset in (1, 2):
        outputs = device.check_in(keyset=keyset)
        assert [] == world.sent(Offer, outputs)
        assert State.QUEUED is device.state
        assert f"the device has keyset {keyset} of 3" in device.why()[1]
    assert 1 == len(world.sent(Offer, device.check_in(keyset=3)))
    assert State.OFFERED is device.state


def test_a_notice_that_is_due_waits_for_the_keyset_too(world):
    world.release()
    world.rollout()
    world.steps = {}
    device = world.device(check_in=False)
    assert 1 == len(world.sent(Offer, device.check_in(keyset=1)))
    world.steps = {2: TO_2}
    assert [] == world.sent(Offer, world.passes(100))
    assert "not offered: the device has keyset 1 of 2" == device.latest.cause


def test_a_device_ahead_of_the_bridge_is_offered_nothing(world):
    world.release()
    world.rollout()
    device = world.device(check_in=False)
    assert [] == world.sent(Offer, device.check_in(keyset=4))
    assert "has keyset 4 and the bridge only 3: publish the rotations" in device.why()[1]


def test_a_step_that_the_bridge_does_not_hold_is_said_so(world):
    del world.steps[2]
    world.release()
    world.rollout()
    device = world.device(check_in=False)
    outputs = device.check_in(keyset=1)
    assert ([], []) == (sent(world, outputs), world.sent(Offer, outputs))
    assert "does not hold the step to the next" in device.why()[1]


def test_why_and_views_show_what_the_device_refused(world):
    device = world.device(check_in=False)
    device.check_in(keyset=1, keyset_refused="REFUSED_KEYS_OLD")
    assert "it refused the step after keyset 1: REFUSED_KEYS_OLD" in device.why()[1]
    shown = world.do("device.show", device=str(device.id))
    assert (1, "REFUSED_KEYS_OLD") == (shown["keyset"], shown["keyset_refused"])
    device.check_in(keyset=2)
    assert "refused" not in device.why()[1]
    assert world.do("device.show", device=str(device.id))["keyset_refused"] is None


def test_keysets_are_told_as_they_are_sent_and_taken(world):
    device = world.device(check_in=False)
    first = device.check_in(keyset=1)
    assert [{"version": 2, "refused": None}] == world.events("keyset_sent", first)
    assert [] == world.events("keyset_changed", first)
    assert [{"before": 1, "after": 2}] == world.events("keyset_changed", device.check_in(keyset=2))


def test_who_does_not_take_part_gets_no_keyset():
    world = World(enrol=Enrol.APPROVE)
    world.steps = {2: TO_2}
    device = world.device(check_in=False)
    assert [] == sent(world, device.check_in(keyset=1))
    world.do("device.approve", device=str(device.id))
    assert [(2, TO_2)] == sent(world, device.check_in(keyset=1))
    world.do("device.retire", device=str(device.id))
    assert [] == sent(world, device.check_in(keyset=1))


# --- small devices -------------------------------------------------------------------------------------------------


def ask(world, device, size=64):
    request = BlockRequest(artifact=hashlib.sha256(TO_2).digest()[:8], offset=0, size=size, count=1)
    return world.server.answer(world.server.client(device.id), request, mono=world.mono)


def test_a_small_device_may_fetch_the_step_without_a_deployment(world):
    device = world.device(check_in=False, max_packet=256)
    outputs = device.check_in(keyset=1)
    kinds = [type(one) for one in outputs if isinstance(one, GrantsChanged | KeysetNotice)]
    assert kinds.index(GrantsChanged) < kinds.index(KeysetNotice)
    served = ask(world, device)
    assert isinstance(served, Served)
    assert [(0, TO_2)] == [(offset, bytes(data)) for offset, data in served.blocks]
    assert [] == world.server.drain(world.wall, world.mono)
    assert (1, len(TO_2)) == (world.server.counters.requests, world.server.counters.bytes)


def test_the_step_is_not_served_to_others_nor_once_it_was_taken(world):
    device = world.device(check_in=False, max_packet=256)
    other = world.device("d2", check_in=False, max_packet=256)
    device.check_in(keyset=1)
    other.check_in(keyset=3)
    assert BlockRefusal.NOT_OPEN is ask(world, other).code
    device.check_in(keyset=3)
    assert BlockRefusal.NOT_OPEN is ask(world, device).code
    world.server.drain(world.wall, world.mono)
    world.server.drain(world.wall, world.mono)
    assert {} == world.server._clients


def test_what_waits_to_be_fetched_is_not_forgotten(world):
    device = world.device(check_in=False, max_packet=256)
    device.check_in(keyset=3)
    world.commit(lambda unit: [world.bridge.updates(unit, world.now).grants(device.id)])
    device.check_in(keyset=1)
    world.server.drain(world.wall, world.mono)
    assert isinstance(ask(world, device), Served)


def test_a_device_that_takes_large_packets_is_granted_nothing_for_it(world):
    device = world.device(check_in=False, max_packet=8192)
    assert [] == world.sent(GrantsChanged, device.check_in(keyset=1))
    assert isinstance(ask(world, device), Refused)


# --- revoked keys -----------------------------------------------------------------------------------------------------


def revoke(world, version="1.1.0"):
    for envelope, facts in world.facts.items():
        if facts.version == version:
            world.refused[envelope] = RefusedReason.SIG


def test_a_release_of_a_revoked_key_is_offered_no_more_and_why_says_so(world):
    world.steps = {}
    world.release()
    device = world.device(check_in=False)
    device.check_in(keyset=1)
    revoke(world)
    world.rollout()
    assert [] == world.sent(Offer, device.check_in(keyset=1))
    assert "the manifest no longer holds (REFUSED_SIG: no author of it is trusted)" in device.why()[1]


def test_an_image_of_a_revoked_key_is_not_let_go(world):
    world.steps = {}
    world.release()
    device = world.device(check_in=False)
    device.check_in(keyset=1)
    world.rollout()
    device.check_in(keyset=1)
    device.asks()
    device.says("downloaded")
    revoke(world)
    [ack] = world.sent(ReportAck, device.says("burning"))
    assert ((), (device.open.id,)) == (ack.go, ack.stop)
    assert State.DOWNLOADED is device.state
    [told] = world.events("stopped", world.last)
    assert "the manifest no longer holds" in told["cause"]


# --- epochs -----------------------------------------------------------------------------------------------------------


def test_a_seq_is_taken_within_its_epoch_only(world):
    world.release("1.0.1", seq=2)
    world.release("1.0.2", seq=2, epoch=3)
    with pytest.raises(Conflict, match="seq 2 of prod firmware is taken by prod/1.0.2"):
        world.release("1.0.3", seq=2, epoch=3)
    assert [1, 3] == [one["parts"]["firmware"]["epoch"] for one in world.do("release.list")]


def test_an_offer_of_a_new_epoch_waits_for_the_keyset_and_is_not_hopeless(world):
    world.steps = {}
    device = world.device(check_in=False).runs("1.0.0", seq=2**32 - 1)
    device.check_in(keyset=1)
    world.steps = {2: TO_2}
    world.release("1.0.1", seq=1, epoch=2)
    world.rollout("1.0.1")
    device.check_in(keyset=1)
    assert 1 == len(world.sent(Offer, device.runs("1.0.0", seq=0).check_in(keyset=2)))


def test_a_seq_of_the_epoch_before_keeps_no_release_of_the_next_away(world):
    world.steps = {}
    device = world.device(check_in=False).runs("1.0.0", seq=9)
    device.check_in(keyset=1)
    world.steps = {2: TO_2}
    release = world.release("1.0.1", seq=1, epoch=2)
    assert {"release": release, "devices": 0, "seq": None} == world.do("release.ahead", release=release)
    world.rollout("1.0.1")
    code, sentence = device.why()
    assert "queued" == code
    assert "not offered: the device has keyset 1 of 2" in sentence


def test_a_device_that_goes_on_in_the_epoch_before_has_not_gone_past_the_next(world):
    world.steps = {}
    device = world.device(check_in=False).runs("1.0.0", seq=3)
    device.check_in(keyset=1)
    world.steps = {2: TO_2}
    world.release("1.0.1", seq=5, epoch=2)
    world.rollout("1.0.1")
    device.runs("6.6.6", seq=9).restarts()
    device.check_in(keyset=1)
    assert State.QUEUED is device.open.state
    world.passes(60)
    assert 1 == len(world.sent(Offer, device.runs("6.6.6", seq=0).check_in(keyset=2)))


@pytest.mark.parametrize(("keyset", "code"), [(2, "anti_rollback"), (None, "anti_rollback")])
def test_a_seq_of_the_same_epoch_and_that_of_a_device_without_keysets_count(world, keyset, code):
    world.steps = {2: TO_2}
    device = world.device(check_in=False).runs("1.0.0", seq=9)
    device.check_in(keyset=keyset)
    world.release("1.0.1", seq=9, epoch=2)
    world.rollout("1.0.1")
    assert code == device.why()[0]
