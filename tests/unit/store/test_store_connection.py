"""Opening: what is refused, what is migrated, and that a failure leaves the file as it was."""

import re
import sqlite3
import stat

import pytest
from contract.store_samples import commit, device
from sqlite_utils import Migrations

from ota_bridge.core.catalog import ReleaseState
from ota_bridge.core.deployment import OPEN, State
from ota_bridge.core.errors import BlockRefusal, NewerSchema, StoreDamaged, StoreError
from ota_bridge.core.fleet import DeviceState, Silence
from ota_bridge.core.messages import Encoding
from ota_bridge.core.rollout.model import RolloutState
from ota_bridge.core.values import DeviceId, StandingLimits
from ota_bridge.store import rows
from ota_bridge.store.connection import CURRENT, Schema, open_reader, open_writer
from ota_bridge.store.device_table import DeviceTable
from ota_bridge.store.report_table import ReportTable
from ota_bridge.store.schema import MIGRATIONS, SCHEMA_VERSION
from ota_bridge.store.sqlite import SqliteStore
from ota_bridge.store.tables import DeploymentTable, RolloutTable, Tables


@pytest.fixture
def path(tmp_path):
    return tmp_path / "bridge.db"


@pytest.fixture
def filled(path):
    """A database with 300 devices, closed."""
    store = SqliteStore.open(path, deliver=lambda run: run())
    commit(store, lambda unit: [unit.devices.put(device(f"dev{number:03}")) for number in range(300)])
    store.close()
    return path


def change(path, sql):
    connection = sqlite3.connect(path)
    connection.execute(sql)
    connection.commit()
    connection.close()


def overwrite(path, offset, data):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def successor(*functions):
    """A schema that has more migrations than today's."""
    migrations = Migrations("ota_bridge")
    for known in MIGRATIONS._migrations:
        migrations(name=known.name)(known.fn)
    for function in functions:
        migrations(name=function.__name__)(function)
    return Schema(migrations, SCHEMA_VERSION + len(functions))


def test_the_file_says_whose_it_is_and_which_schema_it_has(filled):
    connection = sqlite3.connect(filled)
    found = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    connection.close()

    assert found == [0x4F544142, SCHEMA_VERSION]


def test_there_is_one_migration_for_each_schema_version():
    assert [one.name[:4] for one in MIGRATIONS._migrations] == [
        f"{number:04}" for number in range(1, SCHEMA_VERSION + 1)
    ]


def test_a_newer_schema_is_refused_and_the_file_is_not_touched(filled):
    change(filled, "PRAGMA user_version = 99")
    before = filled.read_bytes()

    for open_it in (open_writer, open_reader):
        with pytest.raises(NewerSchema, match=r"schema 99, this program knows up to \d+: upgrade"):
            open_it(filled)
    assert filled.read_bytes() == before


def test_a_database_of_something_else_is_refused_and_not_touched(path):
    change(path, "CREATE TABLE notes (text)")
    before = path.read_bytes()

    with pytest.raises(StoreError, match="not a database of the bridge"):
        open_writer(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_damaged(path):
    path.write_bytes(b"this is a text file, not a database. " * 200)

    with pytest.raises(StoreDamaged, match="restore a backup"):
        open_writer(path)


def test_a_page_of_garbage_is_found_at_the_start(filled):
    pages = filled.stat().st_size // 4096
    overwrite(filled, (pages // 2) * 4096, bytes(range(256)) * 16)

    with pytest.raises(StoreDamaged, match="restore a backup"):
        open_writer(filled)


def test_a_file_cut_short_is_found_at_the_start(filled):
    with filled.open("r+b") as file:
        file.truncate(filled.stat().st_size // 2 // 4096 * 4096)

    with pytest.raises(StoreDamaged, match="restore a backup"):
        open_writer(filled)


def test_an_existing_file_becomes_the_owners_alone(filled):
    filled.chmod(0o644)
    open_writer(filled).close()

    assert stat.S_IMODE(filled.stat().st_mode) == 0o600


def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(StoreError, match="cannot be made or opened"):
        open_writer(tmp_path / "file" / "bridge.db")


def test_an_older_database_is_migrated_after_a_backup(filled):
    def add_column(db):
        db.execute("ALTER TABLE devices ADD COLUMN colour TEXT")

    newer = successor(add_column)
    open_writer(filled, newer).close()

    connection = sqlite3.connect(filled)
    assert connection.execute("SELECT count(*), count(colour) FROM devices").fetchone() == (300, 0)
    assert connection.execute("PRAGMA user_version").fetchone() == (newer.version,)
    connection.close()
    backup = filled.with_name(f"bridge.db.v{SCHEMA_VERSION}.bak")
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    restored = open_reader(backup)
    assert Tables.over(restored).devices.count() == 300
    restored.close()


def test_the_copy_before_a_migration_has_its_name_only_once_it_is_whole_and_on_disk(filled, disk):
    newer = successor(lambda db: db.execute("ALTER TABLE devices ADD COLUMN colour TEXT"))
    open_writer(filled, newer).close()

    disk.assert_survives(filled.with_name(f"bridge.db.v{SCHEMA_VERSION}.bak"))


def older(version):
    """The schema as it was."""
    migrations = Migrations("ota_bridge")
    for known in MIGRATIONS._migrations[:version]:
        migrations(name=known.name)(known.fn)
    return Schema(migrations, version)


def test_a_database_of_the_first_schema_has_no_caps_keysets_nor_attributes_and_keeps_what_it_knew_of_refusals(path):
    db = open_writer(path, older(1))
    row = dict(zip(rows.DEVICE_COLUMNS, rows.device_row(device("d1")), strict=True))
    del row["keyset"], row["attrs"]
    row["trouble"] = (
        '{"refusal":"BUSY","refusal_wall":5.0,"refusals":3,"rejected":0,'
        '"rejected_reason":"","rejected_wall":null,"clashes":0}'
    )
    marks = ", ".join("?" * len(row))
    db.execute(f"INSERT INTO devices ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))
    db.close()

    db = open_writer(path)
    tables = Tables.over(db)
    assert tables.limits.get() == StandingLimits()
    expected = Silence(refusal=BlockRefusal.BUSY, refusal_wall=5.0, refusals=3)
    assert tables.devices.get(DeviceId("prod", "d1")) == device("d1", trouble=expected)
    db.close()


def test_a_second_opening_migrates_nothing(filled):
    newer = successor()
    open_writer(filled, newer).close()

    assert [file.name for file in filled.parent.iterdir()] == ["bridge.db"]


def dump(path):
    connection = sqlite3.connect(path)
    lines = list(connection.iterdump())
    version = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return version, lines


def test_a_migration_that_fails_leaves_nothing_of_those_before_it(filled):
    def works(db):
        db.execute("ALTER TABLE devices ADD COLUMN colour TEXT")
        db["devices"].create_index(["colour"])

    def fails(db):
        db.execute("DELETE FROM devices")
        db.execute("INSERT INTO nowhere VALUES (1)")

    before = dump(filled)
    with pytest.raises(StoreError, match="is unchanged: no such table: nowhere"):
        open_writer(filled, successor(works, fails))

    assert dump(filled) == before
    open_writer(filled).close()


def test_a_migration_with_a_bug_leaves_the_file_unchanged_too(filled):
    def fails(db):
        db.execute("DELETE FROM devices")
        raise RuntimeError("a bug")

    before = dump(filled)
    with pytest.raises(RuntimeError, match="a bug"):
        open_writer(filled, successor(fails))

    assert dump(filled) == before


def test_a_first_migration_that_fails_can_be_tried_again(path):
    def fails(db):
        db.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(StoreError):
        open_writer(path, successor(fails))
    db = open_writer(path)

    assert Tables.over(db).devices.count() == 0
    db.close()


def test_a_reader_of_an_older_schema_says_what_to_do(filled):
    with pytest.raises(StoreError, match="start the bridge once"):
        open_reader(filled, Schema(CURRENT.migrations, SCHEMA_VERSION + 1))


@pytest.mark.parametrize(
    ("table", "column", "members"),
    [
        ("releases", "state", ReleaseState),
        ("devices", "state", DeviceState),
        ("devices", "encoding", Encoding),
        ("rollouts", "state", RolloutState),
        ("deployments", "state", State),
    ],
)
def test_the_checks_list_what_the_enums_list(filled, table, column, members):
    connection = sqlite3.connect(filled)
    sql = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
    connection.close()
    listed = re.search(rf"CHECK \({column} IN \(([^)]*)\)", sql)[1]

    assert set(re.findall(r"'([^']*)'", listed)) == {member.value for member in members}


def test_the_check_of_open_deployments_lists_the_open_states(filled):
    connection = sqlite3.connect(filled)
    sql = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'deployments'").fetchone()[0]
    connection.close()
    listed = re.search(r"is_open = \(state IN \(([^)]*)\)", sql)[1]

    assert set(re.findall(r"'([^']*)'", listed)) == {state.value for state in OPEN}


def test_every_table_is_strict(filled):
    connection = sqlite3.connect(filled)
    tables = connection.execute("SELECT name, strict FROM pragma_table_list WHERE schema = 'main'").fetchall()
    connection.close()

    assert {name for name, strict in tables if not strict} == {"sqlite_schema", "_sqlite_migrations"}


@pytest.mark.parametrize(
    ("sql", "values"),
    [
        (DeviceTable._GET, 2),
        (DeviceTable._NAMED, 1),
        (DeviceTable._HEARD, 8),
        (DeploymentTable._GET, 1),
        (DeploymentTable._OPEN_OF, 2),
        (DeploymentTable._RECENT, 3),
        (DeploymentTable._OF_ROLLOUT, 3),
        (DeploymentTable._OPEN_OF_ROLLOUT, 3),
        (DeploymentTable._ALL_OPEN, 2),
        (DeploymentTable._DUE, 2),
        (DeploymentTable._HISTORY, 1),
        (RolloutTable._GET, 1),
        (ReportTable._KNOWN, 4),
        (ReportTable._OLD, 2),
        (ReportTable._BEYOND, 3),
        (ReportTable._KNOWS, 3),
        (ReportTable._RECENT, 3),
    ],
)
def test_what_runs_for_every_report_searches_an_index(filled, sql, values):
    connection = sqlite3.connect(filled)
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", (None,) * values)]
    connection.close()

    assert [step for step in plan if step.startswith("SCAN") and step != "SCAN CONSTANT ROW"] == []
