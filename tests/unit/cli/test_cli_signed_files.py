"""Files of what authors signed: every way in which they cannot be used is a sentence that names the file."""

import stat

import pytest

from ota_bridge.cli.signed_files import read_signed, write_signed
from ota_bridge.core.errors import Conflict, InvalidInput, NotFound


def test_what_is_written_is_read_again_and_may_be_seen_by_all(tmp_path):
    write_signed(path := tmp_path / "fw.manifest", "manifest", b"signed")
    assert (b"signed", 0o644) == (read_signed(path, "manifest", made_by="x"), stat.S_IMODE(path.stat().st_mode))


def test_one_that_is_not_there_says_what_makes_one(tmp_path):
    with pytest.raises(NotFound, match=r"keyset .*k2 does not exist; `ota-bridge keys rotate propose` makes one"):
        read_signed(tmp_path / "k2", "keyset", made_by="keys rotate propose")


def test_one_that_is_too_large_or_a_directory_is_not_read(tmp_path):
    (tmp_path / "large").write_bytes(bytes(4097))
    for name, why in (("large", "larger than 4096 bytes"), (".", "directory")):
        with pytest.raises(InvalidInput, match=rf"manifest .* cannot be read: .*{why}"):
            read_signed(tmp_path / name, "manifest", made_by="x")


def test_none_is_written_over(tmp_path):
    (path := tmp_path / "k2").write_bytes(b"older")
    with pytest.raises(Conflict, match=r"keyset .*k2 exists already; move it away"):
        write_signed(path, "keyset", b"newer")
    assert b"older" == path.read_bytes()


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(InvalidInput, match=r"keyset .*k2 cannot be written: No such file or directory"):
        write_signed(tmp_path / "nowhere" / "k2", "keyset", b"x")
