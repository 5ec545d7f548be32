"""What is answered to a request: the status, the head, the range of the image. Pure; no sockets, no clock.

The heads are made for devices that read them with a text search and a small buffer, and are proper HTTP beside that:

1. `Content-Length: N` is in every answer but 304, in this case and with one space. Nothing is ever sent in chunks or
   compressed, whatever a request accepts.
2. A head has at most HEAD_MAX_BYTES.
3. No 5xx and no redirect, ever: there are devices that take the body of a 500 for firmware and wait for the rest of it
   without end. Who has to wait gets no answer for a while, and then none at all. The 304 is only for who asks for it.
4. A range is honoured whenever it can be: who asks for one has the bytes before it.
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from ota_bridge.files.links import PATH
from ota_bridge.files.ranges import NoRange, Span, read_range

HEAD_MAX_BYTES: Final = 500
METHODS: Final = ("GET", "HEAD")
_TAG: Final = re.compile(r'(W/)?("[^"]*")')
_TAGS_MAX: Final = 100

Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request, as far as it matters here. Names of header fields are in lower case."""

    method: str
    target: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer. `span` None: it has no body."""

    status: HTTPStatus
    fields: Fields = (("Content-Length", "0"),)
    span: Span | None = None

    def head(self, wall: float) -> list[tuple[bytes, bytes]]:
        """The fields as they go out, in this order."""
        fields = (("Date", formatdate(wall, usegmt=True)), *self.fields)
        return [(name.encode(), value.encode()) for name, value in fields]


BAD: Final = Answer(status=HTTPStatus.BAD_REQUEST)
FORBIDDEN: Final = Answer(status=HTTPStatus.FORBIDDEN)
NOT_FOUND: Final = Answer(status=HTTPStatus.NOT_FOUND)
OTHER_METHOD: Final = Answer(
    status=HTTPStatus.METHOD_NOT_ALLOWED, fields=(("Allow", ", ".join(METHODS)), ("Content-Length", "0"))
)
TOO_LARGE: Final = Answer(status=HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)


def code_of(target: str, base_path: str) -> str | None:
    """The code in the target of a request; None for any other path.

    `base_path` is that of the public URL: a proxy passes it on, or does not.
    """
    path = target.partition("?")[0]
    if "://" in path:  # the absolute form, which every server has to take
        path = "/" + path.partition("://")[2].partition("/")[2]
    for start in (base_path.rstrip("/") + PATH, PATH):
        if path.startswith(start):
            return path[len(start) :]
    return None


def answer(asked: Asked, *, size: int, digest: bytes) -> Answer:
    """The answer to a GET or HEAD for an image of `size` bytes, of which `digest` is the name."""
    tag = f'"{digest.hex()}"'
    fields = asked.fields
    if "if-match" in fields and not _names(fields["if-match"], tag, weak=False):
        return Answer(status=HTTPStatus.PRECONDITION_FAILED)
    if "if-none-match" in fields and _names(fields["if-none-match"], tag, weak=True):
        return Answer(status=HTTPStatus.NOT_MODIFIED, fields=_about(tag))
    wanted: Span | NoRange = NoRange.WHOLE
    if asked.method == "GET" and "range" in fields and fields.get("if-range", tag).strip() == tag:
        wanted = read_range(fields["range"], size)
    extra: Fields = ()
    match wanted:
        case NoRange.UNSATISFIABLE:
            return Answer(
                status=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
                fields=(("Content-Range", f"bytes */{size}"), ("Content-Length", "0"), *_about(tag)),
            )
        case NoRange.WHOLE:
            status, span = HTTPStatus.OK, Span(0, size)
        case Span(start=start, end=end):
            status, span = HTTPStatus.PARTIAL_CONTENT, wanted
            extra = (("Content-Range", f"bytes {start}-{end - 1}/{size}"),)
    head = (("Content-Type", "application/octet-stream"), ("Content-Length", str(span.end - span.start)))
    has_body = asked.method == "GET" and span.end > span.start
    return Answer(status=status, fields=(*head, *extra, *_about(tag)), span=span if has_body else None)


def _about(tag: str) -> Fields:
    return (("ETag", tag), ("Accept-Ranges", "bytes"), ("Cache-Control", "private, no-transform"))


def _names(text: str, tag: str, *, weak: bool) -> bool:
    """Whether a list of entity tags has this one; `weak`: those marked as weak count, too."""
    if text.strip() == "*":
        return True
    found = itertools.islice(_TAG.finditer(text), _TAGS_MAX)
    return any(one[2] == tag and (weak or not one[1]) for one in found)
