"""The GPUs of a stage's machine in a rehearsal, and NVIDIA's attestation service, around any platform."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from jewelhouse import templates
from jewelhouse.guest.gpu import DRIVER_MODES, FEATURE_FLAGS, LAUNCHED
from jewelhouse.images import recipe
from jewelhouse.model import Stage
from jewelhouse.rehearsal import http
from jewelhouse.rehearsal.minting_nvidia import USUAL_OPAQUE, Gpu, opaque
from jewelhouse.rehearsal.nras import Nras
from jewelhouse.rehearsal.nvml import NvidiaDriver
from jewelhouse.rehearsal.services import Services, Wrong

WRONG = (
    Wrong.GPU_DEBUG,
    Wrong.GPU_ROOT,
    Wrong.GPU_REPLAYED,
    Wrong.GPU_MISSING,
    Wrong.GPU_FORGED,
)
# Devices that a rehearsal believes, and those of somebody else.
BELIEVED, FOREIGN = "rehearsal", "foreign"
DRIVER, FLAG = 3, 36


def demanded(stage: Stage) -> Mapping[str, Any] | None:
    """What the recipe of a stage's image demands of GPUs."""
    directory = templates.directory() / "images" / stage.image
    return recipe.load(directory).trust().get("gpu") if directory.is_dir() else None


def trusting(stage: Stage, trust: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's trust settings, with what its recipe demands of GPUs."""
    found = demanded(stage)
    return {**trust, "gpu": found} if found else dict(trust)


@contextmanager
def around(given: Services, stage: Stage, wrong: Wrong) -> Iterator[Services]:
    """A platform's services with GPUs and their attestation beside them. The stage's recipe demands some."""
    wanted = demanded(stage)
    assert wanted is not None
    tls = http.Authority(name="jewelhouse rehearsal nras")
    believed = Gpu(keys=BELIEVED)
    machine = gpus(wanted, keys=FOREIGN if wrong is Wrong.GPU_ROOT else BELIEVED)
    # A report of an earlier run: right in everything but what it answers.
    old = replace(machine[0], nonce=secrets.token_bytes(32)).report()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jewelhouse-gpu-")))
        driver = stack.enter_context(
            NvidiaDriver(
                folder / "nvml",
                machine[1:] if wrong is Wrong.GPU_MISSING else machine,
                developer=wrong is Wrong.GPU_DEBUG,
                multiple=DRIVER_MODES[wanted["mode"]],
                ready=stage.platform in LAUNCHED,
                replay=old if wrong is Wrong.GPU_REPLAYED else None,
            )
        )
        service = stack.enter_context(Nras(believed.roots, authority=tls, forging=wrong is Wrong.GPU_FORGED))
        roots, certificates = folder / "roots.pem", folder / "authorities.pem"
        roots.write_bytes(believed.certificates[-1].public_bytes(Encoding.PEM))
        certificates.write_bytes(_pem(given) + tls.pem)
        yield replace(
            given,
            endpoints={
                **given.endpoints,
                "gpu": str(driver.path),
                "gpu_roots": str(roots),
                "nras": service.url,
                "certificates": str(certificates),
            },
            refused=lambda: [
                *given.refused(),
                *(f"NVIDIA's attestation: {'; '.join(one.because)}" for one in service.log if not one.good),
            ],
        )


def gpus(wanted: Mapping[str, Any], *, keys: str = BELIEVED) -> list[Gpu]:
    """GPUs that a machine has which a recipe's demand is for."""
    flag = next(number for number, mode in FEATURE_FLAGS.items() if mode == wanted["mode"])
    fields = {**USUAL_OPAQUE, FLAG: bytes((flag, 0))}
    if wanted.get("driver"):
        fields[DRIVER] = wanted["driver"][0].encode() + b"\0"
    return [Gpu(name=f"gpu {index}", keys=keys, opaque=opaque(fields)) for index in range(wanted["count"])]


def _pem(given: Services) -> bytes:
    path = given.endpoints.get("certificates")
    return Path(path).read_bytes() if path else b""
