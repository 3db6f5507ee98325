import re
import xml.etree.ElementTree as ElementTree

import pytest
from samples import ALL_STACKS, shipped

from jewelhouse import picture

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", ALL_STACKS)
def test_the_svg_shows_every_node_and_every_arrow(name):
    lifecycle = shipped(name)
    root = ElementTree.fromstring(picture.svg(lifecycle))
    texts = {text.text for text in root.iter(f"{SVG}text")}
    assert {*lifecycle.artifacts, *lifecycle.stages} <= texts
    arrows = [path for path in root.iter(f"{SVG}path") if path.get("marker-end")]
    expected = sum(len(stage.opens) + len(stage.seals) for stage in lifecycle.stages.values())
    assert len(arrows) == expected


@pytest.mark.parametrize("name", ALL_STACKS)
def test_no_two_boxes_overlap_and_all_lie_inside(name):
    root = ElementTree.fromstring(picture.svg(shipped(name)))
    boxes = [
        tuple(int(rect.get(side, "0")) for side in ("x", "y", "width", "height"))
        for group in root.findall(f"{SVG}g")
        for rect in group.findall(f"{SVG}rect")
    ]
    for index, (x, y, width, height) in enumerate(boxes):
        assert x + width <= int(root.get("width", "0"))
        assert y + height <= int(root.get("height", "0"))
        for left, top, wide, high in boxes[index + 1 :]:
            assert x + width <= left or left + wide <= x or y + height <= top or top + high <= y


@pytest.mark.parametrize("name", ALL_STACKS)
def test_mermaid_has_an_edge_for_every_release_and_seal(name):
    lifecycle = shipped(name)
    text = picture.mermaid(lifecycle)
    assert len(re.findall(r"-->\|opens\|", text)) == sum(len(s.opens) for s in lifecycle.stages.values())
    assert len(re.findall(r"==>\|seals\|", text)) == sum(len(s.seals) for s in lifecycle.stages.values())
