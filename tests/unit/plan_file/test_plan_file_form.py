"""The table: it covers the plan's records, and its bounds are theirs."""

from dataclasses import fields

import pytest

from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.rollout.plan import FailureGate, Pace, Plan, Stage, SuccessGate, Timeouts, Tries, Window
from ota_bridge.plan_file.form import PLAN, Table, Tables, docs, tables
from ota_bridge.plan_file.values import Duration, Number, Share

TABLES = {table.record: table for table in tables()}
LEAST = {
    FailureGate: {"share": 0.5},
    Pace: {"per_min": 1.0},
    Window: {"cron": "0 2 * * *", "length_s": 3_600},
}
NUMBERS = [
    (table.record, row)
    for table in tables()
    for row in table.rows
    if row.key not in table.target and isinstance(row.form, Number | Duration | Share)
]


def test_each_record_of_a_plan_has_its_table():
    assert {Plan, Stage, SuccessGate, FailureGate, Pace, Window, Timeouts, Tries} == set(TABLES)


@pytest.mark.parametrize("record", TABLES, ids=lambda record: record.__name__)
def test_each_field_of_a_record_has_one_word_of_the_file(record):
    table = TABLES[record]
    named = [row.name for row in table.rows if row.key not in table.target]
    assert sorted(one.name for one in fields(record)) == sorted(named)


@pytest.mark.parametrize("table", [*tables()], ids=lambda table: table.title or "plan")
def test_each_word_is_described(table):
    assert all(table.described(row)[-1] in ".`" or "." in table.described(row) for row in table.rows)
    assert len({row.key for row in table.rows}) == len(table.rows)


def made(record, row, value):
    more = dict(LEAST.get(record, {}))
    if row.key == "over":
        more = {}
    return record(**{**more, row.name: value})


@pytest.mark.parametrize(("record", "row"), NUMBERS, ids=lambda one: getattr(one, "key", getattr(one, "__name__", "")))
def test_the_bounds_of_a_number_are_those_of_its_record(record, row):
    low, high = (0, 1) if isinstance(row.form, Share) else (row.form.low, row.form.high)
    above = getattr(row.form, "above", False)
    step = 1 if getattr(row.form, "whole", False) else 0.001
    made(record, row, high)
    with pytest.raises(InvalidInput):
        made(record, row, high + max(step, high * 1e-6))
    if not above:
        made(record, row, low)
    with pytest.raises(InvalidInput):
        made(record, row, low if above else low - step)


def test_a_docstring_of_several_lines_is_one_line():
    assert {"share", "soak_s"} <= set(docs("SuccessGate"))
    assert all("\n" not in text for table in tables() for text in docs(table.record.__name__).values())


def test_tables_lie_within_each_other_as_the_records_do():
    inner = {row.key for row in PLAN.rows if isinstance(row.form, Table | Tables)}
    assert {"stage", "window", "pace", "timeouts", "retries"} == inner
