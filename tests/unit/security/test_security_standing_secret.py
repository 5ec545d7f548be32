"""The bridge's own secret: made once, for its owner alone."""

import stat

import pytest

from ota_bridge.core.errors import ConfigError
from ota_bridge.security.standing_secret import standing_secret


def test_it_is_made_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "secret"
    made = standing_secret(path)
    assert (32, 0o600) == (len(made), stat.S_IMODE(path.stat().st_mode))
    assert made == standing_secret(path)
    assert made != standing_secret(tmp_path / "another")


@pytest.mark.parametrize(
    ("content", "mode", "sentence"),
    [
        (b"x" * 31, 0o600, "has 31 bytes, not 32"),
        (b"x" * 33, 0o600, "larger than 32 bytes"),
        (b"x" * 32, 0o640, "can be read by others"),
        (b"x" * 32, 0o604, "can be read by others"),
    ],
)
def test_one_that_cannot_be_used_is_refused(tmp_path, content, mode, sentence):
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=sentence):
        standing_secret(path)


def test_where_it_cannot_be_written_that_is_said(tmp_path):
    with pytest.raises(ConfigError, match="cannot be written"):
        standing_secret(tmp_path / "gone" / "secret")
