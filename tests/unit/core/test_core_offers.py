"""When notices go out, when things stall or time out, and what a set clock does: native-protocol §3 and the pacing."""

import pytest
from core_lives import bring, canceling, downloaded, downloading, installing, offered, on_trial
from core_world import FACTORY, START_S, World

from ota_bridge.core.deployment import State
from ota_bridge.core.messages import CancelUpdate, GrantsChanged, Offer
from ota_bridge.core.rollout.policy import Retries


@pytest.fixture
def world():
    return World()


def offers(world, outputs=None):
    return world.sent(Offer, outputs)


def test_an_offer_quotes_boot_and_nonce_of_the_last_check_in(world):
    device = offered(world)
    world.jump(31)
    device.check_in()
    offer = offers(world)[-1]
    assert (device.boot, device.last.nonce, device.open.id) == (offer.boot, offer.nonce, offer.deployment)


def test_an_offer_carries_the_devices_limits_where_they_are_lower(world):
    device = world.device(check_in=False)
    device.check_in(max_block=512, max_window=2)
    world.release()
    world.rollout()
    offer = offers(world)[-1]
    assert (512, 2) == (offer.block_max, offer.window_max)


def test_an_offer_carries_the_bridges_limits_where_they_are_lower(world):
    device = world.device(check_in=False)
    device.check_in(max_block=1 << 20, max_window=1000)
    world.release()
    world.rollout()
    offer = offers(world)[-1]
    assert (16_384, 16) == (offer.block_max, offer.window_max)


def test_an_offer_carries_the_ticket_for_its_nonce(world):
    device = offered(world)
    assert device.last.nonce.hex().encode() in offers(world)[-1].ticket


def named(change):
    """What a device may fetch by its digest alone."""
    return {digest for grant in change.grants for digest, _ in grant.inline}


def test_a_ticket_that_may_have_to_be_fetched_is_in_the_table_before_the_notice(world):
    world.device(max_packet=256)
    world.release()
    outputs = world.do("rollout.start", release="1.1.0") and world.last
    (at,) = (index for index, output in enumerate(outputs) if isinstance(output, Offer))
    before = [output for output in outputs[:at] if isinstance(output, GrantsChanged)]
    assert outputs[at].ticket_digest in named(before[-1])


def test_the_same_offer_has_the_same_ticket_after_a_restart(world):
    world.device(max_packet=256)
    world.release()
    world.rollout()
    world.jump(10)
    (change,), _ = world.read(lambda unit: world.bridge.grants_page(unit, world.now, None))
    assert offers(world)[-1].ticket_digest in named(change)


def test_without_a_block_request_the_notice_goes_out_once_more_and_never_a_third_time(world):
    offered(world)
    assert 1 == len(offers(world))
    assert 0 == len(offers(world, world.passes(59)))
    assert 1 == len(offers(world, world.passes(1)))
    assert 0 == len(offers(world, world.passes(86_400)))


def test_a_block_request_makes_the_second_notice_needless(world):
    device = offered(world)
    world.jump(59)
    device.asks()
    assert [] == offers(world, world.passes(3600))


def test_a_check_in_starts_a_new_pair_of_notices(world):
    device = offered(world)
    world.passes(3600)
    assert 1 == len(offers(world, device.check_in()))
    assert 1 == len(offers(world, world.passes(3600)))


def test_notices_are_never_closer_than_thirty_seconds_and_what_is_held_back_comes_later(world):
    device = offered(world)
    world.jump(3)
    assert [] == offers(world, device.restarts())
    assert [] == offers(world, world.passes(26))
    held = offers(world, world.passes(1))
    assert [(device.boot, device.last.nonce)] == [(offer.boot, offer.nonce) for offer in held]


def test_a_boot_loop_gets_one_notice_in_thirty_seconds(world):
    device = offered(world)
    before = len(offers(world))
    for _ in range(300):
        world.passes(1)
        device.restarts()
    assert 10 == len(offers(world)) - before


def test_a_held_back_notice_that_answered_a_check_in_is_followed_by_a_second(world):
    device = offered(world)
    world.jump(3)
    device.check_in()
    assert 2 == len(offers(world, world.passes(3600)))


def test_a_second_notice_that_had_to_wait_is_still_the_second(world):
    """Another component's offer holds the second notice of the first back; it must not count as a first again."""
    device = world.device(check_in=False)
    device.runs("1.0.0", seq=1, component="config")
    device.check_in()
    world.release(component="firmware")
    world.rollout()
    world.passes(50)
    world.release("2.0.0", component="config")
    world.rollout("2.0.0")
    world.passes(86_400)
    assert [2, 2] == sorted(one.offers for one in device.all)


@pytest.mark.parametrize("state", [State.DOWNLOADING])
def test_a_lost_offer_to_a_device_that_restarted_while_downloading_is_sent_once_more(world, state):
    device = bring(world, state)
    world.jump(31)
    assert 1 == len(offers(world, device.restarts()))
    assert 1 == len(offers(world, world.passes(60)))
    assert [] == offers(world, world.passes(3600))


def test_counts_from_before_a_restart_do_not_take_its_held_back_offer_away(world):
    device = downloading(world)
    world.jump(1)
    asked = world.wall
    world.jump(1)
    device.restarts()
    device.asks(wall=asked)
    assert 1 == len(offers(world, world.passes(30)))


def test_blocks_after_a_restart_make_its_held_back_offer_needless(world):
    device = downloading(world)
    world.jump(1)
    device.restarts()
    world.jump(1)
    device.asks()
    assert [] == offers(world, world.passes(30))


# --- deferral ----------------------------------------------------------------------------------------------------


def test_a_deferral_is_kept_and_then_offered_again(world):
    device = offered(world)
    world.jump(1)
    device.says("defer", retry_after_s=600)
    assert State.DEFERRED is device.state
    world.jump(300)
    assert [] == offers(world, device.check_in())
    assert [] == offers(world, world.passes(299))
    assert 1 == len(offers(world, world.passes(1)))
    assert State.OFFERED is device.state


def test_a_deferral_without_a_time_is_offered_again_after_the_usual_one(world):
    device = offered(world)
    device.says("defer")
    assert 1 == len(offers(world, world.passes(60)))


def test_counts_from_before_a_deferral_do_not_undo_it(world):
    """What was served is told in batches: the manifest that the device pulled before it said "defer" comes after it."""
    device = offered(world, max_packet=256)
    asked = world.wall
    world.jump(0.5)
    device.says("defer", retry_after_s=600)
    world.jump(0.5)
    device.asks(wall=asked, high_water=0)
    assert State.DEFERRED is device.state
    assert 1 == len(offers(world, world.passes(600)))


def test_blocks_after_a_deferral_end_it(world):
    device = offered(world)
    device.says("defer", retry_after_s=600)
    world.jump(1)
    device.asks()
    assert State.DOWNLOADING is device.state


# --- stall and time-outs -----------------------------------------------------------------------------------------


def test_a_download_without_a_block_stalls_and_goes_on_when_one_is_asked_for(world):
    device = downloading(world)
    world.passes(61)
    assert device.open.stalled
    assert [4096] == [data["position_bytes"] for data in world.events("stalled")]
    world.passes(100)
    assert 1 == len(world.events("stalled"))
    device.asks(high_water=8192)
    assert (False, "asks for blocks") == (device.open.stalled, device.open.cause)


@pytest.mark.parametrize(
    ("state", "after_s"),
    [
        ("OFFERED", 604_800),
        ("DOWNLOADING", 86_400),
        ("DOWNLOADED", 86_400),
        ("INSTALLING", 3_600),
        ("TRIAL", 3_600),
        ("CANCELING", 86_400),
    ],
)
def test_each_state_ends_by_itself_after_its_time(world, state, after_s):
    device = bring(world, State(state))
    world.passes(after_s - 1)
    assert State(state) is device.state
    world.passes(1)
    assert State.TIMED_OUT is device.state
    assert f"{state} for too long" == device.latest.cause


@pytest.mark.parametrize("state", ["OFFERED", "DOWNLOADING", "DOWNLOADED", "INSTALLING", "TRIAL", "CANCELING"])
def test_a_device_whose_time_ran_out_is_planned_again_only_when_it_checks_in(world, state):
    device = bring(world, State(state))
    if state == "CANCELING":
        world.rollout()
    world.passes(700_000)
    assert State.TIMED_OUT is device.all[0].state
    attempts = len(device.all)
    device.runs(FACTORY, seq=1).restarts()
    assert attempts + 1 == len(device.all)


def test_done_does_not_start_the_time_again(world):
    device = installing(world)
    world.passes(3_000)
    device.says("done")
    world.passes(601)
    assert State.TIMED_OUT is device.state


def test_a_pause_stops_the_time_of_a_download_and_a_resume_starts_it_again(world):
    device = downloaded(world)
    rollout = device.open.rollout
    world.do("rollout.pause", rollout=rollout)
    world.passes(10 * 86_400)
    assert State.DOWNLOADED is device.state
    world.do("rollout.resume", rollout=rollout)
    world.passes(86_399)
    assert State.DOWNLOADED is device.state
    world.passes(2)
    assert State.TIMED_OUT is device.state


def test_a_pause_does_not_stop_the_time_of_an_install(world):
    device = installing(world)
    world.do("rollout.pause", rollout=device.open.rollout)
    world.passes(3_601)
    assert State.TIMED_OUT is device.state


def test_no_notice_goes_out_while_paused_and_one_does_after_resume(world):
    device = offered(world)
    rollout = device.open.rollout
    world.do("rollout.pause", rollout=rollout)
    world.passes(3600)
    device.check_in()
    assert 1 == len(offers(world))
    world.do("rollout.resume", rollout=rollout)
    assert 1 == len(offers(world, world.passes(1)))


def test_a_deployment_held_back_for_another_reason_still_times_out(world):
    device = offered(world)
    device.hw = "r2"
    world.jump(31)
    device.check_in()
    world.passes(604_800)
    assert State.TIMED_OUT is device.all[0].state


# --- attempts ----------------------------------------------------------------------------------------------------


def test_attempts_are_bounded_and_wait_longer_each_time(world):
    device = offered(world)
    waits = []
    for _ in range(2):
        failed = world.wall
        device.says("fail", result_code="-1")
        world.passes(86_400)
        waits.append(device.open.offered_wall - 60 - failed)
    device.says("fail", result_code="-1")
    world.passes(86_400)
    device.check_in()
    assert [60.0, 240.0] == waits
    assert 3 == len(device.all)
    assert "attempts_used" == device.why()[0]


def test_each_attempt_says_how_the_one_right_before_it_ended_and_only_the_last_counts(world):
    device = offered(world)
    device.says("fail", result_code="-1")
    world.passes(86_400)
    assert (2, State.FAILED) == (device.open.attempt, device.open.earlier_end)
    world.passes(700_000)
    assert State.TIMED_OUT is device.all[0].state
    device.check_in()
    assert (3, State.TIMED_OUT) == (device.open.attempt, device.open.earlier_end)
    assert [True, False, False] == [one.latest for one in device.all]


@pytest.mark.parametrize("code", ["REFUSED_SIG", "REFUSED_CLASS", "REFUSED_ROLLBACK", "REFUSED_SIZE", "REFUSED_DEP"])
def test_a_final_refusal_is_not_tried_again(world, code):
    device = offered(world)
    device.says("fail", result_code=code)
    world.passes(86_400)
    device.check_in()
    assert 1 == len(device.all)
    assert "final_refusal" == device.why()[0]


@pytest.mark.parametrize("code", ["REFUSED_STALE", "REFUSED_DIGEST", "-3"])
def test_a_passing_trouble_is_tried_again(world, code):
    device = offered(world)
    device.says("fail", result_code=code)
    world.passes(86_400)
    assert 2 == device.open.attempt


def test_a_rejection_by_the_device_is_final(world):
    device = offered(world)
    device.says("reject", reason="not now, not ever")
    world.passes(86_400)
    device.check_in()
    assert [State.REJECTED] == [one.state for one in device.all]


def test_another_rollout_of_the_release_starts_its_attempts_afresh(world):
    device = offered(world)
    device.says("fail", result_code="REFUSED_SIZE")
    world.jump(60)
    world.rollout()
    assert (1, State.OFFERED) == (device.open.attempt, device.open.state)


def test_attempts_that_never_began_are_not_used_up():
    world = World(retries=Retries(max_attempts=1))
    device = offered(world)
    for _ in range(3):
        world.passes(700_000)
        device.check_in()
    assert (4, State.OFFERED) == (device.latest.attempt, device.state)


# --- superseding -------------------------------------------------------------------------------------------------


def test_a_newer_rollout_supersedes_what_was_offered_once_the_device_has_let_go(world):
    device = downloading(world)
    first = device.open
    world.release("1.2.0", seq=3)
    world.jump(60)
    world.rollout("1.2.0")
    assert State.CANCELING is device.state
    assert [first.id] == [notice.deployment for notice in world.sent(CancelUpdate)]
    device.says("canceled")
    assert ("prod/1.2.0", State.OFFERED) == (device.open.release, device.open.state)


def test_a_newer_rollout_supersedes_at_once_what_was_never_offered(world):
    device = world.device()
    world.release()
    world.release("1.2.0", seq=3)
    world.refused[next(iter(world.facts))] = "REFUSED_SIG"
    world.rollout()
    world.jump(60)
    world.rollout("1.2.0")
    assert [State.CANCELED, State.OFFERED] == sorted(one.state for one in device.all)
    assert "prod/1.2.0" == device.open.release


def test_what_is_being_canceled_is_superseded_once_and_told_once_for_each_check_in(world):
    device = downloading(world)
    world.release("1.2.0", seq=3)
    world.rollout("1.2.0")
    outputs = device.check_in()
    assert 1 == len(world.sent(CancelUpdate, outputs))
    history = world.read(lambda unit: unit.deployments.history(device.open.id))
    assert 1 == sum(step.event == "cancel" for step in history)


def test_a_trial_is_left_to_end_before_it_is_superseded(world):
    device = on_trial(world)
    world.release("1.2.0", seq=3)
    world.rollout("1.2.0")
    assert State.TRIAL is device.state
    world.jump(60)
    device.runs("1.1.0").check_in()
    assert ["prod/1.2.0", "prod/1.1.0"] == [one.release for one in device.all]


def test_the_older_rollout_takes_over_again_when_the_newer_is_canceled(world):
    device = world.device()
    world.release()
    world.release("1.2.0", seq=3)
    world.rollout()
    world.jump(60)
    newer = world.rollout("1.2.0")
    device.says("canceled")
    world.jump(60)
    world.do("rollout.cancel", rollout=newer)
    device.says("canceled")
    assert "prod/1.1.0" == device.open.release


# --- a set clock -------------------------------------------------------------------------------------------------


def step(world, by_s):
    """The wall clock is set; the gateway notices and tells the core."""
    world.wall += by_s
    world.commit(lambda unit: world.bridge.clock_stepped(unit, by_s) or [])


@pytest.mark.parametrize("by_s", [10 * 86_400, -10 * 86_400])
@pytest.mark.parametrize(
    ("state", "left_s"), [("INSTALLING", 3_600), ("TRIAL", 3_600), ("CANCELING", 86_400), ("DOWNLOADED", 86_400)]
)
def test_a_set_clock_leaves_each_state_the_time_it_had_left(world, by_s, state, left_s):
    device = bring(world, State(state))
    world.passes(1000)
    step(world, by_s)
    world.passes(left_s - 1001)
    assert State(state) is device.state
    world.passes(2)
    assert State.TIMED_OUT is device.state


@pytest.mark.parametrize("by_s", [10 * 86_400, -10 * 86_400])
def test_a_claim_after_the_clock_was_set_does_not_end_the_install(world, by_s):
    device = installing(world)
    step(world, by_s)
    device.says("done")
    world.passes(10)
    assert State.INSTALLING is device.state


@pytest.mark.parametrize("by_s", [10 * 86_400, -10 * 86_400])
def test_a_held_back_offer_follows_the_clock(world, by_s):
    device = offered(world)
    world.jump(10)
    device.check_in()
    step(world, by_s)
    assert [] == offers(world, world.passes(19))
    assert 1 == len(offers(world, world.passes(1)))


def test_a_clock_that_was_set_back_does_not_keep_a_device_from_its_offers(world):
    device = offered(world)
    world.wall -= 86_400
    assert 1 == len(offers(world, device.check_in()))


def test_a_deadline_of_nothing_is_none(world):
    assert world.read(world.bridge.next_deadline) is None
    offered(world)
    assert START_S + 60 == world.read(world.bridge.next_deadline)


def test_canceling_is_told_again_at_each_check_in_until_it_is_answered(world):
    device = canceling(world)
    for _ in range(3):
        assert 1 == len(world.sent(CancelUpdate, device.check_in()))
    device.says("canceled")
    assert [] == world.sent(CancelUpdate, device.check_in())


def test_the_wait_for_another_attempt_is_bounded_though_the_last_ended_before_the_clock_was_set_back(world):
    device = offered(world)
    world.jump(10 * 86_400)
    device.says("fail", result_code="-1")
    step(world, -10 * 86_400)
    device.says("fail", result_code="-1")
    assert device.open.retry_wall <= world.wall + 240


def test_attempts_stay_bounded_though_the_clock_was_set_back_after_a_success(world):
    device = on_trial(world)
    device.runs("1.1.0").check_in()
    step(world, -10 * 86_400)
    device.runs(FACTORY, seq=1).restarts()
    for _ in range(5):
        world.passes(3600)
        device.check_in()
        if device.record.assigned and world.read(lambda unit: unit.deployments.open_of(device.id)):
            device.says("fail", result_code="-1")
    assert 4 == len(device.all)


def test_a_notice_by_the_clock_waits_for_a_check_in_that_is_just_coming_and_answers_that(world):
    device = offered(world)
    world.jump(20)
    device.check_in(next_s=11)  # too early for another notice: that is due by the clock at 30
    assert [] == offers(world, world.passes(10.5))
    world.jump(1)
    device.check_in(next_s=3600)
    assert device.last.nonce == offers(world)[-1].nonce
    assert 2 == len(offers(world))


def test_a_check_in_that_was_announced_and_does_not_come_holds_no_notice_up_for_long(world):
    device = offered(world)
    world.jump(20)
    device.check_in(next_s=11)
    assert [] == offers(world, world.passes(13.9))
    assert 1 == len(offers(world, world.passes(0.2)))
