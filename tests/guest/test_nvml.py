"""What the guest asks of NVIDIA's driver, through the vendor's own binding: over a library, over a socket."""

from __future__ import annotations

import shutil
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pynvml
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jewelhouse.guest import nvml
from jewelhouse.guest.opening import Closed
from jewelhouse.rehearsal.minting_nvidia import Gpu
from jewelhouse.rehearsal.nvml import NvidiaDriver

NONCE = bytes(range(32))

# A driver's library as NVIDIA's header has it: the layout of structures is the compiler's, not ctypes'.
LIBRARY = r"""
#include <string.h>
typedef struct { unsigned environment, ccFeature, devToolsMode; } State;
typedef struct { unsigned version, environment, ccFeature, devToolsMode, multiGpuMode; } Settings;
typedef struct {
  unsigned cec, size, cecSize; unsigned char nonce[32], report[0x2000], cecReport[0x1000];
} Report;
typedef struct { unsigned size, attestation; unsigned char chain[0x1000], attesting[0x1400]; } Certificate;
static unsigned ready = 1, persistent = 0; static int handle;
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  if (index) return 2; *device = &handle; return 0;
}
int nvmlSystemGetConfComputeState(State *s) {
  s->environment = 2; s->ccFeature = 1; s->devToolsMode = 0; return 0;
}
int nvmlSystemGetConfComputeSettings(Settings *s) {
  if (s->version != (sizeof *s | 1 << 24)) return 25;
  s->environment = 2; s->ccFeature = 1; s->devToolsMode = DEVELOPER; s->multiGpuMode = 2; return 0;
}
int nvmlSystemGetConfComputeGpusReadyState(unsigned *state) { *state = ready; return 0; }
int nvmlSystemSetConfComputeGpusReadyState(unsigned state) { ready = state; return 0; }
int nvmlDeviceGetPersistenceMode(void *device, unsigned *mode) { *mode = persistent; return 0; }
int nvmlDeviceSetPersistenceMode(void *device, unsigned mode) {
  if (device != &handle) return 2; persistent = mode; return 0;
}
int nvmlDeviceGetArchitecture(void *device, unsigned *found) { *found = 10; return 0; }
int nvmlDeviceGetConfComputeGpuAttestationReport(void *device, Report *r) {
  if (device != &handle) return 2;
  memcpy(r->report, "report ", 7); memcpy(r->report + 7, r->nonce, 32); r->size = 39; return 0;
}
int nvmlDeviceGetConfComputeGpuCertificate(void *device, Certificate *c) {
  memcpy(c->chain, "other", 5); c->size = 5; memcpy(c->attesting, "chain", 5); c->attestation = 5; return 0;
}
"""


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Makes the library the one of this machine."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")

    def make(developer: int = 0) -> None:
        source, library = tmp_path / "nvml.c", tmp_path / "libnvidia-ml.so.1"
        source.write_text(LIBRARY.replace("DEVELOPER", str(developer)))
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        monkeypatch.setattr(nvml, "ELSEWHERE", str(library))
        monkeypatch.setattr(pynvml, "nvmlLib", None)
        monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})

    return make


def test_a_library_in_c_is_understood(compiled):
    compiled()
    with nvml.driver() as driver:
        assert driver.count() == 1
        assert driver.state() == nvml.State(confidential=True, developer=False, production=True, multiple=2)
        assert driver.ready()
        driver.set_ready(False)
        assert not driver.ready()
        driver.keep(0)
        found = driver.evidence(0, NONCE)
        with pytest.raises(Closed, match="nvmlDeviceGetHandleByIndex ends with INVALID_ARGUMENT"):
            driver.keep(1)
    assert found == nvml.Evidence(architecture="BLACKWELL", report=b"report " + NONCE, chain=b"chain")


def test_a_mode_for_developers_that_only_the_newer_call_tells_counts(compiled):
    compiled(developer=1)
    with nvml.driver() as driver:
        assert driver.state().developer


def test_a_library_that_is_none_is_named(tmp_path, monkeypatch):
    path = tmp_path / "libnvidia-ml.so.1"
    path.write_bytes(b"no library")
    monkeypatch.setattr(nvml, "ELSEWHERE", str(path))
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    with pytest.raises(Closed, match="cannot be loaded"), nvml.driver():
        pass


def test_a_machine_without_a_driver_is_told_so(monkeypatch):
    monkeypatch.setattr(nvml, "ELSEWHERE", "/nowhere")
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    with pytest.raises(Closed, match="LIBRARY_NOT_FOUND"), nvml.driver():
        pass


@contextmanager
def rehearsed(**how) -> Iterator[nvml.Driver]:
    with (
        tempfile.TemporaryDirectory() as folder,
        NvidiaDriver(Path(folder, "nvml"), [Gpu(name="a"), Gpu(name="b")], **how) as one,
        nvml.driver(str(one.path)) as driver,
    ):
        yield driver


def test_the_same_calls_go_over_a_socket():
    with rehearsed(ready=True) as driver:
        assert (driver.count(), driver.ready()) == (2, True)
        driver.set_ready(False)
        assert not driver.ready()
        first, second = (driver.evidence(index, NONCE) for index in range(2))
        assert first.architecture == "HOPPER"
        assert b"BEGIN CERTIFICATE" in first.chain != second.chain
        assert NONCE in first.report


def test_afterwards_the_binding_is_as_it_was():
    with rehearsed():
        pass
    assert pynvml.nvmlLib is None
    assert pynvml._nvmlGetFunctionPointer_cache == {}


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_nonce_is_32_bytes(size):
    with rehearsed() as driver, pytest.raises(ValueError, match=f"a nonce of {size} bytes"):
        driver.evidence(0, bytes(size))


@pytest.mark.parametrize(
    ("code", "says"),
    [
        pytest.param(
            pynvml.NVML_ERROR_NO_PERMISSION, "NO_PERMISSION\n  the guest must be root", id="no-root"
        ),
        pytest.param(pynvml.NVML_ERROR_NOT_SUPPORTED, "NOT_SUPPORTED\n  the GPU is not", id="no-such-mode"),
        pytest.param(pynvml.NVML_ERROR_GPU_IS_LOST, "GPU_IS_LOST\n  .*a reboot does not", id="lost"),
        pytest.param(12345, "error 12345", id="a-code-of-no-name"),
    ],
)
def test_the_drivers_refusals_are_said(code, says):
    name = "nvmlSystemGetConfComputeGpusReadyState"
    with rehearsed(failing={name: code}) as driver, pytest.raises(Closed, match=f"{name} ends with {says}"):
        driver.ready()


@pytest.mark.parametrize(
    ("size", "stays"), [(0, False), (1, True), (8192, True), (8193, False), (2**32 - 1, False)]
)
def test_a_size_that_its_buffer_has_no_room_for_is_refused(size, stays, monkeypatch):
    with rehearsed() as driver:
        real = pynvml.nvmlDeviceGetConfComputeGpuAttestationReport

        def sized(*arguments):
            found = real(*arguments)
            found.attestationReportSize = size
            return found

        monkeypatch.setattr(pynvml, "nvmlDeviceGetConfComputeGpuAttestationReport", sized)
        if stays:
            assert len(driver.evidence(0, NONCE).report) == size
        else:
            with pytest.raises(Closed, match=f"report of GPU 0: has {size} bytes"):
                driver.evidence(0, NONCE)


def test_an_image_without_the_binding_says_which_recipe_has_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(Closed, match=r"nvidia-ml-py: is not in this image\n.*trust\.gpu"), nvml.driver():
        pass


@contextmanager
def answering(reply: bytes) -> Iterator[str]:
    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            nvml.receive(self.request)
            self.request.sendall(reply)

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "nvml"))
        with socketserver.UnixStreamServer(path, Handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield path
            finally:
                server.shutdown()
                thread.join()


def framed(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


@given(
    st.one_of(
        st.binary(max_size=60),
        st.binary(max_size=60).map(framed),
        st.text(max_size=60).map(
            lambda text: framed(b'{"returned": 0, "arguments": ["' + text.encode("utf-8", "replace") + b'"]}')
        ),
    )
)
@settings(max_examples=40, deadline=None)
def test_whatever_a_socket_answers_is_a_closed_door(reply):
    with answering(reply) as path, pytest.raises(Closed), nvml.driver(path) as driver:
        driver.count()


def test_nobody_at_the_socket(tmp_path):
    with pytest.raises(Closed, match="nvmlInitWithFlags is not answered"), nvml.driver(str(tmp_path / "no")):
        pass
