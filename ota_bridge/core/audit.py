"""Writes the audit log: one entry for each thing that somebody did or tried, in the transaction of the change.

`audit` is called by `perform` for operators, and for whatever the bridge does by itself that they would ask about.
An entry holds no secret, and no more than 4 KiB: of longer arguments their size and digest.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from ota_bridge.core.chain import Entry, Head
from ota_bridge.core.people import without_tokens
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.core.values import Now

SYSTEM: Final = "ota-bridge"
"""The actor where nobody gave a command."""
DETAIL_MAX_BYTES: Final = 4096
TEXT_MAX: Final = 200


def audit(
    unit: UnitOfWork,
    now: Now,
    action: str,
    *,
    actor: str = SYSTEM,
    how: str = "system",
    subject: str = "",
    detail: Mapping[str, Any] | None = None,
    result: str = "ok",
) -> Entry:
    """Append an entry. `subject` is a kind and a name, such as `rollout r-1a2b3c`; `detail` is plain JSON."""
    head = Head.of(unit.audit.last())
    entry = Entry(
        n=head.n + 1,
        wall_ms=round(now.wall * 1000),
        actor=shown(actor),
        how=shown(how),
        action=shown(action),
        subject=shown(subject),
        result=shown(result),
        detail=bounded(detail or {}),
    ).after(head.digest)
    unit.audit.append(entry)
    return entry


def shown(text: str) -> str:
    """`text` without secrets, of a bounded length, and such as can be kept and printed."""
    cut = without_tokens(text)[:TEXT_MAX]
    return cut if cut.isprintable() else ascii(cut)[1:-1][:TEXT_MAX]


def bounded(detail: Mapping[str, Any]) -> str:
    """`detail` as compact JSON; of long texts, and of whatever is too long in the end, size and digest."""
    text = _json(_shortened(detail, texts_alone=True))
    if len(text) > DETAIL_MAX_BYTES:
        text = _json(_shortened(detail))
    return text if len(text) <= DETAIL_MAX_BYTES else _json(_named(text))


def _shortened(value: object, *, texts_alone: bool = False) -> object:
    if isinstance(value, Mapping):
        return {name: _shortened(one, texts_alone=texts_alone) for name, one in value.items()}
    if texts_alone and not isinstance(value, str):
        return value
    text = _json(value)
    return value if len(text) <= TEXT_MAX else _named(text)


def _named(text: str) -> dict[str, Any]:
    return {"bytes": len(text), "sha256": hashlib.sha256(text.encode("ascii")).hexdigest()}


def _json(value: object) -> str:
    return without_tokens(json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":")))
