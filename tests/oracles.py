"""Independent implementations that tests compare with. A test skips, by name, where one is not there."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

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
