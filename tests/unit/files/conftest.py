"""The file server is tried on the loop that the daemon runs on: asyncio's own forgives more."""

import uvloop


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}
