"""What an Alibaba device says and hears: topics, CONNECT, the task, the binary reply with its CRC.

`Task` and `Reply` are read as Link SDK 4.1 reads them (aiot_ota_api.c, aiot_mqtt_download_api.c), its faults included.
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from device_sim.clients.alibaba_scan import find_value, read_uint
from device_sim.clients.model import ClientOptions, Session, WentWrong

SUCCESS: Final = 200
CRC_BYTES: Final = 2
TOKEN: Final = "default"  # noqa: S105  what the SDK calls its file; no secret
TOKEN_BUFFER_BYTES: Final = 128
PAYLOAD_MAX_BYTES: Final = 1024 * 1024 + 1
_MD5_HEX: Final = 32
_SHA256_HEX: Final = 64
_SHA256_NAMES: Final = (b"SHA256", b"Sha256")
_TIMESTAMP: Final = "2524608000000"
_KEEPALIVE_S: Final = 1200


@dataclass(frozen=True, slots=True)
class Topics:
    """Of one device. `prefix` is put before each, as a mount point of a broker would."""

    product: str
    device: str
    prefix: str = ""

    @classmethod
    def of(cls, options: ClientOptions) -> "Topics":
        """With the options' prefix, as it is: the vendor's topics begin with a slash of their own."""
        return cls(options.product, options.name, options.prefix)

    def _ota(self, kind: str) -> str:
        return f"{self.prefix}/ota/device/{kind}/{self.product}/{self.device}"

    def _thing(self, kind: str) -> str:
        return f"{self.prefix}/sys/{self.product}/{self.device}/thing/{kind}"

    @property
    def inform(self) -> str:
        return self._ota("inform")

    @property
    def upgrade(self) -> str:
        return self._ota("upgrade")

    @property
    def progress(self) -> str:
        return self._ota("progress")

    @property
    def get(self) -> str:
        return self._thing("ota/firmware/get")

    @property
    def get_reply(self) -> str:
        return self._thing("ota/firmware/get_reply")

    @property
    def download(self) -> str:
        return self._thing("file/download")

    @property
    def download_reply(self) -> str:
        return self._thing("file/download_reply")


def sdk_session(options: ClientOptions) -> Session:
    """The CONNECT of Link SDK 4.1 over TCP: it asks for subscriptions that it does not make (`_ss=1`)."""
    name = f"{options.product}.{options.name}"
    signed = f"clientId{name}deviceName{options.name}productKey{options.product}timestamp{_TIMESTAMP}"  # in this order
    extended = f"timestamp={_TIMESTAMP},_ss=1,_v=sdk-c-4.1.0,securemode=3,signmethod=hmacsha256,ext=3,_conn=tcp_0"
    return Session(
        client_id=f"{name}|{extended}|",
        username=f"{options.name}&{options.product}",
        password=hmac.new(options.secret.encode(), signed.encode(), hashlib.sha256).hexdigest().upper(),
        keepalive_s=_KEEPALIVE_S,
    )


def field_session(options: ClientOptions) -> Session:
    """The CONNECT of a hand-written client."""
    signed = f"clientId{options.name}deviceName{options.name}productKey{options.product}"
    return Session(
        client_id=f"{options.name}|securemode=3,signmethod=hmacsha1|",
        username=f"{options.name}&{options.product}",
        password=hmac.new(options.secret.encode(), signed.encode(), hashlib.sha1).hexdigest(),
        keepalive_s=100,
    )


def crc16(data: bytes) -> int:
    """CRC-16/ARC: polynomial 0x8005 reflected, initial value 0, no final exclusive or."""
    crc = 0
    for byte in data:
        crc = (crc >> 8) ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc


def _crc_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ 0xA001 if byte & 1 else byte >> 1
    return byte


_CRC_TABLE: Final = tuple(_crc_of_byte(byte) for byte in range(256))


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What to download."""

    version: str
    size_bytes: int
    stream_id: int
    file_id: int
    sign: str
    """Lower-case hex."""
    is_md5: bool
    """Else SHA-256, which the SDK does not check where it downloads over MQTT."""
    module: str = ""


def sdk_task(payload: bytes) -> Task | None:
    """A task, or None for what the SDK lets pass without a word. Tasks by URL are among these: its demo does."""
    data = find_value(payload, "data")
    if data is None:
        return None
    version, method, protocol = (find_value(data, key) for key in ("version", "signMethod", "dProtocol"))
    stream_id = find_value(data, "streamId")
    if version is None or method is None or protocol != b"mqtt" or stream_id is None:
        return None
    if method != b"Md5" and method not in _SHA256_NAMES:
        return None
    size, sign, file_id = (find_value(data, key) for key in ("size", "sign", "streamFileId"))
    if size is None or sign is None or file_id is None:
        return None
    if len(sign) != (_MD5_HEX if method == b"Md5" else _SHA256_HEX):
        return None
    return Task(
        version=version.decode("utf-8", "replace"),
        size_bytes=read_uint(size) or 0,
        stream_id=read_uint(stream_id) or 0,
        file_id=read_uint(file_id) or 0,
        sign=sign.decode("ascii", "replace").lower(),
        is_md5=method == b"Md5",
        module=(find_value(data, "module") or b"").decode("utf-8", "replace"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A block as it came: whole, and with the right CRC."""

    offset: int
    data: bytes


def sdk_reply(payload: bytes) -> Reply | None:
    """A block, or None for what the SDK calls bad and asks for again."""
    if len(payload) > PAYLOAD_MAX_BYTES:
        raise WentWrong(f"a message of {len(payload)} bytes does not fit into the SDK's 1 MiB")
    header_bytes = int.from_bytes(payload[:2], "big")
    if 2 + header_bytes > len(payload):
        raise WentWrong(f"a reply of {len(payload)} bytes names {header_bytes} bytes of JSON: it reads past the end")
    header = payload[2 : 2 + header_bytes]
    size_offset = _sdk_header(header)
    if size_offset is None or len(payload) != 2 + header_bytes + size_offset[0] + CRC_BYTES:
        return None
    data = payload[2 + header_bytes : -CRC_BYTES]
    if crc16(data) != int.from_bytes(payload[-CRC_BYTES:], "little"):
        return None
    return Reply(offset=size_offset[1], data=data)


def _sdk_header(header: bytes) -> tuple[int, int] | None:
    """Size and offset. The result of the last look-up is the result of all: without a token every reply is bad."""
    data = find_value(header, "data") if read_uint(find_value(header, "code")) == SUCCESS else None
    if data is None:
        return None
    size, offset, length = (read_uint(find_value(data, key)) for key in ("bSize", "bOffset", "fileLength"))
    token = find_value(data, "fileToken")
    if size is None or offset is None or length is None or token is None:
        return None
    if len(token) >= TOKEN_BUFFER_BYTES:
        raise WentWrong(
            f"a file token of {len(token)} bytes is copied over the end of a buffer of {TOKEN_BUFFER_BYTES}"
        )
    return size, offset


def sdk_request(number: int, task: Task, size_bytes: int, offset: int) -> bytes:
    """Ask for a block; the comma behind fileId is the SDK's."""
    info = f'{{"streamId":{task.stream_id},"fileId":{task.file_id},}}'
    block = f'{{"size":{size_bytes},"offset":{offset}}}'
    params = f'{{"fileToken":"{TOKEN}","fileInfo":{info},"fileBlock":{block}}}'
    return f'{{"id":"{number}","version":"1.0","params":{params}}}'.encode()
