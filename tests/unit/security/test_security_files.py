"""Small files: new or whole, never torn, nothing left behind."""

import errno
import os

import pytest

from ota_bridge.security import files


def test_a_new_file_is_written_once(tmp_path):
    path = tmp_path / "a"
    files.write_new(path, b"one", mode=0o600)
    with pytest.raises(FileExistsError):
        files.write_new(path, b"two", mode=0o600)
    assert path.read_bytes() == b"one"


def test_a_full_disk_leaves_no_half_of_a_new_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_new(path, b"one", mode=0o600)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.replace(path, b"new", mode=0o644)
    assert ([path], b"old") == (list(tmp_path.iterdir()), path.read_bytes())


def test_reading_is_bounded(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"123")
    assert files.read_bounded(path, 3)[0] == b"123"
    with pytest.raises(OSError, match="larger than 2 bytes"):
        files.read_bounded(path, 2)


def full(_descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")
