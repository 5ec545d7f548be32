"""What the core and a vendor's dialect say to each other about one device. Plain data; nothing of a wire.

A device of the native protocol is answered by downlinks (`messages`). One of another vendor's protocol is spoken with
by its dialect, two pure functions of the device's `Standing`: `hear` says what a message of the device means, `tell`
says what to send. Both run in the unit of work that changes the device, so what they see is what is committed with it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, runtime_checkable

from ota_bridge.core.deployment import FETCHING, OPEN, State
from ota_bridge.core.messages import CheckIn, Progress, Rejected, Said
from ota_bridge.core.records import record
from ota_bridge.core.values import DeploymentId, DeviceId, Sha256

CLAIMED: Final = "the device says that it is done"
UNPROVEN: Final = "has no more proof"
"""The cause ends so where a claim was all the proof that there is."""
MEMORY_MAX_BYTES: Final = 16_384
"""What a dialect may keep of one device."""


@record
class Update:
    """One deployment as a dialect sees it. Times are wall seconds."""

    id: DeploymentId
    release: str
    """`product/version`"""
    component: str
    version: str
    """Of the component, as the device will report it."""
    attempt: int
    state: State
    cause: str
    """Why it is in that state, in a sentence."""
    size_bytes: int
    sha256: Sha256
    md5: str
    """Lower-case hex."""
    file_name: str
    metadata: Mapping[str, str]
    """What only the author knows, by name, such as `aws.signature`."""
    url: str
    """Where this device may fetch it by HTTP; empty: nowhere."""
    offers: int
    """How often a notice was due, this one among them."""
    created_wall: float
    changed_wall: float
    """When it came into its state."""
    last_block_wall: float | None
    """When the device last asked for a block, or said that it downloads: told every few seconds."""
    high_water_bytes: int
    """How far the blocks that were served go; 0 where it downloads by URL."""
    is_paused: bool = False
    """Its rollout is paused, or its window is closed and it has not begun: say nothing that would let it begin."""

    @property
    def is_open(self) -> bool:
        return self.state in OPEN

    @property
    def is_served(self) -> bool:
        """Blocks of it may be asked for."""
        return self.state in FETCHING


@record
class Standing:
    """Where a device stands. `memory` is what its dialect kept; empty at first."""

    device: DeviceId
    wall: float
    is_known: bool
    """False: it was never enrolled, or is not yet approved, or is retired: there are no updates, and none will come."""
    parts: Mapping[str, str]
    """The version that it runs, by component, as it said last."""
    updates: Sequence[Update] = ()
    """Open deployments of which it may know: their notice was due at least once. Oldest first."""
    ended: Sequence[Update] = ()
    """The last few that ended, newest first."""
    refused_wall: float | None = None
    """When blocks that it asked for were last not given: it may be waiting for its turn."""
    memory: bytes = b""

    def update(self, deployment: str) -> Update | None:
        """That deployment of this device, open or ended lately."""
        return next((one for one in (*self.updates, *self.ended) if one.id == deployment), None)

    def open_for(self, component: str) -> Update | None:
        """What is open in a component: never more than one."""
        return next((one for one in self.updates if one.component == component), None)


@record
class Turn:
    """What a message meant: reports in the words of the core, in order, and what to keep."""

    uplinks: Sequence[CheckIn | Progress | Said | Rejected] = ()
    """`Said`: what it said of another device that is reached through it; that one's `hear` is asked next, once.
    `Rejected`: it could not be used, which counts, though `tell` has an answer to it."""
    memory: bytes | None = None
    """At most MEMORY_MAX_BYTES; None: as it was."""


@record
class Occasion:
    """Why a dialect is asked to speak. Several things at once come as one occasion."""

    said: object = None
    """The device's own message, which was just heard; None: it did not speak."""
    offered: frozenset[DeploymentId] = frozenset()
    """Their notice is due now: for the first time, or again because nothing followed."""
    canceled: frozenset[DeploymentId] = frozenset()
    """They are to stop now, if it is not too late."""
    ended: frozenset[DeploymentId] = frozenset()
    is_woken: bool = False
    """The time has come for which it asked (`Telling.wake_wall`)."""


@record
class Telling:
    """What to send, in order, after the commit; an empty one is silence."""

    messages: Sequence[object] = ()
    """`wire.MqttMessage`s; the core hands them on as they are."""
    memory: bytes | None = None
    wake_wall: float | None = None
    """When to ask again if nothing else does before; None: never. It replaces what was asked for before."""
    uplinks: Sequence[CheckIn | Progress] = ()
    """What follows from silence, such as that an attempt has failed; nothing is told in answer to these."""


@record
class Memory:
    """What is kept of a device's dialect, and when it wants to be asked again."""

    dialect: str
    data: bytes = b""
    wake_wall: float | None = None


class Conversation(Protocol):
    """A vendor's dialect, as the core sees it. Neither function raises, does I/O or reads a clock."""

    @property
    def name(self) -> str: ...

    @property
    def author_fields(self) -> Mapping[str, str]:
        """Names of the metadata without which none of its devices can be offered a release, and what each is."""
        ...

    def hear(self, said: object, standing: Standing) -> Turn:
        """What a message of the device means."""
        ...

    def tell(self, occasion: Occasion, standing: Standing) -> Telling:
        """What to send to the device now."""
        ...


@runtime_checkable
class Choosy(Protocol):
    """A dialect in which some updates cannot be told."""

    def hindrance(self, update: Update) -> str:
        """Why there can be no notice of it, for `why`; empty: there can."""
        ...


@dataclass(slots=True)
class Occasions:
    """What is to be told at the end of a unit of work, by device."""

    by_device: dict[DeviceId, Occasion] = field(default_factory=dict)

    def add(
        self,
        device: DeviceId,
        *,
        offered: DeploymentId | None = None,
        canceled: DeploymentId | None = None,
        ended: DeploymentId | None = None,
        said: object = None,
        is_woken: bool = False,
    ) -> None:
        """One more thing to speak of."""
        before = self.by_device.get(device, Occasion())
        self.by_device[device] = Occasion(
            said=before.said if said is None else said,
            offered=before.offered | ({offered} if offered is not None else frozenset()),
            canceled=before.canceled | ({canceled} if canceled is not None else frozenset()),
            ended=before.ended | ({ended} if ended is not None else frozenset()),
            is_woken=before.is_woken or is_woken,
        )
