"""The release matrix for people: a table for the terminal, Markdown, and a page for the browser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC

from rich.markup import escape
from rich.table import Table

from jewelhouse.model import Measurements, Proof
from jewelhouse.release.markdown import md, visible
from jewelhouse.release.matrix import Cell, Matrix
from jewelhouse.release.proofs import State, Status, possible

# A mark, a word and a colour for each state: no state is told by its colour alone.
MARKS: Mapping[State, tuple[str, str, str]] = {
    State.ENFORCED: ("✓", "enforced", "green"),
    State.WEAKENED: ("!", "weakened", "red"),
    State.NOT_POSSIBLE: ("○", "not possible here", "yellow"),
    State.NOT_NEEDED: ("·", "not needed", "dim"),
}
# Columns of a terminal that a stage, and a cell of it, should have.
STAGE_WIDTH = 30
CELL_WIDTH = 17
# In words, for the head of the page.
MEANINGS: Mapping[Proof, str] = {
    Proof.GENUINE: "the evidence is signed by genuine hardware",
    Proof.DEBUG_OFF: "no debugger can look inside",
    Proof.FIRMWARE: "firmware is above a floor",
    Proof.IMAGE: "the code is this measured image",
    Proof.CONFIG: "arguments, environment and policy are measured",
    Proof.IDENTITY: "only this stage's workload identity asks",
    Proof.GPU: "the GPU is confidential and attested",
    Proof.OWNER_APART: "the key lies outside the operator's reach",
    Proof.NO_BYPASS: "no other way to the key exists",
}


def tables(matrix: Matrix, width: int) -> Iterator[Table]:
    """Stages down, artifacts across; in a cell what is enforced by number and the rest by name.

    As many tables, one below the other, as `width` columns of a terminal ask for; a further one has those
    stages alone that open something in it.
    """
    room = max(1, (width - STAGE_WIDTH) // CELL_WIDTH)
    parts = [matrix.artifacts[start : start + room] for start in range(0, len(matrix.artifacts), room)]
    for artifacts in parts or [()]:
        title = f"{escape(visible(matrix.name))}: who can open what"
        found = Table(title=title, title_justify="left", show_lines=True)
        found.add_column("stage", overflow="fold")
        for artifact in artifacts:
            found.add_column(escape(visible(artifact)), overflow="fold", min_width=CELL_WIDTH - 3)
        for stage in matrix.stages:
            cells = [matrix.cell(stage, artifact) for artifact in artifacts]
            known = next((cell for cell in cells if cell is not None), None)
            if known is not None or len(parts) == 1:
                found.add_row(
                    "\n".join(_stage(stage, known)),
                    *("" if cell is None else "\n".join(_rich(cell)) for cell in cells),
                )
        yield found


def notes(matrix: Matrix) -> Iterator[str]:
    """Below the tables: what is not enforced, why, or what to choose instead, once for all stages alike."""
    for places, proof, status in _unproven(matrix):
        mark, word, colour = MARKS[status.state]
        where = escape(visible(", ".join(places)))
        yield f"[{colour}]{mark}[/] {proof} {word} ({where}): {escape(visible(status.note))}"


def _unproven(matrix: Matrix) -> Iterator[tuple[list[str], Proof, Status]]:
    """Proofs that are not enforced, with the stages that this is so for."""
    found: dict[tuple[Proof, Status], dict[str, None]] = {}
    for stage in matrix.stages:
        for artifact in matrix.artifacts:
            cell = matrix.cell(stage, artifact)
            for proof, status in cell.proofs.items() if cell else ():
                if status.state in (State.WEAKENED, State.NOT_POSSIBLE):
                    place = stage if status.state is State.NOT_POSSIBLE else f"{stage} at {artifact}"
                    found.setdefault((proof, status), {})[place] = None
    for (proof, status), places in sorted(
        found.items(), key=lambda one: one[0][1].state is not State.WEAKENED
    ):
        yield list(places), proof, status


def legend() -> str:
    return "   ".join(f"[{colour}]{mark}[/] {word}" for mark, word, colour in MARKS.values())


def _stage(stage: str, cell: Cell | None) -> Iterator[str]:
    yield f"[bold]{escape(visible(stage))}[/]"
    if cell is not None:
        yield escape(cell.platform)
        for remark in stage_remarks(cell):
            yield f"[yellow]{escape(visible(remark))}[/]"


def _rich(cell: Cell) -> Iterator[str]:
    for state, (mark, word, colour) in MARKS.items():
        found = names(cell, state)
        if found and state is not State.NOT_NEEDED:
            told = [f"{len(found)} {word}"] if state is State.ENFORCED else found
            yield from (f"[{colour}]{mark}[/] {one}" for one in told)
    for remark in remarks(cell):
        yield f"[yellow]{escape(visible(remark))}[/]"


def names(cell: Cell, state: State) -> list[str]:
    """The proofs of a cell that are in one state."""
    return [proof.value for proof, status in cell.proofs.items() if status.state is state]


def stage_remarks(cell: Cell) -> Iterator[str]:
    """What a reviewer should see about the stage of a cell: the same in all cells of its row."""
    if cell.rolling:
        yield f"rolling out: {len(cell.images)} images of {cell.image} open"
    if cell.declared:
        yield f"{cell.image}: declared, not built"


def remarks(cell: Cell) -> Iterator[str]:
    """What a reviewer should see about one cell beside its proofs."""
    if cell.until is not None:
        yield f"licence ends {cell.until.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def markdown(matrix: Matrix) -> str:
    """A table for a review, and below it what is not enforced, with the reason."""
    lines = [f"## Release matrix of {md(matrix.name)}", ""]
    lines += [f"**Weakened by {md(name)}.**" for name in matrix.weakened] + [""] * bool(matrix.weakened)
    lines.append("| stage | " + " | ".join(map(md, matrix.artifacts)) + " |")
    lines.append("|---" * (len(matrix.artifacts) + 1) + "|")
    for stage in matrix.stages:
        cells = [matrix.cell(stage, artifact) for artifact in matrix.artifacts]
        known = next((cell for cell in cells if cell is not None), None)
        told = [md(stage), *(map(md, (known.platform, *stage_remarks(known))) if known else ())]
        lines.append(f"| {'<br>'.join(told)} | " + " | ".join(map(_cell, cells)) + " |")
    lines += ["", " · ".join(f"{mark} {word}" for mark, word, _ in MARKS.values()), ""]
    found = [
        f"| {proof} | {MARKS[status.state][0]} {MARKS[status.state][1]} "
        f"| {md(', '.join(places))} | {md(status.note)} |"
        for places, proof, status in _unproven(matrix)
    ]
    if found:
        lines += ["| proof | | stages | why, or what to choose |", "|---|---|---|---|", *found, ""]
    return "\n".join(lines)


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    lines = []
    for state, (mark, word, _) in MARKS.items():
        found = names(cell, state)
        if found and state is not State.NOT_NEEDED:
            lines.append(
                f"{mark} {len(found)} {word}" if state is State.ENFORCED else f"{mark} {', '.join(found)}"
            )
    return "<br>".join([*lines, *map(md, remarks(cell))])


def page(matrix: Matrix) -> str:
    """One HTML file that needs nothing else: no script, no font, no image from anywhere."""
    from jewelhouse.templates import render

    return render(
        "reports/matrix.html.j2",
        matrix=matrix,
        marks=MARKS,
        meanings=MEANINGS,
        remarks=remarks,
        stage_remarks=stage_remarks,
        possible=possible,
        names=names,
        short=short,
    )


def short(measurements: Measurements) -> str:
    """Measurements as a person compares them: the first digits of each."""
    return ", ".join(
        f"{name} {value.removeprefix('sha256:')[:12]}…" for name, value in measurements.values.items()
    )
