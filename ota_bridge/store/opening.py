"""Opens a store by its URL. A new backend is one entry in `BACKENDS`.

sqlite:///var/lib/ota-bridge/bridge.db    a SQLite file, absolute
sqlite:bridge.db                          a SQLite file, relative to the working directory
state/bridge.db                           the same, as a plain path
memory:                                   nothing outlives the process
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from ota_bridge.core.errors import ConfigError
from ota_bridge.store.memory import MemoryStore
from ota_bridge.store.outcome import Deliver, Store
from ota_bridge.store.sqlite import SqliteStore

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


def _open_sqlite(url: str, deliver: Deliver) -> Store:
    return SqliteStore.open(sqlite_path(url), deliver=deliver)


def _open_memory(url: str, deliver: Deliver) -> Store:
    if url.partition(":")[2].strip("/"):
        raise ConfigError(f"store {url!r}: nothing may follow memory:")
    return MemoryStore(deliver=deliver)


BACKENDS: Final[Mapping[str, Callable[[str, Deliver], Store]]] = {
    "sqlite": _open_sqlite,
    "memory": _open_memory,
}


def open_store(url: str, deliver: Deliver) -> Store:
    """The store behind `url`; raises ConfigError for a URL that names none, StoreError where it cannot be opened."""
    backend = BACKENDS.get(_scheme_of(url))
    if backend is None:
        known = ", ".join(f"{name}:" for name in BACKENDS)
        raise ConfigError(f"store {url!r}: unknown scheme; known are {known} and a plain path")
    return backend(url, deliver)


def sqlite_path(url: str) -> Path:
    """The file that a `sqlite:` URL or a plain path names; raises ConfigError."""
    if not _SCHEME.match(url):
        text = url
    else:
        parts = urlsplit(url)
        if parts.scheme != "sqlite" or parts.netloc or parts.query or parts.fragment:
            raise ConfigError(f"store {url!r}: write it as sqlite:///path/to/file")
        text = unquote(parts.path)
    if not text or text.endswith("/"):
        raise ConfigError(f"store {url!r}: the name of a file is missing")
    return Path(text)


def _scheme_of(url: str) -> str:
    found = _SCHEME.match(url)
    return found[1].lower() if found else "sqlite"
