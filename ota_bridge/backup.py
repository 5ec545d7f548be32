"""The stream `backup` of the local socket: a backup made while the daemon runs.

It is made in a thread, one at a time. Who asked hears how far it is, `{"done": …, "total": …}` in bytes, and at the end
what was made, `{"made": …}`; who hangs up ends it, and nothing of it stays.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from ota_bridge.core.errors import Conflict, InvalidInput
from ota_bridge.core.views import iso
from ota_bridge.decode import Fields
from ota_bridge.store.backup import Backup, Progress, make_backup

_PATH_MAX_BYTES: Final = 4096
_TELL_S: Final = 0.2

_log = logging.getLogger(__name__)


class Backups:
    """Makes backups of one data directory."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._busy = False

    async def make(self, args: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Write a backup to `args["file"]`, an absolute path; raises Conflict, InvalidInput or StoreError."""
        fields = Fields(args, name="backup")
        fields.only("file")
        target = Path(fields.text("file", min_bytes=1, max_bytes=_PATH_MAX_BYTES))
        if not target.is_absolute():
            raise InvalidInput("backup: file must be an absolute path, the daemon has a directory of its own")
        if self._busy:
            raise Conflict("another backup is being made; wait for it")
        self._busy = True
        unwanted = threading.Event()
        progress = Progress(go_on=lambda: not unwanted.is_set())
        making = asyncio.ensure_future(asyncio.to_thread(self._make, target, progress))
        try:
            while not (await asyncio.wait({making}, timeout=_TELL_S))[0]:
                yield {"done": progress.done, "total": progress.total}
            yield {"made": backup_view(making.result())}
        finally:
            unwanted.set()
            await asyncio.wait({making})
            making.exception()  # told, or of no interest any more
            self._busy = False

    def _make(self, target: Path, progress: Progress) -> Backup:
        began = time.monotonic()
        made = make_backup(self._database, self._database.parent, target, taken_s=int(time.time()), progress=progress)
        took_s = time.monotonic() - began
        _log.info("a backup of %d bytes was written to %s in %.1f s", made.size_bytes, target, took_s)
        for what in made.missing:
            _log.error("the backup %s lacks %s: its file is missing or damaged, add it again", target, what)
        return made


def backup_view(made: Backup) -> dict[str, Any]:
    """A backup for people and programs."""
    plain = asdict(made)
    return {
        "file": str(plain.pop("file")),
        "taken": iso(plain.pop("taken_s")),
        "as_of": iso(plain.pop("as_of_s")),
        **plain,
        "missing": list(plain["missing"]),
    }
