"""The statements of the migration to compact history: finished deployments in few bytes, keys of reports that are gone.

What many deployments have in common (release and rollout, how they ended) is written once. `number` is their order:
of one device they are older than all that are still in `deployments`.
"""

from typing import Final

_KIND_OF: Final = "FROM finished_kinds AS k, finished_ends AS e WHERE k.id = {row}.kind AND e.id = {row}.ending"


def _less(row: str) -> str:
    """A latest attempt less in the tallies."""
    return f"""
      UPDATE rollout_tallies SET number = number - 1
      WHERE {row}.latest = 1 AND (rollout, stage, state, earlier_end) =
        (SELECT k.rollout, k.stage, e.state, e.earlier_end {_KIND_OF.format(row=row)});
    """  # noqa: S608 - constants of this module


def _more(row: str) -> str:
    """One more."""
    return f"""
      INSERT INTO rollout_tallies (rollout, stage, state, earlier_end, number)
        SELECT k.rollout, k.stage, e.state, e.earlier_end, 1 {_KIND_OF.format(row=row)}
          AND {row}.latest = 1 AND k.rollout <> ''
      ON CONFLICT (rollout, stage, state, earlier_end) DO UPDATE SET number = number + 1;
    """


HISTORY: Final = (
    """
    CREATE TABLE finished_kinds (
      id INTEGER PRIMARY KEY,
      product TEXT NOT NULL,
      component TEXT NOT NULL,
      release TEXT NOT NULL REFERENCES releases (id),
      rollout TEXT NOT NULL,
      stage INTEGER NOT NULL,
      size_bytes INTEGER NOT NULL,
      UNIQUE (rollout, release, component, stage, product, size_bytes)
    ) STRICT
    """,
    """
    CREATE TABLE finished_ends (
      id INTEGER PRIMARY KEY,
      state TEXT NOT NULL CHECK (state IN (
        'CONFIRMED', 'ROLLED_BACK', 'FAILED', 'REJECTED', 'TIMED_OUT', 'CANCELED')),
      earlier_end TEXT NOT NULL,
      cause TEXT NOT NULL,
      result_code TEXT NOT NULL,
      old_version TEXT NOT NULL,
      UNIQUE (cause, state, earlier_end, result_code, old_version)
    ) STRICT
    """,
    """
    CREATE TABLE finished (
      number INTEGER PRIMARY KEY,
      id TEXT NOT NULL,
      name TEXT NOT NULL,
      kind INTEGER NOT NULL REFERENCES finished_kinds (id),
      ending INTEGER NOT NULL REFERENCES finished_ends (id),
      attempt INTEGER NOT NULL,
      latest INTEGER NOT NULL CHECK (latest IN (0, 1)),
      created_wall REAL NOT NULL,
      changed_wall REAL NOT NULL,
      last_block_wall REAL,
      high_water_bytes INTEGER NOT NULL,
      bytes_sent INTEGER NOT NULL,
      blocks_sent INTEGER NOT NULL,
      requests INTEGER NOT NULL,
      offers INTEGER NOT NULL,
      percent INTEGER
    ) STRICT
    """,
    "CREATE UNIQUE INDEX finished_by_id ON finished (id)",
    "CREATE INDEX finished_of_device ON finished (name)",
    "CREATE INDEX finished_latest ON finished (kind, id) WHERE latest = 1",
    """
    CREATE TABLE report_keys (
      product TEXT NOT NULL,
      name TEXT NOT NULL,
      boot INTEGER,
      keys BLOB NOT NULL,
      boots BLOB NOT NULL,
      PRIMARY KEY (product, name)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TRIGGER deployments_stay_finished BEFORE INSERT ON deployments
    WHEN EXISTS (SELECT 1 FROM finished WHERE id = new.id)
    BEGIN SELECT RAISE(ABORT, 'a deployment that was compacted cannot be open again'); END
    """,
    # The tallies stay the recount, over both tables.
    """
    CREATE TRIGGER deployments_tally_gone AFTER DELETE ON deployments
    WHEN old.latest = 1 AND old.rollout IS NOT NULL
    BEGIN
      UPDATE rollout_tallies SET number = number - 1
      WHERE rollout = old.rollout AND stage = old.stage AND state = old.state AND earlier_end = old.earlier_end;
    END
    """,
    f"CREATE TRIGGER finished_tally_new AFTER INSERT ON finished WHEN new.latest = 1 BEGIN {_more('new')} END",
    f"CREATE TRIGGER finished_tally_moved AFTER UPDATE ON finished BEGIN {_less('old')} {_more('new')} END",
)
