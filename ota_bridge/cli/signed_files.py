"""Files of what authors signed, manifests and keysets: read in bounds, never written over."""

from pathlib import Path
from typing import Final

from ota_bridge.core.errors import Conflict, InvalidInput, NotFound
from ota_bridge.security.files import read_bounded, write_new

_READ_MAX: Final = 4096


def read_signed(path: Path, kind: str, *, made_by: str) -> bytes:
    """The content; raises NotFound, which says what makes such a file, or InvalidInput."""
    try:
        return read_bounded(path, _READ_MAX)[0]
    except FileNotFoundError:
        raise NotFound(f"{kind} {path} does not exist; `ota-bridge {made_by}` makes one") from None
    except OSError as error:
        raise InvalidInput(f"{kind} {path} cannot be read: {error.strerror}") from None


def write_signed(path: Path, kind: str, content: bytes) -> None:
    """Make the file; raises Conflict where there is one, or InvalidInput."""
    try:
        write_new(path, content, mode=0o644)
    except FileExistsError:
        raise Conflict(f"{kind} {path} exists already; move it away, or name another with --out") from None
    except OSError as error:
        raise InvalidInput(f"{kind} {path} cannot be written: {error.strerror}") from None
