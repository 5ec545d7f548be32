"""Plain reads while no daemon runs: the same operations, over the database opened for reading only."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from ota_bridge.calendars import CronCalendar
from ota_bridge.config import Config
from ota_bridge.core.bridge import Bridge
from ota_bridge.core.errors import NotFound
from ota_bridge.core.operations import OPERATIONS, perform
from ota_bridge.core.people import Caller
from ota_bridge.core.values import Now
from ota_bridge.daemon import DATABASE, rules_of
from ota_bridge.queries import CelQueries
from ota_bridge.store.sqlite import open_readonly
from ota_bridge.web.local_client import DaemonNotRunning

_WHO_READS: Final = Caller(user="", is_owner=True)
"""Who can open the file: to ask for a role would only pretend."""


def read_database(config: Config, op: str, args: Mapping[str, Any], not_running: DaemonNotRunning) -> tuple[Any, float]:
    """The result of a read and the wall time of the last commit; raises `not_running` where this cannot be."""
    path = config.data_dir / DATABASE
    operation = OPERATIONS.get(op)
    if operation is None or operation.writes or not path.is_file():
        raise not_running
    return read_file(config, path, op, args)


def read_file(config: Config, path: Path, op: str, args: Mapping[str, Any]) -> tuple[Any, float]:
    """The result of a read over the database at `path`; raises NotFound or StoreError where it cannot be opened."""
    if not path.is_file():
        raise NotFound(f"there is no database {path}")
    reader = open_readonly(path)
    try:
        as_of = reader.last_commit_wall() or path.stat().st_mtime
        result = reader.read(lambda unit: perform(unit, _bridge(config), op, args, caller=_WHO_READS, now=_now())[0])
    finally:
        reader.close()
    return result, as_of


def _bridge(config: Config) -> Bridge:
    return Bridge(rules_of(config), verify=_never, ticket=_never, queries=CelQueries(), calendar=CronCalendar())


def _never(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("a read neither verifies nor signs")


def _now() -> Now:
    return Now(wall=time.time(), mono=time.monotonic())
