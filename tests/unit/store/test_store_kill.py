"""kill -9 of a writing process at random moments: everything that was told as committed is there, in order."""

import os
import random
import signal
import subprocess
import sys

from ota_bridge.core.values import DeviceId
from ota_bridge.store.connection import open_writer
from ota_bridge.store.sqlite import open_readonly
from ota_bridge.store.tables import Tables

KILLS = 10
SEED = 20260101

WRITER = """
import os, sys
from pathlib import Path
from ota_bridge.core.fleet import Device, DeviceState
from ota_bridge.core.messages import ReportKey
from ota_bridge.core.ports import StoredReport
from ota_bridge.core.values import DeviceId
from ota_bridge.store.outcome import Committed
from ota_bridge.store.sqlite import SqliteStore

boot, device = int(sys.argv[2]), DeviceId("prod", "dev1")

def add(unit, seq):
    key = ReportKey(boot=boot, seq=seq, content=seq.to_bytes(8, "big"))
    unit.reports.add(StoredReport(device=device, key=key, kind="x", wall=0.0, body={"seq": seq}))
    unit.devices.put(Device(id=device, state=DeviceState.ACTIVE, created_wall=0.0, boot=boot, label=str(seq)))

def told(seq, outcome):
    assert isinstance(outcome, Committed), outcome
    os.write(1, b"%d\\n" % seq)
    submit(seq + 50)

def submit(seq):
    store.submit(lambda unit: add(unit, seq), lambda outcome: told(seq, outcome))

store = SqliteStore.open(Path(sys.argv[1]), deliver=lambda run: run(), group_max=20)
# On the writer's thread, like all that follow, so that the order is theirs alone.
store.submit(lambda unit: None, lambda outcome: [submit(seq) for seq in range(50)])
sys.stdin.read()
"""


def killed_writer(path, boot, told_at_least):
    """What a writer told until it was killed, some time after it had told this much."""
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(boot)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    try:
        lines = [child.stdout.readline() for _ in range(told_at_least)]
    finally:
        os.kill(child.pid, signal.SIGKILL)
        rest, _ = child.communicate()
    whole = (b"".join(lines) + rest).split(b"\n")[:-1]
    return [int(line) for line in whole]


def test_every_told_report_survives_a_kill(tmp_path):
    path = tmp_path / "bridge.db"
    seeded = random.Random(SEED)
    device = DeviceId("prod", "dev1")
    for boot in range(KILLS):
        told = killed_writer(path, boot, seeded.randint(1, 400))

        def missing(unit, boot=boot, told=told):
            return [seq for seq in told if unit.reports.seen(device, boot, seq) != seq.to_bytes(8, "big")]

        reader = open_readonly(path)
        assert told == list(range(len(told))), f"seed {SEED}, kill {boot}"
        assert reader.read(missing) == [], f"seed {SEED}, kill {boot}"
        # A report and the device it changes are in one transaction, so neither is there without the other.
        last = int(reader.read(lambda unit: unit.devices.get(device)).label)
        assert last >= told[-1]
        assert reader.read(lambda unit, last=last, boot=boot: unit.reports.seen(device, boot, last + 1)) is None
        reader.close()

    db = open_writer(path)
    assert Tables.over(db).reports.knows_boot(device, KILLS - 1)
    db.close()
