"""What a block request asks for: which of a device's artifacts its name means, and which ranges of it. Pure."""

from collections.abc import Iterator, Sequence

from ota_bridge.core.messages import BlockRequest, Grant
from ota_bridge.core.values import MIN_PREFIX_BYTES


def wanted_blocks(request: BlockRequest) -> Iterator[int]:
    """The indices of the blocks that a request asks for, at most `count` of them, in rising order."""
    if request.missing is None:
        yield from range(request.count)
        return
    found = 0
    for byte_index, byte in enumerate(request.missing):
        for bit in range(8):
            if byte >> bit & 1:
                if found == request.count:
                    return
                found += 1
                yield byte_index * 8 + bit


def ranges_of(request: BlockRequest, end: int) -> list[tuple[int, int]]:
    """Offset and length of each block that a request asks for, up to the artifact's end."""
    found: list[tuple[int, int]] = []
    for index in wanted_blocks(request):
        offset = request.offset + index * request.size
        if offset >= end:
            break
        found.append((offset, min(request.size, end - offset)))
    return found


def find_artifact(grants: Sequence[Grant], artifact: bytes) -> tuple[Grant, bytes] | None:
    """The grant and the whole digest that begins with `artifact`; None where there is none or the prefix fits two."""
    if len(artifact) < MIN_PREFIX_BYTES:
        return None
    found: dict[bytes, Grant] = {}
    for grant in grants:
        names = (grant.manifest.sha256, grant.manifest.merkle_root, *(digest for digest, _ in grant.inline))
        found |= {digest: grant for digest in names if digest.startswith(artifact)}
    if len(found) != 1:
        return None
    ((digest, grant),) = found.items()
    return grant, digest
