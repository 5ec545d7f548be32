"""The runner of the families: what it writes down, how it goes on, what it says when a rule is broken."""

import json
from dataclasses import replace

import pytest

from tests.faults import runs
from tests.faults import table as tables
from tests.faults.families import Broken, Family
from tests.faults.runs import results_of, run_family

RAN = []


@pytest.fixture
def family(monkeypatch, tmp_path):
    """A family that breaks I3 at multiples of ten; `RAN` holds the seeds that were run."""

    def run(seed):
        RAN.append(seed)
        if seed % 10 == 0:
            raise Broken("I3", f"seed {seed} is a multiple of ten")
        return "odd" if seed % 2 else "even"

    RAN.clear()
    made = Family(name="tens", about="", run=run, test=5, faults=50, full=500)
    monkeypatch.setitem(runs.FAMILIES, "tens", made)
    monkeypatch.setattr(runs, "RESULTS", tmp_path)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    return made


def test_a_broken_rule_ends_the_run_with_one_seed_and_the_command_for_it(family):
    told = []
    tally = run_family(family, range(5, 25), tell=told.append)
    assert (6, [10]) == (tally.runs, list(tally.broken))
    assert "seed 10: I3 is broken" in told[-1]
    assert ".venv/bin/python -m tests.faults run tens --runs 1 --seed 10" in told[-1]


def test_it_can_go_on_and_count(family):
    tally = run_family(family, range(1, 31), keep_going=True, tell=lambda text: None)
    assert (30, [10, 20, 30], {"odd": 15, "even": 12}) == (tally.runs, list(tally.broken), dict(tally.words))


def test_an_error_of_the_run_itself_counts_as_broken(family, monkeypatch):
    monkeypatch.setitem(
        runs.FAMILIES, "tens", Family(name="tens", about="", run=lambda seed: 1 / 0, test=1, faults=1, full=1)
    )
    tally = run_family(family, range(1, 3), tell=lambda text: None)
    assert "ZeroDivisionError" in tally.broken[1]


def test_an_interrupted_run_goes_on_where_it_was(family):
    file = results_of(family, 1, "abc123")
    run_family(family, range(1, 6), results=file, tell=lambda text: None)
    with file.open("a") as torn:
        torn.write('{"seed": 6, "wo')
    RAN.clear()
    told = []
    tally = run_family(family, range(1, 10), results=file, tell=told.append)
    assert ([6, 7, 8, 9], 9) == (RAN, tally.runs)
    assert "5 done before" in told[0]
    assert list(range(1, 10)) == [json.loads(line)["seed"] for line in file.read_text().splitlines()]


def test_what_broke_is_run_again(family):
    file = results_of(family, 10, "abc123")
    run_family(family, range(10, 13), results=file, tell=lambda text: None)
    RAN.clear()
    run_family(family, range(10, 13), results=file, keep_going=True, tell=lambda text: None)
    assert [10, 11, 12] == RAN


def test_nothing_is_taken_over_where_something_is_not_committed(family):
    file = results_of(family, 1, "abc123-dirty")
    for _ in range(2):
        run_family(family, range(1, 6), results=file, tell=lambda text: None)
    assert 10 == len(RAN)


def test_several_processes_run_each_seed_once(family):
    tally = run_family(family, range(11, 20), jobs=2, tell=lambda text: None)
    assert {"odd": 5, "even": 4} == dict(tally.words)


def test_the_table_shows_the_newest_results_of_what_is_committed(family, monkeypatch):
    monkeypatch.setattr(tables, "FAMILIES", {"tens": family})
    for tree in ("abc123", "def456-dirty"):
        run_family(family, range(1, 10), results=results_of(family, 1, tree), tell=lambda text: None)
    row = tables.table().splitlines()[-1]
    assert "| tens | 9 | 1–9 | 0 | odd 5, even 4 | 0.0 min | `abc123` |" in row


def test_the_table_takes_a_whole_size_before_a_later_trial(family, monkeypatch):
    monkeypatch.setattr(tables, "FAMILIES", {"tens": family})
    for first, count in ((1, family.faults), (1000, 5)):
        seeds = range(first, first + count)
        run_family(family, seeds, keep_going=True, results=results_of(family, first, "abc123"), tell=lambda text: None)
    assert "| tens | 50 | 1–50 | 5 |" in tables.table().splitlines()[-1]


def test_the_table_has_a_line_for_the_last_whole_soak(family, tmp_path):
    for tree, minutes, ended_s in (("abc123", 60.0, 1.0), ("abc123-dirty", 60.0, 2.0), ("def456", 5.0, 3.0)):
        (tmp_path / tree).mkdir()
        goal = {"name": "memory of this and that", "held": False, "found": "+9.00 MiB/h"}
        summary = {
            "minutes": minutes, "ended_s": ended_s, "seed": 7, "devices": 1000, "goals": [goal],
            "deployments": {"CONFIRMED": 9000}, "strikes": {"broker killed": 2}, "lines_struck": {"cut before": 3},
        }  # fmt: skip
        (tmp_path / tree / "soak.7.summary.json").write_text(json.dumps(summary))
    row = tables.table().splitlines()[-1]
    what = "1,000 devices, 9,000 updates, 5 faults; memory +9.00 MiB/h"
    assert f"| soak | 1 | 7 | 1 | {what} | 60.0 min | `abc123` | 1970-01-01 |" == row


def test_sizes_do_not_shrink():
    with pytest.raises(AssertionError):
        Family(name="x", about="", run=str, test=2, faults=1, full=3)


def test_a_run_that_does_not_end_is_broken(family, monkeypatch):
    def run(seed):
        while True:
            pass

    stuck = Family(name="tens", about="", run=run, test=1, faults=1, full=1, limit_s=0.05)
    monkeypatch.setitem(runs.FAMILIES, "tens", stuck)
    assert "did not end" in run_family(stuck, range(1, 2), tell=lambda text: None).broken[1]


def test_what_breaks_while_a_family_is_prepared_is_told_like_the_rest(family):
    def prepare():
        raise Broken("I1", "all is wrong")

    wrong = replace(family, prepare=prepare)
    told = []
    assert [7] == list(run_family(wrong, range(7, 9), tell=told.append).broken)
    assert "even before the first run: I1 is broken" in told[-1]
