"""Whether the bridge can tell how old what a device runs is."""

from ota_bridge.core.messages import InstalledPart
from ota_bridge.core.ports import UnitOfWork


def is_known(unit: UnitOfWork, product: str, component: str, installed: InstalledPart | None) -> bool:
    """True if a counter or the catalog tells how old what runs there is."""
    return installed is None or installed.seq is not None or is_in_catalog(unit, product, component, installed)


def is_in_catalog(unit: UnitOfWork, product: str, component: str, installed: InstalledPart) -> bool:
    """True if there is a release that has the component in the version that runs there."""
    return any(
        component in release.parts and release.parts[component].version == installed.version
        for release in unit.releases.all(product=product)
    )
