"""What devices and the bridge say to each other, in no dialect: uplinks, downlinks and what else the core puts out.

A dialect turns wire messages into uplinks and downlinks into wire messages; the core knows only these. Sizes are in
bytes, times in seconds. `body` of a report is the decoded message for people to read, never for decisions.
"""

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import Any

from ota_bridge.core.errors import BlockRefusal
from ota_bridge.core.manifest import ManifestFacts
from ota_bridge.core.records import record
from ota_bridge.core.values import DeploymentId, DeviceId, Limits, RolloutId, Sha256, Share


class Encoding(StrEnum):
    """How a device wrote its last check-in, and so how it is answered."""

    JSON = "json"
    MSGPACK = "msgpack"


class ReportState(StrEnum):
    """The states that a progress report can name (native protocol §2)."""

    DOWNLOADING = "downloading"
    DOWNLOADED = "downloaded"
    BURNING = "burning"
    DONE = "done"
    FAIL = "fail"
    ROLLED_BACK = "rolled_back"
    CANCELED = "canceled"
    TOO_LATE = "too_late"
    DEFER = "defer"
    REJECT = "reject"


@record
class ReportKey:
    """Names a report: (boot, seq). `content` is 8 bytes of SHA-256 over the payload, to tell a repeat from a clash."""

    boot: int
    seq: int
    content: bytes


@record
class InstalledPart:
    """What a device says runs in one component. `digest8` is empty and `seq` None where the device knows neither."""

    version: str
    seq: int | None = None
    digest8: bytes = b""
    trial: bool = False


@record
class CheckIn:
    """A version report, which is also the device's poll."""

    device: DeviceId
    dialect: str
    encoding: Encoding
    key: ReportKey | None
    parts: Mapping[str, InstalledPart]
    proto: int = 0
    """1: the native protocol; 0: a vendor's."""
    hw: str | None = None
    nonce: bytes | None = None
    max_packet: int | None = None
    max_block: int | None = None
    max_window: int | None = None
    next_s: int | None = None
    have: tuple[tuple[bytes, int], ...] = ()
    keyset: int | None = None
    """The version of the device's keyset; None: it takes no other."""
    keyset_refused: str = ""
    """Why it refused the last step that it was sent."""
    stale_s: int | None = None
    """For how long it says that it had no sign of this bridge; None: not for too long."""
    keeps_parts: bool = False
    """It says nothing of what it runs, or not of all of it: of the components in `parts` what is known stands."""
    body: Mapping[str, Any] = field(default_factory=dict)


@record
class Progress:
    """A progress report of one deployment. `deployment` None: a protocol whose reports name none."""

    device: DeviceId
    dialect: str
    key: ReportKey | None
    deployment: DeploymentId | None
    component: str
    state: ReportState
    version: str | None = None
    percent: int | None = None
    result_code: str = "0"
    result_msg: str = ""
    retry_after_s: int | None = None
    reason: str = ""
    is_proof: bool = False
    """"Done" of a protocol whose devices never say later what they run: the claim is all that there will be."""
    body: Mapping[str, Any] = field(default_factory=dict)


@record
class BlockActivity:
    """What the block plane saw of one deployment since it last told: sent in batches, never per block."""

    device: DeviceId
    deployment: DeploymentId
    wall: float
    """When the last block request came."""
    bytes_sent: int
    blocks_sent: int
    requests: int
    high_water_bytes: int
    """The largest offset + length of the image served so far: the device's position as the bridge sees it."""


@record
class BlockTrouble:
    """The last refusal that the block plane gave a device, and how many since it last told."""

    device: DeviceId
    wall: float
    """When it was given."""
    refusal: BlockRefusal
    count: int
    waits_for: Share | None = None
    """What it was given for want of."""
    retry_after_s: int = 0


@record
class Rejected:
    """A message from a device's topic that could not be decoded or used: counted and shown in `why`."""

    device: DeviceId
    reason: str


@record
class Said:
    """A message in a vendor's protocol; what it means its dialect says once it sees where the device stands."""

    device: DeviceId
    dialect: str
    said: object
    """The dialect's own record of it."""
    body: Mapping[str, Any] = field(default_factory=dict)


Uplink = CheckIn | Progress | BlockActivity | BlockTrouble | Rejected | Said


@record
class BlockRequest:
    """One request (native protocol §5): `count` blocks of `size` bytes from `offset`, or those `missing`."""

    artifact: bytes
    offset: int
    size: int
    count: int
    missing: bytes | None = None


# --- downlinks -----------------------------------------------------------------------------------------------


@record
class ReportAck:
    """These reports of this boot are committed; `go`/`stop` answer `burning`."""

    device: DeviceId
    encoding: Encoding
    boot: int
    seqs: tuple[int, ...]
    go: tuple[DeploymentId, ...] = ()
    stop: tuple[DeploymentId, ...] = ()


@record
class Offer:
    """The notice that an update waits, for a device of the native protocol."""

    device: DeviceId
    encoding: Encoding
    deployment: DeploymentId
    release: str
    component: str
    manifest: bytes
    manifest_digest: Sha256
    ticket: bytes | None
    ticket_digest: Sha256 | None
    boot: int
    nonce: bytes | None
    block_max: int
    window_max: int
    resend_after_s: int
    max_packet: int | None
    """The largest MQTT packet the device takes; a longer offer goes in the short form."""
    apply_now: bool = True


@record
class CancelUpdate:
    """Stop this deployment if it is not too late."""

    device: DeviceId
    encoding: Encoding
    deployment: DeploymentId


@record
class CheckInRequest:
    """Please check in now."""

    device: DeviceId
    encoding: Encoding


@record
class KeysetNotice:
    """The signed step to the keyset after the device's own."""

    device: DeviceId
    encoding: Encoding
    version: int
    step: bytes
    digest: Sha256
    max_packet: int | None
    """As in an offer: a longer notice goes in the short form."""


@record
class Saying:
    """What a vendor's dialect says to a device: a message for the wire that the core does not look into."""

    device: DeviceId
    message: object


Downlink = ReportAck | Offer | CancelUpdate | CheckInRequest | KeysetNotice | Saying


# --- everything the core puts out ----------------------------------------------------------------------------


class GrantState(StrEnum):
    """What the block plane answers for a deployment's artifacts."""

    OPEN = "open"
    PAUSED = "paused"
    WITHDRAWN = "withdrawn"


@record
class Grant:
    """A device may fetch the image and the chunk list of this manifest. Only the image counts as progress."""

    deployment: DeploymentId
    rollout: RolloutId | None
    state: GrantState
    manifest: ManifestFacts
    inline: tuple[tuple[Sha256, bytes], ...] = ()
    """Small artifacts served from memory: the manifest and the ticket, by digest."""
    fetched_wall: float | None = None
    """When its device last asked for a block, as far as the database knows."""
    is_whole: bool = False
    """Its device has said that it has all of it."""


@record
class GrantsChanged:
    """All that this device may fetch from now on; replaces what was there. Applied before any later downlink."""

    device: DeviceId
    grants: tuple[Grant, ...]
    inline: tuple[tuple[Sha256, bytes], ...] = ()
    """Small artifacts that need no deployment: the step to the next keyset, by digest."""

    @property
    def fetched_wall(self) -> float | None:
        """When the device last asked for a block of what it is downloading."""
        return max((grant.fetched_wall for grant in self.grants if grant.fetched_wall is not None), default=None)


@record
class Event:
    """One line for operators: a report received or a state that changed. Plain JSON values only."""

    device: DeviceId
    wall: float
    kind: str
    data: Mapping[str, Any]


@record
class RolloutChanged:
    """The summary of this rollout should be published again."""

    rollout: RolloutId


@record
class RolloutHeld:
    """The block plane's answer for all of a rollout from now on, whatever its grants say; None: what they say."""

    rollout: RolloutId
    state: GrantState | None


@record
class LimitsChanged:
    """These fleet-wide caps are in force from now on."""

    limits: Limits


Output = Downlink | GrantsChanged | Event | RolloutChanged | RolloutHeld | LimitsChanged
