"""`rollout rehearse FILE`."""

import json

import pytest

from ota_bridge.cli.app import run

PLAN = """
release = "demo/2.0.0"
to = "all"

[[stage]]
name = "canary"
devices = 5
success = { share = "60 %" }

[[stage]]
name = "rest"
success = { share = "80 %" }
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.toml").write_text(PLAN)
    return tmp_path


def rehearse(capsys, *words):
    code = run(["rollout", "rehearse", *words])
    out, err = capsys.readouterr()
    return code, out, err


def test_it_prints_what_would_happen_when(here, capsys):
    code, out, err = rehearse(capsys, "plan.toml", "--devices", "50", "--seed", "3", "--size", "100KiB")
    assert (0, "") == (code, err)
    assert "canary opens with 5 devices" in out
    assert "demo/2.0.0 (r-000001), running: 50 CONFIRMED" in out
    assert "bytes/s |" in out


def test_the_same_seed_gives_the_same_json(here, capsys):
    words = (
        "plan.toml",
        "--devices",
        "60",
        "--seed",
        "9",
        "--offline",
        "10%",
        "--fail",
        "failed=5%,timed_out=5%",
        "--json",
    )
    found = [rehearse(capsys, *words, "--at", "2026-12-01T02:00:00Z") for _ in range(2)]
    assert found[0] == found[1]
    view = json.loads(found[0][1])
    counts = view["rollouts"][0]["counts"]
    assert (60, 9, 60) == (view["devices"], view["seed"], sum(counts.values()))
    assert counts["FAILED"] <= 3  # who is away cannot fail
    assert 6 <= counts["TIMED_OUT"] <= 9


def test_it_draws_the_curve_and_says_where_it_cannot(here, capsys):
    assert 0 == rehearse(capsys, "plan.toml", "--devices", "10", "--svg", "curve.svg")[0]
    assert (here / "curve.svg").read_text().startswith("<svg")
    code, _, err = rehearse(capsys, "plan.toml", "--devices", "10", "--svg", "none/curve.svg")
    assert 1 == code
    assert "--svg: none/curve.svg cannot be written" in err


def test_cohorts_share_the_fleet_and_the_rest_is_as_the_options_say(here, capsys):
    far = "name=far share=20% link=1kB/s"
    _, out, _ = rehearse(capsys, "plan.toml", "--devices", "50", "--size", "100000", "--cohort", far, "--json")
    view = json.loads(out)
    assert 90.0 < view["last_end_s"] < 110.0
    assert 10.0 > view["rollouts"][0]["stages"][0]["over_s"] or view["rollouts"][0]["stages"][0]["over_s"] > 90.0


def test_a_large_fleet_has_twins_that_stand_for_many(here, capsys):
    _, out, _ = rehearse(capsys, "plan.toml", "--devices", "500", "--weight", "10", "--json")
    view = json.loads(out)
    assert (500, 10, {"CONFIRMED": 500}) == (view["devices"], view["weight"], view["rollouts"][0]["counts"])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--link", "fast"], 2, "--link: 'fast' cannot be used; write a rate such as 20kB/s"),
        (["--fail", "broken=5%"], 2, "--fail: 'broken' is not one of rolled_back, failed, timed_out"),
        (["--fail", "200%"], 2, "more than all of them"),
        (["--sleep", "10s"], 2, "write AWAKE/ASLEEP, such as 10s/50s"),
        (["--cohort", "link=1kB/s"], 2, "share is missing"),
        (["--cohort", "share=10% colour=red"], 2, "'colour' is not known"),
        (["--cohort", "share=60%", "--cohort", "share=60%"], 1, "must be 100 %"),
        (["--version", "1.0=50%"], 2, "must be 100 %"),
        (["--at", "tomorrow"], 2, "--at: "),
        (["--fleet"], 1, "there is no database in"),
        (["--devices", "0"], 2, "greater than or equal to 1"),
    ],
)
def test_what_cannot_be_rehearsed_is_said_in_a_sentence(here, capsys, words, code, said):
    found, out, err = rehearse(capsys, "plan.toml", *words)
    assert (code, "") == (found, out)
    assert said in err


def test_what_is_wrong_with_the_file_is_told_with_its_lines(here, capsys):
    (here / "bad.toml").write_text(PLAN.replace("devices = 5", "devicse = 5"))
    code, _, err = rehearse(capsys, "bad.toml")
    assert 1 == code
    assert "did you mean devices?" in err


def test_a_plan_for_named_devices_needs_the_devices_on_record(here, capsys):
    (here / "named.toml").write_text(PLAN.replace('to = "all"', 'to = ["demo/dev-0001"]'))
    code, _, err = rehearse(capsys, "named.toml")
    assert 1 == code
    assert "add --fleet" in err


def test_approvals_are_taken_as_given(here, capsys):
    (here / "asked.toml").write_text(PLAN.replace("[[stage]]", "approvals = 2\n\n[[stage]]", 1))
    code, _, err = rehearse(capsys, "asked.toml", "--devices", "10")
    assert 0 == code
    assert "the plan waits for 2 approvals first" in err
