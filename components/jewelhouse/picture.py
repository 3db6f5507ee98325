"""The lifecycle drawn from its graph: Mermaid text, or an SVG in columns from supplied to served."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from jewelhouse.lifecycle import order, sealers_of
from jewelhouse.model import Artifact, Cloud, Lifecycle, Stage
from jewelhouse.templates import render

CLOUD_NAMES: Mapping[Cloud, str] = {Cloud.AWS: "AWS", Cloud.AZURE: "Azure", Cloud.GCP: "Google Cloud"}
# Fill and outline per cloud; readable in light and dark and told apart without colour by their captions.
CLOUD_COLOURS: Mapping[Cloud, tuple[str, str]] = {
    Cloud.AWS: ("#fff1dc", "#b45f06"),
    Cloud.AZURE: ("#e3f0fc", "#0b5cad"),
    Cloud.GCP: ("#e6f4ea", "#1e7e34"),
}
COLUMN, ROW, WIDTH, HEIGHT, MARGIN = 236, 104, 176, 68, 28


@dataclass(frozen=True, kw_only=True)
class Node:
    """A box of the picture, in pixels; `lines` are its captions, the first one its name."""

    name: str
    x: int
    y: int
    width: int
    height: int
    fill: str
    stroke: str
    dashed: bool
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Edge:
    """An arrow from an artifact to the stage that opens it, or from a stage to what it seals."""

    path: str
    seals: bool


def mermaid(lifecycle: Lifecycle) -> str:
    """A Mermaid flow chart: rounded artifacts, square stages, one subgraph per cloud."""
    lines = ["flowchart LR"]
    for artifact in lifecycle.artifacts.values():
        lines.append(f'  a_{_id(artifact.name)}(["{artifact.name}<br/>{artifact.kind} of {artifact.owner}"])')
    for cloud in Cloud:
        stages = [stage for stage in order(lifecycle) if stage.cloud is cloud]
        if stages:
            lines.append(f'  subgraph {cloud}["{CLOUD_NAMES[cloud]}"]')
            lines += [
                f'    s_{_id(stage.name)}["{stage.name}<br/>{stage.platform}, {stage.tee}"]'
                for stage in stages
            ]
            lines.append("  end")
    for stage in order(lifecycle):
        lines += [f"  a_{_id(name)} -->|opens| s_{_id(stage.name)}" for name in stage.opens]
        lines += [f"  s_{_id(stage.name)} ==>|seals| a_{_id(name)}" for name in stage.seals]
    return "\n".join(lines) + "\n"


def svg(lifecycle: Lifecycle) -> str:
    """A self-contained SVG; every name is escaped."""
    nodes = _layout(lifecycle)
    boxes = list(nodes.values())
    edges = [
        _edge(nodes[f"artifact {name}"], nodes[f"stage {stage.name}"], boxes, seals=False)
        for stage in lifecycle.stages.values()
        for name in stage.opens
    ] + [
        _edge(nodes[f"stage {stage.name}"], nodes[f"artifact {name}"], boxes, seals=True)
        for stage in lifecycle.stages.values()
        for name in stage.seals
    ]
    used = [cloud for cloud in Cloud if any(stage.cloud is cloud for stage in lifecycle.stages.values())]
    return render(
        "reports/lifecycle.svg.j2",
        title=escape(lifecycle.name),
        width=max(node.x + node.width for node in boxes) + MARGIN,
        height=max(node.y + node.height for node in boxes) + MARGIN + 34,
        nodes=boxes,
        edges=edges,
        legend=[(CLOUD_NAMES[cloud], *CLOUD_COLOURS[cloud]) for cloud in used],
        margin=MARGIN,
    )


def _layout(lifecycle: Lifecycle) -> dict[str, Node]:
    depth = _depths(lifecycle)
    columns: dict[int, list[str]] = defaultdict(list)
    for key in sorted(depth, key=lambda key: depth[key]):
        columns[depth[key]].append(key)
    neighbours = _neighbours(lifecycle)
    tallest = max(len(column) for column in columns.values())
    place: dict[str, float] = {}
    for number in sorted(columns):
        # Each box stands near the mean height of what feeds it, so that few arrows cross.
        column = sorted(
            columns[number], key=lambda key: _mean([place[n] for n in neighbours[key] if n in place])
        )
        offset = (tallest - len(column)) / 2
        for row, key in enumerate(column):
            place[key] = row + offset
    return {key: _node(lifecycle, key, depth[key], place[key]) for key in depth}


def _depths(lifecycle: Lifecycle) -> dict[str, int]:
    sealers = sealers_of(lifecycle)
    depth = {f"artifact {name}": 0 for name in lifecycle.artifacts if name not in sealers}
    for stage in order(lifecycle):
        depth[f"stage {stage.name}"] = 1 + max(depth[f"artifact {name}"] for name in stage.opens)
        for name in stage.seals:
            here = depth[f"stage {stage.name}"] + 1
            depth[f"artifact {name}"] = max(depth.get(f"artifact {name}", 0), here)
    # What is supplied stands right before the first stage that opens it.
    for name in lifecycle.artifacts:
        openers = [depth[f"stage {stage.name}"] for stage in lifecycle.stages.values() if name in stage.opens]
        if name not in sealers and openers:
            depth[f"artifact {name}"] = min(openers) - 1
    return depth


def _neighbours(lifecycle: Lifecycle) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for stage in lifecycle.stages.values():
        for name in stage.opens:
            found[f"stage {stage.name}"].append(f"artifact {name}")
        for name in stage.seals:
            found[f"artifact {name}"].append(f"stage {stage.name}")
    return found


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _node(lifecycle: Lifecycle, key: str, depth: int, row: float) -> Node:
    kind, name = key.split(" ", 1)
    item: Artifact | Stage = lifecycle.artifacts[name] if kind == "artifact" else lifecycle.stages[name]
    if isinstance(item, Stage):
        fill, stroke = CLOUD_COLOURS[item.cloud]
        lines: tuple[str, ...] = (name, f"{item.platform} · {item.tee}", f"{item.kind}, {item.region}")
    else:
        fill, stroke = "#ffffff", "#5f6368"
        lines = (name, f"{item.kind} of {item.owner}")
    return Node(
        name=name,
        x=MARGIN + depth * COLUMN,
        y=round(MARGIN + row * ROW),
        width=WIDTH + (24 if isinstance(item, Stage) else 0),
        height=HEIGHT,
        fill=fill,
        stroke=stroke,
        dashed=not isinstance(item, Stage),
        lines=tuple(escape(line) for line in lines),
    )


def _edge(start: Node, end: Node, boxes: list[Node], *, seals: bool) -> Edge:
    x1, y1 = start.x + start.width, start.y + start.height // 2
    x2, y2 = end.x - 7, end.y + end.height // 2
    between = [box for box in boxes if x1 < box.x and box.x + box.width < x2]
    if not between:
        return Edge(path=f"M {x1} {y1} {_curve(x1, y1, x2, y2)}", seals=seals)
    # An arrow over several columns runs below the boxes that it would otherwise cross.
    lane = max(box.y + box.height for box in between) + 18
    left, right = min(box.x for box in between), max(box.x + box.width for box in between)
    path = f"M {x1} {y1} {_curve(x1, y1, left, lane)} L {right} {lane} {_curve(right, lane, x2, y2)}"
    return Edge(path=path, seals=seals)


def _curve(x1: int, y1: int, x2: int, y2: int) -> str:
    bend = max(24, (x2 - x1) // 2)
    return f"C {x1 + bend} {y1}, {x2 - bend} {y2}, {x2} {y2}"


def _id(name: str) -> str:
    return name.replace("-", "_")
