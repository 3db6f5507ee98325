"""A small recipe and what was assembled of it, for the tests of what lies beside an image."""

from __future__ import annotations

from pathlib import Path

from jewelhouse.images import recipe as recipes
from jewelhouse.images.assemble import Assembled
from jewelhouse.images.recipe import Recipe
from jewelhouse.images.rootfs import Package
from jewelhouse.images.tree import Entry, Kind, tree
from jewelhouse.images.wheels import Wheel

RECIPE = """\
name: server
description: Answers.
epoch: 2026-11-01T00:00:00Z
packages: [python3]
run: [/usr/bin/python3, /opt/run.py]
targets: {aws-enclave: {}}
"""
FILE = "usr/lib/jewelhouse/run.py"


def recipe(folder: Path) -> Recipe:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    return recipes.load(folder)


def assembled(content: bytes = b"print()", libc: str = "b" * 64) -> Assembled:
    return Assembled(
        layers=(
            tree([Entry(path="etc/base", kind=Kind.FILE, mode=0o644, content=b"of a package")]),
            tree([Entry(path=FILE, kind=Kind.FILE, mode=0o644, content=content)]),
        ),
        packages=(
            Package(name="libc6", version="2.41-12+deb13u1", architecture="amd64", sha256=libc),
            Package(name="libstdc++6", version="2:14.2.0-19~x", architecture="amd64", sha256="c" * 64),
            Package(name="ca-certificates", version="20250419", architecture="all", sha256="d" * 64),
        ),
        wheels=(Wheel(name="numpy", version="2.4.6", sha256="e" * 64),),
    )


KERNEL = {"linux-image-6.12": f"6.12.95-1 sha256:{'f' * 64}", "image": f"sha256:{'a' * 64}"}
