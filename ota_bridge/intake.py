"""Takes in what authors signed: releases with their artifacts, and rotations of their keys.

The manifest is verified before the first byte of the artifact is taken, and the artifact against the manifest before
anything is kept under its name; a rotation against the keyset that it follows. The daemon never holds an author's key.
"""

import asyncio
import base64
import binascii
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Any

from ota_bridge.core.catalog import METADATA_TEXT_MAX, ReleasePart, checked_metadata
from ota_bridge.core.errors import InvalidInput
from ota_bridge.core.manifest import ManifestFacts, class_id
from ota_bridge.core.messages import Output
from ota_bridge.core.operations import Upload, add_release, carry_out
from ota_bridge.core.people import Caller
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.core.values import checked_hardware_id, checked_product, checked_version
from ota_bridge.core.versions import BOUND_MAX, BOUNDS_MAX, checked_bounds
from ota_bridge.decode import Fields
from ota_bridge.gateway import Gateway
from ota_bridge.store.blobs import BlobStore

ENVELOPE_MAX_BYTES = 512
KEYSET_MAX_BYTES = 1024
FILE_NAME_MAX = 255
_TOO_LARGE = "the file is larger than the {} bytes that were signed"

_log = logging.getLogger(__name__)


class Intake:
    """`release.add`: one component of a release with its artifact. `keys.publish`: the step to the next keyset."""

    def __init__(
        self,
        gateway: Gateway,
        blobs: BlobStore,
        verify: Callable[[bytes], ManifestFacts],
        publish: Callable[[bytes], dict[str, Any]],
    ) -> None:
        self._gateway = gateway
        self._blobs = blobs
        self._verify = verify
        self._publish = publish

    async def add(self, caller: Caller, args: dict[str, Any], upload: AsyncIterator[bytes] | None) -> dict[str, Any]:
        """Raises Forbidden, ManifestRefused, InvalidInput or Conflict; at most an unnamed artifact is kept then."""
        async with self._gateway.door.recording(caller, "release.add", args, writes=True):
            await self._gateway.door.admit(caller, "release.add")
            return await self._add(caller, args, upload)

    async def _add(self, caller: Caller, args: dict[str, Any], upload: AsyncIterator[bytes] | None) -> dict[str, Any]:
        if upload is None:
            raise InvalidInput("release.add: the artifact's bytes are missing")
        fields = Fields(args, name="release.add")
        fields.only(
            "envelope", "product", "version", "part_version", "hw", "file_name", "installs_from", "in_advance",
            "metadata",
        )  # fmt: skip
        envelope = _binary("release.add: the envelope", fields.text("envelope", max_bytes=2 * ENVELOPE_MAX_BYTES))
        manifest = self._verify(envelope)
        product = checked_product(fields.text("product", max_bytes=64))
        listed = fields.array("hw", min_items=1, max_items=8)
        hardware = tuple(sorted({checked_hardware_id(listed.text(i, max_bytes=32)) for i in range(len(listed))}))
        version = checked_version(fields.optional(fields.text, "version", max_bytes=32) or manifest.version)
        part_version = fields.optional(fields.text, "part_version", max_bytes=32) or version
        _check_claims(manifest, product, hardware, part_version)
        installs_from = _bounds(fields)
        in_advance = "in_advance" in fields and fields.flag("in_advance")
        md5 = await self._store(manifest, upload)
        part = ReleasePart(
            component=manifest.component,
            envelope=envelope,
            manifest=manifest,
            md5=md5,
            file_name=fields.note("file_name", max_characters=FILE_NAME_MAX) if "file_name" in fields else "",
            installs_from=installs_from,
            metadata=checked_metadata(_metadata(fields)),
        )
        arrived = Upload(product=product, version=version, hardware=hardware, part=part, in_advance=in_advance)
        bridge = self._gateway.bridge

        def work(unit: UnitOfWork) -> tuple[dict[str, Any], list[Output]]:
            now, done = self._gateway.now(), partial(add_release, upload=arrived)
            return carry_out(unit, bridge, "release.add", args, done, caller=caller, now=now)

        return await self._gateway.commit(work)

    async def publish_keyset(self, caller: Caller, args: dict[str, Any]) -> dict[str, Any]:
        """Raises Forbidden, KeysetRefused, InvalidInput, Conflict, ConfigError. Devices get it with their check-ins."""
        async with self._gateway.door.recording(caller, "keys.publish", args, writes=True):
            await self._gateway.door.admit(caller, "keys.publish")
            return await self._publish_keyset(caller, args)

    async def _publish_keyset(self, caller: Caller, args: dict[str, Any]) -> dict[str, Any]:
        fields = Fields(args, name="keys.publish")
        fields.only("keyset")
        step = _binary("keys.publish: the keyset", fields.text("keyset", max_bytes=2 * KEYSET_MAX_BYTES))
        published = await asyncio.to_thread(self._publish, step)
        _log.warning("%s published keyset %d: authors %s", caller.user, published["version"], published["authors"])

        def work(unit: UnitOfWork) -> tuple[dict[str, Any], list[Output]]:
            now, bridge = self._gateway.now(), self._gateway.bridge
            return carry_out(unit, bridge, "keys.publish", args, lambda _: published, caller=caller, now=now)

        return await self._gateway.commit(work)

    async def _store(self, manifest: ManifestFacts, upload: AsyncIterator[bytes]) -> str:
        writer = await asyncio.to_thread(self._blobs.begin, manifest.chunk_bytes)
        received = 0
        try:
            async for piece in upload:
                received += len(piece)
                if received > manifest.size_bytes:
                    raise InvalidInput(_TOO_LARGE.format(manifest.size_bytes))  # noqa: TRY301 - abort and tell
                await asyncio.to_thread(writer.write, piece)
            stored = await asyncio.to_thread(writer.finish, manifest)
        except BaseException:
            await asyncio.to_thread(writer.abort)
            raise
        return stored.md5


def _binary(what: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise InvalidInput(f"{what} is not base64: {error}") from error


def _bounds(fields: Fields) -> tuple[str, ...]:
    if "installs_from" not in fields:
        return ()
    listed = fields.array("installs_from", max_items=BOUNDS_MAX)
    return checked_bounds([listed.text(i, max_bytes=BOUND_MAX) for i in range(len(listed))])


def _metadata(fields: Fields) -> Mapping[str, object]:
    if "metadata" not in fields:
        return {}
    listed = fields.mapping("metadata")
    return {str(name): listed.text(name, max_bytes=4 * METADATA_TEXT_MAX) for name in listed}


def _check_claims(manifest: ManifestFacts, product: str, hardware: tuple[str, ...], part_version: str) -> None:
    """What the operator says must be what the author signed: names are not in the manifest, their hashes are.

    A release's own name is not signed: a component of another version says so.
    """
    if part_version != manifest.version:
        raise InvalidInput(
            f"the manifest was signed for version {manifest.version}, not {part_version}; "
            "where a component has a version of its own, name it with --part-version"
        )
    claimed = tuple(sorted(class_id(manifest.vendor, product, hw) for hw in hardware))
    if claimed != manifest.classes:
        names = ", ".join(f"{product}/{hw}" for hw in hardware)
        raise InvalidInput(f"the manifest was not signed for exactly {names}; name the product and hardware as signed")
