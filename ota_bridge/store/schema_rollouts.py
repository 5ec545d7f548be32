"""The statements of the migration to staged rollouts: stages, members that wait, counts that the database keeps."""

from typing import Final

ROLLOUTS: Final = (
    # A rollout has one state more. Its column cannot be altered, and its table is one that others refer to.
    """
    ALTER TABLE rollouts ADD COLUMN stands TEXT NOT NULL DEFAULT 'running'
      CHECK (stands IN ('waiting', 'running', 'paused', 'canceled'))
    """,
    "UPDATE rollouts SET stands = state",
    "ALTER TABLE rollouts DROP COLUMN state",
    "ALTER TABLE rollouts RENAME COLUMN stands TO state",
    "ALTER TABLE rollouts ADD COLUMN target_query TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE rollouts ADD COLUMN plan TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE rollouts ADD COLUMN standing TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE rollouts ADD COLUMN cause TEXT NOT NULL DEFAULT ''",
    # What runs already has everybody in its one stage.
    """
    UPDATE rollouts SET standing = '{"started_wall":' || created_wall || ',"ends":[4611686018427387904],"sizes":[0],'
      || '"opened_wall":' || created_wall || ',"admits_wall":' || created_wall || '}'
    """,
    "ALTER TABLE deployments ADD COLUMN stage INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE deployments ADD COLUMN earlier_end TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE deployments ADD COLUMN slot_rank INTEGER NOT NULL DEFAULT 0 CHECK (slot_rank IN (0, 1, 2))",
    "CREATE INDEX deployments_for_slots ON deployments (slot_rank) WHERE slot_rank > 0",
    "CREATE INDEX deployments_downloading ON deployments (id) WHERE state = 'DOWNLOADING'",
    "CREATE INDEX deployments_offered ON deployments (offered_wall) WHERE state = 'OFFERED'",
    """
    CREATE TABLE rollout_members (
      rollout TEXT NOT NULL REFERENCES rollouts (id),
      place INTEGER NOT NULL,
      name TEXT NOT NULL,
      PRIMARY KEY (rollout, place, name)
    ) STRICT, WITHOUT ROWID
    """,
    # How many latest attempts stand where: kept by the database itself, so that they are always the recount.
    """
    CREATE TABLE rollout_tallies (
      rollout TEXT NOT NULL,
      stage INTEGER NOT NULL,
      state TEXT NOT NULL,
      earlier_end TEXT NOT NULL,
      number INTEGER NOT NULL,
      PRIMARY KEY (rollout, stage, state, earlier_end)
    ) STRICT, WITHOUT ROWID
    """,
    """
    INSERT INTO rollout_tallies (rollout, stage, state, earlier_end, number)
      SELECT rollout, stage, state, earlier_end, count(*) FROM deployments
      WHERE latest = 1 AND rollout IS NOT NULL GROUP BY rollout, stage, state, earlier_end
    """,
    """
    CREATE TRIGGER deployments_tally_new AFTER INSERT ON deployments
    WHEN new.latest = 1 AND new.rollout IS NOT NULL
    BEGIN
      INSERT INTO rollout_tallies (rollout, stage, state, earlier_end, number)
        VALUES (new.rollout, new.stage, new.state, new.earlier_end, 1)
      ON CONFLICT (rollout, stage, state, earlier_end) DO UPDATE SET number = number + 1;
    END
    """,
    """
    CREATE TRIGGER deployments_tally_moved AFTER UPDATE OF rollout, stage, state, earlier_end, latest ON deployments
    WHEN new.state <> old.state OR new.latest <> old.latest OR new.stage <> old.stage
      OR new.earlier_end <> old.earlier_end OR new.rollout IS NOT old.rollout
    BEGIN
      UPDATE rollout_tallies SET number = number - 1
      WHERE old.latest = 1 AND rollout = old.rollout AND stage = old.stage AND state = old.state
        AND earlier_end = old.earlier_end;
      INSERT INTO rollout_tallies (rollout, stage, state, earlier_end, number)
        SELECT new.rollout, new.stage, new.state, new.earlier_end, 1
        WHERE new.latest = 1 AND new.rollout IS NOT NULL
      ON CONFLICT (rollout, stage, state, earlier_end) DO UPDATE SET number = number + 1;
    END
    """,
    "DROP INDEX deployments_by_state",
)
