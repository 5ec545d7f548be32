"""`why`: for each place where a device can be, one code and one sentence."""

import pytest
from core_lives import bring, confirmed, downloading, installing, offered, on_trial
from core_world import FACTORY, World, image_of

from ota_bridge.core.deployment import State
from ota_bridge.core.errors import BlockRefusal
from ota_bridge.core.fleet import Enrol
from ota_bridge.core.messages import BlockTrouble, Rejected
from ota_bridge.core.values import Share


@pytest.fixture
def world():
    return World()


def never_seen(world):
    world.do("device.add", device="prod/d1")
    return world.device(check_in=False)


def pending(_world):
    return World(enrol=Enrol.APPROVE).device()


def retired(world):
    device = world.device()
    world.do("device.retire", device="d1")
    return device


def other_board(world):
    device = world.device()
    device.hw = "r2"
    device.check_in()
    return device


def idle(world):
    return world.device()


def not_targeted(world):
    device = world.device()
    world.release()
    world.rollout(percent=0)
    return device


def wrong_hardware(world):
    device = world.device(hw="r9")
    world.release()
    world.rollout()
    return device


def no_component(world):
    device = world.device()
    world.release(component="config")
    world.rollout()
    return device


def unverified(world):
    device = world.device()
    world.release()
    world.refused[next(iter(world.facts))] = "REFUSED_SIG"
    world.rollout()
    return device


def waiting_to_retry(world):
    device = offered(world)
    device.says("fail", result_code="-1")
    return device


def deferred(world):
    device = offered(world)
    device.says("defer", retry_after_s=600)
    return device


def stalled(world):
    device = downloading(world)
    world.passes(120)
    return device


def told_to_wait(world, device, share, **limits):
    """A cap is in force, and the device was refused for it four seconds ago."""
    world.do("limits.set", **limits)
    world.jump(1)
    world.receive(
        BlockTrouble(
            device=device.id, wall=world.wall, refusal=BlockRefusal.BUSY, count=1, waits_for=share, retry_after_s=12
        )
    )
    world.jump(4)
    return device


def waits_for_a_slot(world):
    return told_to_wait(world, offered(world), Share.SLOT, downloads=50)


def waits_for_a_slot_again(world):
    return told_to_wait(world, stalled(world), Share.SLOT, downloads=50)


def waits_for_blocks(world):
    return told_to_wait(world, downloading(world), Share.BLOCKS, blocks_per_s=500)


def waits_for_bytes(world):
    return told_to_wait(world, downloading(world), Share.BYTES, bytes_per_s=100_000)


def waited_long_ago(world):
    device = waits_for_a_slot(world)
    world.jump(2 * 12 + 60)
    return device


def waited_and_was_served(world):
    device = waits_for_a_slot(world)
    device.asks()
    return device


def waited_for_what_is_no_longer_capped(world):
    device = waits_for_a_slot(world)
    world.do("limits.set", downloads=0)
    return device


def waited_and_has_it_all(world):
    device = waits_for_a_slot(world)
    device.says("downloaded")
    return device


def paused(world):
    device = downloading(world)
    world.do("rollout.pause", rollout=device.open.rollout)
    return device


def attempts_used(world):
    device = offered(world)
    for _ in range(3):
        device.says("fail", result_code="-1")
        world.passes(86_400)
    device.check_in()
    return device


def refused(world):
    device = offered(world)
    device.says("fail", result_code="REFUSED_CLASS", result_msg="not mine")
    return device


def anti_rollback(world):
    device = world.device()
    device.runs("9.9.9", seq=9).check_in()
    world.release("9.9.9", seq=9)
    world.release()
    world.rollout()
    return device


def ahead_of_the_catalog(world):
    device = world.device()
    device.runs("9.9.9", seq=9).check_in()
    world.release()
    world.rollout()
    return device


def timed_out(world):
    device = installing(world)
    world.passes(4000)
    return device


def canceled(world):
    device = downloading(world)
    world.do("rollout.cancel", rollout=device.open.rollout)
    device.says("canceled")
    return device


def withdrawn_after_success(world):
    device = confirmed(world)
    world.do("release.withdraw", release="1.1.0")
    device.runs(FACTORY, seq=1).restarts()
    return device


def runs_a_withdrawn_one(world):
    device = confirmed(world)
    world.do("release.withdraw", release="1.1.0")
    return device


def same_bytes(world):
    """A later release signs the image that the device runs, under another version."""
    device = confirmed(world)
    world.release("1.2.0", seq=3, image=image_of("1.1.0"))
    world.rollout("1.2.0")
    return device


def tried_again(world):
    device = offered(world)
    device.says("fail", result_code="REFUSED_DIGEST")
    world.passes(60)
    device.asks()
    return device


def claimed_by_a_canceled_rollout(world):
    """It ran the release already, so the rollout had nothing to do; then it was reset, after the rollout's end."""
    device = world.device()
    device.runs("1.1.0").check_in()
    world.release()
    rollout = world.rollout()
    world.do("rollout.cancel", rollout=rollout)
    device.runs(FACTORY, seq=1).restarts()
    return device


SITUATIONS = [
    (never_seen, "never_checked_in", "it has never checked in."),
    (pending, "pending", "it waits for approval: device approve."),
    (retired, "retired", "it is retired."),
    (other_board, "hw_conflict", "it reports hardware r2 but is registered as r1: device replace decides."),
    (idle, "idle", "no rollout concerns it."),
    (not_targeted, "not_targeted", "of prod/1.1.0 (0 %) does not include it."),
    (wrong_hardware, "wrong_hardware", "its hardware r9 is not among those the author signed for."),
    (no_component, "no_such_component", "the device reports only firmware."),
    (unverified, "queued", "the manifest no longer holds (REFUSED_SIG: no author of it is trusted)"),
    (lambda world: bring(world, State.OFFERED), "offered", "was offered once, the device has not asked for a block"),
    (
        waiting_to_retry,
        "waiting",
        "attempt 2 of firmware prod/1.1.0 waits 60 s more before it is offered (attempt 1 ended FAILED: said fail: -1).",
    ),
    (
        tried_again,
        "downloading",
        "it is downloading firmware prod/1.1.0: 40 %, for 0 s (attempt 1 ended FAILED: said fail: REFUSED_DIGEST).",
    ),
    (deferred, "deferred", "the device put firmware prod/1.1.0 off; it is offered again in 10 min."),
    (downloading, "downloading", "it is downloading firmware prod/1.1.0: 40 %, for 0 s."),
    (
        stalled,
        "stalled",
        "the download of firmware prod/1.1.0 has stalled at 40 %: the last block was asked for 2 min ago.",
    ),
    (
        waits_for_a_slot,
        "waits_for_slot",
        "firmware prod/1.1.0 waits for one of 50 download slots; it asked 4 s ago and was told to come back after 12 s.",
    ),
    (waits_for_a_slot_again, "waits_for_slot", "of which it has 40 %, waits for one of 50 download slots; it asked"),
    (waits_for_blocks, "waits_for_share", "of which it has 40 %, waits for its share of 500 blocks/s; it asked 4 s"),
    (waits_for_bytes, "waits_for_share", "of which it has 40 %, waits for its share of 100000 bytes/s; it asked 4 s"),
    (waited_long_ago, "offered", "the device has not asked for a block"),
    (waited_and_was_served, "downloading", "it is downloading firmware prod/1.1.0: 40 %"),
    (waited_for_what_is_no_longer_capped, "offered", "the device has not asked for a block"),
    (waited_and_has_it_all, "downloaded", "has not begun to install it"),
    (lambda world: bring(world, State.DOWNLOADED), "downloaded", "has not begun to install it for 0 s."),
    (installing, "installing", "it has been installing firmware prod/1.1.0 for 0 s; the next boot decides."),
    (on_trial, "trial", "it runs firmware prod/1.1.0 on trial for 0 s and has not confirmed it."),
    (lambda world: bring(world, State.CANCELING), "canceling", "was canceled (rollout canceled by ann)"),
    (paused, "paused", "of firmware prod/1.1.0 was paused by ann."),
    (confirmed, "confirmed", "it runs the assigned firmware prod/1.1.0."),
    (attempts_used, "attempts_used", "ended FAILED (said fail: -1) and all attempts are used; start a new rollout"),
    (refused, "final_refusal", "ended FAILED (said fail: REFUSED_CLASS not mine) and the device refused it for good"),
    (anti_rollback, "anti_rollback", "its manifest seq is not above what the device runs"),
    (
        ahead_of_the_catalog,
        "anti_rollback",
        "firmware prod/1.1.0 (seq 2) does not go there: the device runs 9.9.9 (seq 9), which is not in the catalog",
    ),
    (timed_out, "waiting", "firmware prod/1.1.0 is assigned and opens with the next check-in."),
    (
        canceled,
        "canceled",
        "ended CANCELED 0 s ago (rollout canceled by ann; said canceled); nothing else is assigned.",
    ),
    (withdrawn_after_success, "withdrawn", "the release is withdrawn."),
    (runs_a_withdrawn_one, "confirmed", "it runs the assigned firmware prod/1.1.0, which was withdrawn since."),
    (same_bytes, "confirmed", "it runs the bytes of the assigned firmware prod/1.2.0 already, as version 1.1.0."),
    (claimed_by_a_canceled_rollout, "rollout_canceled", "of firmware prod/1.1.0 was canceled before it had arrived"),
]


@pytest.mark.parametrize(("situation", "code", "sentence"), SITUATIONS)
def test_each_situation_has_its_code_and_its_sentence(world, situation, code, sentence):
    found = situation(world).why()
    assert code == found[0]
    assert found[1].startswith("prod/d1: ")
    assert sentence in found[1]


def test_a_device_that_did_not_come_when_it_said_is_called_silent(world):
    device = world.device(check_in=False)
    device.check_in(next_s=3600)
    world.jump(3600 + 600)
    assert "(silent: it announced a check-in 10 min ago and did not come)" in device.why()[1]


def test_a_device_that_sends_nonsense_is_told_of_for_an_hour(world):
    device = world.device()
    world.receive(Rejected(device=device.id, reason="hw is missing"))
    assert "(1 message rejected, the last: hw is missing)" in device.why()[1]
    world.jump(3601)
    assert "rejected" not in device.why()[1]


def test_a_device_that_is_told_busy_is_told_of_until_it_is_served(world):
    device = downloading(world)
    world.jump(10)
    world.receive(BlockTrouble(device=device.id, wall=world.wall, refusal=BlockRefusal.BUSY, count=3))
    world.jump(5)
    assert "(told busy 5 s ago: it asks too fast, or the daemon's log says what is wrong)" in device.why()[1]
    device.asks()
    assert "busy" not in device.why()[1]


def test_a_device_without_a_boot_counter_is_told_of(world):
    device = world.device()
    device.seq = 0
    device.check_in()
    assert "(1 report reused the key of another: is its boot counter kept?)" in device.why()[1]


def test_the_facts_behind_the_sentence_are_told_too(world):
    device = downloading(world)
    world.receive(BlockTrouble(device=device.id, wall=world.wall, refusal=BlockRefusal.BUSY, count=3))
    facts = world.do("why", device="d1")["facts"]
    assert (3, "busy", device.open.id) == (facts["refusals"], facts["last_refusal"], facts["deployment"]["id"])
    assert None not in (facts["last_report"], facts["last_offer"], facts["last_block"])
    assert [{"reason": "busy", "count": 3}] == world.events("blocks_refused")


def test_for_what_a_device_waits_is_a_fact_and_an_event(world):
    waits_for_a_slot(world)
    facts = world.do("why", device="d1")["facts"]
    assert ("slot", 12) == (facts["waits_for"], facts["retry_after_s"])
    expected = [{"reason": "busy", "count": 1, "waits_for": "slot", "retry_after_s": 12}]
    assert expected == world.events("blocks_refused")
