"""Any sequence of units of work has the same outcomes and leaves the same records in every backend."""

import tempfile
from pathlib import Path

from contract.store_samples import (
    APPROVALS,
    DEPLOYMENTS,
    DEVICES,
    ENTRIES,
    LIMITS,
    RELEASES,
    REPORTS,
    ROLLOUTS,
    TOKENS,
    TRANSITIONS,
    USER_NAMES,
    USERS,
    commit,
    entry,
    fill,
    url_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ota_bridge.core.errors import Conflict, StoreError
from ota_bridge.core.fleet import DeviceState
from ota_bridge.core.rollout.model import RolloutState
from ota_bridge.core.values import DeviceId
from ota_bridge.store.opening import BACKENDS, open_store

DEV1 = DeviceId("prod", "dev1")
MEMBERS = st.tuples(
    st.sampled_from(["r-000001", "r-000002"]), st.integers(0, 9) | st.just(2**61), st.sampled_from(["a", "b"])
)
STEPS = st.one_of(
    DEVICES.map(lambda record: lambda unit: unit.devices.put(record)),
    RELEASES.map(lambda record: lambda unit: unit.releases.put(record)),
    ROLLOUTS.map(lambda record: lambda unit: unit.rollouts.put(record)),
    DEPLOYMENTS.map(lambda record: lambda unit: unit.deployments.put(record)),
    DEPLOYMENTS.map(lambda record: lambda unit: unit.deployments.put(record)),
    TRANSITIONS.map(lambda record: lambda unit: unit.deployments.record(record)),
    REPORTS.map(lambda record: lambda unit: unit.reports.add(record)),
    LIMITS.map(lambda record: lambda unit: unit.limits.put(record)),
    USERS.map(lambda record: lambda unit: unit.users.put(record)),
    USER_NAMES.map(lambda name: lambda unit: unit.users.remove(name)),
    TOKENS.map(lambda record: lambda unit: unit.tokens.put(record)),
    APPROVALS.map(lambda record: lambda unit: unit.approvals.put(record)),
    APPROVALS.map(lambda record: lambda unit: unit.approvals.remove(record.rollout, record.user)),
    ENTRIES.map(lambda facts: lambda unit: unit.audit.append(entry(unit.audit.last(), **facts))),
    ENTRIES.map(lambda facts: lambda unit: unit.audit.append(entry(None, **facts))),
    MEMBERS.map(lambda member: lambda unit: unit.members.put(*member)),
    MEMBERS.map(lambda member: lambda unit: unit.members.remove(*member)),
    st.integers(-3, 3).map(lambda by_s: lambda unit: unit.deployments.shift_due(by_s)),
    st.sampled_from([-1e300, 0.0, 1e300]).map(lambda wall: lambda unit: unit.deployments.compact(DEV1, wall)),
    st.tuples(st.integers(0, 2), st.sampled_from([None, 0, 1, 2**63])).map(
        lambda drawn: lambda unit: unit.reports.prune(DEV1, 3.0, keep=drawn[0], boot=drawn[1])
    ),
)
WORKS = st.tuples(st.lists(STEPS, max_size=4), st.booleans())


def outcome(store, steps, fails):
    def work(unit):
        for step in steps:
            step(unit)
        if fails:
            raise Conflict("on purpose")

    try:
        commit(store, work)
    except (StoreError, Conflict) as error:
        return type(error)
    return None


def everything(unit):
    devices = [DeviceId("prod", "dev1"), DeviceId("prod", "dev2")]
    rollouts = [one.id for one in unit.rollouts.all()]
    deployments = [f"{number:012x}" for number in range(31)]
    return {
        "releases": [unit.releases.all(), unit.releases.all(product="other")],
        "devices": [
            unit.devices.page(),
            unit.devices.page(product="other", tag="a"),
            unit.devices.page(state=DeviceState.PENDING),
            unit.devices.page(after=DeviceId("prod", "a"), limit=2),
            unit.devices.named("a"),
            unit.devices.count(product="prod"),
        ],
        "rollouts": [unit.rollouts.all(), unit.rollouts.all(state=RolloutState.PAUSED, product="prod")],
        "deployments": [
            [unit.deployments.get(name) for name in deployments],
            [unit.deployments.open_of(one) for one in devices],
            [unit.deployments.recent_of(one, limit=3) for one in devices],
            [unit.deployments.of_rollout(one, after="000000000003", limit=4) for one in rollouts],
            [unit.deployments.of_rollout(one, open_only=True) for one in rollouts],
            unit.deployments.all_open(after="000000000002", limit=5),
            [unit.deployments.due(wall, limit=3) for wall in (-1.0, 0.0, 3.0)],
            unit.deployments.next_due_wall(),
            [dict(unit.deployments.counts(one)) for one in rollouts],
            [dict(unit.deployments.tallies(one)) for one in rollouts],
            [[one.id for one in unit.deployments.for_slots(limit)] for limit in (0, 2, 50)],
            [unit.deployments.waiting_for_slots(limit) for limit in (0, 2, 50)],
            [unit.deployments.busy(wall) for wall in (-1.0, 0.0, 3.0)],
            [unit.deployments.history(name) for name in deployments],
            [dict(unit.deployments.tallies(one)) for one in rollouts],
        ],
        "keys": [
            [unit.reports.seen(DEV1, boot, seq) for seq in range(4)] + [unit.reports.knows_boot(DEV1, boot)]
            for boot in (0, 1, 2**63)
        ],
        "members": [
            [
                unit.members.page(one, end=5, limit=2),
                unit.members.page(one, end=2**62, limit=99),
                [unit.members.nth(one, start, number) for start in (0, 4) for number in (0, 1, 5)],
                unit.members.count(one),
                unit.members.count(one, start=3, end=7),
            ]
            for one in rollouts
        ],
        "reports": [[unit.reports.recent(one, limit=limit) for one in devices] for limit in (2, 50)],
        "limits": unit.limits.get(),
        "people": [unit.users.all(), unit.tokens.all(), unit.tokens.all(user="ann")],
        "approvals": [unit.approvals.of_rollout(one) for one in rollouts],
        "audit": [unit.audit.last(), unit.audit.page(), unit.audit.latest(since_ms=0, limit=1)],
    }


@settings(max_examples=40, deadline=None)
@given(works=st.lists(WORKS, max_size=6))
def test_every_backend_answers_alike(works):
    with tempfile.TemporaryDirectory() as directory:
        stores = [open_store(url_of(name, Path(directory)), lambda run: run()) for name in sorted(BACKENDS)]
        for store in stores:
            commit(store, fill)
        for steps, fails in works:
            first, *others = (outcome(store, steps, fails) for store in stores)
            assert others == [first] * len(others)
        first, *others = (store.read(everything) for store in stores)
        assert others == [first] * len(others)
        for store in stores:
            store.close()
