"""A stand-in for NVIDIA's driver and the GPUs behind it: the library's calls, answered over a Unix socket.

Numbers and structures are those of nvidia-ml-py itself; reports are signed under a throw-away root.
"""

from __future__ import annotations

import ctypes
import socket
import socketserver
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pynvml

from jewelhouse.guest.nvml import receive, send
from jewelhouse.rehearsal.minting_nvidia import Gpu

# What a call gives back: the driver's code, and the bytes of what was passed by reference.
Answer = tuple[int, list[bytes | None]]
# The handle of a GPU is a pointer that only the driver understands.
FIRST_HANDLE = 0x1000


class NvidiaDriver:
    """One machine's driver. A context manager; `path` is its socket, `calls` what was asked and how it ended.

    developer, confidential, production, multiple, ready: what it says of the modes. replay: a report that is
    given out instead of a fresh one. failing: codes that functions end with, by their names.
    """

    def __init__(
        self,
        path: Path,
        gpus: Sequence[Gpu],
        *,
        developer: bool = False,
        confidential: bool = True,
        production: bool = True,
        multiple: int = pynvml.NVML_CC_SYSTEM_MULTIGPU_NONE,
        ready: bool = False,
        architecture: int = pynvml.NVML_DEVICE_ARCH_HOPPER,
        replay: bytes | None = None,
        failing: dict[str, int] | None = None,
    ) -> None:
        self.path, self.gpus, self.ready, self.replay = path, list(gpus), ready, replay
        self.developer, self.confidential, self.production = developer, confidential, production
        self.multiple, self.architecture, self.failing = multiple, architecture, failing or {}
        self.calls: list[tuple[str, int]] = []
        self.persistent: set[int] = set()
        self._server = _Server(str(path), _protocol(self.answer))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.path.unlink(missing_ok=True)

    def answer(self, name: str, arguments: list[bytes]) -> Answer:
        """What the library would do for one call."""
        known: dict[str, Callable[[list[bytes]], Answer]] = {
            "nvmlInitWithFlags": lambda _: _done(None),
            "nvmlShutdown": lambda _: _done(),
            "nvmlSystemGetConfComputeState": self._state,
            "nvmlSystemGetConfComputeSettings": self._settings,
            "nvmlSystemGetConfComputeGpusReadyState": lambda _: _done(_number(self.ready)),
            "nvmlSystemSetConfComputeGpusReadyState": self._set_ready,
            "nvmlDeviceGetCount_v2": lambda _: _done(_number(len(self.gpus))),
            "nvmlDeviceGetHandleByIndex_v2": self._handle,
            "nvmlDeviceGetArchitecture": lambda _: _done(None, _number(self.architecture)),
            "nvmlDeviceGetPersistenceMode": self._persistence,
            "nvmlDeviceSetPersistenceMode": self._set_persistence,
            "nvmlDeviceGetConfComputeGpuAttestationReport": self._report,
            "nvmlDeviceGetConfComputeGpuCertificate": self._certificate,
        }
        if name in self.failing:
            found: Answer = (self.failing[name], [None] * len(arguments))
        elif name in known:
            found = known[name](arguments)
        else:
            found = (pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, [None] * len(arguments))
        self.calls.append((name, found[0]))
        return found

    def _state(self, _: list[bytes]) -> Answer:
        return _done(
            bytes(
                pynvml.c_nvmlConfComputeSystemState_t(
                    environment=self._environment,
                    ccFeature=int(self.confidential),
                    devToolsMode=int(self.developer),
                )
            )
        )

    def _settings(self, arguments: list[bytes]) -> Answer:
        found = pynvml.c_nvmlSystemConfComputeSettings_v1_t.from_buffer_copy(arguments[0])
        if found.version != pynvml.nvmlSystemConfComputeSettings_v1:
            return pynvml.NVML_ERROR_INVALID_ARGUMENT, [None]
        found.environment, found.ccFeature = self._environment, int(self.confidential)
        found.devToolsMode, found.multiGpuMode = int(self.developer), self.multiple
        return _done(bytes(found))

    @property
    def _environment(self) -> int:
        real, simulated = pynvml.NVML_CC_SYSTEM_ENVIRONMENT_PROD, pynvml.NVML_CC_SYSTEM_ENVIRONMENT_SIM
        return real if self.production else simulated

    def _set_ready(self, arguments: list[bytes]) -> Answer:
        self.ready = _read(arguments[0]) == pynvml.NVML_CC_ACCEPTING_CLIENT_REQUESTS_TRUE
        return _done(None)

    def _handle(self, arguments: list[bytes]) -> Answer:
        index = _read(arguments[0])
        if index >= len(self.gpus):
            return pynvml.NVML_ERROR_INVALID_ARGUMENT, [None, None]
        return _done(None, bytes(ctypes.c_void_p(FIRST_HANDLE + index)))

    def _index(self, handle: bytes) -> int:
        return int.from_bytes(handle, "little") - FIRST_HANDLE

    def _persistence(self, arguments: list[bytes]) -> Answer:
        return _done(None, _number(self._index(arguments[0]) in self.persistent))

    def _set_persistence(self, arguments: list[bytes]) -> Answer:
        if _read(arguments[1]):
            self.persistent.add(self._index(arguments[0]))
        return _done(None, None)

    def _report(self, arguments: list[bytes]) -> Answer:
        found = pynvml.c_nvmlConfComputeGpuAttestationReport_t.from_buffer_copy(arguments[1])
        gpu = self.gpus[self._index(arguments[0])]
        report = self.replay or replace(gpu, nonce=bytes(found.nonce)).report()
        found.attestationReport[: len(report)] = report
        found.attestationReportSize = len(report)
        return _done(None, bytes(found))

    def _certificate(self, arguments: list[bytes]) -> Answer:
        found = pynvml.c_nvmlConfComputeGpuCertificate_t()
        chain = self.gpus[self._index(arguments[0])].pem
        found.attestationCertChain[: len(chain)] = chain
        found.attestationCertChainSize = len(chain)
        return _done(None, bytes(found))


def _done(*given: bytes | None) -> Answer:
    return pynvml.NVML_SUCCESS, list(given)


def _number(value: int) -> bytes:
    return bytes(ctypes.c_uint(value))


def _read(data: bytes) -> int:
    return int.from_bytes(data, "little")


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False


def _protocol(answer: Callable[[str, list[bytes]], Answer]) -> type[socketserver.BaseRequestHandler]:
    class Protocol(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            assert isinstance(self.request, socket.socket)
            asked: dict[str, Any] = receive(self.request)
            returned, given = answer(asked["call"], [bytes.fromhex(one) for one in asked["arguments"]])
            send(
                self.request,
                {"returned": returned, "arguments": [None if one is None else one.hex() for one in given]},
            )

    return Protocol
