"""Compares a recording with a YAML inventory: what a component must contain, nothing that does not matter.

```yaml
counts: {aws:kms/key:Key: 1}          # exactly this many of a type
absent: [aws:ec2/keyPair:KeyPair]     # none of a type
resources:
  base-key:                           # by name
    type: aws:kms/key:Key
    parent: base
    protect: true                     # any option of `recording.Request`
    inputs: {deletionWindowInDays: 30, policy: "contains: kms:Decrypt"}
```
Inputs are compared partially: a mapping needs its keys to match, a list needs the same length, a string may
start with `contains: `, and `absent` means that the input is not there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from recording import Recording


def check(recording: Recording, path: Path) -> None:
    """Fails with every difference between the recording and the inventory at `path`."""
    inventory = yaml.safe_load(path.read_text())
    unknown = set(inventory) - {"counts", "absent", "resources"}
    assert not unknown, f"{path}: unknown parts {sorted(unknown)}"
    differences = list(_differences(recording, inventory))
    assert not differences, f"{path.name}:\n" + "\n".join(differences)


def _differences(recording: Recording, inventory: dict[str, Any]) -> Iterator[str]:
    counts = Counter(request.type for request in recording.resources)
    for token, expected in inventory.get("counts", {}).items():
        if counts[token] != expected:
            yield f"{token}: {counts[token]} of them, expected {expected}"
    for token in inventory.get("absent", []):
        if counts[token]:
            yield f"{token}: {counts[token]} of them, expected none"
    by_name = {request.name: request for request in recording.resources}
    for name, expected in inventory.get("resources", {}).items():
        request = by_name.get(name)
        if request is None:
            yield f"{name}: not registered (there are {sorted(by_name)})"
            continue
        for option, value in expected.items():
            if option == "inputs":
                yield from _compare(request.inputs, value, name)
            elif option == "parent":
                if request.parent_name != value:
                    yield f"{name}: parent is {request.parent_name}, expected {value}"
            else:
                found = getattr(request, option)
                found = list(found) if isinstance(found, tuple) else found
                if found != value:
                    yield f"{name}: {option} is {found!r}, expected {value!r}"


def _compare(found: Any, expected: Any, where: str) -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(found, dict):
        for key, value in expected.items():
            if value == "absent":
                if key in found:
                    yield f"{where}.{key}: {found[key]!r}, expected to be absent"
            elif key not in found:
                yield f"{where}.{key}: absent, expected {value!r}"
            else:
                yield from _compare(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list) and isinstance(found, list):
        if len(found) != len(expected):
            yield f"{where}: {len(found)} items, expected {len(expected)}: {found!r}"
        else:
            for index, (left, right) in enumerate(zip(found, expected, strict=True)):
                yield from _compare(left, right, f"{where}[{index}]")
    elif isinstance(expected, str) and expected.startswith("contains: ") and isinstance(found, str):
        if expected.removeprefix("contains: ") not in found:
            yield f"{where}: {found!r}, expected to contain {expected.removeprefix('contains: ')!r}"
    elif found != expected:
        yield f"{where}: {found!r}, expected {expected!r}"
