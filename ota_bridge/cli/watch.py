"""`watch`: the fleet live, one bar per device on the way and one for all; and `why`: one sentence about a device."""

import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ota_bridge.cli.device import named, versions
from ota_bridge.cli.output import STYLES, ago, cell, plain
from ota_bridge.cli.session import DeviceArgument, JsonOption, Session

EVERY_S: Final = 0.5
_ROWS_RESERVED: Final = 6
_BAR_WIDTH: Final = 30


def watch(
    context: typer.Context,
    product: Annotated[str | None, typer.Option(metavar="PRODUCT")] = None,
    as_json: JsonOption = False,
) -> None:
    """Watch the fleet live until Ctrl-C; with --json one line per change, piped one line per device and change."""
    session = Session.of(context, as_json=as_json)
    console = session.output.console
    args = {"product": product}
    try:
        if as_json or not console.is_terminal:
            _watch_lines(session, args)
        with Live(console=console, auto_refresh=False, screen=False) as live:
            while True:
                fleet = session.call("fleet", args)
                live.update(view(fleet, rows_max=console.height - _ROWS_RESERVED), refresh=True)
                time.sleep(EVERY_S)
    except KeyboardInterrupt:
        return


def why(context: typer.Context, device: DeviceArgument, as_json: JsonOption = False) -> None:
    """Say in one sentence why a device is where it is."""
    session = Session.of(context, as_json=as_json)
    answer = session.read("why", {"device": device})
    if not session.shown_as_json(None, answer):
        session.output.say(answer.result["sentence"])


def view(fleet: Mapping[str, Any], *, rows_max: int) -> RenderableType:
    """The whole picture; devices on the way first, those that do not fit are counted."""
    devices = sorted(fleet["devices"], key=_rank)
    shown = devices[: max(rows_max, 1)]
    lines: list[RenderableType] = [_links(fleet.get("bridge") or {})]
    lines += [fleet_bar(rollout) for rollout in fleet["rollouts"] if not _is_settled(rollout)]
    lines.append(_device_table(shown))
    if len(devices) > len(shown):
        lines.append(Text(f"… and {len(devices) - len(shown)} more", style="dim"))
    return Group(*lines)


def fleet_bar(rollout: Mapping[str, Any]) -> RenderableType:
    """One rollout in one line."""
    grid = Table.grid(padding=(0, 1))
    done, total = rollout["confirmed"], rollout["total"]
    grid.add_row(
        plain(f"{rollout['release']} ({rollout['id']}, {rollout['state']})"),
        ProgressBar(total=max(total, 1), completed=done, width=_BAR_WIDTH),
        plain(f"{done} of {total} confirmed"),
    )
    return grid


def device_bar(deployment: Mapping[str, Any]) -> ProgressBar:
    """How much of the image a device has asked for."""
    return ProgressBar(total=100, completed=deployment["percent"], width=_BAR_WIDTH)


def _device_table(devices: Sequence[Mapping[str, Any]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for device in devices:
        deployment = device["open"][0] if device["open"] else None
        state = deployment["state"] if deployment else device["state"]
        grid.add_row(
            plain(named(device)),
            cell(versions(device)),
            cell(deployment["release"].partition("/")[2]) if deployment else Text(""),
            Text(state + (" stalled" if deployment and deployment["stalled"] else ""), style=STYLES.get(state, "")),
            device_bar(deployment) if deployment else Text(""),
            plain(f"{deployment['percent']:3d} %") if deployment else Text(""),
            Text(f"heard {ago(device['last_report'])}", style="dim"),
        )
    return grid


def _links(bridge: Mapping[str, Any]) -> Text:
    text = Text(style="dim")
    for name in ("control", "blocks"):
        up = bridge.get(name) == "up"
        text.append(f"{name} link ").append("up  " if up else "DOWN  ", style="green" if up else "red")
    return text


def _rank(device: Mapping[str, Any]) -> tuple[bool, bool, str]:
    return not device["open"], device["state"] == "retired", device["id"]


def _is_settled(rollout: Mapping[str, Any]) -> bool:
    return bool(rollout["complete"]) or rollout["state"] == "canceled"


def _watch_lines(session: Session, args: Mapping[str, Any]) -> None:
    """For pipes: what changed since the last look."""
    before: dict[str, str] = {}
    while True:
        fleet = session.call("fleet", args)
        for device in fleet["devices"]:
            line = _device_line(device)
            if before.get(device["id"]) != line:
                before[device["id"]] = line
                if session.as_json:
                    session.output.json(device)
                else:
                    session.output.say(line)
        time.sleep(EVERY_S)


def _device_line(device: Mapping[str, Any]) -> str:
    updates = [f"{one['release']} {one['state']} {one['percent']} %" for one in device["open"]]
    return "  ".join([named(device), device["state"], "runs " + (", ".join(versions(device)) or "-"), *updates])
