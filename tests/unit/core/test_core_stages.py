"""Whole rollouts in stages: members are found, let in, judged; what operators, gates and the clock do to them."""

import pytest
from core_world import FACTORY, START_S, World, image_of

from ota_bridge.core.deployment import State
from ota_bridge.core.errors import Conflict, InvalidInput
from ota_bridge.core.messages import CheckInRequest, GrantState, Offer, ReportAck
from ota_bridge.core.operations import perform
from ota_bridge.core.rollout.model import PLACES_END, TIER, RolloutState
from ota_bridge.core.steering import AT_ONCE_MAX

CANARY = {"stages": [{"name": "canary", "devices": 2}, {"name": "half", "percent": 50}, {"name": "rest"}]}


def fleet(count, **rules):
    world = World(**rules)
    world.release("1.1.0")
    devices = [world.device(f"d{number:03d}") for number in range(count)]
    for device in devices:
        device.check_in()
    return world, devices


def start(world, plan=None, **args):
    return world.do("rollout.start", release="1.1.0", plan=plan or {}, **args)["id"]


def of(world, rollout):
    return world.read(lambda unit: unit.rollouts.get(rollout))


def begun(devices):
    return [device for device in devices if device.all]


def confirm(device):
    """The device updates, as far as the bridge sees."""
    device.asks()
    device.says("downloaded")
    device.says("burning")
    device.runs("1.1.0")
    device.restarts()
    assert State.CONFIRMED in {device.state, device.all[-1].state}


def fail(device, code="-2"):
    device.asks()
    device.says("fail", result_code=code)


def open_stages(world, rollout):
    return [one["state"] for one in world.do("rollout.status", rollout=rollout)["stages"]]


def test_a_rollout_without_a_plan_takes_everyone_at_once():
    world, devices = fleet(5)
    rollout = start(world)
    assert devices == begun(devices)
    assert (PLACES_END,) == of(world, rollout).standing.ends


def test_stages_open_one_after_the_other_when_their_gates_are_met():
    world, devices = fleet(10)
    rollout = start(world, CANARY)
    canaries = begun(devices)
    assert (2, ["open", "waiting", "waiting"]) == (len(canaries), open_stages(world, rollout))
    confirm(canaries[0])
    world.plan()
    assert canaries == begun(devices)
    confirm(canaries[1])
    world.plan()
    assert (5, ["done", "open", "waiting"]) == (len(begun(devices)), open_stages(world, rollout))
    for device in begun(devices):
        if device not in canaries:
            confirm(device)
    world.plan()
    assert devices == begun(devices)
    assert {0, 1, 2} == {device.latest.stage for device in devices}
    for device in devices:
        if device.state is not State.CONFIRMED:
            confirm(device)
    world.plan()
    assert (True, ["done"] * 3) == (of(world, rollout).standing.is_through, open_stages(world, rollout))


def test_who_runs_it_already_takes_no_place_in_a_stage():
    world, devices = fleet(12)
    for device in devices[:10]:
        device.runs("1.1.0")
        device.check_in()
    rollout = start(world, {"stages": [{"name": "canary", "devices": 1}, {}]})
    assert (1, ["open", "waiting"]) == (len(begun(devices)), open_stages(world, rollout))
    confirm(begun(devices)[0])
    world.plan()
    assert devices[10:] == begun(devices)


def test_who_ran_it_already_and_falls_back_gets_it_once_its_stage_is_open():
    world, devices = fleet(4)
    devices[0].runs("1.1.0")
    devices[0].check_in()
    start(world, {"stages": [{"devices": 1, "success": {"share": 0.0}}, {}]})
    world.plan()
    assert devices[1:] == begun(devices)
    devices[0].runs("1.0.0", seq=1)
    devices[0].restarts()
    assert devices == begun(devices)


def test_a_stage_whose_devices_were_taken_out_opens_no_other_by_itself():
    world, devices = fleet(10)
    rollout = start(world, CANARY)
    for device in begun(devices):
        world.do("device.retire", device=str(device.id))
        device.says("canceled", device.all[0].id)
    world.plan()
    assert ["open", "waiting", "waiting"] == open_stages(world, rollout)
    why = world.do("why", device=rollout)
    assert "gate_not_met" == why["code"]
    assert "0 of 1 confirmed, 2 canceled" in why["sentence"]
    world.do("rollout.next", rollout=rollout)
    assert ["done", "open", "waiting"] == open_stages(world, rollout)


def test_a_stage_that_fails_holds_the_rollout_and_says_why():
    world, devices = fleet(10)
    plan = {"stages": [{"name": "canary", "devices": 3, "failure": {"count": 2}}, {}]}
    rollout = start(world, plan)
    fail(begun(devices)[0])
    world.plan()
    assert RolloutState.RUNNING is of(world, rollout).state
    fail(begun(devices)[1])
    world.plan()
    held = of(world, rollout)
    assert (RolloutState.PAUSED, "ota-bridge") == (held.state, held.changed_by)
    assert "canary: 2 failed, 2 are too many" == held.cause
    assert ("paused", 3) == (world.do("why", device=rollout)["code"], len(begun(devices)))


def test_a_gate_holds_a_large_stage_at_once_and_another_process_lets_it_go_on_in_slices():
    world, devices = fleet(40)
    rollout = start(world, {"stages": [{"failure": {"count": 1}}]})
    fail(devices[0], code="REFUSED_SIG")
    world.commit(lambda unit: world.bridge.plan(unit, world.now, lambda: False).outputs)
    assert RolloutState.PAUSED is of(world, rollout).state
    assert {GrantState.PAUSED} == {state for device in devices[1:] for state in world.granted(device.id).values()}
    assert not world.sent(Offer, devices[39].restarts())
    world.passes(10 * 86_400)
    assert {State.OFFERED} == {device.state for device in devices[1:]}, "what is held runs out of no time"
    resume = {"rollout": rollout}
    world.commit(lambda unit: perform(unit, world.bridge, "rollout.resume", resume, caller=world.caller, now=world.now))
    assert of(world, rollout).standing.is_resuming
    world.tick()
    assert {State.OFFERED} == {device.state for device in devices[1:]}, "nor before it was told to go on"
    heir = World()
    heir.store, heir.facts, heir.source = world.store, world.facts, world.source
    left = [7]

    def go_on():
        left[0] -= 1
        return left[0] > 0

    heir.commit(lambda unit: heir.bridge.plan(unit, world.now, go_on).outputs)
    assert of(world, rollout).standing.is_resuming
    asked = heir.outputs + heir.plan()
    assert {device.id for device in devices[1:]} <= {one.device for one in asked if isinstance(one, CheckInRequest)}
    assert not of(world, rollout).standing.is_resuming
    assert {GrantState.OPEN} == {state for device in devices[1:] for state in heir.granted(device.id).values()}


def test_what_was_held_for_long_may_finish_in_slices_and_has_its_times_again():
    world, devices = fleet(40)
    rollout = start(world)
    for device in devices[20:]:
        device.asks()
    world.do("rollout.pause", rollout=rollout)
    world.passes(10 * 86_400)
    cancel = {"rollout": rollout, "let_finish": True}
    world.commit(lambda unit: perform(unit, world.bridge, "rollout.cancel", cancel, caller=world.caller, now=world.now))
    assert of(world, rollout).is_planning
    world.tick()
    assert {State.OFFERED, State.DOWNLOADING} == {device.state for device in devices}
    assert {GrantState.OPEN} == {state for device in devices for state in world.granted(device.id).values()}
    left = [7]

    def go_on():
        left[0] -= 1
        return left[0] > 0

    world.commit(lambda unit: world.bridge.plan(unit, world.now, go_on).outputs)
    assert of(world, rollout).is_planning
    asked = world.outputs + world.plan()
    assert {device.id for device in devices} <= {one.device for one in asked if isinstance(one, CheckInRequest)}
    assert (RolloutState.CANCELED, False) == (of(world, rollout).state, of(world, rollout).is_planning)
    assert not of(world, rollout).standing.is_resuming
    world.tick()
    assert {State.OFFERED, State.DOWNLOADING} == {device.state for device in devices}
    for device in devices:
        confirm(device)


def test_who_runs_a_newer_rollouts_release_is_not_in_the_line_of_an_older_one():
    world = World()
    world.release("1.1.0")
    world.release("1.2.0", seq=3)
    device = world.device("d1")
    device.runs("1.0.0", seq=None).check_in()
    start(world)
    world.do("rollout.start", release="1.2.0", devices=["prod/d1"])
    world.passes(60)
    device.asks()
    device.says("downloaded")
    device.says("burning")
    device.runs("1.2.0", seq=None)
    device.restarts()
    said = world.do("why", device=str(device.id))
    assert ("confirmed", True) == (said["code"], "runs the assigned firmware" in said["sentence"])


def test_who_is_held_leaves_its_slot_to_the_next_in_the_same_step():
    world, devices = fleet(4)
    world.do("limits.set", downloads=1)
    rollout = start(world)
    world.plan()
    assert [0, 1, 1] == sorted(device.open.slot_rank for device in begun(devices))
    world.do("rollout.pause", rollout=rollout)
    world.passes(31)
    world.plan()
    assert {0} == {device.open.slot_rank for device in begun(devices)}


def test_who_sleeps_is_waited_for_no_longer_once_its_rollout_finishes():
    world, devices = fleet(3)
    rollout = start(world, plan={"timeouts": {"offered_s": 300.0, "sleepers_wait": True}})
    world.passes(10 * 86_400)
    assert {State.OFFERED} == {device.state for device in devices}
    world.do("rollout.cancel", rollout=rollout, let_finish=True)
    world.passes(299)
    assert {State.OFFERED} == {device.state for device in devices}
    world.passes(400)
    assert {State.TIMED_OUT} == {device.state for device in devices}


def test_an_install_ends_by_its_time_while_its_rollout_goes_on_again():
    world, devices = fleet(3)
    rollout = start(world)
    devices[0].says("downloaded")
    devices[0].says("burning")
    world.passes(10)
    world.do("rollout.pause", rollout=rollout)
    resume = {"rollout": rollout}
    world.commit(lambda unit: perform(unit, world.bridge, "rollout.resume", resume, caller=world.caller, now=world.now))
    assert of(world, rollout).standing.is_resuming
    world.passes(10 * 86_400)
    assert of(world, rollout).standing.is_resuming
    assert State.TIMED_OUT is devices[0].state


def test_a_withdrawal_cancels_all_of_a_rollout_that_may_finish():
    world, devices = fleet(AT_ONCE_MAX + 20)
    rollout = start(world)
    world.do("rollout.pause", rollout=rollout)
    steps = (("rollout.cancel", {"rollout": rollout, "let_finish": True}), ("release.withdraw", {"release": "1.1.0"}))
    for what, args in steps:
        world.commit(
            lambda unit, what=what, args=args: perform(
                unit, world.bridge, what, args, caller=world.caller, now=world.now
            )
        )
    world.plan()
    assert not [device for device in devices if device.state in {State.OFFERED, State.DOWNLOADING}]
    assert not of(world, rollout).is_planning


def test_a_rollout_that_is_canceled_while_it_goes_on_again_is_canceled():
    world, devices = fleet(3)
    rollout = start(world)
    world.do("rollout.pause", rollout=rollout)
    for what in ("rollout.resume", "rollout.cancel"):
        args = {"rollout": rollout}
        world.commit(
            lambda unit, what=what, args=args: perform(
                unit, world.bridge, what, args, caller=world.caller, now=world.now
            )
        )
    world.plan()
    assert not [device for device in devices if device.latest.is_open and device.state is not State.CANCELING]
    assert not of(world, rollout).is_planning


def test_who_resumes_a_rollout_that_failed_has_seen_its_failures():
    world, devices = fleet(10)
    rollout = start(world, {"stages": [{"devices": 4, "failure": {"count": 2}}, {}]})
    for device in begun(devices)[:2]:
        fail(device, code="REFUSED_SIG")
    world.plan()
    world.do("rollout.resume", rollout=rollout)
    world.plan()
    assert RolloutState.RUNNING is of(world, rollout).state
    for device in begun(devices)[2:]:
        fail(device)
    world.plan()
    assert RolloutState.PAUSED is of(world, rollout).state


def test_who_resumes_has_seen_no_failures_but_those_that_the_gate_counts():
    world, devices = fleet(4)
    failure = {"count": 1, "kinds": ["ROLLED_BACK"]}
    rollout = start(world, {"stages": [{"devices": 3, "failure": failure}, {}]})
    first, second, third = begun(devices)
    for device in (first, second):
        fail(device, code="REFUSED_SIG")
    world.do("rollout.pause", rollout=rollout)
    world.do("rollout.resume", rollout=rollout)
    for state in ("downloaded", "burning", "rolled_back"):
        third.says(state)
    world.plan()
    assert RolloutState.PAUSED is of(world, rollout).state


@pytest.mark.parametrize(("action", "state"), [("pause", RolloutState.PAUSED), ("cancel", RolloutState.CANCELED)])
def test_a_failure_gate_does_what_its_plan_says(action, state):
    world, devices = fleet(4)
    rollout = start(world, {"stages": [{"devices": 2, "failure": {"count": 1, "action": action}}, {}]})
    fail(begun(devices)[0])
    world.plan()
    world.plan()
    assert state is of(world, rollout).state
    assert (state is RolloutState.CANCELED) is (begun(devices)[1].state in {State.CANCELING, State.CANCELED})


def test_a_person_can_be_asked_between_two_stages():
    world, devices = fleet(4)
    rollout = start(world, {"stages": [{"devices": 1, "success": {"action": "wait"}}, {}]})
    confirm(begun(devices)[0])
    world.plan()
    assert ("waits_for_person", 1) == (world.do("why", device=rollout)["code"], len(begun(devices)))
    world.do("rollout.next", rollout=rollout)
    world.plan()
    assert devices == begun(devices)


def test_a_stage_can_be_opened_by_hand_before_its_gate_and_the_last_one_has_no_next():
    world, devices = fleet(4)
    rollout = start(world, {"stages": [{"devices": 1}, {}]})
    world.do("rollout.next", rollout=rollout)
    world.plan()
    assert devices == begun(devices)
    with pytest.raises(Conflict, match="its last stage is open"):
        world.do("rollout.next", rollout=rollout)


def test_a_success_soaks():
    world, devices = fleet(4)
    rollout = start(world, {"stages": [{"devices": 1, "success": {"soak_s": 60}}, {}]})
    confirm(begun(devices)[0])
    world.plan()
    assert "soaking" == world.do("why", device=rollout)["code"]
    world.jump(59)
    world.plan()
    assert 1 == len(begun(devices))
    world.jump(2)
    world.plan()
    assert devices == begun(devices)


def test_a_soak_begins_anew_when_what_was_confirmed_was_lost_meanwhile():
    world, devices = fleet(4)
    start(world, {"stages": [{"devices": 1, "success": {"soak_s": 60}}, {}]})
    first = begun(devices)[0]
    confirm(first)
    world.plan()
    world.jump(30)
    first.runs(FACTORY, seq=1).restarts()
    world.plan()
    confirm(first)
    world.plan()
    world.jump(59)
    world.plan()
    assert [first] == begun(devices)
    world.jump(2)
    world.plan()
    assert devices == begun(devices)


def test_a_window_opens_by_the_devices_own_zone():
    world, devices = fleet(2)  # the world's clock stands at 13:46:40 UTC, which is 22:46:40 in Tokyo
    world.do("device.set", device="d000", attrs={"tz": "Asia/Tokyo"})
    start(world, {"windows": [{"cron": "0 3 * * *", "length_s": 3600}]})
    world.plan()
    world.passes(15_199)
    assert [State.QUEUED, State.QUEUED] == [device.state for device in devices]
    world.passes(361)
    assert [State.OFFERED, State.QUEUED] == [device.state for device in devices]


def test_the_gate_says_how_far_it_is():
    world, devices = fleet(10)
    rollout = start(world, {"stages": [{"name": "canary", "devices": 5}, {}]})
    for device in begun(devices)[:3]:
        confirm(device)
    world.plan()
    found = world.do("why", device=rollout)
    assert ("gate_not_met", True) == (found["code"], "3 of 5 confirmed" in found["sentence"])


def test_devices_that_run_it_already_are_no_canaries():
    world, devices = fleet(4)
    for device in devices[:3]:
        device.runs("1.1.0")
        device.check_in()
    rollout = start(world, {"stages": [{"devices": 2}, {}]})
    world.plan()
    assert [devices[3]] == begun(devices) or open_stages(world, rollout)[0] == "open"


def test_a_rollout_starts_at_its_time():
    world, devices = fleet(3)
    rollout = start(world, {"start_wall": START_S + 3600})
    world.plan()
    assert ([], "waits_for_start") == (begun(devices), world.do("why", device=rollout)["code"])
    assert "waits_for_start" == devices[0].why()[0]
    devices[0].check_in()
    world.plan()
    assert [] == begun(devices)
    world.jump(3601)
    world.plan()
    assert devices == begun(devices)


def test_the_pace_lets_one_in_after_the_other():
    world, devices = fleet(10)
    rollout = start(world, {"pace": {"per_min": 6}})
    seen = []
    for _ in range(6):
        world.plan()
        seen.append(len(begun(devices)))
        world.jump(10)
    assert [1, 2, 3, 4, 5, 6] == seen
    assert "waits_for_pace" == world.do("why", device=rollout)["code"] or world.plan() is not None


def test_a_check_in_does_not_jump_the_line():
    world, devices = fleet(10)
    start(world, {"pace": {"per_min": 1}})
    for device in devices:
        device.check_in()
    assert 1 == len(begun(devices))


def test_the_deadline_cancels_what_has_not_begun_to_install():
    world, devices = fleet(3)
    rollout = start(world, {"deadline_s": 3600})
    confirm(devices[0])
    devices[1].asks()
    devices[1].says("downloaded")
    devices[1].says("burning")
    world.jump(3601)
    world.plan()
    assert (RolloutState.CANCELED, "its deadline has passed") == (of(world, rollout).state, of(world, rollout).cause)
    assert [State.CONFIRMED, State.CANCELING] == [device.state for device in devices[:2]]
    assert devices[2].state in {State.CANCELING, State.CANCELED}
    assert not of(world, rollout).is_planning


def test_late_devices_are_taken_in_or_not():
    for takes_late in (True, False):
        world, _ = fleet(2)
        start(world, {"takes_late": takes_late})
        world.jump(10)
        late = world.device("late")
        late.check_in()
        world.plan()
        assert takes_late is bool(late.all)


def test_a_late_device_of_a_stage_that_is_not_open_waits_for_it():
    world, devices = fleet(6)
    start(world, {"stages": [{"devices": 1}, {}]})
    world.jump(10)
    late = [world.device(f"late{number}") for number in range(8)]
    for device in late:
        device.check_in()
    world.plan()
    waiting = [device for device in late if not device.all]
    assert waiting
    assert {"waits_for_stage"} == {device.why()[0] for device in waiting}
    confirm(begun(devices)[0])
    for device in begun(late):
        confirm(device)
    world.plan()
    assert devices + late == begun(devices + late)


def test_a_newer_rollout_wins_and_an_urgent_one_wins_over_it():
    world, devices = fleet(1)
    world.release("1.2.0", seq=3)
    world.release("1.3.0", seq=4)
    device = devices[0]
    start(world)
    world.do("rollout.start", release="1.3.0", plan={"is_urgent": True})
    world.do("rollout.start", release="1.2.0")
    assert "prod/1.3.0" == device.record.assigned["firmware"].release
    assert 1 >= len(world.read(lambda unit: unit.deployments.open_of(device.id)))


def test_slots_hold_notices_back_until_one_is_free():
    world, devices = fleet(20)
    world.do("limits.set", downloads=3)
    start(world)
    world.plan()
    offered = [device for device in devices if device.all and device.state is State.OFFERED]
    assert 3 == len(offered)
    held = [device for device in begun(devices) if device.state is State.QUEUED]
    assert held
    assert {("waits_for_slot")} == {device.why()[0] for device in held}
    assert {True} == {"waits for one of 3 download slots" in device.why()[1] for device in held}
    for device in devices:
        device.check_in()
    world.plan()
    assert 3 == sum(bool(device.all) and device.state is State.OFFERED for device in devices)
    offered[0].asks()
    offered[0].says("downloaded")
    world.plan()
    assert 3 == sum(bool(device.all) and device.state is State.OFFERED for device in devices)
    assert offered[0].state is State.DOWNLOADED


def test_every_device_gets_its_turn_with_few_slots():
    world, devices = fleet(12)
    world.do("limits.set", downloads=2)
    rollout = start(world)
    for _ in range(40):
        for device in devices:
            if device.all and device.state is State.OFFERED:
                confirm(device)
        world.jump(1)
        world.plan()
    assert [State.CONFIRMED] * 12 == [device.state for device in devices]
    assert of(world, rollout).standing.is_through


def test_who_sleeps_does_not_hold_a_slot_for_ever():
    world, devices = fleet(6)
    world.do("limits.set", downloads=2)
    start(world)
    world.plan()
    for _ in range(4):
        world.jump(31)
        world.plan()
    assert 6 == sum(device.state is State.OFFERED for device in begun(devices))


def test_a_rollout_is_rolled_back_to_what_ran_before_once_that_was_signed_again():
    world, devices = fleet(3)
    world.release("1.0.0", seq=1)  # what the devices run, as the catalog has it
    rollout = start(world)
    for device in devices[:2]:
        confirm(device)
    with pytest.raises(Conflict) as refused:
        world.do("rollout.rollback", rollout=rollout)
    assert "its devices ran prod/1.0.0" in str(refused.value)
    assert "with seq 3 or higher" in str(refused.value)
    with pytest.raises(InvalidInput, match="with seq 3 or higher"):
        world.do("rollout.check", release="1.1.0", plan={"roll_back_to": "prod/1.0.0"})
    world.release("1.0.0-again", seq=3, image=image_of("1.0.0"))
    back = world.do("rollout.rollback", rollout=rollout)
    assert ("prod/1.0.0-again", True) == (back["release"], back["urgent"])
    assert RolloutState.CANCELED is of(world, rollout).state
    for device in devices[:2]:
        assert "prod/1.0.0-again" == device.record.assigned["firmware"].release
    assert "firmware" not in devices[2].record.assigned


def test_a_gate_can_roll_back():
    world, devices = fleet(4)
    world.release("1.0.1", seq=3)
    plan = {
        "stages": [{"devices": 3, "failure": {"count": 1, "action": "roll_back"}}, {}],
        "roll_back_to": "prod/1.0.1",
    }
    rollout = start(world, plan)
    one, two, three = begun(devices)
    confirm(one)
    fail(two)
    world.plan()
    world.plan()
    back = world.do("rollout.list")[-1]
    assert ("prod/1.0.1", f"rolls back {rollout} (prod/1.1.0): stage 1: 1 failed, 1 are too many") == (
        back["release"],
        back["cause"],
    )
    assert "prod/1.0.1" == one.record.assigned["firmware"].release
    assert three.state in {State.CANCELING, State.CANCELED}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"plan": {"stages": []}}, "stages: 0 of them"),
        ({"plan": {"stags": []}}, "did you mean stages?"),
        ({"plan": {"roll_back_to": "prod/9"}}, "there is no release prod/9"),
        ({"where": "x", "devices": ["d000"]}, "not both"),
        ({"where": "x"}, "where"),
    ],
)
def test_a_plan_that_cannot_work_starts_nothing(args, says):
    world, _ = fleet(1)
    with pytest.raises(InvalidInput, match=says.replace("?", "\\?")):
        world.do("rollout.start", release="1.1.0", **args)
    assert [] == world.do("rollout.list")


def test_a_rollout_that_needs_approval_waits_for_it():
    world, devices = fleet(2)
    rollout = start(world, {"approvals": 1})
    world.plan()
    assert ([], "waits_for_approval") == (begun(devices), world.do("why", device=rollout)["code"])
    assert "waits_for_approval" == devices[0].why()[0]
    with pytest.raises(Conflict, match="approve"):
        world.do("rollout.resume", rollout=rollout)
    with pytest.raises(Conflict, match="waits for approval"):
        world.do("rollout.pause", rollout=rollout)


def test_a_canceled_rollout_can_let_what_runs_finish():
    world, devices = fleet(4)
    rollout = start(world, {"stages": [{"devices": 2}, {}]})
    running = begun(devices)
    running[0].asks()
    world.do("rollout.cancel", rollout=rollout, let_finish=True)
    world.plan()
    assert running == begun(devices)
    assert {State.OFFERED, State.DOWNLOADING} == {device.state for device in running}
    confirm(running[0])


def test_a_clock_that_is_set_moves_the_times_of_a_rollout_along():
    world, devices = fleet(4)
    rollout = start(world, {"stages": [{"devices": 1, "success": {"soak_s": 60}}, {}], "deadline_s": 7200})
    confirm(begun(devices)[0])
    world.plan()
    world.wall += 100_000
    world.commit(lambda unit: (None, world.bridge.clock_stepped(unit, 100_000) or []))
    world.plan()
    assert (RolloutState.RUNNING, 1) == (of(world, rollout).state, len(begun(devices)))
    world.jump(61)
    world.plan()
    assert devices == begun(devices)


def test_a_dry_run_says_who_gets_it_and_why_others_do_not_and_changes_nothing():
    world, devices = fleet(4)
    devices[0].runs("1.1.0")
    devices[0].check_in()
    other = world.device("other", hw="r9")
    other.check_in()
    world.do("device.retire", device="d001")
    world.do("device.add", device="prod/new")
    found = world.do("rollout.plan", release="1.1.0")
    assert ["prod/d002", "prod/d003"] == found["gets"]["devices"]
    assert {
        "runs_it": ["prod/d000"],
        "wrong_hardware": ["prod/other"],
        "retired": ["prod/d001"],
        "never_checked_in": ["prod/new"],
    } == {code: group["devices"] for code, group in found["not"].items()}
    assert ([], []) == (world.do("rollout.list"), begun(devices))
    start(world)
    assert found["gets"]["devices"] == [str(device.id) for device in begun([*devices, other])]


def test_a_stepping_stone_opens_no_stage():
    world, devices = fleet(3)
    world.release("1.2.0", seq=3, installs_from=("1.1.0",))
    rollout = world.do("rollout.start", release="1.2.0", plan={"stages": [{"devices": 1}, {}]})["id"]
    (canary,) = begun(devices)
    confirm(canary)
    world.plan()
    assert [canary] == begun(devices)
    world.passes(60)
    canary.asks()
    canary.runs("1.2.0", seq=3)
    canary.restarts()
    world.plan()
    assert (devices, True) == (begun(devices), len(of(world, rollout).standing.ends) == 2)


def test_what_a_rollout_does_by_itself_is_in_the_audit_log():
    world, devices = fleet(4)
    rollout = start(world, {"stages": [{"name": "canary", "devices": 1}, {"name": "rest", "failure": {"count": 1}}]})
    confirm(begun(devices)[0])
    world.plan()
    fail(next(device for device in begun(devices) if device.state is State.OFFERED))
    world.plan()
    found = world.read(lambda unit: unit.audit.page())
    told = [(one.action, one.actor) for one in found if one.subject == f"rollout {rollout}" and one.how == "system"]
    assert [("rollout.members", "ota-bridge"), ("gate.met", "ota-bridge"), ("gate.failed", "ota-bridge")] == told


def test_the_places_of_a_query_come_before_all_others():
    assert TIER == 1 << 40


def test_a_cancel_of_many_stops_all_blocks_at_once_and_takes_the_rest_in_slices():
    world, devices = fleet(AT_ONCE_MAX + 20)
    rollout = start(world)
    for device in devices:
        device.asks()
    cancel = {"rollout": rollout}
    said = world.commit(
        lambda unit: perform(unit, world.bridge, "rollout.cancel", cancel, caller=world.caller, now=world.now)
    )
    assert len(devices) == said[0]["canceled"]
    assert AT_ONCE_MAX == sum(device.state is State.CANCELING for device in devices)
    assert {GrantState.PAUSED} == {state for device in devices for state in world.granted(device.id).values()}
    world.plan()
    assert {State.CANCELING} == {device.state for device in devices}
    assert ({}, None) == (world.server.held, of(world, rollout).sweep)


@pytest.mark.parametrize(
    ("operation", "args"),
    [("rollout.cancel", {}), ("release.withdraw", {"release": "1.1.0"})],
    ids=["cancel", "withdraw"],
)
def test_who_waits_for_the_slice_that_cancels_it_does_not_begin_to_install(operation, args):
    world, devices = fleet(AT_ONCE_MAX + 2)
    rollout = start(world)
    for device in devices:
        device.says("downloaded")
    wanted = args or {"rollout": rollout}
    world.commit(lambda unit: perform(unit, world.bridge, operation, wanted, caller=world.caller, now=world.now))
    waiting = [device for device in devices if device.state is State.DOWNLOADED]
    assert 2 == len(waiting)
    for device in waiting:
        ack = world.sent(ReportAck, device.says("burning"))[0]
        assert ((), (device.open.id,)) == (ack.go, ack.stop)
    world.plan()
    assert {State.CANCELING} == {device.state for device in devices}
