"""Xively Secure File Transfer 1.3: files of a device that asks for nothing twice (docs/dialects/xively.md).

Rules of this dialect:
1. A device downloads whatever is listed, from the first byte, also what it has. So the difference between what it told
   and what it should have is made here, and a list is never retained.
2. It has no timer: a message that is lost leaves it waiting for ever. So the list goes out again after a silence; not
   before, because a chunk that is still on its way would be hashed with the new file.
3. What is open goes into one list, the firmware last: the device starts the firmware when the list is done.
4. Once the firmware was listed on a connection, no list goes out without it until the next connection; once the device
   says that it applies a package, none at all.
5. Only what it tells on its next connection proves success. The client for CC3200 never tells, and a file that is no
   firmware may have to wait for days: there a claim counts after `claim_after_s`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Final

from ota_bridge.core.conversation import Occasion, Standing, Telling, Turn, Update
from ota_bridge.core.deployment import State
from ota_bridge.core.errors import ConfigError, InvalidInput, Malformed
from ota_bridge.core.messages import CheckIn, Encoding, InstalledPart, Progress, Rejected, ReportState, Said
from ota_bridge.core.values import FIRMWARE, checked_version
from ota_bridge.decode import U32
from ota_bridge.dialect import products_of, read_options
from ota_bridge.dialects import xively_wire as wire
from ota_bridge.dialects.xively_blocks import REPEAT_S, UP_FILTER, XivelyBlocks, down_topic, named
from ota_bridge.dialects.xively_files import FileNames
from ota_bridge.dialects.xively_session import BOTHERS_MAX, Session
from ota_bridge.wire import MqttMessage, Subscription

UNKNOWN: Final = "unknown"
"""The version of a file of which the device knows no revision, or one that no release can have."""
QUIET_S: Final = 30.0
URL_QUIET_S: Final = 900.0
"""A device says nothing while it downloads by URL."""
CLAIM_AFTER_S: Final = 900.0
EXT_WAIT_S: Final = 15.0
"""What was served is told so much later: until then nobody knows whether a client that restarts has it all."""
_RESTARTED: Final = "the device has started again after it had fetched all of it"
URL_MAX_CHARACTERS: Final = 400
"""The vendor's example has 512 bytes for a whole command line."""
_SETTINGS: Final = {
    "product": str,
    "products": dict,
    "files": dict,
    "ext": list,
    "urls": bool,
    "quiet_s": float,
    "claim_after_s": float,
}
_EXT_FILE: Final = ("firmware", "-1")
_DOWNLOADING, _DOWNLOADED, _APPLYING, _FINISHED = 2, 3, 4, 5
_ERRORS: Final[Mapping[int, str]] = {
    -1: "a chunk of another file came",
    -2: "the file cannot be opened",
    -3: "the file cannot be written",
    -4: "the file cannot be closed",
    -5: "the SHA-256 of what was downloaded is another",
    -6: "the application refuses the download by URL",
    -7: "the download by URL failed",
    -8: "the download by URL ended for another file",
}
_GOES_ON: Final = frozenset({wire.NOT_THIS_FILE, -6, -7})
"""Errors after which the device goes on: over MQTT, where a download by URL was refused or failed."""
_URL_ERRORS: Final = frozenset({-6, -7})


class XivelyDialect:
    """The control plane; see the module."""

    name = "xively"
    author_fields: Mapping[str, str] = {}

    def __init__(self, options: Mapping[str, Any]) -> None:
        """`options`: the table `[dialects.xively]`; raises ConfigError."""
        found = read_options(self.name, options, _SETTINGS)
        self._products = products_of(self.name, found)
        self._files = FileNames(found.get("files", {}))
        self._ext: Sequence[str] = [str(pattern) for pattern in found.get("ext", ())]
        self._urls = bool(found.get("urls", True))
        self._quiet_s = float(found.get("quiet_s", QUIET_S))
        self._claim_after_s = float(found.get("claim_after_s", CLAIM_AFTER_S))
        if self._quiet_s <= REPEAT_S:
            raise ConfigError(f"dialects.xively.quiet_s = {self._quiet_s}: more than {REPEAT_S} is expected")
        if self._claim_after_s < 0:
            raise ConfigError(f"dialects.xively.claim_after_s = {self._claim_after_s}: 0 or more is expected")
        self._blocks = XivelyBlocks(self._products, self._files)

    @property
    def blocks(self) -> XivelyBlocks:
        return self._blocks

    def subscriptions(self) -> Sequence[Subscription]:
        return (Subscription(topic_filter=UP_FILTER, qos=1),)

    def is_for_blocks(self, message: MqttMessage) -> bool:
        return wire.is_request(message.payload)

    def read(self, message: MqttMessage) -> Said | Rejected | None:
        device = self._products.device(named(message.topic))
        try:
            said = wire.read(message.payload)
        except Malformed as error:
            return Rejected(device=device, reason=str(error))
        match said:
            case wire.FileInfo():
                body: dict[str, Any] = {"type": "FILE_INFO", "files": dict(said.files), "urls": said.takes_urls}
            case wire.FileStatus():
                body = {
                    "type": "FILE_STATUS", "file": said.name, "revision": said.revision, "phase": said.phase,
                    "code": said.code,
                }  # fmt: skip
            case wire.GetChunk():
                return None
        return Said(device=device, dialect=self.name, said=said, body=body)

    # --- hearing -----------------------------------------------------------------------------------------

    def hear(self, said: object, standing: Standing) -> Turn:
        session = Session.read(standing.memory)
        match said:
            case wire.FileInfo():
                return self._hear_info(said, standing, session)
            case wire.FileStatus():
                return self._hear_status(said, standing, session)
        return Turn()

    def _hear_info(self, said: wire.FileInfo, standing: Standing, session: Session) -> Turn:
        is_ext = any(fnmatchcase(standing.device.product, pattern) for pattern in self._ext)
        is_ext = is_ext or (said.files == (_EXT_FILE,) and said.takes_urls is None)
        revisions: dict[str, str] = {}
        files: list[tuple[str, str]] = []
        for name, revision in said.files:
            component = self._files.component(name)
            if component not in revisions:
                revisions[component] = revision
                files.append((component, name))
        session = session.connected(tuple(files), takes_urls=said.takes_urls is True, is_ext=is_ext)
        parts = {component: InstalledPart(version=_version(revision)) for component, revision in revisions.items()}
        uplinks: list[CheckIn | Progress] = []
        if is_ext:
            uplinks += self._ext_has_restarted(standing)
            parts = {
                component: InstalledPart(version=UNKNOWN) for component in parts if component not in standing.parts
            }
        body = {"files": dict(said.files), "urls": said.takes_urls}
        check_in = CheckIn(
            device=standing.device, dialect=self.name, encoding=Encoding.JSON, key=None, parts=parts,
            keeps_parts=is_ext, body=body,
        )  # fmt: skip
        return Turn(uplinks=[*uplinks, check_in], memory=session.kept())

    def _ext_has_restarted(self, standing: Standing) -> list[Progress]:
        """It starts anew after a download that held, and speaks once for each start."""
        update = standing.open_for(FIRMWARE)
        if update is None or not (update.state is State.INSTALLING or _is_whole(update)):
            return []
        burning = [] if update.state is State.INSTALLING else [_progress(standing, update, ReportState.BURNING)]
        return [*burning, _progress(standing, update, ReportState.DONE, reason=_RESTARTED, is_proof=True)]

    def _hear_status(self, said: wire.FileStatus, standing: Standing, session: Session) -> Turn:
        update = standing.open_for(self._files.component(said.name))
        if update is not None and update.version != said.revision:
            update = None
        is_canceling = update is not None and update.state is State.CANCELING
        state: ReportState | None = None
        session = session.heard(standing.wall)
        if said.code < 0:
            if said.code in _URL_ERRORS:
                session = replace(session, by_url=False, no_urls=True)
            if said.code not in _GOES_ON:
                session = replace(session, is_busy=False)
                state = ReportState.CANCELED if is_canceling else ReportState.FAIL
        elif said.phase == _DOWNLOADING:
            session = replace(session, by_url=True)
            state = None if is_canceling else ReportState.DOWNLOADING
        elif said.phase == _DOWNLOADED:
            session = replace(session, by_url=False, answers=0)
            state = None if is_canceling else ReportState.DOWNLOADED
        elif said.phase == _APPLYING:
            session = replace(session, is_sealed=True, is_busy=False)
            state = ReportState.TOO_LATE if is_canceling else ReportState.BURNING
        elif said.phase == _FINISHED:
            is_last = update is not None and session.listed[-1:] == (update.id,)
            session = replace(session, answers=0, is_busy=session.is_busy and not is_last)
            state = ReportState.TOO_LATE if is_canceling else ReportState.BURNING
        if update is None or state is None:
            return Turn(memory=session.kept())
        error = f"{said.name}: {_ERRORS.get(said.code, 'the device tells an error')}" if said.code < 0 else ""
        progress = _progress(standing, update, state, code=said.code, message=error)
        return Turn(uplinks=[progress], memory=session.kept())

    # --- telling -----------------------------------------------------------------------------------------

    def tell(self, occasion: Occasion, standing: Standing) -> Telling:
        session = Session.read(standing.memory)
        reports, wakes = self._follow_from_silence(standing, session)
        if session.is_ext and reports:
            # What is complete but has not started again must not be disturbed.
            is_done = any(report.state is ReportState.DONE for report in reports)
            session = replace(session, is_sealed=not is_done, is_busy=False)
        messages: list[MqttMessage] = []
        wanted = self._wanted(standing, session, reports)
        if wanted:
            due_wall = self._due(occasion, standing, session)
            if due_wall <= standing.wall:
                messages = self._list(standing, session, wanted)
                has_firmware = any(update.component == FIRMWARE for update in wanted)
                session = session.sent(
                    tuple(update.id for update in wanted), standing.wall, with_firmware=has_firmware,
                    is_answer=isinstance(occasion.said, wire.FileInfo),
                )  # fmt: skip
                due_wall = standing.wall + session.again_after_s(self._quiet_s)
            wakes.append(due_wall)
        return Telling(
            messages=messages,
            memory=session.kept(),
            wake_wall=max(min(wakes), standing.wall) if wakes else None,
            uplinks=reports,
        )

    def _follow_from_silence(self, standing: Standing, session: Session) -> tuple[list[Progress], list[float]]:
        """What no message will tell, and when to look again."""
        reports: list[Progress] = []
        wakes: list[float] = []
        for update in standing.updates:
            is_firmware = update.component == FIRMWARE
            due_wall: float | None = None
            if update.size_bytes == 0 or update.size_bytes > U32:
                if update.is_served:
                    reason = "this protocol cannot carry a file of that size"
                    reports.append(_progress(standing, update, ReportState.REJECT, reason=reason))
            elif session.is_ext and _is_whole(update):
                reports.append(_progress(standing, update, ReportState.BURNING, reason="all of it was fetched"))
                if update.id in session.listed and not session.is_busy:
                    reports.append(_progress(standing, update, ReportState.DONE, reason=_RESTARTED, is_proof=True))
                due_wall = standing.wall + self._claim_after_s
            elif update.state is State.INSTALLING and (session.is_ext or not is_firmware):
                due_wall = update.changed_wall + self._claim_after_s
                if due_wall <= standing.wall:
                    reason = "all of it was fetched" if session.is_ext else "the device says that the file is finished"
                    reports.append(_progress(standing, update, ReportState.DONE, reason=reason, is_proof=True))
            elif update.state is State.CANCELING and not session.is_sealed:
                due_wall = max(update.changed_wall, _last_sign(standing, session)) + self._quiet_s
                if due_wall <= standing.wall:
                    reports.append(_progress(standing, update, ReportState.CANCELED, reason="it gets no more of it"))
            if due_wall is not None and due_wall > standing.wall:
                wakes.append(due_wall)
        return reports, wakes

    def _wanted(self, standing: Standing, session: Session, reports: Sequence[Progress]) -> list[Update]:
        """What a list would hold now, the firmware last; nothing where none may go out."""
        if session.is_sealed:
            return []
        settled = {report.deployment for report in reports}
        order = [component for component, _ in session.files]
        wanted = [
            update
            for update in standing.updates
            if update.is_served and not update.is_paused and update.component in order and update.id not in settled
            if update.component == FIRMWARE or not session.is_ext
        ]
        wanted.sort(key=lambda update: (update.component == FIRMWARE, order.index(update.component)))
        has_firmware = any(update.component == FIRMWARE for update in wanted)
        return [] if session.has_begun and not has_firmware else wanted

    def _due(self, occasion: Occasion, standing: Standing, session: Session) -> float:
        """When the list may go out."""
        if isinstance(occasion.said, wire.FileInfo):
            if session.is_ext and any(update.id in session.listed for update in standing.updates):
                return standing.wall + EXT_WAIT_S
            # A device that restarts again and again, perhaps because of what it gets, is not driven on.
            is_driven = session.answers >= BOTHERS_MAX
            return min(session.sent_wall, standing.wall) + self._quiet_s if is_driven else standing.wall
        if not session.is_busy:
            return standing.wall
        quiet_s = session.again_after_s(self._quiet_s)
        if session.by_url:
            quiet_s = max(quiet_s, URL_QUIET_S)
        return _last_sign(standing, session) + quiet_s

    def _list(self, standing: Standing, session: Session, wanted: Sequence[Update]) -> list[MqttMessage]:
        topic = down_topic(standing.device)
        with_urls = self._urls and session.takes_urls and not session.no_urls
        files = [
            wire.Available(
                name=session.name(update.component) or update.component,
                revision=update.version,
                size_bytes=update.size_bytes,
                sha256=update.sha256,
                url=update.url if with_urls and len(update.url) <= URL_MAX_CHARACTERS else "",
            )
            for update in wanted
        ]
        payloads = [wire.available(files, is_hex=session.is_ext)]
        if session.is_ext and session.is_busy:
            # It takes no list while it believes to be downloading, and this chunk ends that.
            payloads.insert(0, wire.chunk_refused(files[0].name, files[0].revision))
        return [MqttMessage(topic=topic, payload=payload, qos=0) for payload in payloads]


def _version(revision: str) -> str:
    try:
        return checked_version(revision)
    except InvalidInput:
        return UNKNOWN


def _is_whole(update: Update) -> bool:
    """All of it was served."""
    return update.is_served and 0 < update.size_bytes <= update.high_water_bytes


def _last_sign(standing: Standing, session: Session) -> float:
    """When the device last did anything, or was last spoken to. What is ahead of the clock, which was set, is none."""
    signs = [session.sent_wall, session.heard_wall, standing.refused_wall or 0.0]
    signs += [update.last_block_wall or 0.0 for update in standing.updates]
    return max((wall for wall in signs if wall <= standing.wall), default=0.0)


def _progress(
    standing: Standing, update: Update, state: ReportState, *,
    code: int = 0, message: str = "", reason: str = "", is_proof: bool = False,
) -> Progress:  # fmt: skip
    return Progress(
        device=standing.device,
        dialect=XivelyDialect.name,
        key=None,
        deployment=update.id,
        component=update.component,
        state=state,
        version=update.version,
        result_code=str(code),
        result_msg=message,
        reason=reason,
        is_proof=is_proof,
    )
