"""The outlet: in order, never long at a time, and one faulty output keeps none waiting."""

from collections import deque

from ota_bridge.core.messages import RolloutChanged
from ota_bridge.core.values import RolloutId
from ota_bridge.outlet import SLICE_S, Outlet


class Turns:
    """A loop whose turns the test takes, and a clock that each output moves."""

    def __init__(self, cost_s=0.0):
        self.now, self.cost_s = 0.0, cost_s
        self.waiting, self.log = deque(), []
        self.outlet = Outlet(self.let_out, mono=lambda: self.now, soon=self.waiting.append)

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
