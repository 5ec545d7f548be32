"""`killed_daemon.py POINT:WHEN:NUMBER serve ...`: the daemon, which kills itself (SIGKILL) at one exact moment.

POINT is `commit` or `publish`, WHEN is `before` or `after`, NUMBER counts them from 1.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from sqlite_utils import Database

from ota_bridge.cli import main
from ota_bridge.mqtt.control import ControlLink


def fatal(function: Callable[..., Any], when: str, number: int, is_one: Callable[..., bool]) -> Callable[..., Any]:
    """`function` that kills this process at its `number`-th call that counts."""
    calls = 0

    def called(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += is_one(*args)
        struck = is_one(*args) and calls == number
        if struck and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **options)
        if struck:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return called


if __name__ == "__main__":
    point, when, number = sys.argv.pop(1).split(":")
    if point == "commit":
        Database.execute = fatal(Database.execute, when, int(number), lambda _db, sql, *_: sql == "COMMIT")  # type: ignore[method-assign]
    else:
        ControlLink.publish = fatal(ControlLink.publish, when, int(number), lambda *_: True)  # type: ignore[method-assign]
    main()
