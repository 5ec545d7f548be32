"""The pages say what the program does: generated parts are fresh, links lead somewhere, names exist, samples decode."""

import hashlib
import json
import re
import shlex
from datetime import datetime
from importlib.metadata import requires
from pathlib import Path
from urllib.parse import unquote

import docs_samples as samples
import generate_docs
import jsonschema
import pytest
from generate_docs import HOME, REGION, REGIONS, commands, common_events, pages, rendered
from typer.main import get_command

from device_sim import cbor
from device_sim.errors import KeysetRefusal
from device_sim.manifest import KNOWN_KEYS, Identity, check_ticket, read_manifest
from device_sim.offers import read_offer, read_piece
from device_sim.trust import follow, load_trust, parse_trust
from device_sim.wire import BlockData, BlockRefusal, decode_block, decode_update, encode, request
from ota_bridge.calendars import CronCalendar
from ota_bridge.config import SETTINGS
from ota_bridge.core.deployment import OPEN, TRANSITIONS
from ota_bridge.core.errors import KeysetReason
from ota_bridge.core.messages import CheckIn, Progress, Said
from ota_bridge.core.rollout.plan import Plan
from ota_bridge.core.values import NATIVE, DeviceId
from ota_bridge.dialects.registry import BUILT_IN
from ota_bridge.plan_file import plan_schema, read_plan_text
from ota_bridge.queries import CelQueries
from ota_bridge.security import keyset
from ota_bridge.security.manifest import _Key
from ota_bridge.wire import MqttMessage

PAGES = pages()
ROLLOUTS = HOME / "docs/rollouts.md"
CODE_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FIRST_WORDS = re.compile(r"`([^`\n]+)`")


def page_id(page):
    return str(page.relative_to(HOME))


def text_of(page):
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_generated_parts_are_what_the_program_says_run_make_docs_if_not(page):
    text = text_of(page)
    assert rendered(text) == text


def test_every_generator_is_used_by_a_page():
    used = {found[1] for page in PAGES for found in re.finditer(r"<!-- generated: (\w+) -->", text_of(page))}
    assert used == set(REGIONS)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_generated_mark_is_closed(page):
    text = text_of(page)
    begun = re.findall(r"^<!-- generated: \w+ -->$", text, re.MULTILINE)
    assert len(begun) == text.count("<!-- /generated -->") == len(REGION.findall(text))


def anchors(text):
    heads = re.findall(r"^#+ (.+)$", CODE_BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_relative_link_leads_to_a_file_and_a_heading(page):
    dead = []
    for target in LINK.findall(CODE_BLOCK.sub("", text_of(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path) if path else page
        if not file.exists() or (anchor and anchor not in anchors(text_of(file))):
            dead.append(target)
    assert dead == []


def command_lines(text):
    """Every line of a code block, or code inside a sentence, that starts one of the two programs."""
    for kind, block in CODE_BLOCK.findall(text):
        for line in block.splitlines():
            line = line.strip()
            shown = line.removeprefix("$ ")
            if (line != shown or kind in {"", "sh", "bash"}) and shown.startswith(("ota-bridge ", "device-sim ")):
                yield shown
    for code in FIRST_WORDS.findall(CODE_BLOCK.sub("", text)):
        if code.startswith(("ota-bridge ", "device-sim ")):
            yield code


def problem_with(line):
    """What is wrong with a command line: an unknown command or option. None if nothing is."""
    if line.startswith("device-sim"):
        from device_sim.cli import app
    else:
        from ota_bridge.cli.app import build

        app = build()
    command = get_command(app)
    options = {name for parameter in command.params for name in parameter.opts}
    for word in shlex.split(line.removesuffix("&"), comments=True)[1:]:
        if word.startswith("--"):
            known = options | {"--help", "--version"}
            if word.partition("=")[0] not in known:
                return f"{line}: option {word}"
        elif re.match(r"[a-z]", word) and hasattr(command, "commands"):
            if word in command.commands:
                command = command.commands[word]
                options = {name for parameter in command.params for name in parameter.opts}
            elif "=" not in word:
                return f"{line}: command {word}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_and_option_that_a_page_names_exists(page):
    problems = [problem_with(line) for line in command_lines(text_of(page))]
    assert [problem for problem in problems if problem] == []


def test_the_check_of_commands_finds_what_is_wrong():
    assert problem_with("ota-bridge release ad x.bin") == "ota-bridge release ad x.bin: command ad"
    assert problem_with("ota-bridge why d1 --nope") == "ota-bridge why d1 --nope: option --nope"
    assert problem_with("ota-bridge serve --broker mqtt://127.0.0.1 &") is None


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_setting_that_a_page_names_exists(page):
    names = {setting.name for setting in SETTINGS}
    sections = {name.partition(".")[0] for name in names if "." in name}
    named = {
        code
        for code in FIRST_WORDS.findall(CODE_BLOCK.sub("", text_of(page)))
        if re.fullmatch(r"[a-z]+\.[a-z_]+", code) and code.partition(".")[0] in sections
    }
    files = {"mosquitto.conf"}
    assert named - names - files == set()


def test_every_setting_in_a_sample_file_can_be_read(tmp_path):
    from ota_bridge.config import Config

    found = [
        block
        for page in PAGES
        for kind, block in CODE_BLOCK.findall(text_of(page))
        if kind == "toml" and page != ROLLOUTS
    ]
    assert found
    for block in found:
        file = tmp_path / "ota-bridge.toml"
        file.write_text(block)
        Config.load({}, {}, tmp_path, file=file)


def plans_of_the_page():
    return [(kind, block) for kind, block in CODE_BLOCK.findall(text_of(ROLLOUTS)) if kind in {"toml", "yaml"}]


@pytest.mark.parametrize(("kind", "block"), plans_of_the_page())
def test_every_plan_of_the_page_can_be_read_and_holds_for_the_schema(kind, block):
    found = read_plan_text(
        block.encode(), file="page", is_yaml=kind == "yaml", query=CelQueries(), window=CronCalendar().check
    )
    assert found.plan != Plan()
    value = json.loads(json.dumps(found.document.value, default=datetime.isoformat))
    assert [] == list(jsonschema.Draft202012Validator(plan_schema()).iter_errors(value))


def test_the_page_has_plans_in_both_formats():
    assert {"toml", "yaml"} == {kind for kind, _ in plans_of_the_page()}
    assert 4 <= len(plans_of_the_page())


@pytest.mark.parametrize("file", generate_docs.written_files(), ids=page_id)
def test_generated_files_are_what_the_program_says_run_make_docs_if_not(file):
    assert generate_docs.written_files()[file] == file.read_text(encoding="utf-8")


# --- samples, read by the simulator, which shares no code with the bridge -----------------------------------------


def hex_of(name):
    """The bytes of a sample as the page shows them."""
    region = REGIONS[name]()
    blocks = [block for kind, block in CODE_BLOCK.findall(region) if kind == "hex"]
    return bytes.fromhex("".join(blocks[0].split())) if blocks else samples.SAMPLES[name].payload


@pytest.fixture(scope="module")
def trust():
    return parse_trust(json.loads(samples.TRUST.to_json()))


@pytest.fixture(scope="module")
def identity(trust):
    return Identity.of(trust, product="demo", device="d1", hw="r1", component="firmware")


@pytest.mark.parametrize(
    ("name", "body", "encoding"),
    [
        ("check_in_msgpack", samples.CHECK_IN, "msgpack"),
        ("check_in_json", samples.CHECK_IN, "json"),
        ("progress_burning", samples.BURNING, "msgpack"),
        ("progress_fail", samples.FAILED, "json"),
    ],
)
def test_the_simulator_writes_the_reports_of_the_page(name, body, encoding):
    assert encode(dict(body), encoding) == hex_of(name)


@pytest.mark.parametrize("name", [name for name in samples.SAMPLES if name.startswith(("check_in_", "progress_"))])
def test_the_bridge_takes_the_reports_of_the_page(name):
    sample = samples.SAMPLES[name]
    if "/report/" in sample.topic:
        uplink = samples.DIALECT.decode(MqttMessage(topic=sample.topic, payload=sample.payload, qos=1))
        assert isinstance(uplink, CheckIn | Progress | Said)
        assert uplink.device == DeviceId("demo", "d1")


def test_acknowledgements_name_boot_seq_and_verdict():
    assert decode_update(hex_of("report_ack")) == {"type": "report_ack", "boot": 7, "seqs": [1]}
    assert decode_update(hex_of("report_ack_go"))["go"] == [samples.DEPLOYMENT]


def test_the_long_offer_carries_the_manifest_and_the_ticket():
    offer = read_offer(decode_update(hex_of("offer_long")))
    assert offer.manifest.data == samples.ENVELOPE
    assert offer.ticket.data == samples.TICKET
    assert (offer.boot, offer.nonce, offer.apply_now) == (7, samples.NONCE, True)


def test_the_short_offer_fits_the_packet_and_names_the_same_bytes_by_digest():
    sample = samples.SAMPLES["offer_short"]
    long_, short = (read_offer(decode_update(hex_of(name))) for name in ("offer_long", "offer_short"))
    assert short.manifest.data is None
    assert short.manifest.digest == long_.manifest.digest
    assert short.ticket.digest == long_.ticket.digest
    assert 5 + 2 + len(sample.topic) + 2 + len(sample.payload) <= 512


def test_cancel_and_check_in_are_understood():
    assert decode_update(hex_of("cancel_update")) == {"type": "cancel_update", "id": samples.DEPLOYMENT}
    assert decode_update(hex_of("check_in_request")) == {"type": "check_in"}


def test_the_simulator_writes_the_requests_of_the_page():
    assert request(samples.ARTIFACT, 4096, 1024, 4) == hex_of("request")
    assert request(samples.ARTIFACT, 4096, 1024, 4, b"\x0a") == hex_of("request_missing")
    assert request(bytes(samples.CONTENT.merkle_root[:8]), 0, 96, 1) == hex_of("request_chunk_list")


def test_the_block_of_the_page_is_a_piece_of_the_image():
    block = decode_block(hex_of("block"))
    assert block == BlockData(samples.ARTIFACT, 4096, samples.IMAGE[4096:4160])


def test_each_refusal_of_the_page_is_read_with_its_code_and_limits():
    lines = CODE_BLOCK.findall(REGIONS["refusals"]())[0][1].splitlines()
    refusals = [decode_block(bytes.fromhex(line.split()[-1])) for line in lines]
    assert all(isinstance(refusal, BlockRefusal) for refusal in refusals)
    assert [refusal.code for refusal in refusals] == [1, 2, 3, 4, 5, 6, 7]
    assert {(refusal.size_max, refusal.count_max) for refusal in refusals} == {(16384, 16)}


def test_the_simulator_believes_the_manifest_and_the_ticket_of_the_page(trust, identity):
    manifest = read_manifest(trust, hex_of("manifest_hex"))
    assert (manifest.version, manifest.seq, manifest.size_bytes) == ("1.1.0", 4, 10_000)
    assert identity.device_class in manifest.classes
    check_ticket(trust, manifest, hex_of("ticket_hex"), identity=identity, nonce=samples.NONCE)


@pytest.mark.parametrize("name", ["manifest", "ticket", "keyset"])
def test_the_walk_through_an_envelope_shows_every_byte_once(name):
    lines = CODE_BLOCK.findall(REGIONS[f"{name}_walk"]())[0][1].splitlines()
    shown = "".join(line[:40].strip() for line in lines)
    assert bytes.fromhex(shown) == hex_of(f"{name}_hex")
    cbor.loads(hex_of(f"{name}_hex"))


def test_the_simulator_takes_the_keyset_of_the_page(trust):
    after, payload = follow(trust, hex_of("keyset_hex"))
    assert (after.version, after.threshold, len(after.authors), len(after.online)) == (2, 2, 2, 1)
    assert payload in hex_of("keyset_hex")
    long_, short = (decode_update(hex_of(name)) for name in ("update_keys", "update_keys_short"))
    assert (long_["version"], long_["keyset"]) == (2, hex_of("keyset_hex"))
    piece = read_piece(short["keyset"], "keyset")
    assert (piece.digest, piece.size_bytes) == (hashlib.sha256(samples.STEP).digest(), len(samples.STEP))


def test_the_table_of_keyset_keys_names_each_key_and_the_checks_each_refusal():
    section = text_of(HOME / "docs/protocol.md").partition("## 10.")[2].partition("## 11.")[0]
    assert {int(number) for number in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)} == set(keyset._Key)
    named = set(re.findall(r"REFUSED_KEYS_\w+", section))
    assert named == set(KeysetReason) == {str(refusal) for refusal in KeysetRefusal}


def test_the_trust_document_of_the_page_is_one(tmp_path):
    file = tmp_path / "ota-trust.json"
    file.write_text(CODE_BLOCK.findall(REGIONS["trust_document"]())[0][1])
    assert load_trust(file).vendor == "example.com"


# --- tables that are written by hand ------------------------------------------------------------------------------


def test_the_table_of_manifest_keys_names_each_key():
    section = text_of(HOME / "docs/protocol.md").partition("## 8.")[2].partition("### The signature")[0]
    rows = re.findall(r"^\| ([\d, ]+) \|", section, re.MULTILINE)
    named = {int(number) for row in rows for number in row.split(",")}
    assert named == {key.value for key in _Key} == KNOWN_KEYS


def test_every_event_kind_that_the_core_tells_is_in_the_table_of_events():
    source = "".join(text_of(file) for file in sorted((HOME / "ota_bridge/core").rglob("*.py")))
    told = set(re.findall(r"\btell\(\s*[\w.]+,\s*\"(\w+)\"", source))
    section = text_of(HOME / "docs/operations.md").partition("## Events")[2].partition("## The broker")[0]
    named = {
        name for row in re.findall(r"^\| (`.+?) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    assert named == told


def test_every_dependency_has_its_line():
    record = text_of(HOME / "docs/adr/0002-dependencies.md")
    listed = set(re.findall(r"^\| ([a-z0-9-]+) \|", record, re.MULTILINE)) - {"package"}
    fuzzing = re.findall(r"^[a-z0-9-]+", text_of(HOME / "requirements-fuzz.txt"), re.MULTILINE)
    vendors = re.findall(
        r"^([a-z0-9-]+)==.*\n(?: +--hash.*\n)+ +# via -r", text_of(HOME / "requirements-vendors.txt"), re.MULTILINE
    )
    wanted = {re.match(r"[A-Za-z0-9-]+", one)[0] for one in (*requires("ota-bridge"), *fuzzing, *vendors)}
    assert listed == wanted


def test_events_left_out_of_the_diagram_lead_from_every_open_state_to_the_same():
    common = common_events()
    assert common
    assert all(TRANSITIONS[state][event] is target for event, target in common.items() for state in OPEN)


def test_the_list_of_commands_names_each_command():
    assert {words.split()[0] for words in commands()} == {"ota-bridge"}
    assert all(words in generate_docs._commands() for words in commands())


def test_records_of_decisions_are_numbered_without_gaps():
    numbers = [int(file.name[:4]) for file in sorted((HOME / "docs/adr").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("page", sorted(Path(HOME / "docs/adr").glob("*.md")), ids=page_id)
def test_each_record_has_its_parts_and_a_bad_consequence(page):
    text = text_of(page)
    heads = re.findall(r"^## (\w+)", text, re.MULTILINE)
    assert heads == ["Context", "Options", "Decision", "Consequences"]
    assert "- Bad: " in text


def test_each_dialect_has_its_page():
    assert {file.stem for file in (HOME / "docs/dialects").glob("*.md")} == {NATIVE, *BUILT_IN}
