"""`device …`: the fleet, one device at a time or from a CSV file."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ota_bridge.cli.output import ago, counted, size, when
from ota_bridge.cli.session import DeviceArgument, JsonOption, Session
from ota_bridge.core.errors import InvalidInput, NotFound, OperatorError
from ota_bridge.core.values import (
    NATIVE,
    DeviceId,
    attribute_of,
    checked_attribute,
    checked_attributes,
    checked_hardware_id,
    checked_tag,
)

commands = typer.Typer(no_args_is_help=True, help="Devices: who they are and what they run.")

_IMPORT_BATCH: Final = 2000
"""Rows per request: below the socket's line limit, and short enough not to hold up reports."""
_COLUMNS: Final = ("device", "hw", "tags", "label")
_ATTRIBUTE: Final = "attr."
_HISTORY_ROWS: Final = 20

_HwOption = Annotated[str | None, typer.Option(metavar="HW", help="Its hardware id.")]


@commands.command("list")
def list_devices(
    context: typer.Context,
    product: Annotated[str | None, typer.Option(metavar="PRODUCT")] = None,
    state: Annotated[str | None, typer.Option(metavar="STATE", help="pending, active or retired.")] = None,
    tag: Annotated[str | None, typer.Option(metavar="TAG")] = None,
    where: Annotated[
        str | None, typer.Option(metavar="QUERY", help="Those that it is true of (docs/queries.md).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List devices."""
    session = Session.of(context, as_json=as_json)
    answer = session.read("device.list", {"product": product, "state": state, "tag": tag, "where": where})
    if session.shown_as_json("devices", answer):
        return
    columns = ("device", "state", "hw", "runs", "assigned", "update", "heard", "tags")
    rows = (
        (
            named(device),
            device["state"],
            hardware(device),
            versions(device),
            [held["release"].partition("/")[2] for held in device["assigned"].values()],
            [f"{one['state']} {one['percent']}%" for one in device["open"]],
            ago(device["last_report"]),
            device["tags"],
        )
        for device in answer.result
    )
    empty = "no devices; they appear when they report, or with `device add`"
    session.output.table(columns, rows, empty=empty if where is None else "no device matches")


@commands.command("show")
def show(context: typer.Context, device: DeviceArgument, as_json: JsonOption = False) -> None:
    """Show one device with its history."""
    session = Session.of(context, as_json=as_json)
    answer = session.read("device.show", {"device": device})
    if not session.shown_as_json(None, answer):
        _print_device(session, answer.result)


@commands.command("add")
def add(
    context: typer.Context,
    device: Annotated[str, typer.Argument(metavar="PRODUCT/NAME")],
    hw: _HwOption = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="TAG", help="May be repeated.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Register a device before it appears."""
    _change(context, as_json, "device.add", {"device": device, "hw": hw, "tags": tag or None}, "registered")


@commands.command("import")
def import_csv(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="CSV", help="Head: device,hw,tags,label,attr.NAME (only device is needed).")
    ],
    as_json: JsonOption = False,
) -> None:
    """Register the devices of a CSV file; tags are separated by spaces. The file is checked before anything is done."""
    session = Session.of(context, as_json=as_json)
    rows = list(read_rows(file))
    if not rows:
        raise InvalidInput(f"{file} names no device below the first line")
    _check_free(file, rows, session.call("device.list", {}))
    added = 0
    try:
        for start in range(0, len(rows), _IMPORT_BATCH):
            added += session.call("device.import", {"rows": rows[start : start + _IMPORT_BATCH]})["added"]
    except OperatorError as error:
        raise InvalidInput(f"{file}: {added} devices were registered, then: {error}") from error
    if as_json:
        session.output.json({"added": added})
    else:
        session.output.say(f"{counted(added, 'device')} registered")


@commands.command("approve")
def approve(context: typer.Context, device: DeviceArgument, as_json: JsonOption = False) -> None:
    """Let a device take part that waits for it (enrol.policy = approve)."""
    _change(context, as_json, "device.approve", {"device": device}, "takes part now")


@commands.command("tag")
def tag_device(
    context: typer.Context,
    device: DeviceArgument,
    add_: Annotated[list[str] | None, typer.Option("--add", metavar="TAG", help="May be repeated.")] = None,
    remove: Annotated[list[str] | None, typer.Option("--remove", metavar="TAG", help="May be repeated.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Add and remove tags."""
    if not add_ and not remove:
        raise typer.BadParameter("name at least one tag with --add or --remove")
    result = _change(context, as_json, "device.tag", {"device": device, "add": add_, "remove": remove}, None)
    if not as_json:
        Session.of(context).output.say(f"device {result['id']}: tags {', '.join(result['tags']) or 'none'}")


@commands.command("set")
def set_attributes(
    context: typer.Context,
    device: DeviceArgument,
    attributes: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", show_default=False)] = None,
    unset: Annotated[list[str] | None, typer.Option(metavar="KEY", help="Take one away; may be repeated.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Attach attributes for queries: whole numbers, or text (in double quotes where it reads as a number)."""
    attrs: dict[str, str | int | None] = {}
    for text in attributes or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r}: write it as KEY=VALUE")
        attrs[checked_attribute(name)] = attribute_of(value)
    for name in unset or []:
        if name in attrs:
            raise typer.BadParameter(f"{name} is to be set and taken away")
        attrs[checked_attribute(name)] = None
    if not attrs:
        raise typer.BadParameter("name at least one attribute as KEY=VALUE or with --unset")
    result = _change(context, as_json, "device.set", {"device": device, "attrs": attrs}, None)
    if not as_json:
        Session.of(context).output.say(f"device {result['id']}: {', '.join(attributes_of(result)) or 'no attributes'}")


@commands.command("rename")
def rename(
    context: typer.Context,
    device: DeviceArgument,
    label: Annotated[str, typer.Argument(help="Empty takes the label away.")],
    as_json: JsonOption = False,
) -> None:
    """Give a device a name for people; on the wire it keeps its own."""
    _change(
        context,
        as_json,
        "device.rename",
        {"device": device, "label": label},
        f"is called {label!r} now" if label else "has no label now",
    )


@commands.command("retire")
def retire(context: typer.Context, device: DeviceArgument, as_json: JsonOption = False) -> None:
    """Take a device out of everything; its open deployments are canceled."""
    _change(context, as_json, "device.retire", {"device": device}, "is retired")


@commands.command("replace")
def replace(
    context: typer.Context,
    device: DeviceArgument,
    hw: Annotated[str | None, typer.Option(metavar="HW", help="Accept this hardware id from now on.")] = None,
    successor: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="Hand everything to this one and retire the old.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """A board was swapped: accept its hardware id, or name its successor."""
    if (hw is None) == (successor is None):
        raise typer.BadParameter("name either --hw or --successor")
    args = {"device": device, "hw": hw, "successor": successor}
    _change(context, as_json, "device.replace", args, f"has hardware id {hw} now" if hw else "takes over")


def named(device: Mapping[str, Any]) -> str:
    """Id and label."""
    return f"{device['id']} ({device['label']})" if device.get("label") else str(device["id"])


def versions(device: Mapping[str, Any]) -> list[str]:
    """What a device runs; the component is left out where there is only firmware."""
    parts = device["parts"]
    return [
        (part["version"] if set(parts) == {"firmware"} else f"{name} {part['version']}")
        + (" (trial)" if part.get("trial") else "")
        for name, part in parts.items()
    ]


def hardware(device: Mapping[str, Any]) -> str | None:
    """The hardware id, and the one it reports where that differs."""
    hw: str | None = device["hw"]
    return f"{hw}, reports {device['hw_reported']}" if device.get("hw_reported") else hw


def attributes_of(device: Mapping[str, Any]) -> list[str]:
    """The attributes as `device set` takes them."""
    return [
        f"{name}={value}" if attribute_of(str(value)) == value else f"{name}={json.dumps(value, ensure_ascii=False)}"
        for name, value in device["attrs"].items()
    ]


def read_rows(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a CSV file as `device.import` takes them; raises InvalidInput with the line's number."""
    seen: dict[str, int] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, strict=True, skipinitialspace=True)
            heads = [head.strip().lower() for head in reader.fieldnames or []]
            _check_heads(file, heads)
            reader.fieldnames = heads
            for row in reader:
                where = f"{file} line {reader.line_num}"
                checked = _row(where, row)
                label = f"label {checked['label']!r}" if "label" in checked else None
                for unique in filter(None, (checked["device"], label)):
                    if unique in seen:
                        raise InvalidInput(f"{where}: {unique} stands in line {seen[unique]} too")
                    seen[unique] = reader.line_num
                yield checked
    except FileNotFoundError:
        raise NotFound(f"there is no file {file}") from None
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InvalidInput(f"{file} is not a CSV file in UTF-8: {error}") from None


def _check_heads(file: Path, heads: list[str]) -> None:
    wrong = [head for head in heads if head not in _COLUMNS and not head.startswith(_ATTRIBUTE)]
    for head in heads:
        if head.startswith(_ATTRIBUTE):
            try:
                checked_attribute(head.removeprefix(_ATTRIBUTE))
            except InvalidInput as error:
                raise InvalidInput(f"{file}: {error}") from None
    if wrong or "device" not in heads or len(set(heads)) != len(heads):
        shown = ",".join(heads)[:80]
        needed, *optional = _COLUMNS
        raise InvalidInput(
            f"{file}: the first line must name the column {needed} and may name {', '.join(optional)}, attr.NAME; "
            f"it is {shown!r}"
        )


def _check_free(file: Path, rows: Sequence[Mapping[str, Any]], devices: Sequence[Mapping[str, Any]]) -> None:
    """Raise before anything is done where a device or a label is there already."""
    known = {device["id"] for device in devices}
    taken = [row["device"] for row in rows if row["device"] in known]
    if taken:
        such, verb = (", such as", "exist") if len(taken) > 1 else (":", "exists")
        raise InvalidInput(f"{file}: {len(taken)} of {len(rows)} devices {verb} already{such} {taken[0]}")
    called = {name: device["id"] for device in devices for name in (device["name"], device["label"]) if name}
    for row in rows:
        if row.get("label") in called:
            raise InvalidInput(f"{file}: label {row['label']!r} is taken by {called[row['label']]}")


def _row(where: str, row: Mapping[str | None, Any]) -> dict[str, Any]:
    if None in row or None in row.values():
        raise InvalidInput(f"{where}: it has not as many fields as the first line")
    text = {str(name): value.strip() for name, value in row.items()}
    try:
        checked: dict[str, Any] = {"device": str(DeviceId.parse(text["device"]))}
        if text.get("hw"):
            checked["hw"] = checked_hardware_id(text["hw"])
        if text.get("tags"):
            checked["tags"] = [checked_tag(tag) for tag in text["tags"].split()]
        attrs = checked_attributes(
            {
                head.removeprefix(_ATTRIBUTE): attribute_of(value)
                for head, value in text.items()
                if value and head.startswith(_ATTRIBUTE)
            }
        )
        if attrs:
            checked["attrs"] = attrs
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error}") from None
    if text.get("label"):
        checked["label"] = text["label"]
    return checked


def _change(
    context: typer.Context, as_json: bool, op: str, args: Mapping[str, Any], done: str | None
) -> dict[str, Any]:
    session = Session.of(context, as_json=as_json)
    result: dict[str, Any] = session.call(op, args)
    if as_json:
        session.output.json(result)
    elif done is not None:
        session.output.say(f"device {result['id']} {done}")
    return result


def _print_device(session: Session, device: Mapping[str, Any]) -> None:
    output = session.output
    output.facts(
        [
            ("device", named(device)),
            ("state", device["state"]),
            ("hardware", hardware(device)),
            ("runs", versions(device)),
            ("assigned", [held["release"] for held in device["assigned"].values()]),
            ("tags", device["tags"]),
            ("attributes", attributes_of(device)),
            ("last report", f"{when(device['last_report'])} ({ago(device['last_report'])})"),
            ("speaks", device["dialect"] if device["dialect"] != NATIVE else None),
            ("next check-in", when(device["next_check_in"]) if device["next_check_in"] else None),
            ("last offer", when(device["last_offer"]) if device["last_offer"] else None),
        ]
    )
    rows = [
        (
            one["id"],
            one["component"],
            one["release"],
            one["attempt"],
            one["state"],
            f"{one['percent']} %",
            size(one["bytes_sent"]),
            one["blocks_sent"],
            one["cause"],
        )
        for one in device.get("deployments") or device["open"]
    ]
    if rows:
        output.say("")
        columns = ("deployment", "component", "release", "try", "state", "done", "sent", "blocks", "cause")
        output.table(columns, rows, empty="")
    history = [
        (when(step["at"]), step.get("deployment"), step["event"], step["before"], step["after"], step["cause"])
        for step in device.get("history", [])[-_HISTORY_ROWS:]
    ]
    if history:
        output.say("")
        output.table(("at", "deployment", "event", "before", "after", "cause"), history, empty="")
