"""One store of every backend, so that each port's suite runs over all of them."""

import pytest
from contract.store_samples import url_of

from ota_bridge.store.opening import BACKENDS, open_store


@pytest.fixture(params=sorted(BACKENDS))
def store(request, tmp_path):
    opened = open_store(url_of(request.param, tmp_path), lambda run: run())
    yield opened
    opened.close()
