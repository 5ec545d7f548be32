"""The timeline tells each change once, with the words of the gates."""

from rehearsals import moments, rehearsed

from ota_bridge.core.deployment import State


def test_the_moments_of_two_stages():
    plan = {"stages": [{"name": "canary", "devices": 1, "success": {"soak_s": 60.0}}, {}]}
    world = rehearsed(10, plan)
    assert [
        ("created", "rollout of demo/2.0.0 to all"),
        ("started", "it starts: its devices are being found"),
        ("stage_opened", "canary opens with 1 device"),
        ("soaking", "canary: 1 of 1 confirmed, soaking for 60 s"),
        ("gate_met", "canary succeeds: 1 of 1 confirmed"),
        ("stage_opened", "stage 2 opens with 9 devices"),
        ("gate_met", "stage 2 succeeds: 9 of 9 confirmed"),
        ("through", "all its stages have succeeded"),
    ] == [(what, sentence) for _, what, sentence in moments(world)]
    assert sorted(world.timeline.moments, key=lambda one: one.at_s) == world.timeline.moments


def test_a_stage_that_soaks_has_met_its_gate_before_it_is_over():
    world = rehearsed(10, {"stages": [{"devices": 1, "success": {"soak_s": 60.0}}, {}]})
    first, rest = world.timeline.stages["r-000001"]
    assert 60.0 <= first.over_s - first.met_s <= 61.0
    assert rest.met_s == rest.over_s


def test_a_stage_that_failed_is_over_with_the_cause():
    world = rehearsed(
        40, {"stages": [{"name": "canary", "devices": 10, "failure": {"count": 1}}, {}]}, fail={State.FAILED: 1.0}
    )
    (stage,) = world.timeline.stages["r-000001"]
    assert stage.over_s is not None
    assert "too many" in stage.verdict


def test_twins_that_stand_for_many_are_said_to():
    world = rehearsed(10, {"stages": [{"devices": 2}, {}]}, weight=5)
    sentences = [sentence for _, _, sentence in moments(world)]
    assert "stage 1 opens with 10 devices" in sentences
    assert "stage 1 succeeds: 2 of 2 confirmed (each for 5 devices)" in sentences
