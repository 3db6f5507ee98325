"""`jewelhouse image measure`: the registers of an enclave image, or why it is none."""

from __future__ import annotations

import json

import pytest

from jewelhouse.images.eif_build import Parts, build


@pytest.fixture
def image(tmp_path):
    for name in ("kernel", "boot", "workload"):
        (tmp_path / name).write_bytes(name.encode())
    parts = Parts(
        kernel=tmp_path / "kernel",
        cmdline="console=ttyS0",
        ramdisks=[tmp_path / "boot", tmp_path / "workload"],
        metadata={},
    )
    return tmp_path / "image.eif", build(parts, tmp_path / "image.eif")


def test_machines_get_the_registers_alone(run, image):
    path, registers = image
    code, printed, _ = run("image", "measure", path, "--json")
    assert (code, json.loads(printed)) == (0, registers)
    assert set(registers) == {"PCR0", "PCR1", "PCR2"}


def test_people_see_what_is_inside(run, image):
    path, registers = image
    code, text, _ = run("image", "measure", path)
    assert code == 0
    assert "enclave image for x86_64" in text
    assert f"PCR0 {registers['PCR0']}" in text
    assert "not signed" in text


def test_a_malformed_image_exits_with_2_and_names_the_offset(run, image):
    path, _ = image
    path.write_bytes(path.read_bytes() + b"\0")
    code, _, complaint = run("image", "measure", path)
    assert code == 2
    assert "offset" in complaint
    assert "after its last section" in complaint


def test_a_missing_file_exits_with_2(run, tmp_path):
    code, _, complaint = run("image", "measure", tmp_path / "nothing")
    assert (code, "cannot be read" in complaint) == (2, True)
