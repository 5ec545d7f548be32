"""The decoders of the bridge: messages, topics, MQTT, manifests, configuration, the operators' side."""

import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import cbor2
import msgpack
from paho.mqtt.client import topic_matches_sub

from device_sim import cbor as sim_cbor
from device_sim import manifest as sim_manifest
from device_sim import options as sim_options
from device_sim import trust as sim_trust
from device_sim.envelope import Key as SimKey
from device_sim.errors import KeysetRefused as SimKeysetRefused
from device_sim.errors import Malformed as SimMalformed
from device_sim.errors import ManifestRefused as SimRefused
from device_sim.errors import OptionError
from ota_bridge import config
from ota_bridge.cli.device import read_rows
from ota_bridge.cli.output import plain
from ota_bridge.cli.tail import as_text
from ota_bridge.config import SETTINGS, Config
from ota_bridge.core.errors import ConfigError, InvalidInput, KeysetReason, KeysetRefused, Malformed, ManifestRefused
from ota_bridge.core.messages import CheckIn, Event, Progress, Rejected
from ota_bridge.core.operations import OPERATIONS, checked_arguments
from ota_bridge.core.people import parse_token, without_tokens
from ota_bridge.core.rollout.plan_json import plan_from
from ota_bridge.core.values import DeviceId, checked_attributes
from ota_bridge.decode import MapKeys, read_cbor, read_json, read_msgpack
from ota_bridge.dialect import MalformedRequest
from ota_bridge.dialects.native import NativeDialect, event_line
from ota_bridge.mqtt.codec import Decoder, Publish
from ota_bridge.mqtt.embedded_topics import Subscriptions
from ota_bridge.plan_file import read_plan_text
from ota_bridge.plan_file.form import tables
from ota_bridge.plan_file.toml_text import read_toml
from ota_bridge.plan_file.yaml_text import read_yaml
from ota_bridge.security import cbor, keyset, manifest, tokens
from ota_bridge.security.keys import Algorithm, PublicKey, _parse_pem
from ota_bridge.security.trust import Trust
from ota_bridge.settings import HIDDEN, nearest
from ota_bridge.store.rows import body_text
from ota_bridge.web.local import UPLOAD_MAX_BYTES, _read_request, _refusal
from ota_bridge.wire import MqttMessage, parse_broker_url
from tests.fuzz.mutate import CBOR, JSON, MSGPACK
from tests.fuzz.target import Target, text_of

VECTORS = Path(__file__).parents[1] / "vectors"
DEVICE = DeviceId("prod", "d1")
REPORT_TOPIC = f"$ota/report/{DEVICE}"
DIALECT = NativeDialect("$ota")
PACK = msgpack.Packer().pack  # packb takes 256 KiB each time
REPORT_BYTES, REQUEST_BYTES, ENVELOPE_BYTES = 8_192, 2_304, 512


def sampled(data: bytes) -> bool:
    """One refused input in four is given to the other program, too: by itself, so that it is the same when seen again."""
    return sum(data[-4:]) % 4 == 0


# --- the three readers ---------------------------------------------------------------------------------------


def json_value(data: bytes) -> None:
    value = read_json(data, max_bytes=REPORT_BYTES)
    assert value == read_json(json.dumps(value).encode(), max_bytes=1 << 20)


def msgpack_value(data: bytes) -> None:
    value = read_msgpack(data, max_bytes=REPORT_BYTES, keys=MapKeys.TEXT_OR_INT)
    assert value == read_msgpack(PACK(value), max_bytes=1 << 20, keys=MapKeys.TEXT_OR_INT)


def cbor_value(data: bytes) -> None:
    """One meaning, one form; and the simulator's reader says the same."""
    try:
        value = read_cbor(data, max_bytes=ENVELOPE_BYTES)
    except Malformed as error:
        if sampled(data) and not any(
            word in str(error) for word in ("items", "are allowed")
        ):  # not the simulator's limits
            try:
                found = sim_cbor.loads(data)
            except SimMalformed:
                pass
            else:
                raise AssertionError(f"the simulator reads {found!r}, the bridge says: {error}") from error
        raise
    assert data == cbor.write(value)
    assert value == sim_cbor.loads(data)


# --- native dialect ------------------------------------------------------------------------------------------


def topic(data: bytes) -> None:
    """Only the exact topic names a device, and both planes read the same one."""
    text = text_of(data)
    try:
        uplink = DIALECT.decode(MqttMessage(topic=text, payload=b"{}"))
    except Malformed:
        uplink = None
    else:
        assert text == f"$ota/report/{uplink.device}"
        assert uplink.device == DIALECT.requester(f"$ota/get/{uplink.device}".encode())
    try:
        asking = DIALECT.requester(data)
    except Malformed:
        if uplink is None:
            raise
    else:
        assert data == f"$ota/get/{asking}".encode()
        assert not {*str(asking)} & set("+#\0 $")


def report(data: bytes) -> None:
    """What is wrong with a payload is told with its device; what is right can be kept and shown."""
    uplink = DIALECT.decode(MqttMessage(topic=REPORT_TOPIC, payload=data))
    assert uplink.device == DEVICE
    if isinstance(uplink, Rejected):
        raise Malformed(uplink.reason)
    assert isinstance(uplink, CheckIn | Progress)
    body_text(uplink.body).encode()
    event_line(Event(device=DEVICE, wall=0.0, kind="report", data={"report": uplink.body})).encode()
    if isinstance(uplink, Progress):
        assert (uplink.reason + uplink.result_msg).isprintable()


def request(data: bytes) -> None:
    """The fast lane's reader says what the strict one says, or nothing."""
    quick = DIALECT.quick_request(data)
    try:
        strict = DIALECT.decode_request(data)
    except MalformedRequest as error:
        assert quick is None or not 8 <= len(quick[0]) <= 32 or max(quick[2:]) >= 2**32
        assert len(error.artifact) <= 32
        assert 0 <= error.offset < 2**64
        DIALECT.encode_refusal(error.artifact, error.offset, 7, 1, 16, 1)
        raise
    if quick is not None:
        assert quick == [strict.artifact, strict.offset, strict.size, strict.count]
        assert strict.missing is None


# --- MQTT ----------------------------------------------------------------------------------------------------


def mqtt(data: bytes) -> None:
    """The same packets however the stream is cut; what is held back stays below one packet."""
    if not data:
        return
    step, stream = 1 + data[0] % 37, data[1:]
    whole, whole_error = fed(stream, len(stream) or 1)
    pieces, pieces_error = fed(stream, step)
    assert (whole_error is None) == (pieces_error is None), (whole_error, pieces_error)
    if whole_error is not None:
        assert str(whole_error) == str(pieces_error)
        raise whole_error
    assert whole == pieces


def fed(stream: bytes, step: int) -> tuple[list[Any], Malformed | None]:
    decoder, packets = Decoder(max_packet_bytes=4_096), []
    for at in range(0, len(stream), step):
        try:
            packets += decoder.feed(stream[at : at + step])
        except Malformed as error:
            try:
                decoder.feed(b"\xd0\x00")
            except Malformed:
                return packets, error
            raise AssertionError("a decoder that refused goes on") from error
        assert len(decoder._rest) < 4_096
    for packet in packets:
        if isinstance(packet, Publish):
            assert packet.topic.decode()
    return packets, None


def embedded_topics(data: bytes) -> None:
    """The embedded broker's table finds what paho's matcher finds."""
    filters, _, name = text_of(data).rpartition("\n")
    if not name or set(name) & set("+#\n"):
        return
    wanted = [one for one in filters.split("\n")[:8] if _is_filter(one)]
    table = Subscriptions()
    for one in wanted:
        table[one] = [(one, 0)]
    assert sorted({one for one in wanted if topic_matches_sub(one, name)}) == sorted(
        one for one, _ in table.matching(name)
    )


def _is_filter(text: str) -> bool:
    levels = text.split("/")
    return bool(text) and "#" not in levels[:-1] and not any(len(one) > 1 and set(one) & set("+#") for one in levels)


# --- what is signed ------------------------------------------------------------------------------------------


class Believed(PublicKey):
    """A key that finds every signature right, so that what is behind it is reached."""

    __slots__ = ()

    def verify(self, message: bytes, signature: bytes) -> bool:
        return True


class SimBelieved(SimKey):
    """The same for the simulator."""

    __slots__ = ()

    def holds(self, signed: bytes, signature: bytes) -> bool:
        return True


@cache
def believing() -> tuple[Trust, sim_trust.Trust]:
    """The authors and online keys of the vectors, for both programs."""
    document = json.loads((VECTORS / "manifest" / "refused.json").read_text())["trust"]
    trust, sim = Trust.parse(json.dumps(document).encode()), sim_trust.parse_trust(document)
    authors, online = (
        tuple(Believed(algorithm=key.algorithm, raw=key.raw) for key in keys) for keys in (trust.authors, trust.online)
    )
    sim_authors, sim_online = (
        {kid: SimBelieved(kid=kid, alg=key.alg, raw=key.raw) for kid, key in keys.items()}
        for keys in (sim.authors, sim.online)
    )
    return (
        Trust(vendor=trust.vendor, authors=authors, online=online, threshold=1),
        sim_trust.Trust(vendor=sim.vendor, threshold=1, authors=sim_authors, online=sim_online),
    )


def manifest_envelope(data: bytes) -> None:
    """What the bridge would offer, a device reads, and to the same facts."""
    trust, sim = believing()
    try:
        facts = manifest.verify(data, trust)
    except ManifestRefused as refused:
        if (
            sampled(data) and len(data) <= ENVELOPE_BYTES and "envelope[0]" not in str(refused)
        ):  # an empty one: SIG, TYPE
            try:
                sim_manifest.read_manifest(sim, data)
            except SimRefused as other:
                assert other.code == refused.reason, (other, refused)
        raise
    found = sim_manifest.read_manifest(sim, data)
    assert facts.digest == found.envelope_digest
    assert (facts.seq, facts.vendor, facts.classes) == (found.seq, found.vendor, found.classes)
    assert (facts.version, facts.component, facts.payload_type) == (found.version, found.component, found.payload_type)
    assert (facts.size_bytes, facts.sha256) == (found.size_bytes, found.digest)
    assert (facts.chunk_bytes, facts.merkle_root) == (found.chunk_bytes, found.root)
    assert (facts.min_present_seq or 0, facts.expires_s) == (found.min_seq, found.expires_s)
    assert (facts.security_counter, facts.installed_size_bytes) == (found.security_counter, found.installed_size_bytes)
    assert (facts.precursor_sha256, facts.device) == (found.precursor, found.device)
    assert tuple((one.component, one.min_seq) for one in facts.dependencies) == found.deps
    assert manifest.read(data) == facts
    assert manifest.encode_payload(facts) == cbor2.loads(data)[0]


@cache
def first_keys() -> tuple[keyset.Keyset, sim_trust.Trust]:
    """The keyset before the steps of the vectors, for both programs; its authors' signatures always hold."""
    document = json.loads((VECTORS / "keyset" / "steps.json").read_text())
    raws = {one["name"]: bytes.fromhex(one["public"]) for one in document["keys"]}
    authors, online = ([raws[name] for name in document["first"][part]] for part in ("authors", "online"))
    vendor = document["vendor"]
    sim = sim_trust.Trust(
        vendor=vendor,
        threshold=1,
        authors={key_id(raw): SimBelieved(kid=key_id(raw), alg="ed25519", raw=raw) for raw in authors},
        online={key_id(raw): SimKey.of("ed25519", raw) for raw in online},
    )
    first = keyset.Keyset(
        version=1,
        vendor=sim.vendor_id,
        epoch=1,
        threshold=1,
        authors=tuple(Believed(algorithm=Algorithm.ED25519, raw=raw) for raw in authors),
        online=tuple(PublicKey(algorithm=Algorithm.ED25519, raw=raw) for raw in online),
    )
    return first, sim


def key_id(raw: bytes) -> bytes:
    """How signatures name a key."""
    return PublicKey(algorithm=Algorithm.ED25519, raw=raw).kid


def keyset_step(data: bytes) -> None:
    """A step from the keyset before the one that it claims to be: taken, or refused by one name, by both programs."""
    first, sim = first_keys()
    with suppress(InvalidInput):
        claimed = keyset.read(data)
        version = max(1, claimed.version - 1)
        first = dataclasses.replace(first, version=version)
        sim = dataclasses.replace(sim, version=version)
    try:
        found = keyset.follow(first, data)
    except KeysetRefused as refused:
        if refused.reason != KeysetReason.FORM:  # the bridge is stricter with the signatures of strangers
            try:
                sim_trust.follow(sim, data)
            except SimKeysetRefused as other:
                assert other.code == refused.reason, (other, refused)
            else:
                raise AssertionError(f"the device takes what the bridge refuses: {refused}") from None
        raise
    after, payload = sim_trust.follow(sim, data)
    assert (found.version, found.epoch, found.threshold) == (after.version, after.epoch, after.threshold)
    assert {key.kid for key in found.authors} == set(after.authors)
    assert {key.kid for key in found.online} == set(after.online)
    assert keyset.encode(found) == payload == keyset.payload_of(data)


@cache
def ticket_of() -> dict[str, Any]:
    """For whom the vectors' ticket is."""
    vector = json.loads((VECTORS / "manifest" / "ticket.json").read_text())
    return {
        "device": vector["device"],
        "nonce": bytes.fromhex(vector["nonce"]),
        "manifest_digest": bytes.fromhex(vector["manifest_digest"]),
    }


def ticket(data: bytes) -> None:
    """What the bridge's reader of tickets takes, a device takes."""
    trust, sim = believing()
    wanted = ticket_of()
    facts = tokens.verify(data, online=trust.online, **wanted)
    assert facts.nonce == wanted["nonce"]
    if len(data) > sim_manifest.MAX_TICKET_BYTES:
        return
    product, _, device = wanted["device"].partition("/")
    identity = sim_manifest.Identity.of(sim, product=product, device=device, hw="r1", component="firmware")
    described = sim_manifest.Manifest(
        envelope_digest=wanted["manifest_digest"], seq=1, vendor=b"", classes=(), version="1", component="firmware",
        payload_type=1, size_bytes=1, digest=b"", chunk_bytes=4096, root=b"",
    )  # fmt: skip
    sim_manifest.check_ticket(sim, described, data, identity=identity, nonce=wanted["nonce"])


def trust_document(data: bytes) -> None:
    """What is read writes back to the same, and a device believes the same keys."""
    trust = Trust.parse(data)
    assert trust == Trust.parse(trust.to_json().encode())
    sim = sim_trust.parse_trust(json.loads(data))
    assert (trust.vendor_id, trust.threshold) == (sim.vendor_id, sim.threshold)
    assert [key.kid for key in trust.authors] == list(sim.authors)
    assert [key.kid for key in trust.online] == list(sim.online)


def key_file(data: bytes) -> None:
    _parse_pem(data, Path("key.pem"), None)


# --- configuration -------------------------------------------------------------------------------------------


@contextmanager
def replaced(**others: object) -> Iterator[None]:
    """Parts of the configuration's module; unittest.mock takes as long as all that is tried."""
    kept = {name: getattr(config, name) for name in others}
    vars(config).update(others)
    try:
        yield
    finally:
        vars(config).update(kept)


class _Text(type(Path())):  # type: ignore[misc]
    """A file that is nowhere, so that no time goes into the disk."""

    data: bytes

    def is_file(self) -> bool:
        return True

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        return io.TextIOWrapper(io.BytesIO(self.data), encoding=encoding, errors=errors).read()


def config_file(data: bytes) -> None:
    """Any file is a configuration or a sentence."""
    path = _Text("/nowhere/ota-bridge.toml")
    path.data = data
    with replaced(_find_file=lambda *_: path, nearest=_nearest):
        _shown(Config.load({}, {}, Path("/nowhere")))


def plan_toml(data: bytes) -> None:
    """Whatever is TOML has all its places, and what is a plan is the same plan when it comes over the socket."""
    document = read_toml(_decoded(data))
    assert set(_paths(document.value)) == set(document.values), "a place is missing, or one too many"
    _same_plan(data, is_yaml=False)


def plan_yaml(data: bytes) -> None:
    """The same for YAML."""
    document = read_yaml(_decoded(data))
    assert set(_paths(document.value)) == set(document.values), "a place is missing, or one too many"
    _same_plan(data, is_yaml=True)


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput("not UTF-8") from error


def _same_plan(data: bytes, *, is_yaml: bool) -> None:
    found = read_plan_text(data, file="plan", is_yaml=is_yaml)
    arguments = json.loads(json.dumps(found.arguments))
    assert plan_from(arguments["plan"]) == found.plan


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from _paths(inner, (*path, key))


def config_words(data: bytes) -> None:
    """Any environment and any flags."""
    env: dict[str, str] = {}
    flags: dict[str, str] = {}
    for line in text_of(data).split("\n")[:20]:
        name, _, value = line.partition("=")
        if name.isupper() and "\0" not in line:
            env[name] = value
        else:
            flags[name] = value
    env.pop("OTA_BRIDGE_CONFIG", None)
    with replaced(_find_file=lambda *_: None, nearest=_nearest):  # where a file may lie is asked of the disk each time
        _shown(Config.load(flags, env, Path("/nowhere")))


def _nearest(wrong: str, known: Sequence[str]) -> str:
    """The suggestion takes ten times as long as all the rest: it is made for few names."""
    return nearest(wrong, known) if sum(map(ord, wrong[:60])) % 500 == 0 else ""


def _shown(found: Config) -> None:
    shown = {setting.name: found.shown(setting.name) for setting in SETTINGS}
    assert {shown["broker.password"], shown["broker.blocks_password"]} <= {"", HIDDEN}
    if found.broker.password_file is None and found.broker_address() is not None:
        found.blocks_address()


def broker_url(data: bytes) -> None:
    """Bridge and simulator read the same address, and no password is shown."""
    text = text_of(data)
    try:
        address = parse_broker_url(text)
    except ConfigError as error:
        secret = text.rpartition("@")[0].rpartition("//")[2].partition(":")[2]
        assert len(secret) < 6 or secret in f"@{text.rpartition('@')[2]}" or secret not in str(error)
        try:
            other = sim_options.BrokerUrl.parse(text)
        except OptionError:
            raise error from None
        raise AssertionError(f"the simulator takes it: {other}") from error
    found = sim_options.BrokerUrl.parse(text)
    assert (address.host, address.port, address.tls is not None) == (found.host, found.port, found.tls)
    assert 1 <= address.port <= 65_535
    assert (address.username or None, address.password or None) == (found.username or None, found.password or None)
    secret = address.password or ""
    assert len(secret) < 6 or secret in f"{address.username}@{address.host}:" or secret not in str(address)


# --- the operators' side -------------------------------------------------------------------------------------


def local_request(data: bytes) -> None:
    """A request of the local socket; a refusal is one line that can be sent."""
    try:
        asked = _read_request(data, UPLOAD_MAX_BYTES)
    except (Malformed, InvalidInput) as error:
        assert json.loads(_refusal(error))["ok"] is False
        raise
    assert 1 <= len(asked.op) <= 64
    shown = repr(dataclasses.replace(asked, op="", args={}))
    assert asked.token is None or asked.token not in shown or len(asked.token) < 20
    if asked.token is not None and (parsed := parse_token(asked.token)) is not None:
        assert without_tokens(asked.token) == f"ota_{parsed[0]}_..."
    operation = OPERATIONS.get(asked.op)
    if operation is not None:
        checked_arguments(operation, asked.args)


class _File:
    """A file that is nowhere."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def open(self, *, encoding: str, newline: str) -> io.TextIOWrapper:
        return io.TextIOWrapper(io.BytesIO(self._data), encoding=encoding, newline=newline)

    def __str__(self) -> str:
        return "devices.csv"


def csv_import(data: bytes) -> None:
    """Rows of an import are what the operation takes."""
    rows = list(read_rows(_File(data)))  # type: ignore[arg-type]
    checked_arguments(OPERATIONS["device.import"], {"rows": rows})
    for row in rows:
        assert row.get("attrs", {}) == checked_attributes(row.get("attrs", {}))


def tail(data: bytes) -> None:
    """Whatever is on the wire, a line for people stays one line, and harmless."""
    line = as_text(data)
    assert "\n" not in line
    assert line.isprintable() or plain(line).plain.isprintable()


# --- the list ------------------------------------------------------------------------------------------------

REPORT_WORDS = (
    *(
        b"type",
        b"report_version",
        b"report_progress",
        b"report",
        b"version",
        b"progress",
        b"state",
        b"percent",
        b"proto",
    ),
    *(b"boot", b"seq", b"nonce", b"parts", b"firmware", b"have", b"max_packet", b"max_block", b"max_window", b"next_s"),
    *(
        b"hw",
        b"id",
        b"component",
        b"result_code",
        b"result_msg",
        b"retry_after_s",
        b"reason",
        b"done",
        b"burning",
        b"fail",
    ),
)
JSON_WORDS = (
    b"[",
    b"]",
    b"{",
    b"}",
    b":",
    b",",
    b'"',
    b"\\u",
    b"\\ud800",
    b'{"a":',
    b"[[",
    b"null",
    b"true",
    b"1.5",
    b"-",
)
MSGPACK_WORDS = (
    *(
        bytes((first,)) + b"\xff" * extra
        for first in (*range(0xC0, 0xE0), 0x80, 0x8F, 0x90, 0x9F)
        for extra in (0, 1, 2, 4)
    ),
    b"\xdc\x04\x00",
    b"\xde\x04\x00",
    b"\xdd\x00\x00\x04\x00",
    b"\x81\x80\x80",
    b"\xd6\xff\0\0\0\0",
    b"\xc7\x0c\xff",
)
CBOR_WORDS = (
    *(
        b"\xf6",
        b"\xf4",
        b"\xf9\x00\x00",
        b"\xc0",
        b"\xd8\x23",
        b"\x5f",
        b"\x9f",
        b"\xbf",
        b"\xff",
        b"\x18\x17",
        b"\x19\0\xff",
    ),
    *(
        b"\x1a\0\0\xff\xff",
        b"\x1b" + b"\xff" * 8,
        b"\x5b" + b"\xff" * 8,
        b"\x9b" + b"\xff" * 8,
        b"\xbb" + b"\x7f" * 8,
        b"\x81",
    ),
    *(b"\xa1\x01", b"\x20", b"\x60", b"\x40", b"\x58\x40", b"\xa1\x01\x32", b"\xa1\x01\x28", b"\xa1\x04\x48"),
)
MQTT_WORDS = (
    *(
        b"\x20\x02\x00\x00",
        b"\x90\x03\x00\x01\x00",
        b"\xd0\x00",
        b"\x30",
        b"\x32",
        b"\x31",
        b"\x3b",
        b"\x34",
        b"\x40\x02\0\1",
    ),
    *(b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\x80\x00", b"\x00\x05topic", b"+", b"#", b"\xed\xa0\x80", b"\xff"),
)
PLAN_WORDS = tuple(
    word.encode()
    for word in (
        *dict.fromkeys(row.key for table in tables() for row in table.rows),
        *(
            "all",
            "true",
            "1h30min",
            "80 %",
            "0.5",
            "go_on",
            "roll_back",
            "failed",
            "0 2 * * *",
            "\n",
            "{",
            "}",
            "[",
            "]",
        ),
    )
)
SETTING_WORDS = (
    *(setting.name.encode() for setting in SETTINGS),
    *(setting.env_name.encode() + b"=" for setting in SETTINGS),
    *(
        b"[broker]",
        b"[blocks]",
        b"[topics]",
        b"= ",
        b'"',
        b"'''",
        b'"""',
        b"[[",
        b"{",
        b"1979-05-27",
        b"inf",
        b"true",
        b"~x/",
    ),
    *(b"mqtt://", b"mqtts://u:p@h:1", b"{sha256}", b"\n"),
)
URL_WORDS = (
    b"mqtt://",
    b"mqtts://",
    b"http://",
    b"@",
    b":",
    b"[",
    b"]",
    b"[::1]",
    b"%41",
    b"%00",
    b"/",
    b"?",
    b"#",
    b"65536",
    b"\xe2\x84\x80",
)
TOPIC_WORDS = (b"$ota/report/", b"$ota/get/", b"$ota/", b"/", b"+", b"#", b"\0", b"$share/g/", b"\xff", b"a" * 65)

TARGETS = (
    Target(
        name="json", about="JSON reader", read=json_value, refusals=(Malformed,), words=JSON_WORDS, forms=(JSON,),
    ),
    Target(
        name="msgpack", about="msgpack reader", read=msgpack_value, refusals=(Malformed,), words=MSGPACK_WORDS,
        forms=(MSGPACK,),
    ),
    Target(
        name="cbor", about="CBOR readers of both programs", read=cbor_value, refusals=(Malformed,), words=CBOR_WORDS,
        forms=(CBOR,), max_bytes=600,
    ),
    Target(
        name="topic", about="topics of reports and requests, device names", read=topic, refusals=(Malformed,),
        words=TOPIC_WORDS, max_bytes=300,
    ),
    Target(
        name="report", about="reports of the native dialect", read=report, refusals=(Malformed,),
        words=REPORT_WORDS, forms=(JSON, MSGPACK),
    ),
    Target(
        name="request", about="block requests, by both readers", read=request, refusals=(MalformedRequest,),
        words=MSGPACK_WORDS, forms=(MSGPACK,), max_bytes=2_400,
    ),
    Target(
        name="mqtt", about="MQTT codec of the block link, cut anywhere", read=mqtt, refusals=(Malformed,),
        words=MQTT_WORDS, max_bytes=2_000,
    ),
    Target(
        name="embedded_topics", about="filters of the embedded broker", read=embedded_topics, refusals=(),
        words=TOPIC_WORDS, max_bytes=200,
    ),
    Target(
        name="manifest", about="manifests, by both programs", read=manifest_envelope, refusals=(ManifestRefused,),
        words=CBOR_WORDS, forms=(CBOR,), max_bytes=600,
    ),
    Target(
        name="keyset", about="keysets, by both programs", read=keyset_step, refusals=(KeysetRefused,), words=CBOR_WORDS,
        forms=(CBOR,), max_bytes=1_200, one_in=2,
    ),
    Target(
        name="ticket", about="tickets, by both programs", read=ticket, refusals=(ManifestRefused,), words=CBOR_WORDS,
        forms=(CBOR,), max_bytes=600,
    ),
    Target(
        name="trust", about="trust documents, by both programs", read=trust_document, refusals=(InvalidInput,),
        words=(*JSON_WORDS, b"kid", b"alg", b"public", b"ed25519", b"p256", b"test"), forms=(JSON,), one_in=4,
    ),
    Target(
        name="key_file", about="PEM files of private keys", read=key_file, one_in=4, refusals=(InvalidInput,),
        words=(b"-----BEGIN PRIVATE KEY-----", b"-----END PRIVATE KEY-----", b"ENCRYPTED", b"EC ", b"\n", b"="),
    ),
    Target(
        name="config_file", about="the configuration file", read=config_file, refusals=(ConfigError,), slow_s=0.1,
        words=SETTING_WORDS, one_in=4,
    ),
    Target(
        name="plan_toml", about="plan files in TOML", read=plan_toml, refusals=(InvalidInput,), slow_s=0.1, one_in=10,
        words=(*PLAN_WORDS, b"[[", b"]]", b" = ", b'"""', b"'''", b"2026-12-01T02:00:00+01:00"), max_bytes=4_000,
        peak_bytes=1 << 20,
    ),
    Target(
        name="plan_yaml", about="plan files in YAML", read=plan_yaml, refusals=(InvalidInput,), slow_s=0.25, one_in=20,
        words=(*PLAN_WORDS, b": ", b"\n- ", b"\n  ", b"&a", b"*a", b"!!str", b"---", b"...", b"|", b">-", b"? ", b"<<", b"%YAML"),
        max_bytes=4_000, peak_bytes=1 << 20,
    ),
    Target(
        name="config_words", about="environment and flags", read=config_words, refusals=(ConfigError,), slow_s=0.1,
        words=SETTING_WORDS, max_bytes=2_000, one_in=4,
    ),
    Target(
        name="broker_url", about="broker URLs, by both programs", read=broker_url, one_in=4, refusals=(ConfigError,),
        words=URL_WORDS, max_bytes=300,
    ),
    Target(
        name="local_request", about="requests of the local socket", read=local_request,
        one_in=4, refusals=(Malformed, InvalidInput), words=(*JSON_WORDS, *(name.encode() for name in OPERATIONS)), forms=(JSON,),
    ),
    Target(
        name="csv_import", about="the CSV file of device import", read=csv_import, one_in=4, refusals=(InvalidInput,), max_bytes=4_000,
        words=(b"device", b"hw", b"tags", b"label", b"attr.", b"attr.batch", b",", b'"', b"\n", b"\r", b";", b"\xef\xbb\xbf", b"demo/d1"),
    ),
    Target(
        name="tail", about="messages shown to people", read=tail, one_in=4, refusals=(), forms=(JSON, MSGPACK),
        words=(*JSON_WORDS, *MSGPACK_WORDS, b"\x1b[2J", b"\xc2\x9b", b"\\u001b", b'"\\n"'),
    ),
)  # fmt: skip
