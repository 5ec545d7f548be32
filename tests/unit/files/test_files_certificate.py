"""A certificate that is read anew when its files change; one that cannot be used never takes the place of one that can."""

import pytest
from test_files_server import certify

from ota_bridge.core.errors import ConfigError
from ota_bridge.files.certificate import Certificate


def test_one_that_cannot_be_used_is_said(tmp_path):
    chain, key = certify(tmp_path, "first")
    with pytest.raises(ConfigError, match="files.certificate .*gone.pem"):
        Certificate(tmp_path / "gone.pem", key)
    key.write_text("nonsense")
    with pytest.raises(ConfigError, match="files.key .*key.pem cannot be used"):
        Certificate(chain, key)


def test_files_that_are_as_they_were_are_not_read_again(tmp_path, caplog):
    certificate = Certificate(*certify(tmp_path, "first"))
    with caplog.at_level("INFO"):
        certificate.look()
        assert [] == caplog.messages
        certify(tmp_path, "second")
        certificate.look()
        assert [f"{tmp_path / 'cert.pem'} was read anew"] == caplog.messages


def test_a_new_one_that_is_no_good_is_told_once_and_the_old_one_stays(tmp_path, caplog):
    chain, _ = certify(tmp_path, "first")
    certificate = Certificate(chain, tmp_path / "key.pem")
    for broken in ("", None):
        caplog.clear()
        if broken is None:
            chain.unlink()
        else:
            chain.write_text(broken)
        certificate.look()
        certificate.look()
        assert 1 == len(caplog.messages)
        assert "the old one stays" in caplog.messages[0]
