"""The explorer's resources: files beside the firmware, on `$thing/…/service`, told apart by `method`.

A result always says `done`; only its code tells how it went. A notice that lacks something is answered as a file that
is missing. What was loaded is in the next version report.
"""

import json
from collections.abc import Sequence
from typing import Final

from device_sim.clients.model import Action, Publish, WentWrong
from device_sim.clients.tencent_download import Build, Notice
from device_sim.clients.tencent_files import Files
from device_sim.clients.tencent_http import MISMATCH, MISSING
from device_sim.clients.tencent_ota import Handle, Phase
from device_sim.clients.tencent_scan import value_of

DELETE_FAILED: Final = "-7"
"""The sheets name none; the SDK has one for it."""


class ResourceHandle(Handle):
    """The second handle of a device."""

    def __init__(self, product: str, name: str, *, files: Files, build: Build) -> None:
        super().__init__(product, name, files=files, build=build, factory="", burns=False, installs=False)
        self.held: dict[str, tuple[str, str]] = {}
        """Name to version and type."""
        self._wanted = ("", "")

    def _topics(self, product: str, name: str) -> tuple[str, str]:
        return f"$thing/up/service/{product}/{name}", f"$thing/down/service/{product}/{name}"

    def report_version(self) -> Publish:
        """The list of what it holds, which may be empty."""
        self._reset()
        listed = [
            f'{{"resource_name":"{name}","version":"{version}","resource_type":"{kind}"}}'
            for name, (version, kind) in self.held.items()
        ]
        return self._say(f'{{"method":"report_version","report":{{"resource_list":[{",".join(listed)}]}}}}', qos=1)

    def heard(self, text: bytes) -> Sequence[Action]:
        """A message of the service channel; most of them are none of its business."""
        if self.phase is not Phase.IDLE:
            self.unheard.append(f"it is {self.phase}")
            return ()
        method = value_of(text, "method")
        if method == "report_version_rsp":
            code = value_of(text, "result_code")
            if code is None:
                raise WentWrong("report_version_rsp without result_code: it compares with nothing and crashes")
            if code != "0":
                raise WentWrong(f"report_version_rsp with result_code {code!r}: the handle hears nothing any more")
        elif method == "update_resource":
            return self._asked(text)
        elif method == "del_resource":
            return self._delete(text)
        else:
            self.unheard.append(f"method {method!r}")
        return ()

    def _asked(self, text: bytes) -> Sequence[Action]:
        name, kind, notice = value_of(text, "resource_name"), value_of(text, "resource_type"), self._notice_of(text)
        if name is None or kind is None or notice is None:
            self._wanted = (name or "(null)", "")
            version = value_of(text, "version")
            if version is None:
                return ()  # a result without version cannot be written
            self.failures.append(MISSING)
            return [self._result(version, MISSING, "time_out")]
        self._wanted = (name, kind)
        self._accept(notice)
        return ()

    def _delete(self, text: bytes) -> Sequence[Action]:
        name, version = value_of(text, "resource_name"), value_of(text, "version")
        if version is None:
            return ()
        is_gone = name is not None and self.held.pop(name, None) is not None
        code, words = ("0", "success") if is_gone else (DELETE_FAILED, "file del fail")
        body = {"resource_name": name or "(null)", "state": "done", "result_code": code, "result_msg": words}
        message = {"method": "del_result", "report": {"progress": body, "version": version}}
        return [self._say(json.dumps(message), qos=1)]

    def _key(self, notice: Notice) -> str:
        return f"{self._wanted[0]}_{notice.version}"

    def _installed(self, notice: Notice) -> None:
        name, kind = self._wanted
        self.held[name] = (notice.version, kind)

    # --- what it says ---

    def _progress(self, percent: int) -> Publish:
        assert self._notice is not None
        return self._say(
            f'{{"method": "report_progress", "report": {{"progress": {{"resource_name":"{self._wanted[0]}",'
            f'"state":"downloading", "percent":"{percent}", "result_code":"0", "result_msg":""}}, '
            f'"version": "{self._notice.version}"}}}}'
        )

    def _done(self, notice: Notice) -> Publish:
        return self._result(notice.version, "0", "success")

    def _failed(self, notice: Notice, code: str) -> Publish:
        return self._result(notice.version, code, "md5 check fail" if code == MISMATCH else "time_out")

    def _result(self, version: str, code: str, words: str) -> Publish:
        return self._say(
            f'{{"method": "report_result", "report": {{"progress": {{"resource_name":"{self._wanted[0]}",'
            f'"state":"done", "result_code":"{code}", "result_msg":"{words}"}}, "version": "{version}"}}}}',
            qos=1,
        )
