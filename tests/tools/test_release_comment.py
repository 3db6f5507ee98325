"""The comment on a pull request: one, replaced, and made of text alone whatever the artifact holds."""

from __future__ import annotations

import io
import json
import re
import sys
import urllib.error
import zipfile
from collections.abc import Callable
from email.message import Message
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import PROJECT

sys.path.append(str(PROJECT / "tools"))

import release_comment as comment

SHA, OLD = "a" * 40, "b" * 40
RUN = {
    "id": 7,
    "event": "pull_request",
    "conclusion": "success",
    "head_sha": SHA,
    "head_branch": "wider",
    "head_repository": {"id": 99, "owner": {"login": "stranger"}},
}


def change(**changes: Any) -> dict[str, Any]:
    first = {
        "kind": "image",
        "key": "base-aws-enclave-eu-central-1",
        "artifact": "base",
        "what": "a new image may open it: image server (PCR0 111111111111…), for stage serve",
        "details": ["beside image server (PCR0 222222222222…)"],
        "wider": True,
        "unsure": False,
    }
    return {**first, **changes}


def stack(*changes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "before": "the branch",
        "after": "the pull request",
        "verdict": "wider",
        "renamed": [],
        "changes": list(changes),
        **more,
    }


def packed(value: Any, name: str = comment.FILE) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, value if isinstance(value, (str, bytes)) else json.dumps(value))
    return data.getvalue()


class GitHub:
    """What GitHub would answer, and what it was asked to change."""

    def __init__(self, archive: bytes | None, **settings: Any) -> None:
        self.archive = archive
        self.changes: list[tuple[str, str, Any]] = []
        self.comments: list[dict[str, Any]] = settings.get("comments", [])
        self.pulls: list[dict[str, Any]] = settings.get(
            "pulls",
            [{"number": 5, "head": {"sha": SHA, "repo": {"id": 99}}, "labels": settings.get("labels", [])}],
        )
        self.size: int = settings.get("size", len(archive or b""))

    def call(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        if method != "GET":
            self.changes.append((method, path, body))
            return None
        if path == "pulls":
            assert query["state"] == "open"
            assert query["head"] == "stranger:wider"
            return self.pulls
        if path == "actions/runs/7/artifacts":
            found = [{"id": 3, "name": "release-diff", "expired": False, "size_in_bytes": self.size}]
            return {"artifacts": found if self.archive is not None else []}
        assert path == "issues/5/comments"
        page = int(query["page"])
        return self.comments[(page - 1) * 100 : page * 100]

    def download(self, path: str) -> bytes:
        assert path == "actions/artifacts/3/zip"
        assert self.archive is not None
        return self.archive

    @property
    def text(self) -> str:
        (found,) = [body["body"] for method, _, body in self.changes if method in ("POST", "PATCH")]
        return found


def written(github: GitHub, **run: Any) -> str:
    return comment.write(github, {"workflow_run": {**RUN, **run}})


def by(login: str, text: str, identity: int = 11) -> dict[str, Any]:
    return {"id": identity, "user": {"login": login}, "body": text}


def test_a_first_run_writes_a_comment_with_every_stack():
    found = {"stacks": {"prod-aws": stack(change()), "dev": stack(verdict="equal")}}
    github = GitHub(packed(found))
    assert written(github) == "pull request 5"
    ((method, path, _),) = github.changes
    assert (method, path) == ("POST", "issues/5/comments")
    assert github.text.startswith(comment.MARKER)
    assert "a new image may open it" in github.text
    assert "No difference in who can open what: dev." in github.text
    assert comment.LABEL in github.text


def test_a_later_run_replaces_the_comment():
    earlier = by(comment.AUTHOR, f"{comment.MARKER} {OLD} -->\nold")
    github = GitHub(packed({"stacks": {"dev": stack()}}), comments=[earlier])
    written(github)
    assert [(method, path) for method, path, _ in github.changes] == [("PATCH", "issues/comments/11")]


def test_the_comment_is_found_behind_a_hundred_others():
    many = [by("somebody", "hello", number) for number in range(100)]
    earlier = by(comment.AUTHOR, f"{comment.MARKER} {SHA} -->\nold", 500)
    github = GitHub(packed({"stacks": {"dev": stack()}}), comments=[*many, earlier])
    written(github)
    assert github.changes[0][1] == "issues/comments/500"


def test_a_marker_that_somebody_else_wrote_is_no_comment_of_ours():
    forged = by("stranger", f"{comment.MARKER} {SHA} -->\nNothing becomes weaker.")
    github = GitHub(packed({"stacks": {"dev": stack(change())}}), comments=[forged])
    written(github)
    assert github.changes[0][0] == "POST"


def test_a_label_that_agreed_to_an_earlier_commit_is_taken_off():
    earlier = by(comment.AUTHOR, f"{comment.MARKER} {OLD} -->\nold")
    github = GitHub(
        packed({"stacks": {"dev": stack(change())}}), comments=[earlier], labels=[{"name": comment.LABEL}]
    )
    written(github)
    assert ("DELETE", f"issues/5/labels/{comment.LABEL}", None) in github.changes


def test_a_label_that_agreed_to_this_commit_stays():
    earlier = by(comment.AUTHOR, f"{comment.MARKER} {SHA} -->\nold")
    github = GitHub(
        packed({"stacks": {"dev": stack(change())}}), comments=[earlier], labels=[{"name": comment.LABEL}]
    )
    written(github)
    assert "DELETE" not in [method for method, _, _ in github.changes]


def test_a_label_that_somebody_took_off_meanwhile_is_no_failure():
    earlier = by(comment.AUTHOR, f"{comment.MARKER} {OLD} -->\nold")
    github = GitHub(
        packed({"stacks": {"dev": stack(change())}}), comments=[earlier], labels=[{"name": comment.LABEL}]
    )
    answer = github.call

    def call(method: str, path: str, body: Any = None, **query: str) -> Any:
        if method == "DELETE":
            raise urllib.error.HTTPError(path, 404, "gone", Message(), None)
        return answer(method, path, body, **query)

    github.call = call  # type: ignore[method-assign]
    written(github)
    assert github.changes[0][0] == "PATCH"


@pytest.mark.parametrize(
    "pulls",
    [
        pytest.param([], id="closed"),
        pytest.param(
            [{"number": 5, "head": {"sha": OLD, "repo": {"id": 99}}, "labels": []}], id="pushed-to-since"
        ),
        pytest.param(
            [{"number": 5, "head": {"sha": SHA, "repo": {"id": 1}}, "labels": []}],
            id="branch-of-another-fork",
        ),
        pytest.param([{"number": 5, "head": {"sha": SHA, "repo": None}, "labels": []}], id="deleted-fork"),
    ],
)
def test_nothing_is_written_where_the_run_has_no_pull_request(pulls):
    github = GitHub(packed({"stacks": {"dev": stack()}}), pulls=pulls)
    written(github)
    assert not github.changes


@pytest.mark.parametrize(
    "run", [{"event": "push"}, {"conclusion": "cancelled"}, {"conclusion": None}, {"conclusion": "skipped"}]
)
def test_nothing_is_written_about_another_run(run):
    github = GitHub(packed({"stacks": {"dev": stack()}}))
    written(github, **run)
    assert not github.changes


def test_a_diff_that_could_not_be_made_is_said():
    github = GitHub(None)
    written(github, conclusion="failure")
    assert "could not be made" in github.text


HOSTILE: list[Any] = [
    pytest.param(lambda: b"no archive", id="no-archive"),
    pytest.param(lambda: packed("{}", name="other.json"), id="another-file"),
    pytest.param(lambda: packed("{}", name="../../etc/passwd"), id="path-outside"),
    pytest.param(lambda: packed("not json"), id="no-json"),
    pytest.param(lambda: packed(b"\xff\xfe\x00"), id="no-text"),
    pytest.param(lambda: packed("[" * 100_000), id="nested-without-end"),
    pytest.param(lambda: packed(" " * (comment.UNPACKED + 10)), id="unpacks-to-megabytes"),
    pytest.param(lambda: packed({"stacks": {}}), id="no-stacks"),
    pytest.param(lambda: packed({"stacks": {str(n): stack() for n in range(100)}}), id="too-many-stacks"),
    pytest.param(lambda: packed({"stacks": {"dev": stack(*[change()] * 5001)}}), id="too-many-changes"),
    pytest.param(lambda: packed({"stacks": {"dev": stack(change(kind="fine"))}}), id="unknown-kind"),
    pytest.param(lambda: packed({"stacks": {"dev": stack(change(details="abc"))}}), id="details-as-text"),
    pytest.param(lambda: packed({"stacks": {"dev": stack(change(what=["x"]))}}), id="list-as-text"),
    pytest.param(lambda: packed({"stacks": {"dev": {"changes": None}}}), id="no-changes"),
    pytest.param(lambda: packed({"stacks": {"dev": {"error": {"a": 1}}}}), id="error-as-object"),
    pytest.param(lambda: packed(["stacks"]), id="a-list"),
    pytest.param(lambda: packed("null"), id="null"),
]


@pytest.mark.parametrize("archive", HOSTILE)
def test_an_artifact_that_the_workflow_did_not_make_is_not_shown(archive: Callable[[], bytes]):
    github = GitHub(archive())
    written(github)
    assert "is not shown" in github.text


def test_a_large_artifact_is_not_even_downloaded():
    github = GitHub(packed({"stacks": {"dev": stack()}}), size=comment.PACKED + 1)
    github.download = lambda path: pytest.fail("downloaded")  # type: ignore[method-assign]
    written(github)
    assert "is not shown" in github.text


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "</details><h1>Approved</h1>",
        "@owner please merge",
        "[here](https://evil.example)",
        "![](https://evil.example/pixel)",
        "https://evil.example",
        "one\n\n# Nothing becomes weaker",
        "`code` | <!-- jewelhouse -->",
        "-->",
    ],
)
def test_words_of_the_artifact_are_text(text):
    one = stack(change(what=text, key=text, details=[text]), renamed=[[text, text]], before=text, after=text)
    github = GitHub(packed({"stacks": {text: one, "other": {"error": text}}}))
    written(github)
    found = github.text.removeprefix(comment.MARKER)
    tags = set(re.findall(r"<[^>]*>", found))
    assert tags <= {"<details>", "</details>", "<summary>", "</summary>"}
    bare = re.sub(r"`[^`]*`", "", re.sub(r"\\.", "", found))
    for mark in ("@", "](", "://"):
        assert mark not in bare
    heads = [line for line in found.splitlines() if line.lstrip(" -").startswith("#")]
    assert all(line.startswith(("### Release diff of ", "#### ")) for line in heads)


def test_a_long_comment_is_cut_where_github_would_refuse_it():
    stacks = {
        f"stack-{n}": stack(*[change(what=f"{n} {m} " + "x" * 500) for m in range(300)]) for n in range(40)
    }
    # Larger than may be unpacked at once, so the limits are lifted for what the text does.
    text = comment.body({"stacks": stacks}, SHA)
    assert len(text) < 65_536
    assert text.count("<details>") <= text.count("</details>")
    assert "more" in text


def test_a_long_sentence_is_cut():
    text = comment.body({"stacks": {"dev": stack(change(what="x" * 100_000))}}, SHA)
    assert "xxx…" in text
    assert len(text) < 2000


def test_stacks_that_become_more_open_stand_first():
    stacks = {
        "aaa": stack(change(wider=False)),
        "bbb": stack(change(wider=False, unsure=True)),
        "ccc": stack(change()),
    }
    text = comment.body({"stacks": stacks}, SHA)
    assert text.index("of ccc") < text.index("of bbb") < text.index("of aaa")


def test_no_label_is_asked_for_where_nothing_becomes_more_open():
    text = comment.body({"stacks": {"dev": stack(change(wider=False))}}, SHA)
    assert comment.LABEL not in text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(
    st.binary(max_size=300)
    | json_values.map(packed)
    | json_values.map(lambda one: packed({"stacks": {"a": one}}))
)
def test_no_artifact_gives_a_traceback(archive):
    github = GitHub(archive)
    written(github)
    assert github.text.startswith(comment.MARKER)


def test_nothing_has_to_be_installed_where_comments_may_be_written():
    import subprocess

    # Without site-packages: neither rich nor typer nor anything else that an index could replace.
    code = "import sys; sys.path.insert(0, 'tools'); import release_comment; print(sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "rich" not in done.stdout
