import os
import signal
import subprocess
import sys

import pytest

from ota_bridge.core.errors import StoreError
from ota_bridge.store.lock import DataDirectoryLock

HOLDER = """
import sys
from pathlib import Path
from ota_bridge.store.lock import DataDirectoryLock
lock = DataDirectoryLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_holder_is_refused_with_the_pid_and_the_directory(tmp_path):
    with DataDirectoryLock(tmp_path), pytest.raises(StoreError) as refused:
        DataDirectoryLock(tmp_path).acquire()

    assert str(tmp_path) in str(refused.value)
    assert f"process {os.getpid()}" in str(refused.value)


def test_it_can_be_had_again_after_release(tmp_path):
    with DataDirectoryLock(tmp_path / "data"):
        pass
    lock = DataDirectoryLock(tmp_path / "data")
    lock.acquire()
    lock.acquire()

    assert lock.path.read_text() == f"{os.getpid()}\n"
    lock.release()
    lock.release()


def test_a_killed_holder_lets_go_and_its_longer_pid_does_not_stay(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=f"process {child.pid}"):
            DataDirectoryLock(tmp_path).acquire()
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()

    (tmp_path / "daemon.pid").write_text("4194304999\n")
    with DataDirectoryLock(tmp_path) as lock:
        assert lock.path.read_text() == f"{os.getpid()}\n"


def test_a_directory_that_cannot_be_used_is_a_clear_error(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(StoreError, match="cannot be used"):
        DataDirectoryLock(tmp_path / "file" / "data").acquire()
