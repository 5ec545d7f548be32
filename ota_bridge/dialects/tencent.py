"""Tencent IoT Hub and IoT Explorer: the public shapes on `$ota`, gateways on `$gateway`, resources on `$thing`.

What its devices die of, and so the rules of this dialect:
1. Downlinks go at QoS 0 and are never retained: devices drop QoS 1 messages after a reconnection, and lose or obey too
   late what is kept for them.
2. A version report is answered with code 0 or not at all: any other makes the device deaf for ever.
3. A notice that nothing followed goes out again after `resend_s`, then less and less often. A device that failed and
   never reports again is told of the next attempt all the same. After `done` there is none, lest it load all again.
4. Of the failures of one attempt the first one counts: the real reason comes before a general -5.
5. `percent` counts for nothing above 42,949,672 bytes, where it wraps, nor when it falls.
6. `done` is a claim; the next version report is the proof. Devices behind a gateway never make one: their claim is
   believed, twice for the same version.
7. Nothing can be canceled. What has not begun ends at once; what has begun ends with its link, or is too late.
8. There is no notice that would crash a device or hang it: of 0 bytes, or with a URL that its buffer has no room for.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ota_bridge.core.conversation import Occasion, Standing, Telling, Turn, Update
from ota_bridge.core.deployment import State
from ota_bridge.core.errors import ConfigError, InvalidInput, Malformed
from ota_bridge.core.messages import CheckIn, Encoding, InstalledPart, Progress, Rejected, ReportState, Said
from ota_bridge.core.records import replace
from ota_bridge.core.values import FIRMWARE, DeviceId, checked_component
from ota_bridge.decode import U32, read_json
from ota_bridge.dialect import read_options
from ota_bridge.dialects import tencent_messages as messages
from ota_bridge.dialects.tencent_memory import Kept
from ota_bridge.dialects.tencent_messages import Advances, Holds, Moved, Operates, Runs
from ota_bridge.wire import MqttMessage, Subscription

NAME: Final = "tencent"
MESSAGE_MAX_BYTES: Final = 8192
TRUSTED_PERCENT_MAX_BYTES: Final = U32 // 100
GIVEN_UP_AFTER_S: Final = 120.0
"""A device that is to stop and says nothing for this long has stopped."""
PAUSED_S: Final = 300.0
"""How often is looked whether what is paused may go on."""
REQUEST_MAX_BYTES: Final = 1023
REQUEST_FIXED_BYTES: Final = 145
"""Of the GET, beside host, path and range."""
HOST_MAX_BYTES: Final = 63

FAILURES: Final[Mapping[str, str]] = {
    "-1": "the download took too long",
    "-2": "there was nothing under its link (404)",
    "-3": "its link was refused (403)",
    "-4": "the MD5 is another",
    "-5": "it could not download or install it",
    "-6": "it has no room for it",
}
"""The text that comes with a code is `time_out` for all of them."""
_ECHO: Final = "-5"
_ECHOED: Final = frozenset({"-1", "-2", "-3"})
_GOING_ON: Final = frozenset({State.OFFERED, State.DEFERRED, State.DOWNLOADING, State.DOWNLOADED})


class TencentDialect:
    """See the module."""

    name = NAME
    author_fields: Mapping[str, str] = {}
    blocks = None

    def __init__(self, options: Mapping[str, Any]) -> None:
        known = {"root": str, "gateways": bool, "resources": list, "version_rsp": bool, "resend_s": float}
        found = read_options(NAME, options, known)
        self.root: str = found.get("root", "$ota")
        self._has_gateways: bool = found.get("gateways", True)
        self._answers_versions: bool = found.get("version_rsp", True)
        self._resend_s = float(found.get("resend_s", 15.0))
        self._resources = _resources(found.get("resources", []))

    # --- what comes --------------------------------------------------------------------------------------

    def subscriptions(self) -> Sequence[Subscription]:
        """Reports come to the native dialect, which hands them on: see `report`."""
        found = []
        if self._has_gateways:
            found.append(Subscription(topic_filter="$gateway/operation/+/+", qos=1))
        if self._resources:
            found.append(Subscription(topic_filter="$thing/up/service/+/+", qos=1))
        return found

    def is_for_blocks(self, message: MqttMessage) -> bool:
        """Never: its devices download by URL."""
        del message
        return False

    def report(self, device: DeviceId, body: Mapping[str, Any]) -> Said | Rejected:
        """A message on `report` without native fields."""
        try:
            return self._said(device, messages.read_report(body))
        except (Malformed, InvalidInput) as error:
            return Rejected(device=device, reason=str(error))

    def read(self, message: MqttMessage) -> Said | Rejected | None:
        """A gateway's message, or one of the explorer's service channel."""
        is_operation, device = _whose(message.topic)
        try:
            body = read_json(message.payload, max_bytes=MESSAGE_MAX_BYTES)
            said = messages.read_operation(body) if is_operation else messages.read_service(body)
        except (Malformed, InvalidInput) as error:
            return Rejected(device=device, reason=str(error))
        return None if said is None else self._said(device, said)

    def _said(self, device: DeviceId, said: messages.Message) -> Said:
        return Said(device=device, dialect=NAME, said=said, body=said.body)

    def hear(self, said: object, standing: Standing) -> Turn:
        kept = Kept.read(standing.memory)
        match said:
            case Runs():
                return self._runs(said, standing, kept)
            case Holds():
                parts = {name: InstalledPart(version=said.versions.get(name, "0")) for name in self._resources}
                return Turn(uplinks=[_check_in(standing, parts, said.body)], memory=kept.write())
            case Advances():
                return _advances(said, standing, kept, self._resend_s)
            case Operates():
                return self._operates(said, standing, kept)
            case Moved():
                return self._moved(said, standing, kept)
            case _:
                return Turn()

    def _runs(self, said: Runs, standing: Standing, kept: Kept) -> Turn:
        kept = kept.runs(said.version)
        update = standing.update(kept.done)
        if update is not None and update.version != said.version:
            kept = replace(kept, done="")  # it was not done: if that is still open, it may be told of it again
        parts = {FIRMWARE: InstalledPart(version=said.version)}
        return Turn(uplinks=[_check_in(standing, parts, said.body)], memory=kept.write())

    def _operates(self, said: Operates, standing: Standing, kept: Kept) -> Turn:
        is_move = said.operation in {"online", "offline"}
        are_online = said.operation == "online"
        uplinks: list[CheckIn | Progress | Said] = []
        if not standing.is_known:
            uplinks.append(_check_in(standing, {}, said.body))  # a gateway is a device too
        if is_move:
            kept = kept.moved(tuple(said.devices), are_online=are_online)
            uplinks += [
                self._said(device, Moved(gateway=standing.device, is_online=are_online, body=said.body))
                for device in said.devices
                if device != standing.device
            ]
        return Turn(uplinks=uplinks, memory=kept.write())

    def _moved(self, said: Moved, standing: Standing, kept: Kept) -> Turn:
        if not said.is_online:
            return Turn()
        uplinks = [] if standing.is_known else [_check_in(standing, {}, said.body)]
        begins_anew = replace(kept, gateway=str(said.gateway), notices={}, done="", failed=None)
        return Turn(uplinks=uplinks, memory=begins_anew.write())

    # --- what is said ------------------------------------------------------------------------------------

    def hindrance(self, update: Update) -> str:
        """What would crash a device or hang it, or what it could not be told at all."""
        if update.component != FIRMWARE and update.component not in self._resources:
            return f"{update.component} is not among dialects.tencent.resources"
        if not update.url:
            return "the device downloads by URL, and neither files.url nor offers.public_url is set"
        if not 0 < update.size_bytes <= U32:
            return f"an image of {update.size_bytes} bytes crashes the device or hangs it; it takes 1..{U32}"
        return _url_fault(update)

    def tell(self, occasion: Occasion, standing: Standing) -> Telling:
        kept = Kept.read(standing.memory).only(frozenset(update.id for update in standing.updates))
        sent = self._answers(occasion.said, standing, kept)
        uplinks: list[CheckIn | Progress] = []
        wakes: list[float] = []
        for update in standing.updates:
            if update.state is State.CANCELING:
                given_up, wake_wall = _stops(update, standing, kept)
                uplinks += given_up
                wakes += wake_wall
            elif update.is_served and update.is_paused:
                wakes.append(standing.wall + PAUSED_S)
            elif update.is_served and update.id != kept.done:
                if self._is_due(update, occasion, standing, kept):
                    sent.append(self._notice(update, standing.device))
                    kept = kept.noticed(update.id, standing.wall)
                notice = kept.notices.get(update.id)
                wakes.append(
                    standing.wall + self._resend_s
                    if notice is None
                    else notice.again_wall(self._resend_s, standing.wall)
                )
        return Telling(messages=sent, memory=kept.write(), wake_wall=min(wakes, default=None), uplinks=uplinks)

    def _is_due(self, update: Update, occasion: Occasion, standing: Standing, kept: Kept) -> bool:
        if update.id in occasion.offered:
            return True
        if isinstance(occasion.said, Runs if update.component == FIRMWARE else Holds):
            return True
        notice = kept.notices.get(update.id)
        return occasion.is_woken and (
            notice is None or standing.wall >= notice.again_wall(self._resend_s, standing.wall)
        )

    def _notice(self, update: Update, device: DeviceId) -> MqttMessage:
        if update.component == FIRMWARE:
            return messages.to(f"{self.root}/update/{device}", messages.firmware_notice(update))
        return messages.to(f"$thing/down/service/{device}", messages.resource_notice(update))

    def _answers(self, said: object, standing: Standing, kept: Kept) -> list[MqttMessage]:
        device = standing.device
        match said:
            case Runs() if self._answers_versions:
                return [messages.to(f"{self.root}/update/{device}", messages.version_answer(said.version))]
            case Holds():
                return [messages.to(f"$thing/down/service/{device}", messages.resource_answer(said.listed))]
            case Operates():
                devices = said.devices
                if said.operation == "describe_sub_devices":
                    devices = [DeviceId.parse(name) for name in kept.children]
                text = messages.operation_answer(said.operation, devices)
                return [messages.to(f"$gateway/operation/result/{device}", text)]
            case _:
                return []


# --- progress --------------------------------------------------------------------------------------------------------


def _advances(said: Advances, standing: Standing, kept: Kept, resend_s: float) -> Turn:
    update = standing.open_for(said.resource or FIRMWARE)
    if said.state is not ReportState.FAIL:
        kept = replace(kept, failed=None)
    if update is None or update.version != said.version:
        return Turn(memory=kept.write())  # of something that has ended
    match said.state:
        case ReportState.DOWNLOADING:
            return _downloading(said, update, standing, kept, resend_s)
        case ReportState.FAIL:
            return _fails(said, update, standing, kept)
        case _:
            return _installs(said, update, standing, kept)


def _downloading(said: Advances, update: Update, standing: Standing, kept: Kept, resend_s: float) -> Turn:
    percent = said.percent if update.size_bytes <= TRUSTED_PERCENT_MAX_BYTES else None
    before = kept.notices.get(update.id)
    if before is not None and percent is not None and percent < before.percent:
        percent = None
    memory = kept.alive(update.id, standing.wall, percent, resend_s).write()
    if update.state not in _GOING_ON:
        return Turn(memory=memory)
    uplink = _progress(said, update, standing, percent=percent, result_code="0")
    return Turn(uplinks=[uplink], memory=memory)


def _installs(said: Advances, update: Update, standing: Standing, kept: Kept) -> Turn:
    """`burning`, or `done` without it: from here on what it runs decides."""
    uplinks: list[CheckIn | Progress] = []
    if update.state is State.CANCELING:
        uplinks.append(_progress(said, update, standing, state=ReportState.TOO_LATE))
    elif said.state is ReportState.BURNING or update.state in _GOING_ON:
        uplinks.append(_progress(said, update, standing, state=ReportState.BURNING))
    if said.state is ReportState.DONE:
        is_proof = bool(said.resource)  # verified and stored: there is nothing to boot
        if kept.gateway and not is_proof:
            kept, is_proof = kept.claimed(said.version)
        kept = replace(kept, done=update.id)
        uplinks.append(_progress(said, update, standing, is_proof=is_proof))
    return Turn(uplinks=uplinks, memory=kept.write())


def _fails(said: Advances, update: Update, standing: Standing, kept: Kept) -> Turn:
    wall = standing.wall
    is_repeat = kept.is_repeat(said.version, said.code, wall, echo=_ECHO, echoed=_ECHOED)
    memory = replace(kept, failed=(said.version, said.code, wall)).write()
    if is_repeat:
        return Turn(memory=memory)
    state = ReportState.CANCELED if update.state is State.CANCELING else ReportState.FAIL
    reason = FAILURES.get(said.code, "")
    return Turn(uplinks=[_progress(said, update, standing, state=state, reason=reason)], memory=memory)


def _stops(update: Update, standing: Standing, kept: Kept) -> tuple[list[Progress], list[float]]:
    """What follows of an update that is to stop, though its device cannot be told; and when to look again."""
    notice = kept.notices.get(update.id)
    ends_wall = 0.0 if notice is None or not notice.has_begun else notice.since_wall(standing.wall) + GIVEN_UP_AFTER_S
    if standing.wall < ends_wall:
        return [], [ends_wall]
    said = Advances(state=ReportState.CANCELED, version=update.version)
    reason = "it had not begun" if ends_wall == 0.0 else "it says nothing more of it"
    return [_progress(said, update, standing, reason=reason)], []


def _progress(said: Advances, update: Update, standing: Standing, **changes: Any) -> Progress:
    found: dict[str, Any] = {"state": said.state, "result_code": said.code, **changes}
    return Progress(
        device=standing.device,
        dialect=NAME,
        key=None,
        deployment=update.id,
        component=update.component,
        version=said.version,
        body=said.body,
        **found,
    )


def _check_in(standing: Standing, parts: Mapping[str, InstalledPart], body: Mapping[str, Any]) -> CheckIn:
    return CheckIn(
        device=standing.device, dialect=NAME, encoding=Encoding.JSON, key=None, parts=parts, keeps_parts=True, body=body
    )


# --- small things ----------------------------------------------------------------------------------------------------


def _whose(topic: str) -> tuple[bool, DeviceId]:
    """Whether a gateway operates, and whose topic it is; raises Malformed."""
    levels = topic.split("/")
    is_operation = levels[:2] == ["$gateway", "operation"]
    names = levels[2:] if is_operation else levels[3:]
    try:
        product, name = names
        return is_operation, DeviceId(product, name)
    except (ValueError, InvalidInput) as error:
        raise Malformed(f"topic {topic[:80]!r} names no device: {error}") from error


def _resources(names: list[Any]) -> Sequence[str]:
    for name in names:
        try:
            checked_component(name)
        except (InvalidInput, TypeError):
            raise ConfigError(
                f"dialects.tencent.resources: {str(name)[:40]!r} cannot name a component: 1..16 of a-z, 0-9, _ and -"
            ) from None
    return tuple(names)


def _url_fault(update: Update) -> str:
    url = update.url
    if not url.isprintable() or set(url) & set('"\\ '):
        return f"the device cannot read the URL {url[:80]!r}: it undoes no escapes"
    host, _, path = url.partition("://")[2].partition("/")
    if len(host) > HOST_MAX_BYTES:
        return f"the host of its URL has {len(host)} characters; the device takes {HOST_MAX_BYTES}"
    range_bytes = 2 * len(str(update.size_bytes)) + 1
    length = REQUEST_FIXED_BYTES + len(host) + 1 + len(path) + range_bytes
    if length > REQUEST_MAX_BYTES:
        return (
            f"its URL has {len(url)} characters, which is {length - REQUEST_MAX_BYTES} more than the device can ask for"
        )
    return ""
