import pytest
from contract.store_samples import commit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ota_bridge.core.conversation import Memory
from ota_bridge.core.errors import Conflict
from ota_bridge.core.values import DeviceId

SHARED_STORE = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ONE, TWO, THREE = (DeviceId("prod", f"d{n}") for n in (1, 2, 3))
MEMORIES = st.builds(
    Memory,
    dialect=st.text("abc", min_size=1, max_size=8),
    data=st.binary(max_size=64),
    wake_wall=st.none() | st.floats(0, 1e9),
)


def test_nothing_is_kept_at_first(store):
    assert (None, [], None) == store.read(
        lambda unit: (unit.memories.get(ONE), unit.memories.due(1e12), unit.memories.next_wake_wall())
    )


@SHARED_STORE
@given(record=MEMORIES)
def test_any_memory_comes_back_as_it_was_put(store, record):
    commit(store, lambda unit: unit.memories.put(ONE, record))

    assert record == store.read(lambda unit: unit.memories.get(ONE))


def test_those_that_are_due_come_earliest_first_and_no_more_than_are_wanted(store):
    walls = {ONE: 30.0, TWO: 10.0, THREE: None}

    def fill(unit):
        for device, wall in walls.items():
            unit.memories.put(device, Memory(dialect="toy", wake_wall=wall))

    commit(store, fill)
    assert 10.0 == store.read(lambda unit: unit.memories.next_wake_wall())
    for wall, limit, expected in ((9.9, 9, []), (10.0, 9, [TWO]), (99.0, 9, [TWO, ONE]), (99.0, 1, [TWO])):
        assert expected == store.read(lambda unit, wall=wall, limit=limit: list(unit.memories.due(wall, limit=limit)))


def test_what_fails_leaves_no_trace(store):
    before = Memory(dialect="toy", data=b"1", wake_wall=5.0)
    commit(store, lambda unit: unit.memories.put(ONE, before))

    def fails(unit):
        unit.memories.put(ONE, Memory(dialect="toy", data=b"2"))
        raise Conflict("on purpose")

    with pytest.raises(Conflict):
        commit(store, fails)
    assert before == store.read(lambda unit: unit.memories.get(ONE))
