"""Files appear whole or not at all, whatever happens, and memory does not grow with them."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from jewelhouse.errors import JewelhouseError
from jewelhouse.weights import appearing, shards, stream
from jewelhouse.weights.stream import SEGMENT, SHARD, Tampered

KEY = bytes(32)
BOUND = b"bound"
MARK = b"plaintext that must not stay"


@pytest.fixture(params=["nameless", "named"])
def file_system(request, monkeypatch):
    """A file system with nameless files, and one without."""
    if request.param == "nameless":
        return
    opening = os.open

    def without(path, flags, *rest, **named):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return opening(path, flags, *rest, **named)

    monkeypatch.setattr(appearing.os, "open", without)


def sealed(tmp_path, data: bytes):
    source, target = tmp_path / "source", tmp_path / "sealed"
    source.write_bytes(data)
    stream.encrypt_file(source, target, KEY, BOUND)
    return source, target


@pytest.mark.usefixtures("file_system")
class TestAppearing:
    def test_the_file_of_before_stays_until_the_new_one_is_whole(self, tmp_path):
        _, target = sealed(tmp_path, MARK)
        opened = tmp_path / "opened"
        opened.write_bytes(b"before")
        seen = []
        stream.decrypt_file(
            target, opened, KEY, BOUND, progress=lambda done: seen.append(opened.read_bytes())
        )
        assert seen == [b"before"]
        assert opened.read_bytes() == MARK
        assert sorted(path.name for path in tmp_path.iterdir()) == ["opened", "sealed", "source"]

    def test_a_failure_at_any_moment_leaves_what_was_there(self, tmp_path):
        source, target = sealed(tmp_path, MARK * (3 * SEGMENT // len(MARK)))
        opened = tmp_path / "opened"
        opened.write_bytes(b"before")
        for last in range(3):
            calls = []

            def fail(done, calls=calls, last=last):
                calls.append(done)
                if len(calls) > last:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            for work, begin in ((stream.decrypt_file, target), (stream.encrypt_file, source)):
                calls.clear()
                with pytest.raises(OSError, match="No space"):
                    work(begin, opened, KEY, BOUND, progress=fail)
                assert opened.read_bytes() == b"before"
                assert sorted(path.name for path in tmp_path.iterdir()) == ["opened", "sealed", "source"]

    @pytest.mark.parametrize("step", ["ftruncate", "pwrite"])
    def test_a_full_disk_leaves_nothing(self, step, tmp_path, monkeypatch):
        _, target = sealed(tmp_path, MARK)

        def full(*arguments):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(appearing.os, step, full)
        with pytest.raises(OSError, match="No space"):
            stream.decrypt_file(target, tmp_path / "opened", KEY, BOUND)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["sealed", "source"]

    def test_writes_and_reads_that_come_in_parts(self, tmp_path, monkeypatch):
        write, read = os.pwrite, os.preadv
        source = tmp_path / "source"
        source.write_bytes(os.urandom(2 * SEGMENT + 5))
        with monkeypatch.context() as parts:
            parts.setattr(appearing.os, "pwrite", lambda file, data, at: write(file, data[:300_001], at))
            parts.setattr(appearing.os, "preadv", lambda file, data, at: read(file, [data[0][:300_001]], at))
            stream.encrypt_file(source, tmp_path / "sealed", KEY, BOUND)
            stream.decrypt_file(tmp_path / "sealed", tmp_path / "opened", KEY, BOUND)
        assert (tmp_path / "opened").read_bytes() == source.read_bytes()

    def test_who_else_may_read(self, tmp_path):
        _, target = sealed(tmp_path, MARK)
        stream.decrypt_file(target, tmp_path / "opened", KEY, BOUND)
        assert (tmp_path / "opened").stat().st_mode & 0o777 == 0o600

    def test_the_longest_name_a_file_can_have(self, tmp_path):
        source, _ = sealed(tmp_path, MARK)
        stream.encrypt_file(source, tmp_path / ("n" * 255), KEY, BOUND)
        stream.encrypt_file(source, tmp_path / ("n" * 255), KEY, BOUND)
        assert stream.decrypt((tmp_path / ("n" * 255)).read_bytes(), KEY, BOUND) == MARK

    def test_a_destination_that_is_a_link_is_replaced_and_not_followed(self, tmp_path):
        source, _ = sealed(tmp_path, MARK)
        precious = tmp_path / "precious"
        precious.write_bytes(b"precious")
        (tmp_path / "link").symlink_to(precious)
        stream.encrypt_file(source, tmp_path / "link", KEY, BOUND)
        assert precious.read_bytes() == b"precious"
        assert not (tmp_path / "link").is_symlink()

    def test_a_destination_that_is_a_directory_stays(self, tmp_path):
        source, _ = sealed(tmp_path, MARK)
        (tmp_path / "directory").mkdir()
        with pytest.raises(IsADirectoryError):
            stream.encrypt_file(source, tmp_path / "directory", KEY, BOUND)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "sealed", "source"]

    def test_a_file_can_be_sealed_in_its_own_place(self, tmp_path):
        source, _ = sealed(tmp_path, MARK)
        stream.encrypt_file(source, source, KEY, BOUND)
        assert stream.decrypt(source.read_bytes(), KEY, BOUND) == MARK


def test_a_source_that_is_a_link_is_not_followed(tmp_path):
    source, _ = sealed(tmp_path, MARK)
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(OSError, match="symbolic links"):
        stream.encrypt_file(tmp_path / "link", tmp_path / "out", KEY, BOUND)


@pytest.mark.parametrize("work", [stream.encrypt_file, stream.decrypt_file])
def test_a_source_that_becomes_shorter_leaves_nothing(work, tmp_path):
    source, target = sealed(tmp_path, bytes(3 * SEGMENT))
    begin = source if work is stream.encrypt_file else target
    with pytest.raises(JewelhouseError, match="became shorter") as refused:
        work(begin, tmp_path / "out", KEY, BOUND, jobs=1, progress=lambda done: os.truncate(begin, SEGMENT))
    assert refused.value.where == str(begin)
    assert not (tmp_path / "out").exists()


def test_a_process_killed_in_the_middle_leaves_no_plaintext(tmp_path):
    """The chaos that no handler sees: what had been opened has no name, and goes with the process."""
    source, target = sealed(tmp_path, MARK * (4 * SEGMENT // len(MARK)))
    source.unlink()
    program = (
        "import sys, time; from jewelhouse.weights import stream\n"
        "def wait(done): print('opened', flush=True); time.sleep(60)\n"
        "stream.decrypt_file(sys.argv[1], sys.argv[2], bytes(32), b'bound', progress=wait)"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", program, target, tmp_path / "opened"], stdout=subprocess.PIPE
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"opened\n"
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert [path.name for path in tmp_path.iterdir()] == ["sealed"]


def test_two_that_write_the_same_file_do_not_mix(tmp_path):
    """Each writes a file of its own: the one that is done last stays, whole."""
    source, _ = sealed(tmp_path, bytes(8 * SEGMENT))
    program = (
        "import sys; from jewelhouse.weights import stream\n"
        "for _ in range(5): stream.encrypt_file(sys.argv[1], sys.argv[2], bytes(32), b'bound')"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, source, tmp_path / "out"]) for _ in range(2)]
    while any(one.poll() is None for one in running):
        if (tmp_path / "out").exists():
            stream.decrypt((tmp_path / "out").read_bytes(), KEY, BOUND)
        time.sleep(0.01)
    assert [one.returncode for one in running] == [0, 0]
    assert stream.decrypt((tmp_path / "out").read_bytes(), KEY, BOUND) == bytes(8 * SEGMENT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "sealed", "source"]


def test_one_changed_shard_ends_the_work_of_the_others(tmp_path):
    data = bytearray(stream.ciphertext_size(3 * SHARD))
    stream.encrypt_into(bytes(3 * SHARD), data, KEY, BOUND)
    data[5] ^= 1
    (tmp_path / "sealed").write_bytes(data)
    done: list[int] = []
    with pytest.raises(Tampered):
        stream.decrypt_file(tmp_path / "sealed", tmp_path / "out", KEY, BOUND, jobs=2, progress=done.append)
    assert sum(done) < SHARD
    assert [path.name for path in tmp_path.iterdir()] == ["sealed"]


@pytest.mark.parametrize("jobs", [None, 1, 2, 1000])
def test_threads_are_bounded_by_jobs_shards_and_memory(jobs, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MOST_JOBS", 3)
    made: list[int] = []
    pool = shards.ThreadPoolExecutor

    def counted(workers, **named):
        made.append(workers)
        return pool(workers, **named)

    monkeypatch.setattr(shards, "ThreadPoolExecutor", counted)
    monkeypatch.setattr(shards.os, "sched_getaffinity", lambda process: set(range(64)))
    found = shards.digests(5 * SHARD, lambda index, digest: digest.update(bytes([index])), jobs)
    assert len(set(found)) == 5
    assert made == {None: [3], 1: [], 2: [2], 1000: [3]}[jobs]


def test_memory_does_not_grow_with_the_file(tmp_path):
    """96 MB for interpreter, libraries and buffers; the sparse file has eight times that."""
    with (tmp_path / "source").open("wb") as file:
        file.truncate(768 * SEGMENT)
    program = (
        "import re, sys; from jewelhouse.weights import stream\n"
        "stream.encrypt_file(sys.argv[1], sys.argv[2], bytes(32), b'')\n"
        "stream.decrypt_file(sys.argv[2], sys.argv[1], bytes(32), b'')\n"
        "print(re.search('VmHWM: *([0-9]+)', open('/proc/self/status').read().replace(chr(9), ' '))[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "source", tmp_path / "sealed"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) * 1024 <= 96_000_000
