"""A Tencent gateway with the SDK's sample for sub-devices: several devices over one connection, one after the other.

Each is put online and reports its version once, never again. Downloads go one at a time, the last child first; the
others keep their notice and are silent. When the link breaks the program ends, and is started again.
"""

from collections.abc import Sequence
from typing import Final

from device_sim.clients.model import (
    Action,
    ClientOptions,
    Fetched,
    Incoming,
    Outcome,
    Publish,
    Restart,
    Session,
    Subscribe,
    WentWrong,
)
from device_sim.clients.tencent_files import Files
from device_sim.clients.tencent_link import Link, build, placed
from device_sim.clients.tencent_ota import Ended, Handle, Phase
from device_sim.clients.tencent_scan import value_of
from device_sim.errors import OptionError

ANSWER_S: Final = 20.0
"""100 times 200 ms."""
ONLINE_AFTER_S: Final = 0.5
REPORT_AFTER_S: Final = 0.4
NEXT_AFTER_S: Final = 1.2
"""From the end of one child's update to the beginning of the next."""
NEXT_AFTER_MISMATCH_S: Final = 11.0
LOOK_AFTER_S: Final = 0.2
RESTART_AFTER_S: Final = 2.0
SUBSCRIPTIONS_MAX: Final = 10
SAMPLE: Final = ("E69UADXUYY/light1", "E69UADXUYY/light2", "E69UADXUYY/light3", "YI7XCD5DRH/airConditioner1")


class TencentGateway:
    """The gateway and its children; see the module."""

    def __init__(self, options: ClientOptions) -> None:
        self.link = Link(options)
        named = sorted(variant.removeprefix("child=") for variant in options.variants if variant.startswith("child="))
        self.children = {name: self._child(name, options) for name in named or SAMPLE}
        if len(self.children) >= SUBSCRIPTIONS_MAX:
            raise OptionError(f"a gateway has {SUBSCRIPTIONS_MAX} subscriptions and one of them is its own")
        self._up = f"$gateway/operation/{options.product}/{options.name}"
        self._down = f"$gateway/operation/result/{options.product}/{options.name}"
        self._prefix = options.prefix
        self._restarts = 0
        self._waiting: list[str] = []
        """Children that are not online yet."""
        self._online_at_s: float | None = None
        self._answer_by_s: float | None = None
        self._report_at_s: float | None = None
        self._next_at_s: float | None = None
        self._active: Handle | None = None

    def _child(self, name: str, options: ClientOptions) -> Handle:
        product, slash, device = name.partition("/")
        if not slash:
            raise OptionError(f"variant child={name}: PRODUCT/NAME is wanted")
        return Handle(
            product,
            device,
            files=Files(options.state, client_id=product + device, is_explorer=False),
            build=build(options),
            factory=options.version,
            burns=True,
            installs="stock" not in options.variants,
        )

    @property
    def outcome(self) -> Outcome:
        """Of all children together: the version where they agree, else the least advanced."""
        children = self.children.values()
        versions = {child.version for child in children}
        return Outcome(
            version=versions.pop() if len(versions) == 1 else "",
            sha256=next((child.sha256 for child in children if child.sha256), ""),
            installs=sum(child.installs for child in children),
            restarts=self._restarts,
            failures=tuple(code for child in children for code in child.failures),
            is_busy=bool(self._waiting) or any(child.is_busy for child in children),
        )

    def session(self) -> Session:
        return self.link.session()

    def started(self, now_s: float) -> Sequence[Action]:
        self.link.restart()
        for child in self.children.values():
            child.restart()
        self._waiting = list(self.children)
        self._online_at_s = self._answer_by_s = self._report_at_s = self._next_at_s = None
        self._active = None
        return ()

    def connected(self, now_s: float) -> Sequence[Action]:
        return [Subscribe(topic_filter=self._prefix + self._down, qos=1)]

    def subscribed(self, topic_filter: str, *, granted: bool, now_s: float) -> Sequence[Action]:
        if not granted:
            raise WentWrong(f"the broker refuses {topic_filter}: its children never start OTA")
        if topic_filter == self._prefix + self._down:
            self._online_at_s = now_s + ONLINE_AFTER_S
        else:
            self._report_at_s = now_s + REPORT_AFTER_S
        return ()

    def received(self, message: Incoming, now_s: float) -> Sequence[Action]:
        text = self.link.take(message)
        if text is None:
            return ()
        if message.topic == self._prefix + self._down:
            return self._answered(text)
        for child in self.children.values():
            if message.topic == self._prefix + child.down:
                child.heard(text)
        self._wake(now_s)
        return ()

    def _wake(self, now_s: float) -> None:
        if self._next_at_s is None and self._active is None and not self._waiting:
            self._next_at_s = now_s + LOOK_AFTER_S

    def _answered(self, text: bytes) -> Sequence[Action]:
        if self._answer_by_s is None or value_of(text, "type") != "online":
            return ()
        devices = value_of((value_of(text, "payload") or "").encode("latin-1"), "devices") or ""
        device = devices.strip("[]").encode("latin-1")
        name = self._waiting[0]
        if f"{value_of(device, 'product_id')}/{value_of(device, 'device_name')}" != name:
            return ()
        result = value_of(device, "result")
        if result != "0":
            raise WentWrong(f"online of {name} is answered with {result!r}: it is given up and never starts OTA")
        self._answer_by_s = None
        return [Subscribe(topic_filter=self._prefix + self.children[name].down, qos=1)]

    def fetched(self, result: Fetched, now_s: float) -> Sequence[Action]:
        if self._active is None:
            return ()
        actions = self._active.fetched(result, now_s)
        self._look(now_s)
        return placed(actions, self._prefix)

    def disconnected(self, now_s: float) -> Sequence[Action]:
        self._restarts += 1
        let_go = self._active.abort() if self._active is not None else ()
        return [*let_go, Restart(after_s=RESTART_AFTER_S)]

    def tick(self, now_s: float) -> Sequence[Action]:
        actions: list[Action] = []
        if _is_due(self._answer_by_s, now_s):
            raise WentWrong(
                f"online of {self._waiting[0]} is not answered in 20 s: it is given up and never starts OTA"
            )
        if _is_due(self._report_at_s, now_s):
            self._report_at_s = None
            actions.append(self.children[self._waiting.pop(0)].report_version())
            if self._waiting:
                self._online_at_s = now_s
            else:
                self._next_at_s = now_s + LOOK_AFTER_S
        if _is_due(self._online_at_s, now_s):
            self._online_at_s, self._answer_by_s = None, now_s + ANSWER_S
            actions.append(self._online(self._waiting[0]))
        if _is_due(self._next_at_s, now_s):
            self._next_at_s = None
            ready = [child for child in self.children.values() if child.phase is Phase.ACCEPTED]
            if ready:
                self._active = ready[-1]
                actions += self._active.begin()
        if self._active is not None:
            actions += self._active.tick(now_s)
        self._look(now_s)
        return placed(actions, self._prefix)

    def _online(self, name: str) -> Publish:
        product, _, device = name.partition("/")
        text = f'{{"type":"online","payload":{{"devices":[{{"product_id":"{product}","device_name":"{device}"}}]}}}}'
        return Publish(topic=self._up, payload=text.encode())

    def _look(self, now_s: float) -> None:
        child = self._active
        if child is not None and not child.is_busy and child.ended is not Ended.NOT:
            self._active = None
            self._next_at_s = now_s + (NEXT_AFTER_MISMATCH_S if child.has_mismatch else NEXT_AFTER_S)

    def next_deadline(self) -> float | None:
        active = self._active.deadline_s if self._active is not None else None
        wanted = (self._online_at_s, self._answer_by_s, self._report_at_s, self._next_at_s, active)
        return min((at_s for at_s in wanted if at_s is not None), default=None)


def _is_due(at_s: float | None, now_s: float) -> bool:
    return at_s is not None and now_s >= at_s
