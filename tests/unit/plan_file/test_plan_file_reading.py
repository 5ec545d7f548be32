"""Whole files: what they become, and that everything wrong in them is told at its place."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ota_bridge.core.deployment import State
from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.rollout.plan import (
    Action,
    FailureGate,
    Pace,
    Plan,
    Stage,
    SuccessGate,
    Timeouts,
    Tries,
    Window,
)
from ota_bridge.core.rollout.plan_json import PlanError, plan_from
from ota_bridge.plan_file import PlanFileError, read_plan_file, read_plan_text
from ota_bridge.plan_file.marked import FILE_MAX_BYTES

VECTORS = Path(__file__).parents[2] / "vectors/plans"
TOML = (VECTORS / "everything.toml").read_text(encoding="utf-8")
YAML = (VECTORS / "everything.yaml").read_text(encoding="utf-8")
PLAN = Plan(
    stages=(
        Stage(
            name="canary",
            devices=5,
            success=SuccessGate(share=0.8, min_count=3, soak_s=7_200, action=Action.WAIT),
            failure=FailureGate(
                share=0.1,
                count=2,
                kinds=(State.FAILED, State.ROLLED_BACK),
                min_executed=4,
                action=Action.ROLL_BACK,
            ),
        ),
        Stage(percent=10.5),
        Stage(),
    ),
    start_wall=datetime(2026, 12, 1, 1, tzinfo=UTC).timestamp(),
    deadline_s=604_800,
    pace=Pace(per_min=5, factor=2, per_success=50, max_per_min=500),
    windows=(Window(cron="0 2 * * *", length_s=10_800, tz="Europe/Berlin", where="device.hw == 'r1'"),),
    timeouts=Timeouts(offered_s=86_400, downloading_s=600, installing_s=900, trial_s=3_600, sleepers_wait=True),
    tries=Tries(max_attempts=5, backoff_s=600, timed_out=4, failed=2, rolled_back=1, quarantine_after=6),
    takes_late=False,
    is_urgent=True,
    approvals=2,
    roll_back_to="p/1.0",
)


def read(text, *, is_yaml=False, **checks):
    data = text if isinstance(text, bytes) else text.encode()
    return read_plan_text(data, file="plan", is_yaml=is_yaml, **checks)


def problems(text, *, is_yaml=False, **checks):
    with pytest.raises(PlanFileError) as caught:
        read(text, is_yaml=is_yaml, **checks)
    return [(one.mark.line, one.mark.column, one.message) for one in caught.value.problems]


@pytest.mark.parametrize(("text", "is_yaml"), [(TOML, False), (YAML, True)])
def test_everything_that_a_plan_can_be_can_be_written_down(text, is_yaml):
    found = read(text, is_yaml=is_yaml)
    assert PLAN == found.plan
    assert ("p/2.0", {"where": 'product == "p"'}) == (found.release, found.target)


def test_a_rollout_is_asked_for_with_what_the_file_says():
    arguments = json.loads(json.dumps(read(TOML).arguments))
    assert PLAN == plan_from(arguments.pop("plan"))
    assert {"release": "p/2.0", "where": 'product == "p"'} == arguments


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ('to = "all"', {}),
        ('to = ["d1", "p/d2"]', {"devices": ["d1", "p/d2"]}),
        ("percent = 10", {"percent": 10}),
        ("percent = 10\nwhere='x'", {"percent": 10, "where": "x"}),
    ],
)
def test_who_is_meant(line, target):
    found = read(f'release = "p/2.0"\n{line}\n')
    assert (target, Plan()) == (found.target, found.plan)


@pytest.mark.parametrize("name", ["plan.toml", "plan.yaml", "plan.YML", "plan"])
def test_the_name_says_the_format(tmp_path, name):
    file = tmp_path / name
    file.write_text(YAML if "y" in name.lower() else TOML)
    assert PLAN == read_plan_file(file).plan


def test_all_problems_are_told_together_each_at_its_place():
    text = """relase = "p/2.0"
to = "everybody"

[[stage]]
devices = 0
success = {share = 80, then = "pause"}
[[stage]]
percent = true
[[window]]
cron = "0 2 * * *"
"""
    assert [
        (1, 1, '"relase" is not known; did you mean release?'),
        (1, 1, "release is missing: a release, as PRODUCT/VERSION (or VERSION, where one product has it)"),
        (2, 6, 'to: "everybody" cannot be used; allowed is "all", or a list of devices'),
        (5, 11, "devices: 0 cannot be used; allowed is a whole number from 1 to 1,000,000,000"),
        (6, 20, 'share: 80 cannot be used; allowed is 0 to 1, or a percentage as text, such as "80 %"; did you mean "80 %"?'),
        (6, 31, 'then: "pause" cannot be used; allowed is one of go_on, wait'),
        (8, 11, "percent: true cannot be used; allowed is a number above 0 and up to 100"),
        (9, 1, 'length is missing: a time from 1min to 7d, such as "90s", "15min", "1h30min", "7d"'),
    ] == problems(text)  # fmt: skip


def test_no_more_than_twenty_problems_are_told():
    text = "".join(f"k{number} = 1\n" for number in range(100))
    assert 20 == len(problems(text))


HEAD = 'release = "p/2.0"\nto = "all"\n'


@pytest.mark.parametrize(
    ("more", "line", "column", "message"),
    [
        ("stages = 1", 3, 1, '"stages" is not known; did you mean stage?'),
        ("takes_late = true", 3, 1, '"takes_late" is not known; did you mean late?'),
        ("zzz = 1", 3, 1, '"zzz" is not known; known are release, to, percent, where, start'),
        ("percent = 5", 3, 1, "percent: who is meant is said by to already; keep one of them"),
        ("pace = 5", 3, 8, "pace: must be a table, not 5"),
        ("stage = {devices = 5}", 3, 9, "stage: must be a list of tables ([[stage]] in TOML), not a table"),
        ("stage = []", 3, 9, "stage: 0 of them; 1 to 64 are possible"),
        ("stage = [5]", 3, 10, "stage 1: must be a table, not 5"),
        ("[pace]\nover_s = 5", 4, 1, '"over_s" is not known in pace; did you mean over?'),
        ("[pace]\nfactor = 2", 3, 1, "pace: name either per_min or over"),
        ("[[stage]]\nfailure = {min = 3}", 4, 11, "failure: name a share, a count or both"),
        ("[[stage]]\n[[stage]]\nname='x'", 2 + 1, 1, "stage 1 takes the rest, so none can come after it"),
        ("[[stage]]\npercent=50\n[[stage]]\npercent=10", 5, 1, "stage 2: 10 % is not above 50 %, where it stands"),
        ("[[stage]]\ndevices=5\nsuccess={min=9}", 3, 1, "stage 1: min: 9 of 5 devices cannot be met"),
        ("[[stage]]\ndevices=5\nwhere='x'", 3, 1, "stage 1: a stage has one size: devices, percent, or where"),
        ("[[stage]]\nfailure={count=1, then='roll_back'}", 3, 1, "stage 1: its failure action is roll_back, so the plan must"),
        ("start = 2026-12-01T02:00:00", 3, 9, "start: 2026-12-01 02:00:00 has no zone; add Z or an offset"),
        ("start = 2026-12-01", 3, 9, "start: 2026-12-01 cannot be used; allowed is a date and time with a zone"),
        ("deadline = '400d'", 3, 12, 'deadline: "400d" cannot be used; allowed is a time from 1s to 366d'),
        ("approvals = 17", 3, 13, "approvals: 17 cannot be used; allowed is a whole number from 0 to 16"),
        ("roll_back_to = '1.0'", 3, 16, 'roll_back_to: "1.0" cannot be used; allowed is a release, as PRODUCT/VERSION'),
        ("[[stage]]\nfailure={kinds=['failed','canceled'], count=1}", 4, 26, 'kinds: "canceled" cannot be used'),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_in_the_words_of_the_file(more, line, column, message):
    ((at, character, told),) = problems(HEAD + more)
    assert (line, column) == (at, character)
    assert told.startswith(message)


@pytest.mark.parametrize(
    ("data", "is_yaml", "problem"),
    [
        (
            b"",
            False,
            (1, 1, "release is missing: a release, as PRODUCT/VERSION (or VERSION, where one product has it)"),
        ),
        (b"a = 1\nb = \xff\n", False, (2, 5, "not UTF-8: byte 0xff")),
        (b"#" * (FILE_MAX_BYTES + 1), False, (1, 1, "larger than 256 KiB; a plan file is not")),
        (b"a = ", False, (1, 5, "not valid TOML: Invalid value")),
        (b"a: *b", True, (1, 4, "anchors and aliases (& and *) are not allowed; write the value out")),
    ],
)
def test_what_is_no_plan_file_is_one_problem(data, is_yaml, problem):
    assert problem in problems(data, is_yaml=is_yaml)


def test_a_file_may_begin_with_a_byte_order_mark():
    assert "p/2.0" == read(b"\xef\xbb\xbf" + HEAD.encode()).release


def test_queries_and_windows_are_checked_where_there_is_who_can():
    seen = []

    def query(text):
        seen.append(text)
        if "typo" in text:
            raise InvalidInput("typo is not known")

    def window(found):
        seen.append(found.cron)
        raise InvalidInput("never opens")

    text = "release = 'p/2.0'\nwhere = 'typo'\n[[stage]]\nwhere='typo 2'\n[[window]]\ncron='0 2 30 2 *'\nlength=60\n"
    assert [
        (2, 9, "where: typo is not known"),
        (4, 7, "where: typo is not known"),
        (6, 6, "cron: never opens"),
    ] == problems(text, query=query, window=window)
    assert ["typo", "typo 2", "0 2 30 2 *"] == seen
    assert "p/2.0" == read(text).release


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("stages", 0, "success", "min_count"), (14, 34)),
        (("windows", 0, "cron"), (29, 8)),
        (("tries", "backoff_s"), (43, 11)),
        (("roll_back_to",), (9, 16)),
        (("stages", 1), (17, 1)),
    ],
)
def test_what_a_daemon_refuses_is_told_at_its_place_in_the_file(path, place):
    refused = read(TOML).placed(InvalidInput(str(PlanError(path, "no"))))
    (problem,) = refused.problems
    assert place == (problem.mark.line, problem.mark.column)
    assert problem.message.endswith(": no")


def test_what_a_daemon_refuses_beside_the_plan_is_told_as_it_is():
    error = InvalidInput("device p/d1 is not a q")
    assert error is read(TOML).placed(error)
