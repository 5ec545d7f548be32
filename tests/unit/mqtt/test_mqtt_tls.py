"""TLS contexts: each file that cannot be used is named."""

import pytest

from ota_bridge.core.errors import ConfigError
from ota_bridge.mqtt.tls import tls_context
from ota_bridge.wire import TlsFiles


def test_files_that_cannot_be_used_are_named(tmp_path):
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    with pytest.raises(ConfigError, match=r"CA file .*missing.pem"):
        tls_context(TlsFiles(ca=tmp_path / "missing.pem"))
    with pytest.raises(ConfigError, match=r"CA file .*broken.pem"):
        tls_context(TlsFiles(ca=broken))
    with pytest.raises(ConfigError, match=r"certificate .*broken.pem with key .*missing.pem"):
        tls_context(TlsFiles(certificate=broken, key=tmp_path / "missing.pem"))
