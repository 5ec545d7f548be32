"""A tiny bridge for tests of the device: signs, offers, serves blocks, acknowledges. Shares no code with it.

Time is simulated: `Lab.run` moves it from one deadline to the next.
"""

import base64
import hashlib
import heapq
import json
import uuid
from dataclasses import dataclass, field
from random import Random

import cbor2
import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from device_sim.device import Device
from device_sim.flash import Flash
from device_sim.layout import Layout
from device_sim.link import Link
from device_sim.model import DeviceConfig, Fault, Reboot
from device_sim.storage import Storage
from device_sim.trust import parse_trust

VENDOR = "example.com"
SLOT_BYTES = 256 * 1024


def sha(data):
    return hashlib.sha256(data).digest()


class Author:
    def __init__(self, seed=1):
        self.private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.raw = self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.kid = sha(self.raw)[:8]

    def entry(self):
        return {"kid": self.kid.hex(), "alg": "ed25519", "public": base64.b64encode(self.raw).decode()}

    def signature(self, payload):
        protected = b"\xa1\x01\x32"
        signed = cbor2.dumps(["Signature1", protected, b"", payload])
        return [protected, {4: self.kid}, None, self.private.sign(signed)]

    def envelope(self, payload):
        if not isinstance(payload, bytes):
            payload = cbor2.dumps(payload, canonical=True)
        return cbor2.dumps([payload, [self.signature(payload)]])


def trust_document(authors, online=(), threshold=1):
    return {
        "format": 1,
        "vendor": VENDOR,
        "threshold": threshold,
        "authors": [author.entry() for author in authors],
        "online": [key.entry() for key in online],
    }


def merkle(leaves):
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha(b"\x01" + merkle(leaves[:split]) + merkle(leaves[split:]))


def leaves_of(image, chunk):
    return [sha(b"\x00" + image[at : at + chunk]) for at in range(0, len(image), chunk)]


def payload_for(image, *, seq=2, version="1.1.0", product="p", hw="r1", chunk_log2=12, **changes):
    vendor = uuid.uuid5(uuid.NAMESPACE_DNS, VENDOR)
    fields = {
        1: 1,
        2: seq,
        3: vendor.bytes,
        4: uuid.uuid5(vendor, f"{product}/{hw}").bytes,
        5: version,
        6: "firmware",
        7: 1,
        8: len(image),
        9: sha(image),
        10: chunk_log2,
        11: merkle(leaves_of(image, 1 << chunk_log2)),
    }
    for key, value in changes.items():
        fields[int(key[1:])] = value
    return {key: value for key, value in sorted(fields.items()) if value is not None}


@dataclass
class Lab:
    """One device, one bridge, and the time between them."""

    path: object
    image: bytes
    config: DeviceConfig = None
    fault: Fault = None
    seed: int = 1
    loss: float = 0.0
    dup: float = 0.0
    delay_s: float = 0.01
    payload: dict = None
    envelope: bytes = None
    encoding: str = "msgpack"
    online_key: Author = None
    short_form: bool = False
    offering: bool = True
    acking: bool = True
    apply: str = "now"
    verdict: str = "go"
    offer_extra: dict = field(default_factory=dict)
    deployment: str = "0123456789ab"

    def __post_init__(self):
        self.author = Author()
        self.digest = sha(self.image)
        self.config = self.config or DeviceConfig(product="p", device="d1", hw="r1", slot_bytes=SLOT_BYTES)
        self.payload = self.payload or payload_for(self.image)
        self.envelope = self.envelope or self.author.envelope(self.payload)
        self.trust = parse_trust(trust_document([self.author], [self.online_key] if self.online_key else []))
        self.rng = Random(self.seed)
        self.fault = self.fault or Fault()
        self.link = Link(loss=self.loss, dup=self.dup, rng=Random(self.seed + 1))
        self.now = 0.0
        self.reports = []
        self.requests = []
        self.payload_bytes = 0
        self.blobs = {}
        chunk = 1 << self.payload.get(10, 12) if isinstance(self.payload.get(10, 12), int) else 4096
        self.serve(self.digest, self.image)
        if isinstance(self.payload.get(11), bytes):
            self.serve(self.payload[11], b"".join(leaves_of(self.image, min(chunk, 65536))))
        self.serve(sha(self.envelope), self.envelope)
        self.queue = []
        self.order = 0
        self.reboots = 0
        self.mangle = lambda block: block
        self.refuse = lambda request: None
        self.on_report = lambda report: None
        self.power_on()

    def serve(self, digest, blob):
        self.blobs[digest] = blob

    def power_on(self):
        """A new process: everything but the flash file is gone."""
        layout = Layout.plain(self.config.slot_bytes)
        self.flash = Flash(self.path, layout.chip)
        self.storage = Storage(self.flash, layout, version=self.config.version)
        self.device = Device(config=self.config, storage=self.storage, trust=self.trust, rng=self.rng, fault=self.fault)
        self.queue.clear()
        self.device.boot(self.now)
        self._do(self.device.connected(self.now))

    def kill(self):
        self.flash.close()

    def run(self, until, limit_s=600.0):
        """Run until `until()` holds; a failure says where everything stood."""
        end = self.now + limit_s
        while not until():
            times = [self.queue[0][0]] if self.queue else []
            deadline = self.device.deadline_s()
            times += [] if deadline is None else [deadline]
            assert times, f"nothing will ever happen again: {self.device.snapshot()}"
            self.now = max(self.now, min(times))
            assert self.now < end, f"not within {limit_s} s: {self.device.snapshot()} {self.states()}"
            if self.queue and self.queue[0][0] <= self.now:
                _, _, kind, payload = heapq.heappop(self.queue)
                event = self.device.update if kind == "update" else self.device.block
                self._do(event(payload, self.now))
            else:
                self._do(self.device.tick(self.now))

    def run_settled(self, limit_s=600.0):
        self.run(lambda: self.device.snapshot().settled, limit_s)

    def states(self):
        return [r["report"]["progress"]["state"] for r in self.reports if r["type"] == "report_progress"]

    def check_ins(self):
        return [r for r in self.reports if r["type"] == "report_version"]

    def send(self, message, after_s=0.0):
        as_json = self.encoding == "json"
        body = json.dumps(self._texts(message)).encode() if as_json else msgpack.packb(message)
        self._push("update", body, after_s)

    def slot_digest(self):
        settings = self.storage.settings
        return self.storage.digest(settings.active, settings.size_bytes)

    def offer(self, check_in, **changes):
        nonce = self._binary(check_in["nonce"])
        ticket = self.ticket(nonce) if self.online_key else None
        manifest = self.envelope
        if self.short_form:
            manifest = [sha(self.envelope), len(self.envelope)]
            if ticket:
                self.serve(sha(ticket), ticket)
                ticket = [sha(ticket), len(ticket)]
        message = {
            "type": "update_firmware",
            "id": self.deployment,
            "release": "p/1.1.0",
            "component": "firmware",
            "manifests": [manifest],
            "boot": check_in["boot"],
            "nonce": nonce,
            "apply": self.apply,
            "block_max": 16384,
            "window_max": 16,
            "resend_after_s": 60,
            **self.offer_extra,
            **changes,
        }
        if ticket and "ticket" not in message:
            message["ticket"] = ticket
        self.send(message)

    def ticket(self, nonce, device=b"p/d1", digest=None):
        return self.online_key.envelope(
            {1: sha(device)[:16], 2: nonce, 3: digest or sha(self.envelope), 4: 1000, 5: 60, 6: 0}
        )

    def _do(self, actions):
        for action in actions:
            if isinstance(action, Reboot):
                self.reboots += 1
                self.queue.clear()
                self.device.boot(self.now)
                self._do(self.device.connected(self.now))
                return
            if action.topic == "report":
                self._report(action.payload)
            else:
                for _ in range(self.link.request_copies()):
                    self._get(action.payload)

    def _report(self, payload):
        report = json.loads(payload) if payload[:1] == b"{" else msgpack.unpackb(payload)
        self.reports.append(report)
        if not self.acking:
            return
        answer = {"type": "report_ack", "boot": report["boot"], "seqs": [report["seq"]]}
        state = report["report"].get("progress", {}).get("state")
        if state == "burning" and self.verdict:
            answer[self.verdict] = [report["id"]]
        if state == "rolled_back" and report["id"] == self.deployment:
            self.deployment = f"{self.deployment}'"  # terminal is terminal: another try is another deployment
        self.on_report(report)
        self.send(answer)
        if report["type"] == "report_version" and self.offering:
            installed = self._binary(report["parts"]["firmware"][2])
            if installed != self.digest[:8]:
                self.offer(report)

    def _get(self, payload):
        artifact, offset, size, count, *missing = msgpack.unpackb(payload)
        self.requests.append((artifact, offset, size, count, *missing))
        refusal = self.refuse(self.requests[-1])
        if refusal is not None:
            self._push("block", msgpack.packb([artifact, offset, *refusal]), 0.0)
            return
        blob = next(blob for digest, blob in self.blobs.items() if digest.startswith(artifact))
        assert offset < len(blob)
        wanted = range(count)
        if missing:
            wanted = [i for i in range(len(missing[0]) * 8) if missing[0][i // 8] >> (i % 8) & 1][:count]
        for index in wanted:
            at = offset + index * size
            if at >= len(blob):
                break
            data = blob[at : at + size]
            self.payload_bytes += len(data)
            if self.link.block_arrives():
                self._push("block", msgpack.packb(self.mangle([artifact, at, data])), index * 0.0005)

    def _push(self, kind, payload, after_s):
        self.order += 1
        heapq.heappush(self.queue, (self.now + self.delay_s + after_s, self.order, kind, payload))

    def _binary(self, value):
        return value if isinstance(value, bytes) else base64.b64decode(value)

    def _texts(self, value):
        if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        if isinstance(value, dict):
            return {key: self._texts(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._texts(item) for item in value]
        return value
