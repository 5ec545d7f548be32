"""The picture is an SVG with the load and the stages."""

import xml.etree.ElementTree as ET

from rehearsals import rehearsed

from ota_bridge.rehearsal.picture import rehearsal_svg
from ota_bridge.rehearsal.report import rehearsal_view


def test_it_is_xml_with_two_charts_and_a_line_for_each_stage():
    plan = {"stages": [{"name": "<canary> & co", "devices": 5}, {"name": "rest"}]}
    root = ET.fromstring(rehearsal_svg(rehearsal_view(rehearsed(40, plan))))
    kinds = [one.get("class") for one in root.iter()]
    assert (1, 1, 4) == (kinds.count("bytes"), kinds.count("open"), kinds.count("stage"))
    assert "<canary> & co" in [one.text for one in root.iter()]


def test_a_rehearsal_in_which_nothing_happens_is_drawn_too():
    view = rehearsal_view(rehearsed(40, offline=1.0))
    assert 0 == view["bytes"]
    ET.fromstring(rehearsal_svg(view))
