"""The release matrix for people: a table for the terminal, Markdown, and a page for the browser."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from rich.markup import escape
from rich.table import Table

from jewelhouse.evidence.verdict import moment
from jewelhouse.model import Measurements, Proof
from jewelhouse.release.matrix import Cell, Matrix
from jewelhouse.release.proofs import State

# A mark, a word and a colour for each state: no state is told by its colour alone.
MARKS: Mapping[State, tuple[str, str, str]] = {
    State.ENFORCED: ("✓", "enforced", "green"),
    State.WEAKENED: ("!", "weakened", "red"),
    State.NOT_POSSIBLE: ("○", "not possible here", "yellow"),
    State.NOT_NEEDED: ("·", "not needed", "dim"),
}
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


def table(matrix: Matrix) -> Table:
    """Stages down, artifacts across; in a cell the proofs by state."""
    found = Table(title=f"{matrix.name}: who can open what", title_justify="left", show_lines=True)
    found.add_column("stage")
    for artifact in matrix.artifacts:
        found.add_column(escape(artifact), overflow="fold")
    for stage in matrix.stages:
        cells = [matrix.cell(stage, artifact) for artifact in matrix.artifacts]
        found.add_row(escape(stage), *("" if cell is None else "\n".join(_rich(cell)) for cell in cells))
    return found


def legend() -> str:
    return "   ".join(f"[{colour}]{mark}[/] {word}" for mark, word, colour in MARKS.values())


def _rich(cell: Cell) -> Iterator[str]:
    for state, (mark, _, colour) in MARKS.items():
        found = names(cell, state)
        if found and state is not State.NOT_NEEDED:
            yield f"[{colour}]{mark}[/] {', '.join(found)}"
    for remark in remarks(cell):
        yield f"[yellow]{escape(remark)}[/]"


def names(cell: Cell, state: State) -> list[str]:
    """The proofs of a cell that are in one state."""
    return [proof.value for proof, status in cell.proofs.items() if status.state is state]


def remarks(cell: Cell) -> Iterator[str]:
    """What a reviewer should see about a cell beside its proofs."""
    if cell.rolling:
        yield f"rolling out: {len(cell.images)} images open it"
    if cell.declared:
        yield f"{cell.image}: measurements declared, not built"
    if cell.until is not None:
        yield f"until {moment(cell.until)}"


def markdown(matrix: Matrix) -> str:
    """A table for a review, and below it what is not enforced, with the reason."""
    lines = [f"## Release matrix of {md(matrix.name)}", ""]
    lines += [f"**Weakened by {md(name)}.**" for name in matrix.weakened] + [""] * bool(matrix.weakened)
    if matrix.declared:
        lines += [f"Measurements declared by hand, not built: {', '.join(map(md, matrix.declared))}.", ""]
    lines.append("| stage | " + " | ".join(map(md, matrix.artifacts)) + " |")
    lines.append("|---" * (len(matrix.artifacts) + 1) + "|")
    for stage in matrix.stages:
        cells = [matrix.cell(stage, artifact) for artifact in matrix.artifacts]
        lines.append(f"| {md(stage)} | " + " | ".join(map(_cell, cells)) + " |")
    lines += ["", " · ".join(f"{mark} {word}" for mark, word, _ in MARKS.values()), ""]
    notes = list(_notes(matrix))
    if notes:
        lines += [
            "| stage | artifact | proof | | why, or what to choose |",
            "|---|---|---|---|---|",
            *notes,
            "",
        ]
    return "\n".join(lines)


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    counts = cell.counts
    parts = [f"{mark} {counts[state]}" for state, (mark, _, _) in MARKS.items() if counts.get(state)]
    return "<br>".join([" ".join(parts), *map(md, remarks(cell))])


def _notes(matrix: Matrix) -> Iterator[str]:
    for stage in matrix.stages:
        for artifact in matrix.artifacts:
            cell = matrix.cell(stage, artifact)
            for proof, status in cell.proofs.items() if cell else ():
                if status.state in (State.WEAKENED, State.NOT_POSSIBLE):
                    word = MARKS[status.state][1]
                    yield f"| {md(stage)} | {md(artifact)} | {proof} | {word} | {md(status.note)} |"


# What GitHub makes a link, a mention or an e-mail of without being asked (GFM: extended autolinks).
LINKING = re.compile(r"""[^\s()"',`|\\]*(?:@|://|www\.)[^\s()"',`|\\]*""")
SPECIAL = re.compile(r"[\\|`*_\[\]#~!<>&]")


def md(text: str) -> str:
    """Text that no table, tag, link or mention can be made of. What would link itself becomes code."""
    text = visible(" ".join(text.split()))
    found, end = [], 0
    for link in LINKING.finditer(text):
        found += [_escaped(text[end : link.start()]), f"`{link[0]}`"]
        end = link.end()
    return "".join([*found, _escaped(text[end:])])


def _escaped(text: str) -> str:
    return SPECIAL.sub(lambda one: f"&#{ord(one[0])};" if one[0] in "<>&" else f"\\{one[0]}", text)


def visible(text: str) -> str:
    """Text with what cannot be seen spelled out: marks that turn the writing direction, escapes to a terminal."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)


def page(matrix: Matrix) -> str:
    """One HTML file that needs nothing else: no script, no font, no image from anywhere."""
    from jewelhouse.templates import render

    return render(
        "reports/matrix.html.j2",
        matrix=matrix,
        marks=MARKS,
        meanings=MEANINGS,
        remarks=remarks,
        names=names,
        short=short,
    )


def short(measurements: Measurements) -> str:
    """Measurements as a person compares them: the first digits of each."""
    return ", ".join(
        f"{name} {value.removeprefix('sha256:')[:12]}…" for name, value in measurements.values.items()
    )
