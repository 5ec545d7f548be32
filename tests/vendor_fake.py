"""A client of no vendor: asks on `up/NAME`, takes a version from `down/NAME`, restarts into it. For tests of the runner."""

import json
from dataclasses import dataclass, field, replace

from device_sim.clients.model import (
    Action,
    ClientOptions,
    Fetch,
    HangUp,
    Incoming,
    Outcome,
    Publish,
    Read,
    Restart,
    Session,
    Subscribe,
    WentWrong,
)


@dataclass
class FakeClient:
    """It asks when its subscription is granted and `ask_every_s` later again."""

    options: ClientOptions
    ask_every_s: float | None = None
    heard: list[Incoming] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    outcome: Outcome = field(init=False)
    _ask_at_s: float | None = None

    def __post_init__(self):
        self.outcome = Outcome(version=self.options.version)

    @property
    def down(self):
        return f"{self.options.prefix}down/{self.options.name}"

    def session(self):
        return Session(client_id=self.options.name, username="fake", password=self.options.secret)

    def started(self, now_s):
        self.told.append("started")
        return []

    def connected(self, now_s):
        self.told.append("connected")
        return [Subscribe(topic_filter=self.down, qos=1)]

    def subscribed(self, topic_filter, *, granted, now_s):
        self.told.append(f"subscribed {granted}")
        return self._ask(now_s)

    def _ask(self, now_s) -> list[Action]:
        self._ask_at_s = None if self.ask_every_s is None else now_s + self.ask_every_s
        question = {"name": self.options.name, "runs": self.outcome.version}
        topic = f"{self.options.prefix}up/{self.options.name}"
        return [Publish(topic=topic, payload=json.dumps(question).encode(), qos=1)]

    def received(self, message, now_s):
        self.heard.append(message)
        order = json.loads(message.payload)
        if order == "die":
            raise WentWrong("the queue is full for ever")
        if order == "break":
            raise ZeroDivisionError("a bug")
        if order["version"] == self.outcome.version:
            return []
        seen = self.outcome
        self.outcome = replace(
            seen, version=order["version"], installs=seen.installs + 1, restarts=seen.restarts + 1, is_busy=False
        )
        return [Restart(after_s=0.01), Publish(topic="up/never", payload=b"")]

    def disconnected(self, now_s):
        self.told.append("disconnected")
        return []

    def tick(self, now_s):
        return self._ask(now_s)

    def next_deadline(self):
        return self._ask_at_s


class FakeDownloader(FakeClient):
    """It fetches the version from 127.0.0.1:PORT that it is told as its secret, two bytes at a time."""

    _digits = b""

    def subscribed(self, topic_filter, *, granted, now_s):
        self.told.append(f"subscribed {granted}")
        if self.outcome.installs:
            return []
        return [Fetch(host="127.0.0.1", port=int(self.options.secret), request=b"?"), Read(max_bytes=2, within_s=5)]

    def fetched(self, result, now_s):
        self._digits += result.data
        if len(self._digits) < 4:
            return [Read(max_bytes=2, within_s=5)]
        seen = self.outcome
        self.outcome = replace(seen, version=self._digits.decode(), installs=1, restarts=1)
        return [HangUp(), Restart()]
