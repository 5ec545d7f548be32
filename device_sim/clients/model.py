"""What a client of another vendor's protocol is: a state machine without I/O that says what it does next.

`runner` connects it, brings it messages and the time, and carries out its actions. A client behaves as the vendor's
own code does, its faults included; where the real one would crash, hang for ever or run wild it raises `WentWrong`, so
that a server's mistake is loud here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from device_sim.errors import DeviceSimError


class WentWrong(DeviceSimError):
    """Here the vendor's client would crash, hang for ever or run wild; the message says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """What one client is told from outside."""

    product: str
    """ProductId, ProductKey; dialects whose topics have none ignore it."""
    name: str
    """Device name, thing name, device id or access token."""
    version: str = "1.0.0"
    """What it runs when it starts."""
    block_bytes: int = 4096
    prefix: str = ""
    """Put before every topic, as a broker's mount point would: `tb/dev1/`. Empty, or ends with a slash."""
    secret: str = ""
    """Password, device secret or token, where the protocol has one."""
    state: Path | None = None
    """Where it keeps its files over a restart; None: in memory."""
    seed: int = 1
    variants: frozenset[str] = frozenset()
    """Which of the vendor's clients it is, such as `cbor`, `cpp` or `older-agent`; the dialect's file lists them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The CONNECT that it sends."""

    client_id: str
    username: str | None = None
    password: str | None = None
    keepalive_s: int = 60
    is_clean: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A PUBLISH that reached it."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    is_dup: bool = False
    packet_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    topic: str
    payload: bytes
    qos: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribe:
    topic_filter: str
    qos: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsubscribe:
    topic_filter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """The process ends and starts again after so long: the link drops, RAM is gone, `started` is called again."""

    after_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Open a TCP connection of its own and send these bytes; an older one is dropped. `Read` takes what comes."""

    host: str
    port: int
    request: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """Take up to `max_bytes` of what came, or up to and with `until`; the answer is a `Fetched`."""

    max_bytes: int
    within_s: float
    until: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class HangUp:
    """Close the connection that `Fetch` opened."""


Action = Publish | Subscribe | Unsubscribe | Restart | Fetch | Read | HangUp


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """The answer to a `Read`: all that was wanted, or a fault."""

    data: bytes = b""
    fault: str = ""
    """Why there is not so much of it: no connection, closed, not in time. Empty: there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How it stands: read by tests and printed by `device-sim run --dialect NAME --json`."""

    version: str
    """What it runs now."""
    sha256: str = ""
    """Of the image that it installed last, in hex."""
    installs: int = 0
    restarts: int = 0
    failures: Sequence[str] = field(default_factory=tuple)
    """What it reported as failed, in order."""
    is_busy: bool = False


class VendorClient(Protocol):
    """One device. `now_s` is monotonic; every method returns what to do, in order; each may raise WentWrong."""

    @property
    def outcome(self) -> Outcome: ...

    def session(self) -> Session:
        """The next CONNECT."""
        ...

    def started(self, now_s: float) -> Sequence[Action]:
        """Power-on, or the process starts again."""
        ...

    def connected(self, now_s: float) -> Sequence[Action]:
        """CONNACK came."""
        ...

    def subscribed(self, topic_filter: str, *, granted: bool, now_s: float) -> Sequence[Action]:
        """SUBACK came for this filter."""
        ...

    def received(self, message: Incoming, now_s: float) -> Sequence[Action]: ...

    def disconnected(self, now_s: float) -> Sequence[Action]:
        """The link broke; the runner connects again by itself after `reconnect_s`."""
        ...

    def tick(self, now_s: float) -> Sequence[Action]:
        """A deadline has come."""
        ...

    def next_deadline(self) -> float | None:
        """When `tick` is wanted next, in the clock of `now_s`."""
        ...


@runtime_checkable
class Downloader(VendorClient, Protocol):
    """A device that also downloads over a TCP connection of its own, one at a time."""

    def fetched(self, result: Fetched, now_s: float) -> Sequence[Action]:
        """The answer to its last `Read`; never comes after a `Fetch` or `HangUp` that followed it."""
        ...
