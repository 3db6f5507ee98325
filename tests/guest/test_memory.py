"""What is open goes with the guest, however that ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from jewelhouse.errors import JewelhouseError
from jewelhouse.guest import cleaner, memory

SECRET = b"weights that nobody outside may read"
# A guest that opens, starts a workload which starts another in a session of its own, and waits.
GUEST = """
import os, pathlib, subprocess, sys, time
from jewelhouse.guest import memory
memory._swap = lambda: ""
with memory.workspace(pathlib.Path(sys.argv[1])) as folder:
    (folder / "opened").mkdir()
    (folder / "opened" / "weights").write_bytes(b"weights that nobody outside may read")
    subprocess.run([sys.executable, "-c", sys.argv[2]], env={"JEWELHOUSE_OPENED": f"{folder}/opened"})
"""
WORK = """
import subprocess, sys, time
command = [sys.executable, "-c", "import time; time.sleep(60)"]
subprocess.Popen(command, start_new_session=True, cwd="/")
print("open", flush=True)
time.sleep(60)
"""


@pytest.fixture
def shared():
    if memory.file_system(Path("/dev/shm")) not in memory.MEMORY:
        pytest.skip("/dev/shm is no memory here")
    folder = Path(tempfile.mkdtemp(dir="/dev/shm", prefix="jewelhouse-test-"))
    yield folder
    shutil.rmtree(folder)


def soon(holds, seconds=10):
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.02)
    return holds()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_guest_that_is_killed_leaves_nothing_open_and_nobody_at_work(shared, number):
    # What runs the tests may ignore an interrupt, as jobs in the background do, and this is inherited.
    guest = subprocess.Popen(
        ["env", "--default-signal", sys.executable, "-c", GUEST, str(shared), WORK], stdout=subprocess.PIPE
    )
    assert guest.stdout is not None
    assert guest.stdout.readline() == b"open\n"
    assert len(cleaner.workers(shared)) == 2
    guest.send_signal(number)
    guest.wait(10)
    assert soon(lambda: not list(shared.iterdir()) and not cleaner.workers(shared)), list(shared.rglob("*"))


def test_the_next_run_waits_for_what_ends_the_one_before(shared, monkeypatch):
    """Else the old one's cleaner and the new one's workload would be in each other's way."""
    monkeypatch.setattr(memory, "_swap", lambda: "")
    guest = subprocess.Popen([sys.executable, "-c", GUEST, str(shared), WORK], stdout=subprocess.PIPE)
    assert guest.stdout is not None
    guest.stdout.readline()
    guest.kill()
    with memory.workspace(shared) as folder:
        assert [one.name for one in shared.iterdir()] == [folder.name]
        assert cleaner.workers(shared) == []
        (folder / "weights").write_bytes(SECRET)
    guest.wait(10)
    assert list(shared.iterdir()) == []


def test_where_both_were_killed_the_next_run_removes_what_they_left_before_anything_else(shared):
    (shared / "open-0123456789abcdef" / "opened").mkdir(parents=True)
    (shared / "open-0123456789abcdef" / "opened" / "weights").write_bytes(SECRET)
    (shared / "other").mkdir()
    arguments = ["--workspace", str(shared), "--image", str(shared / "missing.json")]
    ended = subprocess.run(
        [sys.executable, "-m", "jewelhouse.guest", *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert "cannot be read" in ended.stdout
    assert [one.name for one in shared.iterdir()] == ["other"]


def test_a_run_beside_another_is_refused(shared, monkeypatch):
    monkeypatch.setattr(memory, "_swap", lambda: "")
    monkeypatch.setattr(memory, "PATIENCE", 0.2)
    with memory.workspace(shared) as folder:
        (folder / "weights").write_bytes(SECRET)
        with pytest.raises(JewelhouseError, match="another run is at work"):
            memory.clear(shared)
        assert (folder / "weights").read_bytes() == SECRET


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_is_no_folder_of_a_run_is_not_followed(shared, tmp_path, kind):
    (tmp_path / "precious").write_bytes(b"")
    name = shared / "open-0"
    if kind == "link":
        name.symlink_to(tmp_path)
    else:
        name.write_bytes(b"")
    with pytest.raises(JewelhouseError, match="is in the way"):
        memory.clear(shared)
    assert (tmp_path / "precious").exists()


def test_what_cannot_be_removed_ends_the_run(shared, monkeypatch):
    (shared / "open-0").mkdir()

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(JewelhouseError, match="cannot be removed: Permission denied"):
        memory.clear(shared)
    monkeypatch.undo()


def test_folders_on_disk_are_not_touched(tmp_path):
    if memory.file_system(tmp_path) in memory.MEMORY:
        pytest.skip("everything is memory here")
    (tmp_path / "open-0").mkdir()
    memory.clear(tmp_path)
    assert (tmp_path / "open-0").exists()
    memory.clear(tmp_path / "absent")


def test_the_cleaner_ends_none_but_those_that_were_told_of_the_folder(shared):
    beside = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env={"JEWELHOUSE_OPENED": f"{shared}-beside/opened"},
        cwd="/",
    )
    try:
        assert cleaner.workers(shared) == []
        assert os.getpid() not in cleaner.workers(Path("/"))
    finally:
        beside.kill()
        beside.wait()
