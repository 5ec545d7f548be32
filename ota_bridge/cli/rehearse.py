"""`rollout rehearse FILE`: the plan that a real rollout would start with, carried out by simulated devices.

Nothing is changed and no daemon is needed; what the database knows of release, limits and, with `--fleet`, devices is
copied from it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from ota_bridge.cli import quantities, rollout_plan
from ota_bridge.cli.session import JsonOption, Session
from ota_bridge.core.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from ota_bridge.core.catalog import Release
    from ota_bridge.core.ports import UnitOfWork
    from ota_bridge.plan_file import PlanFile
    from ota_bridge.rehearsal.cohort import Cohort
    from ota_bridge.rehearsal.site import Site
    from ota_bridge.rehearsal.world import Script, World

T = TypeVar("T")

DEVICES_MAX: Final = 10_000_000

_COHORT_HELP: Final = (
    "Devices that differ, as 'share=10% link=2kB/s offline=20% fail=5%'; may be repeated. Also: name, offline-for, "
    "reboot, check-in, sleep."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fleet:
    """How the devices are made up, or that they are copied."""

    copied: bool
    devices: int
    hw: tuple[str, ...]
    versions: Mapping[str, float]
    size_bytes: int


def rehearse(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The plan file that the real rollout starts with.")],
    devices: Annotated[int, typer.Option(min=1, max=DEVICES_MAX, help="How many devices are made up.")] = 1000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same rehearsal.")] = 1,
    offline: Annotated[str, typer.Option(metavar="SHARE", help="So many are away when it starts.")] = "0%",
    offline_for: Annotated[str, typer.Option(metavar="TIME", help="They come back then; empty: never.")] = "",
    fail: Annotated[
        str,
        typer.Option(
            metavar="SHARE",
            help="On so many each update fails: 2% (rolled back), or failed=1%,timed_out=1%,rolled_back=1%.",
        ),
    ] = "0%",
    link: Annotated[str, typer.Option(metavar="RATE", help="What one device downloads per second.")] = "20kB/s",
    site: Annotated[str, typer.Option(metavar="RATE", help="What all can download together; empty: no limit.")] = "",
    reboot: Annotated[
        str, typer.Option(metavar="TIME", help="From the word to install to the first check-in; or LEAST..MOST.")
    ] = "0.2s..0.8s",
    check_in: Annotated[str, typer.Option("--check-in", metavar="TIME", help="How often devices check in.")] = "30s",
    sleep: Annotated[str, typer.Option(metavar="AWAKE/ASLEEP", help="They sleep, as 10s/50s or 10h/14h.")] = "",
    cohort: Annotated[list[str] | None, typer.Option(metavar="WORDS", help=_COHORT_HELP)] = None,
    fleet: Annotated[bool, typer.Option("--fleet", help="The devices on record instead of made-up ones.")] = False,
    size: Annotated[
        str, typer.Option(metavar="BYTES", help="Of the image, where the release is not on record.")
    ] = "1MiB",
    version: Annotated[
        list[str] | None, typer.Option(metavar="VERSION[=SHARE]", help="What made-up devices run; may be repeated.")
    ] = None,
    hw: Annotated[list[str] | None, typer.Option(metavar="ID", help="Their hardware; may be repeated.")] = None,
    weight: Annotated[int, typer.Option(min=0, help="One twin stands for so many devices; 0: 1 up to 200,000.")] = 0,
    person_after: Annotated[
        str, typer.Option(metavar="TIME", help="Who is asked lets it go on after this; never: it ends there.")
    ] = "0s",
    at: Annotated[str, typer.Option(metavar="INSTANT", help="When it starts; the file's start, or now.")] = "",
    limit: Annotated[str, typer.Option(metavar="TIME", help="It has to end within this simulated time.")] = "90d",
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw the curve into this file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Carry out a plan file with simulated devices, in accelerated time: when what would happen. Changes nothing."""
    session = Session.of(context, as_json=as_json)
    base = {
        "offline": offline, "offline-for": offline_for, "fail": fail, "link": link, "reboot": reboot,
        "check-in": check_in, "sleep": sleep,
    }  # fmt: skip
    cohorts = _cohorts(base, cohort or [])
    made = _Fleet(
        copied=fleet,
        devices=devices,
        hw=tuple(hw or ["r1"]),
        versions=_versions(version or ["1.0.0"]),
        size_bytes=quantities.size_of("--size", size),
    )
    with rollout_plan.problems_told(session):
        found = rollout_plan.read_plan(file)
        script = _script(session, found, made, cohorts, weight=weight, at=at)
        script = replace(
            script,
            seed=seed,
            limit_s=quantities.seconds_of("--limit", limit),
            person_after_s=None if person_after == "never" else quantities.seconds_of("--person-after", person_after),
            site_bytes_per_s=quantities.rate_of("--site", site) if site else float("inf"),
        )
        with rollout_plan.placed(found):
            world = _run(session, script)
    _show(session, world, svg)


def _run(session: Session, script: "Script") -> "World":
    from ota_bridge.calendars import CronCalendar
    from ota_bridge.queries import CelQueries
    from ota_bridge.rehearsal.report import clock
    from ota_bridge.rehearsal.world import World

    count = len(script.site.devices)
    with session.output.stderr.status(f"rehearsing with {count:,} twins") as status:

        def told(seconds: float, ended: int) -> None:
            status.update(f"rehearsing with {count:,} twins: {ended:,} updates have ended after {clock(seconds)}")

        world = World(script, queries=CelQueries(), calendar=CronCalendar(), progress=told)
        world.run()
    return world


def _show(session: Session, world: "World", svg: Path | None) -> None:
    from ota_bridge.rehearsal.picture import rehearsal_svg
    from ota_bridge.rehearsal.report import rehearsal_text, rehearsal_view

    view = rehearsal_view(world)
    if svg is not None:
        try:
            svg.write_text(rehearsal_svg(view), encoding="utf-8")
        except OSError as error:
            raise InvalidInput(f"--svg: {svg} cannot be written: {error.strerror}") from error
    if session.as_json:
        session.output.json(view)
        return
    for line in rehearsal_text(view):
        session.output.say(line)
    if view["weight"] > 1:
        session.output.note(f"each twin stood for {view['weight']} devices; --weight 1 is exact, and slower")


# --- what is rehearsed -----------------------------------------------------------------------------------------


def _script(
    session: Session, found: "PlanFile", made: _Fleet, cohorts: "list[Cohort]", *, weight: int, at: str
) -> "Script":
    from ota_bridge.core.rollout.plan_json import plan_json
    from ota_bridge.rehearsal import weights
    from ota_bridge.rehearsal.world import Script

    start_wall = _instant(at) if at else found.plan.start_wall or time.time()
    if found.plan.approvals:
        session.output.note(
            f"the plan waits for {found.plan.approvals} approvals first: the rehearsal begins after them"
        )
    plan = replace(found.plan, start_wall=None, approvals=0)
    site = _site(session, found, made, start_wall)
    if weight == 0:
        weight = weights.weight_for(made.devices if not made.copied else len(site.devices))
    if made.copied and weight > 1:
        raise InvalidInput("--fleet: the devices on record are rehearsed one by one; leave out --weight")
    if not made.copied:
        if found.target.get("devices"):
            raise InvalidInput(f"{found.file} names its devices, which made-up ones are not: add --fleet")
        site = _populated(site, found, made, weight)
    return Script(
        site=site,
        arguments={**found.target, "release": found.release, "plan": plan_json(weights.lighter_plan(plan, weight))},
        cohorts=cohorts,
        weight=weight,
    )


def _site(session: Session, found: "PlanFile", made: _Fleet, start_wall: float) -> "Site":
    """The site without made-up devices: what the database knows, and rules and limits as they are configured."""
    from ota_bridge.core.values import Limits
    from ota_bridge.daemon import rules_of
    from ota_bridge.rehearsal import site

    config = session.config

    def known(unit: "UnitOfWork") -> tuple[list["Release"], Limits, list[Any]]:
        releases = list(unit.releases.all())
        devices = site.copied_fleet(unit, site.product_of(found.release, releases)) if made.copied else []
        return releases, unit.limits.get().limits, devices

    read = _from_database(session, known)
    if read is None and made.copied:
        raise NotFound(f"--fleet: there is no database in {config.data_dir}; name it with --data-dir")
    releases, limits, devices = read or ([], Limits(), [])
    product = site.product_of(found.release, releases)
    releases = [one for one in releases if one.product == product]
    for number, name in enumerate((found.release, found.plan.roll_back_to)):
        if name is not None and not any(name in {one.id, one.version} for one in releases):
            if made.copied:
                raise NotFound(f"release {name} is not on record, and the devices are: add it first")
            releases.append(
                site.made_up_release(
                    name, size_bytes=made.size_bytes, hw=made.hw, seq=2 + number, start_wall=start_wall
                )
            )
    return site.Site(
        devices=devices,
        releases=releases,
        start_wall=start_wall,
        rules=rules_of(config),
        limits=limits,
        lease_s=config.blocks.slot_lease_s,
        device_blocks_per_s=config.blocks.device_blocks_per_s,
    )


def _populated(site: "Site", found: "PlanFile", made: _Fleet, weight: int) -> "Site":
    from ota_bridge.rehearsal.site import made_up_fleet
    from ota_bridge.rehearsal.weights import lighter_limits

    target = next(one for one in site.releases if found.release in {one.id, one.version})
    devices = made_up_fleet(
        max(1, round(made.devices / weight)),
        product=target.product,
        start_wall=site.start_wall,
        hw=made.hw if set(made.hw) <= set(target.hardware) else target.hardware,
        versions=made.versions,
        components=tuple(target.parts),
    )
    return replace(site, devices=devices, limits=lighter_limits(site.limits, weight))


def _from_database(session: Session, work: "Callable[[UnitOfWork], T]") -> T | None:
    """What the database says, of a running daemon too; None where there is none."""
    from ota_bridge.daemon import DATABASE
    from ota_bridge.store.sqlite import open_readonly

    path = session.config.data_dir / DATABASE
    if not path.is_file():
        return None
    reader = open_readonly(path)
    try:
        return reader.read(work)
    finally:
        reader.close()


# --- words ---------------------------------------------------------------------------------------------------


def _cohorts(base: Mapping[str, str], given: "list[str]") -> "list[Cohort]":
    """One of each text, and one of all others with what the options say."""
    from ota_bridge.rehearsal.cohort import checked_cohorts

    found: list[Cohort] = []
    for number, text in enumerate(given, start=1):
        words = dict(word.partition("=")[::2] for word in text.split())
        unknown = set(words) - {*base, "name", "share"}
        if unknown or "share" not in words:
            what = f"{min(unknown)!r} is not known" if unknown else "share is missing"
            raise typer.BadParameter(f"--cohort: {what}; write it as 'share=10% link=2kB/s', with {', '.join(base)}")
        found.append(_cohort({"name": f"cohort {number}", **base, **words}))
    rest = 1.0 - sum(one.share for one in found)
    if rest > 1e-9 or not found:  # noqa: PLR2004 - what is left of 100 % by rounding
        found.append(_cohort({"name": "all" if not found else "others", "share": f"{max(rest, 0.0):.6f}", **base}))
    return list(checked_cohorts(found))


def _cohort(words: Mapping[str, str]) -> "Cohort":
    from ota_bridge.rehearsal.cohort import FOR_GOOD_S, Cohort

    least, dots, most = words["reboot"].partition("..")
    awake, slash, asleep = words["sleep"].partition("/")
    if words["sleep"] and not slash:
        raise typer.BadParameter(
            f"--sleep: {words['sleep'][:40]!r} cannot be used; write AWAKE/ASLEEP, such as 10s/50s"
        )
    first = quantities.seconds_of("--reboot", least)
    return Cohort(
        name=words["name"],
        share=quantities.share_of("share", words["share"]),
        offline=quantities.share_of("--offline", words["offline"]),
        offline_for_s=quantities.seconds_of("--offline-for", words["offline-for"])
        if words["offline-for"]
        else FOR_GOOD_S,
        fail=_failures(words["fail"]),
        link_bytes_per_s=quantities.rate_of("--link", words["link"]),
        reboot_s=(first, quantities.seconds_of("--reboot", most) if dots else first),
        check_in_every_s=quantities.seconds_of("--check-in", words["check-in"]),
        awake_s=quantities.seconds_of("--sleep", awake) if slash else 0.0,
        asleep_s=quantities.seconds_of("--sleep", asleep) if slash else 0.0,
    )


def _failures(text: str) -> dict[Any, float]:
    from ota_bridge.rehearsal.cohort import FAILURES

    if "=" not in text:
        return {FAILURES[0]: quantities.share_of("--fail", text)}
    known = {state.value.lower(): state for state in FAILURES}
    found = {}
    for word in text.split(","):
        name, _, share = word.strip().partition("=")
        if name not in known:
            raise typer.BadParameter(f"--fail: {name[:40]!r} is not one of {', '.join(known)}")
        found[known[name]] = quantities.share_of("--fail", share)
    return found


def _versions(given: "list[str]") -> dict[str, float]:
    """Each with its share; those without one have the rest in equal parts."""
    named = [text.partition("=") for text in given]
    said = {name: quantities.share_of("--version", share) for name, sign, share in named if sign}
    silent = [name for name, sign, _ in named if not sign]
    rest = max(0.0, 1.0 - sum(said.values()))
    shares = {**said, **{name: rest / len(silent) for name in silent}}
    if abs(sum(shares.values()) - 1.0) > 1e-6:  # noqa: PLR2004 - as exact as percentages are written
        raise typer.BadParameter(f"--version: the shares are {sum(shares.values()):.0%} together; they must be 100 %")
    return shares


def _instant(text: str) -> float:
    from ota_bridge.plan_file.values import Instant, Wrong

    try:
        return Instant().value(text)
    except Wrong as wrong:
        raise typer.BadParameter(f"--at: {wrong}") from wrong
