"""A stand-in for `nitro-tpm-attest`: the same options, the document by a stand-in module at a Unix socket."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from jewelhouse.guest import nsm


def program(directory: Path, module: Path) -> Path:
    """Writes a program that takes the tool's options and asks the module at this socket."""
    path = directory / "nitro-tpm-attest"
    command = shlex.join([sys.executable, "-m", "jewelhouse.rehearsal.tpm", str(module)])
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def main() -> None:
    """aws/NitroTPM-Tools: nitro-tpm-attest/README.md: options name files, the document goes to stdout."""
    parser = argparse.ArgumentParser(prog="nitro-tpm-attest")
    parser.add_argument("module")
    for option in ("--public-key", "--nonce", "--user-data"):
        parser.add_argument(option, type=Path)
    given = parser.parse_args()
    with nsm.module(given.module) as call:
        document = nsm.attestation(
            call,
            public_key=given.public_key and given.public_key.read_bytes(),
            nonce=given.nonce and given.nonce.read_bytes(),
            user_data=given.user_data and given.user_data.read_bytes(),
        )
    sys.stdout.buffer.write(document)


if __name__ == "__main__":
    main()
