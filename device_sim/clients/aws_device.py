"""What the devices of this protocol have in common: topics, flash, one timer, what they report as failed."""

import json
from abc import ABC, abstractmethod
from typing import Final

from device_sim.clients.aws_flash import Flash
from device_sim.clients.model import Action, ClientOptions, Incoming, Publish

JOB_MESSAGE_MAX: Final = 5000
"""The network buffers of the demos."""


class AwsDevice(ABC):
    """Base of the clients; topics here have no prefix, `aws.AwsClient` puts it before them."""

    def __init__(self, options: ClientOptions, flash: Flash) -> None:
        self.options = options
        self.flash = flash
        self.failures: list[str] = []
        self.deadline: float | None = None
        self.now_s = 0.0
        """Monotonic time of what happens now."""
        self.is_connected = False
        self.things = f"$aws/things/{options.name}/"
        self.jobs = f"{self.things}jobs/"

    @property
    def is_busy(self) -> bool:
        """Whether an update is under way."""
        return False

    def has(self, variant: str) -> bool:
        """Whether it is of this variant."""
        return variant in self.options.variants

    @abstractmethod
    def boot(self) -> list[Action]:
        """Power-on: RAM is empty."""

    @abstractmethod
    def connected(self) -> list[Action]:
        """CONNACK."""

    @abstractmethod
    def subscribed(self, topic_filter: str, *, granted: bool) -> list[Action]:
        """SUBACK."""

    @abstractmethod
    def received(self, message: Incoming) -> list[Action]:
        """A message on one of its topics."""

    @abstractmethod
    def disconnected(self) -> list[Action]:
        """The link broke."""

    @abstractmethod
    def expired(self) -> list[Action]:
        """Its timer ran out; `deadline` is None again."""

    def update(self, job_id: str, body: dict[str, object], qos: int = 0) -> Publish:
        """A status update, written as the libraries write JSON: without blanks."""
        text = json.dumps(body, separators=(",", ":"))
        return Publish(topic=f"{self.jobs}{job_id}/update", payload=text.encode(), qos=qos)

    def get_topic(self, stream: str, encoding: str) -> str:
        """Where blocks are asked for."""
        return f"{self.things}streams/{stream}/get/{encoding}"

    def data_topic(self, stream: str, encoding: str) -> str:
        """Where blocks come."""
        return f"{self.things}streams/{stream}/data/{encoding}"
