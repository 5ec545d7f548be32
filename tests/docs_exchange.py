"""One whole update, message by message: the bridge's core and block plane against a simulated device, in memory.

Time is simulated and seeds are fixed, so the text that `told` returns is the same every time.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import docs_samples as samples
import msgpack

from device_sim.device import Device
from device_sim.flash import Flash
from device_sim.layout import Layout
from device_sim.model import DeviceConfig, Fault, Reboot
from device_sim.storage import Storage
from device_sim.trust import load_trust
from ota_bridge.block_gateway import BlockGateway
from ota_bridge.core.artifacts import Inline
from ota_bridge.core.blocks import BlockServer
from ota_bridge.core.bridge import Bridge
from ota_bridge.core.catalog import Release, ReleasePart, ReleaseState
from ota_bridge.core.merkle import ChunkHasher
from ota_bridge.core.messages import Event, GrantsChanged, Output, RolloutChanged
from ota_bridge.core.operations import perform
from ota_bridge.core.people import Caller
from ota_bridge.core.rules import Rules
from ota_bridge.core.values import Now, release_id
from ota_bridge.mqtt.codec import Decoder
from ota_bridge.security import manifest, tokens
from ota_bridge.store.memory import MemoryStore
from ota_bridge.store.outcome import Committed
from ota_bridge.wire import MqttMessage

SLOT_BYTES: Final = 64 * 1024
LATENCY_S: Final = 0.02
LIMIT_S: Final = 600.0


class _Source:
    """The artifacts of the one release."""

    def open(self, facts: Any) -> Inline:
        del facts
        return Inline(samples.IMAGE)

    def open_chunk_list(self, facts: Any) -> Inline:
        chunks = ChunkHasher(facts.chunk_bytes, keep_list=True)
        chunks.update(samples.IMAGE)
        chunks.finish()
        return Inline(chunks.chunk_list)


class _Exchange:
    def __init__(self, directory: Path) -> None:
        self.lines: list[str] = []
        self._now_s = 0.0
        self._waiting: list[tuple[float, int, str, bytes]] = []
        self._names: dict[str, str] = {}
        self._store = MemoryStore()
        self._bridge = Bridge(Rules(), verify=lambda signed: manifest.verify(signed, samples.TRUST), ticket=_ticket)
        server = BlockServer(_Source(), block_max=16_384, window_max=16, refusals_per_s=2)
        server.is_loaded = True
        self._blocks = BlockGateway(server, samples.DIALECT)
        self._release()
        samples.TRUST.save(directory / "trust.json")
        config = DeviceConfig(product="demo", device="d1", hw="r1", slot_bytes=SLOT_BYTES)
        layout = Layout.plain(SLOT_BYTES)
        flash = Flash(directory / "flash", layout.chip)
        self._device = Device(
            config=config,
            storage=Storage(flash, layout, version="1.0.0"),
            trust=load_trust(directory / "trust.json"),
            rng=Random(1),
            fault=Fault(),
        )

    def run(self) -> None:
        self._restart()
        while not self._device.snapshot().settled:
            deadline = self._device.deadline_s()
            times = [at for at, *_ in self._waiting] + ([] if deadline is None else [deadline])
            self._now_s = max(self._now_s, min(times))
            assert self._now_s < LIMIT_S, self.lines
            due = min((item for item in self._waiting if item[0] <= self._now_s), default=None)
            if due is None:
                self._do(self._device.tick(self._now_s))
                continue
            self._waiting.remove(due)
            event = self._device.update if due[2] == "update" else self._device.block
            self._do(event(due[3], self._now_s))

    def _release(self) -> None:
        facts = manifest.read(samples.ENVELOPE)
        part = ReleasePart(component="firmware", envelope=samples.ENVELOPE, manifest=facts, md5="")
        release = Release(
            id=release_id("demo", "1.1.0"),
            product="demo",
            version="1.1.0",
            hardware=("r1",),
            parts={"firmware": part},
            state=ReleaseState.ACTIVE,
            created_wall=0.0,
            created_by="you",
        )
        self._commit(lambda unit: (unit.releases.put(release), [])[1])
        self._commit(
            lambda unit: perform(
                unit, self._bridge, "rollout.start", {"release": "1.1.0"}, caller=Caller(user="you"), now=self._clocks()
            )[1]
        )

    def _clocks(self) -> Now:
        return Now(wall=samples.OFFERED_S + self._now_s, mono=self._now_s)

    def _commit(self, work: Callable[[Any], list[Output]]) -> None:
        outcomes: list[Any] = []
        self._store.submit(work, outcomes.append)
        assert isinstance(outcomes[0], Committed), outcomes[0].error
        for output in outcomes[0].value:
            if isinstance(output, GrantsChanged):
                self._blocks.server.apply(output)
            elif isinstance(output, Event):
                if output.kind == "state":
                    self._name(output.data["id"])
                    before = output.data["before"] or "(opened)"
                    self._tell(f"             bridge: {before} → {output.data['after']}")
            elif not isinstance(output, RolloutChanged):
                sent = samples.DIALECT.encode(output)
                assert sent is not None
                self._down("update", sent.payload, self._now_s + LATENCY_S)

    def _do(self, actions: Any) -> None:
        for action in actions:
            if isinstance(action, Reboot):
                self._tell("             device: boots")
                self._restart()
                return
            if action.topic == "report":
                self._report(action.payload)
            else:
                self._get(action.payload)

    def _restart(self) -> None:
        self._waiting.clear()
        self._device.boot(self._now_s)
        self._do(self._device.connected(self._now_s))

    def _report(self, payload: bytes) -> None:
        body = msgpack.unpackb(payload)
        if body["type"] == "report_version":
            version, seq, digest8, trial = body["parts"]["firmware"]
            said = f"firmware {version}, manifest seq {seq}, digest8 {digest8.hex() or 'empty'}, trial {trial}"
        else:
            progress = body["report"]["progress"]
            said = progress["state"] + (f" {progress['percent']} %" if "percent" in progress else "")
        self._tell(f"→ report     {body['type']}  boot {body['boot']} seq {body['seq']}  {said}")
        uplink = samples.DIALECT.decode(MqttMessage(topic=f"$ota/report/{samples.DEVICE}", payload=payload, qos=1))
        self._commit(lambda unit: self._bridge.receive(unit, uplink, self._clocks()))

    def _get(self, payload: bytes) -> None:
        artifact, offset, size, count, *missing = msgpack.unpackb(payload)
        what = "image" if artifact == samples.ARTIFACT else "chunk list"
        more = f", missing {missing[0].hex()}" if missing else ""
        self._tell(f"→ get        {what}: offset {offset}, size {size}, count {count}{more}")
        pieces: list[bytes | memoryview] = []
        self._blocks.handle(f"$ota/get/{samples.DEVICE}".encode(), payload, self._now_s, pieces)
        sizes = []
        for place, (_, block) in enumerate(Decoder(max_packet_bytes=1 << 20).feed(b"".join(pieces))):
            sizes.append(len(msgpack.unpackb(block)[2]))
            self._down("block", block, self._now_s + LATENCY_S + place * 0.0005)
        self._tell(f"← block      {len(sizes)} of {' + '.join(str(number) for number in sizes)} bytes")
        for activity in self._blocks.server.drain(self._clocks().wall, self._clocks().mono):
            self._commit(lambda unit, seen=activity: self._bridge.receive(unit, seen, self._clocks()))

    def _down(self, kind: str, payload: bytes, at_s: float) -> None:
        self._waiting.append((at_s, len(self.lines) * 1000 + len(self._waiting), kind, payload))
        if kind == "update":
            body = msgpack.unpackb(payload)
            more = [f"seqs {body['seqs']}"] if "seqs" in body else []
            more += [f"{word} {self._name(body[word][0])}" for word in ("go", "stop") if word in body]
            if body["type"] == "update_firmware":
                more = [f"id {self._name(body['id'])}, {body['release']}, boot {body['boot']}, apply {body['apply']}"]
            self._tell(f"← update     {body['type']}  {' '.join(more)}".rstrip())

    def _name(self, deployment: str) -> str:
        return self._names.setdefault(deployment, samples.DEPLOYMENT)

    def _tell(self, line: str) -> None:
        self.lines.append(line)


def _ticket(device: Any, nonce: bytes, digest: bytes, wall: float) -> bytes:
    return tokens.issue(
        samples.ONLINE, device=str(device), nonce=nonce, manifest_digest=digest, time_s=int(wall), valid_s=86_400
    )


def told() -> str:
    """The exchange, one message per line."""
    with tempfile.TemporaryDirectory() as directory:
        exchange = _Exchange(Path(directory))
        exchange.run()
    return "\n".join(exchange.lines)
