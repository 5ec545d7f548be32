"""Ends a connection now, whatever its state."""

import asyncio
import contextlib


def hang_up(transport: asyncio.WriteTransport) -> None:
    """Close without sending what is still buffered; nothing where the transport is closed already."""
    # asyncio's abort() raises it for a transport that had bytes to send when it was closed, and has sent them since
    with contextlib.suppress(AttributeError):
        transport.abort()
