"""Independent implementations that tests compare with. A test skips, by name, where one is not there."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from samples import PROJECT

BUILT = PROJECT / "tools" / "eif-oracle" / "target" / "release" / "eif-oracle"


def eif_oracle() -> Path:
    """AWS's own enclave image builder and reader (`make oracle`)."""
    named = os.environ.get("JEWELHOUSE_EIF_ORACLE")
    path = Path(named) if named else BUILT
    if not path.is_file():
        pytest.skip("AWS's enclave image builder is not built: run `make oracle` (needs cargo)")
    return path


def eif(*arguments: str | Path) -> dict[str, str]:
    """Registers as AWS's code computes them; raises CalledProcessError when it refuses the file."""
    done = subprocess.run(
        [eif_oracle(), *map(str, arguments)], check=True, capture_output=True, text=True, timeout=120
    )
    return json.loads(done.stdout)


ENFORCER = PROJECT / ".jewelhouse" / "built" / "policy-oracle"


def enforced(policy: str, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What hcsshim's own enforcer, which guards a confidential container group, answers to each step of a
    container's life under `policy`; `Refused` is None for what it allows."""
    named = os.environ.get("JEWELHOUSE_POLICY_ORACLE")
    path = Path(named) if named else ENFORCER
    if not path.is_file():
        pytest.skip("hcsshim's policy enforcer is not built: run `make oracle` (needs Go)")
    done = subprocess.run(
        [path],
        input=json.dumps({"policy": policy, "steps": steps}),
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return json.loads(done.stdout)


IAM = PROJECT / "tools" / "iam-oracle"


def iam(simulations: list[dict[str, Any]]) -> list[Any]:
    """Decisions of @cloud-copilot/iam-simulate, an evaluator of IAM by other hands. Its licence (AGPL) keeps
    it out of everything that is shipped: it is fetched, by its locked digest, where tests run."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("the independent IAM evaluator needs Node 20 with npm")
    there = PROJECT / ".jewelhouse" / "cache" / "iam-oracle"
    wanted = (IAM / "package-lock.json").read_bytes()
    with _alone(there.with_suffix(".lock")):
        mark = there / "installed"
        if not mark.is_file() or mark.read_bytes() != wanted:
            shutil.rmtree(there, ignore_errors=True)
            there.mkdir(parents=True)
            for name in ("package.json", "package-lock.json", "main.mjs"):
                shutil.copy(IAM / name, there)
            done = subprocess.run(
                [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=there,
                capture_output=True,
                text=True,
                timeout=300,
            )
            if done.returncode and not os.environ.get("CI"):
                pytest.skip(f"the independent IAM evaluator could not be fetched: {done.stderr[-300:]}")
            assert not done.returncode, done.stderr
            mark.write_bytes(wanted)
    done = subprocess.run(
        [node, "main.mjs"],
        cwd=there,
        input=json.dumps(simulations),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return json.loads(done.stdout)


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One test process at a time."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
