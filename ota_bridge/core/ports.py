"""What the core asks of the outside, as small Protocols: one per aggregate, the unit of work, and three for signatures.

Rules for every implementation (tests/contract runs over all of them):
1. A unit of work is used on one thread, inside one transaction; nothing of it is visible outside before the commit.
2. `put` writes the whole record, inserting or replacing by id. Records are values: what `get` returns never changes.
3. Lists are ordered by id (transitions and reports: by time, then by order of insertion); `after` is exclusive.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ota_bridge.core.catalog import Release
from ota_bridge.core.chain import Entry
from ota_bridge.core.conversation import Memory
from ota_bridge.core.deployment import Deployment, State, Transition
from ota_bridge.core.fleet import Device, DeviceState
from ota_bridge.core.keysets import KeysetStanding
from ota_bridge.core.manifest import ManifestFacts
from ota_bridge.core.messages import InstalledPart, ReportKey
from ota_bridge.core.people import Token, TokenId, User
from ota_bridge.core.records import record
from ota_bridge.core.rollout.approvals import Approval
from ota_bridge.core.rollout.facts import Key
from ota_bridge.core.rollout.model import PLACES_END, Rollout, RolloutState
from ota_bridge.core.rollout.plan import Window
from ota_bridge.core.values import DeploymentId, DeviceId, ReleaseId, RolloutId, StandingLimits


class Releases(Protocol):
    """The catalog."""

    def get(self, release: ReleaseId) -> Release | None: ...
    def put(self, release: Release) -> None: ...
    def all(self, *, product: str | None = None) -> Sequence[Release]: ...


class Devices(Protocol):
    """The fleet."""

    def get(self, device: DeviceId) -> Device | None: ...
    def put(self, device: Device) -> None: ...
    def named(self, name: str) -> Sequence[Device]:
        """Devices of that name in any product, and those that carry it as a label."""
        ...

    def page(
        self,
        *,
        product: str | None = None,
        state: DeviceState | None = None,
        tag: str | None = None,
        after: DeviceId | None = None,
        limit: int = 1000,
    ) -> Sequence[Device]: ...
    def count(self, *, product: str | None = None) -> int: ...
    def installed(self, *, product: str) -> Sequence[Mapping[str, InstalledPart]]:
        """What the product's devices that are not retired report, each combination of components once."""
        ...


class Deployments(Protocol):
    """Attempts and their history."""

    def get(self, deployment: DeploymentId) -> Deployment | None: ...
    def put(self, deployment: Deployment) -> None: ...
    def open_of(self, device: DeviceId) -> Sequence[Deployment]: ...
    def recent_of(self, device: DeviceId, *, limit: int = 20) -> Sequence[Deployment]:
        """The device's deployments, that which was put last before the others, whatever the clock said then."""
        ...

    def of_rollout(
        self,
        rollout: RolloutId,
        *,
        open_only: bool = False,
        after: DeploymentId | None = None,
        limit: int = 1000,
    ) -> Sequence[Deployment]:
        """Latest attempts only."""
        ...

    def all_open(self, *, after: DeploymentId | None = None, limit: int = 1000) -> Sequence[Deployment]: ...
    def due(self, wall: float, *, limit: int = 500) -> Sequence[Deployment]:
        """Open deployments with `due_wall` at or before `wall`, earliest first."""
        ...

    def next_due_wall(self) -> float | None: ...
    def counts(self, rollout: RolloutId) -> Mapping[State, int]:
        """Latest attempts by state; states with none are left out."""
        ...

    def tallies(self, rollout: RolloutId) -> Mapping[tuple[int, State, State | None], int]:
        """Latest attempts by (stage, state, how the attempt before ended); those with none are left out."""
        ...

    def for_slots(self, limit: int) -> Sequence[Deployment]:
        """Those whose notice waits for a download slot: urgent ones first, then the oldest."""
        ...

    def waiting_for_slots(self, limit: int) -> int:
        """How many these are, counted up to `limit`."""
        ...

    def busy(self, offered_since_wall: float) -> int:
        """How many are downloading and have not stalled, or were offered since and have not begun."""
        ...

    def record(self, transition: Transition) -> None: ...
    def history(self, deployment: DeploymentId) -> Sequence[Transition]:
        """In the order in which they were recorded; nothing of one that was compacted."""
        ...

    def compact(self, device: DeviceId, before_wall: float, *, limit: int = 1000) -> int:
        """Keep of finished ones what `Deployment.compacted` keeps, and no history; how many these were.

        From the device's oldest on, up to the first that is open or ended at `before_wall` or later. What was compacted
        can be put again, but for one that would be open.
        """
        ...

    def shift_due(self, by_s: float) -> None:
        """Move every `due_wall` and `retry_wall` by this much: the wall clock stepped."""
        ...


class Rollouts(Protocol):
    """Rollouts."""

    def get(self, rollout: RolloutId) -> Rollout | None: ...
    def put(self, rollout: Rollout) -> None: ...
    def all(self, *, state: RolloutState | None = None, product: str | None = None) -> Sequence[Rollout]:
        """Oldest first by creation."""
        ...


class Members(Protocol):
    """The devices that a rollout will let in and has not yet, in the order of their places, then names."""

    def put(self, rollout: RolloutId, place: int, name: str) -> None:
        """Once; another time changes nothing."""
        ...

    def remove(self, rollout: RolloutId, place: int, name: str) -> None: ...
    def page(self, rollout: RolloutId, *, end: int, limit: int) -> Sequence[tuple[int, str]]:
        """The first of them below the place `end`: place and name."""
        ...

    def nth(self, rollout: RolloutId, start: int, number: int) -> int | None:
        """The place of the member that `number` others at or after `start` come before; None: there are not so many."""
        ...

    def count(self, rollout: RolloutId, *, start: int = 0, end: int = PLACES_END) -> int: ...
    def clear(self, rollout: RolloutId) -> None: ...


@record
class StoredReport:
    """A report as it was received and acknowledged. `key` None: the device sends none."""

    device: DeviceId
    key: ReportKey | None
    kind: str
    wall: float
    body: Mapping[str, Any]


class Reports(Protocol):
    """Every report that was acknowledged."""

    def seen(self, device: DeviceId, boot: int, seq: int) -> bytes | None:
        """The content of the report of that key, or None."""
        ...

    def knows_boot(self, device: DeviceId, boot: int) -> bool:
        """True if a report of that boot came, also one that was pruned since."""
        ...

    def add(self, report: StoredReport) -> None: ...
    def recent(self, device: DeviceId, *, limit: int = 20) -> Sequence[StoredReport]:
        """That which was added last first."""
        ...

    def prune(self, device: DeviceId, before_wall: float, *, keep: int, boot: int | None) -> int:
        """Remove those that came before `before_wall`, but for the last `keep`; how many these were.

        Of the present `boot` the last keys stay known, of every boot of late its number (`store/old_keys.py`).
        """
        ...


class LimitsInForce(Protocol):
    """The fleet-wide caps: one record, with no cap until one is put."""

    def get(self) -> StandingLimits: ...
    def put(self, limits: StandingLimits) -> None: ...


class Users(Protocol):
    """Who was given roles."""

    def get(self, name: str) -> User | None: ...
    def put(self, user: User) -> None: ...
    def remove(self, name: str) -> None:
        """Nothing where there is none."""
        ...

    def all(self) -> Sequence[User]: ...


class Tokens(Protocol):
    """What stands for users, those that can no longer be used among them."""

    def get(self, token: TokenId) -> Token | None: ...
    def put(self, token: Token) -> None: ...
    def all(self, *, user: str | None = None) -> Sequence[Token]:
        """Oldest first by creation."""
        ...


class Approvals(Protocol):
    """At most one of each person for each rollout."""

    def put(self, approval: Approval) -> None: ...
    def remove(self, rollout: RolloutId, user: str) -> None:
        """Nothing where there is none."""
        ...

    def of_rollout(self, rollout: RolloutId) -> Sequence[Approval]:
        """In the order in which they were first given."""
        ...


class AuditLog(Protocol):
    """Who did what: entries are appended, never changed, never taken away."""

    def last(self) -> Entry | None: ...
    def append(self, entry: Entry) -> None:
        """Raises StoreError unless its number is the next."""
        ...

    def page(
        self,
        *,
        actor: str | None = None,
        subject: str | None = None,
        since_ms: int | None = None,
        after: int = 0,
        limit: int = 1000,
    ) -> Sequence[Entry]:
        """By number."""
        ...

    def latest(
        self,
        *,
        actor: str | None = None,
        subject: str | None = None,
        since_ms: int | None = None,
        limit: int = 1000,
    ) -> Sequence[Entry]:
        """By number, the last of those that fit."""
        ...


class Memories(Protocol):
    """What vendors' dialects keep of their devices."""

    def get(self, device: DeviceId) -> Memory | None: ...
    def put(self, device: DeviceId, memory: Memory) -> None: ...
    def due(self, wall: float, *, limit: int = 500) -> Sequence[DeviceId]:
        """Devices with `wake_wall` at or before `wall`, earliest first."""
        ...

    def next_wake_wall(self) -> float | None: ...


class UnitOfWork(Protocol):
    """All aggregates inside one transaction."""

    @property
    def releases(self) -> Releases: ...
    @property
    def devices(self) -> Devices: ...
    @property
    def deployments(self) -> Deployments: ...
    @property
    def rollouts(self) -> Rollouts: ...
    @property
    def members(self) -> Members: ...
    @property
    def reports(self) -> Reports: ...
    @property
    def limits(self) -> LimitsInForce: ...
    @property
    def users(self) -> Users: ...
    @property
    def tokens(self) -> Tokens: ...
    @property
    def approvals(self) -> Approvals: ...
    @property
    def audit(self) -> AuditLog: ...
    @property
    def memories(self) -> Memories: ...
    def new_deployment_id(self) -> DeploymentId:
        """12 random lower-case hex digits, unused."""
        ...

    def new_rollout_id(self) -> RolloutId:
        """`r-` and 6 random lower-case hex digits, unused."""
        ...

    def new_token_id(self) -> TokenId:
        """8 random lower-case hex digits, unused."""
        ...

    def new_secret(self) -> bytes:
        """32 random bytes that nobody can guess."""
        ...


class ManifestVerifier(Protocol):
    """Checks an envelope against the authors that are trusted now."""

    def __call__(self, envelope: bytes) -> ManifestFacts:
        """What the manifest says; raises ManifestRefused."""
        ...


class TicketIssuer(Protocol):
    """Signs freshness tickets with the online key; None where there is none."""

    def __call__(self, device: DeviceId, nonce: bytes, manifest_digest: bytes, wall: float) -> bytes | None: ...


class Links(Protocol):
    """URLs of images, for devices that download by URL."""

    def __call__(self, deployment: DeploymentId, manifest: ManifestFacts, wall: float, /) -> str:
        """Where the device of this deployment finds its image, for a notice that goes out at `wall`; empty: nowhere."""
        ...


class Keysets(Protocol):
    """What a device with this keyset is to be sent; checked anew whenever the trust document changes."""

    def __call__(self, version: int) -> KeysetStanding: ...


class Query(Protocol):
    """A condition on a device, compiled. It raises nothing: what cannot be answered for a device does not match it."""

    @property
    def text(self) -> str: ...
    @property
    def asked(self) -> frozenset[Key]:
        """The keys of maps that stand in it; `rollout.facts.missing_keys` says which of them a device has not."""
        ...

    def __call__(self, facts: Mapping[str, Any]) -> bool:
        """True if it holds for these facts (`rollout.facts.facts_of`)."""
        ...


class Queries(Protocol):
    """Compiles queries and keeps what it compiled."""

    def __call__(self, text: str) -> Query:
        """The query; raises InvalidInput whose sentence has the place."""
        ...


class Calendar(Protocol):
    """When a window is open. `tz`: the device's own zone; empty: the window's, and UTC where that is empty, too.

    A window is open for exactly `length_s` seconds from each start on; those that touch or overlap are one. Raises
    InvalidInput for a zone that `knows` denies, and for a window that `check` refuses.
    """

    def check(self, window: Window) -> None:
        """Raise InvalidInput if there can be no such window."""
        ...

    def knows(self, tz: str) -> bool:
        """True if there is a zone of this name."""
        ...

    def is_open(self, window: Window, tz: str, wall: float) -> bool: ...
    def opens_wall(self, window: Window, tz: str, wall: float) -> float | None:
        """When it opens next, or `wall` while it is open; None: never again."""
        ...

    def closes_wall(self, window: Window, tz: str, wall: float) -> float | None:
        """When what is open at `wall`, or opens next, closes; None: it does not, or there is nothing to close."""
        ...
