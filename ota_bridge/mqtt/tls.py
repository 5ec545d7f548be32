"""The TLS side of a connection to the broker, for every client here."""

import ssl

from ota_bridge.core.errors import ConfigError
from ota_bridge.wire import TlsFiles


def tls_context(files: TlsFiles) -> ssl.SSLContext:
    """Return a verifying client context; or ConfigError naming the file at fault. Blocks: it reads files."""
    try:
        context = ssl.create_default_context(cafile=files.ca)
    except (OSError, ValueError) as error:
        raise ConfigError(f"TLS: cannot use the CA file {files.ca}: {error}") from error
    if files.certificate is not None:
        try:
            # A password is given so that an encrypted key is an error and not a question on the terminal.
            context.load_cert_chain(files.certificate, files.key, password="")
        except (OSError, ValueError) as error:
            pair = f"certificate {files.certificate} with key {files.key or files.certificate}"
            raise ConfigError(f"TLS: cannot use the {pair}: {error}") from error
    return context
