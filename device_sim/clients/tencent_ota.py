"""The SDK's OTA handle of one device: what it hears in which state, and the reports of an update.

A handle ignores everything while an update is under way, whatever comes before the version was reported, and a notice
that lacks one of its five keys. A `report_version_rsp` that is not 0 ends it for good.
"""

import hashlib
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final

from device_sim.clients.model import Action, Fetch, Fetched, HangUp, Publish, WentWrong
from device_sim.clients.tencent_download import PAUSE_S, U32, Build, Download, Notice
from device_sim.clients.tencent_files import Files
from device_sim.clients.tencent_http import MISMATCH, AttemptFailed
from device_sim.clients.tencent_scan import value_of

TOPIC_MAX_BYTES: Final = 63
"""In a buffer of 64."""
VERSION_MAX_BYTES: Final = 32
MD5_MAX_BYTES: Final = 32
SIZE_MAX_BYTES: Final = 16


class Phase(StrEnum):
    """Where it stands."""

    DEAF = "deaf"
    """Nothing is heard until the version is reported."""
    IDLE = "idle"
    ACCEPTED = "accepted"
    FETCHING = "fetching"
    WHOLE = "whole"


class Ended(StrEnum):
    """How the last update ended."""

    NOT = ""
    DONE = "done"
    FAILED = "failed"


class Handle:
    """Firmware. Its owner decides when a download begins."""

    def __init__(
        self, product: str, name: str, *, files: Files, build: Build, factory: str, burns: bool, installs: bool
    ) -> None:
        """`burns`: it reports `burning`; `installs`: what it reported done runs afterwards."""
        self.up, self.down = self._topics(product, name)
        if len(self.down.encode()) > TOPIC_MAX_BYTES:
            raise WentWrong(f"{self.down}: longer than 63 bytes, so OTA cannot be initialised and it says nothing")
        self._files, self._build, self._factory = files, build, factory
        self._burns, self._installs = burns, installs
        self.phase = Phase.DEAF
        self.ended = Ended.NOT
        self.has_mismatch = False
        """The last update ended by its MD5: the sample then waits for an acknowledgement that cannot come."""
        self.installs = 0
        self.sha256 = ""
        self.failures: list[str] = []
        self.asked: list[bytes] = []
        """Its GETs, for tests."""
        self.unheard: list[str] = []
        """What came when it was deaf, busy or could not be read: why, for tests."""
        self._notice: Notice | None = None
        self._download: Download | None = None
        self._finish_at_s: float | None = None

    def _topics(self, product: str, name: str) -> tuple[str, str]:
        return f"$ota/report/{product}/{name}", f"$ota/update/{product}/{name}"

    @property
    def version(self) -> str:
        """What runs."""
        return self._files.version(self._factory) if self._installs else self._factory

    @property
    def is_busy(self) -> bool:
        """An update is under way."""
        return self.phase in {Phase.ACCEPTED, Phase.FETCHING, Phase.WHOLE}

    @property
    def deadline_s(self) -> float | None:
        """When `tick` is wanted."""
        if self.phase is Phase.WHOLE:
            return self._finish_at_s
        return self._download.read_at_s if self._download is not None else None

    def restart(self) -> None:
        """RAM is gone."""
        self._reset()
        self.phase = Phase.DEAF

    def report_version(self) -> Publish:
        """Say what runs, and listen from now on."""
        self._reset()
        return self._say(f'{{"type": "report_version", "report":{{"version":"{self.version}"}}}}', qos=1)

    def _reset(self) -> None:
        self.phase, self.ended = Phase.IDLE, Ended.NOT
        self._notice = self._download = None

    # --- what comes ---

    def heard(self, text: bytes) -> Sequence[Action]:
        """A message on its own topic."""
        if self.phase is not Phase.IDLE:
            self.unheard.append(f"it is {self.phase}")
            return ()
        kind = value_of(text, "type")
        if kind == "report_version_rsp":
            code = value_of(text, "result_code")
            if code != "0":
                raise WentWrong(f"report_version_rsp with result_code {code!r}: the handle hears nothing any more")
        elif kind == "update_firmware":
            self._accept(self._notice_of(text))
        else:
            self.unheard.append(f"type {kind!r}")
        return ()

    def _accept(self, notice: Notice | None) -> None:
        if notice is None:
            self.unheard.append("a key is missing or too long")
            return
        if len(notice.version) > VERSION_MAX_BYTES:
            raise WentWrong(
                f"version {notice.version!r} of more than 32 bytes: it loads all and cannot say how it ended"
            )
        self._notice = notice
        self.phase = Phase.ACCEPTED

    def _notice_of(self, text: bytes) -> Notice | None:
        version, url = value_of(text, "version"), value_of(text, "url")
        md5, size = value_of(text, "md5sum"), value_of(text, "file_size")
        if version is None or url is None or md5 is None or size is None:
            return None
        if len(md5) > MD5_MAX_BYTES or len(size) > SIZE_MAX_BYTES:
            return None
        return Notice(version=version, url=url, md5=md5, file_size=_atoi(size) & U32)

    # --- the update ---

    def begin(self) -> Sequence[Action]:
        """Start the download of what was accepted."""
        assert self._notice is not None
        self.phase = Phase.FETCHING
        self._download = download = Download(self._notice, self._files, self._build, key=self._key(self._notice))
        actions = self._guarded(download.begin)
        self.asked += [action.request for action in actions if isinstance(action, Fetch)]
        return actions

    def _key(self, notice: Notice) -> str:
        return notice.version

    def fetched(self, result: Fetched, now_s: float) -> Sequence[Action]:
        """What came of a read."""
        download = self._download
        if download is None:
            return ()
        actions = self._guarded(lambda: download.fetched(result, now_s, self._progress))
        self._look(now_s)
        return actions

    def tick(self, now_s: float) -> Sequence[Action]:
        """The next read, or the end."""
        download, deadline_s = self._download, self.deadline_s
        if download is None or deadline_s is None or now_s < deadline_s:
            return ()
        if self.phase is Phase.WHOLE:
            return self._finish(download)
        actions = self._guarded(lambda: download.read(now_s, self._progress))
        self._look(now_s)
        return actions

    def abort(self) -> Sequence[Action]:
        """Let go without a word, and hear nothing until the version is reported again."""
        self._download = None
        self.phase = Phase.DEAF
        return [HangUp()]

    def _guarded(self, act: Callable[[], Sequence[Action]]) -> Sequence[Action]:
        try:
            return act()
        except AttemptFailed as error:
            return [HangUp(), *self._fail(*error.codes)]

    def _look(self, now_s: float) -> None:
        if self._download is not None and self._download.is_whole and self.phase is Phase.FETCHING:
            self.phase, self._finish_at_s = Phase.WHOLE, now_s + PAUSE_S

    def _finish(self, download: Download) -> Sequence[Action]:
        if not download.is_right():
            return self._fail(MISMATCH)
        actions = [self._burning(download.notice)] if self._burns else []
        actions.append(self._done(download.notice))
        self.installs += 1
        self.sha256 = hashlib.sha256(download.content).hexdigest()
        self._installed(download.notice)
        self._end(Ended.DONE)
        return actions

    def _installed(self, notice: Notice) -> None:
        if self._installs:
            self._files.install(notice.version)

    def _fail(self, *codes: str) -> list[Action]:
        assert self._notice is not None
        notice = self._notice
        self.has_mismatch = codes == (MISMATCH,)
        self.failures += codes
        self._end(Ended.FAILED)
        return [self._failed(notice, code) for code in codes]

    def _end(self, how: Ended) -> None:
        self._reset()
        self.ended = how

    # --- what it says ---

    def _progress(self, percent: int) -> Publish:
        assert self._notice is not None
        return self._say(
            '{"type": "report_progress", "report": {"progress": {"state":"downloading", '
            f'"percent":"{percent}", "result_code":"0", "result_msg":""}}, "version": "{self._notice.version}"}}}}'
        )

    def _burning(self, notice: Notice) -> Publish:
        return self._state("burning", notice)

    def _done(self, notice: Notice) -> Publish:
        return self._state("done", notice)

    def _state(self, state: str, notice: Notice) -> Publish:
        return self._say(
            f'{{"type": "report_progress", "report":{{"progress":{{"state":"{state}", '
            f'"result_code":"0", "result_msg":""}}, "version":"{notice.version}"}}}}',
            qos=1,
        )

    def _failed(self, notice: Notice, code: str) -> Publish:
        return self._say(
            '{"type": "report_progress", "report": {"progress": {"state":"fail", '
            f'"result_code":"{code}", "result_msg":"time_out"}}, "version": "{notice.version}"}}}}',
            qos=1,
        )

    def _say(self, text: str, *, qos: int = 0) -> Publish:
        return Publish(topic=self.up, payload=text.encode("latin-1"), qos=qos)


def _atoi(text: str) -> int:
    """As C reads a number: what begins like none is 0, what follows it does not count."""
    sign = -1 if text.startswith("-") else 1
    digits = text.removeprefix("-")
    return sign * int(digits[: len(digits) - len(digits.lstrip("0123456789"))] or "0")
