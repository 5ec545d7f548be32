"""The good inputs that damage begins with: from the wire vectors, the samples of the documentation and recorded traffic.

`write` makes what can be made; its files are named by what they hold. What a fuzzer found stands beside them as
`found-…` and is never touched.
"""

import hashlib
import heapq
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from device_sim.clients.alibaba_words import crc16
from device_sim.journal import frame
from device_sim.settings import Download, Final, Settings, Trial
from ota_bridge.config import SETTINGS
from ota_bridge.core.operations import OPERATIONS
from ota_bridge.plan_file.example import EXAMPLE
from tests.fuzz import alibaba_targets, files_targets, query_targets, thingsboard_targets, xively_targets
from tests.fuzz.target import CORPUS, framed
from tests.fuzz.world_targets import (
    ASKED,
    BLOCK,
    FACTS,
    FOREIGN_REQUEST,
    LATER,
    OTHER,
    OWN,
    REPORT,
    REQUEST,
    TIME,
    TOPIC,
    UPDATE,
    Lab,
    fresh_lab,
)

TESTS = Path(__file__).parents[1]
VECTORS = TESTS / "vectors"
FOUND = "found-"


def write() -> int:
    """Make the corpus anew; returns how many bytes it has in all."""
    for name, inputs in made().items():
        directory = CORPUS / name
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.glob("*"):
            if not path.name.startswith(FOUND):
                path.unlink()
        for data in inputs:
            (directory / name_of(data)).write_bytes(data)
    return sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file())


def name_of(data: bytes) -> str:
    """What a file of the corpus is called."""
    return hashlib.sha256(data).hexdigest()[:12]


def made() -> dict[str, list[bytes]]:
    """The good inputs of every target."""
    sys.path.insert(0, str(TESTS))  # the samples are imported as the documentation does it
    import docs_samples

    samples = {name: (one.topic.split("/")[1], one.payload) for name, one in docs_samples.SAMPLES.items()}
    of_kind = lambda kind: [payload for topic, payload in samples.values() if topic == kind]  # noqa: E731
    reports = [*_payloads("native/reports"), *_payloads("native/rejected"), *of_kind("report")]
    requests = [*_payloads("native/blocks", "requests"), *_payloads("native/blocks", "malformed"), *of_kind("get")]
    blocks = [*_payloads("native/blocks", "blocks"), *_payloads("native/blocks", "refusals"), *of_kind("block")]
    updates = [json.dumps(one["body"]).encode() for one in _vectors("native/downlinks") if "body" in one]
    updates += [msgpack.packb(json.loads(one)) for one in updates] + of_kind("update")
    topics = [one.encode() for key in ("good", "bad") for one in _vectors("native/topics", key)]
    envelopes = list(_envelopes())
    tickets = [bytes.fromhex(_vector("manifest/ticket")["ticket"])]
    trusts = [json.dumps(_vector(f"manifest/{name}")["trust"]).encode() for name in ("ed25519", "two_authors")]
    asked = [json.dumps({"op": op, "args": args}).encode() for op, args in _commands()]
    return {
        "json": [*(one for one in reports if one[:1] == b"{"), *trusts, b'[1,-2,null,true,false,"\\u00e9"]'],
        "msgpack": [*(one for one in reports if one[:1] != b"{"), *requests[:4], *blocks[:2]],
        "cbor": [*envelopes, *tickets, *(bytes.fromhex(_vector(f"manifest/{name}")["payload"]) for name in _SIGNED)],
        "topic": [*topics, *(one.replace(b"/report/", b"/get/") for one in topics)],
        "report": reports,
        "request": requests,
        "mqtt": [b"\x03" + _hex(one["hex"]) for name in ("decode", "malformed") for one in _vectors(f"mqtt/{name}")],
        "embedded_topics": [b"$ota/report/+/+\n$ota/#\n#\n$ota/report/prod/d1", b"+/+\na/b\na/#\n/+\na/b", b"+\n#\n\n/x"],
        "manifest": envelopes,
        "keyset": [bytes.fromhex(one["envelope"]) for one in _vectors("keyset/steps", "steps")],
        "ticket": tickets,
        "trust": trusts,
        "key_file": list(_pems()),
        "config_file": list(_config_files()),
        "plan_toml": [*_plans("toml"), EXAMPLE.encode()],
        "plan_yaml": list(_plans("yaml")),
        "config_words": [b"\n".join(list(_config_words())[at : at + 6]) for at in range(0, len(SETTINGS), 6)],
        "broker_url": [b"mqtt://broker", b"mqtts://ann:pa%40ss@[::1]:8884/", b"mqtt://u@10.0.0.1:1883", b"http://x?y#z"],
        "local_request": [*asked, json.dumps({"op": "fleet", "args": {}, "token": "ota_0123abcd_" + 43 * "A"}).encode()],
        "csv_import": [b"device,hw,tags,label\ndemo/d1,r1,a b,Hall 3\ndemo/d2,,,\n", b"device,attr.batch,attr.year\ndemo/d1,A7,2026\ndemo/d2,,-5\n", b'\xef\xbb\xbflabel,device\r\n"x,y",p/d\r\n'],
        "tail": [*reports[:6], *blocks[:2], *updates[:4], b'"text"', b"21.5", b"", b"\xff\x00binary", b' "\\u001b[2J"'],
        "sim_update": updates,
        "sim_block": blocks,
        "sim_journal": list(_records()),
        "sim_options": [b"10/50", b"0.5/1e3", b"never_confirm", b"reboot_in=TRIAL", b"corrupt_chunk=3", b"factory_reset"],
        "core": list(_core_rows()),
        "blocks": list(_block_rows()),
        "operations": [b"\n".join(asked), *(b"\n".join(asked[at : at + 3]) for at in range(0, len(asked), 3))],
        "local_socket": [
            *(one + b"\n" for one in asked[:3]),
            b"".join(one + b"\n" for one in asked[3:6]),
            b'{"op":"release.add","args":{},"upload_bytes":5}\nhello{"op":"fail","args":{}}\n',
            b'{"op":"events","args":{"device":"d1"},"stream":true}\n',
        ],
        "sim_device": list(_device_rows()),
        "query": QUERY_TEXTS,
        "query_tree": [query_targets.QUERIES._env.compile(text.decode()).serialize() for text in QUERY_TEXTS[:4]],
        "window": [b"0 2 * * *\nEurope/Berlin\n7200", b"*/15 1-3,22 * * mon-fri\n\n600", b"30 2 L,15 jan */2\nAustralia/Lord_Howe\n86400"],
        "alibaba": list(_alibaba()),
        "alibaba_topics": [*_alibaba_topics(), *(b"ali/d1" + one for one in _alibaba_topics())],
        "sim_alibaba": list(_alibaba_downlinks()),
        "aws_jobs": list(_aws("/jobs/", b"\0\1\2\3\4")),
        "aws_streams": list(_aws("/streams/", b"\0\1\2\3")),
        "aws_topics": [b"$aws/things/dev1/jobs/" + one for one in (b"get", b"start-next", b"$next/get", b"x/get", b"AFR_OTA-1/update")],
        "sim_aws": [*_aws("/accepted", b""), *(one["text"].encode() for one in _vectors("aws/blocks", "json"))],
        "tencent": list(_tencent()),
        "versions": [b"1.9\n1.10", b"v1.2-rc.1\n1.2+build", b"2.0~beta2\n1.0.2k", b"1.2.0-14-gdeadbeef\n1"],
        "file_request": list(files_targets.seeds()),
        "thingsboard": list(thingsboard_targets.seeds()),
        "xively": list(xively_targets.seeds()),
        "sim_xively": list(xively_targets.device_seeds()),
    }  # fmt: skip


def _alibaba_topics() -> list[bytes]:
    return [topic.encode().replace(b"pk/dn", b"prod/d1") for topic in alibaba_targets.TOPICS]


def _alibaba() -> Iterator[bytes]:
    """Messages of a device, each behind the number of its topic."""
    seen = set()
    for one in _vectors("alibaba/linksdk", "messages"):
        kind = next((at for at, topic in enumerate(alibaba_targets.TOPICS) if topic[:16] == one["topic"][:16]), None)
        if one["does"] == "says" and kind is not None and len(seen) < 12 and one["text"] not in seen:
            seen.add(one["text"])
            at = alibaba_targets.TOPICS.index("/sys/pk/dn/thing/file/download") if "fileBlock" in one["text"] else kind
            yield bytes([at]) + one["text"].encode()
    yield b'\x02{"id": "123","version": "1.0","params": {},"method":"thing.ota.firmware.get"}'
    yield b'\x03{ "id": "2331","params": {"fileInfo":{"streamId":1397345,"fileId":1},"fileBlock":{"size":256,"offset":0 }}}'


def _alibaba_downlinks() -> Iterator[bytes]:
    yield from (one["text"].encode() for one in _vectors("alibaba/linksdk", "messages") if "upgrade" in one["topic"])
    data = bytes(range(64))
    head = b'{"code":200,"data":{"bOffset":0,"fileLength":64,"bSize":64,"fileToken":"default"},"id":"1","message":"success"}'
    yield len(head).to_bytes(2, "big") + head + data + crc16(data).to_bytes(2, "little")


def _aws(part: str, kinds: bytes) -> Iterator[bytes]:
    """What was recorded on topics with this part, after each byte that can choose what it is; not all of the blocks."""
    for name in ("jobs-json", "jobs-cbor", "older-agent"):
        exchange = [step for step in _vectors(f"aws/exchange-{name}", "exchange") if part in step["topic"]]
        of_device = [step for step in exchange if (step["from"] == "device") is bool(kinds)]
        for step in [*of_device[:3], *of_device[-3:]]:
            payload = bytes.fromhex(step["hex"]) if "hex" in step else step["text"].encode()
            yield from (bytes([kind]) + payload for kind in kinds) if kinds else (payload,)


def _tencent() -> Iterator[bytes]:
    """What the vendor's devices said, as the target takes it: the kind of topic, and the message."""
    kinds = {"$ota": 0, "$gateway": 1, "$thing": 2}
    steps = [step for name in ("hub_update", "gateway") for step in _vectors(f"tencent/{name}", "steps")]
    said = [(kinds[step["topic"].split("/")[0]], step["text"]) for step in steps if step["event"] == "up"]
    said += [(step["kind"], step["text"]) for step in _vectors("tencent/messages", "good")]
    yield from dict.fromkeys(bytes([kind]) + text.encode() for kind, text in said)


QUERY_TEXTS = [
    b'attrs.batch == "A7" && older(versions.firmware, "1.10")',
    b'has(attrs.year) && attrs["year"] >= 2024 || "k1" in attrs',
    b'tags.exists(t, t.matches("^eu-[0-9]{1,3}$"))',
    b'last_seen_s > 30 * 86400 ? hw in ["r1", "r2"] : !on_trial',
    b'number(name) % 2 == 1 && duration("36h") > duration("1s")',
    b"attrs.map(k, k + k).size() < 5 // a comment",
    b'size({"a": 1, "b": [2u, 3.5, b"x"]}) == 2',
]


# --- vectors -------------------------------------------------------------------------------------------------

_SIGNED = ("ed25519", "esp256", "optional_fields", "two_authors", "device_and_precursor")


def _vector(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text())
    return found


def _vectors(name: str, key: str = "vectors") -> list[Any]:
    found: list[Any] = _vector(name)[key]
    return found


def _hex(text: str) -> bytes:
    return bytes.fromhex(text.replace(" ", ""))


def _payloads(name: str, key: str = "vectors") -> list[bytes]:
    """Those that are short: a long one is long because it is too long, and a mutator makes that by itself."""
    found = [one["text"].encode() if "text" in one else _hex(one["hex"]) for one in _vectors(name, key)]
    return [one for one in found if len(one) <= 600]


def _envelopes() -> Iterator[bytes]:
    for name in _SIGNED:
        yield bytes.fromhex(_vector(f"manifest/{name}")["envelope"])
    for one in _vectors("manifest/refused", "refused"):
        envelope = bytes.fromhex(one["envelope"])
        if len(envelope) <= 512:
            yield envelope


def _pems() -> Iterator[bytes]:
    for key in (Ed25519PrivateKey.from_private_bytes(bytes(range(32))), ec.derive_private_key(7, ec.SECP256R1())):
        yield key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    yield ec.derive_private_key(7, ec.SECP384R1()).private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    )


# --- configuration and commands ------------------------------------------------------------------------------


def _config_files() -> Iterator[bytes]:
    lines: dict[str, list[str]] = {}
    for setting in SETTINGS:
        if setting.default not in (None, ""):
            section, _, name = setting.name.rpartition(".")
            shown = json.dumps(setting.default, default=str)
            lines.setdefault(section, []).append(f"{name} = {shown}")
    for section, written in lines.items():
        yield "\n".join([f"[{section}]" if section else "", *written, ""]).encode()
    yield b'[broker]\nurl = "mqtts://bridge@broker:8883"\nca = "ca.crt"\ncertificate = "c.crt"\nkey = "c.key"\npassword = "secret word"\n'


def _plans(kind: str) -> Iterator[bytes]:
    """Those of the manual, and one that says everything."""
    page = (TESTS.parent / "docs/rollouts.md").read_text(encoding="utf-8")
    for block in re.findall(rf"^```{kind}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        if block != EXAMPLE:
            yield block.encode()
    yield (VECTORS / f"plans/everything.{kind}").read_bytes()


def _config_words() -> Iterator[bytes]:
    for number, setting in enumerate(SETTINGS):
        value = "" if setting.default is None else str(setting.default).lower()
        yield f"{setting.env_name if number % 2 else setting.name}={value}".encode()


def _commands() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every operation, in an order in which they work."""
    known: dict[str, dict[str, Any]] = {
        "device.add": {"device": "prod/d3", "hw": "r1", "tags": ["a"]},
        "device.import": {
            "rows": [{"device": "prod/d4", "hw": "r1", "tags": ["a"], "label": "Hall 4", "attrs": {"year": 2026}}]
        },
        "rollout.start": {"release": "1.1.0", "percent": 50},
        "device.tag": {"device": "d1", "add": ["a", "b"], "remove": ["c"]},
        "device.set": {"device": "d1", "attrs": {"batch": "A7", "year": 2026}},
        "device.rename": {"device": "d1", "label": "Hall 3"},
        "device.replace": {"device": "d1", "hw": "r2"},
        "device.list": {"product": "prod", "state": "active", "tag": "a"},
        "rollout.percent": {"rollout": "r-000000", "percent": 60},
        "release.withdraw": {"release": "1.2.0", "reason": "bad"},
        "rollout.approve": {"rollout": "r-000000", "note": "looks good"},
        "user.add": {"user": "ann", "roles": ["operator", "admin"]},
        "user.roles": {"user": "ann", "add": ["viewer"], "remove": ["admin"]},
        "token.new": {"user": "ann", "name": "ci", "days": 7},
        "token.revoke": {"token": "ci"},
        "audit.list": {"actor": "ann", "since": "2026-01-31T12:00:00Z", "limit": 10},
        "audit.verify": {"head": "1:" + "ab" * 32},
    }
    for op in sorted(OPERATIONS, key=lambda name: (name != "rollout.start", name)):
        named = {"device": "d1", "release": "1.1.0", "rollout": "r-000000", "user": "ann"}.get(op.partition(".")[0])
        plain = {op.partition(".")[0]: named} if named and not op.endswith("list") else {}
        yield op, known.get(op, {"device": "d1"} if op == "why" else plain)


# --- rows of messages ----------------------------------------------------------------------------------------


def _report(state: str | None, boot: int, seq: int, *, as_json: bool = False, **extra: Any) -> bytes:
    message: dict[str, Any] = {"type": "report_version" if state is None else "report_progress"}
    if state is None:
        version, trial = extra.pop("version", "1.0.0"), extra.pop("trial", 0)
        digest = FACTS.sha256[:8] if version == "1.1.0" else b""
        message |= {"report": {"version": version}, "proto": 1, "hw": "r1", "nonce": bytes(16), "next_s": 60}
        message["parts"] = {"firmware": [version, 2 if digest else 1, digest, trial]}
    else:
        message |= {"report": {"progress": {"state": state, **extra.pop("progress", {})}}, "id": OWN.decode()}
    message |= {"boot": boot, "seq": seq, **extra}
    if not as_json:
        packed: bytes = msgpack.packb(message)
        return packed
    message.pop("nonce", None)
    return json.dumps(message, default=lambda _bytes: "").encode()


def _core_rows() -> Iterator[bytes]:
    """Lives of one device, honest and not."""
    fetched = [(ASKED, b""), (REPORT, _report("downloading", 7, 3, progress={"percent": "40"})), (ASKED, b"")]
    ready = [*fetched, (REPORT, _report("downloaded", 7, 4)), (REPORT, _report("burning", 7, 5))]
    checked_in = (REPORT, _report(None, 7, 2))
    trial = (REPORT, _report(None, 8, 1, version="1.1.0", trial=1))
    yield framed([checked_in, *ready, trial, (REPORT, _report(None, 8, 2, version="1.1.0"))])
    yield framed([*ready, (REPORT, _report(None, 8, 1))])
    yield framed(
        [*fetched, (REPORT, _report("fail", 7, 4, progress={"result_code": "REFUSED_SIG", "result_msg": "x"}))]
    )
    yield framed(
        [(REPORT, _report("defer", 7, 3, retry_after_s=60)), (TIME, b"\0\0\x7f"), (REPORT, _report("reject", 7, 4))]
    )
    yield framed([*ready, trial, (REPORT, _report("rolled_back", 9, 1)), (REPORT, _report(None, 9, 2))])
    yield framed(
        [(REPORT, _report(state, 7, 3 + at)) for at, state in enumerate(("done", "canceled", "too_late", "done"))]
    )
    yield framed(
        [(REPORT, _report("done", 7, 3, id=OTHER.decode())), (REPORT, _report("burning", 7, 4, id=OTHER.decode()))]
    )
    yield framed([(REPORT, _report(None, 7, 2, as_json=True)), (REPORT, _report("burning", 7, 3, as_json=True))])
    yield framed([(REPORT, b'{"type":"report_version","report":{"version":"1.0.0"}}'), (TIME, b"\x01\0\0"), checked_in])
    yield framed([checked_in, checked_in, (REPORT, _report(None, 6, 9)), (REPORT, _report(None, 7, 2, next_s=9))])


def _block_rows() -> Iterator[bytes]:
    def asked(*parts: Any) -> bytes:
        packed: bytes = msgpack.packb(list(parts))
        return packed

    name, leaves = FACTS.sha256[:8], FACTS.merkle_root[:8]
    whole = [(REQUEST, asked(name, at, 1_024, 4)) for at in range(0, 10_000, 4_096)]
    yield framed(whole)
    yield framed([(REQUEST, asked(leaves, 0, 64, 2)), (REQUEST, asked(name, 0, 100, 16, b"\x09\x01")), whole[2]])
    yield framed(
        [whole[0], (FOREIGN_REQUEST, whole[0][1]), (TOPIC, b"$ota/get/prod/d1"), (REQUEST, asked(name, 10_000, 1, 1))]
    )
    yield framed(
        [(REQUEST, asked(name, 0, 4_097, 1)), (REQUEST, asked(name, 0, 1, 5)), (REQUEST, asked(name, 2**63, 1, 1))]
    )


def _records() -> Iterator[bytes]:
    plain = Settings(version="1.0.0")
    download = Download(id="0123456789ab", slot=1, envelope_digest=bytes(32))
    final = Final(id="0123456789ab", state="fail", code="REFUSED_SIG", reason="no", version="1.0.0")
    full = Settings(
        version="1.1.0", boot=9, factory=False, digest=bytes(32), size_bytes=10_000, seqs={"firmware": 4},
        trial=Trial.BOOTED, trial_id="0123456789ab", download=download, final=final,
    )  # fmt: skip
    for counter, settings in ((1, plain), (2, full)):
        yield frame(counter, settings.pack())
    yield frame(3, plain.pack()) + frame(4, full.pack())


class _Recorder(Lab):
    """A lab that keeps what its bridge says, with the times between."""

    def record(self, until: Any) -> list[tuple[int, bytes]]:
        said: list[tuple[int, bytes]] = []
        while not until(self):
            deadline = self.device.deadline_s()
            times = [self.queue[0][0]] if self.queue else []
            times += [] if deadline is None else [deadline]
            before, self.now = self.now, max(self.now, min(times))
            if int(self.now - before):
                said.append((LATER, int(self.now - before).to_bytes(2, "big")))
            if self.queue and self.queue[0][0] <= self.now:
                _, _, kind, payload = heapq.heappop(self.queue)
                said.append((UPDATE if kind == "update" else BLOCK, payload))
                self._do((self.device.update if kind == "update" else self.device.block)(payload, self.now))
            else:
                self._do(self.device.tick(self.now))
        return said


def _device_rows() -> Iterator[bytes]:
    """What an honest bridge says to a device during an update, cut where its messages are too many."""
    path = fresh_lab()
    path.kill()
    for options in ({}, {"short_form": True}, {"encoding": "json"}):
        lab = _Recorder(path.path, path.image, **options)
        path.path.unlink()
        row = lab.record(lambda one: one.device.snapshot().settled)
        lab.kill()
        yield framed(row[:60])
