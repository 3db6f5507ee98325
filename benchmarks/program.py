"""Runs one program under mocks in this process and prints what it took, as JSON.

Usage: python -m benchmarks.program kit CONFIG | flat FILE | chain N
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def _outputs(token: str, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        key: inputs.get(key, f"{name}-{key}") for key in ("arn", "bucket", "keyId", "latestVersion", "name")
    }


def _run(program: Any, config: dict[str, str] | None = None) -> int:
    from recording import record

    found = record(program, config=config, outputs=_outputs, call=lambda token, args: {"publicKeyPem": "pem"})
    return sum(request.custom for request in found.resources)


def kit(path: str) -> dict[str, Any]:
    """The kit's own program with the configuration (JSON) that the engine would hand to it."""
    import runpy

    config = {"jewelhouse:lifecycle": Path(path).read_text(encoding="utf-8")}
    program = str(Path(__file__).parents[1] / "__main__.py")
    return {"resources": _run(lambda: runpy.run_path(program), config)}


def flat(path: str) -> dict[str, Any]:
    import runpy

    return {"resources": _run(lambda: runpy.run_path(path))}


def chain(count: int) -> dict[str, Any]:
    """A lifecycle of `count` stages and artifacts on AWS, each stage opening what the one before sealed."""
    from samples import lock, stack

    from jewelhouse.deploy import deploy
    from jewelhouse.settings import parse

    config = stack("prod-aws")
    stage = config["stages"]["finetune"]
    config["artifacts"] = {
        f"a{index}": {"kind": "weights", "owner": "model-provider", "supplied": index == 0}
        for index in range(count)
    }
    config["stages"] = {
        f"s{index}": {
            **stage,
            "opens": [f"a{index}"],
            "seals": [f"a{index + 1}"] if index + 1 < count else [],
        }
        for index in range(count)
    }
    began = time.process_time()
    resources = _run(lambda: deploy(parse(config, lock())))
    return {"resources": resources, "deploy": time.process_time() - began}


def peak() -> int:
    """Peak resident memory of this process in KiB (Linux).

    Not `ru_maxrss`, which a child inherits from the process that forked it.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))


def main() -> None:
    kind, value = sys.argv[1:3]
    found = {"kit": kit, "flat": flat, "chain": lambda text: chain(int(text))}[kind](value)
    loaded = [
        name
        for name in sys.modules
        if name.split(".")[0] in ("pulumi_aws", "pulumi_gcp", "pulumi_azure_native")
    ]
    print(
        json.dumps(
            {
                **found,
                "seconds": time.process_time(),
                "peak": peak(),
                "sdks": sorted({name.split(".")[0] for name in loaded}),
                "sdk_modules": {
                    sdk: sum(name.split(".")[0] == sdk for name in loaded)
                    for sdk in ("pulumi_aws", "pulumi_gcp", "pulumi_azure_native")
                },
            }
        )
    )


if __name__ == "__main__":
    main()
