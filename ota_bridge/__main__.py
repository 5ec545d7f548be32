"""`python -m ota_bridge`."""

from ota_bridge.cli import main

if __name__ == "__main__":
    main()
