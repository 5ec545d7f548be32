"""What `doctor` can tell of the file server: does `files.url` lead there, and what did a proxy make of the answer?

It asks for a link that nobody made. The bridge answers that with 403 and an empty body, and in a way that devices read.
"""

import socket
import ssl
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from ota_bridge.cli.checks_local import Finding, failure, ok, warning
from ota_bridge.config import FileSettings

CHECK: Final = "files"
TRY_S: Final = 5.0
_HEAD_MAX_BYTES: Final = 1_000
"""Devices are known that hold no longer head."""
_READ_MAX_BYTES: Final = 65_536
_NOBODYS: Final = "/f/" + "A" * 46
_FORBIDDEN: Final = 403
_REDIRECTS: Final = range(300, 400)


def file_findings(settings: FileSettings) -> Iterator[Finding]:
    """One finding, if files are served."""
    if settings.host:
        try:
            head = _asked(settings.url)
        except OSError as error:
            yield failure(
                CHECK,
                f"nothing answers at {settings.url}: {error.strerror or error}",
                "does the daemon run with these settings, and does files.url lead to files.host and files.port?",
            )
        else:
            yield _judged(settings.url, head)


def _asked(url: str) -> bytes:
    parts = urlsplit(url)
    host, is_tls = parts.hostname or "", parts.scheme == "https"
    request = f"GET {parts.path.rstrip('/')}{_NOBODYS} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
    with socket.create_connection((host, parts.port or (443 if is_tls else 80)), timeout=TRY_S) as plain:
        sock = _secured(plain, host) if is_tls else plain
        sock.sendall(request.encode())
        head = b""
        while b"\r\n\r\n" not in head and len(head) < _READ_MAX_BYTES and (data := sock.recv(4096)):
            head += data
    return head.partition(b"\r\n\r\n")[0]


def _secured(sock: socket.socket, host: str) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname = False  # devices trust what their firmware says, not what this machine does
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(sock, server_hostname=host)


def _judged(url: str, head: bytes) -> Finding:
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split()
    status = int(words[1]) if len(words) > 1 and words[0].startswith("HTTP/") and words[1].isdecimal() else 0
    if status in _REDIRECTS:
        remedy = "serve the same URL without it, or give devices the other one in files.url"
        return failure(CHECK, f"{url} is redirected ({lines[0][:60]}): devices do not follow", remedy)
    if status != _FORBIDDEN:
        said = repr(lines[0][:60]) if lines[0] else "nothing"
        return failure(
            CHECK, f"{url} leads to something else: it says {said}", "does the proxy pass on /f/ and all below?"
        )
    if not any(line.startswith("Content-Length: ") for line in lines):
        return failure(
            CHECK,
            f"what comes from {url} has no 'Content-Length: ' in this case: devices with Tencent's SDK find no other",
            "keep the proxy from writing names of fields in lower case, and from sending answers in chunks",
        )
    if len(head) > _HEAD_MAX_BYTES:
        remedy = "keep the proxy from adding fields"
        return warning(CHECK, f"a head from {url} has {len(head)} bytes: some devices hold no more than 1,000", remedy)
    text = f"{url} leads to the bridge"
    return ok(
        CHECK, text if urlsplit(url).port is None else f"{text}; devices that read no port from a URL cannot get there"
    )
