"""The operators' command line; see `app`."""

from ota_bridge.cli.app import main

__all__ = ["main"]
