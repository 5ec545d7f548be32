"""What an Alibaba device keeps over a restart: which version it runs, and the digest of the image it came in."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from device_sim.clients.model import ClientOptions

_FILE: Final = "running.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """`sha256` is empty for what it left the factory with."""

    version: str
    sha256: str = ""
    installs: int = 0


class Bank:
    """In memory and, with a directory, on disk as well."""

    def __init__(self, options: ClientOptions) -> None:
        self._path: Path | None = None if options.state is None else options.state / _FILE
        self.running = Running(version=options.version)
        if self._path is not None and self._path.is_file():
            self.running = Running(**json.loads(self._path.read_text()))

    def install(self, version: str, image: bytes, *, reverts: bool) -> None:
        """Boot this image; with `reverts` it does not come up and the one before is back."""
        if reverts:
            self.running = replace(self.running, installs=self.running.installs + 1)
        else:
            digest = hashlib.sha256(image).hexdigest()
            self.running = Running(version=version, sha256=digest, installs=self.running.installs + 1)
        if self._path is not None:
            self._path.write_text(json.dumps(asdict(self.running)))
