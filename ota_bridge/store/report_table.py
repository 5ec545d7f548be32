"""`Reports` over SQLite: the reports, and what is left of those that were pruned."""

from collections.abc import Sequence
from typing import Final

from sqlite_utils import Database

from ota_bridge.core.ports import StoredReport
from ota_bridge.core.values import DeviceId
from ota_bridge.store import rows
from ota_bridge.store.old_keys import OldKeys
from ota_bridge.store.statements import insert, select, upsert

_NO_KEYS: Final = OldKeys()


class ReportTable:
    """`Reports`: the reports in one table, and in another what is left of those that were pruned."""

    _ADD: Final = insert("reports", rows.REPORT_COLUMNS)
    _SEEN: Final = "SELECT content FROM reports WHERE product = ? AND name = ? AND boot = ? AND seq = ?"
    _KNOWS: Final = "SELECT 1 FROM reports WHERE product = ? AND name = ? AND boot = ? LIMIT 1"
    _LAST_IDS: Final = "SELECT id FROM reports WHERE product = ? AND name = ? ORDER BY +id DESC LIMIT ?"
    _RECENT: Final = select("reports", rows.REPORT_COLUMNS) + f"WHERE id IN ({_LAST_IDS}) ORDER BY id DESC"
    _OLD: Final = "SELECT boot, keys, boots FROM report_keys WHERE product = ? AND name = ?"
    _PUT_OLD: Final = upsert("report_keys", ("product", "name", "boot", "keys", "boots"), ("product", "name"))
    _BEYOND: Final = (
        "SELECT id, boot, seq, content, wall FROM reports WHERE product = ? AND name = ? "
        "ORDER BY +id DESC LIMIT -1 OFFSET ?"
    )

    def __init__(self, db: Database) -> None:
        self._execute = db.execute

    def seen(self, device: DeviceId, boot: int, seq: int) -> bytes | None:
        key = (device.product, device.name, rows.to_signed(boot), rows.to_signed(seq))
        row = self._execute(self._SEEN, key).fetchone()
        return self._old(device).content(boot, seq) if row is None else bytes(row[0])

    def knows_boot(self, device: DeviceId, boot: int) -> bool:
        values = (device.product, device.name, rows.to_signed(boot))
        return self._execute(self._KNOWS, values).fetchone() is not None or self._old(device).knows_boot(boot)

    def add(self, report: StoredReport) -> None:
        self._execute(self._ADD, rows.report_row(report))

    def recent(self, device: DeviceId, *, limit: int = 20) -> Sequence[StoredReport]:
        values = (device.product, device.name, limit)
        return [rows.report_from(row) for row in self._execute(self._RECENT, values)]

    def prune(self, device: DeviceId, before_wall: float, *, keep: int, boot: int | None) -> int:
        beyond = self._execute(self._BEYOND, (device.product, device.name, keep)).fetchall()
        gone = [row for row in reversed(beyond) if row[4] < before_wall]
        for row in gone:
            self._execute("DELETE FROM reports WHERE id = ?", (row[0],))
        if gone:
            keys = [rows.key_from(row[1:4]) for row in gone if row[1] is not None]
            old = self._old(device).after(keys, boot)
            self._execute(self._PUT_OLD, (device.product, device.name, rows.to_signed(boot), *old.packed()))
        return len(gone)

    def _old(self, device: DeviceId) -> OldKeys:
        row = self._execute(self._OLD, (device.product, device.name)).fetchone()
        return _NO_KEYS if row is None else OldKeys.unpacked(rows.from_signed(row[0]), row[1], row[2])
