"""A device of the toy's protocol in a world without wires."""

import json

from ota_bridge.core.messages import Said, Saying
from ota_bridge.core.values import DeviceId


class Toy:
    """A device that speaks it."""

    def __init__(self, world, name="t1"):
        self.world, self.id = world, DeviceId("prod", name)

    def says(self, **body):
        outputs = self.world.receive(Said(device=self.id, dialect="toy", said=body, body=body))
        return words(outputs)

    @property
    def deployments(self):
        found = self.world.read(lambda unit: unit.deployments.recent_of(self.id))
        return [one for one in found]  # noqa: C416 - a copy

    @property
    def state(self):
        return self.deployments[0].state

    @property
    def memory(self):
        return self.world.read(lambda unit: unit.memories.get(self.id))

    def why(self):
        found = self.world.do("why", device=str(self.id))
        return found["code"], found["sentence"]


def words(outputs):
    return [json.loads(one.message.payload) for one in outputs if isinstance(one, Saying)]
