"""Writes the release diff of a pull request as one comment, which later runs replace (docs/ci.md).

Runs with the right to write comments, on the event `workflow_run`, from the default branch and with nothing
installed. The event and GitHub's own answers are believed. The artifact is not: whoever opens a pull request
may change the workflow that makes it, so it is bounded in size, read in memory, taken apart field by field,
and its words are written as text that no markup can be made of. The number of the pull request is not in it.
"""

from __future__ import annotations

import io
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "components"))

from jewelhouse.release import diff_text
from jewelhouse.release.difference import Change, Difference, Kind
from jewelhouse.release.markdown import md

LABEL = "release-widening-agreed"
MARKER = "<!-- jewelhouse release diff"
AUTHOR = "github-actions[bot]"
FILE = "release-diff.json"
# A comment takes 65,536 characters: docs.github.com/rest/issues/comments. Packed, and unpacked, in bytes.
COMMENT, PACKED, UNPACKED = 60_000, 512 * 1024, 4 * 1024 * 1024
STACKS, CHANGES, DETAILS, LENGTH = 50, 5000, 2000, 600


class Refused(Exception):
    """The artifact is not what the workflow makes."""


class GitHub:
    """The few calls that are needed, on one repository."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        repository = environment["GITHUB_REPOSITORY"]
        self._api = f"{environment.get('GITHUB_API_URL', 'https://api.github.com')}/repos/{repository}"
        self._token = environment["GITHUB_TOKEN"]

    def call(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        data = self._send(method, path, body, query)
        return json.loads(data) if data else None

    def download(self, path: str) -> bytes:
        return self._send("GET", path, None, {}, limit=PACKED)

    def _send(
        self, method: str, path: str, body: Any, query: Mapping[str, str], limit: int | None = None
    ) -> bytes:
        url = f"{self._api}/{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        request = urllib.request.Request(
            url, method=method, data=None if body is None else json.dumps(body).encode()
        )
        request.add_header("Accept", "application/vnd.github+json")
        request.add_header("X-GitHub-Api-Version", "2022-11-28")
        # Not sent along when GitHub redirects to where artifacts are stored.
        request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            data = answer.read() if limit is None else answer.read(limit + 1)
        if limit is not None and len(data) > limit:
            raise Refused(f"is larger than {limit} bytes")
        return data


def pull_request(github: Any, run: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The open pull request that the run was for, found by its branch and verified by its commit.

    The event names none for forks. None when it was closed, or pushed to since: a newer run will come.
    """
    head = f"{run['head_repository']['owner']['login']}:{run['head_branch']}"
    found = github.call("GET", "pulls", state="open", head=head, per_page="100")
    fitting = [
        one
        for one in found
        if one["head"]["sha"] == run["head_sha"]
        and (one["head"].get("repo") or {}).get("id") == run["head_repository"]["id"]
    ]
    return fitting[0] if len(fitting) == 1 else None


def artifact(github: Any, run: Mapping[str, Any]) -> Any:
    """What the run left behind, as JSON; None when there is nothing. Raises Refused."""
    listed = github.call("GET", f"actions/runs/{int(run['id'])}/artifacts", name="release-diff")
    found = [one for one in listed["artifacts"] if one["name"] == "release-diff" and not one["expired"]]
    if not found:
        return None
    newest = max(found, key=lambda one: int(one["id"]))
    if int(newest["size_in_bytes"]) > PACKED:
        raise Refused(f"is larger than {PACKED} bytes")
    return unpacked(github.download(f"actions/artifacts/{int(newest['id'])}/zip"))


def unpacked(data: bytes) -> Any:
    """The one file that is read of an archive. Raises Refused."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(FILE) as file:
            # What the archive says of its size is not believed.
            text = file.read(UNPACKED + 1)
        if len(text) > UNPACKED:
            raise Refused(f"unpacks to more than {UNPACKED} bytes")
        found = json.loads(text)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, RuntimeError, NotImplementedError) as error:
        raise Refused(f"cannot be read: {type(error).__name__}") from error
    if not isinstance(found, dict):
        raise Refused("is no object")
    return found


def _text(value: Any) -> str:
    """Text, cut where a reader has long seen what it says."""
    if not isinstance(value, str):
        raise Refused("holds something else than text")
    return value if len(value) <= LENGTH else f"{value[:LENGTH]}…"


def _list(value: Any, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        raise Refused("holds something else than a short list")
    return value


def difference(value: Any) -> Difference:
    """A difference from its JSON. Raises Refused."""
    try:
        changes = tuple(
            Change(
                kind=Kind(_text(one["kind"])),
                what=_text(one["what"]),
                key=_text(one["key"]),
                artifact=_text(one["artifact"]),
                details=tuple(map(_text, _list(one["details"], DETAILS))),
                wider=one["wider"] is True,
                unsure=one["unsure"] is True,
            )
            for one in _list(value["changes"], CHANGES)
        )
        renamed = tuple((_text(old), _text(new)) for old, new in _list(value["renamed"], CHANGES))
        return Difference(
            before=_text(value["before"]), after=_text(value["after"]), changes=changes, renamed=renamed
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"is not a release diff: {type(error).__name__}") from error


def body(value: Any, sha: str) -> str:
    """The comment. Stacks in which something changes come first, those that stay equal in one line."""
    stacks = value.get("stacks") if isinstance(value, dict) else None
    if not isinstance(stacks, dict) or not 0 < len(stacks) <= STACKS:
        raise Refused("has no stacks")
    parts: list[tuple[int, str]] = []
    equal: list[str] = []
    for name, one in sorted(stacks.items()):
        if isinstance(one, dict) and "error" in one:
            reason = md(_text(one["error"]))
            parts.append(
                (0, f"### Release diff of {md(_text(name))}\n\n**It cannot be compared.** {reason}\n")
            )
            continue
        found = difference(one)
        if found.verdict == "equal" and not found.renamed:
            equal.append(md(_text(name)))
        else:
            rank = ("wider", "undecided", "not wider", "equal").index(found.verdict)
            parts.append((rank, diff_text.markdown(found, _text(name))))
    text = "\n".join(part for _, part in sorted(parts))
    if equal:
        text += f"\nNo difference in who can open what: {', '.join(equal)}.\n"
    if any(rank < 2 for rank, _ in parts):
        text += f"\nSomebody who answers for the keys sets the label `{LABEL}` to agree to this.\n"
    if len(text) > COMMENT:
        text = text[:COMMENT].rpartition("\n")[0] + "\n\n</details>\n\n… cut: the run shows all.\n"
    return f"{_marker(sha)}\n{text.strip()}\n\nAt commit {sha}.\n"


def _marker(sha: str) -> str:
    return f"{MARKER} {sha} -->"


def existing(github: Any, number: int) -> Mapping[str, Any] | None:
    """The comment of an earlier run: by its author and its marker, as anybody may write the marker alone."""
    for page in range(1, 31):
        comments = github.call("GET", f"issues/{number}/comments", per_page="100", page=str(page))
        for one in comments:
            if one["user"]["login"] == AUTHOR and one["body"].startswith(MARKER):
                return one
        if len(comments) < 100:
            return None
    return None


def write(github: Any, event: Mapping[str, Any]) -> str:
    """Writes or replaces the comment, and takes the label off that agreed to an earlier commit."""
    run = event["workflow_run"]
    if run["event"] != "pull_request" or run["conclusion"] not in ("success", "failure"):
        return f"nothing to say about a run of {run['event']} that ended as {run['conclusion']}"
    found = pull_request(github, run)
    if found is None:
        return "no open pull request has this commit as its head"
    number, sha = int(found["number"]), str(run["head_sha"])
    try:
        value = artifact(github, run)
        if value is None:
            text = (
                f"{_marker(sha)}\n**The release diff could not be made.** The run of commit {sha} says why.\n"
            )
        else:
            text = body(value, sha)
    except Refused as error:
        text = f"{_marker(sha)}\n**The release diff is not shown:** its file {md(str(error))}.\n"
    before = existing(github, number)
    stale = before is not None and not before["body"].startswith(_marker(sha))
    if stale and any(label["name"] == LABEL for label in found["labels"]):
        try:
            github.call("DELETE", f"issues/{number}/labels/{LABEL}")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
    if before is None:
        github.call("POST", f"issues/{number}/comments", {"body": text})
    elif before["body"] != text:
        github.call("PATCH", f"issues/comments/{int(before['id'])}", {"body": text})
    return f"pull request {number}"


def main() -> None:
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    print(write(GitHub(os.environ), event))


if __name__ == "__main__":
    main()
