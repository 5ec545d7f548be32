import pytest
from contract.store_samples import commit, deployment, fill, rollout

from ota_bridge.core.deployment import State
from ota_bridge.core.errors import StoreError
from ota_bridge.core.values import DeploymentId, DeviceId, RolloutId

R1, R2 = RolloutId("r-000001"), RolloutId("r-000002")


@pytest.fixture
def line(store):
    """A store with a line of four."""
    members = [(30, "c"), (10, "a"), (20, "b"), (20, "a")]
    commit(store, lambda unit: (fill(unit), [unit.members.put(R1, place, name) for place, name in members]))
    return store


def test_members_are_in_the_order_of_their_places_then_names(line):
    assert [(10, "a"), (20, "a"), (20, "b")] == line.read(lambda unit: unit.members.page(R1, end=30, limit=9))
    assert [(10, "a"), (20, "a")] == line.read(lambda unit: unit.members.page(R1, end=30, limit=2))
    assert [] == line.read(lambda unit: unit.members.page(R2, end=30, limit=9))


def test_who_is_in_the_line_is_in_it_once(line):
    commit(line, lambda unit: unit.members.put(R1, 10, "a"))
    assert 4 == line.read(lambda unit: unit.members.count(R1))


@pytest.mark.parametrize(
    ("start", "number", "place"), [(0, 0, 10), (0, 3, 30), (0, 4, None), (11, 1, 20), (31, 0, None)]
)
def test_the_place_of_the_nth_is_told(line, start, number, place):
    assert place == line.read(lambda unit: unit.members.nth(R1, start, number))


def test_members_leave_one_by_one_or_all_together(line):
    commit(line, lambda unit: (unit.members.remove(R1, 20, "b"), unit.members.remove(R1, 20, "nobody")))
    assert 1 == line.read(lambda unit: unit.members.count(R1, start=15, end=25))
    commit(line, lambda unit: (unit.members.put(R2, 1, "x"), unit.members.clear(R1)))
    assert (0, 1) == line.read(lambda unit: (unit.members.count(R1), unit.members.count(R2)))


def test_a_work_that_raises_leaves_the_line_as_it_was(line):
    def work(unit):
        unit.members.remove(R1, 10, "a")
        unit.members.clear(R1)
        unit.members.put(R1, 5, "new")
        raise StoreError("on purpose")

    with pytest.raises(StoreError):
        commit(line, work)
    assert [(10, "a"), (20, "a"), (20, "b"), (30, "c")] == line.read(
        lambda unit: unit.members.page(R1, end=99, limit=9)
    )


def test_tallies_follow_every_change_of_a_latest_attempt(store):
    steps = [
        deployment(),
        deployment(state=State.OFFERED),
        deployment(state=State.FAILED),
        deployment(state=State.FAILED, latest=False),
        deployment("000000000002", attempt=2, earlier_end=State.FAILED, stage=1),
        deployment("000000000002", attempt=2, earlier_end=State.FAILED, stage=1, state=State.CONFIRMED),
        deployment("000000000003", rollout=None),
    ]
    seen = []
    commit(store, fill)
    for step in steps:
        commit(store, lambda unit, step=step: unit.deployments.put(step))
        seen.append(store.read(lambda unit: dict(unit.deployments.tallies(R1))))
    assert [
        {(0, State.QUEUED, None): 1},
        {(0, State.OFFERED, None): 1},
        {(0, State.FAILED, None): 1},
        {},
        {(1, State.QUEUED, State.FAILED): 1},
        {(1, State.CONFIRMED, State.FAILED): 1},
        {(1, State.CONFIRMED, State.FAILED): 1},
    ] == seen


def test_the_slots_line_has_urgent_ones_first_then_the_oldest(store):
    names = [("1", 1), ("2", 2), ("3", 0), ("4", 1), ("5", 2)]
    made = [deployment(f"00000000000{name}", slot_rank=rank, device=DeviceId("prod", "dev1")) for name, rank in names]
    commit(store, lambda unit: (fill(unit), [unit.deployments.put(one) for one in made]))
    for limit, expected in ((9, "2514"), (3, "251"), (1, "2"), (0, "")):
        found = store.read(lambda unit, limit=limit: unit.deployments.for_slots(limit))
        assert [DeploymentId(f"00000000000{name}") for name in expected] == [one.id for one in found]
        assert min(4, limit) == store.read(lambda unit, limit=limit: unit.deployments.waiting_for_slots(limit))


def test_busy_counts_downloads_that_have_not_stalled_and_offers_that_are_young(store):
    states = [
        (State.DOWNLOADING, 1.0),
        (State.DOWNLOADING, None),
        (State.OFFERED, 5.0),
        (State.OFFERED, 9.0),
        (State.QUEUED, 9.0),
        (State.DOWNLOADED, 9.0),
    ]
    made = [deployment(f"{n:012x}", state=state, offered_wall=wall) for n, (state, wall) in enumerate(states)]
    made.append(deployment("0000000000aa", state=State.DOWNLOADING, stalled=True))
    commit(store, lambda unit: (fill(unit), [unit.deployments.put(one) for one in made]))
    assert [4, 3, 2] == [store.read(lambda unit, wall=wall: unit.deployments.busy(wall)) for wall in (4.0, 5.0, 9.0)]


def test_the_waiting_state_is_kept(store):
    from ota_bridge.core.rollout.model import RolloutState

    commit(store, lambda unit: (fill(unit), unit.rollouts.put(rollout(state=RolloutState.WAITING))))
    assert RolloutState.WAITING is store.read(lambda unit: unit.rollouts.get(R1)).state
