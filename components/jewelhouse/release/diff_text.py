"""The release diff for people: lines for the terminal, Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Iterator

from jewelhouse.release.difference import Change, Difference
from jewelhouse.release.markdown import md, visible

# A mark with a word, so that nothing is told by colour alone.
GROUPS = (
    ("▲", "weaker or more open", "red"),
    ("?", "cannot be decided", "yellow"),
    ("▼", "not weaker", "green"),
)
VERDICTS = {
    "wider": "Something becomes weaker or more open.",
    "undecided": "It cannot be decided whether something becomes more open.",
    "not wider": "Nothing becomes weaker or more open.",
    "equal": "No difference in who can open what.",
}
# A comment of GitHub takes 65,536 characters (docs.github.com/rest/issues/comments); stacks share one.
ROOM = 9000


def group(change: Change) -> int:
    """Which of the groups a change belongs to."""
    if change.unsure:
        return 1
    return 0 if change.wider else 2


def text(difference: Difference) -> Iterator[str]:
    """Lines with Rich markup."""
    # Loaded here: the Markdown below is also written where nothing is installed (tools/release_comment.py).
    from rich.markup import escape as escaped

    def escape(text: str) -> str:
        return escaped(visible(text))

    yield f"[bold]{escape(difference.before)}[/] → [bold]{escape(difference.after)}[/]"
    yield f"{VERDICTS[difference.verdict]}"
    for old, new in difference.renamed:
        yield f"artifact {escape(old)} is now called {escape(new)}"
    for number, (mark, word, colour) in enumerate(GROUPS):
        changes = [change for change in difference.changes if group(change) == number]
        if not changes:
            continue
        yield ""
        yield f"[{colour}]{mark} {word}[/]"
        for place, found in _by_key(changes):
            yield f"  [bold]{escape(place)}[/]"
            for change in found:
                yield f"    {escape(change.what)}"
                for detail in change.details:
                    yield f"      {escape(detail)}"


def markdown(difference: Difference, stack: str | None = None) -> str:
    """A part of a pull request's comment; what goes beyond its room is counted."""
    name = f" of {md(stack)}" if stack else ""
    lines = [f"### Release diff{name}", "", f"**{VERDICTS[difference.verdict]}**", ""]
    lines += [f"Artifact {md(old)} is now called {md(new)}.\n" for old, new in difference.renamed]
    for number, (mark, word, _) in enumerate(GROUPS):
        changes = [change for change in difference.changes if group(change) == number]
        if not changes:
            continue
        # What is not dangerous waits folded.
        folded = number == 2
        title = f"{mark} {word} ({len(changes)})"
        lines += [f"<details><summary>{title}</summary>", ""] if folded else [f"#### {title}", ""]
        for place, found in _by_key(changes):
            lines.append(f"- **{md(place)}**")
            for change in found:
                lines.append(f"  - {md(change.what)}")
                lines += [f"    - {md(detail)}" for detail in change.details]
        lines += ["", "</details>", ""] if folded else [""]
    return _fitting(lines)


def _fitting(lines: list[str]) -> str:
    room, kept = ROOM, []
    for number, line in enumerate(lines):
        room -= len(line) + 1
        if room < 0:
            kept += ["", f"… and {len(lines) - number} lines more: `jewelhouse release diff` shows all."]
            # A fold that was open stays open for what follows otherwise.
            kept += ["", "</details>"] * (sum("<details>" in one for one in kept) > kept.count("</details>"))
            break
        kept.append(line)
    return "\n".join(kept).rstrip() + "\n"


def _by_key(changes: list[Change]) -> list[tuple[str, list[Change]]]:
    found: dict[str, list[Change]] = {}
    for change in changes:
        found.setdefault(change.key or "the whole stack", []).append(change)
    return list(found.items())
