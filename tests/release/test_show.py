"""The matrix for people: nothing of it is lost, and no name in it becomes markup."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policies_made import account, policies
from rich.console import Console
from samples import ALL_STACKS, shipped
from snapshots_made import matrix_of

from jewelhouse.cli.matrix import of
from jewelhouse.model import AttestedKey as Key
from jewelhouse.model import Cloud, GcpAccount, Measurements, Platform, Tee
from jewelhouse.release import show
from jewelhouse.release.markdown import md, visible
from jewelhouse.release.matrix import Matrix
from jewelhouse.release.policy import Gate, ReleasePolicy
from jewelhouse.release.proofs import State

VOID = {"meta", "br", "link", "img", "hr", "input"}
# What a party of the lifecycle could write into a name that it chooses.
HOSTILE = [
    pytest.param("<script>alert(1)</script>", id="script"),
    pytest.param('"><img src=https://evil.example/x onerror=alert(1)>', id="image-from-elsewhere"),
    pytest.param("[click](javascript:alert(1))", id="link"),
    pytest.param("a | b | c", id="further-cells"),
    pytest.param("one\n## two\n| x | y |", id="further-lines"),
    pytest.param("`code` **bold** _it_", id="emphasis"),
    pytest.param("\\| \\\\", id="escapes-of-its-own"),
    pytest.param("[red]it is fine[/] [link=https://evil.example]x[/link]", id="terminal-markup"),
    pytest.param("@everyone", id="mention"),
    pytest.param("&lt;b&gt;", id="entities"),
    pytest.param("~~enforced~~", id="struck-out"),
    pytest.param("https://evil.example/", id="address-that-links-itself"),
]


class Tags(HTMLParser):
    """Elements that open and close as HTML wants it, with the text outside of style sheets."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


def hostile(name: str) -> Matrix:
    space = Platform.GCP_CONFIDENTIAL_SPACE
    gate = Gate(
        stage=name,
        platform=space,
        tee=Tee.TDX,
        account=GcpAccount(project=name, number="100000000001"),
        measurements=(Measurements(values={"image_digest": "sha256:" + "1" * 64}),),
        identity="flow@project-2.iam.gserviceaccount.com",
    )
    policy = ReleasePolicy(
        key=Key(name, space, "europe-west4"), owner=GcpAccount(project=name), gates=(gate,)
    )
    made = matrix_of([policy], name=name, declared=True)
    return replace(made, weakened=(name,), declared=(name,))


def printed(matrix: Matrix, width: int = 250) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        for table in show.tables(matrix, width):
            console.print(table)
        console.print(show.legend())
        for note in show.notes(matrix):
            console.print(note)
    return captured.get()


def words_of(matrix: Matrix) -> list[tuple[str, str, str]]:
    return [
        (stage, artifact, proof.value)
        for (stage, artifact), cell in matrix.cells.items()
        for proof in cell.proofs
    ]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_no_markup_on_the_page(name):
    page = show.page(hostile(name))
    tags = Tags(page)
    assert "script" not in tags.names
    assert "img" not in tags.names
    assert " ".join(name.split()) in " ".join(tags.text.split())
    assert not [attribute for attribute, _ in tags.attributes if attribute.startswith("on")]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_no_markup_in_markdown(name):
    text = show.markdown(hostile(name))
    head = next(line for line in text.splitlines() if line.startswith("| stage"))
    row = text.splitlines()[text.splitlines().index(head) + 2]
    assert len(re.findall(r"(?<!\\)\|", head)) == len(re.findall(r"(?<!\\)\|", row)) == 3
    # Only what this kit wrote is markup: its tag, its heading, its table, its emphasis.
    assert set(re.findall(r"<[^>]*>", text)) <= {"<br>"}
    assert len([line for line in text.splitlines() if line.startswith("#")]) == 1
    bare = re.sub(r"`[^`|]*`", "", re.sub(r"\\.", "", text))
    for mark in ("](", "`", "~~", "_it", "://", "@"):
        assert mark not in bare, mark


def read(markdown: str) -> str:
    """The text that a reader of Markdown sees."""
    return re.sub(
        r"\\(.)|`([^`]*)`|&#(\d+);",
        lambda one: one[1] or one[2] or chr(int(one[3])),
        markdown,
    )


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.text("ab@:/w.`|\\<&#[]()~*_ \n", max_size=30))
def test_escaped_text_says_what_it_said(text):
    escaped = md(text)
    assert "\n" not in escaped
    outside = re.sub(r"`[^`]*`", "", re.sub(r"\\.", "", escaped))
    assert not re.search(r"[|`*_\[\]~<@]|://", outside)
    assert read(escaped) == visible(" ".join(text.split()))


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        pytest.param("serve\u202egnp", r"serve\u202egnp", id="writing-direction-turned"),
        pytest.param("a\x1b[2Jb", r"a\x1b[2Jb", id="terminal-cleared"),
        pytest.param("ba\u200bse", r"ba\u200bse", id="two-names-that-look-alike"),
    ],
)
def test_what_cannot_be_seen_is_spelled_out(text, seen):
    assert visible(text) == seen
    assert read(md(text)) == seen


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_no_markup_in_the_terminal(name):
    text = "".join(printed(hostile(name)).split())
    assert "".join(name.split()).replace("\n", "") in re.sub(r"[│┃]", "", text) or "|" in name


@pytest.mark.parametrize("name", ALL_STACKS)
def test_the_page_of_a_stack_needs_nothing_from_elsewhere_and_holds_every_cell(name):
    matrix = of(shipped(name))
    page = show.page(matrix)
    tags = Tags(page)
    assert not re.search(r"https?:", page)
    assert "script" not in tags.names
    assert not {"link", "img", "iframe", "object"} & set(tags.names)
    assert not [value for attribute, value in tags.attributes if attribute in ("src", "href")]
    assert "@import" not in page
    assert "url(" not in page
    assert tags.names.count("details") == len(matrix.cells)
    for cell in matrix.cells.values():
        assert cell.key in tags.text
        for status in cell.proofs.values():
            assert status.note in tags.text
        for measurements in cell.images:
            assert show.short(measurements) in tags.text


@pytest.mark.parametrize("name", ALL_STACKS)
def test_markdown_and_table_of_a_stack_hold_every_cell(name):
    matrix = of(shipped(name))
    text = show.markdown(matrix)
    table = printed(matrix)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    named = [row.split("|")[1].strip().split("<br>")[0] for row in rows[1 : 1 + len(matrix.stages)]]
    assert named == list(matrix.stages)
    for cell in matrix.cells.values():
        for proof, status in cell.proofs.items():
            if status.state in (State.WEAKENED, State.NOT_POSSIBLE):
                row = next(one for one in rows if one.startswith(f"| {proof} ") and md(status.note) in one)
                assert md(cell.stage) in row
    for stage in matrix.stages:
        assert stage in table
    for artifact in matrix.artifacts:
        assert artifact in table


@settings(max_examples=20, deadline=None)
@given(policies())
def test_no_state_is_told_by_colour_alone(made):
    matrix = matrix_of([made])
    table, page = printed(matrix), show.page(matrix)
    for cell in matrix.cells.values():
        for state, (mark, word, _) in show.MARKS.items():
            if cell.counts.get(state) and state is not State.NOT_NEEDED:
                assert mark in table
                assert word in table
                assert word in Tags(page).text


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"rolling": True}, "rolling out: 2 images of serve-image open", id="roll-out"),
        pytest.param({"until": datetime(2027, 1, 1, tzinfo=UTC)}, "licence ends 2027-01-01", id="licence"),
        pytest.param({"declared": True}, "serve-image: declared, not built", id="declared"),
    ],
)
def test_what_a_reviewer_must_see_is_in_every_form(changes, says):
    space = Platform.GCP_CONFIDENTIAL_SPACE
    values = tuple(Measurements(values={"image_digest": f"sha256:{digit * 64}"}) for digit in "12")
    gate = Gate(
        stage="serve",
        platform=space,
        tee=Tee.TDX,
        account=account(Cloud.GCP, 2),
        measurements=values if changes.get("rolling") else values[:1],
        identity="flow@project-2.iam.gserviceaccount.com",
        not_after=changes.get("until"),
    )
    policy = ReleasePolicy(key=Key("base", space, "europe-west4"), owner=account(Cloud.GCP, 1), gates=(gate,))
    matrix = matrix_of([policy], declared=bool(changes.get("declared")))
    for text in (printed(matrix), show.page(matrix), show.markdown(matrix).replace("\\", "")):
        assert says in text


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_page(tmp_path, width):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no chromium on the PATH")
    matrix = of(shipped("federated"))
    file, picture = tmp_path / "matrix.html", tmp_path / "matrix.png"
    file.write_text(show.page(matrix), encoding="utf-8")

    def browse(*options: str) -> str:
        command = [
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},1000",
            *options,
            file.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    tags = Tags(browse("--dump-dom"))
    assert tags.names.count("details") == len(matrix.cells)
    for stage, artifact, proof in words_of(matrix):
        assert stage in tags.text
        assert artifact in tags.text
        assert proof in tags.text
    browse(f"--screenshot={picture}")
    assert colours(picture) > 20, "the page is empty"


def colours(picture: Path) -> int:
    """How many different bytes a PNG holds: an empty page is almost all one colour, so it packs to little."""
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG")
    return len(data) // 1000
