"""A vendor's client against a scripted server, without a broker: feed messages, collect what it does, move the time.

`Scripted(client).power_on()`, then `deliver(...)`, `pass_s(...)` or `serve(server)`. As on a broker a message reaches the
client only while it has a subscription that matches; `lost` keeps those that did not. Every action is in `done`, in order;
`sent` has the messages alone. A `Restart` is carried out at once: subscriptions gone, `started`, connected again. What it wants of a connection of its own is
only kept.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from device_sim.clients.model import Action, Incoming, Publish, Restart, Session, Subscribe, Unsubscribe, VendorClient

Server = Callable[[Publish], Iterable[Publish]]
"""What the other side publishes when the client has published this."""

MAX_MESSAGES = 100_000


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a filter of MQTT takes this topic."""
    wanted, given = topic_filter.split("/"), topic.split("/")
    for index, part in enumerate(wanted):
        if part == "#":
            return True
        if index >= len(given) or part not in {"+", given[index]}:
            return False
    return len(wanted) == len(given)


@dataclass
class Scripted:
    """`client` on a line that never fails by itself. `now_s` is its clock."""

    client: VendorClient
    now_s: float = 100.0
    grants: bool = True
    """What SUBACK says."""
    done: list[Action] = field(default_factory=list)
    lost: list[Publish] = field(default_factory=list)
    subscriptions: dict[str, int] = field(default_factory=dict)
    sessions: list[Session] = field(default_factory=list)
    is_up: bool = False
    _packet_id: int = 0
    unserved: deque[Publish] = field(default_factory=deque)

    @property
    def sent(self) -> list[Publish]:
        """All that it has published, in order."""
        return [action for action in self.done if isinstance(action, Publish)]

    def topics(self) -> list[str]:
        return [message.topic for message in self.sent]

    def power_on(self) -> list[Action]:
        """Start and connect; what it did."""
        began = len(self.done)
        self._perform(self.client.started(self.now_s))
        self.connect()
        return self.done[began:]

    def connect(self) -> list[Action]:
        """CONNECT, CONNACK; what it did."""
        began, session = len(self.done), self.client.session()
        self.sessions.append(session)
        if session.is_clean:
            self.subscriptions.clear()
        self.is_up = True
        self._perform(self.client.connected(self.now_s))
        return self.done[began:]

    def break_link(self) -> list[Action]:
        """The line goes; `connect` brings it back."""
        began = len(self.done)
        self.is_up = False
        self._perform(self.client.disconnected(self.now_s))
        return self.done[began:]

    def deliver(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 0,
        retain: bool = False,
        is_dup: bool = False,
        packet_id: int | None = None,
    ) -> list[Action]:
        """A message of the server; what the client did with it. Packet ids count up from 1 where QoS needs one."""
        granted = [own for pattern, own in self.subscriptions.items() if matches(pattern, topic)]
        if not self.is_up or not granted:
            self.lost.append(Publish(topic=topic, payload=payload, qos=qos))
            return []
        qos, began = min(qos, max(granted)), len(self.done)
        if qos and packet_id is None:
            self._packet_id += 1
            packet_id = self._packet_id
        message = Incoming(
            topic=topic, payload=payload, qos=qos, retain=retain, is_dup=is_dup, packet_id=packet_id or 0
        )
        self._perform(self.client.received(message, self.now_s))
        return self.done[began:]

    def pass_s(self, seconds: float) -> list[Action]:
        """Let the time pass, deadline by deadline; what it did."""
        began, end_s = len(self.done), self.now_s + seconds
        while (deadline := self.client.next_deadline()) is not None and deadline <= end_s:
            self.now_s = max(self.now_s, deadline)
            self._perform(self.client.tick(self.now_s))
            assert self.client.next_deadline() != deadline, "a deadline that has passed stays: the runner would spin"
        self.now_s = end_s
        return self.done[began:]

    def serve(self, server: Server, *, until: Callable[[], bool] | None = None) -> None:
        """Give the server each message that was not served yet and deliver its answers, until there is nothing more."""
        for _ in range(MAX_MESSAGES):
            if not self.unserved or (until is not None and until()):
                return
            for answer in server(self.unserved.popleft()):
                self.deliver(answer.topic, answer.payload, qos=answer.qos)
        raise AssertionError(f"{MAX_MESSAGES} messages and no end: the last was {self.sent[-1]}")

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            self.done.append(action)
            if isinstance(action, Restart):
                self._restart(action)
                return
            if isinstance(action, Publish):
                if self.is_up:
                    self.unserved.append(action)
            elif isinstance(action, Subscribe):
                self._subscribe(action)
            elif isinstance(action, Unsubscribe):
                self.subscriptions.pop(action.topic_filter, None)

    def _subscribe(self, action: Subscribe) -> None:
        if not self.is_up:
            return
        if self.grants:
            self.subscriptions[action.topic_filter] = action.qos
        self._perform(self.client.subscribed(action.topic_filter, granted=self.grants, now_s=self.now_s))

    def _restart(self, action: Restart) -> None:
        self.is_up = False
        self.now_s += action.after_s
        self._perform(self.client.started(self.now_s))
        self.connect()
