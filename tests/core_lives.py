"""Devices of a `World` brought as far as a test needs them: offered, downloading, on trial, confirmed."""

from ota_bridge.core.deployment import State
from ota_bridge.core.messages import ReportAck


def offered(world, **device):
    """A device that was offered 1.1.0."""
    made = world.device(**device)
    world.release()
    world.rollout()
    assert made.state is State.OFFERED
    return made


def downloading(world, **device):
    made = offered(world, **device)
    world.jump(1)
    made.asks()
    assert made.state is State.DOWNLOADING
    return made


def downloaded(world, **device):
    made = downloading(world, **device)
    world.jump(1)
    made.says("downloaded")
    assert made.state is State.DOWNLOADED
    return made


def installing(world, **device):
    made = downloaded(world, **device)
    world.jump(1)
    ack = world.sent(ReportAck, made.says("burning"))[0]
    assert (made.open.id,) == ack.go
    assert made.state is State.INSTALLING
    return made


def on_trial(world, **device):
    made = installing(world, **device)
    world.jump(5)
    made.runs("1.1.0", seq=1, trial=True).restarts()
    assert made.state is State.TRIAL
    return made


def confirmed(world, **device):
    made = on_trial(world, **device)
    world.jump(1)
    made.runs("1.1.0", trial=False).check_in()
    assert made.state is State.CONFIRMED
    return made


def canceling(world, **device):
    made = downloading(world, **device)
    world.do("rollout.cancel", rollout=made.open.rollout)
    assert made.state is State.CANCELING
    return made


def bring(world, state):
    return {
        State.OFFERED: offered,
        State.DOWNLOADING: downloading,
        State.DOWNLOADED: downloaded,
        State.INSTALLING: installing,
        State.TRIAL: on_trial,
        State.CANCELING: canceling,
    }[state](world)
