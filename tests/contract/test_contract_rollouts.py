import pytest
from contract.store_samples import ROLLOUTS, commit, release, rollout
from hypothesis import HealthCheck, given, settings

from ota_bridge.core.errors import StoreError
from ota_bridge.core.rollout.model import RolloutState
from ota_bridge.core.values import RolloutId, release_id

SHARED_STORE = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SHARED_STORE
@given(record=ROLLOUTS)
def test_any_rollout_comes_back_as_it_was_put(store, record):
    commit(store, lambda unit: (unit.releases.put(release()), unit.rollouts.put(record)))

    assert store.read(lambda unit: unit.rollouts.get(record.id)) == record


def test_an_unknown_rollout_is_none(store):
    assert store.read(lambda unit: unit.rollouts.get(RolloutId("r-ffffff"))) is None


def test_all_is_in_the_order_of_creation_whatever_the_clock_said_and_filtered(store):
    records = [
        rollout("r-00000b", created_wall=2.0),
        rollout("r-00000a", created_wall=3.0),
        rollout("r-00000c", created_wall=1.0, product="other"),
        rollout("r-00000b", created_wall=2.0, state=RolloutState.PAUSED),
    ]
    commit(store, lambda unit: (unit.releases.put(release()), [unit.rollouts.put(one) for one in records]))

    def ids(**filters):
        return [one.id for one in store.read(lambda unit: unit.rollouts.all(**filters))]

    assert ids() == ["r-00000b", "r-00000a", "r-00000c"]
    assert ids(state=RolloutState.RUNNING) == ["r-00000a", "r-00000c"]
    assert ids(product="prod") == ["r-00000b", "r-00000a"]
    assert ids(state=RolloutState.RUNNING, product="prod") == ["r-00000a"]


def test_a_rollout_of_a_release_that_does_not_exist_is_refused(store):
    with pytest.raises(StoreError):
        commit(store, lambda unit: unit.rollouts.put(rollout(release=release_id("prod", "9"))))
    assert store.read(lambda unit: unit.rollouts.all()) == []
