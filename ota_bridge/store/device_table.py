"""`Devices` over SQLite."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, Final

from sqlite_utils import Database

from ota_bridge.core.fleet import Device, DeviceState
from ota_bridge.core.messages import InstalledPart
from ota_bridge.core.values import DeviceId
from ota_bridge.store import rows
from ota_bridge.store.statements import change, select, upsert, where

_KEY: Final = ("product", "name")
_HAS_OPEN: Final = (
    "EXISTS (SELECT 1 FROM deployments AS d "
    "WHERE d.product = devices.product AND d.name = devices.name AND d.is_open = 1)"
)
_STEADY: Final = attrgetter(*(one.name for one in fields(Device) if one.name not in {"id", *rows.HEARD_COLUMNS}))
"""What a report hardly ever changes."""


class DeviceTable:
    """`Devices`. The last one is kept, and written once: a report asks for its device, and puts it, several times.

    Most reports change when the device was heard and little else: then only those columns are written.
    """

    _PUT: Final = upsert("devices", rows.DEVICE_COLUMNS, _KEY)
    _CHANGE: Final = change("devices", rows.DEVICE_COLUMNS[2:], _KEY)
    _HEARD: Final = change("devices", rows.HEARD_COLUMNS, _KEY)
    _SELECT: Final = select("devices", rows.DEVICE_COLUMNS)
    _GET: Final = select("devices", (*rows.DEVICE_COLUMNS, _HAS_OPEN)) + "WHERE product = ? AND name = ?"
    _INSTALLED: Final = (
        "SELECT parts FROM devices WHERE product = ? AND state <> 'retired' GROUP BY parts ORDER BY min(name)"
    )
    _NAMED: Final = _SELECT + "WHERE name = ?1 OR (label = ?1 AND label <> '') ORDER BY product, name"

    def __init__(self, db: Database, none_open: Callable[[DeviceId], None]) -> None:
        """`none_open` is told of a device that was read and has no open deployment: a report asks that next."""
        self._execute = db.conn.execute
        self._none_open = none_open
        self._last: Device | None = None
        self._stored: Device | None = None
        """The last one as its row has it; None: there may be no row."""

    def get(self, device: DeviceId) -> Device | None:
        last = self._last
        if last is not None and last.id == device:
            return last
        self.flush()
        row = self._execute(self._GET, (device.product, device.name)).fetchone()
        if row is None:
            return None
        self._last = self._stored = found = rows.device_from(row, device)
        if not row[-1]:
            self._none_open(device)
        return found

    def forget(self) -> None:
        """Read again: what was kept may have been rolled back."""
        self._last = self._stored = None

    def put(self, device: Device) -> None:
        if self._last is not None and self._last.id == device.id:  # it is there, so others may refer to it
            self._last = device
            return
        self.flush()
        self.forget()
        self._execute(self._PUT, rows.device_row(device))
        self._last = self._stored = device

    def flush(self) -> None:
        """Write what was put and not written yet."""
        last, stored = self._last, self._stored
        if last is stored or last is None or stored is None:
            return
        self.forget()
        key = (last.id.product, last.id.name)
        if _STEADY(last) == _STEADY(stored):
            self._execute(self._HEARD, (*rows.heard_row(last), *key))
        else:
            self._execute(self._CHANGE, (*rows.device_row(last)[2:], *key))
        self._last = self._stored = last

    def named(self, name: str) -> Sequence[Device]:
        self.flush()
        return [rows.device_from(row) for row in self._execute(self._NAMED, (name,))]

    def page(
        self,
        *,
        product: str | None = None,
        state: DeviceState | None = None,
        tag: str | None = None,
        after: DeviceId | None = None,
        limit: int = 1000,
    ) -> Sequence[Device]:
        if after is not None and product is None:  # two looks that an index finds: for a pair there is no such
            same = self.page(product=after.product, state=state, tag=tag, after=after, limit=limit)
            following = self._page(None, state, tag, after, limit - len(same)) if len(same) < limit else []
            return [*same, *following]
        return self._page(product, state, tag, after, limit)

    def _page(
        self, product: str | None, state: DeviceState | None, tag: str | None, after: DeviceId | None, limit: int
    ) -> Sequence[Device]:
        """Without `product`: of the products behind that of `after`."""
        self.flush()
        conditions: list[str] = []
        values: list[Any] = []
        if product is not None:
            conditions.append("product = ?")
            values.append(product)
        if after is not None and product == after.product:
            conditions.append("name > ?")
            values.append(after.name)
        elif after is not None:
            conditions.append("product > ?")
            values.append(after.product)
        if state is not None:
            conditions.append("state = ?")
            values.append(state.value)
        if tag is not None:
            conditions.append("tags <> '[]' AND EXISTS (SELECT 1 FROM json_each(tags) WHERE value = ?)")
            values.append(tag)
        sql = self._SELECT + where(conditions) + "ORDER BY product, name LIMIT ?"
        return [rows.device_from(row) for row in self._execute(sql, (*values, limit))]

    def count(self, *, product: str | None = None) -> int:
        self.flush()
        if product is None:
            found = self._execute("SELECT count(*) FROM devices").fetchone()
        else:
            found = self._execute("SELECT count(*) FROM devices WHERE product = ?", (product,)).fetchone()
        return int(found[0])

    def installed(self, *, product: str) -> Sequence[Mapping[str, InstalledPart]]:
        self.flush()
        found: list[Mapping[str, InstalledPart]] = []
        for row in self._execute(self._INSTALLED, (product,)):
            parts = rows.parts_from(row[0])
            if parts not in found:  # the same components in another order
                found.append(parts)
        return found
