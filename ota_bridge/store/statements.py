"""SQL as text, from names of tables and columns that are constants of this package."""

from collections.abc import Sequence


def insert(table: str, columns: Sequence[str]) -> str:
    """Puts a row in."""
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - constants of this package


def upsert(table: str, columns: Sequence[str], key: Sequence[str]) -> str:
    """Puts a row in, or in the place of the one with the same key."""
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
    return f"{insert(table, columns)} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"


def change(table: str, columns: Sequence[str], key: Sequence[str]) -> str:
    """Changes the row with that key, whose values come last."""
    changes = ", ".join(f"{name} = ?" for name in columns)
    return f"UPDATE {table} SET {changes} WHERE {' AND '.join(f'{name} = ?' for name in key)}"  # noqa: S608 - constants


def select(table: str, columns: Sequence[str]) -> str:
    """The beginning of a question."""
    return f"SELECT {', '.join(columns)} FROM {table} "  # noqa: S608 - constants of this package


def where(conditions: Sequence[str]) -> str:
    """All of these conditions, or none."""
    return f"WHERE {' AND '.join(conditions)} " if conditions else ""
