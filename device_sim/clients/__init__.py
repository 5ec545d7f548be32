"""Independent clients of other vendors' OTA protocols: each behaves as the vendor's own, quirks included.

One file per dialect; `model` says what a client is, `runner` puts clients on a broker.
"""
