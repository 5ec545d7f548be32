"""What is remembered of one Xively device between its messages, most of it for as long as one connection lasts."""

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

BOTHERS_MAX: Final = 3
"""So many lists in answer to its first words go out at once; a device that still restarts gets them more slowly."""
DOUBLINGS_MAX: Final = 7
AGAIN_MAX_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Times are wall seconds."""

    files: tuple[tuple[str, str], ...] = ()
    """Components and their files, as the device told them."""
    takes_urls: bool = False
    is_ext: bool = False
    """The client that wants hexadecimal fingerprints and tells no results."""
    has_begun: bool = False
    """The firmware was listed on this connection: a later list without it makes the device read freed memory."""
    is_sealed: bool = False
    """The package is complete: anything that came now would disturb the installation."""
    is_busy: bool = False
    """A list is out, and nothing says that its package has ended."""
    listed: tuple[str, ...] = ()
    """The deployments of the last list, in its order."""
    sent_wall: float = 0.0
    """When that went out."""
    heard_wall: float = 0.0
    """When the device last told a result."""
    by_url: bool = False
    """It says that it downloads by URL."""
    no_urls: bool = False
    """A download by URL has failed: over MQTT from now on."""
    answers: int = 0
    """Lists in answer to its first words on a connection since a file was last finished."""
    unheard: int = 0
    """Lists in a row of which nothing was heard."""

    @classmethod
    def read(cls, memory: bytes) -> "Session":
        """From what was kept; what is not ours is as good as nothing."""
        try:
            kept: dict[str, Any] = json.loads(memory) if memory else {}
            known = {field.name for field in fields(cls)}
            found = {name: value for name, value in kept.items() if name in known}
            pairs = tuple((str(component), str(name)) for component, name in found.pop("files", ()))
            return cls(files=pairs, listed=tuple(found.pop("listed", ())), **found)
        except (ValueError, TypeError, AttributeError):
            return cls()

    def kept(self) -> bytes:
        """What to keep: no more than differs from a new one."""
        new = asdict(Session())
        return json.dumps({name: value for name, value in asdict(self).items() if value != new[name]}).encode()

    def connected(self, files: tuple[tuple[str, str], ...], *, takes_urls: bool, is_ext: bool) -> "Session":
        """Another connection: the device has forgotten every package."""
        return replace(
            self, files=files, takes_urls=takes_urls, is_ext=is_ext, has_begun=False, is_sealed=False, is_busy=False,
            by_url=False, no_urls=False, unheard=0,
        )  # fmt: skip

    def heard(self, wall: float, **changes: Any) -> "Session":
        """It told a result."""
        return replace(self, heard_wall=wall, unheard=0, **changes)

    def sent(self, listed: tuple[str, ...], wall: float, *, with_firmware: bool, is_answer: bool) -> "Session":
        """A list is out."""
        answers = self.answers if set(listed) <= set(self.listed) else 0
        return replace(
            self, listed=listed, sent_wall=wall, is_busy=True, has_begun=self.has_begun or with_firmware, by_url=False,
            answers=answers + is_answer, unheard=self.unheard + 1,
        )  # fmt: skip

    def name(self, component: str) -> str | None:
        """The file of a component; None where the device has none."""
        return next((name for known, name in self.files if known == component), None)

    def again_after_s(self, quiet_s: float) -> float:
        """After how long a silence the list goes out again."""
        doubled = quiet_s * float(1 << min(max(self.unheard - 1, 0), DOUBLINGS_MAX))
        return max(quiet_s, min(doubled, AGAIN_MAX_S))
