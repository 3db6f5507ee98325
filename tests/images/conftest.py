"""Root file systems that several tests build images from: made once, kept in the checkout's cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import rootfs

CACHE = Path(__file__).parents[2] / ".jewelhouse" / "images"
SUITE = "trixie"


@pytest.fixture(scope="session")
def image_cache() -> Path:
    """Where finished root file systems are kept between runs, by the digest of their inputs."""
    CACHE.mkdir(parents=True, exist_ok=True)
    return CACHE


@pytest.fixture(scope="session")
def packages(image_cache):
    """`packages("linux-image-cloud-amd64", …)`: a root file system of them, or a skip that says why not."""

    def made(*names: str) -> rootfs.RootFs:
        if shutil.which("mmdebstrap") is None:
            pytest.skip("mmdebstrap is not installed")
        try:
            return rootfs.build(rootfs.Request(suite=SUITE, packages=names), image_cache)
        except JewelhouseError as error:
            if "Failed to fetch" in error.what or "Temporary failure" in error.what:
                pytest.skip(f"no Debian archive can be reached: {error.what[:200]}")
            raise

    return made
