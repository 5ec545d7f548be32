"""`keys rotate …`: from one keyset to the next: propose, sign by each holder, combine; only `publish` needs a daemon.

Every step is checked against the trust document of the machine that it runs on, so each holder sees what changes
before signing. No file is ever overwritten but the trust document, by `apply`.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ota_bridge.cli.session import JsonOption, Session
from ota_bridge.cli.signed_files import read_signed, write_signed
from ota_bridge.core.errors import InvalidInput, NotFound
from ota_bridge.security import keyset
from ota_bridge.security.authority import newest
from ota_bridge.security.keys import PublicKey, load_key, load_public
from ota_bridge.security.keyset import Keyset
from ota_bridge.security.trust import Trust

commands = typer.Typer(no_args_is_help=True, help="From one keyset to the next, signed by authors of both.")

_KID_DIGITS_MIN: Final = 4

_FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="As `keys rotate` wrote it.")]
_TrustOption = Annotated[
    Path | None, typer.Option("--trust", metavar="FILE", help="Trust document [default: security.trust].")
]


def trusted(session: Session, trust: Path | None) -> Trust:
    """The named document; else the configured one, or the daemon's own where that goes further."""
    if trust is not None:
        return Trust.load(trust)
    return newest(session.config.security.trust, session.config.own_trust_path)


@commands.command("propose")
def propose(
    context: typer.Context,
    add: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Public key of another author; may be repeated.")
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Author to revoke, by key id; may be repeated.")
    ] = None,
    threshold: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="How many authors must sign from now on.")
    ] = None,
    online: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Public online key, in the place of those there are; may be repeated."),
    ] = None,
    new_epoch: Annotated[
        bool, typer.Option("--new-epoch", help="Manifests count their seq from 0 again; older ones are void.")
    ] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="[default: keyset-N.proposal]")] = None,
    trust: _TrustOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the next keyset for its holders to sign: authors that come and go, threshold, online key."""
    session = Session.of(context, as_json=as_json)
    before = trusted(session, trust).keyset
    proposed = _changed(before, add or [], remove or [], threshold, online, new_epoch=new_epoch)
    out = out or Path(f"keyset-{proposed.version}.proposal")
    _write(out, keyset.proposal(before, proposed))
    _say(session, out, before, proposed, keyset.Signed(old=frozenset(), new=frozenset()))


def _changed(
    before: Keyset,
    add: Sequence[Path],
    remove: Sequence[str],
    threshold: int | None,
    online: Sequence[Path] | None,
    *,
    new_epoch: bool,
) -> Keyset:
    gone = {_author(before, name).kid for name in remove}
    authors = tuple(key for key in before.authors if key.kid not in gone) + tuple(load_public(path) for path in add)
    version = before.version + 1
    proposed = replace(
        before,
        version=version,
        epoch=version if new_epoch else before.epoch,
        authors=authors,
        threshold=before.threshold if threshold is None else threshold,
        online=before.online if online is None else tuple(load_public(path) for path in online),
    )
    if not new_epoch and replace(before, version=version) == proposed:
        raise InvalidInput("nothing changes: name --add, --remove, --threshold, --online or --new-epoch")
    return proposed


def _author(before: Keyset, name: str) -> PublicKey:
    found = [key for key in before.authors if key.kid.hex().startswith(name)] if len(name) >= _KID_DIGITS_MIN else []
    if len(found) != 1:
        kids = ", ".join(key.kid.hex() for key in before.authors)
        raise NotFound(f"no one author of keyset {before.version} is {name[:40]!r}; its authors are {kids}")
    return found[0]


@commands.command("sign")
def sign(
    context: typer.Context,
    file: _FileArgument,
    key: Annotated[Path, typer.Option(metavar="FILE", help="Private key of an author, old or new.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="[default: FILE with the key id at its end]")] = None,
    trust: _TrustOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what changes, and write a copy with one more signature. Old authors and new ones sign alike."""
    session = Session.of(context, as_json=as_json)
    before, step = trusted(session, trust).keyset, _read(file)
    proposed = keyset.read(step)
    keyset.check_place(before, proposed)
    loaded = load_key(key)
    if loaded.warning:
        session.output.note(f"warning: {loaded.warning}")
    kid = loaded.key.kid
    if kid not in {one.kid for one in (*before.authors, *proposed.authors)}:
        raise InvalidInput(f"key {kid.hex()} is an author neither of keyset {before.version} nor of {proposed.version}")
    signed = keyset.sign(step, loaded.key)
    out = out or file.with_suffix(f".{kid.hex()}")
    _write(out, signed)
    _say(session, out, before, proposed, keyset.signed_by(before, signed))


@commands.command("combine")
def combine(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Signed copies of one proposal.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="[default: keyset-N.keyset]")] = None,
    trust: _TrustOption = None,
    as_json: JsonOption = False,
) -> None:
    """Join the signatures of several copies; refused until enough authors of both keysets have signed."""
    session = Session.of(context, as_json=as_json)
    before = trusted(session, trust).keyset
    steps = [_read(file) for file in files]
    for file, step in zip(files, steps, strict=True):
        try:
            keyset.signed_by(before, step)
        except InvalidInput as error:
            raise InvalidInput(f"{file}: {error}") from None
    step = keyset.combine(steps)
    proposed = keyset.read(step)
    signed = keyset.signed_by(before, step)
    missing = _missing(before, proposed, signed)
    if missing:
        raise InvalidInput(f"not enough have signed: {' and '.join(missing)}")
    keyset.follow(before, step)
    out = out or Path(f"keyset-{proposed.version}.keyset")
    _write(out, step)
    _say(session, out, before, proposed, signed)


@commands.command("publish")
def publish(context: typer.Context, file: _FileArgument, as_json: JsonOption = False) -> None:
    """Give a signed keyset to the daemon, which checks it, keeps it, and sends it to devices as they check in."""
    session = Session.of(context, as_json=as_json)
    result = session.call("keys.publish", {"keyset": base64.b64encode(_read(file)).decode("ascii")})
    if as_json:
        session.output.json(result)
        return
    said = "was there already" if result["already"] else "is published"
    session.output.say(
        f"keyset {result['version']} {said}: {result['threshold']} of {len(result['authors'])} authors must sign"
    )
    if result["online"] and not result["has_online_key"]:
        session.output.note(
            "warning: the daemon's online key is not in this keyset; put the private half of "
            f"{' or '.join(result['online'])} at security.online_key, or devices refuse its tickets"
        )


@commands.command("apply")
def apply(context: typer.Context, file: _FileArgument, trust: _TrustOption = None, as_json: JsonOption = False) -> None:
    """Put a signed keyset into the trust document, on machines of authors and in the factory."""
    session = Session.of(context, as_json=as_json)
    path = trust or session.config.security.trust
    document = Trust.load(path).with_rotation(_read(file))
    document.save(path)
    if as_json:
        session.output.json({"trust_file": str(path), "version": document.keyset.version})
    else:
        session.output.say(f"{path}: keyset {document.keyset.version}")


def _missing(before: Keyset, proposed: Keyset, signed: keyset.Signed) -> list[str]:
    """Whose signatures are still needed, one sentence for each side that lacks some."""
    found: list[str] = []
    for side, kids in ((before, signed.old), (proposed, signed.new)):
        lacking = side.threshold - len(kids)
        if lacking > 0:
            others = ", ".join(key.kid.hex() for key in side.authors if key.kid not in kids)
            found.append(f"keyset {side.version} needs {lacking} more of {others}")
    return found


def _say(session: Session, path: Path, before: Keyset, proposed: Keyset, signed: keyset.Signed) -> None:
    facts: dict[str, Any] = {
        "file": str(path),
        "version": proposed.version,
        "epoch": proposed.epoch,
        "threshold": proposed.threshold,
        "authors_added": _difference(proposed.authors, before.authors),
        "authors_removed": _difference(before.authors, proposed.authors),
        "online_added": _difference(proposed.online, before.online),
        "online_removed": _difference(before.online, proposed.online),
        "signed_old": sorted(kid.hex() for kid in signed.old),
        "signed_new": sorted(kid.hex() for kid in signed.new),
        "complete": not _missing(before, proposed, signed),
    }
    if session.as_json:
        session.output.json(facts)
        return
    output = session.output
    output.say(f"{path}: keyset {proposed.version} after {before.version}")
    for name in ("authors_added", "authors_removed", "online_added", "online_removed"):
        if facts[name]:
            output.say(f"  {name.replace('_', ' ')}: {', '.join(facts[name])}")
    output.say(f"  authors that must sign: {proposed.threshold} of {len(proposed.authors)}")
    if proposed.epoch != before.epoch:
        output.say("  a new epoch: seqs count from 0 again, every manifest of before is void")
    output.say(f"  signed by {_count(signed.old, before)}, by {_count(signed.new, proposed)}")
    for sentence in _missing(before, proposed, signed):
        output.note(f"  {sentence}")


def _count(kids: Iterable[bytes], side: Keyset) -> str:
    return f"{len(list(kids))} of {side.threshold} needed of keyset {side.version}"


def _difference(some: Iterable[PublicKey], others: Iterable[PublicKey]) -> list[str]:
    known = {key.kid for key in others}
    return [key.kid.hex() for key in some if key.kid not in known]


def _read(path: Path) -> bytes:
    return read_signed(path, "keyset", made_by="keys rotate propose")


def _write(path: Path, step: bytes) -> None:
    write_signed(path, "keyset", step)
