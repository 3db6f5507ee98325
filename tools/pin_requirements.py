"""Pins Python requirements of images: every package with all it needs, by version and digest.

    .venv/bin/python tools/pin_requirements.py REQUIREMENTS.in [--suite trixie] [--architecture x86_64]

writes REQUIREMENTS.txt beside it, for the image's Python and not for the one that runs this.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from jewelhouse.images import wheels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--suite", default="trixie", choices=sorted(wheels.PYTHONS))
    parser.add_argument("--architecture", default="x86_64", choices=sorted(wheels.TAGS))
    given = parser.parse_args()
    for file in given.files:
        lines = pinned(file, given.suite, given.architecture)
        target = file.with_suffix(".txt")
        target.write_text(
            f"# Written by tools/pin_requirements.py from {file.name} for Debian {given.suite}.\n"
            + "".join(f"{line}\n" for line in lines),
            encoding="utf-8",
        )
        print(f"{target}: {len(lines)} packages")


def pinned(file: Path, suite: str, architecture: str) -> list[str]:
    """`name==version --hash=sha256:…` lines, sorted."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--dry-run",
        ]
        command += ["--ignore-installed", "--target", directory, "--report", str(report)]
        done = subprocess.run([*command, *wheels.platform(suite, architecture), "-r", str(file)])
        if done.returncode:
            sys.exit(f"{file}: pip cannot resolve it for {suite}")
        found = json.loads(report.read_text(encoding="utf-8"))
    lines = []
    for one in found["install"]:
        digest = one["download_info"]["archive_info"]["hashes"]["sha256"]
        name = one["metadata"]["name"].lower().replace("_", "-")
        lines.append(f"{name}=={one['metadata']['version']} --hash=sha256:{digest}")
    return sorted(lines)


if __name__ == "__main__":
    main()
