"""An outside subscriber in a process of its own: what it counts no other process of a test can delay.

`python tests/onlooker.py HOST PORT FILTER` says `ready`, then writes one line for each message: monotonic seconds, topic,
`block` or `refusal`, bytes of the whole packet. It shares no code with the bridge. `looking_on(...)` is the way in.
"""

import contextlib
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Sight:
    """One message."""

    at: float
    device: str
    is_block: bool
    packet_bytes: int


class Onlooker:
    """The process, and what it has seen."""

    def __init__(self, process: "subprocess.Popen[bytes]", file: Path) -> None:
        self._process = process
        self._file = file

    def sights(self) -> list[Sight]:
        """All so far."""
        whole = self._file.read_text().rpartition("\n")[0]
        found = (line.split() for line in whole.splitlines()[1:])
        return [
            Sight(float(at), topic.rpartition("/")[2], kind == "block", int(size)) for at, topic, kind, size in found
        ]

    def blocks(self) -> list[Sight]:
        return [sight for sight in self.sights() if sight.is_block]


@contextlib.contextmanager
def looking_on(host: str, port: int, topic_filter: str, file: Path) -> Iterator[Onlooker]:
    """An onlooker for the length of a `with`."""
    with file.open("wb") as out:
        command = [sys.executable, __file__, host, str(port), topic_filter]
        process = subprocess.Popen(command, stdout=out)
    try:
        deadline = time.monotonic() + 20
        while not file.read_bytes().startswith(b"ready\n"):
            assert process.poll() is None, "the onlooker ended"
            assert time.monotonic() < deadline, "the onlooker is not ready"
            time.sleep(0.01)
        yield Onlooker(process, file)
    finally:
        process.kill()
        process.wait()


def most_in_a_second(sights: list[Sight], what: Callable[[Sight], tuple[Hashable, int]], *, after: float = 0.0) -> int:
    """The most in any window of one second that begins after `after`: the sum of what is seen, each key once if 0."""
    window: deque[tuple[float, Hashable, int]] = deque()
    keys: Counter[Hashable] = Counter()
    units = most = 0
    for sight in sights:
        if sight.at < after:
            continue
        key, size = what(sight)
        window.append((sight.at, key, size))
        keys[key] += 1
        units += size
        while window[0][0] <= sight.at - 1.0:
            _, gone, size = window.popleft()
            units -= size
            keys[gone] -= 1
            if not keys[gone]:
                del keys[gone]
        most = max(most, units or len(keys))
    return most


def most_devices(sights: list[Sight], *, after: float = 0.0) -> int:
    return most_in_a_second(sights, lambda sight: (sight.device, 0), after=after)


def most_blocks(sights: list[Sight], *, after: float = 0.0) -> int:
    return most_in_a_second(sights, lambda _: (None, 1), after=after)


def most_bytes(sights: list[Sight], *, after: float = 0.0) -> int:
    return most_in_a_second(sights, lambda sight: (None, sight.packet_bytes), after=after)


# --- the process -------------------------------------------------------------------------------------------------


def _field(text: bytes) -> bytes:
    return len(text).to_bytes(2, "big") + text


def _packet(first: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes([first, len(body)]) + body


def _length(data: bytearray, at: int) -> tuple[int, int] | None:
    """The value of a variable-length integer and where it ends; None where it is not all here."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if not byte & 0x80:
            return value, at
        shift += 7
    return None


def _is_block(payload: bytes) -> bool:
    """Whether the third element of a msgpack array of three or six is binary: a block is, a refusal is not."""
    return payload[:1] == b"\x93"


def main(host: str, port: int, topic_filter: str) -> None:
    connection = socket.create_connection((host, port))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    connection.sendall(
        _packet(0x10, _field(b"MQTT") + b"\x04\x02\x00\x00" + _field(b"onlooker"))
        + _packet(0x82, b"\x00\x01" + _field(topic_filter.encode()) + b"\x00")
    )
    data, out = bytearray(), sys.stdout
    while received := connection.recv(1 << 18):
        at_s = time.monotonic()
        data += received
        start = 0
        while (found := _length(data, start + 1)) and found[0] + found[1] <= len(data):
            length, begin = found
            end = begin + length
            if data[start] >> 4 == 9:
                print("ready", file=out)
            elif data[start] >> 4 == 3:
                topic_end = begin + 2 + int.from_bytes(data[begin : begin + 2], "big")
                kind = "block" if _is_block(data[topic_end:end]) else "refusal"
                print(f"{at_s:.6f}", data[begin + 2 : topic_end].decode(), kind, end - start, file=out)
            start = end
        del data[:start]
        out.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
