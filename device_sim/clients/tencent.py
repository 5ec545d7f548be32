"""A Tencent IoT Hub or IoT Explorer device: the vendor's C SDK with the firmware of its OTA samples.

It reports its version when it starts and after each attempt that failed, and at no other time; while it pauses between
the two it hears nothing. A link that breaks while it waits comes back without a report, one that breaks during a
download ends that without a word. After `done` it starts again, which the server only learns by the next report.

Variants:
- `hub` (the default), `explorer`, or `gateway`: four devices over one connection (`tencent_gateway`).
- `child=PRODUCT/NAME`: a device behind the gateway, in place of those of the sample.
- `resources`: the explorer's second channel too (`tencent_resource`).
- `stock`: the sample unchanged, which runs the same version after every update.
- `tls`: built with TLS, so without a password, and `https:` is not plain HTTP.
- `via=ADDRESS:PORT`: for tests: where port 80 of every host is in truth.
"""

from collections.abc import Sequence
from typing import Final

from device_sim.clients.model import (
    Action,
    ClientOptions,
    Fetched,
    Incoming,
    Outcome,
    Restart,
    Session,
    Subscribe,
    VendorClient,
    WentWrong,
)
from device_sim.clients.tencent_files import Files
from device_sim.clients.tencent_gateway import TencentGateway
from device_sim.clients.tencent_link import Link, build, placed
from device_sim.clients.tencent_ota import Ended, Handle, Phase
from device_sim.clients.tencent_resource import ResourceHandle

SUBACK_S: Final = 2.0
REPORT_AFTER_S: Final = 0.5
"""From SUBACK to the report: what comes in between is lost."""
BEGIN_AFTER_S: Final = 0.2
PAUSE_AFTER_FAIL_S: Final = 3.5
PAUSE_AFTER_MISMATCH_S: Final = 13.5
"""It waits eleven seconds for an acknowledgement of a message that it could not send."""
RESTART_AFTER_S: Final = 1.0


def tencent_client(options: ClientOptions) -> VendorClient:
    """The client that the variants name."""
    return TencentGateway(options) if "gateway" in options.variants else TencentClient(options)


class TencentClient:
    """One device with a connection of its own; see the module."""

    def __init__(self, options: ClientOptions) -> None:
        how = build(options)
        self.link = Link(options)
        files = Files(options.state, client_id=self.link.client_id, is_explorer=how.is_explorer)
        self.ota = Handle(
            options.product,
            options.name,
            files=files,
            build=how,
            factory=options.version,
            burns=False,
            installs="stock" not in options.variants,
        )
        self._handles: list[Handle] = [self.ota]
        if how.is_explorer and "resources" in options.variants:
            self._handles.append(ResourceHandle(options.product, options.name, files=files, build=how))
        self._prefix = options.prefix
        self._restarts = 0
        self._is_up = self._is_connected = False
        """The process has come as far as to its loop; there is a link."""
        self._report_at_s: dict[Handle, float] = {}
        self._owes: set[Handle] = set()
        """Whose version is to be reported once the link is there."""
        self._suback_by_s: float | None = None
        self._begin_at_s: float | None = None
        self._active: Handle | None = None
        self._restart_at_s: float | None = None

    @property
    def outcome(self) -> Outcome:
        return Outcome(
            version=self.ota.version,
            sha256=self.ota.sha256,
            installs=self.ota.installs,
            restarts=self._restarts,
            failures=tuple(self.ota.failures),
            is_busy=self._restart_at_s is not None
            or bool(self._owes)
            or any(handle.is_busy for handle in self._handles),
        )

    @property
    def resources(self) -> ResourceHandle | None:
        """The explorer's second channel, where it has one."""
        return next((handle for handle in self._handles if isinstance(handle, ResourceHandle)), None)

    def session(self) -> Session:
        return self.link.session()

    def started(self, now_s: float) -> Sequence[Action]:
        self.link.restart()
        self._active = self._begin_at_s = self._restart_at_s = self._suback_by_s = None
        self._report_at_s.clear()
        self._is_up = self._is_connected = False
        for handle in self._handles:
            handle.restart()
        self._owes = set(self._handles)
        return ()

    def connected(self, now_s: float) -> Sequence[Action]:
        if not self._is_up:
            self._suback_by_s = now_s + SUBACK_S
        return [Subscribe(topic_filter=self._prefix + handle.down, qos=1) for handle in self._handles]

    def subscribed(self, topic_filter: str, *, granted: bool, now_s: float) -> Sequence[Action]:
        if not granted:
            raise WentWrong(f"the broker refuses {topic_filter}: OTA cannot be initialised and it says nothing")
        self._is_up = self._is_connected = True
        self._suback_by_s = None
        for handle in self._handles:
            if topic_filter == self._prefix + handle.down and handle in self._owes:
                self._report_at_s[handle] = max(now_s + REPORT_AFTER_S, self._report_at_s.get(handle, 0.0))
        return ()

    def received(self, message: Incoming, now_s: float) -> Sequence[Action]:
        text = self.link.take(message)
        actions: list[Action] = []
        for handle in self._handles:
            if text is not None and message.topic == self._prefix + handle.down:
                actions += handle.heard(text)
        self._pick(now_s)
        return self._placed(actions)

    def fetched(self, result: Fetched, now_s: float) -> Sequence[Action]:
        if self._active is None:
            return ()
        actions = self._active.fetched(result, now_s)
        self._look(now_s)
        return self._placed(actions)

    def disconnected(self, now_s: float) -> Sequence[Action]:
        self._is_connected = False
        handle, self._active, self._begin_at_s = self._active, None, None
        if handle is None:
            return ()
        self._owes.add(handle)
        return handle.abort()

    def tick(self, now_s: float) -> Sequence[Action]:
        if _is_due(self._suback_by_s, now_s):
            raise WentWrong("no SUBACK within 2 s: OTA cannot be initialised and it says nothing")
        if _is_due(self._restart_at_s, now_s):
            self._restart_at_s = None
            self._restarts += 1
            return [Restart()]
        actions: list[Action] = []
        for handle in [handle for handle, at_s in self._report_at_s.items() if now_s >= at_s]:
            del self._report_at_s[handle]
            if self._is_connected:  # or it waits for the link
                self._owes.discard(handle)
                actions.append(handle.report_version())
        if _is_due(self._begin_at_s, now_s) and self._active is not None:
            self._begin_at_s = None
            actions += self._active.begin()
        if self._active is not None:
            actions += self._active.tick(now_s)
        self._look(now_s)
        return self._placed(actions)

    def next_deadline(self) -> float | None:
        active = self._active.deadline_s if self._active is not None else None
        wanted = (self._suback_by_s, self._restart_at_s, self._begin_at_s, active, *self._report_at_s.values())
        return min((at_s for at_s in wanted if at_s is not None), default=None)

    def _pick(self, now_s: float) -> None:
        """One thing at a time is downloaded."""
        if self._active is None and self._restart_at_s is None:
            self._active = next((handle for handle in self._handles if handle.phase is Phase.ACCEPTED), None)
            if self._active is not None:
                self._begin_at_s = now_s + BEGIN_AFTER_S

    def _look(self, now_s: float) -> None:
        """How the update at hand ended, if it did."""
        handle = self._active
        if handle is None or handle.is_busy or handle.ended is Ended.NOT:
            return
        self._active = None
        if handle.ended is Ended.FAILED:
            pause_s = PAUSE_AFTER_MISMATCH_S if handle.has_mismatch else PAUSE_AFTER_FAIL_S
            handle.phase = Phase.DEAF
            self._owes.add(handle)
            self._report_at_s[handle] = now_s + pause_s
        elif handle is self.ota:
            handle.phase = Phase.DEAF
            self._restart_at_s = now_s + RESTART_AFTER_S
        self._pick(now_s)

    def _placed(self, actions: Sequence[Action]) -> Sequence[Action]:
        return placed(actions, self._prefix)


def _is_due(at_s: float | None, now_s: float) -> bool:
    return at_s is not None and now_s >= at_s
