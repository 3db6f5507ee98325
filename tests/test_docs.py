"""The documentation is true: its blocks run, its links lead somewhere, its generated parts are current.

The words after a fence's language say how its block is tested:

- `console`: every `$ jewelhouse` line runs and must exit 0 (or `exit=N`); lines below it must be in what it
  prints, in their order. `console evidence` reads published samples, and skips where they are not. `console
  engine` and `console cloud` need an engine or an account: their commands, options, make targets and shell
  syntax are checked. `tools=NAME` skips where a program is missing. `console copy` blocks change files: those
  of a page run one after the other in a copy of the project; their last command must exit as it says.
- `python inventory=FILE`: a Pulumi program, run under mocks and compared with tests/docs/FILE. Blocks of
  one page with the same `program=NAME` are one program.
- `yaml lifecycle`: a stack file that the kit accepts; `yaml recipe`: a recipe. Other yaml, json and toml
  blocks must parse.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import inventory
import pytest
import real
import typer.main
import yaml
from answers import answer, outputs
from recording import record
from samples import PROJECT, lock

from jewelhouse.cli import app, main
from jewelhouse.images import recipe, tools
from jewelhouse.settings import parse

sys.path.append(str(PROJECT / "tools"))

import generate_docs

PAGES = sorted(
    path
    for path in (*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md"), *PROJECT.glob("examples/**/*.md"))
    if ".venv" not in path.parts
)
LANGUAGES = {"console", "python", "yaml", "json", "toml", "mermaid", "text"}


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    marks: tuple[str, ...]
    text: str

    def mark(self, name: str) -> str | None:
        """The value of `name=value` behind the fence, '' for a bare word, None when it is not there."""
        for word in self.marks:
            key, _, value = word.partition("=")
            if key == name:
                return value
        return None


def blocks(page: Path) -> list[Block]:
    found: list[Block] = []
    opened: tuple[int, str, list[str]] | None = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if line.lstrip().startswith("```"):
            if opened is None:
                opened = (number, line.strip().removeprefix("```"), [])
            else:
                language, *marks = opened[1].split() or ["text"]
                found.append(Block(page, opened[0], language, tuple(marks), "\n".join(opened[2]) + "\n"))
                opened = None
        elif opened is not None:
            opened[2].append(line)
    assert opened is None, f"{page}: a block is not closed"
    return found


BLOCKS = [block for page in PAGES for block in blocks(page)]


def of(language: str, *, marked: str | None = None) -> list[object]:
    return [
        pytest.param(block, id=f"{block.page.relative_to(PROJECT)}:{block.line}")
        for block in BLOCKS
        if block.language == language and (marked is None or block.mark(marked) is not None)
    ]


def commands(block: Block) -> list[tuple[list[str], list[str]]]:
    """Each command of a console block in words, with the lines that it prints."""
    return [(shlex.split(text, comments=True), shown) for text, shown in spoken(block)]


def spoken(block: Block) -> list[tuple[str, list[str]]]:
    """Each command of a console block, continued lines joined, with the lines that it prints."""
    found: list[tuple[str, list[str]]] = []
    going = False
    for line in block.text.splitlines():
        if going:
            found[-1] = (f"{found[-1][0]}\n{line}", [])
            going = going_on(found[-1][0])
        elif line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
            going = going_on(found[-1][0])
        elif line.strip():
            assert found, f"{block.page}:{block.line}: output before a command"
            found[-1][1].append(line)
    return found


def going_on(text: str) -> bool:
    """Whether a shell would read another line."""
    if text.endswith("\\"):
        return True
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return True
    return False


def test_every_block_is_of_a_tested_language():
    for block in BLOCKS:
        assert block.language in LANGUAGES, f"{block.page}:{block.line}: {block.language or 'no language'}"


RUN = [
    pytest.param(block, id=f"{block.page.relative_to(PROJECT)}:{block.line}")
    for block in BLOCKS
    if block.language == "console" and not {"engine", "cloud", "copy"} & set(block.marks)
]


@pytest.mark.parametrize("block", RUN)
def test_commands_do_what_the_page_shows(block, capsys, monkeypatch):
    if (tool := block.mark("tools")) and tools.path(tool) is None:
        pytest.skip(f"{tool} is not installed")
    samples = real.directory() if block.mark("evidence") is not None else PROJECT
    if samples is None:
        pytest.skip("no real evidence here: set JEWELHOUSE_EVIDENCE to a directory with its MANIFEST.json")
    monkeypatch.chdir(PROJECT)
    monkeypatch.setenv("COLUMNS", "140")
    for words, shown in commands(block):
        assert words[0] == "jewelhouse", f"{words[0]} needs a mark: engine or cloud"
        with pytest.raises(SystemExit) as stopped:
            main([word.replace("$EVIDENCE", str(samples)) for word in words[1:]])
        printed, complaint = capsys.readouterr()
        code = stopped.value.code if isinstance(stopped.value.code, int) else 0
        assert code == int(block.mark("exit") or 0), printed + complaint
        rest = printed + complaint
        shown_in_order(" ".join(words), rest, shown)


def shown_in_order(words: str, printed: str, shown: list[str]) -> None:
    rest = printed
    for line in shown:
        for piece in filter(None, (part.strip() for part in re.split("…", line))):
            assert piece in rest, f"{words} does not print {piece!r}:\n{printed}"
            rest = rest.partition(piece)[2]


ROUNDS = sorted({block.page for block in BLOCKS if block.mark("copy") is not None})


@pytest.mark.parametrize("page", ROUNDS, ids=lambda page: str(page.relative_to(PROJECT)))
def test_a_round_goes_as_the_page_shows(page, tmp_path):
    """Blocks marked `copy` change files: they run one after the other in a repository of their own."""
    if tools.path("mmdebstrap") is None:
        pytest.skip("mmdebstrap is not installed")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (PROJECT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, tmp_path / name)
    cache = tmp_path / ".jewelhouse" / "images"
    cache.mkdir(parents=True)
    for kept in (PROJECT / ".jewelhouse" / "images").glob("*-*"):
        (cache / kept.name).symlink_to(kept)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS": "140",
        **{
            f"GIT_{who}_{what}": "a@example.com"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        },
    }
    for words in ("init --quiet", "add --all", "commit --quiet --message start"):
        subprocess.run(["git", *words.split()], cwd=tmp_path, env=environment, check=True)
    for block in (one for one in blocks(page) if one.mark("copy") is not None):
        for text, shown in spoken(block):
            done = subprocess.run(
                ["bash", "-c", text], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            printed = done.stdout + done.stderr
            shown_in_order(text, printed, shown)
        assert done.returncode == int(block.mark("exit") or 0), printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_a_test_that_a_page_calls_a_proof_is_there(page):
    for path, name in re.findall(r"\b(tests/[\w/]+\.py)::(\w+)", page.read_text(encoding="utf-8")):
        assert f"\ndef {name}(" in (PROJECT / path).read_text(encoding="utf-8"), (
            f"{page.name}: {path}::{name}"
        )


@pytest.mark.parametrize("block", of("yaml", marked="recipe"))
def test_a_recipe_on_a_page_is_one(block, tmp_path):
    (tmp_path / "recipe.yaml").write_text(block.text)
    assert recipe.load(tmp_path).settings.targets


@pytest.mark.parametrize("block", of("console"))
def test_commands_and_options_exist(block):
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    for words, _ in commands(block):
        if words[0] == "jewelhouse":
            known(words[1:])
        elif words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, words
        elif words[0] == "pulumi" and "--stack" in words:
            stack = words[words.index("--stack") + 1]
            assert (PROJECT / f"stacks/Pulumi.{stack}.yaml").is_file(), stack


def known(words: list[str]) -> None:
    """Fails for a command, argument or option that `jewelhouse` does not have."""
    command: Any = typer.main.get_command(app)
    context = typer.Context(command, info_name="jewelhouse")
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, list(words))
        assert command is not None, name
        context = typer.Context(command, info_name=name, parent=context, **command.context_settings)
    command.parse_args(context, list(words))


@pytest.mark.parametrize("block", of("console"))
def test_commands_are_shell(block):
    text = "".join(
        line.removeprefix("$ ") if line.startswith("$ ") else line for line in command_lines(block)
    )
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def command_lines(block: Block) -> list[str]:
    """Lines of the commands themselves, without what they print."""
    lines: list[str] = []
    going = ""
    for line in block.text.splitlines(keepends=True):
        if line.startswith("$ ") or going:
            lines.append(line)
            going = going + line if going else line.removeprefix("$ ")
            if not going_on(going.rstrip("\n")):
                going = ""
    return lines


def programs() -> list[Any]:
    """Python blocks; those of a page that share a `program=` are one, from top to bottom."""
    grouped: dict[tuple[Path, str], list[Block]] = {}
    for block in BLOCKS:
        if block.language == "python" and block.mark("run") is None:
            name = block.mark("program") or str(block.line)
            grouped.setdefault((block.page, name), []).append(block)
    return [
        pytest.param(found, id=f"{page.relative_to(PROJECT)}:{name}")
        for (page, name), found in grouped.items()
    ]


@pytest.mark.parametrize("parts", programs())
def test_python_is_a_program_with_the_resources_it_promises(parts):
    names = [name for block in parts if (name := block.mark("inventory"))]
    assert names, f"{parts[0].page}:{parts[0].line}: no block names its inventory"
    scope = {"__name__": "__main__"}

    def program() -> None:
        for block in parts:
            exec(compile(block.text, f"{block.page.name}:{block.line}", "exec"), scope)

    recording = record(program, outputs=outputs, call=answer)
    for name in names:
        inventory.check(recording, PROJECT / "tests/docs" / name)


@pytest.mark.parametrize("block", of("python", marked="run"))
def test_python_runs_by_itself(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, f"{block.page.name}:{block.line}", "exec"), {"__name__": "__main__"})


def test_every_inventory_of_the_pages_is_used():
    named = {name for block in BLOCKS if (name := block.mark("inventory"))}
    assert named == {path.name for path in (PROJECT / "tests/docs").glob("*.yaml")}


@pytest.mark.parametrize("block", of("yaml", marked="lifecycle"))
def test_a_stack_file_on_a_page_is_accepted(block):
    assert parse(yaml.safe_load(block.text)["config"]["jewelhouse:lifecycle"], lock()).stages


@pytest.mark.parametrize("block", [*of("yaml"), *of("json"), *of("toml")])
def test_data_parses(block):
    {"yaml": yaml.safe_load, "json": json.loads, "toml": tomllib.loads}[block.language](block.text)


def anchors(page: Path) -> set[str]:
    """Anchors of a page as GitHub makes them."""
    found: set[str] = set()
    for line in re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL).splitlines():
        if match := re.match(r"#+ (.*)", line):
            words = re.sub(r"[^\w\- ]", "", match[1].strip().lower())
            found.add(words.replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)|<img[^>]*src=\"([^\"]+)\"", text):
        link = target[0] or target[1]
        if link.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {link}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{page.name}: {link}"


def test_generated_parts_are_current():
    stale = [str(path.relative_to(PROJECT)) for path in generate_docs.outdated()]
    assert not stale, f"run `make docs`: {', '.join(stale)}"


def test_every_generated_section_stands_on_a_page():
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in generate_docs.sections():
        assert f"<!-- generated: {name} -->" in text, name


def test_every_page_can_be_reached_from_the_readme():
    seen: set[Path] = set()
    waiting = [PROJECT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen:
            continue
        seen.add(page)
        for link in re.findall(r"\]\(([^)#\s]+\.md)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if not link.startswith("https://"):
                waiting.append((page.parent / link).resolve())
    assert {page for page in PAGES if "ISSUE" not in str(page)} <= seen


def test_files_that_contributors_are_sent_to_exist():
    text = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:components|tests|policies|tools|docs)/[^`]*)`", text)
    assert len(named) > 10
    for path in named:
        for cloud in ("aws", "azure", "gcp"):
            pattern = path.replace("<cloud>", cloud).replace("<role>", "key").rstrip("/")
            assert (PROJECT / pattern).exists(), path


def test_traps_are_dated_and_the_newest_stand_first():
    for table in (PROJECT / "docs/traps.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| 2")]
        assert rows
        # Escaped bars belong to a cell, not to the table.
        assert all(len("|".join(row).replace("\\|", "").split("|")) == 5 for row in rows)
        dates = [row[0].strip() for row in rows]
        assert all(re.fullmatch(r"20\d\d-[01]\d", date) for date in dates)
        assert dates == sorted(dates, reverse=True)
        assert all(cell.strip() for row in rows for cell in row)


def test_no_line_of_a_page_is_cut_by_its_reader():
    """Prose is wrapped, so that a diff shows what changed; tables and links are as long as they are."""
    found = []
    for page in PAGES:
        inside = False
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
            inside ^= line.lstrip().startswith("```")
            if not inside and not line.startswith(("|", "<", "[", "#")) and len(line) > 120:
                found.append(f"{page.name}:{number}")
    assert not found
