"""The load for nginx: HTTP/1.1 Range requests on connections that stay open, one on the way for each.

`http_load.py port=... image=... block=... [devices= seconds= warmup=]`; words and result as load.c prints them.
"""

import json
import select
import socket
import sys
import time
from pathlib import Path

DEFAULTS = {"port": 0, "devices": 200, "block": 4096, "seconds": 4.0, "warmup": 1.0, "image": ""}
AFTER_S = 0.1


class Client:
    """One connection that asks for one block after the other."""

    def __init__(self, options: dict, image: bytes, number: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", options["port"]))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.image, self.block = image, options["block"]
        self.end = len(image) // self.block * self.block
        self.next = number * self.block % self.end
        self.buffer = b""

    def ask(self, now: float) -> None:
        first = self.offset = self.next
        self.next = (first + self.block) % self.end
        self.asked_s = now
        bounds = f"{first}-{first + self.block - 1}"
        self.sock.send(f"GET /image.bin HTTP/1.1\r\nHost: bench\r\nRange: bytes={bounds}\r\n\r\n".encode())

    def has_answer(self) -> bool:
        """Whether the block is here in full; raises if it is not the one that was asked for."""
        got = self.sock.recv(1 << 17)
        self.buffer += got
        head, _, body = self.buffer.partition(b"\r\n\r\n")
        if got and len(body) < self.block:
            return False
        bounds = b"bytes %d-%d/%d" % (self.offset, self.offset + self.block - 1, len(self.image))
        if not head.startswith(b"HTTP/1.1 206") or bounds not in head:
            raise ValueError(f"this is not the range that was asked for: {head!r}")
        if body != self.image[self.offset : self.offset + self.block]:
            raise ValueError(f"wrong content at offset {self.offset}")
        self.buffer = b""
        return True


def main() -> None:
    given = dict(word.split("=", 1) for word in sys.argv[1:])
    options = {name: type(default)(given.get(name, default)) for name, default in DEFAULTS.items()}
    image = Path(options["image"]).read_bytes()
    clients = [Client(options, image, number) for number in range(options["devices"])]
    of, poller = {one.sock.fileno(): one for one in clients}, select.epoll()
    print("ready", flush=True)
    for one in clients:
        poller.register(one.sock.fileno(), select.EPOLLIN)
        one.ask(time.monotonic())

    def run_for(seconds: float) -> list[float]:
        latencies, end = [], time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            for descriptor, _ in poller.poll(end - now):
                one = of[descriptor]
                if one.has_answer():
                    now = time.monotonic()
                    latencies.append(now - one.asked_s)
                    one.ask(now)
        return latencies

    run_for(options["warmup"])
    print("begin", flush=True)
    began_s = time.monotonic()
    latencies = sorted(run_for(options["seconds"]))
    took_s, count = time.monotonic() - began_s, len(latencies)
    print("end", flush=True)
    run_for(AFTER_S)
    at = [latencies[int(share * (count - 1))] * 1e3 for share in (0.5, 0.99, 1)]
    found = {
        "generator": "Python", "seconds": took_s, "sent": count, "requests": count, "blocks": count, "lost": 0,
        "late": 0, "refusals": {}, "p50_ms": at[0], "p99_ms": at[1], "max_ms": at[2], "lag_p99_ms": 0,
    }  # fmt: skip
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(str(error))
