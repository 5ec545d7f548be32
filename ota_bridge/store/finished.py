"""Deployments that have been compacted, over SQLite: what `Deployment.compacted` keeps of them, in few bytes.

Used by `DeploymentTable` alone, which asks here for what it does not find in its own table.
"""

from collections.abc import Sequence
from heapq import merge
from typing import Final

from sqlite_utils import Database

from ota_bridge.core.deployment import Deployment
from ota_bridge.core.values import DeploymentId, DeviceId, RolloutId
from ota_bridge.store import rows
from ota_bridge.store.statements import insert

_KIND: Final = ("product", "component", "release", "rollout", "stage", "size_bytes")
_END: Final = ("state", "earlier_end", "cause", "result_code", "old_version")
_OWN: Final = (
    *("id", "name", "kind", "ending", "attempt", "latest", "created_wall", "changed_wall", "last_block_wall"),
    *("high_water_bytes", "bytes_sent", "blocks_sent", "requests", "offers", "percent"),
)
_GONE: Final = {"is_open": "0", "resent": "0", "stalled": "0", "slot_rank": "0"}


def _source(column: str) -> str:
    """Where a column of `deployments` is found."""
    if column == "rollout":
        return "nullif(k.rollout, '')"
    for table, columns in (("f", _OWN), ("k", _KIND), ("e", _END)):
        if column in columns:
            return f"{table}.{column}"
    return _GONE.get(column, "NULL")


class FinishedRows:
    """See the module."""

    _JOIN: Final = (
        f"SELECT {', '.join(map(_source, rows.DEPLOYMENT_COLUMNS))} FROM finished AS f "  # noqa: S608 - constants
        "JOIN finished_kinds AS k ON k.id = f.kind JOIN finished_ends AS e ON e.id = f.ending "
    )
    _GET: Final = _JOIN + "WHERE f.id = ?"
    _OF_DEVICE: Final = _JOIN + "WHERE f.name = ? AND k.product = ? ORDER BY f.number DESC LIMIT ?"
    _LATEST: Final = _JOIN + "WHERE f.kind = ? AND f.latest = 1 AND f.id > ? ORDER BY f.id LIMIT ?"
    _KINDS: Final = "SELECT id FROM finished_kinds WHERE rollout = ?"
    _HAS: Final = "SELECT 1 FROM finished WHERE id = ?"
    _ADD: Final = insert("finished", _OWN)
    _CHANGE: Final = f"UPDATE finished SET {', '.join(f'{name} = ?' for name in _OWN[1:])} WHERE id = ?"  # noqa: S608

    def __init__(self, db: Database) -> None:
        self._execute = db.conn.execute

    def get(self, deployment: DeploymentId) -> Deployment | None:
        """One of them, if it is here."""
        row = self._execute(self._GET, (deployment,)).fetchone()
        return None if row is None else rows.deployment_from(row)

    def has(self, deployment: DeploymentId) -> bool:
        """True if it is here."""
        return self._execute(self._HAS, (deployment,)).fetchone() is not None

    def of_device(self, device: DeviceId, limit: int) -> list[Deployment]:
        """That which was compacted last first."""
        found = self._execute(self._OF_DEVICE, (device.name, device.product, limit))
        return [rows.deployment_from(row) for row in found]

    def of_rollout(self, rollout: RolloutId, after: str, limit: int) -> list[Deployment]:
        """Latest attempts, by id."""
        pages = [
            [rows.deployment_from(row) for row in self._execute(self._LATEST, (kind, after, limit))]
            for (kind,) in self._execute(self._KINDS, (rollout,)).fetchall()
        ]
        return list(merge(*pages, key=lambda one: one.id))[:limit]

    def add(self, deployment: Deployment) -> None:
        """One that is in no other table any more."""
        self._execute(self._ADD, self._row(deployment))

    def change(self, deployment: Deployment) -> None:
        """Put one that is here. None is open again: a trigger of `deployments` sees to that."""
        name, *others = self._row(deployment)
        self._execute(self._CHANGE, (*others, name))

    def _row(self, deployment: Deployment) -> rows.Row:
        one = deployment.compacted()
        kind = (one.device.product, one.component, one.release, one.rollout or "", one.stage, one.size_bytes)
        earlier_end = "" if one.earlier_end is None else one.earlier_end.value
        ending = (one.state.value, earlier_end, one.cause, one.result_code, one.old_version)
        return (
            *(one.id, one.device.name, self._shared("finished_kinds", _KIND, kind)),
            *(self._shared("finished_ends", _END, ending), one.attempt, one.latest, one.created_wall),
            *(one.changed_wall, one.last_block_wall, one.high_water_bytes, one.bytes_sent, one.blocks_sent),
            *(one.requests, one.offers, one.percent),
        )

    def _shared(self, table: str, columns: Sequence[str], values: Sequence[object]) -> int:
        """The number of a row that many have in common."""
        conditions = " AND ".join(f"{name} = ?" for name in columns)
        sql = f"SELECT id FROM {table} WHERE {conditions}"  # noqa: S608 - constants of this module
        found = self._execute(sql, values).fetchone()
        if found is None:
            self._execute(insert(table, columns), values)
            found = self._execute(sql, values).fetchone()
        return int(found[0])
