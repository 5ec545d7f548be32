"""Paths: over stepping stones to a release, against a search that tries everything."""

from dataclasses import replace
from itertools import combinations

import pytest
from core_world import World, facts_of
from hypothesis import given
from hypothesis import strategies as st

from ota_bridge.core.catalog import Release, ReleasePart, ReleaseState
from ota_bridge.core.deployment import Deployment, State
from ota_bridge.core.fleet import Assignment, Device, DeviceState
from ota_bridge.core.manifest import Dependency
from ota_bridge.core.messages import InstalledPart, ReportAck
from ota_bridge.core.operations import perform
from ota_bridge.core.rollout import paths, planner
from ota_bridge.core.rollout.paths import NoPath, Path, Paths
from ota_bridge.core.rollout.policy import Retries
from ota_bridge.core.steering import AT_ONCE_MAX
from ota_bridge.core.values import DeploymentId, DeviceId, RolloutId, release_id
from ota_bridge.core.versions import admits


def release(version, seq, *bounds, size=100, state=ReleaseState.ACTIVE, hardware=("r1",), **signed):
    facts = facts_of(version, seq=seq, image=f"{version:>{size}}".encode(), hardware=hardware, **signed)
    part = ReleasePart(component="firmware", envelope=b"e", manifest=facts, md5="0" * 32, installs_from=bounds)
    return Release(
        id=release_id("prod", version),
        product="prod",
        version=version,
        hardware=hardware,
        parts={"firmware": part},
        state=state,
        created_wall=1.0,
        created_by="ann",
    )


def device(version="1.0", seq=1, digest8=b"", **changes):
    plain = Device(
        id=DeviceId("prod", "d1"),
        state=DeviceState.ACTIVE,
        created_wall=1.0,
        hw="r1",
        proto=1,
        parts={"firmware": InstalledPart(version=version, seq=seq, digest8=digest8)},
    )
    return replace(plain, **changes)


def find(target, *others, at=None, seqs=None):
    return Paths().find(at or device(), "firmware", target, lambda: [*others, target], lambda: seqs or {})


def names(found):
    return [step.version for step in found.steps] if isinstance(found, Path) else found.sentence


NOWHERE = "and no release leads from 1.0 to there"

# --- one step ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "at", "expected"),
    [
        (release("3.0", 3), device(), ["3.0"]),
        (release("3.0", 3, "1.0"), device(), ["3.0"]),
        (release("3.0", 3, ">=1,<2"), device("1.9"), ["3.0"]),
        (release("3.0", 3, min_present_seq=1), device(), ["3.0"]),
        (release("3.0", 3, min_present_seq=2), device(seq=None), ["3.0"]),
        (release("3.0", 3, precursor_sha256=b"p" * 32), device(digest8=b"p" * 8), ["3.0"]),
        (release("3.0", 3, precursor_sha256=b"p" * 32), device(), ["3.0"]),
        (release("3.0", 3, epoch=2), device(seq=9, keyset=1), ["3.0"]),
        (
            release("3.0", 3, ">=2,<3"),
            device(),
            f"no path from 1.0 to 3.0: 3.0 installs from >=2,<3, {NOWHERE}",
        ),
        (
            release("3.0", 3, "2.0", min_present_seq=2),
            device(),
            f"no path from 1.0 to 3.0: 3.0 installs from 2.0 and was signed for what has seq 2 at least, {NOWHERE}",
        ),
        (
            release("3.0", 3, precursor_sha256=b"p" * 32),
            device(digest8=b"q" * 8),
            f"no path from 1.0 to 3.0: 3.0 was signed for the image 7070707070707070 alone, {NOWHERE}",
        ),
        (release("3.0", 3), device(seq=3), "no path from 1.0 to 3.0: its seq is not above what runs"),
        (
            release("3.0", 3, min_present_seq=2, epoch=2),
            device(seq=9, keyset=1),
            f"no path from 1.0 to 3.0: 3.0 was signed for what has seq 2 at least, {NOWHERE}",
        ),
    ],
)
def test_a_step_is_taken_where_its_seq_rises_and_its_bounds_hold(target, at, expected):
    assert expected == names(find(target, at=at))
    assert expected == names(paths.direct(at, "firmware", target))


# --- stones ------------------------------------------------------------------------------------------------------

OVER_TWO = (release("3.0", 9, ">=2,<3"), release("2.0", 5, ">=1,<2"))


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([], ["2.0", "3.0"]),
        ([release("2.1", 6, size=90)], ["2.1", "3.0"]),
        ([release("2.1", 6, "2.0", size=10)], ["2.0", "3.0"]),
        ([release("2.1", 6)], ["2.0", "3.0"]),
        ([release("1.5", 4, size=1), release("2.1", 6, "1.5", size=1)], ["2.0", "3.0"]),
    ],
    ids=["two steps", "fewer bytes", "not from 1.0", "the lower name of equals", "fewer steps before fewer bytes"],
)
def test_the_path_has_the_fewest_steps_then_the_fewest_bytes(others, expected):
    assert expected == names(find(*OVER_TWO, *others))


@pytest.mark.parametrize(
    "changes",
    [
        {"seq": 9},
        {"seq": 1},
        {"hardware": ("r2",)},
        {"epoch": 2},
        {"state": ReleaseState.WITHDRAWN},
        {"dependencies": (Dependency(component="radio", min_seq=4),)},
    ],
    ids=str,
)
def test_what_is_no_stone(changes):
    stone = release("2.0", **{"seq": 5} | changes)
    assert isinstance(find(OVER_TWO[0], stone, seqs={"radio": 3}), NoPath)


def test_a_stone_may_need_what_the_device_has_gets_or_does_not_tell():
    stone = release("2.0", 5, dependencies=(Dependency(component="radio", min_seq=4),))
    for seq in (4, None):
        assert ["2.0", "3.0"] == names(find(OVER_TWO[0], stone, seqs={"radio": seq}))


def test_a_withdrawn_stone_is_named_where_it_would_have_led_on():
    found = find(OVER_TWO[0], replace(OVER_TWO[1], state=ReleaseState.WITHDRAWN))
    assert names(found).endswith("no release leads from 1.0 to there; 2.0 would, but is withdrawn")


def test_an_image_that_runs_already_is_no_stone():
    stone = release("2.0", 5)
    running = device("1.0", digest8=stone.parts["firmware"].manifest.sha256[:8])
    assert isinstance(find(OVER_TWO[0], stone, at=running), NoPath)


def test_a_device_of_the_public_shape_names_no_hardware():
    plain = device(seq=None, hw=None, proto=0)
    assert ["2.0", "3.0"] == names(find(*OVER_TWO, at=plain))
    assert isinstance(find(*OVER_TWO, at=replace(plain, proto=1)), NoPath)


# --- against a search that tries everything ------------------------------------------------------------------------

BOUNDS = st.lists(
    st.integers(0, 6).map(str) | st.builds(">={},<{}".format, st.integers(0, 5), st.integers(6, 7)), max_size=2
).map(tuple)


@st.composite
def catalogs(draw):
    seqs = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6, unique=True))
    return [
        release(
            str(number),
            seq,
            *draw(BOUNDS),
            size=draw(st.integers(10, 13)),
            min_present_seq=draw(st.none() | st.integers(0, 9)),
        )
        for number, seq in enumerate(seqs, start=1)
    ]


def everything(at, target, others):
    """Every order of every choice of stones, checked step by step."""
    for count in range(len(others) + 1):
        for chosen in combinations(sorted(others, key=lambda one: one.parts["firmware"].manifest.seq), count):
            steps, version, seq = [*chosen, target], at.parts["firmware"].version, at.parts["firmware"].seq
            for step in steps:
                part = step.parts["firmware"]
                low = part.manifest.min_present_seq or 0
                if (seq is not None and not low <= seq < part.manifest.seq) or version == part.version:
                    break
                if not admits(part.installs_from, version):
                    break
                version, seq = part.version, part.manifest.seq
            else:
                size = sum(step.parts["firmware"].manifest.size_bytes for step in steps)
                yield len(steps), size, tuple(step.id for step in steps)


@given(catalogs(), st.integers(0, 6), st.none() | st.integers(0, 9))
def test_no_search_finds_a_better_path(catalog, version, seq):
    at, (*others, target) = device(str(version), seq), catalog
    best = min(everything(at, target, others), default=None)
    found = find(target, *others, at=at)
    if best is None:
        assert isinstance(found, NoPath)
    else:
        assert isinstance(found, Path)
        assert best == (len(found.steps), found.size_bytes, tuple(step.id for step in found.steps))


# --- many devices ------------------------------------------------------------------------------------------------


def test_a_path_is_searched_once_for_all_devices_at_the_same_place(monkeypatch):
    searched = []
    real = paths._search
    monkeypatch.setattr(paths, "_search", lambda *args: searched.append(args[0]) or real(*args))
    known, catalog = Paths(), list(OVER_TWO)
    for number in range(1000):
        at = device(f"1.{number % 3}", id=DeviceId("prod", f"d{number}"))
        assert ["2.0", "3.0"] == names(known.find(at, "firmware", OVER_TWO[0], lambda: list(catalog), dict))
    assert ["1.0", "1.1", "1.2"] == [before.version for before in searched]
    catalog[1] = replace(OVER_TWO[1], state=ReleaseState.WITHDRAWN)
    assert isinstance(known.find(device(), "firmware", OVER_TWO[0], lambda: list(catalog), dict), NoPath)


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(paths, "KEPT_MAX", 3)
    known = Paths()
    for number in range(10):
        known.find(device(f"1.{number}"), "firmware", OVER_TWO[0], lambda: OVER_TWO, dict)
        assert len(known._catalogs["prod"].paths) <= 3


# --- the whole core ----------------------------------------------------------------------------------------------


@pytest.fixture
def world():
    made = World()
    made.release("2.0", seq=2, installs_from=(">=1,<2",))
    made.release("3.0", seq=3, installs_from=(">=2,<3",))
    return made


def installs(device, version, seq):
    """What is offered now runs after the next boot."""
    device.world.passes(31)
    device.check_in()
    device.says("burning")
    device.runs(version, seq=seq).restarts()


def test_a_device_goes_over_the_stone_to_the_release_of_its_rollout(world):
    device = world.device()
    rollout = world.rollout("3.0")
    assert ("prod/2.0", rollout, State.OFFERED) == (device.open.release, device.open.rollout, device.open.state)
    installs(device, "2.0", 2)
    assert ("prod/3.0", rollout, 1) == (device.open.release, device.open.rollout, device.open.attempt)
    installs(device, "3.0", 3)
    assert ["prod/3.0", "prod/2.0"] == [one.release for one in device.all]
    assert {State.CONFIRMED} == {one.state for one in device.all}
    assert "prod/3.0" == device.record.assigned["firmware"].release


def test_attempts_are_counted_for_each_stone(world):
    device = world.device()
    world.rollout("3.0")
    device.says("fail")
    world.passes(100)
    device.check_in()
    assert ("prod/2.0", 2) == (device.open.release, device.open.attempt)
    installs(device, "2.0", 2)
    assert ("prod/3.0", 1) == (device.open.release, device.open.attempt)


def test_a_device_that_falls_behind_its_stones_starts_over(world):
    device = world.device()
    world.rollout("3.0")
    installs(device, "2.0", 2)
    third = device.open.id
    device.runs("1.0.0", seq=1).restarts()
    if device.open.state is State.CANCELING:
        device.says("canceled", third)
    assert "prod/2.0" == device.open.release


def test_a_stone_of_a_canceled_rollout_leads_nowhere(world):
    device = world.device()
    rollout = world.rollout("3.0")
    world.passes(31)
    device.check_in()
    device.says("burning")
    world.do("rollout.cancel", rollout=rollout)
    device.runs("2.0", seq=2).restarts()
    assert [("prod/2.0", State.CONFIRMED)] == [(one.release, one.state) for one in device.all]


def test_a_rollout_that_is_canceled_between_two_steps_takes_no_further_one(world):
    device = world.device()
    rollout = world.rollout("3.0")
    installs(device, "2.0", 2)
    world.do("rollout.cancel", rollout=rollout)
    device.restarts()
    assert {} == device.record.assigned
    assert State.CANCELED is device.state


def test_a_stone_that_is_withdrawn_is_canceled_wherever_it_is_on_its_way(world):
    world.release("2.1", seq=4, installs_from=(">=1,<2",))
    world.release("4.0", seq=5, installs_from=(">=2,<3",))
    device = world.device()
    world.rollout("4.0")
    assert "prod/2.0" == device.open.release
    assert 1 == world.do("release.withdraw", release="2.0")["canceled"]
    device.says("canceled")
    assert "prod/2.1" == device.open.release


HOLDS = {
    "running": [],
    "paused": [("rollout.pause", {})],
    "finishing": [("rollout.cancel", {"let_finish": True})],
    "paused, then finishing": [("rollout.pause", {}), ("rollout.cancel", {"let_finish": True})],
}


@pytest.mark.parametrize("held", HOLDS.values(), ids=HOLDS)
def test_a_withdrawn_stone_of_many_devices_is_taken_from_them_in_slices(world, held):
    devices = [world.device(f"d{number:03d}") for number in range(2 * AT_ONCE_MAX + 3)]
    rollout = world.rollout("3.0")
    for device in devices[::2]:
        device.asks()
    for operation, args in held:
        world.commit(
            lambda unit, name=operation, args=args: perform(
                unit, world.bridge, name, {"rollout": rollout, **args}, caller=world.caller, now=world.now
            )
        )
    withdraw = {"release": "2.0"}
    said = world.commit(
        lambda unit: perform(unit, world.bridge, "release.withdraw", withdraw, caller=world.caller, now=world.now)
    )[0]
    assert (AT_ONCE_MAX, [rollout]) == (said["canceled"], said["follow"])
    waiting = [device for device in devices if device.state is not State.CANCELING]
    assert len(devices) - AT_ONCE_MAX == len(waiting)
    world.plan()
    assert {State.CANCELING} == {device.state for device in devices}
    assert {"prod/2.0 is withdrawn"} == {device.latest.cause for device in waiting}
    assert world.read(lambda unit: unit.rollouts.get(rollout)).standing.dropping is None


def test_a_second_withdrawal_loses_nothing_of_the_first(world):
    world.release("2.1", seq=4, installs_from=(">=1,<2",))
    world.release("4.0", seq=5, installs_from=(">=2,<3",))
    devices = [world.device(f"d{number:03d}") for number in range(3 * AT_ONCE_MAX)]
    rollout = world.rollout("4.0")
    for stone in ("2.0", "2.1"):
        withdraw = {"release": stone}
        world.commit(
            lambda unit, args=withdraw: perform(
                unit, world.bridge, "release.withdraw", args, caller=world.caller, now=world.now
            )
        )
        for device in devices:
            if device.state is State.CANCELING:
                device.says("canceled")
    world.plan()
    assert {State.CANCELED, State.CANCELING} == {device.state for device in devices}
    assert world.read(lambda unit: unit.rollouts.get(rollout)).standing.dropping is None


def test_what_waits_for_its_slice_does_not_begin_to_install(world):
    devices = [world.device(f"d{number:03d}") for number in range(AT_ONCE_MAX + 2)]
    world.rollout("3.0")
    for device in devices:
        device.says("downloaded")
    withdraw = {"release": "2.0"}
    world.commit(
        lambda unit: perform(unit, world.bridge, "release.withdraw", withdraw, caller=world.caller, now=world.now)
    )
    waiting = [device for device in devices if device.state is State.DOWNLOADED]
    assert 2 == len(waiting)
    for device in waiting:
        ack = world.sent(ReportAck, device.says("burning"))[0]
        assert ((), (device.open.id,)) == (ack.go, ack.stop)


def test_a_withdrawn_stone_whose_install_could_not_be_stopped_still_times_out(world):
    device = world.device()
    world.rollout("3.0")
    world.passes(31)
    device.check_in()
    device.says("burning")
    world.do("release.withdraw", release="2.0")
    device.says("too_late")
    for _ in range(4):
        world.passes(1_000)
        device.check_in()
    assert State.TIMED_OUT is device.all[-1].state


def test_a_withdrawal_looks_at_no_device_of_a_rollout_without_that_stone(world):
    world.release("2.5", seq=4)
    world.release("1.0.1", seq=5)
    for number in range(AT_ONCE_MAX + 3):
        world.device(f"d{number:03d}")
    rollout = world.rollout("2.5")
    assert [] == world.do("release.withdraw", release="1.0.1")["follow"]
    assert not world.read(lambda unit: unit.rollouts.get(rollout)).is_planning


def test_without_a_path_nothing_is_opened(world):
    world.device().runs("0.9", seq=1).check_in()
    other = world.device("d2")
    world.rollout("3.0")
    assert "prod/2.0" == other.open.release
    assert 1 == len(world.read(lambda unit: unit.deployments.all_open()))


def test_a_rollout_that_is_canceled_after_a_stone_is_no_longer_assigned_though_nothing_is_open(world):
    device = world.device()
    rollout = world.rollout("3.0")
    world.passes(31)
    device.check_in()
    device.says("burning")
    device.hw = "r9"
    device.runs("2.0", seq=2).restarts()
    assert [("prod/2.0", State.CONFIRMED)] == [(one.release, one.state) for one in device.all]
    world.do("rollout.cancel", rollout=rollout)
    assert {} == device.record.assigned


def test_a_confirmed_stone_is_not_the_arrival_that_outlives_a_canceled_rollout():
    rollout = RolloutId("r-000001")
    target, stone = OVER_TWO
    at = device("2.0", 5, assigned={"firmware": Assignment(release=target.id, rollout=rollout)}, last_report_wall=1.0)

    def steps(arrived):
        past = Deployment(
            id=DeploymentId("0" * 12),
            device=at.id,
            component="firmware",
            release=arrived.id,
            rollout=rollout,
            attempt=1,
            state=State.CONFIRMED,
            cause="x",
            created_wall=1.0,
            changed_wall=1.0,
            size_bytes=10,
            old_version="1.0",
        )
        return planner.steps(at, {target.id: target}, [past], lambda _: Retries(), canceled={rollout})

    assert [] == steps(stone)
    assert [target] == [step.release for step in steps(target)]
