"""What somebody who holds a store, but no key, can do to what lies in it; each must stay without effect."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519

from jewelhouse.weights import manifest, signing
from jewelhouse.weights.segments import SEGMENT

Tamper = Callable[[Path], None]


def _envelope(store: Path) -> dict[str, Any]:
    return json.loads((store / manifest.NAME).read_bytes())


def _write(store: Path, envelope: Mapping[str, Any]) -> None:
    (store / manifest.NAME).write_text(json.dumps(envelope), encoding="utf-8")


def _payload(store: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    envelope = _envelope(store)
    return envelope, json.loads(base64.b64decode(envelope["payload"]))


def _changed(store: Path) -> None:
    """A later end, so that an expired artifact would open again."""
    envelope, body = _payload(store)
    body["expires"] = "2999-01-01T00:00:00Z"
    _write(store, {**envelope, "payload": _encoded(body)})


def _signed_by_another(store: Path) -> None:
    envelope, _ = _payload(store)
    payload = base64.b64decode(envelope["payload"])
    (store / manifest.NAME).write_bytes(signing.sign(payload, [ed25519.Ed25519PrivateKey.generate()]))


def _key_swapped(store: Path) -> None:
    envelope, body = _payload(store)
    for key in body["keys"]:
        key["ciphertext"] = base64.b64encode(bytes(512)).decode()
    _write(store, {**envelope, "payload": _encoded(body)})


def _encoded(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(text.encode()).decode()


def _largest(store: Path) -> list[Path]:
    files = [path for path in (store / "data").rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: path.stat().st_size, reverse=True)


def _swapped(store: Path) -> None:
    first, second = _largest(store)[:2]
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)


def _truncated(store: Path) -> None:
    path = _largest(store)[0]
    path.write_bytes(path.read_bytes()[:SEGMENT])


def _reordered(store: Path) -> None:
    path = _largest(store)[0]
    data = path.read_bytes()
    path.write_bytes(
        data[:SEGMENT] + data[2 * SEGMENT : 3 * SEGMENT] + data[SEGMENT : 2 * SEGMENT] + data[3 * SEGMENT :]
    )


def _flipped(store: Path) -> None:
    path = _largest(store)[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _left_out(store: Path) -> None:
    _largest(store)[-1].unlink()


TAMPERS: Mapping[str, Tamper] = {
    "changed manifest": _changed,
    "unknown signer": _signed_by_another,
    "swapped wrapped key": _key_swapped,
    "swapped ciphertext": _swapped,
    "truncated ciphertext": _truncated,
    "reordered ciphertext": _reordered,
    "changed ciphertext": _flipped,
    "file left out": _left_out,
}
ROLLED_BACK = "rolled-back version"
