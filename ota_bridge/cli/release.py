"""`release …`: sign images, publish and withdraw them. The author's key is used here, never in the daemon."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ota_bridge.cli.keys import AUTHOR_FILE
from ota_bridge.cli.output import counted, size, when
from ota_bridge.cli.session import JsonOption, ReleaseArgument, Session
from ota_bridge.cli.signed_files import read_signed, write_signed
from ota_bridge.core.errors import Conflict, InvalidInput
from ota_bridge.core.manifest import CHUNK_BYTES_DEFAULT, Dependency, ManifestFacts
from ota_bridge.core.values import FIRMWARE
from ota_bridge.core.versions import checked_bounds, shown
from ota_bridge.security import manifest
from ota_bridge.security.authority import newest
from ota_bridge.security.keys import SigningKey, load_key
from ota_bridge.security.signing import check_file, sign_file

commands = typer.Typer(no_args_is_help=True, help="Releases: signed images and their manifests.")

MANIFEST_SUFFIX: Final = ".manifest"

_FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The image.")]
_ProductOption = Annotated[str, typer.Option(metavar="PRODUCT", help="The product, as in the topics.")]
_HwOption = Annotated[list[str], typer.Option(metavar="HW", help="Hardware id that it runs on; may be repeated.")]
_ComponentOption = Annotated[str, typer.Option(metavar="NAME", help="The component it is for.")]
_KeyOption = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Author's key; may be repeated.", show_default=str(AUTHOR_FILE)),
]
_ChunkOption = Annotated[int, typer.Option(metavar="BYTES", help="Piece that a device verifies at a time.")]
_VendorOption = Annotated[
    str | None, typer.Option(metavar="DOMAIN", help="The vendor.", show_default="that of the trust document")
]
_NeedsOption = Annotated[
    list[str] | None,
    typer.Option(metavar="COMPONENT=SEQ", help="Signed: needs that component with at least this seq; may be repeated."),
]

_MinSeqOption = Annotated[
    int | None,
    typer.Option(min=1, help="Signed: installs only where the component has this seq at least.", show_default="any"),
]

_META_HELP: Final = (
    "What only the author knows and devices of another vendor's protocol need, such as aws.signature=@fw.sig; "
    "@FILE takes it from a file."
)
_MetaOption = Annotated[
    list[str] | None, typer.Option("--meta", metavar="NAME=VALUE", help=f"{_META_HELP} May be repeated.")
]


@commands.command("sign")
def sign(
    context: typer.Context,
    file: _FileArgument,
    product: _ProductOption,
    version: Annotated[str, typer.Option(metavar="VERSION")],
    hw: _HwOption,
    seq: Annotated[int, typer.Option(min=1, help="Anti-rollback counter: a device takes only a higher one.")],
    component: _ComponentOption = FIRMWARE,
    key: _KeyOption = None,
    chunk: _ChunkOption = CHUNK_BYTES_DEFAULT,
    vendor: _VendorOption = None,
    needs: _NeedsOption = None,
    min_seq: _MinSeqOption = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the manifest goes.", show_default="FILE.manifest")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Sign an image without a daemon: hash the file and write FILE.manifest."""
    session = Session.of(context, as_json=as_json)
    out = out or Path(f"{file}{MANIFEST_SUFFIX}")
    if out.exists():
        raise Conflict(f"manifest {out} exists already; move it away, or name another with --out")
    envelope = _signed(session, file, product, version, hw, seq, component, key, chunk, vendor, needs, min_seq)
    write_signed(out, "manifest", envelope)
    _say_signed(session, out, envelope)


@commands.command("cosign")
def cosign(
    context: typer.Context,
    file: _FileArgument,
    manifest_file: Annotated[Path, typer.Argument(metavar="MANIFEST", help="As `release sign` wrote it.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the manifest with both signatures goes.")],
    key: Annotated[Path, typer.Option(metavar="FILE", help="The second author's key.")] = AUTHOR_FILE,
    as_json: JsonOption = False,
) -> None:
    """Add another author's signature to a manifest, after hashing the image again."""
    session = Session.of(context, as_json=as_json)
    signed = _read_manifest(manifest_file)
    check_file(file, manifest.read(signed))
    envelope = manifest.add_signature(signed, _keys(session, [key])[0])
    write_signed(out, "manifest", envelope)
    _say_signed(session, out, envelope)


@commands.command("add")
def add(
    context: typer.Context,
    file: _FileArgument,
    product: _ProductOption,
    version: Annotated[str, typer.Option(metavar="VERSION")],
    hw: _HwOption,
    component: _ComponentOption = FIRMWARE,
    key: _KeyOption = None,
    manifest_file: Annotated[
        Path | None, typer.Option("--manifest", metavar="FILE", help="Signed elsewhere; no key is used then.")
    ] = None,
    seq: Annotated[
        int | None, typer.Option(min=1, help="Anti-rollback counter.", show_default="one above the product's highest")
    ] = None,
    chunk: _ChunkOption = CHUNK_BYTES_DEFAULT,
    vendor: _VendorOption = None,
    part_version: Annotated[
        str | None,
        typer.Option(metavar="VERSION", help="The component's own version.", show_default="that of the release"),
    ] = None,
    installs_from: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="BOUND",
            help="Installs from this version of the component, or from a range such as '>=1,<2'; may be repeated.",
            show_default="any",
        ),
    ] = None,
    in_advance: Annotated[
        bool, typer.Option("--in-advance", help="What it installs from or needs is added later.")
    ] = False,
    needs: _NeedsOption = None,
    min_seq: _MinSeqOption = None,
    metadata: _MetaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign an image with the author's key and publish it; or publish one that was signed elsewhere."""
    session = Session.of(context, as_json=as_json)
    bounds = checked_bounds(installs_from or [])
    signed_version = part_version or version
    releases = session.call("release.list", {"product": product})
    if manifest_file is not None:
        if needs or min_seq:
            raise InvalidInput("--needs and --min-seq do not go with --manifest: what it needs is signed already")
        envelope = _signed_elsewhere(session, file, manifest_file, signed_version, component, key)
    else:
        seq = seq or _next_seq(releases, component, _vendor_and_epoch(session, vendor)[1])
        envelope = _signed(
            session, file, product, signed_version, hw, seq, component, key, chunk, vendor, needs, min_seq
        )
    described = _metadata(metadata or [])
    claims = {"product": product, "version": version, "part_version": part_version, "hw": list(hw)}
    result = _upload(
        session,
        file,
        envelope,
        {
            **claims,
            "installs_from": list(bounds) or None,
            "in_advance": in_advance or None,
            "metadata": described or None,
        },
    )
    if as_json:
        session.output.json(result)
        return
    facts = manifest.read(envelope)
    session.output.say(
        f"release {result['id']}: {facts.component}, {size(facts.size_bytes)}, seq {facts.seq}, "
        f"sha256 {facts.sha256.hex()[:16]}"
    )
    ahead = session.call("release.ahead", {"release": result["id"]})
    if ahead["devices"]:
        session.output.note(
            f"warning: {ahead['devices']} devices report a seq of up to {ahead['seq']} and will not take it; "
            "to reach them, sign it again with a higher --seq"
        )
    _say_what_it_lacks(session, result)
    session.output.note(f"bring it to devices with: ota-bridge rollout start {result['id']} --to all")


@commands.command("list")
def list_releases(
    context: typer.Context,
    product: Annotated[str | None, typer.Option(metavar="PRODUCT")] = None,
    as_json: JsonOption = False,
) -> None:
    """List releases."""
    session = Session.of(context, as_json=as_json)
    answer = session.read("release.list", {"product": product})
    if session.shown_as_json("releases", answer):
        return
    rows = [
        (
            release["id"],
            release["state"],
            release["hardware"],
            [_part_name(release, name) + f" {size(part['size_bytes'])}" for name, part in release["parts"].items()],
            [_from(name, part, release) for name, part in release["parts"].items() if part["installs_from"]] or None,
            max((part["seq"] for part in release["parts"].values()), default=None),
            when(release["created"]),
            release["created_by"],
        )
        for release in answer.result
    ]
    columns = ("release", "state", "hardware", "components", "from", "seq", "created", "by")
    session.output.table(columns, rows, empty="no releases yet; add one with `ota-bridge release add`")


@commands.command("show")
def show(context: typer.Context, release: ReleaseArgument, as_json: JsonOption = False) -> None:
    """Show one release."""
    session = Session.of(context, as_json=as_json)
    answer = session.read("release.show", {"release": release})
    if not session.shown_as_json(None, answer):
        _print_release(session, answer.result)


@commands.command("path")
def path(
    context: typer.Context,
    release: ReleaseArgument,
    device: Annotated[str | None, typer.Argument(metavar="DEVICE", help="Id, name or label.")] = None,
    runs: Annotated[
        str | None, typer.Option("--from", metavar="VERSION", help="What a device runs, instead of a device.")
    ] = None,
    component: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this component.", show_default="all")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show by which steps a device comes to a release."""
    session = Session.of(context, as_json=as_json)
    asked = {"release": release, "device": device, "version": runs, "component": component}
    answer = session.read("release.path", asked)
    if session.shown_as_json(None, answer):
        return
    for name, part in answer.result["parts"].items():
        session.output.say(f"{name}: {_path(part)}")


def _path(part: Mapping[str, Any]) -> str:
    steps = part["steps"]
    reason = part["reason"] or (part["code"] or "").replace("_", " ")
    if not steps:
        return reason
    sent = size(sum(step["size_bytes"] for step in steps))
    line = f"{' -> '.join([part['runs'], *(step['version'] for step in steps)])}: {counted(len(steps), 'step')}, {sent}"
    return f"{line}; {reason}" if reason else line


@commands.command("describe")
def describe(
    context: typer.Context,
    release: ReleaseArgument,
    metadata: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help=_META_HELP)],
    component: _ComponentOption = FIRMWARE,
    as_json: JsonOption = False,
) -> None:
    """Add what only the author knows and devices of another vendor's protocol need."""
    session = Session.of(context, as_json=as_json)
    args = {"release": release, "metadata": _metadata(metadata), "component": component}
    result = session.call("release.describe", args)
    if as_json:
        session.output.json(result)
        return
    held = result["parts"][component]["metadata"]
    session.output.say(f"release {result['id']}, {component}: {', '.join(sorted(held))}")
    _say_what_it_lacks(session, result)


def _metadata(words: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE each; a value @FILE is what stands in the file."""
    found: dict[str, str] = {}
    for word in words:
        name, is_one, value = word.partition("=")
        if not is_one:
            raise InvalidInput(f"{word[:60]!r}: write NAME=VALUE, such as aws.signature=@fw.sig")
        found[name] = _text_of(Path(value[1:])) if value.startswith("@") else value
    return found


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text; base64 of it may be what is wanted"
        raise InvalidInput(f"{path}: {reason}") from error


def _say_what_it_lacks(session: Session, result: Mapping[str, Any]) -> None:
    for component, missing in sorted(result.get("lacks", {}).items()):
        for name, what in missing.items():
            session.output.note(
                f"{component} lacks {name}: {what}. Devices that need it wait; add it with: "
                f"ota-bridge release describe {result['id']} --component {component} {name}=VALUE"
            )


@commands.command("withdraw")
def withdraw(
    context: typer.Context,
    release: ReleaseArgument,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; kept with every canceled device.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Never offer a release again; what is on its way is canceled."""
    session = Session.of(context, as_json=as_json)
    result = session.call("release.withdraw", {"release": release, "reason": reason})
    if as_json:
        session.output.json(result)
    else:
        session.output.say(f"release {result['id']} is withdrawn; {counted(result['canceled'], 'deployment')} canceled")
        if follow := result.get("follow"):
            session.output.note(f"it may be a stepping stone of {', '.join(follow)}: the rest of it is canceled now")


def _print_release(session: Session, release: Mapping[str, Any]) -> None:
    output = session.output
    output.facts(
        [
            ("release", release["id"]),
            ("state", release["state"]),
            ("hardware", release["hardware"]),
            ("created", f"{when(release['created'])} by {release['created_by']}"),
        ]
    )
    rows = [
        (
            name,
            part["version"],
            shown(part["installs_from"]) + (f", seq {least} on" if (least := part["min_present_seq"]) else ""),
            [f"{needed} seq {seq}" for needed, seq in part["needs"].items()] or None,
            part["file_name"],
            size(part["size_bytes"]),
            part["seq"],
            part["chunk_bytes"],
            part["sha256"],
        )
        for name, part in release["parts"].items()
    ]
    columns = ("component", "version", "from", "needs", "file", "size", "seq", "chunk", "sha256")
    output.table(columns, rows, empty="no components")


def _part_name(release: Mapping[str, Any], name: str) -> str:
    """A component, with its version where that is not the release's."""
    version = release["parts"][name]["version"]
    return name if version == release["version"] else f"{name} {version}"


def _from(name: str, part: Mapping[str, Any], release: Mapping[str, Any]) -> str:
    bounds = shown(part["installs_from"])
    return bounds if len(release["parts"]) == 1 else f"{name}: {bounds}"


def _signed(
    session: Session,
    file: Path,
    product: str,
    version: str,
    hw: Sequence[str],
    seq: int,
    component: str,
    key: list[Path] | None,
    chunk: int,
    vendor: str | None,
    needs: list[str] | None,
    min_seq: int | None,
) -> bytes:
    dependencies = tuple(_dependency(text) for text in needs or [])
    keys = _keys(session, key or [AUTHOR_FILE])
    domain, epoch = _vendor_and_epoch(session, vendor)
    total = file.stat().st_size if file.is_file() else 0
    with session.output.bar(f"hashing {file.name}", total) as bar:
        signed = sign_file(
            file,
            keys=keys,
            vendor_domain=domain,
            product=product,
            hw=hw,
            version=version,
            seq=seq,
            component=component,
            chunk_bytes=chunk,
            epoch=epoch,
            dependencies=dependencies,
            min_present_seq=min_seq,
            progress=lambda done, _: bar.update(bar.task_ids[0], completed=done),
        )
    return signed.envelope


def _dependency(text: str) -> Dependency:
    component, _, seq = text.partition("=")
    if not seq.isascii() or not seq.isdecimal():
        raise InvalidInput(f"--needs {text[:40]!r}: write COMPONENT=SEQ, such as radio=3")
    return Dependency(component=component, min_seq=int(seq[:20]))


def _signed_elsewhere(
    session: Session, file: Path, manifest_file: Path, version: str, component: str, key: list[Path] | None
) -> bytes:
    if key:
        raise InvalidInput("--key and --manifest exclude each other: the manifest is signed already")
    envelope = _read_manifest(manifest_file)
    facts = manifest.read(envelope)
    if (facts.version, facts.component) != (version, component):
        raise InvalidInput(
            f"manifest {manifest_file} is for {facts.component} {facts.version}, not {component} {version}"
        )
    with session.output.bar(f"checking {file.name}", facts.size_bytes) as bar:
        check_file(file, facts, progress=lambda done, _: bar.update(bar.task_ids[0], completed=done))
    return envelope


def _upload(session: Session, file: Path, envelope: bytes, claims: Mapping[str, Any]) -> dict[str, Any]:
    args = {"envelope": base64.b64encode(envelope).decode("ascii"), "file_name": file.name, **claims}
    total = manifest.read(envelope).size_bytes
    with file.open("rb") as source, session.output.bar(f"sending {file.name}", total) as bar:
        result: dict[str, Any] = session.call(
            "release.add",
            args,
            upload=(source, total),
            progress=lambda done: bar.update(bar.task_ids[0], completed=done),
        )
    return result


def _vendor_and_epoch(session: Session, vendor: str | None) -> tuple[str, int]:
    """Whose the image is, and since which keyset its seq counts; a named vendor needs no trust document."""
    path = session.config.security.trust
    if vendor is not None and not path.exists():
        return vendor, 1
    trust = newest(path, session.config.own_trust_path)
    return vendor or trust.vendor, trust.keyset.epoch


def _next_seq(releases: Sequence[Mapping[str, Any]], component: str, epoch: int) -> int:
    parts = [part for release in releases for name, part in release["parts"].items() if name == component]
    return max((part["seq"] for part in parts if part["epoch"] == epoch), default=0) + 1


def _keys(session: Session, paths: Sequence[Path]) -> list[SigningKey]:
    loaded = [load_key(path) for path in paths]
    for one in loaded:
        if one.warning:
            session.output.note(f"warning: {one.warning}")
    return [one.key for one in loaded]


def _read_manifest(path: Path) -> bytes:
    return read_signed(path, "manifest", made_by="release sign")


def _say_signed(session: Session, path: Path, envelope: bytes) -> None:
    facts: ManifestFacts = manifest.read(envelope)
    signers = [kid.hex() for kid in manifest.signers(envelope)]
    if session.as_json:
        session.output.json(
            {
                "manifest_file": str(path),
                "version": facts.version,
                "component": facts.component,
                "seq": facts.seq,
                "size_bytes": facts.size_bytes,
                "sha256": facts.sha256.hex(),
                "signers": signers,
            }
        )
        return
    session.output.say(
        f"{path}: {facts.component} {facts.version}, seq {facts.seq}, {size(facts.size_bytes)}, "
        f"signed by {', '.join(signers)}"
    )
