"""Alibaba Link SDK on the wire: whose topic it is, JSON as devices write it, and the texts that they can read.

Rules:
1. Some devices look for keys in the text with nothing between key, colon and value, others read it with a fixed
   format: what is written here keeps the order of the vendor's cloud, has no white space and nothing to escape.
2. A device is who its topic says. Behind a prefix that is the level after it, which the broker puts there; the names in
   the vendor's part of the topic are then only what its topics need.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ota_bridge.core.conversation import Update
from ota_bridge.core.errors import InvalidInput, Malformed
from ota_bridge.core.values import FIRMWARE, DeviceId
from ota_bridge.decode import Fields, read_json

PAYLOAD_MAX_BYTES: Final = 2_048
STREAM_BYTES: Final = 3
"""A stream id is that much of the image's SHA-256: numbers up to 2^31 fit into what every device keeps them in."""
FILE_ID: Final = 1
ID_MAX_BYTES: Final = 40
_NAME: Final = re.compile(r"[A-Za-z0-9._:@-]{1,64}")
_ID: Final = re.compile(r"[A-Za-z0-9._:-]*")
_TEXT_OR_COMMA: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|,(?=[ \t\r\n]*[}\]])', re.DOTALL)
_PADDING: Final = b"\0 \t\r\n"


class Kind(StrEnum):
    """What a topic is for."""

    INFORM = "inform"
    PROGRESS = "progress"
    GET = "ota/firmware/get"
    DOWNLOAD = "file/download"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """What a device's topics are made of. `root` ends with a slash: before `ota` and `sys`."""

    root: str
    product_key: str
    name: str

    @property
    def upgrade(self) -> str:
        return f"{self.root}ota/device/upgrade/{self.product_key}/{self.name}"

    @property
    def get_reply(self) -> str:
        return f"{self.root}sys/{self.product_key}/{self.name}/thing/ota/firmware/get_reply"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where devices speak, and which product a ProductKey is."""

    prefix: str = ""
    products: Mapping[str, str]
    """ProductKey to product."""
    product: str = ""
    """Of every other; empty: its ProductKey."""

    def filters(self, *kinds: Kind) -> list[str]:
        """The topic filters of these. A prefix that ends with a slash makes an empty level before the vendor's."""
        roots = [f"{self.prefix}/+/", f"{self.prefix}/+//"] if self.prefix else ["/"]
        return [root + _filter_tail(kind) for root in roots for kind in kinds]

    def read(self, topic: str) -> tuple[DeviceId, Address, Kind]:
        """Whose topic it is, and what for; raises Malformed."""
        levels = topic.split("/")
        owner, at = self._owner(levels)
        tail = levels[at:]
        match tail:
            case ["ota", "device", Kind.INFORM.value | Kind.PROGRESS.value as last, product_key, name]:
                kind = Kind(last)
            case ["sys", product_key, name, "thing", *rest] if "/".join(rest) in {Kind.GET, Kind.DOWNLOAD}:
                kind = Kind("/".join(rest))
            case _:
                raise Malformed(f"topic {topic[:120]!r} is none of Alibaba's")
        if not _NAME.fullmatch(product_key) or not _NAME.fullmatch(name):
            raise Malformed(f"topic {topic[:120]!r} names no device")
        product = self.products.get(product_key, self.product or product_key)
        try:
            device = DeviceId(product, name if owner is None else owner)
        except InvalidInput as error:
            raise Malformed(f"topic: {error}") from error
        root = "/".join(levels[:at]) + "/"
        return device, Address(root=root, product_key=product_key, name=name), kind

    def _owner(self, levels: list[str]) -> tuple[str | None, int]:
        """Who the broker says it is, None without a prefix; and where the vendor's levels begin."""
        before = self.prefix.split("/") if self.prefix else []
        if levels[: len(before)] != before or len(levels) < len(before) + 2:
            raise Malformed("the topic is not behind the prefix")
        at = len(before) + 1
        if not before:
            if levels[0]:
                raise Malformed("the topic does not begin with a slash")
            return None, at
        return levels[at - 1], at + (levels[at] == "")


def _filter_tail(kind: Kind) -> str:
    return f"sys/+/+/thing/{kind}" if kind in {Kind.GET, Kind.DOWNLOAD} else f"ota/device/{kind}/+/+"


def read_body(payload: bytes) -> Fields:
    """A device's JSON: commas before a closing bracket and padding behind it are let pass. Raises Malformed."""
    if len(payload) > PAYLOAD_MAX_BYTES:
        raise Malformed(f"{len(payload)} bytes: at most {PAYLOAD_MAX_BYTES} are read")
    text = _TEXT_OR_COMMA.sub(lambda found: b"" if found[0] == b"," else found[0], payload.rstrip(_PADDING))
    return Fields(read_json(text, max_bytes=PAYLOAD_MAX_BYTES, floats=True))


def read_id(body: Fields) -> str:
    """The id of a request as it stands in an answer, with quotes where it had them; `"0"` where it had none."""
    if "id" not in body:
        return '"0"'
    try:
        return str(body.uint("id", maximum=2**64 - 1))
    except Malformed:
        return f'"{body.text("id", max_bytes=ID_MAX_BYTES, pattern=_ID)}"'


def stream_id(sha256: bytes) -> int:
    """What names an image in a task and in requests for its blocks."""
    return int.from_bytes(sha256[:STREAM_BYTES], "big")


def task_data(update: Update, module: str) -> str:
    """What a task is about, keys in the vendor's order. The method is `Md5`: no other spelling is read by all."""
    named = "" if update.component == FIRMWARE else f'"module":"{module}",'
    return (
        f'{{"size":{update.size_bytes},"streamId":{stream_id(update.sha256)},{named}"sign":"{update.md5}",'
        f'"dProtocol":"mqtt","version":"{update.version}","signMethod":"Md5","streamFileId":{FILE_ID},'
        f'"md5":"{update.md5}"}}'
    )


def push(data: str, wall: float) -> bytes:
    """A task that nobody asked for."""
    return f'{{"code":"1000","data":{data},"id":{int(wall * 1000)},"message":"success"}}'.encode()


def get_reply(data: str, request_id: str) -> bytes:
    """The answer to a device that asks; `data` is `{}` where there is no task."""
    return f'{{"code":200,"data":{data},"id":{request_id},"message":"success"}}'.encode()
