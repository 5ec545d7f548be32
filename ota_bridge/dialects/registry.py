"""The registry: one line per dialect. Third parties add theirs by the entry point group `ota_bridge.dialects`.

What a line names is a factory: it takes the settings of `[dialects.NAME]` and raises ConfigError that names what was
wrong in them.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final

from ota_bridge.core.errors import ConfigError
from ota_bridge.core.values import NATIVE
from ota_bridge.dialect import VendorDialect
from ota_bridge.dialects.native import Public
from ota_bridge.dialects.tencent import TencentDialect

GROUP: Final = "ota_bridge.dialects"

BUILT_IN: Final[Mapping[str, str]] = {
    "alibaba": "ota_bridge.dialects.alibaba:AlibabaDialect",
    "aws": "ota_bridge.dialects.aws:AwsDialect",
    "tencent": "ota_bridge.dialects.tencent:TencentDialect",
    "thingsboard": "ota_bridge.dialects.thingsboard:ThingsBoard",
    "xively": "ota_bridge.dialects.xively:XivelyDialect",
}
"""Name to `module:factory`."""

PUBLIC: Final = "tencent"
"""Speaks the public shapes on the native protocol's own topics, so it is there even where nothing is set up."""
_UNSET: Final[Mapping[str, Any]] = {"gateways": False}

Settings = Mapping[str, Mapping[str, Any]]
"""The settings of each dialect that is set up, by its name."""


def known() -> Mapping[str, str]:
    """Every dialect that can be set up, and where it is; built-in ones cannot be replaced."""
    return {point.name: point.value for point in entry_points(group=GROUP)} | dict(BUILT_IN)


def load(settings: Settings, *, root: str = "$ota") -> Sequence[VendorDialect]:
    """The dialects that are set up, and the one of the public shapes; raises ConfigError.

    `root`: of the native protocol's topics.
    """
    places = known() if settings else BUILT_IN
    loaded: list[VendorDialect] = []
    for name, table in {PUBLIC: _UNSET, **settings}.items():
        if name == PUBLIC and "root" in table:
            raise ConfigError("dialects.tencent.root is not a setting: it is topics.root")
        options = {**table, "root": root} if name == PUBLIC else table
        if name == NATIVE or name not in places:
            raise ConfigError(
                f"[dialects.{name[:40]}]: there is no such dialect; known are {', '.join(sorted(places))}"
            )
        loaded.append(_factory(name, places[name])(options))
    return loaded


def public(loaded: Sequence[VendorDialect]) -> Public:
    """Who understands reports without native fields."""
    return next(vendor.report for vendor in loaded if isinstance(vendor, TencentDialect))


def _factory(name: str, place: str) -> Callable[[Mapping[str, Any]], VendorDialect]:
    module, _, attribute = place.partition(":")
    try:
        factory: Callable[[Mapping[str, Any]], VendorDialect] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"[dialects.{name}]: {place} cannot be loaded: {error}") from error
    return factory
