"""The NVIDIA driver as the guest asks it: modes, readiness, and each GPU's evidence, through nvidia-ml-py.

What the driver says is believed as far as its code is: it runs inside the TEE, and the evidence is verified
apart from it (`jewelhouse.guest.gpu`). docs.nvidia.com/deploy/nvml-api, Confidential Computing (2026-10);
NVIDIA/attestation-sdk: nv-attestation-sdk-cpp/src/gpu/nvml_client.cpp (2026-09). A rehearsal has the
library's calls over a Unix socket: see `Remote`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from jewelhouse.guest.opening import Closed

WHERE = "NVIDIA driver"
# Where Confidential Space has the driver that its launcher installs: google/go-tpm-tools: launcher/internal/
# gpu/config.go (2026-10). Elsewhere the loader finds it.
ELSEWHERE = "/usr/local/nvidia/lib64/libnvidia-ml.so.1"
NONCE = 32
LENGTH = struct.Struct(">I")
MESSAGE = 256 * 1024
TIMEOUT = 60
LOST = "the GPU or its session is gone: stop and start the machine, as a reboot does not bring it back"
# The library's own names of errors -> what to do.
REMEDIES = {
    "LIBRARY_NOT_FOUND": "put NVIDIA's driver into the image, or have the platform install it",
    "DRIVER_NOT_LOADED": "load NVIDIA's kernel driver before the guest starts",
    "NO_PERMISSION": "the guest must be root",
    "NOT_SUPPORTED": "the GPU is not in confidential mode, or the driver is too old for it",
    "FUNCTION_NOT_FOUND": "the driver is too old for confidential computing",
    "GPU_IS_LOST": LOST,
    "RESET_REQUIRED": LOST,
    "UNKNOWN": LOST,
}


@dataclass(frozen=True, kw_only=True)
class State:
    """Modes of all GPUs together. `production`: no simulation; `multiple`: number of the multi-GPU mode."""

    confidential: bool
    developer: bool
    production: bool
    multiple: int


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What one GPU gives: its SPDM report, and the certificates (PEM) of the key that signed it."""

    architecture: str
    report: bytes
    chain: bytes


@dataclass(frozen=True)
class Driver:
    """nvidia-ml-py with its library loaded. Every method raises Closed when the driver says no."""

    library: Any

    def state(self) -> State:
        nvml = self.library
        system = self._asked("nvmlSystemGetConfComputeState")
        settings = nvml.c_nvmlSystemConfComputeSettings_v1_t()
        # By reference: the binding neither takes the address of the structure nor looks at what is returned.
        returned = self._asked("nvmlSystemGetConfComputeSettings", ctypes.byref(settings))
        if returned != nvml.NVML_SUCCESS:
            raise self._failed("nvmlSystemGetConfComputeSettings", nvml.NVMLError(returned))
        # Both tell the mode for developers, and neither may say yes.
        off = nvml.NVML_CC_SYSTEM_DEVTOOLS_MODE_OFF
        return State(
            confidential=system.ccFeature == nvml.NVML_CC_SYSTEM_FEATURE_ENABLED,
            developer=system.devToolsMode != off or settings.devToolsMode != off,
            production=system.environment == nvml.NVML_CC_SYSTEM_ENVIRONMENT_PROD,
            multiple=settings.multiGpuMode,
        )

    def count(self) -> int:
        return self._asked("nvmlDeviceGetCount")

    def ready(self) -> bool:
        """Whether GPUs take work."""
        return self._asked("nvmlSystemGetConfComputeGpusReadyState") != 0

    def set_ready(self, ready: bool) -> None:
        self._asked("nvmlSystemSetConfComputeGpusReadyState", int(ready))

    def keep(self, index: int) -> None:
        """Has a GPU keep its session, and so its readiness, when no program uses it for a while."""
        device = self._asked("nvmlDeviceGetHandleByIndex", index)
        on = self.library.NVML_FEATURE_ENABLED
        if self._asked("nvmlDeviceGetPersistenceMode", device) != on:
            self._asked("nvmlDeviceSetPersistenceMode", device, on)

    def evidence(self, index: int, nonce: bytes) -> Evidence:
        """A GPU's answer to a nonce of 32 bytes."""
        if len(nonce) != NONCE:
            raise ValueError(f"a nonce of {len(nonce)} bytes")
        device = self._asked("nvmlDeviceGetHandleByIndex", index)
        report = self._asked("nvmlDeviceGetConfComputeGpuAttestationReport", device, nonce)
        chain = self._asked("nvmlDeviceGetConfComputeGpuCertificate", device)
        return Evidence(
            architecture=self._architecture(device),
            report=_part(report.attestationReport, report.attestationReportSize, f"report of GPU {index}"),
            chain=_part(
                chain.attestationCertChain, chain.attestationCertChainSize, f"certificates of GPU {index}"
            ),
        )

    def _architecture(self, device: Any) -> str:
        number = self._asked("nvmlDeviceGetArchitecture", device)
        known = {
            value: name.removeprefix("NVML_DEVICE_ARCH_")
            for name, value in vars(self.library).items()
            if name.startswith("NVML_DEVICE_ARCH_")
        }
        return known.get(number, f"architecture {number}")

    def _asked(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self.library, name)(*arguments)
        except self.library.NVMLError as error:
            raise self._failed(name, error) from error

    def _failed(self, name: str, error: Any) -> Closed:
        code = next(
            (
                known.removeprefix("NVML_ERROR_")
                for known, value in vars(self.library).items()
                if known.startswith("NVML_ERROR_") and value == error.value
            ),
            f"error {error.value}",
        )
        return Closed(f"{name} ends with {code}", where=WHERE, remedy=REMEDIES.get(code, ""))


def _part(array: Any, size: int, where: str) -> bytes:
    if not 0 < size <= len(array):
        raise Closed(f"has {size} bytes, there is room for {len(array)}", where=where)
    return bytes(array[:size])


@contextlib.contextmanager
def driver(stand_in: str | None = None) -> Iterator[Driver]:
    """The driver of this machine, or a rehearsal's at a Unix socket. Raises Closed where there is none."""
    try:
        import pynvml
    except ImportError as error:
        raise Closed(
            "is not in this image",
            where="nvidia-ml-py",
            remedy="build it from a recipe that demands GPUs: trust.gpu",
        ) from error
    loaded = Driver(pynvml)
    module = pynvml.__dict__
    if stand_in is not None:
        module["nvmlLib"] = Remote(stand_in)
    elif module["nvmlLib"] is None and os.path.exists(ELSEWHERE):
        module["nvmlLib"] = _loaded(ELSEWHERE)
    try:
        loaded._asked("nvmlInit")
        yield loaded
        loaded._asked("nvmlShutdown")
    finally:
        if stand_in is not None:
            # The binding remembers the functions of its library.
            module["nvmlLib"] = None
            module["_nvmlGetFunctionPointer_cache"].clear()


def _loaded(path: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(path)
    except OSError as error:
        raise Closed("cannot be loaded", where=path, remedy=REMEDIES["LIBRARY_NOT_FOUND"]) from error


class Remote:
    """The driver's library at a Unix socket, for the binding to call in place of the one it would load.

    Each call is a message and a reply in JSON with their length before them: the name of the function and
    its arguments as the bytes that the library would see, and back the code that it returns and the bytes of
    what was passed by reference.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith("nvml"):
            raise AttributeError(name)
        return lambda *arguments: self._call(name, arguments)

    def _call(self, name: str, arguments: tuple[Any, ...]) -> int:
        # `byref` keeps what it refers to under this name (docs.python.org/3/library/ctypes.html).
        passed = [
            ctypes.c_int(one) if isinstance(one, int) else getattr(one, "_obj", one) for one in arguments
        ]
        asked = {"call": name, "arguments": [bytes(one).hex() for one in passed]}
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(TIMEOUT)
                connection.connect(self._path)
                send(connection, asked)
                reply = receive(connection)
            for one, data in zip(passed, reply["arguments"], strict=True):
                if data is not None:
                    _write(one, bytes.fromhex(data))
            return int(reply["returned"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Closed(
                f"{name} is not answered: {type(error).__name__}", where=self._path, remedy="run again"
            ) from error


def _write(target: Any, data: bytes) -> None:
    if len(data) != ctypes.sizeof(target):
        raise ValueError("another size")
    ctypes.memmove(ctypes.addressof(target), data, len(data))


def send(connection: socket.socket, message: Any) -> None:
    """One message of a rehearsal's driver."""
    data = json.dumps(message).encode()
    connection.sendall(LENGTH.pack(len(data)) + data)


def receive(connection: socket.socket) -> Any:
    """The next message. Raises ValueError for one that is cut off, too long or no JSON object."""
    with connection.makefile("rb") as stream:
        head = stream.read(LENGTH.size)
        size = LENGTH.unpack(head)[0] if len(head) == LENGTH.size else 0
        if not 0 < size <= MESSAGE:
            raise ValueError("is no message")
        data = stream.read(size)
    found = json.loads(data) if len(data) == size else None
    if not isinstance(found, dict):
        raise ValueError("is no message")
    return found
