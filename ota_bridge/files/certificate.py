"""The TLS side of the file server: a certificate that is read anew when its files change."""

import logging
import ssl
from pathlib import Path

from ota_bridge.core.errors import ConfigError

_log = logging.getLogger(__name__)


class Certificate:
    """A chain and its key, and a context that uses them."""

    def __init__(self, chain: Path, key: Path) -> None:
        """Raises ConfigError. Blocks: it reads files, as `look` does."""
        self._chain = chain
        self._key = key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._seen = self._state()
        try:
            self._load()
        except (OSError, ValueError) as error:
            raise ConfigError(f"files.certificate {chain} with files.key {key} cannot be used: {error}") from error

    def look(self) -> None:
        """Use what the files hold now. Whoever is connected goes on with what was."""
        state = self._state()
        if state == self._seen:
            return
        self._seen = state
        try:
            self._load()
        except (OSError, ValueError) as error:
            _log.error("the new %s cannot be used, the old one stays: %s", self._chain, error)
        else:
            _log.info("%s was read anew", self._chain)

    def _load(self) -> None:
        # A password is given so that an encrypted key is an error and not a question on the terminal.
        self.context.load_cert_chain(self._chain, self._key, password="")

    def _state(self) -> tuple[float, ...]:
        found: list[float] = []
        for path in (self._chain, self._key):
            try:
                status = path.stat()
            except OSError:
                continue
            found += [status.st_mtime_ns, status.st_ino, status.st_size]
        return tuple(found)
