"""The JSON Schema (draft 2020-12) of plan files, made of the table; editors check files with it as they are written.

It takes each file that the reader takes. The reader refuses more: what a time in words comes to, the order of stages,
one key's value against another's.
"""

from enum import StrEnum
from typing import Any, Final

from ota_bridge.plan_file.form import PLAN, Row, Table, Tables

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
TITLE: Final = "A rollout of ota-bridge: which release, to whom, and how"


def plan_schema() -> dict[str, Any]:
    """The whole schema."""
    return {"$schema": DIALECT, "title": TITLE, **_table(PLAN)}


def _table(table: Table) -> dict[str, Any]:
    required = [row.key for row in table.rows if row.required]
    return {
        "type": "object",
        "properties": {row.key: _row(table, row) for row in table.rows},
        **({"required": required} if required else {}),
        "additionalProperties": False,
        **table.rules,
    }


def _row(table: Table, row: Row) -> dict[str, Any]:
    about: dict[str, Any] = {"description": table.described(row)}
    if isinstance(row.form, Table):
        return {**about, **_table(row.form)}
    if isinstance(row.form, Tables):
        return {**about, "type": "array", "minItems": 1, "maxItems": row.form.most, "items": _table(row.form.of)}
    default = table.default(row)
    if isinstance(default, bool | int | float | StrEnum):
        about["default"] = default.value if isinstance(default, StrEnum) else default
    return {**about, **row.form.schema()}
