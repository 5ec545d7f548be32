"""The records of a rehearsal take nothing back and count their ids."""

from contract.store_samples import deployment, device, fill, report, transition

from ota_bridge.rehearsal.ledger import Ledger


def test_it_keeps_records_and_neither_history_nor_reports():
    ledger = Ledger.new()
    fill(ledger)
    ledger.deployments.put(deployment())
    ledger.deployments.record(transition())
    ledger.reports.add(report())
    assert deployment() == ledger.deployments.get(deployment().id)
    assert device().id in ledger.state.devices
    assert [] == ledger.deployments.history(deployment().id)
    assert [] == ledger.reports.recent(device().id)
    assert (None, False) == (ledger.reports.seen(device().id, 1, 2), ledger.reports.knows_boot(device().id, 1))
    assert [] == ledger.state.journal


def test_the_same_steps_give_the_same_ids():
    ledgers = [Ledger.new(), Ledger.new()]
    for ledger in ledgers:
        fill(ledger)
        ledger.deployments.put(deployment())
    assert 1 == len({(one.new_deployment_id(), one.new_rollout_id()) for one in ledgers})
    assert (1, "000000000002") == (ledgers[0].opened, ledgers[0].new_deployment_id())
