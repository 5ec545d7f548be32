"""The file server as the block plane runs it: built from the configuration, on a socket that the daemon opened.

What is wrong with the configuration is said when the daemon starts (`belongings`). What becomes wrong later, with the
block plane's process started anew, is logged: blocks are served all the same.
"""

import asyncio
import logging
import socket
import time
from concurrent.futures import Executor
from pathlib import Path
from urllib.parse import urlsplit

from ota_bridge.config import FileSettings
from ota_bridge.core.blocks import BlockServer, Cold
from ota_bridge.core.errors import ConfigError
from ota_bridge.files.certificate import Certificate
from ota_bridge.files.connection import FileCounters, FileOptions, Serving
from ota_bridge.files.server import FileServer
from ota_bridge.files.used import UsedLinks

_log = logging.getLogger(__name__)


def belongings(settings: FileSettings, data_dir: Path) -> tuple[Certificate | None, UsedLinks | None]:
    """The certificate under which files are served, and the links that were used; each None where it is not wanted.

    Raises ConfigError.
    """
    certificate = None
    if settings.certificate is not None and settings.key is not None:
        certificate = Certificate(settings.certificate, settings.key)
    return certificate, UsedLinks(data_dir / "links-used", time.time()) if settings.once else None


class FileService:
    """See the module."""

    def __init__(
        self,
        settings: FileSettings,
        data_dir: Path,
        secret: bytes,
        server: BlockServer,
        listener: socket.socket,
        readers: Executor,
    ) -> None:
        """`secret` proves links; `readers` read from disk."""
        self.counters = FileCounters()
        self._certificate: Certificate | None = None
        self._files: FileServer | None = None
        try:
            self._certificate, used = belongings(settings, data_dir)
        except ConfigError as error:
            _log.error("no files are served: %s", error)
            listener.close()
            return

        async def fetch(cold: Cold) -> None:
            await asyncio.get_running_loop().run_in_executor(readers, cold.artifact.fetch, cold.offset, cold.length)

        options = FileOptions(
            base_path=urlsplit(settings.url).path,
            connections_max=settings.connections_max,
            wait_s=settings.wait_s,
            head_s=settings.head_s,
            idle_s=settings.idle_s,
            stall_s=settings.stall_s,
        )
        serving = Serving(server=server, secret=secret, options=options, fetch=fetch, used=used, counters=self.counters)
        tls = None if self._certificate is None else self._certificate.context
        self._files = FileServer(serving, listener, tls=tls)

    def look(self) -> None:
        """Use another certificate once there is one; in a thread."""
        if self._certificate is not None:
            self._certificate.look()

    async def run(self) -> None:
        """Serve until cancelled."""
        if self._files is not None:
            await self._files.run()
