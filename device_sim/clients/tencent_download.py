"""One download of the Tencent samples: a GET, reads of 4,999 bytes every 100 ms, progress once a second, files.

A read that is not full within its second ends it. `percent` is computed in 32 bits and wraps above 42,949,672 bytes.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from device_sim.clients.model import Action, Fetch, Fetched, HangUp, Publish, Read, WentWrong
from device_sim.clients.tencent_files import Files
from device_sim.clients.tencent_http import (
    HEAD_MAX_BYTES,
    HEAD_S,
    AttemptFailed,
    content_bytes,
    place,
    request,
)

READ_BYTES: Final = 4999
READ_S: Final = 1.0
PAUSE_S: Final = 0.101
"""100 ms and the work between them."""
REPORT_EVERY_S: Final = 1.0
U32: Final = 0xFFFF_FFFF
WHOLE: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """How the firmware was built."""

    is_explorer: bool = False
    has_tls: bool = False
    via: tuple[str, int] | None = None
    """For tests: where every HTTP connection goes in truth, whatever its URL says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What `update_firmware` told of the file."""

    version: str
    url: str
    md5: str
    file_size: int


class Download:
    """One attempt. Every method may raise AttemptFailed and WentWrong."""

    def __init__(self, notice: Notice, files: Files, build: Build, *, key: str) -> None:
        """`key` names the file on the device."""
        self.notice = notice
        self._files, self._build, self._key = files, build, key
        self._content = bytearray()
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._fetched = 0
        self._left: int | None = None
        self._report_at_s = 0.0
        self.read_at_s: float | None = None
        """When the next read is due."""
        self.is_whole = False

    @property
    def content(self) -> bytes:
        """What came."""
        return bytes(self._content)

    def begin(self) -> Sequence[Action]:
        """Ask for the rest of it."""
        notice = self.notice
        if notice.file_size == 0:
            if self._build.is_explorer:
                raise AttemptFailed("file_size 0")
            raise WentWrong("file_size 0 or not a number: it divides by zero (SIGFPE)")
        if "/" in self._key:
            raise AttemptFailed("its file cannot be opened")
        where = place(notice.url, is_explorer=self._build.is_explorer, has_tls=self._build.has_tls)
        self._content += self._files.begun(self._key)
        self._fetched = len(self._content)
        self._md5.update(self._content)
        get = request(where, self._fetched, notice.file_size)
        host, port = self._build.via or (where.host, where.port)
        return (
            Fetch(host=host, port=port, request=get),
            Read(max_bytes=HEAD_MAX_BYTES, within_s=HEAD_S, until=b"\r\n\r\n"),
        )

    def fetched(self, result: Fetched, now_s: float, report: Callable[[int], Publish]) -> Sequence[Action]:
        """What came of the last read."""
        if result.fault:
            raise AttemptFailed(result.fault)
        if self._left is None:
            self._left = content_bytes(result.data, is_explorer=self._build.is_explorer)
            return self.read(now_s, report)
        self._left -= len(result.data)
        return self._took(result.data, now_s, report)

    def read(self, now_s: float, report: Callable[[int], Publish]) -> Sequence[Action]:
        """Take some more."""
        self.read_at_s = None
        if not self._left:
            return self._took(b"", now_s, report)
        return [Read(max_bytes=min(READ_BYTES, self._left), within_s=READ_S)]

    def _took(self, data: bytes, now_s: float, report: Callable[[int], Publish]) -> Sequence[Action]:
        actions: list[Action] = []
        if self._fetched == 0:
            actions.append(report(0))
            self._report_at_s = now_s + REPORT_EVERY_S
        before = self._fetched
        self._fetched += len(data)
        percent = (self._fetched * 100 & U32) // self.notice.file_size
        if percent == WHOLE:
            actions.append(report(percent))
        elif data and now_s >= self._report_at_s:
            actions.append(report(percent))
            self._report_at_s = now_s + REPORT_EVERY_S
        self._content += data
        self._md5.update(data)
        if data:
            self._files.keep(self._key, before, data)
        if self._fetched >= self.notice.file_size:
            self.is_whole = True
            return [*actions, HangUp()]
        if not self._left:
            raise WentWrong(
                f"{self._fetched} of {self.notice.file_size} bytes are here and no more come: it waits for ever"
            )
        self.read_at_s = now_s + PAUSE_S
        return actions

    def is_right(self) -> bool:
        """Whether the MD5 holds; either way the next download begins anew."""
        self._files.forget(self._key)
        return self._md5.hexdigest() == self.notice.md5
