"""What `doctor` can tell without a broker: the clock, SQLite, the disk, keys, files, and the daemon."""

import os
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from ota_bridge.cli.output import duration, size
from ota_bridge.cli.session import Session
from ota_bridge.config import Config
from ota_bridge.core.errors import OperatorError, StoreError
from ota_bridge.security.authority import newest
from ota_bridge.security.keys import load_key
from ota_bridge.web.local_client import DaemonNotRunning

_OLDEST_YEAR: Final = 2025
_CLOCK_SLACK_S: Final = 120.0
_WAL_RESET_FIXED: Final = (3, 51, 3)
_FREE_WARNING_BYTES: Final = 512 << 20
_FREE_FAILURE_BYTES: Final = 16 << 20


class Level(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report."""

    check: str
    level: Level
    text: str
    remedy: str = ""


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(check=check, level=Level.OK, text=text)


def warning(check: str, text: str, remedy: str) -> Finding:
    """It works, but."""
    return Finding(check=check, level=Level.WARNING, text=text, remedy=remedy)


def failure(check: str, text: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(check=check, level=Level.FAILURE, text=text, remedy=remedy)


def local_findings(session: Session) -> Iterator[Finding]:
    """All checks of this machine, one after the other."""
    config = session.config
    yield daemon_finding(session)
    yield disk_finding(config.data_dir)
    yield clock_finding(config.data_dir, time.time())
    yield sqlite_finding(sqlite3.sqlite_version)
    yield trust_finding(config)
    yield online_key_finding(config)
    if config.file is not None:
        yield config_file_finding(config)


def daemon_finding(session: Session) -> Finding:
    """Whether it runs, and whether both of its links are up."""
    try:
        status: dict[str, Any] = session.client().call("bridge.status", {})
    except DaemonNotRunning:
        return warning("daemon", "no daemon is running", "start it with `ota-bridge serve`")
    except OperatorError as error:
        return failure("daemon", str(error), "look at its log, restart it")
    down = [name for name in ("control", "blocks") if status.get(name) != "up"]
    if down:
        return failure("daemon", f"running, but down: {' and '.join(down)} link", "see `broker` below, and its log")
    return ok("daemon", f"running, both links up to {status.get('broker')}")


def disk_finding(data_dir: Path) -> Finding:
    """Whether the data directory (or where it will be made) can be written, and how much room is left."""
    place = data_dir
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".ota-bridge-doctor-") as file:
            file.write(b"written by ota-bridge doctor")
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(place).free
    except OSError as error:
        return failure("disk", f"{place} cannot be written: {error.strerror}", f"chown or chmod {place}, free space")
    text = f"{place} is writable, {size(free)} free"
    if free < _FREE_FAILURE_BYTES:
        return failure("disk", text, "free some space, or move data_dir")
    if free < _FREE_WARNING_BYTES:
        return warning("disk", text, "free some space, or move data_dir")
    return ok("disk", text)


def clock_finding(data_dir: Path, now: float) -> Finding:
    """Whether the wall clock can be right: not before this program, not before what it wrote."""
    remedy = "set the clock and keep it with NTP (timedatectl set-ntp true): deadlines and tickets go by it"
    shown = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if datetime.fromtimestamp(now, UTC).year < _OLDEST_YEAR:
        return failure("clock", f"it says {shown}, before this program was written", remedy)
    newest = max(_written_at(data_dir), default=0.0)
    if newest > now + _CLOCK_SLACK_S:
        return failure("clock", f"it says {shown}, {duration(newest - now)} before the last thing written", remedy)
    return ok("clock", shown)


def _written_at(data_dir: Path) -> Iterator[float]:
    from ota_bridge.daemon import DATABASE
    from ota_bridge.store.sqlite import open_readonly

    database = data_dir / DATABASE
    if not database.is_file():
        return
    yield database.stat().st_mtime
    try:
        reader = open_readonly(database)
    except StoreError:
        return
    try:
        yield reader.last_commit_wall() or 0.0
    finally:
        reader.close()


def sqlite_finding(version: str) -> Finding:
    """Whether this SQLite can damage a database that two connections write."""
    parts = tuple(int(part) for part in version.split("."))
    if parts >= _WAL_RESET_FIXED:
        return ok("sqlite", f"{version}")
    return warning(
        "sqlite",
        f"{version} has the WAL-reset bug (fixed in 3.51.3); the bridge avoids it: one connection writes and "
        "checkpoints, all others only read",
        "do not write to the database with other programs while the daemon runs; upgrade when your system does",
    )


def trust_finding(config: Config) -> Finding:
    """Whether the trust document is there and can be used."""
    try:
        trust = newest(config.security.trust, config.own_trust_path)
    except OperatorError as error:
        return failure("trust", str(error), "make one with `ota-bridge keys new`, or set security.trust")
    if trust.test_keys and not config.security.allow_test_keys:
        kids = ", ".join(key.kid.hex() for key in trust.test_keys)
        return failure("trust", f"it names test keys: {kids}", "remove them, or set security.allow_test_keys for a lab")
    keyset = trust.keyset
    return ok(
        "trust",
        f"keyset {keyset.version}: {len(keyset.authors)} author(s) of {trust.vendor}, {keyset.threshold} must sign",
    )


def online_key_finding(config: Config) -> Finding:
    """Whether the daemon's key for tickets is there and devices know it."""
    path = config.security.online_key
    try:
        loaded = load_key(path)
    except OperatorError as error:
        return warning("online key", f"{error}: offers go without freshness tickets", "make one with `keys new`")
    try:
        keyset = newest(config.security.trust, config.own_trust_path).keyset
        known = any(key.kid == loaded.key.kid for key in keyset.online)
    except OperatorError:
        known = True  # the check of the trust document says it
    if not known:
        return failure(
            "online key",
            f"{path} holds {loaded.key.kid.hex()}; it is not in keyset {keyset.version}: devices refuse its tickets",
            "name the right file in security.online_key, or let authors name this key with `keys rotate`",
        )
    if loaded.warning:
        return warning("online key", loaded.warning, f"chmod 600 {path}")
    return ok("online key", loaded.key.kid.hex())


def config_file_finding(config: Config) -> Finding:
    """Whether a file with a password in it can be read by others."""
    assert config.file is not None
    origin = f"file {config.file}"
    names = ("broker.password", "broker.blocks_password", "broker.url")
    has_secret = any(config.provenance[name] == origin and config.value(name) for name in names)
    mode = stat.S_IMODE(config.file.stat().st_mode)
    if has_secret and mode & 0o077:
        return warning(
            "configuration",
            f"{config.file} may hold a password and others can read it (mode {mode:04o})",
            f"chmod 600 {config.file}, or use broker.password_file",
        )
    return ok("configuration", str(config.file))
