"""For all tests: no input is judged by how long it took; a busy machine is no finding."""

from hypothesis import settings

settings.register_profile("ota_bridge", deadline=None)
settings.load_profile("ota_bridge")
