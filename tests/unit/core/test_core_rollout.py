"""Rollouts: who is meant, what a policy says, and that planning twice is planning once."""

from dataclasses import replace

import pytest
from core_world import World, facts_of
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.catalog import Release, ReleasePart, ReleaseState
from ota_bridge.core.deployment import Deployment, State
from ota_bridge.core.errors import Conflict, InvalidInput
from ota_bridge.core.fleet import Assignment, Device, DeviceState
from ota_bridge.core.messages import InstalledPart
from ota_bridge.core.rollout import planner, policy
from ota_bridge.core.rollout.model import Rollout, RolloutState, Target, share_of
from ota_bridge.core.rollout.plan import Plan, Tries
from ota_bridge.core.rollout.policy import FINAL_REFUSALS, Obstacle, Retries
from ota_bridge.core.values import DeploymentId, DeviceId, ReleaseId, RolloutId, release_id

RELEASE_ID = release_id("prod", "1.1.0")
NAMES = st.text("abcdefghij0123456789", min_size=1, max_size=12).map(lambda name: DeviceId("prod", name))


def rollout(**changes):
    plain = Rollout(
        id=RolloutId("r-000001"),
        release=RELEASE_ID,
        product="prod",
        target=Target(),
        state=RolloutState.RUNNING,
        created_wall=1.0,
        created_by="ann",
        changed_wall=1.0,
        changed_by="ann",
    )
    return replace(plain, **changes)


def release(version="1.1.0", seq=2, **changes):
    part = ReleasePart(component="firmware", envelope=b"e", manifest=facts_of(version, seq=seq), md5="0" * 32)
    plain = Release(
        id=release_id("prod", version),
        product="prod",
        version=version,
        hardware=("r1",),
        parts={"firmware": part},
        state=ReleaseState.ACTIVE,
        created_wall=1.0,
        created_by="ann",
    )
    return replace(plain, **changes)


def device(**changes):
    plain = Device(
        id=DeviceId("prod", "d1"),
        state=DeviceState.ACTIVE,
        created_wall=1.0,
        hw="r1",
        proto=1,
        boot=7,
        parts={"firmware": InstalledPart(version="1.0.0", seq=1)},
        last_report_wall=1.0,
    )
    return replace(plain, **changes)


def attempt(number, state, **changes):
    plain = Deployment(
        id=DeploymentId(f"{number:012x}"),
        device=DeviceId("prod", "d1"),
        component="firmware",
        release=RELEASE_ID,
        rollout=RolloutId("r-000001"),
        attempt=number,
        state=state,
        cause="x",
        created_wall=float(number),
        changed_wall=float(number),
        size_bytes=10,
        old_version="1.0.0",
    )
    return replace(plain, **changes)


# --- who is meant ------------------------------------------------------------------------------------------------


@given(NAMES, st.integers(0, 100), st.integers(0, 100))
def test_a_smaller_share_is_within_a_larger_one(name, one, other):
    small, large = sorted((one, other))
    if Target(percent=small).holds(name, RELEASE_ID):
        assert Target(percent=large).holds(name, RELEASE_ID)


@given(NAMES)
def test_none_is_nobody_and_all_is_everybody(name):
    assert not Target(percent=0).holds(name, RELEASE_ID)
    assert Target(percent=100).holds(name, RELEASE_ID)


@given(NAMES)
def test_a_share_is_stable_and_within_bounds(name):
    assert share_of(name, RELEASE_ID) == share_of(DeviceId.parse(str(name)), RELEASE_ID)
    assert 0 <= share_of(name, RELEASE_ID) < 10_000


@pytest.mark.parametrize("percent", [1, 10, 50])
def test_a_share_is_about_as_large_as_it_says(percent):
    names = [DeviceId("prod", f"d{number}") for number in range(10_000)]
    meant = sum(Target(percent=percent).holds(name, RELEASE_ID) for name in names)
    assert abs(meant - 100 * percent) < 150


def test_the_canaries_differ_from_release_to_release():
    names = [DeviceId("prod", f"d{number}") for number in range(1000)]
    first, second = (
        {name for name in names if Target(percent=10).holds(name, release_id("prod", version))}
        for version in ("1.1.0", "1.2.0")
    )
    assert len(first & second) < len(first) / 2


def test_named_devices_are_those_and_no_others():
    target = Target(devices=(DeviceId("prod", "d1"),))
    assert [True, False] == [target.holds(DeviceId("prod", name), RELEASE_ID) for name in ("d1", "d2")]


@pytest.mark.parametrize("percent", [-1, 101])
def test_a_share_outside_zero_to_hundred_is_refused_when_it_is_made(percent):
    with pytest.raises(InvalidInput):
        Target(percent=percent)


@pytest.mark.parametrize(
    ("target", "text"),
    [(Target(), "all"), (Target(percent=10), "10 %"), (Target(devices=(DeviceId("p", "d"),)), "1 named")],
)
def test_a_target_is_shown_in_words(target, text):
    assert text == str(target)


# --- states ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", list(RolloutState))
@pytest.mark.parametrize("after", [state for state in RolloutState if state is not RolloutState.WAITING])
def test_a_rollout_moves_between_running_and_paused_until_it_is_canceled(before, after):
    never_ran = before is RolloutState.WAITING and after is RolloutState.PAUSED
    if before is RolloutState.CANCELED or before is after or never_ran:
        with pytest.raises(Conflict):
            rollout(state=before).becomes(after, 9.0, "bob")
    else:
        moved = rollout(state=before).becomes(after, 9.0, "bob")
        assert (after, 9.0, "bob") == (moved.state, moved.changed_wall, moved.changed_by)


def test_a_share_grows_and_never_shrinks():
    ten = rollout(target=Target(percent=10))
    assert 50 == ten.widened(50, 9.0, "bob").target.percent
    with pytest.raises(InvalidInput, match="can only grow"):
        ten.widened(5, 9.0, "bob")
    with pytest.raises(InvalidInput):
        ten.widened(101, 9.0, "bob")


def test_only_a_share_of_a_rollout_that_lives_can_be_widened():
    with pytest.raises(Conflict):
        rollout(state=RolloutState.CANCELED, target=Target(percent=1)).widened(5, 9.0, "bob")
    with pytest.raises(Conflict):
        rollout(target=Target(devices=(DeviceId("prod", "d1"),))).widened(5, 9.0, "bob")


# --- verdicts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "obstacle"),
    [
        ({}, None),
        ({"state": DeviceState.RETIRED}, Obstacle.RETIRED),
        ({"state": DeviceState.PENDING}, Obstacle.PENDING),
        ({"last_report_wall": None}, Obstacle.NEVER_CHECKED_IN),
        ({"parts": {}}, Obstacle.NEVER_CHECKED_IN),
        ({"hw_reported": "r2"}, Obstacle.HW_CONFLICT),
    ],
)
def test_who_may_take_part(changes, obstacle):
    assert obstacle is policy.may_take_part(device(**changes))


@pytest.mark.parametrize(
    ("changes", "release_", "obstacle"),
    [
        ({}, release(), None),
        ({}, release(state=ReleaseState.WITHDRAWN), Obstacle.WITHDRAWN),
        ({"hw": "r2"}, release(), Obstacle.WRONG_HARDWARE),
        ({"hw": None}, release(), Obstacle.WRONG_HARDWARE),
        ({"hw": None, "proto": 0}, release(), None),
        ({"parts": {"config": InstalledPart(version="1")}}, release(), Obstacle.NO_SUCH_COMPONENT),
    ],
)
def test_what_fits(changes, release_, obstacle):
    assert obstacle is policy.fits(device(**changes), release_, release_.parts["firmware"])


@pytest.mark.parametrize(
    ("installed", "obstacle"),
    [
        (InstalledPart(version="1.0.0", seq=1), None),
        (InstalledPart(version="1.0.0"), None),
        (InstalledPart(version="1.1.0", seq=2), Obstacle.RUNS_IT),
        (InstalledPart(version="0.9.0", seq=2), Obstacle.ANTI_ROLLBACK),
        (InstalledPart(version="0.9.0", seq=2**32 - 1), Obstacle.ANTI_ROLLBACK),
        (InstalledPart(version="1.1.0", seq=1, digest8=b"12345678"), None),
        (InstalledPart(version="x", seq=9, digest8=facts_of().sha256[:8]), Obstacle.RUNS_IT),
    ],
)
def test_what_is_needed(installed, obstacle):
    wanted = release()
    assert obstacle is policy.is_needed(device(parts={"firmware": installed}), wanted.parts["firmware"])


@pytest.mark.parametrize(
    ("version", "is_known", "obstacle"),
    [
        ("1.1.1", False, Obstacle.RUNS_NEWER),
        ("1.2", False, Obstacle.RUNS_NEWER),
        ("v2", False, Obstacle.RUNS_NEWER),
        ("1.1.0.1", False, Obstacle.RUNS_NEWER),
        ("10.0", False, Obstacle.RUNS_NEWER),
        ("2.0.0", True, None),
        ("1.1", False, None),
        ("1.1.0.0", False, None),
        ("1.0.9", False, None),
        ("2.0.0-rc1", False, Obstacle.RUNS_NEWER),
        ("1.1.0-rc1", False, None),
        ("2.0.0-14-gdeadbeef", False, None),
        ("", False, None),
        ("9" * 32, False, None),
        ("1..2", False, None),
        ("\N{ARABIC-INDIC DIGIT TWO}", False, None),
    ],
)
def test_without_a_counter_a_higher_number_that_the_catalog_does_not_have_is_newer(version, is_known, obstacle):
    wanted, runs = release(), device(parts={"firmware": InstalledPart(version=version)})
    assert obstacle is policy.is_needed(runs, wanted.parts["firmware"], is_known=is_known)


def test_the_first_attempt_waits_for_nothing():
    assert (None, None) == Retries().verdict([])


@pytest.mark.parametrize("order", [1, -1])
def test_attempts_wait_four_times_longer_each_and_are_ordered_by_their_number(order):
    attempts = [attempt(1, State.FAILED), attempt(2, State.FAILED)][::order]
    assert (None, 2.0 + 240.0) == Retries().verdict(attempts)


def test_attempts_are_used_up():
    attempts = [attempt(number, State.FAILED) for number in (3, 2, 1)]
    assert Obstacle.ATTEMPTS_USED is Retries().verdict(attempts)[0]


def test_two_rollbacks_are_enough():
    attempts = [attempt(2, State.ROLLED_BACK), attempt(1, State.ROLLED_BACK)]
    assert Obstacle.ATTEMPTS_USED is Retries(max_attempts=9).verdict(attempts)[0]


def test_as_many_attempts_as_can_be_set_have_a_wait_that_is_a_number():
    retries = Retries(max_attempts=1000, backoff_s=86_400)
    _, not_before = retries.verdict([attempt(number, State.FAILED) for number in range(999, 0, -1)])
    assert 0 < not_before < retries.longest_wait_s + 1e9 < 1e11


@pytest.mark.parametrize("code", sorted(FINAL_REFUSALS))
def test_a_final_refusal_ends_it(code):
    assert Obstacle.FINAL_REFUSAL is Retries().verdict([attempt(1, State.FAILED, result_code=code)])[0]


@pytest.mark.parametrize(
    ("tries_", "states", "obstacle"),
    [
        (Tries(), ["FAILED", "FAILED"], None),
        (Tries(failed=2), ["FAILED", "FAILED"], Obstacle.ATTEMPTS_USED),
        (Tries(failed=2), ["FAILED", "TIMED_OUT"], None),
        (Tries(timed_out=1), ["TIMED_OUT"], Obstacle.ATTEMPTS_USED),
        (Tries(rolled_back=1), ["ROLLED_BACK"], Obstacle.ATTEMPTS_USED),
        (Tries(max_attempts=1), ["FAILED"], Obstacle.ATTEMPTS_USED),
        (Tries(max_attempts=9), ["FAILED"] * 8, None),
        (Tries(quarantine_after=2), ["FAILED", "TIMED_OUT"], Obstacle.QUARANTINED),
        (Tries(quarantine_after=3), ["FAILED", "TIMED_OUT"], None),
    ],
)
def test_a_plan_has_tries_of_its_own_for_each_kind_of_end(tries_, states, obstacle):
    attempts = [attempt(number, State(state)) for number, state in enumerate(states, start=1)]
    assert obstacle is Retries().under(tries_).verdict(attempts)[0]


def test_failures_of_other_rollouts_count_for_the_quarantine_alone():
    retries = Retries(quarantine_after=3)
    assert Obstacle.QUARANTINED is retries.verdict([], others=3)[0]
    assert (None, None) == retries.verdict([], others=2)


def test_a_backoff_of_nothing_is_one():
    assert 0.0 == Retries().under(Tries(backoff_s=0.0)).backoff_s


def test_a_success_starts_the_count_afresh():
    attempts = [attempt(4, State.CONFIRMED), *(attempt(number, State.FAILED) for number in (3, 2, 1))]
    assert (None, None) == Retries().verdict(attempts)


# --- planning ----------------------------------------------------------------------------------------------------

RELEASES = {RELEASE_ID: release(), release_id("prod", "1.2.0"): release("1.2.0", 3)}
OLD = rollout()
NEW = rollout(id=RolloutId("r-000002"), release=release_id("prod", "1.2.0"), created_wall=2.0)


def takes(one):
    return one.target.holds(device().id, one.release)


def tries(_rollout):
    return Retries()


def test_an_urgent_rollout_wins_over_a_newer_one():
    urgent = replace(OLD, plan=Plan(is_urgent=True))
    assert {"firmware": Assignment(release=OLD.release, rollout=OLD.id)} == planner.assignments(
        device(), [urgent, NEW], RELEASES, takes
    )


URGENT = replace(OLD, plan=Plan(is_urgent=True))
IS_URGENT = Assignment(release=OLD.release, rollout=OLD.id)
IS_NEW = Assignment(release=NEW.release, rollout=NEW.id)


def running(version, seq):
    return device(parts={"firmware": InstalledPart(version=version, seq=seq)})


@pytest.mark.parametrize("seq", [2, None], ids=["seq", "without seq"])
def test_what_an_urgent_rollout_has_brought_gives_way_to_a_newer_one(seq):
    held = running("1.1.0", seq).assign("firmware", IS_URGENT)
    assert {"firmware": IS_NEW} == planner.assignments(held, [URGENT, NEW], RELEASES, takes)


@pytest.mark.parametrize("seq", [3, None], ids=["seq", "without seq"])
def test_an_urgent_rollout_does_not_take_back_what_a_newer_one_has_brought(seq):
    held = running("1.2.0", seq).assign("firmware", IS_NEW)
    assert {"firmware": IS_NEW} == planner.assignments(held, [URGENT, NEW], RELEASES, takes)


def test_an_urgent_rollout_overtakes_a_newer_one_on_its_way():
    held = device().assign("firmware", IS_NEW)
    assert {"firmware": IS_URGENT} == planner.assignments(held, [URGENT, NEW], RELEASES, takes)


@pytest.mark.parametrize("state", [RolloutState.CANCELED, RolloutState.PAUSED])
def test_an_urgent_rollout_that_is_over_holds_no_device_and_a_paused_one_does(state):
    held = device().assign("firmware", IS_URGENT)
    found = planner.assignments(held, [replace(URGENT, state=state), NEW], RELEASES, takes)
    assert {"firmware": IS_NEW if state is RolloutState.CANCELED else IS_URGENT} == found


def test_nothing_is_asked_of_a_rollout_that_could_not_be_assigned():
    held = device().assign("firmware", Assignment(release=NEW.release, rollout=NEW.id))
    asked = []
    planner.assignments(held, [OLD, NEW], RELEASES, lambda one: asked.append(one) or True)
    assert [] == asked


def test_the_newest_running_rollout_that_means_and_fits_a_device_is_its_assignment():
    assert {"firmware": Assignment(release=NEW.release, rollout=NEW.id)} == planner.assignments(
        device(), [OLD, NEW], RELEASES, takes
    )


@pytest.mark.parametrize(
    "newer",
    [
        replace(NEW, state=RolloutState.PAUSED),
        replace(NEW, state=RolloutState.CANCELED),
        replace(NEW, target=Target(percent=0)),
    ],
)
def test_a_rollout_that_does_not_run_or_mean_it_assigns_nothing(newer):
    assert {"firmware": Assignment(release=OLD.release, rollout=OLD.id)} == planner.assignments(
        device(), [OLD, newer], RELEASES, takes
    )


def test_an_assignment_stays_when_nothing_newer_takes_its_place():
    held = device().assign("firmware", Assignment(release=NEW.release, rollout=NEW.id))
    paused = replace(NEW, state=RolloutState.PAUSED)
    assert held.assigned == planner.assignments(held, [OLD, paused], RELEASES, takes)


def assigned(release_=RELEASE_ID, rollout_="r-000001", **changes):
    return device(**changes).assign("firmware", Assignment(release=ReleaseId(release_), rollout=RolloutId(rollout_)))


def test_a_difference_opens_an_attempt_with_the_next_number():
    past = [attempt(2, State.FAILED), attempt(1, State.FAILED)]
    step = planner.steps(assigned(), RELEASES, past, tries)[0]
    assert isinstance(step, planner.Open)
    assert (3, 242.0) == (step.attempt, step.not_before_wall)


def test_what_runs_what_it_should_needs_no_step():
    runs_it = assigned(parts={"firmware": InstalledPart(version="1.1.0", seq=2)})
    assert [] == planner.steps(runs_it, RELEASES, [], tries)


def test_an_open_attempt_of_the_assignment_needs_no_step():
    assert [] == planner.steps(assigned(), RELEASES, [attempt(1, State.OFFERED)], tries)


@pytest.mark.parametrize("state", ["QUEUED", "OFFERED", "DEFERRED", "DOWNLOADING", "DOWNLOADED", "INSTALLING"])
def test_an_open_attempt_of_another_release_is_superseded(state):
    steps = planner.steps(assigned("prod/1.2.0", "r-000002"), RELEASES, [attempt(1, State(state))], tries)
    assert ["superseded by prod/1.2.0"] == [step.cause for step in steps]


@pytest.mark.parametrize("state", ["TRIAL", "CANCELING"])
def test_what_cannot_be_canceled_or_already_is_gets_no_second_step(state):
    assert [] == planner.steps(assigned("prod/1.2.0", "r-000002"), RELEASES, [attempt(1, State(state))], tries)


def test_an_obstacle_is_a_step_that_says_so():
    old = assigned(parts={"firmware": InstalledPart(version="9", seq=9)})
    assert [Obstacle.ANTI_ROLLBACK] == [step.obstacle for step in planner.steps(old, RELEASES, [], tries)]


def test_the_assignment_of_a_canceled_rollout_stands_only_where_it_had_arrived():
    canceled = {RolloutId("r-000001")}
    assert [] == planner.steps(assigned(), RELEASES, [], tries, canceled=canceled)
    past = [attempt(1, State.CONFIRMED)]
    assert 1 == len(planner.steps(assigned(), RELEASES, past, tries, canceled=canceled))


def records(world, device):
    return device.record, device.all


@given(
    versions=st.lists(st.sampled_from(["1.1.0", "1.2.0"]), min_size=1, max_size=3),
    says=st.lists(st.sampled_from(["fail", "downloaded", "burning", "canceled", "defer"]), max_size=3),
)
def test_planning_twice_is_planning_once(versions, says):
    world = World()
    world.release("1.1.0", seq=2)
    world.release("1.2.0", seq=3)
    device = world.device()
    for version in versions:
        world.jump(40)
        world.rollout(version)
        for word in says:
            if world.read(lambda unit: unit.deployments.open_of(device.id)):
                device.says(word)
    plan = lambda unit: world.bridge.updates(unit, world.now).reconcile(unit.devices.get(device.id)) and []  # noqa: E731
    world.commit(plan)
    once = records(world, device)
    world.commit(plan)
    assert once == records(world, device)
    assert len([one for one in device.all if one.is_open]) <= 1
