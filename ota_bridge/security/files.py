"""Small files that must not be lost, torn or shown to others: keys and the trust document."""

import os
import tempfile
from pathlib import Path


def read_bounded(path: Path, max_bytes: int) -> tuple[bytes, os.stat_result]:
    """The content and status of a regular file; raises OSError, also for one that is larger."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(0, f"it is larger than {max_bytes} bytes")
    return content, status


def write_new(path: Path, content: bytes, *, mode: int) -> None:
    """Create `path` durably; raises FileExistsError rather than touch what is there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink()
        raise
    _sync_directory(path.parent)


def replace(path: Path, content: bytes, *, mode: int) -> None:
    """Put `content` in the place of `path` at once: a reader sees the old or the new, never a part."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
