"""The live view, as text: what stands where."""

from io import StringIO

from rich.console import Console

from ota_bridge.cli.watch import view

DEPLOYMENT = {
    "release": "demo/1.1.0",
    "state": "DOWNLOADING",
    "percent": 40,
    "stalled": True,
}
DEVICE = {
    "id": "demo/d1",
    "label": "kitchen",
    "state": "active",
    "parts": {"firmware": {"version": "1.0.0", "trial": False}},
    "open": [],
    "last_report": None,
}


def rollout(**more):
    return {
        "id": "r-1",
        "release": "demo/1.1.0",
        "state": "running",
        "confirmed": 1,
        "total": 3,
        "complete": False,
        **more,
    }


def shown(fleet, rows_max=10):
    console = Console(file=StringIO(), width=160, markup=False)
    console.print(view(fleet, rows_max=rows_max))
    return console.file.getvalue().splitlines()


def test_links_rollout_and_devices_stand_below_each_other():
    fleet = {
        "bridge": {"control": "up", "blocks": "down"},
        "rollouts": [rollout()],
        "devices": [{**DEVICE, "open": [DEPLOYMENT]}],
    }
    links, fleet_line, device = shown(fleet)
    assert links.split("  ")[:2] == ["control link up", "blocks link DOWN"]
    assert "demo/1.1.0 (r-1, running)" in fleet_line
    assert "1 of 3 confirmed" in fleet_line
    for word in ("demo/d1 (kitchen)", "1.0.0", "1.1.0", "DOWNLOADING stalled", " 40 %"):
        assert word in device


def test_devices_on_the_way_come_first_and_the_rest_is_counted():
    idle = [{**DEVICE, "id": f"demo/a{number}"} for number in range(5)]
    busy = {**DEVICE, "id": "demo/z", "open": [DEPLOYMENT]}
    lines = shown({"rollouts": [], "devices": [*idle, busy]}, rows_max=2)
    assert "demo/z" in lines[1]
    assert lines[-1] == "… and 4 more"


def test_a_rollout_that_is_over_has_no_bar():
    lines = shown({"rollouts": [rollout(complete=True), rollout(state="canceled")], "devices": []})
    assert [line for line in lines if "r-1" in line] == []
