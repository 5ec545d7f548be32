from dataclasses import replace

import pytest
from contract.store_samples import REPORTS, U64_MAX, commit, report
from hypothesis import HealthCheck, given, settings

from ota_bridge.core.errors import StoreError
from ota_bridge.core.messages import ReportKey
from ota_bridge.core.values import DeviceId

SHARED_STORE = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DEV1, DEV2 = DeviceId("prod", "dev1"), DeviceId("prod", "dev2")


@SHARED_STORE
@given(record=REPORTS)
def test_any_report_comes_back_as_it_was_added(store, record):
    key = record.key
    if key is None or store.read(lambda unit: unit.reports.seen(record.device, key.boot, key.seq)) is None:
        commit(store, lambda unit: unit.reports.add(record))

        assert record in store.read(lambda unit: unit.reports.recent(record.device, limit=10_000))
        if key is not None:
            assert store.read(lambda unit: unit.reports.seen(record.device, key.boot, key.seq)) == key.content


@pytest.mark.parametrize(("boot", "seq"), [(0, 0), (2**63 - 1, 2**63), (2**63, 2**63 - 1), (U64_MAX, U64_MAX)])
def test_boot_and_seq_may_have_64_bits(store, boot, seq):
    commit(store, lambda unit: unit.reports.add(report(boot=boot, seq=seq)))

    assert store.read(lambda unit: unit.reports.seen(DEV1, boot, seq)) == b"\x01" * 8
    assert store.read(lambda unit: unit.reports.knows_boot(DEV1, boot))
    assert store.read(lambda unit: unit.reports.recent(DEV1)[0].key) == ReportKey(
        boot=boot, seq=seq, content=b"\x01" * 8
    )


def test_a_key_belongs_to_one_device(store):
    commit(store, lambda unit: (unit.reports.add(report()), unit.reports.add(report("dev2", boot=2))))

    assert store.read(lambda unit: unit.reports.seen(DEV2, 1, 1)) is None
    assert store.read(lambda unit: unit.reports.seen(DEV1, 2, 1)) is None
    assert not store.read(lambda unit: unit.reports.knows_boot(DEV1, 2))
    assert not store.read(lambda unit: unit.reports.knows_boot(DEV2, 1))
    assert store.read(lambda unit: unit.reports.knows_boot(DEV2, 2))


def test_a_key_cannot_be_added_twice(store):
    commit(store, lambda unit: unit.reports.add(report()))

    with pytest.raises(StoreError):
        commit(store, lambda unit: unit.reports.add(report(kind="other")))
    assert [one.kind for one in store.read(lambda unit: unit.reports.recent(DEV1))] == ["report_version"]


def test_reports_without_a_key_are_all_kept(store):
    commit(store, lambda unit: [unit.reports.add(report(key=None)) for _ in range(3)])

    assert len(store.read(lambda unit: unit.reports.recent(DEV1))) == 3
    assert not store.read(lambda unit: unit.reports.knows_boot(DEV1, 1))


def test_recent_is_what_was_added_last_first_whatever_the_clock_said(store):
    walls = [2.0, 1.0, 2.0, 0.5]
    records = [report(seq=seq, wall=wall) for seq, wall in enumerate(walls)]
    commit(store, lambda unit: [unit.reports.add(record) for record in records])

    assert [one.key.seq for one in store.read(lambda unit: unit.reports.recent(DEV1))] == [3, 2, 1, 0]
    assert [one.key.seq for one in store.read(lambda unit: unit.reports.recent(DEV1, limit=2))] == [3, 2]


def test_bytes_in_a_body_become_base64_text(store):
    body = {"nonce": b"\x00\xff", "have": [[b"abc", 4096]]}
    commit(store, lambda unit: unit.reports.add(replace(report(), body=body)))

    [found] = store.read(lambda unit: unit.reports.recent(DEV1))
    assert found.body == {"nonce": "AP8=", "have": [["YWJj", 4096]]}


def test_a_body_that_is_no_data_is_refused(store):
    with pytest.raises(StoreError, match="body"):
        commit(store, lambda unit: unit.reports.add(report(body={"x": object()})))
