"""Compares the plans of a pull request with those of the branch that it goes to, for CI (docs/ci.md).

`python tools/release_diff.py PLANS RESULT` runs in a checkout of that branch. PLANS is a directory of what
`pulumi preview --save-plan` wrote under the pull request's own code, a file for each stack; it is only read.
MERGED in the environment is the pull request as a commit. RESULT is written for tools/release_comment.py.
Exits 1 when a stack becomes weaker or more open, or when that cannot be decided, unless the pull request
carries the label.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
LABEL = "release-widening-agreed"
# A label that was set before the last push agreed to something else. On these events alone it is fresh.
FRESH = ("labeled", "unlabeled")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,60}")

Jewelhouse = Callable[..., "subprocess.CompletedProcess[str]"]


def jewelhouse(*words: str) -> subprocess.CompletedProcess[str]:
    """The command line of the branch that the pull request goes to."""
    command = [str(Path(sys.executable).with_name("jewelhouse")), *words]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)


def stacks(directory: Path, *, plans: bool = False) -> set[str]:
    """Names of the stacks in a directory of stack files, or of plans. Raises SystemExit for odd ones."""
    pattern = "*.json" if plans else "Pulumi.*.yaml"
    found = {path.name.removeprefix("Pulumi.").rpartition(".")[0] for path in directory.glob(pattern)}
    if strange := sorted(name for name in found if not NAME.fullmatch(name)):
        sys.exit(f"these are no names of stacks: {strange}")
    return found


def compare(stack: str, plans: Path, temporary: Path, run: Jewelhouse) -> dict[str, Any]:
    """The difference of one stack as JSON, or `error` with the reason why there is none."""
    after = plans / f"{stack}.json"
    sources: list[str] = []
    if (PROJECT / "stacks" / f"Pulumi.{stack}.yaml").is_file():
        before = temporary / f"{stack}.json"
        done = run("sandbox", "preview", "--stack", stack, "--", "--save-plan", str(before))
        if done.returncode or not before.is_file():
            return {"error": f"the branch itself cannot be planned: {(done.stdout + done.stderr)[-500:]}"}
        sources.append(str(before))
    else:
        sources.append("HEAD")
    # Without a plan the stack is gone, or says so in its files.
    sources.append(str(after) if after.is_file() else os.environ["MERGED"])
    done = run("release", "diff", *sources, "--stack", stack, "--json")
    try:
        found = json.loads(done.stdout)
    except ValueError:
        return {"error": (done.stderr or done.stdout).strip()[-500:] or f"exit {done.returncode}"}
    # Names of temporary files say nothing to a reviewer.
    found |= {"before": "the branch", "after": "the pull request"}
    return found


def refused(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Stacks that need somebody's agreement: whatever is not known to be harmless does."""
    return sorted(name for name, one in found.items() if one.get("verdict") not in ("equal", "not wider"))


def agreed(environment: Mapping[str, str]) -> bool:
    return environment.get("AGREED") == "true" and environment.get("ACTION") in FRESH


def compared(names: Iterable[str], plans: Path, run: Jewelhouse = jewelhouse) -> dict[str, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as temporary:
        return {name: compare(name, plans, Path(temporary), run) for name in sorted(names)}


def main(plans: Path, result: Path) -> None:
    names = stacks(PROJECT / "stacks") | stacks(plans, plans=True)
    found = compared(names, plans)
    result.write_text(json.dumps({"stacks": found}), encoding="utf-8")
    for name, one in found.items():
        print(f"{name}: {one.get('verdict', 'cannot be compared')}")
        for line in (one.get("error"), *(change["what"] for change in one.get("changes", ()))):
            if line:
                print(f"  {line!a}")
    wider = refused(found)
    if wider and not agreed(os.environ):
        sys.exit(
            f"weaker, more open, or not to be decided: {', '.join(wider)}.\n"
            f"Somebody who answers for the keys sets the label {LABEL} after reading the diff; "
            "a further push takes it off."
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())
