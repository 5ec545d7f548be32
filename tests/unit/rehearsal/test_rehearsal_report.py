"""What is told of a rehearsal."""

import json

import pytest
from rehearsals import rehearsed

from ota_bridge.core.deployment import State
from ota_bridge.rehearsal.report import amount, clock, counted, rehearsal_text, rehearsal_view


def test_the_view_is_plain_json_and_says_what_happens_when():
    view = rehearsal_view(rehearsed(40, fail={State.FAILED: 0.0}))
    assert view == json.loads(json.dumps(view))
    (rollout,) = view["rollouts"]
    assert ("complete", 40, {"CONFIRMED": 40}, []) == (
        view["ended_by"], view["devices"], rollout["counts"], rollout["not_opened"],
    )  # fmt: skip
    assert [5, 15, 20] == [stage["devices"] for stage in rollout["stages"]]
    assert rollout["through_s"] == rollout["stages"][-1]["over_s"]
    curve = view["curve"]
    assert len(curve["bytes_per_s"]) == len(curve["blocks_per_s"]) == len(curve["open"])
    assert 20 == max(curve["open"])
    assert 400_000 == pytest.approx(max(curve["bytes_per_s"]), rel=0.01)


def test_the_text_has_the_timeline_the_counts_and_the_load():
    text = "\n".join(rehearsal_text(rehearsal_view(rehearsed(40))))
    assert "canary opens with 5 devices" in text
    assert "canary succeeds: 5 of 5 confirmed" in text
    assert "demo/2.0.0 (r-000001), running: 40 CONFIRMED" in text
    assert "bytes/s |" in text
    assert "open |" in text


def test_what_does_not_end_by_itself_is_said():
    plan = {"stages": [{"name": "canary", "devices": 10, "failure": {"count": 1}}, {"name": "rest"}]}
    text = "\n".join(rehearsal_text(rehearsal_view(rehearsed(40, plan, fail={State.FAILED: 0.5}))))
    assert "  rest: does not open" in text
    assert "It does not come to an end by itself: r-000001 waits for a person: canary:" in text
    assert "updates have not ended" in text


def test_times_and_amounts_are_written_for_people():
    expected = ["3.2 s", "2 min 05 s", "3 h 20 min", "7 d 01 h", "never"]
    assert expected == [clock(seconds) for seconds in (3.21, 125.9, 12_000, 7 * 86_400 + 3_700, float("inf"))]
    assert ["999 B", "20 kB", "1.5 MB", "2 TB"] == [amount(size) for size in (999, 20_000, 1_500_000, 2e12)]
    assert "1,000 CONFIRMED, 3 FAILED" == counted({"FAILED": 3, "CONFIRMED": 1000})
    assert "no device" == counted({})
