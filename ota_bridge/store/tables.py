"""The ports over SQLite: one class per aggregate, all on one connection, none of which begins or ends a transaction.

All SQL goes to the connection as it is, for sqlite-utils looks before and after each statement whether it is to commit:
the owner of the connection opens a transaction around every unit of work.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlite_utils import Database

from ota_bridge.core.catalog import Release
from ota_bridge.core.deployment import Deployment, State, Transition
from ota_bridge.core.people import TokenId
from ota_bridge.core.ports import (
    Approvals,
    AuditLog,
    Deployments,
    Devices,
    LimitsInForce,
    Members,
    Memories,
    Releases,
    Reports,
    Rollouts,
    Tokens,
    Users,
)
from ota_bridge.core.rollout.model import PLACES_END, Rollout, RolloutState
from ota_bridge.core.values import DeploymentId, DeviceId, ReleaseId, RolloutId, StandingLimits
from ota_bridge.store import catalog_rows, rows
from ota_bridge.store.device_table import DeviceTable
from ota_bridge.store.dialect_tables import MemoryTable
from ota_bridge.store.finished import FinishedRows
from ota_bridge.store.identifiers import new_secret, unused_id
from ota_bridge.store.people_tables import ApprovalTable, AuditTable, TokenTable, UserTable
from ota_bridge.store.report_table import ReportTable
from ota_bridge.store.statements import insert, select, upsert


class ReleaseTable:
    """`Releases`: the release and its parts in two tables. What was read is kept: every report asks for a few again."""

    _PUT: Final = upsert("releases", catalog_rows.RELEASE_COLUMNS, ("id",))
    _PUT_PART: Final = upsert("release_parts", catalog_rows.PART_COLUMNS, ("release", "component"))
    _SELECT: Final = select("releases", catalog_rows.RELEASE_COLUMNS)
    _GET: Final = _SELECT + "WHERE id = ?"
    _ALL: Final = _SELECT + "WHERE ?1 IS NULL OR product = ?1 ORDER BY id"
    _PARTS: Final = select("release_parts", catalog_rows.PART_COLUMNS) + "WHERE release = ? ORDER BY position"

    def __init__(self, db: Database) -> None:
        self._execute = db.conn.execute
        self._kept: dict[ReleaseId, Release] = {}
        self._all: dict[str | None, Sequence[Release]] = {}

    def get(self, release: ReleaseId) -> Release | None:
        found = self._kept.get(release)
        if found is None:
            row = self._execute(self._GET, (release,)).fetchone()
            if row is None:
                return None
            found = self._kept[release] = self._whole(row)
        return found

    def forget(self) -> None:
        """Read again: what was kept may have been rolled back."""
        self._kept.clear()
        self._all.clear()

    def put(self, release: Release) -> None:
        self.forget()
        self._execute(self._PUT, catalog_rows.release_row(release))
        self._execute("DELETE FROM release_parts WHERE release = ?", (release.id,))
        for position, part in enumerate(release.parts.values()):
            self._execute(self._PUT_PART, catalog_rows.part_row(release.id, position, part))

    def all(self, *, product: str | None = None) -> Sequence[Release]:
        found = self._all.get(product)
        if found is None:
            found = [self._whole(row) for row in self._execute(self._ALL, (product,)).fetchall()]
            self._all[product] = found
        return list(found)

    def _whole(self, row: rows.Row) -> Release:
        parts = [catalog_rows.part_from(part) for part in self._execute(self._PARTS, (row[0],))]
        return catalog_rows.release_from(row, {part.component: part for part in parts})


class DeploymentTable:
    """`Deployments`: attempts in one table, their transitions in another, those that were compacted in `finished`.

    The open ones of the last device are kept: a report asks for them several times.
    """

    _PUT: Final = upsert("deployments", rows.DEPLOYMENT_COLUMNS, ("id",))
    _SELECT: Final = select("deployments", rows.DEPLOYMENT_COLUMNS)
    _GET: Final = _SELECT + "WHERE id = ?"
    _OPEN_OF: Final = _SELECT + "WHERE product = ? AND name = ? AND is_open = 1 ORDER BY id"
    # Not by time: the wall clock may have been set back between two of them. A row keeps its rowid while it is there.
    _RECENT: Final = _SELECT + "WHERE product = ? AND name = ? ORDER BY rowid DESC LIMIT ?"
    _OF_ROLLOUT: Final = _SELECT + "WHERE rollout = ? AND latest = 1 AND id > ? ORDER BY id LIMIT ?"
    _OPEN_OF_ROLLOUT: Final = (
        _SELECT + "WHERE rollout = ? AND latest = 1 AND is_open = 1 AND id > ? ORDER BY id LIMIT ?"
    )
    _ALL_OPEN: Final = _SELECT + "WHERE is_open = 1 AND id > ? ORDER BY id LIMIT ?"
    _DUE: Final = _SELECT + "WHERE is_open = 1 AND due_wall <= ? ORDER BY due_wall, id LIMIT ?"
    _TALLIES: Final = "SELECT stage, state, earlier_end, number FROM rollout_tallies WHERE rollout = ? AND number <> 0"
    # The slots' line: urgent ones first, then by age.
    _FOR_SLOTS: Final = _SELECT + "WHERE slot_rank = ? AND slot_rank > 0 ORDER BY rowid LIMIT ?"
    _RECORD: Final = insert("transitions", rows.TRANSITION_COLUMNS)
    _HISTORY: Final = select("transitions", rows.TRANSITION_COLUMNS) + "WHERE deployment = ? ORDER BY id"
    _OLDEST: Final = _SELECT + "WHERE product = ? AND name = ? ORDER BY rowid LIMIT ?"

    def __init__(self, db: Database) -> None:
        self._execute = db.conn.execute
        self._finished = FinishedRows(db)
        self._kept_of: DeviceId | None = None
        self._kept: dict[DeploymentId, Deployment] = {}

    def forget(self) -> None:
        """Read again: what was kept may have been rolled back, or changed in another way."""
        self._kept_of = None
        self._kept.clear()

    def get(self, deployment: DeploymentId) -> Deployment | None:
        kept = self._kept.get(deployment)
        if kept is not None:
            return kept
        row = self._execute(self._GET, (deployment,)).fetchone()
        return self._finished.get(deployment) if row is None else rows.deployment_from(row)

    def put(self, deployment: Deployment) -> None:
        if not deployment.is_open and self._finished.has(deployment.id):
            self._finished.change(deployment)
            return
        self._kept.pop(deployment.id, None)  # until it is written
        self._execute(self._PUT, rows.deployment_row(deployment))
        if deployment.is_open and deployment.device == self._kept_of:
            self._kept[deployment.id] = deployment

    def open_of(self, device: DeviceId) -> Sequence[Deployment]:
        if device != self._kept_of:
            self.forget()
            self._kept = {one.id: one for one in self._list(self._OPEN_OF, (device.product, device.name))}
            self._kept_of = device
        return sorted(self._kept.values(), key=lambda one: one.id) if self._kept else []

    def none_open(self, device: DeviceId) -> None:
        """It was seen with the row of this device that none of its deployments is open."""
        if device != self._kept_of:
            self._kept.clear()
            self._kept_of = device

    def recent_of(self, device: DeviceId, *, limit: int = 20) -> Sequence[Deployment]:
        found = self._list(self._RECENT, (device.product, device.name, limit))
        return found if len(found) >= limit else found + self._finished.of_device(device, limit - len(found))

    def of_rollout(
        self,
        rollout: RolloutId,
        *,
        open_only: bool = False,
        after: DeploymentId | None = None,
        limit: int = 1000,
    ) -> Sequence[Deployment]:
        if open_only:
            return self._list(self._OPEN_OF_ROLLOUT, (rollout, after or "", limit))
        found = self._list(self._OF_ROLLOUT, (rollout, after or "", limit))
        finished = self._finished.of_rollout(rollout, after or "", limit)
        return sorted(found + finished, key=lambda one: one.id)[:limit]

    def all_open(self, *, after: DeploymentId | None = None, limit: int = 1000) -> Sequence[Deployment]:
        return self._list(self._ALL_OPEN, (after or "", limit))

    def due(self, wall: float, *, limit: int = 500) -> Sequence[Deployment]:
        return self._list(self._DUE, (wall, limit))

    def next_due_wall(self) -> float | None:
        sql = "SELECT min(due_wall) FROM deployments WHERE is_open = 1 AND due_wall IS NOT NULL"
        found: float | None = self._execute(sql).fetchone()[0]
        return found

    def counts(self, rollout: RolloutId) -> Mapping[State, int]:
        found: dict[State, int] = {}
        for (_, state, _), number in self.tallies(rollout).items():
            found[state] = found.get(state, 0) + number
        return found

    def tallies(self, rollout: RolloutId) -> Mapping[tuple[int, State, State | None], int]:
        return {
            (stage, State(state), State(end) if end else None): number
            for stage, state, end, number in self._execute(self._TALLIES, (rollout,))
        }

    def for_slots(self, limit: int) -> Sequence[Deployment]:
        found = self._list(self._FOR_SLOTS, (2, limit))
        return [*found, *self._list(self._FOR_SLOTS, (1, limit - len(found)))]

    def waiting_for_slots(self, limit: int) -> int:
        sql = "SELECT count(*) FROM (SELECT 1 FROM deployments WHERE slot_rank > 0 LIMIT ?)"
        return int(self._execute(sql, (limit,)).fetchone()[0])

    def busy(self, offered_since_wall: float) -> int:
        sql = "SELECT count(*) FROM deployments WHERE state = 'DOWNLOADING' AND stalled = 0"
        downloading = self._execute(sql).fetchone()[0]
        sql = "SELECT count(*) FROM deployments WHERE state = 'OFFERED' AND offered_wall > ?"
        return int(downloading + self._execute(sql, (offered_since_wall,)).fetchone()[0])

    def record(self, transition: Transition) -> None:
        self._execute(self._RECORD, rows.transition_row(transition))

    def history(self, deployment: DeploymentId) -> Sequence[Transition]:
        return [rows.transition_from(row) for row in self._execute(self._HISTORY, (deployment,))]

    def compact(self, device: DeviceId, before_wall: float, *, limit: int = 1000) -> int:
        done = 0
        for one in self._list(self._OLDEST, (device.product, device.name, limit)):
            if one.is_open or one.changed_wall >= before_wall:
                break
            self._execute("DELETE FROM transitions WHERE deployment = ?", (one.id,))
            self._execute("DELETE FROM deployments WHERE id = ?", (one.id,))
            self._finished.add(one)
            done += 1
        return done

    def shift_due(self, by_s: float) -> None:
        self.forget()
        self._execute(
            "UPDATE deployments SET due_wall = due_wall + ?1, retry_wall = retry_wall + ?1 "
            "WHERE due_wall IS NOT NULL OR retry_wall IS NOT NULL",
            (by_s,),
        )

    def _list(self, sql: str, values: Sequence[Any]) -> list[Deployment]:
        return [rows.deployment_from(row) for row in self._execute(sql, values)]


class RolloutTable:
    """`Rollouts`. What was read is kept, as releases are."""

    _PUT: Final = upsert("rollouts", catalog_rows.ROLLOUT_COLUMNS, ("id",))
    _SELECT: Final = select("rollouts", catalog_rows.ROLLOUT_COLUMNS)
    _GET: Final = _SELECT + "WHERE id = ?"
    _ALL: Final = _SELECT + "WHERE (?1 IS NULL OR state = ?1) AND (?2 IS NULL OR product = ?2) ORDER BY rowid"

    def __init__(self, db: Database) -> None:
        self._execute = db.conn.execute
        self._kept: dict[RolloutId, Rollout] = {}
        self._lists: dict[tuple[RolloutState | None, str | None], tuple[Rollout, ...]] = {}

    def get(self, rollout: RolloutId) -> Rollout | None:
        found = self._kept.get(rollout)
        if found is None:
            row = self._execute(self._GET, (rollout,)).fetchone()
            if row is None:
                return None
            found = self._kept[rollout] = catalog_rows.rollout_from(row)
        return found

    def forget(self) -> None:
        """Read again: what was kept may have been rolled back."""
        self._kept.clear()
        self._lists.clear()

    def put(self, rollout: Rollout) -> None:
        self.forget()
        self._execute(self._PUT, catalog_rows.rollout_row(rollout))

    def all(self, *, state: RolloutState | None = None, product: str | None = None) -> Sequence[Rollout]:
        found = self._lists.get((state, product))
        if found is None:
            rows_ = self._execute(self._ALL, (None if state is None else state.value, product))
            found = self._lists[state, product] = tuple(catalog_rows.rollout_from(row) for row in rows_)
        return list(found)


class MemberTable:
    """`Members`."""

    _PUT: Final = "INSERT OR IGNORE INTO rollout_members (rollout, place, name) VALUES (?, ?, ?)"
    _REMOVE: Final = "DELETE FROM rollout_members WHERE rollout = ? AND place = ? AND name = ?"
    _PAGE: Final = (
        "SELECT place, name FROM rollout_members WHERE rollout = ? AND place < ? ORDER BY place, name LIMIT ?"
    )
    _NTH: Final = (
        "SELECT place FROM rollout_members WHERE rollout = ? AND place >= ? ORDER BY place, name LIMIT 1 OFFSET ?"
    )
    _COUNT: Final = "SELECT count(*) FROM rollout_members WHERE rollout = ? AND place >= ? AND place < ?"

    def __init__(self, db: Database) -> None:
        self._execute = db.conn.execute

    def put(self, rollout: RolloutId, place: int, name: str) -> None:
        self._execute(self._PUT, (rollout, place, name))

    def remove(self, rollout: RolloutId, place: int, name: str) -> None:
        self._execute(self._REMOVE, (rollout, place, name))

    def page(self, rollout: RolloutId, *, end: int, limit: int) -> Sequence[tuple[int, str]]:
        return [(place, name) for place, name in self._execute(self._PAGE, (rollout, end, limit))]

    def nth(self, rollout: RolloutId, start: int, number: int) -> int | None:
        row = self._execute(self._NTH, (rollout, start, number)).fetchone()
        return None if row is None else int(row[0])

    def count(self, rollout: RolloutId, *, start: int = 0, end: int = PLACES_END) -> int:
        return int(self._execute(self._COUNT, (rollout, start, end)).fetchone()[0])

    def clear(self, rollout: RolloutId) -> None:
        self._execute("DELETE FROM rollout_members WHERE rollout = ?", (rollout,))


class LimitsTable:
    """`LimitsInForce`: one row, or none where nobody ever set any."""

    _PUT: Final = upsert("limits", ("id", *rows.LIMITS_COLUMNS), ("id",))
    _GET: Final = select("limits", rows.LIMITS_COLUMNS) + "WHERE id = 1"

    def __init__(self, db: Database) -> None:
        self._execute = db.conn.execute

    def get(self) -> StandingLimits:
        row = self._execute(self._GET).fetchone()
        return StandingLimits() if row is None else rows.limits_from(row)

    def put(self, limits: StandingLimits) -> None:
        self._execute(self._PUT, (1, *rows.limits_row(limits)))


@dataclass(frozen=True, slots=True)
class Tables:
    """The unit of work: every port over one connection."""

    releases: Releases
    devices: Devices
    deployments: Deployments
    rollouts: Rollouts
    members: Members
    reports: Reports
    limits: LimitsInForce
    users: Users
    tokens: Tokens
    approvals: Approvals
    audit: AuditLog
    memories: Memories
    _forget: tuple[Callable[[], None], ...]
    _flush: Callable[[], None]

    @classmethod
    def over(cls, db: Database) -> "Tables":
        """The ports on this connection."""
        releases, rollouts, deployments = ReleaseTable(db), RolloutTable(db), DeploymentTable(db)
        devices, reports, limits = DeviceTable(db, deployments.none_open), ReportTable(db), LimitsTable(db)
        forget = (releases.forget, devices.forget, rollouts.forget, deployments.forget, reports.forget)
        people = (UserTable(db), TokenTable(db), ApprovalTable(db), AuditTable(db))
        members, memories = MemberTable(db), MemoryTable(db)
        return cls(
            releases, devices, deployments, rollouts, members, reports, limits, *people, memories, forget, devices.flush
        )

    def forget(self) -> None:
        """To be called where something was rolled back: nothing that was read in it may be given out again."""
        for forget in self._forget:
            forget()

    def flush(self) -> None:
        """To be called at the end of a unit of work: everything that was put is written then."""
        self._flush()

    def new_deployment_id(self) -> DeploymentId:
        return DeploymentId(unused_id("", 6, lambda text: self.deployments.get(DeploymentId(text)) is not None))

    def new_rollout_id(self) -> RolloutId:
        return RolloutId(unused_id("r-", 3, lambda text: self.rollouts.get(RolloutId(text)) is not None))

    def new_token_id(self) -> TokenId:
        return TokenId(unused_id("", 4, lambda text: self.tokens.get(TokenId(text)) is not None))

    def new_secret(self) -> bytes:
        return new_secret()
