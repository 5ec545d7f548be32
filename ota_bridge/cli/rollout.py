"""`rollout …`: bring a release to devices, and see how far it has come."""

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Group, RenderableType
from rich.live import Live

from ota_bridge.cli import rehearse, rollout_plan
from ota_bridge.cli.output import cell, plain, size, table, when
from ota_bridge.cli.session import Answer, JsonOption, ReleaseArgument, Session

commands = typer.Typer(no_args_is_help=True, help="Rollouts: a release on its way to its devices.")

WATCH_EVERY_S: Final = 1.0
_ALL: Final = "all"

_QUERY: Final = re.compile(r"[^A-Za-z0-9._:/,-]")
"""No name of a device has such a character."""
_SHOWN: Final = 5
"""Devices that a line names."""

_ToOption = Annotated[
    list[str] | None, typer.Option("--to", metavar="all|DEVICE|QUERY", help="Everyone, devices, or those of a query.")
]
_PercentOption = Annotated[int | None, typer.Option(min=0, max=100, help="A share of the product's devices.")]
_WhereOption = Annotated[str | None, typer.Option(metavar="QUERY", help="The devices for which a query holds.")]
_RolloutArgument = Annotated[str, typer.Argument(metavar="ROLLOUT", help="As `rollout status` lists it.")]


commands.command("check")(rollout_plan.check)
commands.command("schema")(rollout_plan.schema)
commands.command("example")(rollout_plan.example)
commands.command("rehearse")(rehearse.rehearse)


@commands.command("start")
def start(
    context: typer.Context,
    release: Annotated[
        str | None, typer.Argument(metavar="[RELEASE]", help="PRODUCT/VERSION; left out where --plan says it.")
    ] = None,
    devices: Annotated[list[str] | None, typer.Argument(metavar="DEVICE", help="More devices after --to.")] = None,
    to: _ToOption = None,
    percent: _PercentOption = None,
    where: _WhereOption = None,
    plan_file: Annotated[
        Path | None, typer.Option("--plan", metavar="FILE", help="All of it from a plan file, TOML or YAML.")
    ] = None,
    not_before: Annotated[
        str | None, typer.Option("--start", metavar="INSTANT", help="Not before, as 2026-12-01T02:00:00+01:00.")
    ] = None,
    urgent: Annotated[bool, typer.Option("--urgent", help="It overtakes others and heeds no window.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only say whether it could be started.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Start a rollout: --plan FILE, or RELEASE with --to all, --to DEVICE..., --percent N, or --where QUERY."""
    session = Session.of(context, as_json=as_json)
    if plan_file is None:
        if release is None:
            raise typer.BadParameter("name a RELEASE, or --plan FILE")
        args = {"release": release, **_target(to or [], devices or [], percent, where)}
        _start(session, _with_options(args, not_before, urgent=urgent), only_check=check)
        return
    if release is not None or to or devices or percent is not None or where is not None:
        raise typer.BadParameter(
            "--plan says which release goes to whom; leave out RELEASE, --to, --percent and --where"
        )
    with rollout_plan.problems_told(session):
        found = rollout_plan.read_plan(plan_file)
        args = _with_options(found.arguments, not_before, urgent=urgent)
        with rollout_plan.placed(found):
            _start(session, args, only_check=check)


def _with_options(args: Mapping[str, Any], not_before: str | None, *, urgent: bool) -> dict[str, Any]:
    plan_said = rollout_plan.changed(args.get("plan", {}), start=not_before, urgent=urgent)
    return {**args, "plan": plan_said} if plan_said else {**args}


def _start(session: Session, args: Mapping[str, Any], *, only_check: bool) -> None:
    if only_check:
        answer = session.read("rollout.check", args)
        if not session.shown_as_json(None, answer):
            session.output.say(f"{answer.result['release']} could be rolled out to {answer.result['target']}")
        return
    result = session.call("rollout.start", args)
    if session.as_json:
        session.output.json(result)
        return
    session.output.say(f"rollout {result['id']} of {result['release']} to {result['target']}: {_counts(result)}")
    session.output.note(f"follow it with: ota-bridge rollout status {result['id']} --watch")


@commands.command("plan")
def plan(
    context: typer.Context,
    release: ReleaseArgument,
    devices: Annotated[list[str] | None, typer.Argument(metavar="DEVICE", help="More devices after --to.")] = None,
    to: _ToOption = None,
    percent: _PercentOption = None,
    where: _WhereOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say who a rollout would reach, who not, and why not. Nothing is changed."""
    session = Session.of(context, as_json=as_json)
    answer = session.read("rollout.plan", {"release": release, **_target(to or [], devices or [], percent, where)})
    if session.shown_as_json(None, answer):
        return
    found = answer.result
    session.output.say(
        f"{found['release']} to {found['target']}: {found['gets']['count']} of {found['devices']} devices"
    )
    groups = [("gets it", found["gets"]), *((code.replace("_", " "), group) for code, group in found["not"].items())]
    rows = [(what, group["count"], _some(group["devices"], group["count"])) for what, group in groups if group["count"]]
    session.output.table(("", "devices", "such as"), rows, empty="there are no devices of this product yet")


def _some(names: Sequence[str], count: int) -> str:
    shown = ", ".join(names[:_SHOWN])
    return f"{shown}, and {count - _SHOWN} more" if count > _SHOWN else shown


def _target(to: Sequence[str], devices: Sequence[str], percent: int | None, where: str | None) -> dict[str, Any]:
    if where is None and len(to) == 1 and not devices and _QUERY.search(to[0]):
        to, where = [], to[0]
    named = [name for text in (*to, *devices) for name in text.split(",") if name]
    if where is not None:
        if [name for name in named if name != _ALL]:
            raise typer.BadParameter("name devices or --where, not both")
        return {"where": where} if percent is None else {"where": where, "percent": percent}
    if percent is not None:
        if named:
            raise typer.BadParameter("name devices or --percent, not both")
        return {"percent": percent}
    if not named:
        raise typer.BadParameter("say who is meant: --to all, --to DEVICE..., --to QUERY, or --percent N")
    if _ALL not in named:
        return {"devices": named}
    if len(named) > 1:
        raise typer.BadParameter("--to all stands alone")
    return {}


@commands.command("status")
def status(
    context: typer.Context,
    rollout: Annotated[str | None, typer.Argument(metavar="[ROLLOUT]", help="All of them where none is named.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until every device is done.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show rollouts, or one with its devices."""
    session = Session.of(context, as_json=as_json)
    if watch:
        _watch(session, rollout)
    elif rollout is None:
        answer = session.read("rollout.list", {})
        if not session.shown_as_json("rollouts", answer):
            _print_list(session, answer)
    else:
        answer = session.read("rollout.status", {"rollout": rollout})
        if not session.shown_as_json(None, answer):
            session.output.show(_status_view(answer.result))


@commands.command("percent")
def set_percent(
    context: typer.Context,
    rollout: _RolloutArgument,
    percent: Annotated[int, typer.Argument(min=0, max=100)],
    as_json: JsonOption = False,
) -> None:
    """Widen a rollout to a larger share of the devices."""
    _change(context, as_json, "rollout.percent", {"rollout": rollout, "percent": percent})


@commands.command("pause")
def pause(context: typer.Context, rollout: _RolloutArgument, as_json: JsonOption = False) -> None:
    """Hold a rollout: no offers, no blocks, no installs; nothing is lost."""
    _change(context, as_json, "rollout.pause", {"rollout": rollout})


@commands.command("resume")
def resume(context: typer.Context, rollout: _RolloutArgument, as_json: JsonOption = False) -> None:
    """Go on with a paused rollout."""
    _change(context, as_json, "rollout.resume", {"rollout": rollout})


@commands.command("cancel")
def cancel(
    context: typer.Context,
    rollout: _RolloutArgument,
    let_finish: Annotated[bool, typer.Option("--let-finish", help="Let what is open go on to its end.")] = False,
    as_json: JsonOption = False,
) -> None:
    """End a rollout: what has not begun to install is canceled, what runs stays."""
    _change(context, as_json, "rollout.cancel", {"rollout": rollout, "let_finish": let_finish})


@commands.command("next")
def next_stage(context: typer.Context, rollout: _RolloutArgument, as_json: JsonOption = False) -> None:
    """Open the next stage now, whatever the gate of the last one says."""
    _change(context, as_json, "rollout.next", {"rollout": rollout})


@commands.command("rollback")
def rollback(
    context: typer.Context,
    rollout: _RolloutArgument,
    to: Annotated[
        str | None, typer.Option("--to", metavar="RELEASE", help="Instead of what has the images that ran before.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """End a rollout and take its devices back; where no release will do it says what the author must sign."""
    _change(context, as_json, "rollout.rollback", {"rollout": rollout, "to": to})


@commands.command("approve")
def approve(
    context: typer.Context,
    rollout: _RolloutArgument,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="What was looked at.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Approve a rollout as it is now; whoever changes it makes this void."""
    _approval(context, as_json, "rollout.approve", {"rollout": rollout, "note": note})


@commands.command("disapprove")
def disapprove(context: typer.Context, rollout: _RolloutArgument, as_json: JsonOption = False) -> None:
    """Take back one's approval."""
    _approval(context, as_json, "rollout.disapprove", {"rollout": rollout})


@commands.command("approvals")
def approvals(context: typer.Context, rollout: _RolloutArgument, as_json: JsonOption = False) -> None:
    """Show who approved a rollout, and whether that still counts."""
    session = Session.of(context, as_json=as_json)
    answer = session.read("rollout.approvals", {"rollout": rollout})
    if session.shown_as_json(None, answer):
        return
    rows = [
        (one["user"], when(one["at"]), "void: changed since" if one["void"] else "counts", one["note"])
        for one in answer.result["approvals"]
    ]
    session.output.table(("by", "when", "", "note"), rows, empty="nobody has approved it")
    session.output.note(f"needed: {answer.result['needed']}, missing: {answer.result['missing']}")


def _approval(context: typer.Context, as_json: bool, op: str, args: Mapping[str, Any]) -> None:
    session = Session.of(context, as_json=as_json)
    result = session.call(op, args)
    if as_json:
        session.output.json(result)
        return
    counting = sum(not one["void"] for one in result["approvals"])
    session.output.say(f"rollout {result['id']}: approved by {counting}, missing {result['missing']}")


def _change(context: typer.Context, as_json: bool, op: str, args: Mapping[str, Any]) -> None:
    session = Session.of(context, as_json=as_json)
    result = session.call(op, args)
    if as_json:
        session.output.json(result)
    else:
        session.output.say(f"rollout {result['id']} is {result['state']}, to {result['target']}: {_counts(result)}")


def _counts(rollout: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{number} {state}" for state, number in rollout["counts"].items())
    return f"{rollout['confirmed']} of {rollout['total']} confirmed" + (f" ({counts})" if counts else "")


def _print_list(session: Session, answer: Answer) -> None:
    columns = ("rollout", "release", "state", "to", "confirmed", "open", "total", "created", "by")
    rows = [
        (
            one["id"],
            one["release"],
            one["state"],
            one["target"],
            one["confirmed"],
            one["open"],
            one["total"],
            when(one["created"]),
            one["created_by"],
        )
        for one in answer.result
    ]
    session.output.table(columns, rows, empty="no rollouts yet; start one with `ota-bridge rollout start`")


def _status_view(rollout: Mapping[str, Any]) -> RenderableType:
    head = f"rollout {rollout['id']}  {rollout['release']}  {rollout['state']}  to {rollout['target']}"
    lines: list[RenderableType] = [plain(head), plain(_counts(rollout) + f", {size(rollout.get('bytes_sent'))} sent")]
    if rollout["cause"]:
        lines.append(plain(f"{rollout['state']} by {rollout['changed_by']}: {rollout['cause']}"))
    if rollout.get("waiting"):
        lines.append(plain(f"{rollout['waiting']} devices wait to be let in"))
    if len(rollout["stages"]) > 1:
        shown = [
            [cell(one[name]) for name in ("stage", "state", "size", "confirmed", "failed", "open")]
            for one in rollout["stages"]
        ]
        lines += [plain(""), table(("stage", "is", "devices", "confirmed", "failed", "open"), shown)]
    rows = [
        [
            cell(value)
            for value in (
                one["device"],
                one["component"],
                one["state"],
                f"{one['percent']} %" + (" stalled" if one["stalled"] else ""),
                one["attempt"],
                size(one["bytes_sent"]),
                when(one["changed"]),
                one["cause"],
            )
        ]
        for one in rollout.get("deployments", [])
    ]
    if rows:
        columns = ("device", "component", "state", "done", "try", "sent", "since", "cause")
        lines += [plain(""), table(columns, rows)]
    return Group(*lines)


def _watch(session: Session, rollout: str | None) -> None:
    """Until the rollout (or every rollout) has no open deployment, or Ctrl-C."""
    try:
        with Live(console=session.output.console, auto_refresh=False, transient=False) as live:
            last = ""
            while True:
                shown = _look(session, rollout)
                if session.as_json:
                    session.output.json(shown if rollout else {"rollouts": shown})
                elif session.output.console.is_terminal:
                    views = [_status_view(one) for one in ([shown] if rollout else shown)]
                    live.update(Group(*views), refresh=True)
                else:
                    last = _line(session, [shown] if rollout else shown, last)
                if all(_is_over(one) for one in ([shown] if rollout else shown)):
                    return
                time.sleep(WATCH_EVERY_S)
    except KeyboardInterrupt:
        return


def _look(session: Session, rollout: str | None) -> Any:
    return session.call("rollout.status", {"rollout": rollout}) if rollout else session.call("rollout.list", {})


def _line(session: Session, rollouts: Sequence[Mapping[str, Any]], last: str) -> str:
    line = "; ".join(f"rollout {one['id']}: {_counts(one)}" for one in rollouts)
    if line != last:
        session.output.say(line)
    return line


def _is_over(rollout: Mapping[str, Any]) -> bool:
    return bool(rollout["complete"]) or rollout["state"] == "canceled"
