"""The Xively C client's Secure File Transfer, as its library 1.3 behaves on a device.

It has no timer and asks for nothing twice: a lost message leaves it waiting until the connection breaks or a new
FILE_UPDATE_AVAILABLE comes. It believes what it is sent: whatever is listed is downloaded, whatever chunk comes for the
file at hand is written and hashed in the order of arrival.

Variants:
- `lib-a`: library 1.3.0 and 1.3.1, which know nothing of URLs; `lib-b` (the default): 1.3.2 to 1.3.4;
  `ext`: the CC3200 client on top of a plain subscription (`xively_ext`).
- the port, without one a CC3200: `esp32` commits whatever firmware was downloaded, booted or not, on every connection;
  `cc3220` takes `firmware.tar` and restarts after every package; `posix` never restarts by itself.
- `file=NAME`: one more file that it may be sent, listed before the firmware.
- `factory`: no revision is stored yet. `rolls-back`: new firmware does not come up. `bad-flash`: the firmware is never
  read back as it was written.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from device_sim.clients import xively_messages as messages
from device_sim.clients.model import (
    Action,
    ClientOptions,
    Incoming,
    Outcome,
    Publish,
    Restart,
    Session,
    Subscribe,
    VendorClient,
    WentWrong,
)
from device_sim.clients.xively_ext import ExtClient
from device_sim.clients.xively_files import RUNNING, Files
from device_sim.clients.xively_messages import CHUNK_BYTES, Available, Chunk, Listed
from device_sim.clients.xively_topics import KEEPALIVE_S, Topics

RESTART_S: Final = 0.5

FetchUrl = Callable[[str, str], bytes | None]
"""The app's handler of download links: URL and file name to the file, or None if it will not."""


def xively_client(options: ClientOptions) -> VendorClient:
    """The client that the variants name."""
    return ExtClient(options) if "ext" in options.variants else XivelyClient(options)


class _Result(NamedTuple):
    """A phase and a code of FILE_STATUS."""

    phase: int
    code: int


DOWNLOADING: Final = _Result(2, 0)
DOWNLOADED: Final = _Result(3, 0)
APPLYING: Final = _Result(4, 0)
FINISHED: Final = _Result(5, 0)
WRITE_FAILED: Final = _Result(4, -3)
MISMATCH: Final = _Result(3, -5)
URL_REFUSED: Final = _Result(2, -6)
URL_FAILED: Final = _Result(3, -7)


@dataclass(slots=True)
class _Package:
    """The memory of one connection: what is downloaded, and the pointers that the library forgets to clear."""

    files: tuple[Listed, ...] = ()
    at: int | None = None
    """Which of `files`; None: nothing is downloaded."""
    content: bytearray = field(default_factory=bytearray)
    digest: "hashlib._Hash | None" = None
    firmware: tuple["_Package", Listed] | None = None
    """The library's pointer to the firmware's entry, and the package in whose memory that lies."""
    waits_for: tuple[str, int] | None = None
    """The request that has no chunk yet: name and offset."""
    replaced: tuple[str, int] | None = None
    """What a package that was cut off had asked for: if its chunk still comes, the hash is spoilt."""


class XivelyClient:
    """One device with library 1.3; see the module."""

    def __init__(self, options: ClientOptions, *, fetch_url: FetchUrl | None = None) -> None:
        variants = options.variants
        self._options = options
        self._topics = Topics.of(options)
        self._is_older = "lib-a" in variants
        self._port = next((port for port in ("esp32", "cc3220", "posix") if port in variants), "cc3200")
        self._firmware_name = "firmware.tar" if self._port == "cc3220" else "firmware.bin"
        extra = sorted(variant.removeprefix("file=") for variant in variants if variant.startswith("file="))
        self._names = [*extra, self._firmware_name]
        self._fetch_url = fetch_url
        self.files = Files(options.state)
        self._package = _Package()
        self._is_new_boot = False
        """The image that runs waits for its commit."""
        self._to_boot: str | None = None
        self._installs = self._restarts = 0
        self._sha256 = ""
        self._failures: list[str] = []
        if self.files.read(RUNNING) is None:
            self.files.write(RUNNING, options.version.encode())
            if "factory" not in variants:
                self.files.set_revision(self._firmware_name, options.version)

    @property
    def outcome(self) -> Outcome:
        return Outcome(
            version=(self.files.read(RUNNING) or b"").decode(),
            sha256=self._sha256,
            installs=self._installs,
            restarts=self._restarts,
            failures=tuple(self._failures),
            is_busy=self._package.waits_for is not None,
        )

    def session(self) -> Session:
        name, secret = self._options.name, self._options.secret
        return Session(client_id=name, username=name, password=secret or None, keepalive_s=KEEPALIVE_S)

    def started(self, now_s: float) -> Sequence[Action]:
        self._boot()
        return []

    def connected(self, now_s: float) -> Sequence[Action]:
        if self._port == "posix":
            self._boot()
        return [Subscribe(topic_filter=self._topics.down, qos=1)]

    def subscribed(self, topic_filter: str, *, granted: bool, now_s: float) -> Sequence[Action]:
        """Everything hangs on this: the firmware is committed, the files are told."""
        if not granted:
            raise WentWrong("the broker refuses its control topic: it tells nothing, and a CC3200 restarts for ever")
        if self._is_new_boot or self._port in {"esp32", "posix"}:
            self.files.commit()
        self._is_new_boot = False
        told = [(name, self.files.revision(name) or messages.NO_REVISION) for name in self._names]
        takes_urls = None if self._is_older else self._fetch_url is not None
        return [self._publish(messages.file_info(told, takes_urls=takes_urls))]

    def received(self, message: Incoming, now_s: float) -> Sequence[Action]:
        if message.topic != self._topics.down:
            return []
        match messages.read(message.payload):
            case Available(files=files):
                if message.retain:
                    raise WentWrong("a retained FILE_UPDATE_AVAILABLE: it installs the same on every connection")
                return self._begin(files)
            case Chunk() as chunk:
                return self._take(chunk)
        return []

    def disconnected(self, now_s: float) -> Sequence[Action]:
        """The library frees what it knows of the package; on flash the file stays half overwritten."""
        self._package = _Package()
        return []

    def tick(self, now_s: float) -> Sequence[Action]:
        return []

    def next_deadline(self) -> float | None:
        return None

    # --- a package ---------------------------------------------------------------------------------------

    def _begin(self, files: tuple[Listed, ...]) -> list[Action]:
        before = self._package
        if not files:
            if before.at is not None:
                raise WentWrong("an empty list while it downloads: it goes on in freed memory")
            return []
        names = [one.name for one in files]
        if self._is_older and len(set(names)) < len(names):
            raise WentWrong("a name stands twice in one list: it never gets past the two")
        self._package = _Package(files=files, firmware=before.firmware, replaced=before.waits_for)
        return self._file(0)

    def _file(self, index: int) -> list[Action]:
        """Ask for the file at `index`, or end the package."""
        package = self._package
        if index == len(package.files):
            return self._end()
        package.at, listed = index, package.files[index]
        package.digest = None
        if listed.name == self._firmware_name:
            package.firmware = (package, listed)
        if listed.url is not None and not self._is_older:
            return self._by_url(listed, listed.url)
        return [self._ask(listed, 0)]

    def _by_url(self, listed: Listed, url: str) -> list[Action]:
        if self._fetch_url is None:
            if not listed.is_by_mqtt:
                raise WentWrong(f"{listed.name} is offered by URL alone to a device that takes none: it hangs")
            return [self._ask(listed, 0)]
        data = self._fetch_url(url, listed.name)
        told: list[Action]
        if data is None:
            told = [self._status(listed, URL_REFUSED)]
        elif hashlib.sha256(data).digest() != listed.fingerprint:
            told = [self._status(listed, DOWNLOADING), self._status(listed, URL_FAILED)]
        else:
            self._package.content[:] = data
            return [self._status(listed, DOWNLOADING), self._status(listed, DOWNLOADED), *self._close(listed)]
        return [*told, self._ask(listed, 0)] if listed.is_by_mqtt else told

    def _ask(self, listed: Listed, offset: int) -> Publish:
        self._package.waits_for = (listed.name, offset)
        length = min(CHUNK_BYTES, listed.size_bytes - offset)
        return self._publish(messages.get_chunk(listed.name, listed.revision, offset, length))

    def _take(self, chunk: Chunk) -> list[Action]:
        package = self._package
        if package.at is None:
            if self._is_older:
                raise WentWrong("a chunk where nothing is downloaded: null pointer")
            return []
        listed = package.files[package.at]
        if chunk.name != listed.name:
            return [self._status(listed, _Result(4 if self._is_older else 3, -1))]
        if (chunk.name, chunk.offset) == package.replaced != package.waits_for:
            raise WentWrong(f"a chunk of {chunk.name} that was on its way when a new list came: it spoils the hash")
        if chunk.offset == 0:
            self.files.write(listed.name, b"")
            package.content.clear()
            package.digest = hashlib.sha256()
        if not chunk.data:
            package.waits_for = None
            return [self._status(listed, WRITE_FAILED)]
        if package.digest is None:
            raise WentWrong(f"a chunk of {chunk.name} at {chunk.offset} where no file is open: null pointer")
        package.content[chunk.offset : chunk.offset + len(chunk.data)] = chunk.data
        package.digest.update(chunk.data)
        package.waits_for = None
        end = chunk.offset + len(chunk.data)
        return [self._ask(listed, end)] if end < listed.size_bytes else self._verify(listed)

    def _verify(self, listed: Listed) -> list[Action]:
        package = self._package
        digest = package.digest.digest() if package.digest is not None else b""
        package.digest = None  # freed, while the file stays the one at hand
        is_spoilt = "bad-flash" in self._options.variants and listed.name == self._firmware_name
        if is_spoilt or digest != listed.fingerprint:
            return [self._status(listed, MISMATCH)]
        return [self._status(listed, DOWNLOADED), *self._close(listed)]

    def _close(self, listed: Listed) -> list[Action]:
        package = self._package
        self.files.write(listed.name, bytes(package.content))
        package.content.clear()
        package.waits_for = None
        told: list[Action] = []
        if listed.name == self._firmware_name:
            self.files.mail(listed.name, listed.revision)
        else:
            told.append(self._status(listed, FINISHED))
            self.files.set_revision(listed.name, listed.revision)
        assert package.at is not None
        return [*told, *self._file(package.at + 1)]

    def _end(self) -> list[Action]:
        package = self._package
        package.at = None
        if package.firmware is None:
            return [Restart(after_s=RESTART_S)] if self._port == "cc3220" else []
        owner, listed = package.firmware
        if owner is not package:
            raise WentWrong(f"a package without {listed.name}, of which it had begun an earlier one: use after free")
        self._to_boot = listed.revision
        told = self._status(listed, APPLYING)
        return [told] if self._port == "posix" else [told, Restart(after_s=RESTART_S)]

    def _boot(self) -> None:
        """Start the image that waits, if one does: by another start of the program, or of its process."""
        if self._to_boot is None:
            return
        revision, self._to_boot = self._to_boot, None
        self._restarts += 1
        if "rolls-back" in self._options.variants:
            return
        self._sha256 = hashlib.sha256(self.files.read(self._firmware_name) or b"").hexdigest()
        self._installs += 1
        self._is_new_boot = True
        self.files.write(RUNNING, revision.encode())

    # --- out ---------------------------------------------------------------------------------------------

    def _status(self, listed: Listed, result: _Result) -> Publish:
        if result.code < 0:
            self._failures.append(f"{listed.name} P{result.phase} S{result.code}")
        return self._publish(messages.file_status(listed.name, listed.revision, *result))

    def _publish(self, payload: bytes) -> Publish:
        return Publish(topic=self._topics.up, payload=payload)
