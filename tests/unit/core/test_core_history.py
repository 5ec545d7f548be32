"""History that is made small: when, how far at a time, and that nobody decides anything else because of it."""

import re

import pytest
from core_lives import confirmed, offered
from core_world import FACTORY, World
from hypothesis import given, settings
from hypothesis import strategies as st

from ota_bridge.core.deployment import State
from ota_bridge.core.errors import OperatorError
from ota_bridge.core.history import FIRST_SWEEP_S, REPORTS_KEPT, SWEEP_EVERY_S, HistorySweep, Rounds, compact
from ota_bridge.core.messages import ReportAck
from ota_bridge.core.silent import LOOK_EVERY_S
from ota_bridge.core.slices import PAGE

DAY_S = 86_400.0


def swept(world, sweep, go_on=lambda: True):
    """One slice of a sweep; True if there is more."""
    more = []

    def work(unit):
        done = sweep.look(world.bridge.updates(unit, world.now), go_on)
        more.append(done.more)
        return done.outputs

    world.commit(work)
    return more[0]


def transitions(world, device):
    return world.read(lambda unit: [len(unit.deployments.history(one.id)) for one in device.all])


def begun(**rules):
    """A bridge that runs, and a device whose update ended well."""
    world, sweep = World(**rules), HistorySweep()
    swept(world, sweep)
    return world, sweep, confirmed(world)


def test_what_ended_thirty_days_ago_is_compacted_once_a_day():
    world, sweep, device = begun()
    told = []
    for _ in range(32):
        world.jump(DAY_S)
        swept(world, sweep)
        told.append(transitions(world, device) == [0])
    assert [False] * 30 + [True] * 2 == told
    assert State.CONFIRMED is device.state


def test_the_first_sweep_is_an_hour_after_the_start_and_the_next_a_day_later():
    world, sweep, device = begun(keep_history_s=1.0)
    world.jump(FIRST_SWEEP_S - 60)
    swept(world, sweep)
    assert transitions(world, device) != [0]
    world.jump(61)
    swept(world, sweep)
    assert transitions(world, device) == [0]
    device.runs(FACTORY, seq=1).restarts()
    device.runs("1.1.0").restarts()
    world.jump(SWEEP_EVERY_S - 2)
    swept(world, sweep)
    assert transitions(world, device)[0] != 0
    world.jump(3)
    swept(world, sweep)
    assert transitions(world, device) == [0, 0]


def test_nothing_is_compacted_where_everything_is_kept():
    world, sweep, device = begun(keep_history_s=None)
    world.jump(1000 * DAY_S)
    swept(world, sweep)
    assert transitions(world, device) != [0]


def test_a_sweep_goes_on_where_its_slice_ended_and_looks_at_everybody():
    world, sweep = World(keep_history_s=1.0, enrol_burst=1000), HistorySweep()
    swept(world, sweep)
    world.release()
    world.rollout()
    devices = [world.device(f"d{number:03d}") for number in range(PAGE + 3)]
    for device in devices:
        device.runs("1.1.0").restarts()
    world.jump(FIRST_SWEEP_S + 1)
    slices = 1
    while swept(world, sweep, lambda: False):
        slices += 1
        assert slices - 1 == sum(transitions(world, device) == [0] for device in devices)
    assert [[0]] * len(devices) == [transitions(world, device) for device in devices]


def test_a_deployment_that_is_open_keeps_its_history_however_old_it_is():
    world, sweep = World(), HistorySweep()
    swept(world, sweep)
    device = offered(world)
    world.jump(400 * DAY_S)
    swept(world, sweep)
    assert transitions(world, device) != [0]


def test_a_devices_last_reports_stay():
    world, sweep, device = begun()
    for _ in range(REPORTS_KEPT + 5):
        device.check_in()
    world.jump(31 * DAY_S)
    swept(world, sweep)
    assert REPORTS_KEPT == len(world.read(lambda unit: unit.reports.recent(device.id, limit=1000)))


def test_a_repeat_of_a_report_that_is_gone_is_acknowledged_and_moves_nothing():
    world, sweep, device = begun()
    device.check_in()
    old = device.last
    for _ in range(REPORTS_KEPT + 5):
        device.check_in()
    world.jump(31 * DAY_S)
    swept(world, sweep)
    before = device.record
    outputs = world.receive(old)
    assert [(old.key.boot, (old.key.seq,))] == [(ack.boot, ack.seqs) for ack in world.sent(ReportAck, outputs)]
    assert ["repeat"] == [event.kind for event in outputs if hasattr(event, "kind")]
    assert before == device.record


def test_a_check_in_of_a_boot_whose_reports_are_gone_does_not_supersede_the_present_one():
    world, sweep, device = begun()
    old = device.last
    for _ in range(REPORTS_KEPT + 5):
        device.restarts()
    world.jump(31 * DAY_S)
    swept(world, sweep)
    boot = device.record.boot
    world.receive(old)
    assert boot == device.record.boot


def test_rounds_look_for_the_silent_first_and_then_sweep():
    world, rounds, device = World(keep_history_s=1.0), Rounds(), None
    swept(world, rounds)
    device = confirmed(world)
    world.jump(max(FIRST_SWEEP_S, LOOK_EVERY_S) + 1)
    assert swept(world, rounds, lambda: False)
    assert transitions(world, device) != [0]
    while swept(world, rounds):
        pass
    assert transitions(world, device) == [0]


# --- nothing is decided otherwise ------------------------------------------------------------------------------------

VERSIONS = [FACTORY, "1.1.0", "1.2.0"]
STEPS = st.one_of(
    st.tuples(st.just("boots"), st.sampled_from(VERSIONS), st.booleans()),
    st.tuples(st.just("boots"), st.sampled_from(VERSIONS), st.booleans()),
    st.tuples(st.just("says"), st.sampled_from(["fail", "reject", "burning", "done", "defer", "rolled_back"])),
    st.tuples(st.just("repeats")),
    st.tuples(st.just("asks")),
    st.tuples(st.just("passes"), st.sampled_from([1, 61, 4_000, 90_000, 700_000])),
    st.tuples(st.just("starts"), st.sampled_from(VERSIONS[1:])),
    st.tuples(st.just("steers"), st.sampled_from(["pause", "resume", "cancel"])),
)
_ID = re.compile(r"\b[0-9a-f]{12}\b|\br-[0-9a-f]{6}\b")


class Told:
    """Everything that a world said, with names in the place of ids that are drawn at random."""

    def __init__(self):
        self.names = {}

    def __call__(self, what):
        return _ID.sub(lambda found: self.names.setdefault(found[0], f"#{len(self.names)}"), repr(what))


def done(world, device, step):
    match step:
        case "boots", version, trial:
            seq = VERSIONS.index(version) + 1
            device.runs(version, seq=seq, trial=trial and version != FACTORY).restarts()
        case "says", state:
            device.says(state, device.all[0] if device.all else "0" * 12)
        case ("repeats",):
            device.repeats()
        case ("asks",) if device.all:
            device.asks(deployment=device.all[0].id)
        case "passes", seconds:
            world.passes(seconds)
            world.plan()
        case "starts", version:
            world.rollout(version)
        case "steers", what:
            rollouts = world.read(lambda unit: unit.rollouts.all())
            if rollouts:
                world.do(f"rollout.{what}", rollout=rollouts[-1].id)
        case _:
            pass


def lived(steps, *, compacts):
    """What a device's world told, step by step, and what it says of itself."""
    world, told, found = World(), Told(), []
    for seq, version in enumerate(VERSIONS[1:], start=2):
        world.release(version, seq=seq)
    device = world.device()
    for step in steps:
        world.outputs = []
        try:
            done(world, device, step)
        except OperatorError as error:
            found.append(told(str(error)))
        found.append(told(world.outputs))
        if compacts:
            record = device.record
            world.commit(lambda unit, record=record: compact(unit, record, world.wall + 1) and [])
        views = [
            (one.id, one.state, one.cause, one.attempt, one.latest, one.stage, one.earlier_end) for one in device.all
        ]
        tallies = world.read(lambda unit: [dict(unit.deployments.tallies(one.id)) for one in unit.rollouts.all()])
        found.append(told((device.why(), views, sorted(map(repr, tallies)))))
    return found, device


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEPS, min_size=5, max_size=30))
def test_nothing_is_said_counted_or_decided_otherwise_because_history_was_compacted(steps):
    steps = [("starts", "1.1.0"), *steps]
    whole, _ = lived(steps, compacts=False)
    compacted, device = lived(steps, compacts=True)
    assert whole == compacted
    finished = [one for one in device.all if not one.is_open]
    if finished and all(not one.is_open for one in device.all):
        assert [0] * len(device.all) == transitions(device.world, device)


@pytest.mark.parametrize("ends", [3])
def test_attempts_are_counted_over_what_was_compacted(ends):
    world = World()
    device = world.device()
    world.release()
    world.rollout()
    for _ in range(ends):
        device.says("fail")
        record = device.record
        world.commit(lambda unit, record=record: compact(unit, record, world.wall + 1) and [])
        world.passes(10_000)
        device.restarts()
    assert [3, 2, 1] == [one.attempt for one in device.all]
    assert "attempts_used" == device.why()[0]
