"""A deployment's whole life over the memory store: native-protocol §2 to §4, row by row."""

import pytest
from core_lives import bring, canceling, confirmed, downloaded, downloading, installing, offered, on_trial
from core_world import FACTORY, START_S, World

from ota_bridge.core.deployment import State
from ota_bridge.core.fleet import Enrol
from ota_bridge.core.messages import (
    CancelUpdate,
    CheckInRequest,
    Event,
    GrantsChanged,
    GrantState,
    InstalledPart,
    Offer,
    ReportAck,
    RolloutChanged,
)


@pytest.fixture
def world():
    return World()


# --- the straight way ----------------------------------------------------------------------------------------


def test_the_whole_life_is_recorded_step_by_step(world):
    device = confirmed(world)
    history = world.read(lambda unit: unit.deployments.history(device.latest.id))
    expected = [
        ("opened", None, State.QUEUED),
        ("offer", State.QUEUED, State.OFFERED),
        ("blocks", State.OFFERED, State.DOWNLOADING),
        ("downloaded", State.DOWNLOADING, State.DOWNLOADED),
        ("go", State.DOWNLOADED, State.INSTALLING),
        ("runs_trial", State.INSTALLING, State.TRIAL),
        ("runs_confirmed", State.TRIAL, State.CONFIRMED),
    ]
    assert expected == [(step.event, step.before, step.after) for step in history]
    assert all(step.cause for step in history)


def test_every_change_of_state_is_one_event_line(world):
    confirmed(world)
    expected = ["QUEUED", "OFFERED", "DOWNLOADING", "DOWNLOADED", "INSTALLING", "TRIAL", "CONFIRMED"]
    assert expected == [data["after"] for data in world.events("state")]


def test_every_report_is_one_event_line(world):
    device = confirmed(world)
    assert device.boot == 8
    assert 5 == len(world.events("report"))


def test_every_change_asks_for_a_new_summary_of_its_rollout_once(world):
    device = downloading(world)
    world.jump(1)
    outputs = device.says("downloaded")
    assert 1 == len(world.sent(RolloutChanged, outputs))


def test_grants_come_before_the_offer_and_the_acknowledgement_before_both(world):
    world.release()
    world.rollout()
    device = world.device(check_in=False)
    kinds = [type(output) for output in device.check_in() if not isinstance(output, Event | RolloutChanged)]
    assert [ReportAck, GrantsChanged, Offer] == kinds


def test_the_image_is_granted_until_the_point_of_no_return(world):
    device = downloaded(world)
    world.jump(1)
    outputs = device.says("burning")
    assert [()] == [change.grants for change in world.sent(GrantsChanged, outputs)]


def test_the_block_plane_hears_which_image_a_device_has_all_of_and_which_it_fetches_again(world):
    device = downloading(world)
    said = [device.says("downloaded"), device.says("downloading")]
    changes = [world.sent(GrantsChanged, outputs) for outputs in said]
    assert [[True], [False]] == [[grant.is_whole for change in each for grant in change.grants] for each in changes]


def test_done_is_a_claim_that_moves_nothing_but_a_clock(world):
    device = installing(world)
    world.jump(1)
    device.says("done")
    assert State.INSTALLING is device.state
    assert world.wall == device.open.claimed_wall


def test_done_does_not_confirm_even_when_the_device_later_comes_back_old(world):
    device = installing(world)
    device.says("done")
    device.restarts()
    assert State.ROLLED_BACK is device.all[-1].state


def test_fail_names_its_code(world):
    device = downloading(world)
    deployment = device.open
    device.says("fail", result_code="REFUSED_SIG", result_msg="no")
    closed = device.all[-1]
    assert (deployment.id, State.FAILED, "REFUSED_SIG") == (closed.id, closed.state, closed.result_code)
    assert "said fail: REFUSED_SIG no" == closed.cause


def test_the_device_can_say_that_it_went_back(world):
    device = on_trial(world)
    device.says("rolled_back", reason="watchdog")
    assert (State.ROLLED_BACK, "said rolled_back: watchdog") == (device.all[-1].state, device.all[-1].cause)


# --- what a check-in means (§4) --------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [State.OFFERED, State.DOWNLOADING, State.DOWNLOADED, State.INSTALLING, State.TRIAL])
@pytest.mark.parametrize("new_boot", [False, True])
def test_the_offered_image_on_trial_means_trial(world, state, new_boot):
    device = bring(world, state)
    device.runs("1.1.0", seq=1, trial=True)
    device.restarts() if new_boot else device.check_in()
    assert State.TRIAL is device.state


@pytest.mark.parametrize("state", [*(s for s in State if s in {"OFFERED", "DOWNLOADING", "INSTALLING", "CANCELING"})])
@pytest.mark.parametrize("new_boot", [False, True])
def test_the_offered_image_not_on_trial_confirms_from_any_open_state(world, state, new_boot):
    device = bring(world, state)
    device.runs("1.1.0")
    device.restarts() if new_boot else device.check_in()
    assert State.CONFIRMED is device.state


@pytest.mark.parametrize("state", [State.OFFERED, State.DOWNLOADING, State.DOWNLOADED])
@pytest.mark.parametrize("new_boot", [False, True])
def test_the_old_image_before_the_install_is_offered_again(world, state, new_boot):
    device = bring(world, state)
    world.jump(31)
    outputs = device.restarts() if new_boot else device.check_in()
    offers = world.sent(Offer, outputs)
    assert [(device.open.id, device.boot)] == [(offer.deployment, offer.boot) for offer in offers]
    assert state is device.state


def test_the_old_image_while_installing_in_the_same_boot_means_nothing(world):
    device = installing(world)
    world.jump(31)
    outputs = device.check_in()
    assert State.INSTALLING is device.state
    assert [] == world.sent((Offer, CancelUpdate), outputs)


def test_the_old_image_while_installing_in_another_boot_means_rolled_back(world):
    device = installing(world)
    device.restarts()
    assert State.ROLLED_BACK is device.all[-1].state


@pytest.mark.parametrize("new_boot", [False, True])
def test_the_old_image_after_a_trial_means_rolled_back(world, new_boot):
    device = on_trial(world)
    device.runs(FACTORY, seq=1)
    device.restarts() if new_boot else device.check_in()
    assert State.ROLLED_BACK is device.all[-1].state


def test_the_old_image_while_canceling_in_the_same_boot_is_canceled_again(world):
    device = canceling(world)
    outputs = device.check_in()
    assert [device.open.id] == [notice.deployment for notice in world.sent(CancelUpdate, outputs)]
    assert State.CANCELING is device.state


def test_the_old_image_while_canceling_in_another_boot_is_canceled(world):
    device = canceling(world)
    device.restarts()
    assert State.CANCELED is device.state


def test_an_image_is_known_by_its_digest_before_its_version(world):
    device = offered(world)
    device.parts["firmware"] = InstalledPart(version="1.1.0", seq=1, digest8=b"another!")
    device.check_in()
    assert State.OFFERED is device.state


def test_an_image_without_a_digest_is_known_by_its_version(world):
    device = offered(world)
    device.parts["firmware"] = InstalledPart(version="1.1.0", seq=1)
    device.check_in()
    assert State.CONFIRMED is device.state


def test_a_watchdog_rollback_is_tried_once_more_and_then_no_longer(world):
    device = on_trial(world)
    device.runs(FACTORY, seq=1).restarts()
    assert [State.ROLLED_BACK] == [one.state for one in device.all[1:]]
    world.passes(3600)
    second = device.open
    assert (2, State.OFFERED) == (second.attempt, second.state)
    device.asks()
    device.says("downloaded")
    device.says("burning")
    device.restarts()
    assert [State.ROLLED_BACK, State.ROLLED_BACK] == [one.state for one in device.all]
    world.passes(86_400)
    device.restarts()
    assert "attempts_used" == device.why()[0]


# --- reports: keys, repeats, boots (§2) --------------------------------------------------------------------------


def acks(world, outputs):
    return [(ack.boot, ack.seqs) for ack in world.sent(ReportAck, outputs)]


@pytest.mark.parametrize("state", ["OFFERED", "DOWNLOADING", "DOWNLOADED", "INSTALLING", "TRIAL", "CANCELING"])
def test_a_repeated_check_in_is_acknowledged_again_and_changes_nothing(world, state):
    device = bring(world, State(state))
    world.jump(31)
    first = device.check_in()
    before = device.record, device.all
    world.jump(31)
    again = device.repeats()
    assert acks(world, first) == acks(world, again) == [(device.boot, (device.seq,))]
    assert before == (device.record, device.all)
    assert [] == world.sent((Offer, CancelUpdate, GrantsChanged, RolloutChanged), again)


@pytest.mark.parametrize("said", ["downloading", "downloaded", "fail", "defer", "reject", "done", "canceled"])
def test_a_repeated_progress_report_is_acknowledged_again_and_changes_nothing(world, said):
    device = downloading(world)
    world.jump(1)
    first = device.says(said)
    before = device.record, device.all
    world.jump(1)
    again = device.repeats()
    assert acks(world, first) == acks(world, again)
    assert before == (device.record, device.all)
    assert [] == world.sent((Offer, CancelUpdate, GrantsChanged, RolloutChanged), again)


def test_a_repeat_that_comes_after_the_next_step_does_not_take_it_back(world):
    device = downloading(world)
    device.says("downloaded")
    earlier = device.last
    device.says("burning")
    world.receive(earlier)
    assert State.INSTALLING is device.state


def test_repeated_burning_gets_the_same_go(world):
    device = downloaded(world)
    first = world.sent(ReportAck, device.says("burning"))
    again = world.sent(ReportAck, device.repeats())
    assert first == again
    assert (device.open.id,) == again[0].go


def test_repeated_burning_gets_the_same_stop(world):
    device = downloaded(world)
    world.do("rollout.pause", rollout=device.open.rollout)
    first = world.sent(ReportAck, device.says("burning"))
    world.do("rollout.resume", rollout=device.open.rollout)
    assert first == world.sent(ReportAck, device.repeats())
    assert (device.open.id,) == first[0].stop


def test_a_report_of_a_superseded_boot_is_acknowledged_and_moves_nothing(world):
    device = offered(world)
    old_boot = device.boot
    device.restarts()
    device.boot, device.seq = old_boot, 50
    before = device.open
    outputs = device.says("fail", before)
    assert [(old_boot, (51,))] == acks(world, outputs)
    assert before == device.open


def test_a_check_in_of_a_superseded_boot_does_not_bring_that_boot_back(world):
    device = offered(world)
    old_boot, new_boot = device.boot, device.boot + 1
    device.restarts()
    device.boot, device.seq = old_boot, 50
    outputs = device.check_in()
    assert [(old_boot, (51,))] == acks(world, outputs)
    assert new_boot == device.record.boot


def test_a_progress_report_of_a_new_boot_supersedes_the_old_one(world):
    device = downloading(world)
    deployment = device.open
    device.boot, device.seq = 8, 0
    device.says("downloading", deployment)
    assert 8 == device.record.boot


def test_the_same_key_with_other_content_is_counted_and_processed_if_it_is_a_check_in(world):
    device = world.device()
    world.release()
    device.seq = 0
    world.rollout()
    world.jump(31)
    outputs = device.check_in()
    assert 1 == device.record.trouble.clashes
    assert 1 == len(world.sent(Offer, outputs))
    assert 1 == len(world.events("clash", outputs))


def test_the_same_key_with_other_content_moves_nothing_if_it_is_progress(world):
    device = downloading(world)
    device.seq -= 1
    outputs = device.says("fail")
    assert State.DOWNLOADING is device.state
    assert 1 == device.record.trouble.clashes
    assert [(device.boot, (device.seq,))] == acks(world, outputs)


def test_a_device_whose_boot_counter_started_again_is_heard(world):
    """A factory reset clears the counter: its first boot is one that the bridge knows, its key is taken."""
    device = world.device(boot=1)
    for _ in range(3):
        device.restarts()
    world.release()
    world.rollout()
    world.jump(31)
    device.boot, device.seq = 1, 0
    outputs = device.check_in()
    assert 1 == device.record.boot
    assert [(1, device.record.nonce)] == [(offer.boot, offer.nonce) for offer in world.sent(Offer, outputs)]


def test_a_boot_that_was_superseded_by_mistake_is_live_again_when_it_checks_in_twice_in_a_row(world):
    """A report of an older boot that was never seen can come late; the living boot must not stay deaf for ever."""
    device = offered(world)
    device.boot = 9
    device.check_in()
    device.boot, device.seq = 8, 0
    device.check_in()
    assert 8 == device.record.boot
    device.boot, device.seq = 9, 10
    device.check_in()
    assert 8 == device.record.boot
    world.jump(31)
    outputs = device.check_in()
    assert 9 == device.record.boot
    assert 1 == len(world.sent(Offer, outputs))


def test_two_late_check_ins_out_of_order_do_not_bring_their_boot_back(world):
    device = offered(world)
    old_boot, new_boot = device.boot, device.boot + 1
    device.restarts()
    for seq in (51, 50):
        device.boot, device.seq = old_boot, seq
        device.check_in()
    assert new_boot == device.record.boot


def test_every_acknowledged_report_is_in_the_store(world):
    device = confirmed(world)
    for _, boot, seq in world.acked:
        assert world.read(lambda unit, b=boot, s=seq: unit.reports.seen(device.id, b, s)) is not None
    assert 5 == len(world.acked)


def test_a_report_without_a_key_is_not_acknowledged(world):
    device = world.device(proto=0)
    assert [] == world.sent(ReportAck)
    assert device.record.last_report_wall == START_S


def test_progress_that_names_a_foreign_deployment_is_recorded_and_moves_nothing(world):
    first, second = world.device("d1"), world.device("d2")
    world.release()
    world.rollout()
    deployment = first.open
    outputs = second.says("fail", deployment)
    assert [(second.boot, (second.seq,))] == acks(world, outputs)
    assert deployment == first.open
    assert State.OFFERED is second.state


def test_progress_that_names_an_unknown_deployment_is_recorded_and_moves_nothing(world):
    device = offered(world)
    before = device.open
    outputs = device.says("fail", "no-such-one")
    assert 1 == len(acks(world, outputs))
    assert before == device.open


def test_progress_that_names_a_closed_deployment_is_recorded_and_moves_nothing(world):
    device = confirmed(world)
    closed = device.latest
    outputs = device.says("fail", closed)
    assert 1 == len(acks(world, outputs))
    assert closed == device.latest


def test_progress_that_names_another_component_moves_nothing(world):
    device = offered(world)
    before = device.open
    device.says("fail", component="config")
    assert before == device.open


@pytest.mark.parametrize("named", ["foreign", "closed"])
def test_burning_of_anything_but_the_open_deployment_is_stopped(world, named):
    device = confirmed(world)
    name = device.latest.id if named == "closed" else "no-such-one"
    ack = world.sent(ReportAck, device.says("burning", name))[0]
    assert ((), (name,)) == (ack.go, ack.stop)


def test_progress_that_makes_no_sense_is_told_and_moves_nothing(world):
    device = offered(world)
    device.says("rolled_back")
    assert State.OFFERED is device.state
    assert [(device.open.id, "rolled_back")] == [(data["id"], data["said"]) for data in world.events("ignored")]


def test_progress_of_an_unknown_device_is_not_acknowledged_but_asks_for_a_check_in(world):
    device = world.device(check_in=False)
    outputs = device.says("downloading", "x")
    assert [] == world.sent(ReportAck, outputs)
    assert [device.id] == [request.device for request in world.sent(CheckInRequest, outputs)]


# --- burning: go and stop ------------------------------------------------------------------------------------


def test_burning_first_then_cancel_ends_as_the_device_says(world):
    device = installing(world)
    world.do("rollout.cancel", rollout=device.open.rollout)
    assert [device.open.id] == [notice.deployment for notice in world.sent(CancelUpdate, world.last)]
    device.says("too_late")
    assert State.INSTALLING is device.state
    device.runs("1.1.0", trial=True).restarts()
    device.runs("1.1.0").check_in()
    assert State.CONFIRMED is device.state


def test_cancel_first_then_burning_is_stopped_and_canceled(world):
    device = downloaded(world)
    world.do("rollout.cancel", rollout=device.open.rollout)
    deployment = device.open
    outputs = device.says("burning")
    assert (deployment.id,) == world.sent(ReportAck, outputs)[0].stop
    assert [deployment.id] == [notice.deployment for notice in world.sent(CancelUpdate, outputs)]
    device.says("canceled")
    assert State.CANCELED is device.state


def test_burning_answered_go_then_canceled_and_repeated_is_stopped(world):
    """The device has not heard the go, so the cancel is still in time."""
    device = installing(world)
    world.do("rollout.cancel", rollout=device.open.rollout)
    ack = world.sent(ReportAck, device.repeats())[0]
    assert ((), (device.open.id,)) == (ack.go, ack.stop)


def test_pause_between_downloaded_and_burning_stops_and_resume_lets_it_go_on(world):
    device = downloaded(world)
    rollout = device.open.rollout
    world.do("rollout.pause", rollout=rollout)
    ack = world.sent(ReportAck, device.says("burning"))[0]
    assert ((), (device.open.id,)) == (ack.go, ack.stop)
    assert State.DOWNLOADED is device.state
    world.jump(60)
    world.do("rollout.resume", rollout=rollout)
    assert [device.id] == [request.device for request in world.sent(CheckInRequest, world.last)]
    assert [device.open.id] == [offer.deployment for offer in world.sent(Offer, device.check_in())]
    ack = world.sent(ReportAck, device.says("burning"))[0]
    assert (device.open.id,) == ack.go


def test_a_pause_does_not_stop_what_already_got_its_go(world):
    device = installing(world)
    world.do("rollout.pause", rollout=device.open.rollout)
    ack = world.sent(ReportAck, device.says("burning"))[0]
    assert (device.open.id,) == ack.go


def test_withdrawal_between_downloaded_and_burning_stops(world):
    device = downloaded(world)
    deployment = device.open
    world.do("release.withdraw", release="1.1.0")
    ack = world.sent(ReportAck, device.says("burning", deployment))[0]
    assert (deployment.id,) == ack.stop
    device.says("canceled", deployment)
    assert State.CANCELED is device.state


def test_retirement_between_downloaded_and_burning_stops_and_the_device_can_still_say_canceled(world):
    device = downloaded(world)
    deployment = device.open
    world.do("device.retire", device="d1")
    ack = world.sent(ReportAck, device.says("burning", deployment))[0]
    assert (deployment.id,) == ack.stop
    device.says("canceled", deployment)
    assert State.CANCELED is device.state


def test_a_retired_device_that_missed_the_cancel_is_told_again_and_its_restart_ends_it(world):
    device = downloading(world)
    world.do("device.retire", device="d1")
    outputs = device.check_in()
    assert 1 == len(world.sent(CancelUpdate, outputs))
    device.restarts()
    assert State.CANCELED is device.state


def test_a_device_retired_on_trial_still_ends_its_deployment(world):
    device = on_trial(world)
    world.do("device.retire", device="d1")
    device.runs("1.1.0").check_in()
    assert State.CONFIRMED is device.state


# --- factory reset, swapped boards -----------------------------------------------------------------------------


def test_a_factory_reset_after_confirmed_tells_regressed_and_opens_a_new_attempt(world):
    device = confirmed(world)
    first = device.latest
    world.jump(31)
    outputs = device.runs(FACTORY, seq=1).restarts()
    assert [(first.id, "1.1.0", FACTORY)] == [
        (data["id"], data["before"], data["after"]) for data in world.events("regressed", outputs)
    ]
    assert (2, State.OFFERED) == (device.open.attempt, device.open.state)
    assert 1 == len(world.sent(Offer, outputs))


def test_attempts_after_a_factory_reset_are_bounded_again(world):
    device = confirmed(world)
    device.runs(FACTORY, seq=1).restarts()
    for _ in range(3):
        world.passes(86_400)
        device.check_in()
        device.says("fail", result_code="-1")
    world.passes(30 * 86_400)
    device.check_in()
    assert [4, 3, 2, 1] == [one.attempt for one in device.all]
    assert "attempts_used" == device.why()[0]


def test_a_factory_reset_under_a_canceled_rollout_is_healed_to_the_end(world):
    device = confirmed(world)
    world.do("rollout.cancel", rollout=device.latest.rollout)
    world.jump(31)
    device.runs(FACTORY, seq=1).restarts()
    device.asks()
    device.says("downloaded")
    ack = world.sent(ReportAck, device.says("burning"))[0]
    assert (device.open.id,) == ack.go


def test_a_hardware_id_that_changes_is_an_event_and_no_overwrite(world):
    device = world.device()
    device.hw = "r2"
    outputs = device.check_in()
    assert ("r1", "r2") == (device.record.hw, device.record.hw_reported)
    assert [("r1", "r2")] == [(data["registered"], data["reported"]) for data in world.events("hw_changed", outputs)]
    assert [] == world.events("hw_changed", device.check_in())


@pytest.mark.parametrize("state", [State.OFFERED, State.DOWNLOADING, State.DOWNLOADED])
def test_a_hardware_id_that_changes_stops_the_offers_of_an_open_deployment(world, state):
    device = bring(world, state)
    world.jump(31)
    device.hw = "r2"
    assert [] == world.sent(Offer, device.check_in())
    assert [] == world.sent(Offer, world.passes(3600))
    assert "hw_conflict" == device.why()[0]


def test_a_swapped_board_of_known_hardware_goes_on_once_it_is_accepted(world):
    device = world.device()
    world.release(hardware=("r1", "r2"))
    world.rollout()
    device.hw = "r2"
    world.jump(31)
    device.check_in()
    world.do("device.replace", device="d1", hw="r2")
    world.jump(31)
    assert 1 == len(world.sent(Offer, device.check_in()))


def test_a_swapped_board_that_the_release_was_not_signed_for_gets_no_offer(world):
    device = offered(world)
    device.hw = "r2"
    device.check_in()
    world.do("device.replace", device="d1", hw="r2")
    world.jump(31)
    outputs = device.check_in()
    assert [] == world.sent(Offer, outputs)
    assert State.CANCELING is device.state
    device.says("canceled")
    assert "wrong_hardware" == device.why()[0]


# --- anti-rollback -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("installed", [2, 3])
def test_a_manifest_whose_seq_is_not_above_the_devices_is_never_offered(world, installed):
    device = world.device()
    device.runs("9.9.9", seq=installed).check_in()
    world.release(seq=2)
    world.rollout()
    assert [] == world.sent(Offer)
    assert "anti_rollback" == device.why()[0]


def test_an_open_deployment_is_not_offered_again_to_a_device_that_went_past_it(world):
    device = offered(world)
    world.jump(31)
    device.runs("9.9.9", seq=5)
    outputs = device.check_in()
    assert [] == world.sent(Offer, outputs)
    assert 1 == len(world.sent(CancelUpdate, outputs))
    assert State.CANCELED is device.state
    device.says("canceled", device.latest)
    assert [] == world.sent(Offer, world.passes(86_400))
    assert "anti_rollback" == device.why()[0]


def test_a_manifest_that_no_longer_holds_is_not_offered_and_later_is(world):
    device = world.device()
    world.release()
    envelope = next(iter(world.facts))
    world.refused[envelope] = "REFUSED_SIG"
    world.rollout()
    assert [] == world.sent(Offer)
    assert State.QUEUED is device.state
    assert "no longer holds" in device.why()[1]
    world.refused.clear()
    world.jump(31)
    assert 1 == len(world.sent(Offer, device.check_in()))


# --- devices that download by URL ----------------------------------------------------------------------------------


def test_a_device_that_downloads_by_url_is_confirmed_by_its_next_report():
    world = World(public_url="https://dl.example.com/{sha256}")
    device = world.device(proto=0)
    world.release()
    world.rollout()
    offer = world.notices()[0]
    assert ("1.1.0", "https://dl.example.com/" + world.facts[next(iter(world.facts))].sha256.hex()) == (
        offer.version,
        offer.url,
    )
    device.says("downloading", percent=40)
    assert (State.DOWNLOADING, 40) == (device.state, device.open.percent)
    device.says("burning")
    assert State.INSTALLING is device.state
    device.runs("1.1.0").check_in()
    assert State.CONFIRMED is device.state


def test_why_tells_what_keeps_a_dialect_from_its_notice(world):
    device = world.device(proto=0)
    world.release()
    world.rollout()
    assert [] == world.notices()
    assert "it has no URL" in device.why()[1]


def test_a_device_that_downloads_by_url_gets_a_link_of_its_own_with_each_notice():
    world = World(public_url="https://dl.example.com/{sha256}")
    world.links = lambda deployment, manifest, wall: f"http://h/{deployment}/{manifest.sha256.hex()[:4]}/{wall:.0f}"
    device = world.device(proto=0)
    world.release()
    world.rollout()
    start = f"http://h/{device.open.id}/{world.facts[next(iter(world.facts))].sha256.hex()[:4]}"
    assert [f"{start}/{world.wall:.0f}"] == [offer.url for offer in world.notices()]
    world.passes(100)
    assert [f"{start}/{world.wall:.0f}"] == [offer.url for offer in world.notices(device.check_in())]


# --- enrolment ---------------------------------------------------------------------------------------------------


def test_open_enrolment_creates_a_device_at_its_first_check_in(world):
    device = world.device()
    assert ("active", "r1") == (device.record.state, device.record.hw)
    assert 1 == len(world.events("enrolled"))


def test_listed_enrolment_refuses_a_stranger_without_an_acknowledgement():
    world = World(enrol=Enrol.LISTED)
    outputs = world.device().world.last
    assert [] == world.sent(ReportAck, outputs)
    assert ["not listed; add it with: device add"] == [data["reason"] for data in world.events("refused")]


def test_listed_enrolment_takes_a_device_that_was_added():
    world = World(enrol=Enrol.LISTED)
    world.do("device.add", device="prod/d1", hw="r1")
    assert "active" == world.device().record.state


def test_a_device_that_waits_for_approval_is_acknowledged_and_offered_nothing():
    world = World(enrol=Enrol.APPROVE)
    device = world.device()
    world.release()
    world.rollout()
    assert 1 == len(world.sent(ReportAck))
    assert [] == world.sent(Offer)
    assert "pending" == device.why()[0]
    world.do("device.approve", device="d1")
    assert 1 == len(world.sent(Offer))


def test_creation_is_limited_in_rate_and_what_is_over_it_is_not_acknowledged():
    world = World(enrol_per_s=1, enrol_burst=3)
    for number in range(5):
        world.device(f"d{number}")
    assert 3 == len(world.sent(ReportAck))
    world.jump(1)
    world.device("d4")
    assert 4 == len(world.sent(ReportAck))


def test_a_name_that_is_unique_belongs_to_one_product():
    world = World(unique_names=True)
    world.device("d1", product="prod")
    world.device("d1", product="other")
    assert ["this name is registered with another product"] == [data["reason"] for data in world.events("refused")]


def test_a_retired_device_is_acknowledged_and_offered_nothing(world):
    device = world.device()
    world.do("device.retire", device="d1")
    world.release()
    world.rollout()
    outputs = device.check_in()
    assert 1 == len(world.sent(ReportAck, outputs))
    assert [] == world.sent(Offer)
    assert "retired" == device.why()[0]


# --- several components ------------------------------------------------------------------------------------------


def test_a_bundle_is_one_deployment_for_each_component_offered_together(world):
    device = world.device(check_in=False)
    device.runs("1.0.0", seq=1, component="config")
    device.check_in()
    world.release(component="firmware")
    world.release(component="config")
    rollout = world.rollout()
    assert ["config", "firmware"] == sorted(offer.component for offer in world.sent(Offer))
    assert 2 == world.do("rollout.status", rollout=rollout)["total"]


def test_many_failures_of_one_component_do_not_hide_the_attempts_of_another(world):
    names = [f"c{number}" for number in range(16)]
    device = world.device(check_in=False)
    for name in names:
        device.runs("1.0.0", seq=1, component=name)
    device.check_in()
    for name in names:
        world.release(component=name)
    world.rollout()
    for _ in range(8):
        for deployment in world.read(lambda unit: unit.deployments.open_of(device.id)):
            device.says("fail", deployment, component=deployment.component, result_code="-1")
        world.passes(86_400)
        device.check_in()
    assert dict.fromkeys(names, 3) == {
        name: max(one.attempt for one in device.all if one.component == name) for name in names
    }


def test_an_open_deployment_behind_many_newer_ones_is_not_opened_twice(world):
    device = world.device(check_in=False)
    device.runs("1.0.0", seq=1, component="config")
    device.check_in()
    world.release(component="firmware")
    world.rollout()
    for number in range(25):
        world.jump(1000)
        version = f"2.0.{number}"
        world.release(version, seq=number + 2, component="config")
        world.rollout(version)
        opened = next(d for d in world.read(lambda u: u.deployments.open_of(device.id)) if d.component == "config")
        device.says("fail", opened, component="config", result_code="REFUSED_DEP")
    device.check_in()
    components = [one.component for one in world.read(lambda unit: unit.deployments.open_of(device.id))]
    assert ["firmware"] == components


# --- what the block plane may serve ------------------------------------------------------------------------------


def grants_of(world, device):
    return list(world.granted(device.id).items())


def test_a_pause_turns_the_grant_to_paused_and_a_resume_back(world):
    device = downloading(world)
    rollout, name = device.open.rollout, device.open.id
    world.do("rollout.pause", rollout=rollout)
    assert [(name, GrantState.PAUSED)] == grants_of(world, device)
    world.do("rollout.resume", rollout=rollout)
    assert [(name, GrantState.OPEN)] == grants_of(world, device)


def test_a_withdrawn_release_is_refused_as_such_until_the_device_has_answered(world):
    device = downloading(world)
    name = device.open.id
    world.do("release.withdraw", release="1.1.0")
    assert [(name, GrantState.WITHDRAWN)] == grants_of(world, device)
    device.says("canceled")
    assert [] == grants_of(world, device)


def test_a_ticket_that_must_be_fetched_is_granted_before_the_offer_that_names_it(world):
    device = offered(world, max_packet=256)
    offer = world.sent(Offer)[-1]
    inline = dict(world.server._clients[device.id].grants[0].inline)
    assert {offer.manifest_digest: offer.manifest, offer.ticket_digest: offer.ticket} == inline


def test_the_table_that_is_loaded_at_the_start_equals_the_one_that_grew(world):
    for number in range(3):
        world.device(f"d{number}", max_packet=256 if number else 8192)
    world.release()
    world.rollout()
    loaded = world.read(lambda unit: world.bridge.grants_page(unit, world.now, None))[0]
    assert {change.device: change.grants for change in loaded} == {
        device: client.grants for device, client in world.server._clients.items()
    }
