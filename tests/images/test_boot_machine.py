"""From a recipe to a machine: the disk that `image build` writes boots, has the registers that the build
states, reaches its network and runs the workload as the kit's own first process starts it."""

from __future__ import annotations

import json
import re

import booting
import pytest

from jewelhouse.images import build, machine, recipe
from jewelhouse.model import Platform

RECIPE = """
name: sample
packages: [python3]
guest: false
files:
  /usr/lib/workload.py:
    template: workload.py.j2
environment: {WORD: swordfish}
run: [/usr/bin/python3, -IB, /usr/lib/workload.py]
# What the emulated machine has for a network card.
kernel: {modules: [virtio_net]}
targets:
  aws-nitrotpm: {}
"""
WORKLOAD = """
import os, pathlib
print("WORKLOAD on {{ platform }} with", os.environ["WORD"], flush=True)
print("ADDRESS", "10.0.2.15" in pathlib.Path("/proc/net/fib_trie").read_text(), flush=True)
"""


@pytest.fixture(scope="module")
def made(packages, image_cache, tmp_path_factory):
    # Skips, with its reason, where packages are not to be had.
    packages("python3", "busybox-static")
    directory = tmp_path_factory.mktemp("recipe")
    (directory / "recipe.yaml").write_text(RECIPE)
    (directory / "workload.py.j2").write_text(WORKLOAD)
    read = recipe.load(directory)
    return build.build(read, Platform.AWS_NITROTPM, directory / "out", cache=image_cache)


@pytest.fixture(scope="module")
def console(made):
    return booting.uefi(made.path, network="virtio-net-pci", until="reboot: Power down|Kernel panic")


def test_the_machine_reports_the_registers_that_the_build_stated(made, console):
    said = json.loads(re.search(r"^jewelhouse: measurements (.*)$", console, re.MULTILINE)[1])
    stated = json.loads((made.path.parent / "registers.json").read_text())
    for bank, registers in stated.items():
        assert {name: said[f"{bank}:{name}"] for name in registers} == registers
    bank, names = machine.COMPARED[Platform.AWS_NITROTPM]
    assert made.measurements == {name: stated[bank][name] for name in names}


def test_the_workload_runs_and_the_machine_goes_off_after_it(console):
    assert "WORKLOAD on aws-nitrotpm with swordfish" in console
    assert "jewelhouse: the guest ended with 0; switching off" in console
    assert "reboot: Power down" in console


def test_the_network_is_up_before_the_workload(console):
    # The address that the emulated network gives to its first machine.
    assert "ADDRESS True" in console
