import pytest
from contract.store_samples import LIMITS, commit
from hypothesis import HealthCheck, given, settings

from ota_bridge.core.errors import Conflict, StoreError
from ota_bridge.core.values import Limits, StandingLimits

SHARED_STORE = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_a_new_store_holds_no_cap(store):
    assert store.read(lambda unit: unit.limits.get()) == StandingLimits()


@SHARED_STORE
@given(record=LIMITS)
def test_any_limits_come_back_as_they_were_put(store, record):
    commit(store, lambda unit: unit.limits.put(record))

    assert store.read(lambda unit: unit.limits.get()) == record


def test_what_is_put_is_seen_by_the_next_work_and_gone_where_a_work_fails(store):
    fifty, none = StandingLimits(limits=Limits(downloads=50)), StandingLimits()

    def fails(unit):
        unit.limits.put(none)
        raise Conflict("on purpose")

    commit(store, lambda unit: unit.limits.put(fifty))
    with pytest.raises(Conflict):
        commit(store, fails)

    assert commit(store, lambda unit: unit.limits.get()) == fifty


def test_who_can_only_read_cannot_put(store):
    with pytest.raises(StoreError):
        store.read(lambda unit: unit.limits.put(StandingLimits()))
