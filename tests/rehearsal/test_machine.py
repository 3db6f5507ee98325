"""A stage in its built enclave image on an emulated processor: what works there, and what is refused.

One boot for the right run, one for the image as it is; both take half a minute where nothing else runs.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import aws_deployed
import pytest
from samples import PROJECT, shipped

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import build, eif_build, recipe
from jewelhouse.images.build import RESULT
from jewelhouse.images.tree import Kind
from jewelhouse.model import Measurements, Platform, StageKind
from jewelhouse.rehearsal import machine, play, process, qemu, scenes, services, world
from jewelhouse.rehearsal.machine import BuiltImage
from jewelhouse.rehearsal.process import Guest, Outcome
from jewelhouse.rehearsal.services import Wrong

CACHE = PROJECT / ".jewelhouse" / "images"
RECIPE = recipe.load(PROJECT / "templates" / "images" / "finetuner")
STAGE = "finetune"
# What the workload does before its work: it says what the guest would, and looks for a way out.
LIES = """
import os, socket, subprocess, sys
print("jewelhouse: closed: base: nobody may open it", flush=True)
print("jewelhouse-record: {}", flush=True)
print("jewelhouse: the guest ended with 0; switching off", flush=True)
print("interfaces", [name for _, name in socket.if_nameindex()], flush=True)
for where in (("10.0.2.2", 80), ("1.1.1.1", 443)):
    try:
        socket.create_connection(where, timeout=3)
        print("OUTSIDE", where, flush=True)
    except OSError as error:
        print("no way to", where[0], error.strerror, flush=True)
for port in os.listdir("/sys/class/virtio-ports"):
    try:
        os.open(f"/dev/{port}", os.O_RDWR)
        print("LINE", port, flush=True)
    except OSError as error:
        print("line", error.strerror, flush=True)
os.execv(sys.argv[1], sys.argv[1:])
"""


def locked(lifecycle, registers):
    """The lifecycle with these registers in its lock."""
    name, platform = lifecycle.stages[STAGE].image, Platform.AWS_ENCLAVE
    image = replace(lifecycle.images[name, platform], measurements=(Measurements(values=registers),))
    return replace(lifecycle, images={**lifecycle.images, (name, platform): image})


LIFECYCLE = shipped("prod-aws")


@pytest.fixture(scope="module")
def emulator():
    if shutil.which(qemu.QEMU) is None:
        pytest.skip(f"{qemu.QEMU} is not installed: install qemu-system-x86")


@pytest.fixture(scope="module")
def out(emulator):
    """The folder of images with the shipped one for enclaves in it."""
    if shutil.which("mmdebstrap") is None:
        pytest.skip("mmdebstrap is not installed")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            build.build(RECIPE, Platform.AWS_ENCLAVE, Path(folder), cache=CACHE)
        except JewelhouseError as error:
            if "Failed to fetch" in error.what or "Temporary failure" in error.what:
                pytest.skip(f"no Debian archive can be reached: {error.what[:200]}")
            raise
        yield Path(folder)


@pytest.fixture(scope="module")
def lifecycle(out):
    return locked(LIFECYCLE, build.measured(out, RECIPE, Platform.AWS_ENCLAVE).measurements)


@pytest.fixture(scope="module")
def image(out, lifecycle):
    return machine.image_of(out, lifecycle, lifecycle.stages[STAGE])


@pytest.fixture(scope="module")
def ran(image, lifecycle):
    """The right run, by a workload that lies before it works; the world that it ran in."""
    stage = lifecycle.stages[STAGE]
    with tempfile.TemporaryDirectory() as folder:
        made = world.build(lifecycle, *aws_deployed.deployed(lifecycle, STAGE), Path(folder))
        world.supply(made)
        world.mandates(made, stage)
        with services.services(made, stage, Wrong.NOTHING) as given:
            run = [image.run[0], "-c", LIES, *image.run]
            outcome = machine.start(guest(made, stage, given, run), image, given.evidence)
        yield made, outcome


def guest(made, stage, given, run):
    return Guest(
        folder=made.folder / "guests",
        workspace=Path("/run"),
        platform=stage.platform.value,
        trust=world.trust(made, stage, run),
        stage=given.settings(world.settings(made, stage)),
        endpoints=given.endpoints,
    )


def test_the_built_image_opens_works_and_seals(ran):
    _, outcome = ran
    assert outcome.status == 0
    done = [(one["event"], one.get("artifact")) for one in outcome.record["events"]]
    assert [one for one in done if one[0] in ("opened", "sealed")] == [
        ("opened", "base"),
        ("opened", "cases"),
        ("sealed", "adapter"),
    ]
    assert "fine-tuned on 400 rows" in outcome.output


def test_what_it_sealed_is_in_the_store_and_nothing_that_was_open(ran, lifecycle):
    made, _ = ran
    store = made.store(lifecycle.stages[STAGE], "adapter")
    assert [path for path in store.rglob("*") if path.is_file()]
    assert made.marks
    assert scenes.left(made, made.folder / "guests" / "memory") == []


def test_a_workload_that_lies_on_the_console_is_not_believed(ran):
    _, outcome = ran
    assert "jewelhouse: closed: base: nobody may open it" in outcome.output
    assert outcome.closed == ()
    assert outcome.record["stage"] == STAGE


def test_a_workload_finds_no_way_out_of_the_machine(ran):
    _, outcome = ran
    assert "interfaces ['lo']" in outcome.output
    assert outcome.output.count("Network is unreachable") == 2
    assert "line Device or resource busy" in outcome.output
    assert "OUTSIDE" not in outcome.output
    assert "LINE" not in outcome.output


def test_the_image_as_it_is_opens_nothing_where_there_is_no_enclave_and_says_why(image):
    outcome = machine.alone(image)
    assert outcome.status == 1
    assert outcome.record == {}
    (why,) = outcome.closed
    assert why.startswith("settings of the stage on aws-enclave: cannot be had")
    assert "measurements {}" in outcome.output


def test_the_overlay_changes_settings_and_brings_the_line_and_nothing_else():
    stage = {"region": "eu-central-1", "opens": {}, "seals": {}}
    some = Guest(
        folder=Path(),
        workspace=Path(),
        platform="aws-enclave",
        trust={"opens": {}, "seals": {}, "run": ["/usr/bin/python3"]},
        stage=stage,
        endpoints={},
    )
    files = machine.overlay(some, RECIPE, stage)
    assert {path for path, one in files.items() if one.kind is not Kind.DIRECTORY} == {
        *(f"etc/jewelhouse/{name}.json" for name in ("image", "trust", "stage", "services", "endpoints")),
        "usr/lib/jewelhouse/rehearsal/channel.py",
    }
    image = json.loads(b"".join(files["etc/jewelhouse/image.json"].chunks()))
    assert image["run"][:3] == ["/usr/bin/python3", "-m", "jewelhouse.guest"]


# Images that must not be booted.


@pytest.fixture
def small(tmp_path):
    """A folder with an enclave image that measures as it should, and its registers."""
    target = tmp_path / "out" / RECIPE.name / Platform.AWS_ENCLAVE
    target.mkdir(parents=True)
    for name in ("kernel", "ramdisk"):
        (tmp_path / name).write_bytes(name.encode())
    registers = eif_build.build(
        eif_build.Parts(
            kernel=tmp_path / "kernel",
            cmdline="console=ttyS0",
            ramdisks=[tmp_path / "ramdisk"],
            metadata={},
        ),
        target / "image.eif",
    )
    (target / RESULT).write_text(json.dumps({"path": "image.eif", "size": 1, "inputs": {}}))
    return tmp_path / "out", registers


def of(lifecycle):
    return lifecycle.image(lifecycle.stages[STAGE])


def test_an_image_with_the_locked_measurements_is_found(small):
    out, registers = small
    assert machine.find(out, RECIPE, of(locked(LIFECYCLE, registers))).path.name == "image.eif"


def other_kernel(file):
    data = file.read_bytes()
    parts = file.parent / "kernel", file.parent / "ramdisk"
    for part, content in zip(parts, (b"kernel of somebody", b"ramdisk"), strict=True):
        part.write_bytes(content)
    eif_build.build(
        eif_build.Parts(kernel=parts[0], cmdline="console=ttyS0", ramdisks=[parts[1]], metadata={}), file
    )
    assert file.read_bytes() != data


def flipped(file):
    data = bytearray(file.read_bytes())
    data[600] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        pytest.param(
            other_kernel, r"measures PCR0 .*, PCR1 .* which is not locked", id="image-of-somebody-else"
        ),
        pytest.param(flipped, "is no enclave image", id="changed-after-it-was-built"),
        pytest.param(
            lambda file: file.write_bytes(file.read_bytes()[:-3]), "is no enclave image", id="cut-short"
        ),
        pytest.param(lambda file: file.unlink(), "is no enclave image", id="file-that-is-gone"),
        pytest.param(lambda file: (file.parent / RESULT).unlink(), "holds no image", id="not-built"),
    ],
)
def test_an_image_that_is_not_the_locked_one_is_not_booted(small, harm, says):
    out, registers = small
    harm(out / RECIPE.name / Platform.AWS_ENCLAVE / "image.eif")
    with pytest.raises(JewelhouseError, match=says) as caught:
        machine.find(out, RECIPE, of(locked(LIFECYCLE, registers)))
    assert "jewelhouse image build finetuner" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(
            lambda found: {**found, "PCR2": "0" * 96}, "measures PCR2", id="another-workload-locked"
        ),
        pytest.param(lambda found: {**found, "PCR8": "1" * 96}, "PCR8 None", id="signed-image-locked"),
        pytest.param(lambda found: {}, "is not locked", id="nothing-locked"),
    ],
)
def test_a_lock_that_says_something_else_refuses_the_image(small, change, says):
    out, registers = small
    with pytest.raises(JewelhouseError, match=says):
        machine.find(out, RECIPE, of(locked(LIFECYCLE, change(registers))))


# Machines that do not come up.


def stand_in(folder, script):
    """A program in place of QEMU; it gets the file for the console as $SERIAL."""
    program = folder / "qemu"
    program.write_text(
        '#!/bin/sh\nfor one in "$@"; do case $one in file:*) SERIAL=${one#file:};; esac; done\n'
        f'echo $$ > "{folder}/pid"\n{script}\n'
    )
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        pytest.param(
            'echo "Linux version 6.12" > "$SERIAL"; exec sleep 100',
            r"has not switched itself off after 1 s[\s\S]*Linux version 6\.12",
            id="machine-that-hangs",
        ),
        pytest.param(
            'head -c 20000000 /dev/zero > "$SERIAL"; exec sleep 100',
            "wrote more than 16777216 bytes",
            id="console-without-end",
        ),
        pytest.param(
            "echo no such device >&2; exit 1",
            "ended with 1: no such device",
            id="emulator-that-does-not-start",
        ),
        pytest.param("exit 0", "without a word of its first process", id="machine-that-says-nothing"),
    ],
)
def test_a_machine_that_does_not_come_up_is_an_error_and_gone(small, script, says, tmp_path, monkeypatch):
    out, registers = small
    monkeypatch.setattr(qemu, "QEMU", stand_in(tmp_path, script))
    found = machine.find(out, RECIPE, of(locked(LIFECYCLE, registers)))
    with pytest.raises(JewelhouseError, match=says):
        machine.alone(found, patience=1)
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


def test_without_an_emulator_it_is_named_with_what_installs_it(small, monkeypatch):
    out, registers = small
    monkeypatch.setattr(qemu, "QEMU", "qemu-system-none")
    stage = LIFECYCLE.stages[STAGE]
    with pytest.raises(
        JewelhouseError, match=r"qemu-system-none: is not installed\n  install qemu-system-x86"
    ):
        machine.image_of(out, locked(LIFECYCLE, registers), stage)


def test_a_stage_that_serves_is_not_played_in_a_machine_without_network(small, emulator):
    out, registers = small
    stage = replace(LIFECYCLE.stages[STAGE], kind=StageKind.INFERENCE)
    with pytest.raises(JewelhouseError, match="serves"):
        machine.image_of(out, locked(LIFECYCLE, registers), stage)


def test_an_image_for_another_processor_is_not_played(small, emulator, monkeypatch):
    out, registers = small
    target = RECIPE.settings.targets[Platform.AWS_ENCLAVE].model_copy(update={"architecture": "aarch64"})
    targets = {**RECIPE.settings.targets, Platform.AWS_ENCLAVE: target}
    other = replace(RECIPE, settings=RECIPE.settings.model_copy(update={"targets": targets}))
    monkeypatch.setattr(recipe, "load", lambda _: other)
    with pytest.raises(JewelhouseError, match="is for aarch64"):
        machine.image_of(out, locked(LIFECYCLE, registers), LIFECYCLE.stages[STAGE])


# In the play.


def outcome(*, opened=("base", "cases"), sealed=("adapter",), status=0, closed=()):
    events = [{"event": "opened", "artifact": name} for name in opened]
    events += [{"event": "sealed", "artifact": name} for name in sealed]
    return Outcome(status=status, closed=closed, record={"events": events}, output="", seconds=1.0)


RIGHT = outcome()
SHUT = outcome(opened=(), sealed=(), status=1, closed=("settings of the stage: cannot be had",))


@pytest.fixture
def played(monkeypatch, tmp_path):
    """The play of one stage whose processes do as they should, and whose machine does as it is told."""

    def _played(inside, plain, find=lambda *_: BuiltImage(path=tmp_path, recipe=RECIPE)):
        def told(value):
            def tell(*_):
                if isinstance(value, Exception):
                    raise value
                return value

            return tell

        monkeypatch.setattr(process, "start", lambda *_, **__: RIGHT)
        monkeypatch.setattr(machine, "start", told(inside))
        monkeypatch.setattr(machine, "alone", told(plain))
        monkeypatch.setattr(machine, "image_of", find)
        lines = []
        result = play.rehearse(
            LIFECYCLE,
            *aws_deployed.deployed(LIFECYCLE, STAGE),
            stages=("none of them",),
            machines=tmp_path,
            report=lines.append,
        )
        return result, lines

    return _played


def test_a_stage_is_played_a_second_time_and_the_scene_says_where(played):
    result, lines = played(RIGHT, SHUT)
    assert result.good
    played = [scene for scene in result.scenes if scene.stage == STAGE]
    assert [(str(scene.wrong), scene.note) for scene in played] == [
        ("nothing", "sealed adapter"),
        ("nothing", "in its built image; sealed adapter"),
        ("built image in a machine that is no enclave", ""),
    ]
    assert any("in its built image" in line for line in lines)
    assert result.not_booted == {}


@pytest.mark.parametrize(
    ("inside", "plain"),
    [
        pytest.param(outcome(opened=("base",)), SHUT, id="one-artifact-stays-shut"),
        pytest.param(outcome(sealed=()), SHUT, id="nothing-is-sealed"),
        pytest.param(outcome(status=1), SHUT, id="the-guest-fails"),
        pytest.param(JewelhouseError("has not switched itself off"), SHUT, id="the-machine-hangs"),
        pytest.param(RIGHT, RIGHT, id="the-image-opens-outside-an-enclave"),
        pytest.param(RIGHT, outcome(opened=(), sealed=(), status=1), id="it-stays-shut-without-a-word"),
        pytest.param(RIGHT, JewelhouseError("Kernel panic"), id="the-image-does-not-boot"),
    ],
)
def test_what_goes_wrong_in_the_machine_is_a_surprise(played, inside, plain):
    result, _ = played(inside, plain)
    assert not result.good
    assert len([scene for scene in result.scenes if not scene.expected]) == 1


def test_why_a_stage_is_not_played_in_its_image_is_said_and_is_no_surprise(played):
    def find(*_):
        raise JewelhouseError("holds no image", where="out", remedy="jewelhouse image build finetuner")

    result, lines = played(RIGHT, SHUT, find)
    assert result.good
    assert [scene.stage for scene in result.scenes].count(STAGE) == 1
    assert result.not_booted == {STAGE: "out: holds no image jewelhouse image build finetuner"}
    assert f"{STAGE}, not in its built image: {result.not_booted[STAGE]}" in lines
