"""Writes the generated parts of the documentation: `python -m tests.generate_docs`, or `--check` to compare only.

A page holds `<!-- generated: NAME -->` … `<!-- /generated -->`; what stands between them comes from `REGIONS`. Nothing
else of a page is touched, so text and samples live side by side and samples cannot differ from the program.
"""

import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parent))  # run as `tests.generate_docs` or, by pytest, as `generate_docs`

sys.path.insert(0, str(Path(__file__).parent.parent))

import docs_exchange
import docs_samples as samples

from ota_bridge.config import SETTINGS
from ota_bridge.core.deployment import CHECK_IN, OPEN, TERMINAL, TRANSITIONS, DeploymentEvent, Installed, State
from ota_bridge.core.errors import KeysetReason, RefusedReason
from ota_bridge.core.rollout.facts import VARIABLES
from ota_bridge.decode import read_cbor
from ota_bridge.plan_file import plan_schema
from ota_bridge.plan_file.example import EXAMPLE
from ota_bridge.plan_file.form import Row, Table, Tables, tables
from ota_bridge.security import envelope, keyset, manifest, tokens
from tests.faults.families import INVARIANTS, SIZES
from tests.faults.power_worlds import BOARDS, WORLDS
from tests.faults.registry import FAMILIES

HOME: Final = Path(__file__).parent.parent
REGION: Final = re.compile(r"(<!-- generated: (\w+) -->\n)(.*?)(<!-- /generated -->)", re.DOTALL)
HEX_BYTES_PER_LINE: Final = 32


def pages() -> list[Path]:
    """Every page of the project."""
    return [*sorted(HOME.glob("*.md")), *sorted((HOME / "docs").rglob("*.md"))]


def rendered(text: str) -> str:
    """`text` with its generated parts written anew; KeyError names a region that nothing writes."""
    return REGION.sub(lambda found: found[1] + "\n" + REGIONS[found[2]]().rstrip("\n") + "\n\n" + found[4], text)


# --- samples -----------------------------------------------------------------------------------------------------


def fenced(text: str, kind: str = "text") -> str:
    """A code block."""
    return f"```{kind}\n{text}\n```\n"


def hex_lines(data: bytes) -> str:
    """Hex, 32 bytes a line."""
    step = HEX_BYTES_PER_LINE
    return "\n".join(data[at : at + step].hex() for at in range(0, len(data), step))


def _sample(name: str) -> str:
    sample = samples.SAMPLES[name]
    head = f"`{sample.topic}`, QoS {sample.qos}, {len(sample.payload)} bytes"
    if sample.payload[:1] == b"{":
        return f"{head}, JSON (here with line breaks, on the wire without):\n\n{fenced(_spelled(sample), 'json')}"
    return f"{head}, msgpack:\n\n{fenced(_spelled(sample))}\n{fenced(hex_lines(sample.payload), 'hex')}"


def _spelled(sample: samples.Sample) -> str:
    return samples.spelled(sample.payload)


def _refusals() -> str:
    lines = [
        f"{samples.spelled(sample.payload):<50} {sample.payload.hex()}"
        for name, sample in samples.SAMPLES.items()
        if name.startswith("refusal_")
    ]
    return fenced("\n".join(lines))


# --- CBOR, byte by byte ------------------------------------------------------------------------------------------


def _head_end(data: bytes, at: int) -> int:
    info = data[at] & 0x1F
    return at + 1 + (0 if info < 24 else 1 << (info - 24))


def _item_end(data: bytes, at: int) -> int:
    """Where the item that begins at `at` ends."""
    major = data[at] >> 5
    end = _head_end(data, at)
    info = data[at] & 0x1F
    argument = info if info < 24 else int.from_bytes(data[at + 1 : end], "big")
    if major in {2, 3}:
        return end + argument
    for _ in range(argument * (2 if major == 5 else 1) if major in {4, 5} else 0):
        end = _item_end(data, end)
    return end


def _row(indent: int, data: bytes, meaning: str) -> Iterator[str]:
    """Bytes on the left, the meaning on the right of the first line."""
    step = 18 - indent
    for start in range(0, len(data), step):
        text = " " * 2 * indent + data[start : start + step].hex()
        yield f"{text:<40}{meaning if not start else ''}".rstrip()


def _walk_map(data: bytes, at: int, indent: int, keys: type[IntEnum]) -> Iterator[str]:
    end = _head_end(data, at)
    yield from _row(indent, data[at:end], f"map of {data[at] & 0x1F}")
    while end < len(data):
        value_at = _item_end(data, end)
        value_end = _item_end(data, value_at)
        value = read_cbor(data[value_at:value_end], max_bytes=512)
        key = keys(read_cbor(data[end:value_at], max_bytes=16))
        shown = f", {len(value)} of them" if isinstance(value, list) else f" = {value!r}".replace("'", '"')
        if isinstance(value, bytes):
            shown = ""
        yield from _row(indent + 1, data[end:value_end], f"{key.value} {key.name.lower()}{shown}")
        end = value_end


def _envelope_walk(signed: bytes, keys: type[IntEnum], kind: envelope.Kind = envelope.MANIFEST) -> str:
    opened = envelope.open_envelope(signed, kind=kind)
    payload_end = _item_end(signed, 1)
    lines = list(_row(0, signed[:1], "envelope: array of 2"))
    lines += _row(1, signed[1 : _head_end(signed, 1)], f"payload: {len(opened.payload)} bytes, these are signed")
    lines += _walk_map(opened.payload, 0, 2, keys)
    lines += _row(1, signed[payload_end : payload_end + 1], f"signatures: array of {len(opened.signatures)}")
    at = payload_end + 1
    for _ in opened.signatures:
        lines += _row(2, signed[at : at + 1], "COSE_Sign1: array of 4")
        at += 1
        meanings = ("protected header {1: -19}: Ed25519", "{4: key id}", "no payload of its own", "signature")
        for meaning in meanings:
            end = _item_end(signed, at)
            lines += _row(3, signed[at:end], meaning)
            at = end
    return fenced("\n".join(lines))


def _signed_bytes(signed: bytes, kind: envelope.Kind) -> str:
    opened = envelope.open_envelope(signed, kind=kind)
    covered = envelope.signed_bytes(opened.signatures[0].protected, opened.payload, kind.context)
    head = covered[: -len(opened.payload)]
    rows = [f"{head.hex()}  constant head, {len(head)} bytes; the last byte is the payload's length"]
    rows.append(f"{opened.payload[:8].hex()}…  the payload, {len(opened.payload)} bytes")
    return fenced("\n".join(rows))


def _keys() -> str:
    rows = [
        ("author, private (32-byte seed)", bytes(range(32)).hex()),
        ("author, public", samples.AUTHOR.public.raw.hex()),
        ("author, key id", samples.AUTHOR.kid.hex()),
        ("second author, private (32-byte seed)", bytes(range(64, 96)).hex()),
        ("second author, public", samples.SECOND_AUTHOR.public.raw.hex()),
        ("second author, key id", samples.SECOND_AUTHOR.kid.hex()),
        ("online, private (32-byte seed)", bytes(range(32, 64)).hex()),
        ("online, public", samples.ONLINE.public.raw.hex()),
        ("online, key id", samples.ONLINE.kid.hex()),
        ("image: 10,000 bytes, byte i is i·i mod 251; SHA-256", samples.CONTENT.sha256.hex()),
        ("Merkle root over its 3 chunks", samples.CONTENT.merkle_root.hex()),
        ("vendor id of example.com", samples.CONTENT.vendor.hex()),
        ("class of demo/r1", samples.CONTENT.classes[0].hex()),
        ("SHA-256 of the manifest's envelope", samples.DIGEST.hex()),
    ]
    return "| what | hex |\n|---|---|\n" + "".join(f"| {what} | `{value}` |\n" for what, value in rows)


def _trust() -> str:
    return fenced(samples.TRUST.to_json().rstrip(), "json")


def _refusal_names() -> str:
    return fenced(" ".join(RefusedReason))


def _keyset_refusals() -> str:
    return fenced(" ".join(KeysetReason))


# --- states ------------------------------------------------------------------------------------------------------


def _in_order(events: Mapping[DeploymentEvent, Any]) -> list[DeploymentEvent]:
    return [event for event in DeploymentEvent if event in events]


def common_events() -> dict[DeploymentEvent, State]:
    """What leads to the same state from every open state (or stays there)."""
    open_states = [state for state in State if state in OPEN]
    return {
        event: target
        for event in DeploymentEvent
        for target in {TRANSITIONS[open_states[0]].get(event)}
        if target is not None and all(TRANSITIONS[state].get(event) is target for state in open_states)
    }


def _diagram() -> str:
    common = common_events()
    lines = ["stateDiagram-v2", "    direction TB", "    [*] --> QUEUED"]
    for state in State:
        arrows: dict[State, list[str]] = {}
        for event in _in_order(TRANSITIONS[state]):
            target = TRANSITIONS[state][event]
            if event not in common and target is not state:
                arrows.setdefault(target, []).append(event.value)
        lines += [f"    {state} --> {target}: {', '.join(events)}" for target, events in arrows.items()]
    lines += [f"    {state} --> [*]" for state in State if state in TERMINAL]
    note = "; ".join(f"`{event}` → {target}" for event, target in common.items())
    return fenced("\n".join(lines), "mermaid") + (
        f"\nNot drawn, because they lead there from every open state: {note}. Nor are events that keep the state.\n"
    )


def _states_by_events() -> str:
    states = [state for state in State if state in OPEN]
    lines = ["| event | " + " | ".join(states) + " |", "|---" * (len(states) + 1) + "|"]
    for event in DeploymentEvent:
        cells = [TRANSITIONS[state].get(event) for state in states]
        lines.append(f"| `{event}` | " + " | ".join(cell or "·" for cell in cells) + " |")
    ended = ", ".join(state for state in State if state in TERMINAL)
    return "\n".join(lines) + f"\n\nTerminal, and so without a row of their own: {ended}.\n"


def _check_in_meaning() -> str:
    lines = ["| the check-in shows | deployment is | same boot | another boot |", "|---|---|---|---|"]
    for installed in Installed:
        grouped: dict[tuple[str, str], list[str]] = {}
        for state in (state for state in State if state in OPEN):
            pair = tuple(_meaning(CHECK_IN[installed, state, new_boot]) for new_boot in (False, True))
            grouped.setdefault(pair, []).append(state.value)
        for (same, other), states in grouped.items():
            where = "any open state" if len(states) == len(OPEN) else ", ".join(states)
            lines.append(f"| {installed} | {where} | {same} | {other} |")
    return "\n".join(lines) + "\n"


def _meaning(value: Any) -> str:
    return f"event `{value}`" if isinstance(value, DeploymentEvent) else str(value)


# --- layers, configuration, commands ----------------------------------------------------------------------------------


def _import_contracts() -> str:
    linter = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    parts = []
    for contract in linter["contracts"]:
        if contract["type"] == "layers":
            parts.append(f"{_sentence(contract['name'])}:\n\n" + fenced("\n".join(contract["layers"])))
        elif contract["type"] == "forbidden":
            never = ", ".join(f"`{name}`" for name in contract["forbidden_modules"])
            parts.append(f"{_sentence(contract['name'])}: never {never}.\n")
        else:
            apart = " and ".join(f"`{name}`" for name in contract["modules"])
            parts.append(f"{_sentence(contract['name'])}: {apart} never import each other.\n")
    return "\n".join(parts)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _settings() -> str:
    lines = ["| setting | default | allowed | meaning |", "|---|---|---|---|"]
    for setting in SETTINGS:
        default = setting.shown(setting.default)
        shown = f"`{default}`" if default else "(empty)"
        lines.append(f"| `{setting.name}` | {shown} | {setting.allowed} | {setting.doc} |")
    return "\n".join(lines) + "\n"


def commands() -> dict[str, Any]:
    """Every command of `ota-bridge` by its words, from the command line itself."""
    from typer.main import get_command

    from ota_bridge.cli.app import build

    found: dict[str, Any] = {}

    def walk(words: tuple[str, ...], command: Any) -> None:
        if hasattr(command, "commands"):
            for name, inner in command.commands.items():
                walk((*words, name), inner)
        elif not command.hidden:
            found[" ".join(words)] = command

    walk(("ota-bridge",), get_command(build()))
    return found


def _commands() -> str:
    lines = ["| command | what it does |", "|---|---|"]
    for words, command in commands().items():
        arguments = [_argument(parameter) for parameter in command.params if parameter.param_type_name == "argument"]
        usage = " ".join([words, *arguments])
        lines.append(f"| `{usage}` | {(command.help or '').partition(chr(10))[0]} |")
    return "\n".join(lines) + "\n"


def _argument(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name).upper()
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def _plan_words() -> str:
    """Each word of a plan file once, by its table."""
    parts = []
    for table in tables():
        head = f"**{table.title}**\n\n" if table.title else ""
        rows = "".join(
            f"| `{row.key}` | {_allowed(row)} | {_default(table, row)} | {_cell(table.described(row))} |\n"
            for row in table.rows
        )
        parts.append(f"{head}| word | allowed | where absent | meaning |\n|---|---|---|---|\n{rows}")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _allowed(row: Row) -> str:
    if isinstance(row.form, Tables):
        return f"up to {row.form.most} tables"
    return "a table" if isinstance(row.form, Table) else _cell(row.form.allowed)


def _default(table: Table, row: Row) -> str:
    """What counts where the word is absent: as the file would say it."""
    if row.required:
        return "needed"
    value = table.default(row)
    if isinstance(value, bool) or (isinstance(value, int | float | str) and value != ""):
        return f"`{str(value).lower() if isinstance(value, bool) else f'{value:g}' if isinstance(value, float) else value}`"
    return "all" if row.key == "kinds" else ""


def _plan_example() -> str:
    return fenced(EXAMPLE.rstrip(), "toml")


def written_files() -> dict[Path, str]:
    """Files of docs/ that are generated as a whole."""
    return {HOME / "docs/rollout-plan.schema.json": json.dumps(plan_schema(), indent=2, ensure_ascii=False) + "\n"}


# --- faults ----------------------------------------------------------------------------------------------------------


def _invariants() -> str:
    return "| rule | |\n|---|---|\n" + "".join(f"| {name} | {rule} |\n" for name, rule in INVARIANTS.items())


def _fault_families() -> str:
    lines = ["| family | one run is | `make test` | `make faults` | `make faults-full` |", "|---|---|--:|--:|--:|"]
    for family in FAMILIES.values():
        sizes = " | ".join(f"{getattr(family, size):,}" for size in SIZES)
        lines.append(f"| {family.name} | {family.about} | {sizes} |")
    return "\n".join(lines) + "\n"


def _boards() -> str:
    lines = ["| board | | sectors | word, page | chunk | image | stories |", "|---|---|---|---|--:|--:|---|"]
    for name, board in BOARDS.items():
        chip = board.layout(0xFF).chip
        sectors = ", ".join(f"{count} × {size // 1024} KiB" for count, size in chip.runs)
        stories = ", ".join(dict.fromkeys(world.story for world in WORLDS if world.board == name))
        lines.append(
            f"| {name} | {board.about} | {sectors} | {chip.word_bytes}, {chip.page_bytes} B | {1 << board.chunk_log2:,} B"
            f" | {board.image_bytes:,} B | {stories} |"
        )
    return "\n".join(lines) + "\n"


def _query_variables() -> str:
    lines = ["| variable | kind | what it is |", "|---|---|---|"]
    lines += [f"| `{name}` | {variable.kind} | {variable.about} |" for name, variable in VARIABLES.items()]
    return "\n".join(lines) + "\n"


REGIONS: Final[Mapping[str, Callable[[], str]]] = {
    **{name: (lambda name=name: _sample(name)) for name in samples.SAMPLES if not name.startswith("refusal_")},
    "refusals": _refusals,
    "manifest_walk": lambda: _envelope_walk(samples.ENVELOPE, manifest._Key),
    "manifest_hex": lambda: fenced(hex_lines(samples.ENVELOPE), "hex"),
    "ticket_walk": lambda: _envelope_walk(samples.TICKET, tokens._Key),
    "ticket_hex": lambda: fenced(hex_lines(samples.TICKET), "hex"),
    "signed_bytes": lambda: _signed_bytes(samples.ENVELOPE, envelope.MANIFEST),
    "keyset_walk": lambda: _envelope_walk(samples.STEP, keyset._Key, keyset.KIND),
    "keyset_hex": lambda: fenced(hex_lines(samples.STEP), "hex"),
    "keyset_signed_bytes": lambda: _signed_bytes(samples.STEP, keyset.KIND),
    "keyset_refusals": _keyset_refusals,
    "sample_keys": _keys,
    "trust_document": _trust,
    "refusal_names": _refusal_names,
    "exchange": lambda: fenced(docs_exchange.told()),
    "state_diagram": _diagram,
    "states_by_events": _states_by_events,
    "check_in_meaning": _check_in_meaning,
    "import_contracts": _import_contracts,
    "settings": _settings,
    "invariants": _invariants,
    "fault_families": _fault_families,
    "boards": _boards,
    "commands": _commands,
    "plan_words": _plan_words,
    "plan_example": _plan_example,
    "query_variables": _query_variables,
}


def main(arguments: list[str]) -> int:
    """Write, or with `--check` name, what is stale; 1 if something was to be written and was not."""
    stale = [page for page in pages() if rendered(text := page.read_text(encoding="utf-8")) != text]
    for page in stale:
        print(page.relative_to(HOME))
        if "--check" not in arguments:
            page.write_text(rendered(page.read_text(encoding="utf-8")), encoding="utf-8")
    for file, text in written_files().items():
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            stale.append(file)
            print(file.relative_to(HOME))
            if "--check" not in arguments:
                file.write_text(text, encoding="utf-8")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
