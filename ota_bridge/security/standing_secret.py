"""A secret of the bridge's own: made once, kept in a file that nobody else can read.

Nothing else depends on it: where it is lost, a new one is made, and what was proven by the old one no longer holds.
"""

import secrets
from pathlib import Path
from typing import Final

from ota_bridge.core.errors import ConfigError
from ota_bridge.security import files

SECRET_BYTES: Final = 32
_OWNER_ONLY: Final = 0o600
_OTHERS: Final = 0o077


def standing_secret(path: Path) -> bytes:
    """What the file holds; makes it where there is none. Raises ConfigError for one that cannot be used."""
    try:
        files.write_new(path, secrets.token_bytes(SECRET_BYTES), mode=_OWNER_ONLY)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(f"the secret {path} cannot be written: {error.strerror}") from error
    try:
        content, status = files.read_bounded(path, SECRET_BYTES)
    except OSError as error:
        raise ConfigError(f"the secret {path} cannot be read: {error.strerror}") from error
    if len(content) != SECRET_BYTES:
        raise ConfigError(f"the secret {path} has {len(content)} bytes, not {SECRET_BYTES}; remove it and start again")
    if status.st_mode & _OTHERS:
        raise ConfigError(f"the secret {path} can be read by others than its owner: chmod 600 {path}")
    return content
