"""The SQLite schema as numbered, forward-only migrations.

Rules: a migration that has been released never changes; states are kept by name; what a CHECK lists is what the
enum lists (a test compares them). `user_version` is the number of the last migration.

boot and seq are unsigned 64-bit numbers kept in SQLite's signed ones (`rows.to_signed`).
"""

from typing import Final

from sqlite_utils import Database, Migrations

from ota_bridge.store.schema_history import HISTORY
from ota_bridge.store.schema_rollouts import ROLLOUTS

APPLICATION_ID: Final = 0x4F544142
"""`OTAB` in the file's header."""

MIGRATIONS: Final = Migrations("ota_bridge")

_FIRST: Final = """
CREATE TABLE store_facts (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  last_commit_wall REAL
) STRICT;
INSERT INTO store_facts (id) VALUES (1);

CREATE TABLE releases (
  id TEXT PRIMARY KEY NOT NULL,
  product TEXT NOT NULL,
  version TEXT NOT NULL,
  hardware TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('active', 'withdrawn')),
  created_wall REAL NOT NULL,
  created_by TEXT NOT NULL
) STRICT;
CREATE INDEX releases_of_product ON releases (product, id);

CREATE TABLE release_parts (
  release TEXT NOT NULL REFERENCES releases (id),
  position INTEGER NOT NULL,
  component TEXT NOT NULL,
  envelope BLOB NOT NULL,
  facts TEXT NOT NULL,
  md5 TEXT NOT NULL,
  file_name TEXT NOT NULL,
  PRIMARY KEY (release, component)
) STRICT;

CREATE TABLE devices (
  product TEXT NOT NULL,
  name TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('pending', 'active', 'retired')),
  created_wall REAL NOT NULL,
  hw TEXT,
  hw_reported TEXT,
  label TEXT NOT NULL,
  tags TEXT NOT NULL,
  dialect TEXT NOT NULL,
  encoding TEXT NOT NULL CHECK (encoding IN ('json', 'msgpack')),
  proto INTEGER NOT NULL,
  boot INTEGER,
  nonce BLOB,
  max_packet INTEGER,
  max_block INTEGER,
  max_window INTEGER,
  parts TEXT NOT NULL,
  have TEXT NOT NULL,
  assigned TEXT NOT NULL,
  last_report_wall REAL,
  next_check_in_wall REAL,
  last_offer_wall REAL,
  last_block_wall REAL,
  trouble TEXT NOT NULL,
  PRIMARY KEY (product, name)
) STRICT;
CREATE INDEX devices_by_name ON devices (name);
CREATE INDEX devices_by_label ON devices (label) WHERE label <> '';

CREATE TABLE rollouts (
  id TEXT PRIMARY KEY NOT NULL,
  release TEXT NOT NULL REFERENCES releases (id),
  product TEXT NOT NULL,
  percent INTEGER NOT NULL CHECK (percent BETWEEN 0 AND 100),
  devices TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('running', 'paused', 'canceled')),
  created_wall REAL NOT NULL,
  created_by TEXT NOT NULL,
  changed_wall REAL NOT NULL,
  changed_by TEXT NOT NULL
) STRICT;

CREATE TABLE deployments (
  id TEXT PRIMARY KEY NOT NULL,
  product TEXT NOT NULL,
  name TEXT NOT NULL,
  component TEXT NOT NULL,
  release TEXT NOT NULL REFERENCES releases (id),
  rollout TEXT REFERENCES rollouts (id),
  attempt INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN (
    'QUEUED', 'OFFERED', 'DEFERRED', 'DOWNLOADING', 'DOWNLOADED', 'INSTALLING', 'TRIAL', 'CANCELING',
    'CONFIRMED', 'ROLLED_BACK', 'FAILED', 'REJECTED', 'TIMED_OUT', 'CANCELED')),
  is_open INTEGER NOT NULL CHECK (is_open = (state IN (
    'QUEUED', 'OFFERED', 'DEFERRED', 'DOWNLOADING', 'DOWNLOADED', 'INSTALLING', 'TRIAL', 'CANCELING'))),
  cause TEXT NOT NULL,
  created_wall REAL NOT NULL,
  changed_wall REAL NOT NULL,
  size_bytes INTEGER NOT NULL,
  old_version TEXT NOT NULL,
  latest INTEGER NOT NULL CHECK (latest IN (0, 1)),
  due_wall REAL,
  offered_wall REAL,
  offers INTEGER NOT NULL,
  retry_wall REAL,
  boot INTEGER,
  claimed_wall REAL,
  stalled INTEGER NOT NULL CHECK (stalled IN (0, 1)),
  last_block_wall REAL,
  high_water_bytes INTEGER NOT NULL,
  bytes_sent INTEGER NOT NULL,
  blocks_sent INTEGER NOT NULL,
  requests INTEGER NOT NULL,
  percent INTEGER,
  result_code TEXT NOT NULL,
  FOREIGN KEY (product, name) REFERENCES devices (product, name)
) STRICT;
CREATE INDEX deployments_of_device ON deployments (product, name, created_wall, id);
CREATE INDEX deployments_open ON deployments (id) WHERE is_open = 1;
CREATE INDEX deployments_due ON deployments (due_wall, id) WHERE is_open = 1 AND due_wall IS NOT NULL;
CREATE INDEX deployments_of_rollout ON deployments (rollout, id) WHERE latest = 1;
CREATE INDEX deployments_open_of_rollout ON deployments (rollout, id) WHERE latest = 1 AND is_open = 1;
CREATE INDEX deployments_by_state ON deployments (rollout, state) WHERE latest = 1;

CREATE TABLE transitions (
  id INTEGER PRIMARY KEY,
  deployment TEXT NOT NULL REFERENCES deployments (id),
  wall REAL NOT NULL,
  event TEXT NOT NULL,
  before TEXT,
  after TEXT NOT NULL,
  cause TEXT NOT NULL
) STRICT;
CREATE INDEX transitions_of_deployment ON transitions (deployment, wall);

CREATE TABLE reports (
  id INTEGER PRIMARY KEY,
  product TEXT NOT NULL,
  name TEXT NOT NULL,
  boot INTEGER,
  seq INTEGER,
  content BLOB,
  kind TEXT NOT NULL,
  wall REAL NOT NULL,
  body TEXT NOT NULL,
  CHECK ((boot IS NULL) = (seq IS NULL) AND (seq IS NULL) = (content IS NULL))
) STRICT;
CREATE UNIQUE INDEX reports_by_key ON reports (product, name, boot, seq) WHERE boot IS NOT NULL;
CREATE INDEX reports_of_device ON reports (product, name, wall);
"""


@MIGRATIONS(name="0001_first")  # type: ignore[untyped-decorator]  # sqlite-utils is not followed
def _first(db: Database) -> None:
    db.executescript(_FIRST)


_LIMITS: Final = """
CREATE TABLE limits (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  blocks_per_s INTEGER NOT NULL,
  bytes_per_s INTEGER NOT NULL,
  downloads INTEGER NOT NULL,
  set_wall REAL,
  set_by TEXT NOT NULL
) STRICT;
"""


@MIGRATIONS(name="0002_limits")  # type: ignore[untyped-decorator]  # sqlite-utils is not followed
def _limits(db: Database) -> None:
    db.execute(_LIMITS)


@MIGRATIONS(name="0003_keysets")  # type: ignore[untyped-decorator]  # sqlite-utils is not followed
def _keysets(db: Database) -> None:
    db.execute("ALTER TABLE devices ADD COLUMN keyset INTEGER")


@MIGRATIONS(name="0004_installs_from")  # type: ignore[untyped-decorator]  # sqlite-utils is not followed
def _installs_from(db: Database) -> None:
    db.execute("ALTER TABLE release_parts ADD COLUMN installs_from TEXT NOT NULL DEFAULT '[]'")


@MIGRATIONS(name="0005_attributes")  # type: ignore[untyped-decorator]  # sqlite-utils is not followed
def _attributes(db: Database) -> None:
    db.execute("ALTER TABLE devices ADD COLUMN attrs TEXT NOT NULL DEFAULT '{}'")


@MIGRATIONS(name="0006_rollouts")  # type: ignore[untyped-decorator]  # sqlite-utils is not followed
def _rollouts(db: Database) -> None:
    for statement in ROLLOUTS:
        db.execute(statement)


_PEOPLE: Final = """
CREATE TABLE users (
  name TEXT PRIMARY KEY NOT NULL,
  roles TEXT NOT NULL,
  created_wall REAL NOT NULL,
  created_by TEXT NOT NULL
) STRICT;

CREATE TABLE tokens (
  id TEXT PRIMARY KEY NOT NULL,
  name TEXT NOT NULL,
  user TEXT NOT NULL,
  digest BLOB NOT NULL CHECK (length(digest) = 32),
  created_wall REAL NOT NULL,
  created_by TEXT NOT NULL,
  expires_wall REAL NOT NULL,
  revoked_wall REAL
) STRICT;

CREATE TABLE approvals (
  rollout TEXT NOT NULL REFERENCES rollouts (id),
  user TEXT NOT NULL,
  digest BLOB NOT NULL,
  wall REAL NOT NULL,
  note TEXT NOT NULL,
  PRIMARY KEY (rollout, user)
) STRICT;

CREATE TABLE audit (
  n INTEGER PRIMARY KEY,
  wall_ms INTEGER NOT NULL,
  actor TEXT NOT NULL,
  how TEXT NOT NULL,
  action TEXT NOT NULL,
  subject TEXT NOT NULL,
  result TEXT NOT NULL,
  detail TEXT NOT NULL,
  digest BLOB NOT NULL CHECK (length(digest) = 32)
) STRICT;
CREATE INDEX audit_by_subject ON audit (subject, n);
CREATE INDEX audit_by_actor ON audit (actor, n);
CREATE TRIGGER audit_keeps_its_order BEFORE INSERT ON audit
  WHEN NEW.n IS NOT (SELECT coalesce(max(n), 0) + 1 FROM audit)
  BEGIN SELECT RAISE(ABORT, 'the audit log is append-only: an entry has the next number'); END;
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
  BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_is_not_cut BEFORE DELETE ON audit
  BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
"""


@MIGRATIONS(name="0007_people")  # type: ignore[untyped-decorator]  # sqlite-utils is not followed
def _people(db: Database) -> None:
    db.executescript(_PEOPLE)


@MIGRATIONS(name="0008_history")  # type: ignore[untyped-decorator]  # sqlite-utils is not followed
def _history(db: Database) -> None:
    for statement in HISTORY:
        db.execute(statement)


_DIALECTS: Final = (
    "ALTER TABLE release_parts ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}'",
    """
    CREATE TABLE dialect_memories (
      product TEXT NOT NULL,
      name TEXT NOT NULL,
      dialect TEXT NOT NULL,
      data BLOB NOT NULL,
      wake_wall REAL,
      PRIMARY KEY (product, name)
    ) STRICT
    """,
    "CREATE INDEX dialect_memories_waking ON dialect_memories (wake_wall) WHERE wake_wall IS NOT NULL",
)


@MIGRATIONS(name="0009_dialects")  # type: ignore[untyped-decorator]  # sqlite-utils is not followed
def _dialects(db: Database) -> None:
    for statement in _DIALECTS:
        db.execute(statement)


@MIGRATIONS(name="0010_public_shapes")  # type: ignore[untyped-decorator]  # sqlite-utils is not followed
def _public_shapes(db: Database) -> None:
    # Devices that report no native fields have a dialect of their own now; some of them report for the last time.
    db.execute("UPDATE devices SET dialect = 'tencent' WHERE dialect = 'native' AND proto = 0")


SCHEMA_VERSION: Final = 10
