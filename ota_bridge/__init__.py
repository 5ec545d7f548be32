"""Over-the-air updates for microcontrollers, beside any MQTT broker."""

__version__ = "0.1.0"
