#!/usr/bin/env bash
# The integration tests run against a real mosquitto. Get it where it is missing, or say exactly what to install.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/usr/local/sbin"
command -v mosquitto >/dev/null && command -v mosquitto_sub >/dev/null && exit 0
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then as_root=(sudo -n); else as_root=(false); fi
fi
if [ "${as_root[0]-}" != false ] && command -v apt-get >/dev/null; then
    echo "installing mosquitto and mosquitto-clients ..."
    export DEBIAN_FRONTEND=noninteractive
    # A started service would hold port 1883; the tests start their own on free ports.
    "${as_root[@]}" apt-get update -qq || true
    if "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends mosquitto mosquitto-clients >/dev/null; then
        command -v mosquitto >/dev/null && exit 0
    fi
fi
echo "make test: mosquitto is missing. Install it: apt install mosquitto mosquitto-clients (or put it on PATH), then run make test again." >&2
exit 1
