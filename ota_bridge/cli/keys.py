"""`keys …`: an author's key, the daemon's online key, the trust document of public halves, and `keys rotate`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ota_bridge.cli import rotate
from ota_bridge.cli.session import JsonOption, Session
from ota_bridge.core.errors import Conflict, InvalidInput, NotFound
from ota_bridge.security.authority import newest
from ota_bridge.security.keys import Algorithm, PublicKey, SigningKey, load_key
from ota_bridge.security.trust import Trust

commands = typer.Typer(no_args_is_help=True, help="Keys that sign releases and tickets.")
commands.add_typer(rotate.commands, name="rotate")

AUTHOR_FILE = Path("ota-author.pem")
EXAMPLE_VENDOR = "example.com"

_TrustOption = Annotated[
    Path | None, typer.Option("--trust", metavar="FILE", help="Trust document.", show_default="security.trust")
]
_OnlineOption = Annotated[
    Path | None, typer.Option("--online", metavar="FILE", help="Online key.", show_default="security.online_key")
]


@commands.command("new")
def new(
    context: typer.Context,
    alg: Annotated[Algorithm, typer.Option(help="How both keys sign.")] = Algorithm.ED25519,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The author's private key.")] = AUTHOR_FILE,
    online: _OnlineOption = None,
    trust: _TrustOption = None,
    vendor: Annotated[str | None, typer.Option(metavar="DOMAIN", help="Who makes the devices: a domain.")] = None,
    pair: Annotated[
        bool, typer.Option("--pair", help="Only a private key and its public half, FILE.pub, for `keys rotate`.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Make an author's key, the daemon's online key where there is none, and a trust document that names both.

    A private key is never overwritten; an existing trust document gets one author more.
    """
    session = Session.of(context, as_json=as_json)
    if pair:
        _new_pair(session, alg, out)
        return
    online = online or session.config.security.online_key
    trust = trust or session.config.security.trust
    if out.exists():
        raise Conflict(f"key file {out} exists already; name another with --out, it is not overwritten")
    existing = newest(trust, session.config.own_trust_path) if trust.exists() else None
    if existing is not None and vendor not in (None, existing.vendor):
        raise InvalidInput(f"trust document {trust} is for vendor {existing.vendor}, not {vendor}")
    author = SigningKey.generate(alg)
    ticket = load_key(online).key if online.exists() else SigningKey.generate(alg)
    document = _document(existing, vendor or EXAMPLE_VENDOR, author.public, ticket.public)
    author.save(out)
    if not online.exists():
        ticket.save(online)
    document.save(trust)
    if as_json:
        session.output.json(_as_json(document, author=author.public, files=(out, online, trust)))
        return
    session.output.say(f"{out}  author's key {author.kid.hex()} ({alg}): keep it offline; it signs releases")
    session.output.say(f"{online}  online key {ticket.kid.hex()}: for the daemon; it signs tickets")
    session.output.say(f"{trust}  trust document for vendor {document.vendor}: for the daemon and the devices")
    if existing is None and vendor is None:
        session.output.note(f"the vendor is {EXAMPLE_VENDOR}: for real devices name your own with --vendor")


def _new_pair(session: Session, alg: Algorithm, out: Path) -> None:
    key, public = SigningKey.generate(alg), out.with_suffix(".pub")
    if public.exists():
        raise Conflict(f"key file {public} exists already; name another with --out, it is not overwritten")
    key.save(out)
    key.save_public(public)
    if session.as_json:
        session.output.json({"kid": key.kid.hex(), "file": str(out), "public_file": str(public)})
        return
    session.output.say(f"{out}  private key {key.kid.hex()} ({alg}): keep it where it signs")
    session.output.say(f"{public}  its public half, for `ota-bridge keys rotate propose`")


def _document(existing: Trust | None, vendor: str, author: PublicKey, online: PublicKey) -> Trust:
    if existing is None:
        return Trust(vendor=vendor, authors=(author,), online=(online,))
    document = existing.with_author(author)
    is_known = any(key.kid == online.kid for key in existing.online)
    return document if is_known else document.with_online(online)


def _as_json(document: Trust, *, author: PublicKey, files: tuple[Path, Path, Path]) -> dict[str, Any]:
    return {
        "vendor": document.vendor,
        "author": author.kid.hex(),
        "author_file": str(files[0]),
        "online_file": str(files[1]),
        "trust_file": str(files[2]),
        "authors": [key.kid.hex() for key in document.authors],
        "online": [key.kid.hex() for key in document.online],
    }


@commands.command("show")
def show(
    context: typer.Context, trust: _TrustOption = None, online: _OnlineOption = None, as_json: JsonOption = False
) -> None:
    """Show which keyset counts, who is trusted, and whether the daemon's online key is among them."""
    session = Session.of(context, as_json=as_json)
    online = online or session.config.security.online_key
    document = rotate.trusted(session, trust)
    keyset = document.keyset
    keys = [("author", key) for key in keyset.authors] + [("online", key) for key in keyset.online]
    here = _private_kids(online, AUTHOR_FILE)
    rows = [
        {"kid": key.kid.hex(), "role": role, "alg": str(key.algorithm), "test": key.test, "private": here.get(key.kid)}
        for role, key in keys
    ]
    path = trust or session.config.security.trust
    if as_json:
        facts = {
            "vendor": document.vendor,
            "version": keyset.version,
            "epoch": keyset.epoch,
            "threshold": keyset.threshold,
            "trust_file": str(path),
        }
        session.output.json({**facts, "keys": rows})
        return
    session.output.say(
        f"{path}: vendor {document.vendor}, keyset {keyset.version}, "
        f"{keyset.threshold} of {len(keyset.authors)} authors must sign"
    )
    session.output.table(
        ("key", "role", "signs with", "private half"),
        [(row["kid"], row["role"], row["alg"], row["private"]) for row in rows],
        empty="no keys",
    )
    for kid, file in here.items():
        if kid not in {key.kid for _, key in keys}:
            session.output.note(f"{file} holds key {kid.hex()}, which keyset {keyset.version} does not name")


def _private_kids(*paths: Path) -> dict[bytes, str]:
    found: dict[bytes, str] = {}
    for path in paths:
        try:
            found[load_key(path).key.kid] = str(path)
        except (NotFound, InvalidInput):
            continue
    return found
