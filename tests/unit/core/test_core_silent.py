"""Devices that are not heard any more."""

from core_world import World

from ota_bridge.core.delivery import Pacing
from ota_bridge.core.silent import LOOK_EVERY_S, SilentLook
from ota_bridge.core.slices import PAGE

DAY_S = 86_400.0


class Watched(World):
    """A bridge that was just started."""

    def __init__(self, **rules):
        super().__init__(**rules)
        self.silent = SilentLook()


def looked(world, go_on=lambda: True):
    """Whom one slice of the look tells of, and whether there is more."""
    more = []

    def work(unit):
        done = world.silent.look(world.bridge.updates(unit, world.now), go_on)
        more.append(done.more)
        return done.outputs

    world.commit(work)
    return [str(event.device) for event in world.last if event.kind == "silent"], more[0]


def begun(*names, **rules):
    """A bridge that runs, and devices that have just checked in."""
    world = Watched(**rules)
    looked(world)
    return world, [world.device(name) for name in names]


def test_t4_a_device_whose_reports_are_dropped_for_thirty_days_raises_silent_once():
    world, (device,) = begun("d1")
    told = []
    for _ in range(30):
        world.jump(DAY_S)
        told.append(looked(world)[0])
    assert [[], [], [], ["prod/d1"], *[[]] * 26] == told
    assert "silent" == device.why()[0]


def test_the_event_says_since_when():
    world, _ = begun("d1")
    world.jump(4 * DAY_S)
    looked(world)
    assert [{"last_report": "1970-01-12T13:46:40.000Z", "since": "1970-01-12T13:46:40.000Z"}] == world.events("silent")


def test_one_that_is_heard_again_may_fall_silent_again():
    world, (device,) = begun("d1")
    world.jump(4 * DAY_S)
    assert ["prod/d1"] == looked(world)[0]
    device.check_in()
    assert "idle" == device.why()[0]
    world.jump(4 * DAY_S)
    assert ["prod/d1"] == looked(world)[0]


def test_it_is_told_once_also_by_a_daemon_that_was_started_anew():
    world, _ = begun("d1")
    world.jump(4 * DAY_S)
    looked(world)
    again = Watched()
    again.store = world.store
    again.wall = world.wall
    looked(again)
    again.jump(LOOK_EVERY_S)
    assert ([], False) == looked(again)


def test_the_fleet_is_looked_at_an_hour_after_the_start_and_then_once_an_hour():
    world = Watched()
    for name in ("d1", "d2"):
        world.device(name)
    world.jump(4 * DAY_S)
    assert [] == looked(world)[0]
    world.jump(LOOK_EVERY_S - 1)
    assert [] == looked(world)[0]
    world.jump(1)
    assert ["prod/d1", "prod/d2"] == looked(world)[0]
    world.jump(LOOK_EVERY_S - 1)
    assert [] == looked(world)[0]


def test_a_slice_that_has_no_time_left_goes_on_behind_the_device_it_has_come_to():
    names = [f"d{number:02}" for number in range(PAGE + 3)]
    world, _ = begun(*names)
    world.device("e", product="zzz")
    world.jump(4 * DAY_S)
    told, more = [], True
    while more:
        one, more = looked(world, go_on=lambda: False)
        assert len(one) <= 1
        told += one
    assert [*(f"prod/{name}" for name in names), "zzz/e"] == told
    assert ([], False) == looked(world)


def test_a_device_that_announced_its_next_check_in_is_silent_only_after_that():
    world, _ = begun()
    world.device("d1", check_in=False).check_in(next_s=int(10 * DAY_S))
    world.jump(12 * DAY_S)
    assert [] == looked(world)[0]
    world.jump(2 * DAY_S)
    assert ["prod/d1"] == looked(world)[0]


def test_a_device_that_asks_for_blocks_is_not_silent():
    world, (device,) = begun("d1")
    world.release()
    world.rollout()
    for _ in range(5):
        world.jump(DAY_S)
        device.asks()
    assert [] == looked(world)[0]
    assert "silent" != device.why()[0]


def test_one_that_never_checked_in_or_is_retired_is_not_silent():
    world, (_, second) = begun("d1", "d2")
    world.do("device.retire", device="prod/d1")
    world.do("device.add", device="prod/d9", hw="r1")
    world.jump(4 * DAY_S)
    assert [str(second.id)] == looked(world)[0]


def test_after_how_long_is_a_setting():
    world, (device,) = begun("d1", pacing=Pacing(silent_after_s=100))
    world.jump(100)
    assert "idle" == device.why()[0]
    world.jump(1)
    assert "silent" == device.why()[0]


def test_a_device_that_says_it_was_stale_is_told_of():
    world, (device,) = begun("d1")
    device.check_in(stale_s=2_600_000)
    assert [{"for_s": 2_600_000}] == world.events("stale")
