"""Whole rehearsals: what the plan says comes about, from the seed alone."""

import re

import pytest
from rehearsals import again, moments, rehearsed, script_of, site_of, whole_counts, world_of

from ota_bridge.core.deployment import State
from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.values import Limits
from ota_bridge.rehearsal.cohort import Cohort
from ota_bridge.rehearsal.site import made_up_release

SHARES = {"stages": [{"percent": 50.0, "success": {"share": 0.7}}, {"success": {"share": 0.7}}]}


def test_everyone_is_updated_stage_by_stage():
    world = rehearsed(40)
    assert ("complete", {State.CONFIRMED: 40}) == (world.ended_by, whole_counts(world))
    (stages,) = world.timeline.stages.values()
    assert [("canary", 5), ("half", 15), ("rest", 20)] == [(stage.name, stage.size) for stage in stages]
    download_s = 200_000 / 20_000
    assert all(download_s < stage.over_s - stage.opened_s < download_s + 3.0 for stage in stages)
    assert [one.over_s for one in stages[:-1]] == [one.opened_s for one in stages[1:]]


def test_the_same_seed_gives_the_same_timeline_and_another_seed_another():
    world = rehearsed(60, SHARES, offline=0.1, fail={State.ROLLED_BACK: 0.1}, seed=5)
    assert moments(world) == moments(again(world))
    assert world.curve.bytes == again(world).curve.bytes
    assert moments(world) != moments(again(world, seed=6))


def test_what_is_served_is_what_the_devices_fetch():
    world = rehearsed(40)
    list_bytes = 49 * 32
    assert 40 * (200_000 + list_bytes - 4096) == pytest.approx(world.curve.whole_bytes)


def test_a_failure_gate_that_fires_holds_the_rollout_and_ends_the_rehearsal():
    plan = {"stages": [{"name": "canary", "devices": 10, "failure": {"count": 3}}, {}]}
    world = rehearsed(40, plan, fail={State.FAILED: 0.5})
    assert "held" == world.ended_by
    ((_, _, sentence),) = moments(world, "paused")
    assert re.search("canary: [345] failed, 3 are too many", sentence)
    assert 1 == len(next(iter(world.timeline.stages.values())))


def test_a_failure_gate_can_cancel_and_what_has_not_begun_is_not_begun():
    plan = {"stages": [{"devices": 10, "failure": {"count": 1, "action": "cancel"}}, {}]}
    world = rehearsed(40, plan, fail={State.FAILED: 0.5})
    assert ("complete", 1) == (world.ended_by, len(moments(world, "canceled")))
    assert 10 == sum(whole_counts(world).values())
    assert whole_counts(world)[State.CANCELED] > 0


def test_a_failure_gate_can_roll_back_to_another_release_which_goes_out_too():
    stages = [{"devices": 10, "failure": {"count": 3, "action": "roll_back"}}, {}]
    back = made_up_release("demo/1.9.0", size_bytes=200_000, hw=["r1"], seq=3)
    plan = {"stages": stages, "roll_back_to": "demo/1.9.0"}
    world = rehearsed(plan=plan, site=site_of(40, releases=[back]), fail={State.ROLLED_BACK: 0.5})
    assert ["demo/2.0.0", "demo/1.9.0"] == [one.release for one in world.timeline.states().values()]
    assert 1 == len(moments(world, "canceled"))


@pytest.mark.parametrize("slots", [1, 4])
def test_never_more_downloads_than_slots(slots):
    world = world_of(script_of(site=site_of(30, limits=Limits(downloads=slots)), plan={}))
    most, fetch = [], world.fetch

    def counted(twin, size_bytes):
        fetch(twin, size_bytes)
        most.append(len(world.flows))

    world.fetch = counted
    world.run()
    assert (slots, {State.CONFIRMED: 30}) == (max(most), whole_counts(world))
    assert world.last_end_s > 30 / slots * 200_000 / 20_000


def test_slots_of_devices_that_die_in_the_middle_become_free_again():
    dying = {State.TIMED_OUT: 0.5}
    world = rehearsed(site=site_of(20, limits=Limits(downloads=2)), plan={}, fail=dying)
    assert {State.CONFIRMED: 10, State.TIMED_OUT: 10} == whole_counts(world)


def test_devices_that_are_away_are_updated_when_they_come_back():
    world = rehearsed(40, {}, offline=0.25, offline_for_s=3600.0)
    assert ("complete", {State.CONFIRMED: 40}) == (world.ended_by, whole_counts(world))
    assert 3600.0 < world.last_end_s < 3700.0


def test_devices_that_never_come_back_time_out():
    world = rehearsed(40, {}, offline=0.25)
    assert {State.CONFIRMED: 30, State.TIMED_OUT: 10} == whole_counts(world)


def test_devices_that_sleep_fetch_while_they_are_awake():
    awake = rehearsed(40, {})
    asleep = rehearsed(40, {}, awake_s=5.0, asleep_s=45.0)
    assert {State.CONFIRMED: 40} == whole_counts(asleep)
    assert asleep.last_end_s > awake.last_end_s + 45.0


def test_a_gate_that_can_never_be_met_is_said_instead_of_waited_for():
    plan = {"stages": [{"name": "canary", "devices": 20}, {}]}
    world = rehearsed(40, plan, offline=0.5)
    assert "stuck" == world.ended_by
    assert "canary: the gate is not met" in world.ended_sentence


def test_what_takes_longer_than_the_limit_is_cut_there():
    plan = {"stages": [{"devices": 5, "success": {"soak_s": 200 * 86_400.0}}, {}]}
    world = rehearsed(40, plan, limit_s=86_400.0)
    assert ("too_long", 86_400.0) == (world.ended_by, world.now_s)
    assert "not ended after 1 days" in world.ended_sentence
    assert "soaking" in world.ended_sentence


def test_a_person_who_is_asked_lets_it_go_on_after_a_while_or_never():
    plan = {"stages": [{"name": "canary", "devices": 5, "success": {"action": "wait"}}, {}]}
    slow = rehearsed(40, plan, person_after_s=600.0)
    ((asked_s, _, _),) = moments(slow, "waits_for_person")
    assert "complete" == slow.ended_by
    assert asked_s + 600.0 == pytest.approx(moments(slow, "stage_opened")[1][0], abs=0.1)
    assert "held" == again(slow, person_after_s=None).ended_by


def test_a_soak_takes_its_time():
    world = rehearsed(40, {"stages": [{"devices": 5, "success": {"soak_s": 300.0}}, {}]})
    ((soaks_s, _, _),) = moments(world, "soaking")
    assert soaks_s + 300.0 <= moments(world, "stage_opened")[1][0] <= soaks_s + 301.0


def test_a_pace_spreads_the_devices():
    world = rehearsed(40, {"pace": {"per_min": 60.0}})
    assert 38.0 < world.last_end_s - 200_000 / 20_000 < 43.0


def test_a_window_is_waited_for():
    world = rehearsed(40, {"windows": [{"cron": "55 9 * * *", "length_s": 3600}]})
    opens_s = 3600 + 100  # the rehearsal starts at 08:53:20 UTC
    assert {State.CONFIRMED: 40} == whole_counts(world)
    assert opens_s < world.last_end_s < opens_s + 400


def test_a_retry_waits_its_backoff():
    world = rehearsed(10, {"tries": {"max_attempts": 2, "backoff_s": 500.0}}, fail={State.FAILED: 0.1})
    assert {State.CONFIRMED: 9, State.FAILED: 1} == whole_counts(world)
    assert 500.0 < world.last_end_s < 500.0 + 2 * 12


def test_caps_on_bytes_stretch_the_downloads():
    assert 20.0 > rehearsed(40, {}).last_end_s
    capped = rehearsed(plan={}, site=site_of(40, limits=Limits(bytes_per_s=100_000)))
    assert 40 * 195_904 / 100_000 < capped.last_end_s
    assert 40 * 195_904 / 100_000 < rehearsed(40, {}, site_bytes_per_s=100_000.0).last_end_s


def test_cohorts_have_their_own_lines():
    fast, slow = Cohort(share=0.5, link_bytes_per_s=100_000.0), Cohort(share=0.5, link_bytes_per_s=2_000.0)
    world = rehearsed(40, {"stages": [{"success": {"share": 0.5}}]}, cohorts=[fast, slow])
    assert 2.0 < world.timeline.stages["r-000001"][0].over_s < 5.0
    assert 97.0 < world.last_end_s < 103.0


def test_a_twin_that_stands_for_ten_gives_ten_times_the_counts():
    world = rehearsed(40, {}, weight=10)
    assert {State.CONFIRMED: 400} == whole_counts(world)


def test_the_planner_takes_as_long_for_heavy_twins_as_for_the_devices_that_they_stand_for():
    one_by_one = rehearsed(1000)
    heavy = rehearsed(100, weight=10)
    opened = [world.timeline.stages["r-000001"][0].opened_s for world in (one_by_one, heavy)]
    assert opened[0] == pytest.approx(opened[1], rel=0.05)


def test_what_a_real_start_refuses_a_rehearsal_refuses():
    with pytest.raises(InvalidInput, match="stages"):
        rehearsed(5, {"stages": [{"where": "batch == 5"}, {}]})
