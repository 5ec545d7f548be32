"""The HTTP client of the Tencent SDK: what it makes of a URL, what it sends, what it understands of an answer.

It never reads a port, asks for one byte more than there is, finds `Content-Length: ` in exactly these letters, and
follows nothing. What it cannot do is `AttemptFailed` with the codes that the device then reports; where it would never
come back it is `WentWrong`.
"""

from dataclasses import dataclass
from typing import Final

from device_sim.clients.model import WentWrong

HTTP_PORT: Final = 80
HTTPS_PORT: Final = 443
HOST_MAX_BYTES: Final = 63
PATH_MAX_BYTES: Final = 1023
REQUEST_MAX_BYTES: Final = 1023
HEAD_MAX_BYTES: Final = 1042
HEAD_S: Final = 3.0
"""The first byte may take this long."""

TIMED_OUT: Final = "-1"
MISSING: Final = "-2"
FORBIDDEN: Final = "-3"
MISMATCH: Final = "-4"
FAILED: Final = "-5"

_ACCEPTS: Final = (
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Encoding: gzip, deflate\r\n"
)


class AttemptFailed(Exception):
    """This download comes to nothing; `codes` are what is reported of it, in order, before the next attempt."""

    def __init__(self, why: str, *codes: str) -> None:
        super().__init__(why)
        self.codes = codes or (FAILED,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a URL leads."""

    host: str
    path: str
    port: int


def place(url: str, *, is_explorer: bool, has_tls: bool) -> Place:
    """What the SDK makes of a URL; raises AttemptFailed."""
    scheme, found, rest = url.partition("://")
    if not found or len(scheme) > len("https12"):
        raise AttemptFailed("could not find host")
    host, slash, path = rest.partition("/")
    path = (slash + path).partition("#")[0] or "/"
    if ":" in host:
        raise AttemptFailed(f"{host!r} is looked up as a name: ports are not read")
    if not 0 < len(host) <= HOST_MAX_BYTES:
        raise AttemptFailed("the host has no name or one of more than 63 bytes")
    if len(path) > PATH_MAX_BYTES:
        raise AttemptFailed("the path has more than 1023 bytes")
    is_secure = "https" in url if is_explorer and has_tls else scheme == "https"
    if is_secure and has_tls:
        raise AttemptFailed("no server here has a certificate of the two authorities that are built in")
    # Without TLS in the build both speak plain HTTP, the hub's to the port that is not for it.
    return Place(host=host, path=path, port=HTTPS_PORT if is_secure and not is_explorer else HTTP_PORT)


def request(where: Place, offset: int, file_size: int) -> bytes:
    """The GET. Its range ends one byte after the file. Raises WentWrong where it would never be finished."""
    head = f"GET {where.path} HTTP/1.1\r\nHost: {where.host}\r\n"
    whole = f"{head}{_ACCEPTS}Range: bytes={offset}-{file_size}\r\n\r\n"
    if len(whole) > REQUEST_MAX_BYTES:
        whole = f"{head}\r\n"  # the send buffer has no room for the rest
    if len(whole) > REQUEST_MAX_BYTES:
        raise WentWrong(f"a path of {len(where.path)} bytes: the request has no end, and `percent` 0 goes out for ever")
    return whole.encode("latin-1")


def content_bytes(head: bytes, *, is_explorer: bool) -> int:
    """How many bytes of body a response head announces; raises AttemptFailed and WentWrong."""
    if len(head) > HEAD_MAX_BYTES:
        raise AttemptFailed(f"a response head of {len(head)} bytes")
    status = _status(head)
    if status == 404:  # noqa: PLR2004
        raise AttemptFailed("404", MISSING, FAILED)
    if status == 403:  # noqa: PLR2004
        raise AttemptFailed("403", FORBIDDEN, FAILED)
    if 300 <= status <= 399:  # noqa: PLR2004
        raise WentWrong(f"status {status} is not followed: `percent` 0 goes out ten times a second for ever")
    if status != 416 and not 200 <= status <= 299:  # noqa: PLR2004
        raise WentWrong(f"the body of status {status} is taken for firmware, and then it waits for ever")
    if b"Transfer-Encoding: chunked" in head:
        raise AttemptFailed("chunked", *((FAILED,) if is_explorer else (MISSING, FAILED)))
    _, found, rest = head.partition(b"Content-Length: ")
    digits = rest[: len(rest) - len(rest.lstrip(b"0123456789"))]
    if not found or not digits:
        raise AttemptFailed("no `Content-Length: `")
    return int(digits)


def _status(head: bytes) -> int:
    version, _, rest = head.partition(b" ")
    digits = rest[:3]
    if not version.startswith(b"HTTP/") or not digits.isdigit():
        raise AttemptFailed(f"not a response: {head[:40]!r}")
    return int(digits)
