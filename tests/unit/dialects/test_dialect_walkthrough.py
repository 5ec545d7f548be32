"""The dialect that CONTRIBUTING.md walks through, as it stands there."""

import json
import re
from pathlib import Path

import pytest
from core_world import World

from ota_bridge.core.deployment import State
from ota_bridge.core.errors import Malformed
from ota_bridge.core.messages import Rejected, Saying
from ota_bridge.wire import MqttMessage

PAGE = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text()
WALK = PAGE.partition("## Add a dialect\n")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def acme():
    [code] = re.findall(r"```python\n(.*?)```", WALK, re.DOTALL)
    names = {}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    return names["Acme"]


def test_it_is_short():
    assert 80 > len(WALK.splitlines())


def test_its_device_is_offered_an_update_and_confirms_it(acme):
    world = World(public_url="http://host/{sha256}")
    dialect = acme({"resend_s": 5.0})
    world.bridge.dialects = {"acme": dialect}

    def says(version):
        outputs = world.receive(dialect.read(MqttMessage(topic="acme/prod/a1/version", payload=version)))
        return [json.loads(one.message.payload) for one in outputs if isinstance(one, Saying)]

    assert [] == says(b"1.0.0")
    world.release("1.1.0")
    world.rollout("1.1.0")
    world.plan()
    world.passes(60)
    [offer] = says(b"1.0.0")
    assert "1.1.0" == offer["version"]
    assert offer["url"] == f"http://host/{offer['sha256']}"
    assert [] == says(b"1.1.0")
    [one] = world.do("device.show", device="prod/a1")["deployments"]
    assert State.CONFIRMED == one["state"]


def test_what_is_no_version_is_rejected_and_what_names_nobody_malformed(acme):
    dialect = acme({})
    assert isinstance(dialect.read(MqttMessage(topic="acme/prod/a1/version", payload=b"\xff" * 99)), Rejected)
    with pytest.raises(Malformed):
        dialect.read(MqttMessage(topic="acme/pr od/a1/version", payload=b"1"))
