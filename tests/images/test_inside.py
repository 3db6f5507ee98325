"""What is inside the shipped images works there: guest and workload start with the image's own Python."""

from __future__ import annotations

import os
import subprocess

import pytest
from samples import PROJECT

from jewelhouse.guest import opening
from jewelhouse.images import assemble, recipe, tools
from jewelhouse.images.tree import write_tar
from jewelhouse.model import Platform

SHIPPED = PROJECT / "templates" / "images"
STORES = {"aws": "s3fs", "azure": "adlfs", "gcp": "gcsfs"}
# One recipe a platform: what they have in common is what can be missing.
CASES = {
    platform: name
    for name in ("aggregator", "finetuner", "server", "trainer")
    for platform in recipe.load(SHIPPED / name).settings.targets
}


@pytest.mark.skipif(os.geteuid() != 0, reason="chroot takes root")
@pytest.mark.parametrize(("platform", "name"), sorted(CASES.items()))
def test_everything_that_runs_in_an_image_can_be_imported_there(platform, name, image_cache, tmp_path):
    if tools.path("mmdebstrap") is None:
        pytest.skip("mmdebstrap is not installed")
    files = assemble.assemble(recipe.load(SHIPPED / name), platform, cache=image_cache).whole
    with (tmp_path / "tree.tar").open("wb") as out:
        write_tar(files, out)
    root = tmp_path / "root"
    root.mkdir()
    subprocess.run(["tar", "xf", tmp_path / "tree.tar", "-C", root], check=True)
    wanted = ["numpy", STORES[Platform(platform).cloud], "jewelhouse.guest.run"]
    module = opening.MODULES[Platform(platform)]
    if (root / assemble.KIT / "guest" / f"{module}.py").exists():
        wanted.append(f"jewelhouse.guest.{module}")
    for one in wanted:
        done = subprocess.run(
            ["chroot", root, "/usr/bin/python3", "-c", f"import {one}"], capture_output=True, text=True
        )
        assert done.returncode == 0, f"{one}: {done.stderr.strip().splitlines()[-1]}"
