"""The files in which the SDK's samples keep a download over a restart.

Named by the version alone: another image under the same version goes on where the first one ended.
"""

import json
from pathlib import Path
from typing import Final

_RUNNING: Final = "version.txt"


class Files:
    """Of one device. The hub's sample remembers one download, the explorer's one for each version."""

    def __init__(self, state: Path | None, *, client_id: str, is_explorer: bool) -> None:
        self._state, self._client_id, self._is_explorer = state, client_id, is_explorer
        self._kept: dict[str, bytearray] = {}

    def version(self, factory: str) -> str:
        """What runs."""
        found = self._read(self._named(_RUNNING))
        return factory if found is None else found.decode()

    def install(self, version: str) -> None:
        """From now on this runs."""
        self._write(self._named(_RUNNING), version.encode())

    def begun(self, version: str) -> bytes:
        """What there is of it already; empty: it begins anew."""
        found = self._read(self._info(version))
        info = {} if found is None else json.loads(found)
        if info.get("version") != version:
            return b""
        return (self._read(self._image(version)) or b"")[: info["downloaded_size"]]

    def keep(self, version: str, offset: int, data: bytes) -> None:
        """This came, at this place; what was there before it stays."""
        self._append(self._image(version), offset, data)
        text = f'{{"version":"{version}", "downloaded_size":{offset + len(data)}}}'
        self._write(self._info(version), text.encode())

    def forget(self, version: str) -> None:
        """The next download of it begins anew."""
        self._kept.pop(self._info(version), None)
        if self._state is not None:
            (self._state / self._info(version)).unlink(missing_ok=True)

    def _info(self, version: str) -> str:
        return f"FW_{version}.json" if self._is_explorer else f"FW_{self._client_id}.json"

    def _image(self, version: str) -> str:
        return f"FW_{version}.bin" if self._is_explorer else f"FW_{self._client_id}_{version}.bin"

    def _named(self, name: str) -> str:
        return f"{self._client_id}_{name}"

    def _read(self, name: str) -> bytes | None:
        if self._state is None:
            return bytes(self._kept[name]) if name in self._kept else None
        path = self._state / name
        return path.read_bytes() if path.is_file() else None

    def _write(self, name: str, content: bytes) -> None:
        if self._state is None:
            self._kept[name] = bytearray(content)
        else:
            (self._state / name).write_bytes(content)

    def _append(self, name: str, offset: int, data: bytes) -> None:
        if self._state is None:
            kept = self._kept.setdefault(name, bytearray())
            kept[offset:] = data
            return
        path = self._state / name
        with path.open("r+b" if path.is_file() else "w+b") as file:
            file.seek(offset)
            file.write(data)
            file.truncate()
