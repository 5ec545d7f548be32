"""Alibaba Link SDK: devices that inform of a version, are pushed a task, and fetch its image over MQTT.

Rules:
1. Each task begins a download from the start, whatever the device runs and whatever is under way. So a task goes out
   only for another version than the device's, only one at a time, and again only after a silence that no download has.
2. The SDK informs when its process starts, never after a reconnect. So after an inform what was under way is lost,
   yet hand-written clients inform as they like: what was asked for just before still counts as running.
3. A device that hears no task (the SDK on a broker that adds no subscriptions) is told a few times and then left in
   peace until it speaks. One that begins again and again is given up: the attempt has failed.
4. "100" is a claim: what the device informs of next decides. A device that says nothing and informs of the old version,
   although all of the image was served, has failed as well.
5. There is no way to say "stop". A canceled download ends because its blocks are refused.
6. Everything goes out at QoS 0 and is never retained: some clients read only packets without flags.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from ota_bridge.core.conversation import Occasion, Standing, Telling, Turn, Update
from ota_bridge.core.deployment import State
from ota_bridge.core.errors import ConfigError, InvalidInput, Malformed
from ota_bridge.core.messages import CheckIn, Encoding, InstalledPart, Progress, Rejected, ReportState, Said
from ota_bridge.core.values import FIRMWARE, checked_component, checked_product, checked_version
from ota_bridge.decode import Fields
from ota_bridge.dialect import read_options
from ota_bridge.dialects.alibaba_blocks import AlibabaBlocks
from ota_bridge.dialects.alibaba_wire import Address, Kind, Places, get_reply, push, read_body, read_id, task_data
from ota_bridge.wire import MqttMessage, Subscription

RESEND_S: Final = 60.0
"""The SDK gives a download up after 40 s without a block, up to 50 s after a reconnect."""
RESEND_MIN_S: Final = 20.0
BUSY_S: Final = 20.0
"""A download that asked for nothing for so long is not one any more: tries are 5 to 16 s apart."""
GET_GRACE_S: Final = 2.0
"""A device that is known to ask for tasks asks right after it has informed; a task that crosses that would be two."""
UNHEARD_MAX: Final = 4
BEGUN_MAX: Final = 5
DEFERRED_MAX: Final = 12
DEFER_S: Final = 300
STEP_MIN: Final = -4
DONE_STEP: Final = 100
PERCENT_TRUSTED_BYTES: Final = (2**32 - 1) // 100
"""Above that the SDK's percent runs over."""
DEFAULT_MODULE: Final = "default"
MODULE_MAX_BYTES: Final = 64
NOTE_MAX: Final = 120
_STEPS: Final[Mapping[int, str]] = {
    -1: "the upgrade failed",
    -2: "the download failed",
    -3: "the checksum does not match",
    -4: "writing failed, or no good blocks came",
}
_OFFERABLE: Final = frozenset({State.OFFERED, State.DOWNLOADING, State.DOWNLOADED})
_OPTIONS: Final[Mapping[str, type]] = {
    "prefix": str,
    "product": str,
    "products": dict,
    "modules": dict,
    "resend_s": float,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One message of a device, read as far as it goes by itself."""

    kind: Kind
    address: Address
    component: str = FIRMWARE
    version: str = ""
    step: int = 0
    note: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is kept of a device. Times are wall seconds; `task` is the deployment that it was last told of."""

    root: str
    product_key: str
    name: str
    polls: bool = False
    """It was heard to ask for a task."""
    informed: float = 0.0
    task: str = ""
    told: float = 0.0
    unheard: int = 0
    """Tasks in a row after which it asked for nothing."""
    begun: int = 0
    """Tasks after which it began to download and got something."""
    deferred: int = 0

    @property
    def address(self) -> Address:
        return Address(root=self.root, product_key=self.product_key, name=self.name)

    @classmethod
    def read(cls, standing: Standing) -> "Known | None":
        """What is kept; None: nothing yet. Times that a clock set back has put ahead count as now."""
        if not standing.memory:
            return None
        known = cls(**json.loads(standing.memory))
        return replace(known, informed=min(known.informed, standing.wall), told=min(known.told, standing.wall))

    def addressed(self, address: Address) -> "Known":
        return replace(self, root=address.root, product_key=address.product_key, name=address.name)

    def on(self, update: Update) -> "Known":
        """The same, of this deployment."""
        if self.task == update.id:
            return self
        return replace(self, task=update.id, told=0.0, unheard=0, begun=0, deferred=0)

    def pack(self) -> bytes:
        return json.dumps(asdict(self), separators=(",", ":")).encode()


class AlibabaDialect:
    """Both planes. See the module for the rules."""

    name = "alibaba"
    author_fields: Mapping[str, str] = {}

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Settings: `prefix`, `product`, `products`, `modules`, `resend_s`."""
        read = read_options(self.name, options, _OPTIONS)
        self._places = Places(
            prefix=_prefix(read.get("prefix", "")),
            products=_names(read.get("products", {}), "products", checked_product),
            product=_checked(read.get("product", ""), "product", checked_product),
        )
        self._modules = _names(read.get("modules", {}), "modules", checked_component)
        self._named = {component: module for module, component in self._modules.items()}
        self._resend_s = float(read.get("resend_s", RESEND_S))
        if not self._resend_s >= RESEND_MIN_S:
            raise ConfigError(
                f"dialects.alibaba.resend_s must be at least {RESEND_MIN_S:g}: a download may pause so long"
            )
        self._blocks = AlibabaBlocks(self._places)

    @property
    def blocks(self) -> AlibabaBlocks:
        """See VendorDialect."""
        return self._blocks

    def subscriptions(self) -> list[Subscription]:
        """See VendorDialect."""
        filters = self._places.filters(Kind.INFORM, Kind.PROGRESS, Kind.GET)
        return [Subscription(topic_filter=topic_filter, qos=1) for topic_filter in filters]

    def is_for_blocks(self, message: MqttMessage) -> bool:  # noqa: ARG002
        """See VendorDialect: blocks have a topic of their own."""
        return False

    def read(self, message: MqttMessage) -> Said | Rejected | None:
        """See VendorDialect."""
        device, address, kind = self._places.read(message.topic)
        if kind is Kind.DOWNLOAD:
            return None
        try:
            heard = self._heard(kind, address, read_body(message.payload))
        except (Malformed, InvalidInput) as error:
            return Rejected(device=device, reason=str(error))
        body = {"kind": kind.value, "component": heard.component, "version": heard.version, "step": heard.step}
        return Said(device=device, dialect=self.name, said=heard, body=body)

    def _heard(self, kind: Kind, address: Address, body: Fields) -> Heard:
        params = body.mapping("params") if kind is not Kind.GET or "params" in body else Fields({})
        component = self._component(params)
        if kind is Kind.INFORM:
            version = checked_version(params.text("version", max_bytes=64))
            return Heard(kind=kind, address=address, component=component, version=version)
        if kind is Kind.GET:
            return Heard(kind=kind, address=address, component=component, request_id=read_id(body))
        step = params.number_text("step", minimum=STEP_MIN, maximum=DONE_STEP)
        note = params.note("desc", max_characters=NOTE_MAX) if "desc" in params else ""
        return Heard(kind=kind, address=address, component=component, step=step, note=note)

    def _component(self, params: Fields) -> str:
        if "module" not in params:
            return FIRMWARE
        module = params.text("module", max_bytes=MODULE_MAX_BYTES)
        if module in {"", DEFAULT_MODULE}:
            return FIRMWARE
        return self._modules.get(module) or checked_component(module)

    # --- hearing -----------------------------------------------------------------------------------------

    def hear(self, said: object, standing: Standing) -> Turn:
        """See Conversation."""
        assert isinstance(said, Heard)
        known = Known.read(standing)
        if known is None:
            known = Known(root=said.address.root, product_key=said.address.product_key, name=said.address.name)
        known = known.addressed(said.address)
        reports: list[CheckIn | Progress] = []
        match said.kind:
            case Kind.INFORM:
                known = replace(known, informed=standing.wall, unheard=0)
                reports = [*_gave_up(said, standing), _check_in(said, standing)]
            case Kind.GET:
                known = replace(known, polls=True, unheard=0)
                reports = [_check_in(said, standing)]
            case Kind.PROGRESS:
                update = standing.open_for(said.component)
                if update is not None:
                    known = known.on(update)
                    reports, known = _progress(said, standing, update, known)
        return Turn(uplinks=reports, memory=known.pack())

    # --- telling -----------------------------------------------------------------------------------------

    def tell(self, occasion: Occasion, standing: Standing) -> Telling:
        """See Conversation."""
        known = Known.read(standing)
        if known is None:
            return Telling()
        reports = _canceled(occasion, standing)
        asked = occasion.said if isinstance(occasion.said, Heard) and occasion.said.kind is Kind.GET else None
        update = _next(standing, known, None if asked is None else asked.component)
        if update is None:
            return Telling(messages=_answer("{}", known, asked), uplinks=reports)
        known = known.on(update)
        due = self._due(known, update, standing, is_asked=asked is not None)
        if due is None or due > standing.wall:
            return Telling(messages=_answer("{}", known, asked), memory=known.pack(), wake_wall=due, uplinks=reports)
        has_begun = _has_begun(known, update)
        known = replace(
            known,
            told=standing.wall,
            begun=known.begun + (has_begun and update.high_water_bytes > 0),
            unheard=0 if has_begun else known.unheard + 1,
        )
        if known.begun >= BEGUN_MAX:
            failure = f"it began {known.begun} times and never came to the end"
            reports.append(_report(standing, update, ReportState.FAIL, result_code="no_end", result_msg=failure))
            return Telling(messages=_answer("{}", known, asked), memory=known.pack(), uplinks=reports)
        data = task_data(update, self._named.get(update.component, update.component))
        messages = _answer(data, known, asked)
        if not messages:
            messages = [MqttMessage(topic=known.address.upgrade, payload=push(data, standing.wall))]
        wake = self._due(known, update, standing, is_asked=False)
        return Telling(messages=messages, memory=known.pack(), wake_wall=wake, uplinks=reports)

    def _due(self, known: Known, update: Update, standing: Standing, *, is_asked: bool) -> float | None:
        """When a task may go out; None: not before the device speaks. `is_asked`: it asks for it now."""
        last = update.last_block_wall or 0.0
        has_begun = _has_begun(known, update)
        running = max((one.last_block_wall or 0.0 for one in standing.updates if one.is_served), default=0.0)
        if is_asked:
            return running + BUSY_S if running else standing.wall
        grace = known.informed + GET_GRACE_S if known.polls else 0.0
        if not known.told:
            return max(running + BUSY_S if running else standing.wall, grace, standing.wall)
        if has_begun:
            return max(last, known.told) + (BUSY_S if known.informed > last else self._resend_s)
        if known.informed > known.told:
            return max(known.told + BUSY_S, grace)
        if known.unheard >= UNHEARD_MAX:
            return None
        return known.told + float(self._resend_s * 2.0 ** max(known.unheard - 1, 0))


def _has_begun(known: Known, update: Update) -> bool:
    """It asked for blocks after it was last told."""
    return bool(known.told) and (update.last_block_wall or 0.0) >= known.told


def _next(standing: Standing, known: Known, component: str | None) -> Update | None:
    """What the device is to be told of: one thing at a time, and that which it was told of for as long as it lasts."""
    found = [one for one in standing.updates if _is_due(one, standing, known)]
    if component is not None:
        found = [one for one in found if one.component == component]
    return next((one for one in found if one.id == known.task), found[0] if found else None)


def _is_due(update: Update, standing: Standing, known: Known) -> bool:
    if update.is_paused or update.state not in _OFFERABLE or standing.parts.get(update.component) == update.version:
        return False
    return update.state is not State.DOWNLOADED or known.informed > update.changed_wall


def _answer(data: str, known: Known, asked: Heard | None) -> list[MqttMessage]:
    """What a device that asks is told; nothing to one that does not."""
    if asked is None:
        return []
    return [MqttMessage(topic=known.address.get_reply, payload=get_reply(data, asked.request_id))]


def _canceled(occasion: Occasion, standing: Standing) -> list[CheckIn | Progress]:
    """What is canceled ends here, unless all of the image is there and may be on its way into the device's flash."""
    found = (standing.update(one) for one in occasion.canceled)
    return [
        _report(standing, update, ReportState.CANCELED, result_msg="its blocks are served no more")
        for update in found
        if update is not None and update.state is State.CANCELING and not _is_whole(update)
    ]


def _is_whole(update: Update) -> bool:
    return update.high_water_bytes >= update.size_bytes


def _gave_up(said: Heard, standing: Standing) -> list[CheckIn | Progress]:
    """A device that was served all of an image, says nothing of it, and comes back with what it ran before."""
    update = standing.open_for(said.component)
    if update is None or update.state is not State.DOWNLOADING or not _is_whole(update):
        return []
    if said.version != standing.parts.get(said.component):
        return []
    failure = f"all of the image was served, and it still informs of {said.version}"
    return [_report(standing, update, ReportState.FAIL, result_code="old_version", result_msg=failure)]


def _check_in(said: Heard, standing: Standing) -> CheckIn:
    parts = {said.component: InstalledPart(version=said.version)} if said.kind is Kind.INFORM else {}
    return CheckIn(
        device=standing.device,
        dialect=AlibabaDialect.name,
        encoding=Encoding.JSON,
        key=None,
        parts=parts,
        keeps_parts=True,
        body={"kind": said.kind.value, "component": said.component, "version": said.version},
    )


def _progress(said: Heard, standing: Standing, update: Update, known: Known) -> tuple[list[CheckIn | Progress], Known]:
    if said.step < 0:
        return _failure(said, standing, update, known)
    if said.step < DONE_STEP:
        percent = said.step if update.size_bytes <= PERCENT_TRUSTED_BYTES else None
        return [_report(standing, update, ReportState.DOWNLOADING, percent=percent)], known
    done = (ReportState.DOWNLOADED, ReportState.BURNING)
    return [_report(standing, update, state, percent=DONE_STEP) for state in done], known


def _failure(said: Heard, standing: Standing, update: Update, known: Known) -> tuple[list[CheckIn | Progress], Known]:
    """What it says; but a download that got no block at all gave up because this side was busy."""
    reason = said.note or _STEPS[said.step]
    if said.step == STEP_MIN and not update.high_water_bytes and known.deferred < DEFERRED_MAX:
        known = replace(known, deferred=known.deferred + 1)
        report = _report(
            standing,
            update,
            ReportState.DEFER,
            retry_after_s=DEFER_S,
            reason="it gave up before a block could be served",
        )
        return [report], known
    code = str(said.step)
    return [_report(standing, update, ReportState.FAIL, result_code=code, result_msg=reason)], known


def _report(standing: Standing, update: Update, state: ReportState, **how: Any) -> Progress:
    return Progress(
        device=standing.device,
        dialect=AlibabaDialect.name,
        key=None,
        deployment=update.id,
        component=update.component,
        state=state,
        body={"state": state.value, "version": update.version, **how},
        **how,
    )


# --- settings ------------------------------------------------------------------------------------------------


def _prefix(text: str) -> str:
    if set(text) & set("+#\0") or text.startswith("/") or text.endswith("/") or "//" in text:
        raise ConfigError(f"dialects.alibaba.prefix = {text[:40]!r}: levels of a topic are expected, without wildcards")
    return text


def _checked(text: str, setting: str, check: Any) -> str:
    try:
        return str(check(text)) if text else ""
    except InvalidInput as error:
        raise ConfigError(f"dialects.alibaba.{setting}: {error}") from error


def _names(table: Mapping[str, Any], setting: str, check: Any) -> dict[str, str]:
    for name, value in table.items():
        if not isinstance(value, str) or not value:
            raise ConfigError(f"dialects.alibaba.{setting}.{name[:40]}: a name is expected")
    return {name: _checked(value, f"{setting}.{name[:40]}", check) for name, value in table.items()}
