"""The registry: one line per dialect. Third parties add theirs by the entry point `ota_bridge.dialects`."""

from ota_bridge.dialects.native import NativeDialect

BUILT_IN = {"native": NativeDialect}
