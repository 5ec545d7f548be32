from dataclasses import replace

from contract.store_samples import RELEASES, commit, release
from hypothesis import HealthCheck, given, settings

from ota_bridge.core.catalog import ReleaseState
from ota_bridge.core.values import ReleaseId

SHARED_STORE = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SHARED_STORE
@given(record=RELEASES)
def test_any_release_comes_back_as_it_was_put(store, record):
    commit(store, lambda unit: unit.releases.put(record))

    found = store.read(lambda unit: unit.releases.get(record.id))

    assert found == record
    assert list(found.parts) == list(record.parts)


def test_an_unknown_release_is_none(store):
    assert store.read(lambda unit: unit.releases.get(ReleaseId("prod/9"))) is None


def test_put_replaces_the_whole_release_with_its_parts(store):
    first = release()
    other_part = replace(first.parts["firmware"], component="config", manifest=first.parts["firmware"].manifest)
    second = replace(first, state=ReleaseState.WITHDRAWN, parts={"config": other_part})
    commit(store, lambda unit: unit.releases.put(first))
    commit(store, lambda unit: unit.releases.put(second))

    assert store.read(lambda unit: unit.releases.get(first.id)) == second
    assert store.read(lambda unit: unit.releases.all()) == [second]


def test_all_is_ordered_by_id_and_filtered_by_product(store):
    records = [release("2"), release("10"), release("1", "aaa")]
    commit(store, lambda unit: [unit.releases.put(record) for record in records])

    assert [one.id for one in store.read(lambda unit: unit.releases.all())] == ["aaa/1", "prod/10", "prod/2"]
    assert [one.id for one in store.read(lambda unit: unit.releases.all(product="prod"))] == ["prod/10", "prod/2"]
