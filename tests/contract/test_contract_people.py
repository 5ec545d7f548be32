from dataclasses import replace

import pytest
from contract.store_samples import APPROVALS, TOKENS, USERS, approval, commit, fill, token, user
from hypothesis import HealthCheck, given, settings

from ota_bridge.core.errors import Conflict, StoreError
from ota_bridge.core.people import Role
from ota_bridge.core.values import RolloutId

SHARED_STORE = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SHARED_STORE
@given(record=USERS)
def test_any_user_comes_back_as_it_was_put(store, record):
    commit(store, lambda unit: unit.users.put(record))

    assert store.read(lambda unit: unit.users.get(record.name)) == record


def test_users_are_ordered_by_name_replaced_and_removed(store):
    cho, ann = user("cho"), user("ann")
    commit(store, lambda unit: [unit.users.put(one) for one in (cho, ann)])
    promoted = replace(ann, roles=frozenset({Role.ADMIN, Role.VIEWER}))
    commit(store, lambda unit: unit.users.put(promoted))

    assert store.read(lambda unit: unit.users.all()) == [promoted, cho]
    commit(store, lambda unit: (unit.users.remove("ann"), unit.users.remove("nobody")))
    assert store.read(lambda unit: unit.users.all()) == [cho]
    assert store.read(lambda unit: unit.users.get("ann")) is None


def test_what_a_failed_work_removed_is_there_again_in_its_place(store):
    commit(store, lambda unit: (fill(unit), [unit.approvals.put(approval(user=name)) for name in ("b", "a", "c")]))
    before = store.read(lambda unit: unit.approvals.of_rollout(RolloutId("r-000001")))

    def fails(unit):
        unit.approvals.remove(RolloutId("r-000001"), "b")
        unit.approvals.put(approval(user="d"))
        raise Conflict("on purpose")

    with pytest.raises(Conflict):
        commit(store, fails)

    assert [one.user for one in before] == ["b", "a", "c"]
    assert store.read(lambda unit: unit.approvals.of_rollout(RolloutId("r-000001"))) == before


@SHARED_STORE
@given(record=TOKENS)
def test_any_token_comes_back_as_it_was_put(store, record):
    commit(store, lambda unit: unit.tokens.put(record))

    assert store.read(lambda unit: unit.tokens.get(record.id)) == record


def test_tokens_are_listed_by_user_oldest_first(store):
    made = [token("00000002", user="ann"), token("00000001", user="ann"), token("00000003", user="cho")]
    commit(store, lambda unit: [unit.tokens.put(one) for one in made])
    revoked = replace(made[0], revoked_wall=5.0)
    commit(store, lambda unit: unit.tokens.put(revoked))

    assert store.read(lambda unit: unit.tokens.all()) == [revoked, *made[1:]]
    assert store.read(lambda unit: unit.tokens.all(user="ann")) == [revoked, made[1]]
    assert store.read(lambda unit: unit.tokens.get("00000009")) is None


@SHARED_STORE
@given(record=APPROVALS)
def test_any_approval_comes_back_as_it_was_put(store, record):
    commit(store, lambda unit: (fill(unit), unit.approvals.put(record)))

    assert record in store.read(lambda unit: unit.approvals.of_rollout(record.rollout))


def test_a_person_has_one_approval_of_a_rollout_and_takes_it_back(store):
    first, again = approval(user="ann"), approval(user="ann", digest=b"\x02" * 32, wall=9.0)
    other = approval("r-000002", user="ann")
    commit(store, lambda unit: (fill(unit), [unit.approvals.put(one) for one in (first, again, other)]))

    assert store.read(lambda unit: unit.approvals.of_rollout(RolloutId("r-000001"))) == [again]
    commit(store, lambda unit: unit.approvals.remove(RolloutId("r-000001"), "ann"))
    assert store.read(lambda unit: unit.approvals.of_rollout(RolloutId("r-000001"))) == []
    assert store.read(lambda unit: unit.approvals.of_rollout(RolloutId("r-000002"))) == [other]


def test_an_approval_is_of_a_rollout_that_there_is(store):
    with pytest.raises(StoreError):
        commit(store, lambda unit: unit.approvals.put(approval("r-ffffff")))


def test_ids_and_secrets_are_unlike(store):
    ids, secrets = store.read(
        lambda unit: ({unit.new_token_id() for _ in range(20)}, {unit.new_secret() for _ in range(20)})
    )
    assert [20, 20] == [len(ids), len(secrets)]
    assert {8} == {len(one) for one in ids}
    assert {32} == {len(one) for one in secrets}


@pytest.mark.parametrize(
    "change",
    [
        lambda unit: unit.users.put(user()),
        lambda unit: unit.users.remove("ann"),
        lambda unit: unit.tokens.put(token()),
        lambda unit: unit.approvals.put(approval()),
        lambda unit: unit.approvals.remove(RolloutId("r-000001"), "ann"),
    ],
)
def test_who_can_only_read_cannot_change_people(store, change):
    commit(store, lambda unit: (fill(unit), unit.users.put(user())))
    with pytest.raises(StoreError):
        store.read(change)
