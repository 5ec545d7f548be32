"""A wall clock that is set by an hour or by ten years: nothing ends early or late, and what came last stays the last."""

import pytest
from core_world import FACTORY, World

from ota_bridge.core.deployment import State
from ota_bridge.core.messages import Offer, ReportAck

YEAR_S = 365 * 86_400
STEPS = [3600, -3600, 10 * YEAR_S, -10 * YEAR_S]
START_S = 1.7e9


@pytest.fixture(params=STEPS, ids=lambda step: f"{step:+}s")
def step(request):
    return request.param


@pytest.fixture
def world():
    made = World()
    made.wall = START_S
    return made


def is_set(world, by_s):
    """The clock is set, and the bridge notices."""
    world.wall += by_s
    world.commit(lambda unit: (None, world.bridge.clock_stepped(unit, by_s) or []))


def bring(world, state):
    device = world.device()
    world.release()
    world.rollout()
    world.jump(1)
    for step in {
        State.OFFERED: [],
        State.DEFERRED: ["defer"],
        State.DOWNLOADING: ["asks"],
        State.DOWNLOADED: ["asks", "downloaded"],
        State.INSTALLING: ["asks", "downloaded", "burning"],
        State.TRIAL: ["asks", "downloaded", "burning", "boots"],
        State.CANCELING: ["asks", "cancel"],
    }[state]:
        match step:
            case "asks":
                device.asks()
            case "boots":
                device.runs("1.1.0", seq=1, trial=True).restarts()
            case "cancel":
                world.do("rollout.cancel", rollout=device.open.rollout)
            case "defer":
                device.says("defer", retry_after_s=600.0)
            case said:
                device.says(said)
    assert state is device.state
    return device


@pytest.mark.parametrize("state", [State.OFFERED, State.DOWNLOADED, State.INSTALLING, State.TRIAL, State.CANCELING])
def test_a_time_out_comes_neither_early_nor_late(world, step, state):
    device = bring(world, state)
    pacing = world.bridge.rules.pacing
    left = {
        State.OFFERED: pacing.offered_s,
        State.DOWNLOADED: pacing.downloading_s,
        State.INSTALLING: pacing.installing_s,
        State.TRIAL: pacing.trial_s,
        State.CANCELING: pacing.canceling_s,
    }[state]
    world.passes(left / 2)
    is_set(world, step)
    assert [] == world.sent(Offer, world.tick())
    assert state is device.state
    world.passes(left / 2 - 10)
    assert state is device.state
    world.passes(70)
    assert State.TIMED_OUT is device.state


def test_a_stalled_download_is_told_when_it_stalls_and_ends_when_it_would_have(world, step):
    device = bring(world, State.DOWNLOADING)
    world.passes(30)
    is_set(world, step)
    world.passes(25)
    assert not device.open.stalled
    world.passes(10)
    assert device.open.stalled
    world.passes(world.bridge.rules.pacing.downloading_s - 100)
    assert State.DOWNLOADING is device.state
    world.passes(100)
    assert State.TIMED_OUT is device.state


def test_a_deferral_is_offered_again_when_the_device_said(world, step):
    bring(world, State.DEFERRED)
    world.passes(300)
    is_set(world, step)
    assert [] == world.sent(Offer, world.passes(290))
    assert 1 == len(world.sent(Offer, world.passes(20)))


def test_the_next_attempt_waits_no_longer_than_it_has_to(world, step):
    device = bring(world, State.DOWNLOADING)
    device.says("fail", result_code="-1")
    is_set(world, step)
    world.passes(world.bridge.rules.retries.longest_wait_s + 70)
    device.check_in()
    assert (2, State.OFFERED) == (device.latest.attempt, device.state)


@pytest.mark.parametrize("state", [State.OFFERED, State.DOWNLOADING, State.DOWNLOADED])
def test_a_device_that_comes_back_is_offered_at_once_and_not_too_often(world, step, state):
    device = bring(world, state)
    world.passes(31)
    is_set(world, step)
    assert 1 == len(world.sent(Offer, device.restarts()))
    world.jump(1)
    assert [] == world.sent(Offer, device.restarts())
    assert 1 == len(world.sent(Offer, world.passes(31)))


def test_tickets_tell_the_time_of_the_clock_that_is(world, step):
    device = bring(world, State.OFFERED)
    world.passes(31)
    is_set(world, step)
    offer = world.sent(Offer, device.restarts())[0]
    assert f" {world.wall}" == offer.ticket.decode()[-len(f" {world.wall}") :]


def test_a_whole_update_goes_through_while_the_clock_is_set_at_each_step(world, step):
    device = world.device()
    world.release()
    world.rollout()
    for number, act in enumerate(
        [
            device.asks,
            lambda: device.says("downloaded"),
            lambda: device.says("burning"),
            lambda: device.runs("1.1.0", seq=1, trial=True).restarts(),
            lambda: device.runs("1.1.0").check_in(),
        ]
    ):
        world.passes(1)
        is_set(world, step if number % 2 else -step)
        world.tick()
        act()
    assert State.CONFIRMED is device.state
    assert 1 == len(world.sent(ReportAck, [output for output in world.outputs if getattr(output, "go", ())]))


# --- what came last is the last, whatever the clock said -------------------------------------------------------------


def test_the_newest_rollout_wins_though_the_clock_was_set_back_before_it(world, step):
    device = world.device()
    world.release("2.0.0", seq=2)
    world.rollout("2.0.0")
    is_set(world, step)
    world.release("3.0.0", seq=3)
    world.rollout("3.0.0")
    assert "prod/3.0.0" == device.record.assigned["firmware"].release
    world.passes(86_400 * 2)
    device.says("canceled", next(one for one in device.all if one.release == "prod/2.0.0"))
    device.check_in()
    assert "prod/3.0.0" == device.open.release


def test_why_and_history_go_by_what_came_last(world, step):
    device = bring(world, State.DOWNLOADING)
    first = device.latest.id
    is_set(world, step)
    device.says("fail", result_code="REFUSED_SIG")
    world.release("1.2.0", seq=3)
    world.rollout("1.2.0")
    second = device.open.id
    assert [second, first] == [one.id for one in device.all]
    device.says("downloading")
    device.says("fail", result_code="REFUSED_CLASS")
    assert "REFUSED_CLASS" in device.why()[1]
    for deployment in (first, second):
        afters = [one.after for one in world.read(lambda unit, name=deployment: unit.deployments.history(name))]
        assert [State.QUEUED, State.OFFERED, State.DOWNLOADING, State.FAILED] == afters


def test_the_last_report_is_the_one_that_came_last(world, step):
    device = world.device()
    device.check_in()
    is_set(world, step)
    device.check_in()
    last = world.read(lambda unit: unit.reports.recent(device.id, limit=1))[0]
    assert device.seq == last.key.seq


def test_a_boot_that_was_superseded_by_a_late_report_comes_alive_again(world, step):
    device = world.device()
    device.boot += 2
    device.check_in()
    device.boot -= 1  # the boot before, whose only report comes late
    device.check_in()
    assert device.boot == device.record.boot
    is_set(world, step)
    device.boot += 1
    device.check_in()
    device.check_in()
    assert device.boot == device.record.boot


def test_a_factory_reset_after_the_clock_was_set_is_healed(world, step):
    device = bring(world, State.TRIAL)
    device.runs("1.1.0").check_in()
    assert State.CONFIRMED is device.state
    is_set(world, step)
    world.passes(31)
    outputs = device.runs(FACTORY, seq=1).restarts()
    assert 1 == len(world.events("regressed", outputs))
    assert (2, State.OFFERED) == (device.latest.attempt, device.state)


def test_what_waits_for_a_resumed_rollout_does_not_wait_for_the_clock(step):
    """Offered by the clock alone, as to devices that cannot be asked to check in."""
    world = World(public_url="https://dl.example.com/{sha256}")
    world.wall = START_S
    device = world.device(proto=0)
    world.release()
    envelope = next(iter(world.facts))
    world.refused[envelope] = "REFUSED_SIG"
    rollout = world.rollout()
    world.refused.clear()
    assert State.QUEUED is device.state
    world.do("rollout.pause", rollout=rollout)
    is_set(world, step)
    world.do("rollout.resume", rollout=rollout)
    assert 1 == len(world.notices(world.passes(31)))
