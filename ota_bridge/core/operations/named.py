"""What an operator names, found; raises NotFound, or InvalidInput where a name may mean several."""

from collections.abc import Iterator

from ota_bridge.core.catalog import Release
from ota_bridge.core.errors import InvalidInput, NotFound
from ota_bridge.core.fleet import Device, DeviceState
from ota_bridge.core.operations.registry import Context
from ota_bridge.core.ports import UnitOfWork
from ota_bridge.core.rollout.model import Rollout
from ota_bridge.core.values import DeviceId, ReleaseId, RolloutId


def release_named(context: Context, name: str) -> Release:
    """The release of this id, or the only one of this version."""
    if "/" in name:
        found = context.unit.releases.get(ReleaseId(name))
        if found is not None:
            return found
    matching = [release for release in context.unit.releases.all() if release.version == name]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise InvalidInput(f"release {name!r} is ambiguous: {', '.join(release.id for release in matching)}")
    raise NotFound(f"no release {name[:80]!r}; see: release list")


def every_device(
    unit: UnitOfWork, product: str | None = None, state: DeviceState | None = None, tag: str | None = None
) -> Iterator[Device]:
    """All that fit, read page by page."""
    after: DeviceId | None = None
    while page := unit.devices.page(product=product, state=state, tag=tag, after=after):
        yield from page
        after = page[-1].id


def all_devices(
    unit: UnitOfWork, product: str | None = None, state: DeviceState | None = None, tag: str | None = None
) -> list[Device]:
    """The same as a list."""
    return list(every_device(unit, product, state, tag))


def device_named(unit: UnitOfWork, name: str) -> Device:
    """The device of this id, or the only one of this name or label."""
    if "/" in name:
        found = unit.devices.get(DeviceId.parse(name))
        if found is not None:
            return found
    else:
        named = unit.devices.named(name)
        if len(named) == 1:
            return named[0]
        if named:
            raise InvalidInput(f"device {name!r} is ambiguous: {', '.join(str(device.id) for device in named)}")
    raise NotFound(f"no device {name[:140]!r}; see: device list")


def rollout_named(context: Context, name: str) -> Rollout:
    """The rollout of this id."""
    found = context.unit.rollouts.get(RolloutId(name))
    if found is None:
        raise NotFound(f"no rollout {name[:40]!r}; see: rollout status")
    return found
