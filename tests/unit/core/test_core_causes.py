"""Injected causes, and the answer of `why` to each: one code, and a sentence that names what holds the device."""

import pytest
from core_world import START_S, World

from ota_bridge.core.deployment import State


def one(**rules):
    world = World(**rules)
    world.release("1.1.0")
    device = world.device("d1")
    return world, device


def roll(world, plan=None, release="1.1.0", **args):
    found = world.do("rollout.start", release=release, plan=plan or {}, **args)
    world.plan()
    return found["id"]


def window():
    world, device = one()
    roll(world, {"windows": [{"cron": "0 3 * * *", "length_s": 3600}]})  # the world's clock stands at 13:46 UTC
    return device


def slot():
    world, device = one()
    world.do("limits.set", downloads=1)
    other = world.device("d0")
    roll(world)
    assert State.QUEUED in {device.state, other.state}
    return device if device.state is State.QUEUED else other


def approval():
    world, device = one()
    roll(world, {"approvals": 2})
    return device


def later_stage():
    world, device = one()
    others = [world.device(f"x{number}") for number in range(6)]
    roll(world, {"stages": [{"name": "canary", "devices": 1}, {"name": "rest"}]})
    return next(found for found in [device, *others] if not found.all)


def start():
    world, device = one()
    roll(world, {"start_wall": START_S + 60})
    return device


def pace():
    world, device = one()
    other = world.device("d0")
    roll(world, {"pace": {"per_min": 1.0}})
    return device if not device.all else other


def paused():
    world, device = one()
    world.do("rollout.pause", rollout=roll(world))
    return device


def paused_by_a_gate():
    world, device = one()
    device_2 = world.device("d2")
    roll(world, {"stages": [{"failure": {"count": 1}}]})
    device.says("fail", result_code="REFUSED_SIZE")
    world.plan()
    return device_2


def quarantined():
    world, device = one()
    for _ in range(2):
        roll(world, {"tries": {"max_attempts": 1, "quarantine_after": 2}})
        world.passes(60)
        device.says("fail", result_code="-2")
    roll(world, {"tries": {"quarantine_after": 2}})
    return device


def superseded():
    world, device = one()
    roll(world)
    world.release("1.2.0", seq=3)
    roll(world, release="1.2.0")
    device.says("canceled", device.all[-1].id)
    return device


def wrong_hardware():
    world, _ = one()
    device = world.device("d9", hw="r9")
    roll(world)
    return device


def no_path():
    world, device = one()
    world.release("2.0.0", seq=5)
    world.release("3.0.0", seq=9, installs_from=("2.0.0",))
    world.do("release.withdraw", release="2.0.0")
    roll(world, release="3.0.0")
    return device


def silent():
    world, device = one()
    roll(world)
    world.passes(3 * 86_400 + 60)
    return device


def attempts():
    world, device = one()
    roll(world, {"tries": {"max_attempts": 1}})
    device.says("fail", result_code="-2")
    return device


def final():
    world, device = one()
    roll(world)
    device.says("fail", result_code="REFUSED_SIG")
    return device


def not_targeted():
    world, device = one()
    other = world.device("d0")
    roll(world, devices=[str(other.id)])
    return device


def pending():
    from ota_bridge.core.fleet import Enrol

    world = World(enrol=Enrol.APPROVE)
    world.release("1.1.0")
    device = world.device("d1")
    roll(world)
    return device


def ended_rollout():
    world, device = one()
    world.do("rollout.cancel", rollout=roll(world))
    device.says("canceled")
    return device


def withdrawn():
    world, device = one()
    roll(world)
    world.do("release.withdraw", release="1.1.0")
    return device


def confirmed():
    world, device = one()
    roll(world)
    device.runs("1.1.0")
    device.restarts()
    return device


@pytest.mark.parametrize(
    ("inject", "code", "says"),
    [
        (window, "waits_for_window", "waits for its window (0 3 * * *, UTC)"),
        (slot, "waits_for_slot", "slot"),
        (approval, "waits_for_approval", "2 approvals"),
        (
            later_stage,
            "waits_for_stage",
            "it is in rest, which is not open yet; canary: the gate is not met, 0 of 1 confirmed",
        ),
        (start, "waits_for_start", "it starts at 1970-01-12T13:47:40"),
        (pace, "waits_for_pace", "the next is let in at"),
        (paused, "paused", "paused by ann"),
        (paused_by_a_gate, "paused", "paused by ota-bridge"),
        (quarantined, "quarantined", "quarantined"),
        (superseded, "waiting", "prod/1.2.0 waits 30 s more"),
        (wrong_hardware, "wrong_hardware", "its hardware r9 is not among those"),
        (no_path, "no_path", "no path from 1.0.0 to 3.0.0"),
        (silent, "silent", "not been heard for 3 d"),
        (attempts, "attempts_used", "all attempts are used"),
        (final, "final_refusal", "refused it for good"),
        (not_targeted, "not_targeted", "does not include it"),
        (pending, "pending", "waits for approval: device approve"),
        (ended_rollout, "canceled", "rollout canceled by ann"),
        (withdrawn, "canceling", "withdrawn by ann"),
        (confirmed, "confirmed", "it runs the assigned firmware"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_each_cause_has_its_answer(inject, code, says):
    found, sentence = inject().why()
    assert (code, True) == (found, says in sentence), sentence
