"""The outlet: in order, never long at a time, and one faulty output keeps none waiting."""

from collections import deque

from ota_bridge.core.messages import GrantsChanged, RolloutChanged
from ota_bridge.core.values import DeviceId, RolloutId
from ota_bridge.outlet import SLICE_S, TABLE_MAX, Outlet


class Turns:
    """A loop whose turns the test takes, and a clock that each output moves."""

    def __init__(self, cost_s=0.0):
        self.now, self.cost_s = 0.0, cost_s
        self.waiting, self.log = deque(), []
        self.outlet = Outlet(self.let_out, table=self.change, mono=lambda: self.now, soon=self.waiting.append)

    def change(self, changes):
        self.now += self.cost_s
        if any(one.device.name == "bad" for one in changes):
            raise RuntimeError("no")
        self.log.append([one.device.name for one in changes])

    def let_out(self, output):
        self.now += self.cost_s
        if output.rollout == "bad":
            raise RuntimeError("no")
        self.log.append(output.rollout)

    def put(self, *names):
        outputs = [RolloutChanged(rollout=RolloutId(name)) for name in names]
        self.outlet.put(outputs, lambda: self.log.append(f"done {names}"))

    def turn(self):
        self.waiting.popleft()()


def test_outputs_come_out_in_order_each_work_before_what_follows_it():
    turns = Turns()
    turns.put("a", "b")
    turns.put("c")
    assert [] == turns.log
    turns.turn()
    assert ["a", "b", "done ('a', 'b')", "c", "done ('c',)"] == turns.log
    assert not turns.waiting


def test_a_turn_ends_with_its_time_and_the_rest_keeps_its_place():
    turns = Turns(cost_s=SLICE_S / 2)
    turns.put("a", "b", "c")
    turns.turn()
    assert ["a", "b"] == turns.log
    turns.put("d")
    assert 1 == len(turns.waiting)
    turns.turn()
    turns.turn()
    assert ["a", "b", "c", "done ('a', 'b', 'c')", "d", "done ('d',)"] == turns.log
    assert not turns.waiting


def test_a_faulty_output_is_logged_and_the_others_come_out(caplog):
    turns = Turns()
    turns.put("a", "bad", "b")
    turns.turn()
    assert ["a", "b", "done ('a', 'bad', 'b')"] == turns.log
    assert 1 == len(caplog.records)
    turns.put("c")
    turns.turn()
    assert "c" in turns.log


def test_what_is_put_while_letting_out_follows():
    turns = Turns()
    turns.outlet.put([], lambda: turns.put("later"))
    turns.turn()
    assert ["later", "done ('later',)"] == turns.log


def grants(name, inline=()):
    return GrantsChanged(device=DeviceId("prod", name), grants=(), inline=inline)


def test_what_changes_the_table_overtakes_everything_and_goes_out_together():
    turns = Turns()
    turns.put("a")
    turns.outlet.put([RolloutChanged(rollout=RolloutId("b")), grants("d1"), grants("d2")], lambda: None)
    turns.outlet.put([grants("d3")], lambda: turns.log.append("done"))
    turns.turn()
    assert [["d1", "d2", "d3"], "a", "done ('a',)", "b", "done"] == turns.log
    assert not turns.waiting


def test_of_one_devices_changes_the_last_counts():
    turns, seen = Turns(), []
    turns.outlet._table = seen.extend
    first, last = grants("d1"), grants("d1", inline=((bytes(32), b"x"),))
    turns.outlet.put([first, grants("d2"), last], lambda: None)
    turns.turn()
    assert [last, grants("d2")] == seen


def test_many_changes_take_several_turns_and_no_notice_comes_between():
    turns = Turns(cost_s=SLICE_S)
    turns.outlet.put([RolloutChanged(rollout=RolloutId("a"))], lambda: None)
    turns.outlet.put([grants(f"d{number}") for number in range(TABLE_MAX + 1)], lambda: None)
    turns.turn()
    assert [TABLE_MAX] == [len(one) for one in turns.log]
    turns.turn()
    assert [f"d{TABLE_MAX}"] == turns.log[-1]
    turns.turn()
    assert "a" == turns.log[-1]


def test_a_faulty_change_is_logged_and_the_others_come_out(caplog):
    turns = Turns()
    turns.outlet.put([grants("d1"), grants("bad"), grants("d2"), RolloutChanged(rollout=RolloutId("a"))], lambda: None)
    turns.turn()
    assert [["d1"], ["d2"], "a"] == turns.log
    assert 2 == len(caplog.records)
