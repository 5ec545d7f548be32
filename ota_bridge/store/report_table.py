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
    # One question for all that a report is asked about before it is taken.
    _KNOWN: Final = (
        "SELECT (SELECT content FROM reports WHERE product = ?1 AND name = ?2 AND boot = ?3 AND seq = ?4), "
        "EXISTS (SELECT 1 FROM reports WHERE product = ?1 AND name = ?2 AND boot = ?3), "
        "(SELECT boot FROM report_keys WHERE product = ?1 AND name = ?2), "
        "(SELECT keys FROM report_keys WHERE product = ?1 AND name = ?2), "
        "(SELECT boots FROM report_keys WHERE product = ?1 AND name = ?2)"
    )
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
        self._execute = db.conn.execute
        self._boot: tuple[DeviceId, int, bool] | None = None
        """Of the device that `seen` was asked about last: a boot, and whether it is known."""

    def forget(self) -> None:
        """Ask again: what was found may have been rolled back, or be otherwise now."""
        self._boot = None

    def seen(self, device: DeviceId, boot: int, seq: int) -> bytes | None:
        key = (device.product, device.name, rows.to_signed(boot), rows.to_signed(seq))
        content, is_known, *old = self._execute(self._KNOWN, key).fetchone()
        keys = _old_keys(old)
        self._boot = (device, boot, bool(is_known) or keys.knows_boot(boot))
        return keys.content(boot, seq) if content is None else bytes(content)

    def knows_boot(self, device: DeviceId, boot: int) -> bool:
        if self._boot is not None and self._boot[:2] == (device, boot):
            return self._boot[2]
        values = (device.product, device.name, rows.to_signed(boot))
        return self._execute(self._KNOWS, values).fetchone() is not None or self._old(device).knows_boot(boot)

    def add(self, report: StoredReport) -> None:
        self.forget()
        self._execute(self._ADD, rows.report_row(report))

    def recent(self, device: DeviceId, *, limit: int = 20) -> Sequence[StoredReport]:
        values = (device.product, device.name, limit)
        return [rows.report_from(row) for row in self._execute(self._RECENT, values)]

    def prune(self, device: DeviceId, before_wall: float, *, keep: int, boot: int | None) -> int:
        self.forget()
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
        return _old_keys(self._execute(self._OLD, (device.product, device.name)).fetchone() or (None, None, None))


def _old_keys(row: rows.Row) -> OldKeys:
    boot, keys, boots = row
    return _NO_KEYS if keys is None else OldKeys.unpacked(rows.from_signed(boot), keys, boots)
