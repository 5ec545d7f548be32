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


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: SuccessGate(share=1.5), "share: 1.5 is not within 0..1"),
        (lambda: SuccessGate(soak_s=1e9), "soak_s"),
        (lambda: SuccessGate(action=Action.PAUSE), "can go_on or wait"),
        (lambda: FailureGate(), "name a share, a count or both"),
        (lambda: FailureGate(share=0.0), "not above 0"),
        (lambda: FailureGate(count=0), "count: 0"),
        (lambda: FailureGate(count=1, kinds=(State.CONFIRMED,)), "one or more of FAILED"),
        (lambda: FailureGate(count=1, kinds=()), "one or more of FAILED"),
        (lambda: FailureGate(count=1, action=Action.GO_ON), "can pause, cancel or roll_back"),
        (lambda: Pace(), "either per_min or over_s"),
        (lambda: Pace(per_min=1, over_s=1), "either per_min or over_s"),
        (lambda: Pace(per_min=0), "per_min: 0"),
        (lambda: Pace(per_min=1, factor=0.5), "factor: 0.5"),
        (lambda: Window(cron=" ", length_s=60), "five fields"),
        (lambda: Window(cron="* * * * *", length_s=1), "length_s: 1"),
        (lambda: Timeouts(trial_s=0), "trial_s: 0"),
        (lambda: Tries(max_attempts=0), "max_attempts: 0"),
        (lambda: Stage(devices=5, percent=10), "one size"),
        (lambda: Stage(devices=5, success=SuccessGate(min_count=6)), "6 of 5 devices cannot be met"),
        (lambda: Stage(percent=0), "percent: 0"),
        (lambda: Stage(name="x\n"), "printable"),
        (lambda: Plan(stages=()), "stages: 0"),
        (lambda: Plan(stages=(Stage(), Stage(percent=50))), "stage 1 takes the rest"),
        (lambda: Plan(stages=(Stage(percent=50), Stage(percent=50))), "stage 2: 50 % is not above 50 %"),
        (lambda: Plan(stages=(Stage(devices=1), Stage(where="hw == 'r1'"))), "stage 2 has a query"),
        (lambda: Plan(stages=(Stage(name="a", devices=1), Stage(name="a"))), "the name 'a' is taken"),
        (lambda: Plan(approvals=99), "approvals: 99"),
        (lambda: Plan(deadline_s=0), "deadline_s: 0"),
        (lambda: Plan(start_wall=float("inf")), "start_wall: inf"),
        (lambda: Plan(start_wall=float("nan")), "start_wall: nan"),
        (lambda: Stage(percent=float("nan")), "percent: nan"),
        (lambda: FailureGate(share=float("nan")), "share: nan"),
        (
            lambda: Plan(stages=(Stage(failure=FailureGate(count=1, action=Action.ROLL_BACK)),)),
            "must name roll_back_to",
        ),
    ],
)
def test_a_plan_that_cannot_work_is_refused_when_it_is_written(made, says):
    with pytest.raises(InvalidInput) as raised:
        made()
    assert says in str(raised.value)


def test_the_default_is_everyone_at_once():
    assert (True, True) == (Plan().is_simple, Plan().stages[0].is_rest)
    assert not Plan(is_urgent=True).is_simple


@pytest.mark.parametrize(
    ("pace", "confirmed", "rate"),
    [
        (Pace(per_min=5), 1000, 5),
        (Pace(per_min=5, factor=2, per_success=10), 9, 5),
        (Pace(per_min=5, factor=2, per_success=10), 10, 10),
        (Pace(per_min=5, factor=2, per_success=10), 35, 40),
        (Pace(per_min=5, factor=2, per_success=1, max_per_min=60), 10**6, 60),
        (Pace(over_s=600), 0, 100),
    ],
)
def test_the_rate_grows_with_success_up_to_its_bound(pace, confirmed, rate):
    assert rate == pace.rate_per_min(confirmed, 1000)


@pytest.mark.parametrize(
    ("stage", "text"),
    [
        (Stage(), "rest"),
        (Stage(name="canary", devices=5), "canary: 5 devices"),
        (Stage(devices=1), "1 device"),
        (Stage(name="rest"), "rest"),
        (Stage(percent=12.5), "12.5 %"),
        (Stage(where="'beta' in tags"), "where 'beta' in tags"),
    ],
)
def test_a_stage_says_its_size(stage, text):
    assert text == str(stage)
