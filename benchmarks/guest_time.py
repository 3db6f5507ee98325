"""The guest's own time in a run of a stage: what is left when everything that has to be is taken away.

A fine-tuning stage is rehearsed with 1 GB of artifacts. Of the time of its guest's process these are taken
away, each measured in the same run or in turn with it:

- a process that starts and loads what the guest does and a client of the key service, and does nothing;
- the time in which the stand-ins of the services work out their answers;
- the workload's process;
- the bare work on the bytes: read and written once (`cp`), decrypted and hashed once (two threads, the
  libraries and nothing else).

What remains, against the whole, is the guest's own: manifests, evidence, protocols, wrapping, sealing, and
whatever it wastes. The starts of the helpers that are measured with (a timer around the workload)
count as the guest's.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.weights_memory import bare
from jewelhouse.rehearsal import data, http, scenes, world
from jewelhouse.rehearsal.services import Wrong
from jewelhouse.sandbox import install
from jewelhouse.sandbox.engine import Engine
from jewelhouse.sandbox.paths import Paths
from jewelhouse.stackfile import path_of, read
from jewelhouse.weights import stream

PROJECT = Path(__file__).parents[1]
STACK, STAGE = "prod-aws", "finetune"
ROUNDS = 5
# Of each of the two files of ballast that a supplied artifact has; the stage opens two artifacts.
BALLAST = 250_000_000
LOADED = """
import boto3, jewelhouse.guest.__main__, jewelhouse.guest.nitro
boto3.client("kms", region_name="eu-central-1", aws_access_key_id="none", aws_secret_access_key="none")
"""
TIMER = """
import pathlib, subprocess, sys, time
began = time.perf_counter()
status = subprocess.call(sys.argv[2:])
pathlib.Path(sys.argv[1]).write_text(str(time.perf_counter() - began))
sys.exit(status)
"""


def measure() -> dict[str, tuple[float, float]]:
    with tempfile.TemporaryDirectory() as temporary, tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        folder = Path(temporary)
        made, size = _supplied(folder)
        stage = made.lifecycle.stages[STAGE]
        world.mandates(made, stage)
        bare_work = _bare(made, size, Path(memory))
        shares = []
        for number in range(ROUNDS):
            timed = folder / f"workload-{number}"

            def trust(value: dict[str, Any], timed: Path = timed) -> dict[str, Any]:
                return {**value, "run": [sys.executable, "-c", TIMER, str(timed), *value["run"]]}

            started = _took(lambda: subprocess.run([sys.executable, "-c", LOADED], check=True))
            with _answering() as answering:
                played = scenes.run(made, stage, Path(memory), Wrong.NOTHING, trust=trust)
            if played.outcome.status or set(played.opened) != set(stage.opens):
                raise SystemExit(f"the stage did not run: {played.outcome.output}")
            whole = played.outcome.seconds
            taken = started + sum(answering) + float(timed.read_text()) + bare_work()
            shares.append(max(0.0, whole - taken) / whole)
    return {"guest/own-time-share": (statistics.median(shares), 0.2)}


def _supplied(folder: Path) -> tuple[world.World, int]:
    """The stack as the sandbox has it, large artifacts sealed to it, and the bytes that its stage opens."""
    lifecycle = read(path_of(STACK, PROJECT))
    engine = Engine(PROJECT, folder / "sandbox", cli=install.prepare(Paths.of(PROJECT)))
    install.install_plugins(engine.cli, engine.paths)
    if not (done := engine.operate("up", STACK)).ok:
        raise SystemExit(done.stderr)
    made = world.build(lifecycle, engine.export(STACK), engine.outputs(STACK), folder / "world")
    with mock.patch.object(data, "BALLAST", BALLAST):
        world.supply(made)
    stage = lifecycle.stages[STAGE]
    opened = [made.store(stage, name) for name in stage.opens]
    return made, sum(path.stat().st_size for store in opened for path in store.rglob("data/*/*"))


def _bare(made: world.World, size: int, memory: Path) -> Callable[[], float]:
    """Takes the time of the bare work on as many bytes."""
    source = memory / "ciphertext"
    key, nonce = AESGCM(os.urandom(32)), bytes(12)
    sealed, opened = bytearray(size + 16 * (size // stream.SEGMENT + 1)), bytearray(size)
    with source.open("wb") as file:
        file.write(sealed)

    def decrypted(offset: int, length: int) -> None:
        start = offset + 16 * (offset // stream.SEGMENT)
        # Encrypting costs what decrypting does, and needs no ciphertext that was made before.
        part = memoryview(opened)[offset : offset + length]
        key.encrypt_into(nonce, part, None, memoryview(sealed)[start : start + length + 16])
        hashlib.sha256(part)

    def work() -> float:
        copied = _took(lambda: shutil.copyfile(source, memory / "plaintext"))
        (memory / "plaintext").unlink()
        return copied + _took(lambda: bare(size, decrypted))

    return work


@contextmanager
def _answering() -> Iterator[list[float]]:
    """The seconds of each answer that a stand-in works out meanwhile."""
    seconds: list[float] = []
    protocol = http._protocol

    def timed(handler: http.Handler) -> Any:
        def answer(asked: http.Asked) -> http.Answer:
            began = time.perf_counter()
            try:
                return handler(asked)
            finally:
                seconds.append(time.perf_counter() - began)

        return protocol(answer)

    with mock.patch.object(http, "_protocol", timed):
        yield seconds


def _took(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    print(measure())
