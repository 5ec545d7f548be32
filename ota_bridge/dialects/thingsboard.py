"""ThingsBoard's firmware protocol, `v2/fw`, behind a topic prefix for each device (docs/dialects/thingsboard.md).

Rules of this dialect; each is what one of the official clients hangs, loops or is corrupted by:
1. The level after the prefix is the only proof of who speaks. The protocol itself has no identity in its topics.
2. The five keys of a firmware go out together, or none of them does; nothing else is ever published on attributes.
3. A chunk request is answered once, at QoS 0 (thingsboard_blocks.py).
4. Who has no timer is told the firmware anew when it falls silent in the middle: later each time, and so often at most.
5. An attempt ends when a device has downloaded all of it several times and taken none. Then it gets neither keys nor
   chunks: both clients begin anew for as long as they do.
6. What a device runs is proof of success, what it says of its state is not.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from ota_bridge.core.conversation import Occasion, Standing, Telling, Turn, Update
from ota_bridge.core.deployment import State
from ota_bridge.core.errors import ConfigError, Malformed
from ota_bridge.core.messages import CheckIn, Encoding, InstalledPart, Progress, Rejected, ReportState, Said
from ota_bridge.core.values import FIRMWARE, DeviceId
from ota_bridge.dialect import products_of, read_options
from ota_bridge.dialects.thingsboard_blocks import CHUNK_MAX_BYTES, WHOLE_MAX_BYTES, ThingsBoardBlocks
from ota_bridge.dialects.thingsboard_messages import (
    NAME,
    AttributesAsked,
    Begun,
    FwState,
    LimitsAsked,
    Place,
    Telemetry,
    checked_prefix,
    is_number,
    read_attributes,
    read_rpc,
    read_telemetry,
)
from ota_bridge.wire import MqttMessage, Subscription

ASK_S: Final = 3.0
"""A device that has just come is left so long to ask by itself: told and asked, it would begin twice."""
QUIET_S: Final = 15.0
"""Above the 5 s after which the C++ client asks again, and the 10 s by which news of blocks may be late."""
PUSHES_MAX: Final = 10
DOUBLINGS_MAX: Final = 5
ROUNDS_MAX: Final = 3
STARTS_MAX: Final = 40
"""Above the twelve times that a C++ client asks for a chunk 0 that it does not get, and all pushes together."""

TITLE: Final = "thingsboard.title"
"""Metadata of a release: the title of its firmware."""
_NOT_SAID: Final = ("Initial", "v0")
"""What the Python client calls itself when its application says nothing."""
_NO_FAILURES: Final = ("Missing shared attribute", "Did not receive requested shared attribute")
"""Told at each boot without a deployment."""
_REFUSALS: Final = ("Received firmware title", "Received checksum algorithm", "Received shared attribute firmware keys")

_NO_VERSION: Final = re.compile(r"[^A-Za-z0-9._+~:-]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """What is kept of a device: how far its download is, beside what the core knows."""

    title: str = ""
    """As it calls its firmware."""
    update: str = ""
    """The deployment that the rest is about."""
    told: int = 0
    """How often it was told the firmware since it came, or since it got further."""
    told_wall: float = 0.0
    heard_wall: float = 0.0
    """When it last said anything of this update."""
    hold_wall: float = 0.0
    """Until then it is left to ask by itself; 0: it is not waited for."""
    high_bytes: int = 0
    """How far it was when it was last told."""
    starts: int = 0
    rounds: int = 0
    """How often it began anew with all of it."""
    has_all: bool = False
    """It has said so, and not begun again since."""

    @classmethod
    def of(cls, standing: Standing) -> "Talk":
        """What was kept; empty where that is of another version of the bridge."""
        try:
            return cls(**json.loads(standing.memory)) if standing.memory else cls()
        except (ValueError, TypeError):
            return cls()

    def about(self, update: Update | None) -> "Talk":
        """This, of that update."""
        name = "" if update is None else str(update.id)
        return self if name == self.update else Talk(title=self.title, update=name, hold_wall=self.hold_wall)

    def packed(self) -> bytes:
        """To be kept."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()


class ThingsBoard:
    """The control plane. Settings: `prefix`, `product`, `products`, `titles`, `whole_max_bytes`."""

    name = NAME
    author_fields: Mapping[str, str] = {}

    def __init__(self, options: Mapping[str, Any]) -> None:
        known = {"prefix": str, "product": str, "products": dict, "titles": dict, "whole_max_bytes": int}
        given = read_options(NAME, options, known)
        self._place = Place(prefix=checked_prefix(given.get("prefix", "tb")), products=products_of(NAME, given))
        self._titles: Mapping[str, str] = given.get("titles", {})
        for product, title in self._titles.items():
            if not isinstance(title, str) or not title:
                raise ConfigError(f"dialects.{NAME}.titles.{product[:40]}: the title of a firmware is expected")
        whole_max_bytes = given.get("whole_max_bytes", WHOLE_MAX_BYTES)
        if not CHUNK_MAX_BYTES <= whole_max_bytes <= 1 << 27:
            raise ConfigError(f"dialects.{NAME}.whole_max_bytes = {whole_max_bytes}: 65536 to 134217728 is expected")
        self._blocks = ThingsBoardBlocks(self._place, whole_max_bytes)

    @property
    def blocks(self) -> "ThingsBoardBlocks":
        return self._blocks

    def subscriptions(self) -> Sequence[Subscription]:
        """Chunk 0 comes to both planes: this one counts downloads."""
        tails = (
            "v1/devices/me/telemetry", "v1/devices/me/attributes/request/+", "v1/devices/me/rpc/request/+",
            "v2/fw/request/+/chunk/0",
        )  # fmt: skip
        return [Subscription(topic_filter=f"{self._place.prefix}/+/{tail}", qos=1) for tail in tails]

    def is_for_blocks(self, message: MqttMessage) -> bool:
        """Telemetry that has nothing of firmware in it is nobody's, and must not use up what a device may report."""
        return message.topic.endswith("/telemetry") and bool(message.payload) and b"fw_" not in message.payload

    def read(self, message: MqttMessage) -> Said | Rejected | None:
        device, tail = self._place.read(message.topic)
        try:
            match tail:
                case ["v1", "devices", "me", "telemetry"]:
                    return self._said(device, read_telemetry(message.payload))
                case ["v1", "devices", "me", "attributes", "request", request] if is_number(request):
                    return self._said(device, read_attributes(request, message.payload))
                case ["v1", "devices", "me", "rpc", "request", request] if is_number(request):
                    return self._said(device, read_rpc(request, message.payload))
                case ["v2", "fw", "request", _, "chunk", "0"]:
                    return self._said(device, Begun())
        except Malformed as error:
            return Rejected(device=device, reason=str(error))
        return Rejected(device=device, reason=f"topic {message.topic[:80]!r} is not one of the protocol")

    def _said(self, device: DeviceId, said: object) -> Said | None:
        if said is None:
            return None
        body = {key: value for key, value in asdict(said).items() if value is not None}  # type: ignore[call-overload]
        return Said(device=device, dialect=NAME, said=said, body={"said": type(said).__name__, **body})

    # --- what it says ------------------------------------------------------------------------------------------------

    def hear(self, said: object, standing: Standing) -> Turn:
        update = standing.open_for(FIRMWARE)
        talk = Talk.of(standing).about(update)
        uplinks: list[CheckIn | Progress] = []
        match said:
            case Telemetry():
                talk, uplinks = self._telemetry_means(said, standing, talk, update)
            case LimitsAsked():
                talk = replace(talk, told=min(talk.told, 1), hold_wall=standing.wall + ASK_S)
                uplinks = [_check_in(standing, {})]
            case AttributesAsked():
                uplinks = [] if standing.is_known else [_check_in(standing, {})]
            case Begun() if update is not None and update.is_served:
                talk, uplinks = _begins(standing, talk, update)
        return Turn(uplinks=uplinks, memory=talk.packed())

    def _telemetry_means(
        self, said: Telemetry, standing: Standing, talk: Talk, update: Update | None
    ) -> tuple[Talk, list[CheckIn | Progress]]:
        uplinks: list[CheckIn | Progress] = []
        talk = replace(talk, heard_wall=standing.wall, title=said.title or talk.title)
        is_at_rest = said.state in {None, FwState.IDLE, FwState.UPDATED}
        if said.version is not None and (is_at_rest or not standing.parts):
            uplinks.append(_check_in(standing, self._parts(said, standing, update)))
        if is_at_rest and said.version is not None:
            talk = replace(talk, has_all=False, told=min(talk.told, 1), hold_wall=standing.wall + ASK_S)
        if update is None:
            return talk, uplinks
        match said.state:
            case FwState.DOWNLOADING:
                uplinks.append(_progress(standing, update, ReportState.DOWNLOADING, said))
            case FwState.DOWNLOADED | FwState.VERIFIED:
                talk = replace(talk, has_all=True)
                uplinks.append(_progress(standing, update, ReportState.DOWNLOADED, said))
            case FwState.UPDATING:
                talk = replace(talk, has_all=True)
                uplinks.append(_progress(standing, update, ReportState.BURNING, said))
            case FwState.UPDATED if said.version is None and talk.told and update.is_served:
                reason = (
                    f"the device takes {update.version} for what it runs, as both begin alike, and downloads nothing"
                )
                uplinks.append(_progress(standing, update, ReportState.REJECT, said, reason))
            case FwState.FAILED:
                uplinks += _failure(standing, talk, update, said)
        return talk, uplinks

    def _parts(self, said: Telemetry, standing: Standing, update: Update | None) -> Mapping[str, InstalledPart]:
        """What it runs; nothing where a process that was only started anew has not been told by its application."""
        assert said.version is not None
        is_installing = update is not None and update.state in {State.INSTALLING, State.TRIAL}
        if (said.title, said.version) == _NOT_SAID and standing.parts and not is_installing:
            return {}
        wanted = self._fixed_title(standing.device, update)
        version = said.version
        if wanted and said.title not in {None, _NOT_SAID[0], wanted}:
            version = f"{said.title}:{version}"  # the same number of another firmware
        return {FIRMWARE: InstalledPart(version=_NO_VERSION.sub("-", version)[:32] or "-")}

    def _fixed_title(self, device: DeviceId, update: Update | None) -> str:
        """The title that a release or the settings give to a device's firmware."""
        return (update is not None and update.metadata.get(TITLE, "")) or self._titles.get(device.product, "")

    # --- what it is told ---------------------------------------------------------------------------------------------

    def tell(self, occasion: Occasion, standing: Standing) -> Telling:
        update = standing.open_for(FIRMWARE)
        talk = Talk.of(standing).about(update)
        messages: list[MqttMessage] = []
        match occasion.said:
            case AttributesAsked():
                talk = self._answer(occasion.said, standing, talk, update, messages)
            case LimitsAsked():
                messages.append(self._message(standing, f"rpc/response/{occasion.said.request}", _LIMITS))
        wake_wall = None
        if update is not None and update.is_served and not talk.has_all:
            talk, wake_wall = self._push_when_due(standing, talk, update, messages)
        canceled = [_canceled(standing, talk, one) for one in standing.updates if one.id in occasion.canceled]
        return Telling(
            messages=messages,
            memory=talk.packed(),
            wake_wall=wake_wall,
            uplinks=[one for one in canceled if one is not None],
        )

    def _answer(
        self, asked: AttributesAsked, standing: Standing, talk: Talk, update: Update | None, out: list[MqttMessage]
    ) -> Talk:
        offered = update if update is not None and update.is_served and not update.is_paused else None
        if not asked.is_for_firmware and talk.told:
            return talk  # any answer would replace what the Python client knows of its firmware
        shared = (
            {} if offered is None or not asked.is_for_firmware else {"shared": self._firmware(standing, talk, offered)}
        )
        out.append(self._message(standing, f"attributes/response/{asked.request}", shared))
        return _told(standing, talk, offered) if offered is not None and shared else talk

    def _push_when_due(
        self, standing: Standing, talk: Talk, update: Update, out: list[MqttMessage]
    ) -> tuple[Talk, float | None]:
        if talk.told and update.high_water_bytes > talk.high_bytes:
            talk = replace(talk, told=1, high_bytes=update.high_water_bytes)
        due = _due_wall(standing, talk, update)
        if due is None or due > standing.wall:
            return talk, due
        if update.is_paused:
            return talk, standing.wall + QUIET_S
        out.append(self._message(standing, "attributes", self._firmware(standing, talk, update)))
        talk = _told(standing, talk, update)
        return talk, _due_wall(standing, talk, update)

    def _firmware(self, standing: Standing, talk: Talk, update: Update) -> dict[str, Any]:
        own = "" if talk.title == _NOT_SAID[0] else talk.title
        return {
            "fw_title": self._fixed_title(standing.device, update) or own or standing.device.product,
            "fw_version": update.version,
            "fw_size": update.size_bytes,
            "fw_checksum": update.sha256.hex(),
            "fw_checksum_algorithm": "SHA256",
        }

    def _message(self, standing: Standing, tail: str, body: Mapping[str, Any]) -> MqttMessage:
        topic = f"{self._place.prefix}/{standing.device.name}/v1/devices/me/{tail}"
        return MqttMessage(topic=topic, payload=json.dumps(body, separators=(",", ":")).encode())


_LIMITS: Final = {
    "maxPayloadSize": 65_536,
    "maxInflightMessages": 100,
    "rateLimits": {"messages": "", "telemetryMessages": "", "telemetryDataPoints": ""},
}


# --- what follows ----------------------------------------------------------------------------------------------------


def _check_in(standing: Standing, parts: Mapping[str, InstalledPart]) -> CheckIn:
    return CheckIn(
        device=standing.device, dialect=NAME, encoding=Encoding.JSON, key=None, parts=parts, keeps_parts=not parts,
    )  # fmt: skip


def _progress(
    standing: Standing, update: Update, state: ReportState, said: Telemetry | None = None, reason: str = ""
) -> Progress:
    body = {} if said is None else {key: value for key, value in asdict(said).items() if value}
    return Progress(
        device=standing.device, dialect=NAME, key=None, deployment=update.id, component=FIRMWARE, state=state,
        reason=reason, body=body,
    )  # fmt: skip


def _begins(standing: Standing, talk: Talk, update: Update) -> tuple[Talk, list[CheckIn | Progress]]:
    """It asks for chunk 0: for how many times it has done so is told from what it had by then."""
    talk = replace(
        talk,
        starts=talk.starts + 1,
        rounds=talk.rounds + talk.has_all,
        has_all=False,
        heard_wall=standing.wall,
        hold_wall=0.0,
    )
    if talk.rounds >= ROUNDS_MAX:
        reason = f"downloaded {talk.rounds} times and never taken: what arrives does not have the checksum"
    elif talk.starts > STARTS_MAX:
        reason = f"begun {talk.starts} times and never finished"
    else:
        return talk, []
    return talk, [_progress(standing, update, ReportState.FAIL, reason=reason)]


def _failure(standing: Standing, talk: Talk, update: Update, said: Telemetry) -> list[CheckIn | Progress]:
    """FAILED says nothing of an update that the device has not begun, unless it refuses it."""
    if said.error.startswith(_NO_FAILURES):
        return []
    reason = said.error[:120] or "no reason was given"
    if said.error.startswith(_REFUSALS):
        return [_progress(standing, update, ReportState.REJECT, said, reason)]
    has_begun = talk.starts or update.state in {State.DOWNLOADING, State.DOWNLOADED, State.INSTALLING, State.CANCELING}
    starved = update.is_paused and not talk.has_all
    return [_progress(standing, update, ReportState.FAIL, said, reason)] if has_begun and not starved else []


def _canceled(standing: Standing, talk: Talk, update: Update) -> Progress | None:
    """There is no message for it, but without chunks nothing can come of it; unless the device has all of it."""
    if update.state is not State.CANCELING or talk.has_all:
        return None
    return _progress(standing, update, ReportState.CANCELED, reason="its chunks are no longer served")


def _told(standing: Standing, talk: Talk, update: Update) -> Talk:
    return replace(talk, told=talk.told + 1, told_wall=standing.wall, hold_wall=0.0, high_bytes=update.high_water_bytes)


def _due_wall(standing: Standing, talk: Talk, update: Update) -> float | None:
    """When the device is to be told the firmware by itself; None: not any more."""
    if talk.hold_wall or not talk.told:
        return talk.hold_wall if talk.hold_wall <= standing.wall + ASK_S else 0.0  # the clock was set
    if talk.told > PUSHES_MAX:
        return None
    signs = (talk.told_wall, talk.heard_wall, update.last_block_wall or 0.0, standing.refused_wall or 0.0)
    last = max((wall for wall in signs if wall <= standing.wall), default=0.0)  # none is ahead: the clock was set
    return last + QUIET_S * 2.0 ** min(talk.told - 1, DOUBLINGS_MAX)
