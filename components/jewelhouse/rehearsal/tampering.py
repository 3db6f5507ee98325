"""What somebody who holds a store, but no key, can do to what lies in it; each must stay without effect."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519

from jewelhouse.rehearsal.stops import Place, Stop
from jewelhouse.weights import manifest, signing
from jewelhouse.weights.segments import SEGMENT

Tamper = Callable[[Path], None]


def _manifest(store: Path) -> Path:
    return max((store / manifest.SERIES).iterdir())


def _envelope(store: Path) -> dict[str, Any]:
    return json.loads(_manifest(store).read_bytes())


def _write(store: Path, envelope: Mapping[str, Any]) -> None:
    _manifest(store).write_text(json.dumps(envelope), encoding="utf-8")


def _payload(store: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    envelope = _envelope(store)
    return envelope, json.loads(base64.b64decode(envelope["payload"]))


def _changed(store: Path) -> None:
    """A later end, so that an expired artifact would open again."""
    envelope, body = _payload(store)
    body["expires"] = "2999-01-01T00:00:00Z"
    _write(store, {**envelope, "payload": _encoded(body)})


def _signed_by_another(store: Path) -> None:
    """The same manifest, word by word, that only somebody else answers for."""
    envelope, _ = _payload(store)
    payload = base64.b64decode(envelope["payload"])
    _manifest(store).write_bytes(signing.sign(payload, [ed25519.Ed25519PrivateKey.generate()]))


def _key_swapped(store: Path) -> None:
    envelope, body = _payload(store)
    for key in body["keys"]:
        key["ciphertext"] = base64.b64encode(bytes(512)).decode()
    _write(store, {**envelope, "payload": _encoded(body)})


def _encoded(body: Mapping[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(text.encode()).decode()


def _largest(store: Path) -> list[Path]:
    """Ciphertext of the current version, the largest file first."""
    _, body = _payload(store)
    files = [path for path in (store / "data" / body["data"]).rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: path.stat().st_size, reverse=True)


def _swapped(store: Path) -> None:
    """Another file of the same size: of the artifact where it has two, else what anybody could seal."""
    first, *others = _largest(store)
    own = first.read_bytes()
    if others and others[0].stat().st_size == len(own):
        first.write_bytes(others[0].read_bytes())
        others[0].write_bytes(own)
    else:
        first.write_bytes(own[:1] + secrets.token_bytes(len(own) - 1))


def _truncated(store: Path) -> None:
    path = _largest(store)[0]
    data = path.read_bytes()
    path.write_bytes(data[:SEGMENT] if len(data) > SEGMENT else data[: len(data) // 2])


def _reordered(store: Path) -> None:
    path = _largest(store)[0]
    data = path.read_bytes()
    # A file of one segment has only blocks of the cipher to exchange.
    size = SEGMENT if len(data) > 3 * SEGMENT else 16
    start = size if size == SEGMENT else len(data) - 4 * size
    first, second = data[start : start + size], data[start + size : start + 2 * size]
    path.write_bytes(data[:start] + second + first + data[start + 2 * size :])


def _flipped(store: Path) -> None:
    path = _largest(store)[0]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _left_out(store: Path) -> None:
    _largest(store)[-1].unlink()


def _added(store: Path) -> None:
    """A file that no manifest names, among those that one does."""
    (_largest(store)[0].parent / secrets.token_hex(16)).write_bytes(secrets.token_bytes(512))


TAMPERS: Mapping[str, Tamper] = {
    "changed manifest": _changed,
    "unknown signer": _signed_by_another,
    "swapped wrapped key": _key_swapped,
    "swapped ciphertext": _swapped,
    "truncated ciphertext": _truncated,
    "reordered ciphertext": _reordered,
    "changed ciphertext": _flipped,
    "file left out": _left_out,
    "file added": _added,
}
ROLLED_BACK = "rolled-back version"
UNSIGNED = Stop(by=Place.GUEST, says="is signed by 0 of the pinned signers")
UNOPENED = Stop(by=Place.GUEST, says="does not open: changed, or of another key, artifact, version or path")
# No key service sees a store: all of it is for the guest to notice, most of it before it asks for any key.
STOPS: Mapping[str, Stop] = {
    "changed manifest": UNSIGNED,
    "unknown signer": UNSIGNED,
    "swapped wrapped key": UNSIGNED,
    "swapped ciphertext": UNOPENED,
    "truncated ciphertext": Stop(by=Place.GUEST, says="bytes of ciphertext, expected"),
    "reordered ciphertext": UNOPENED,
    "changed ciphertext": UNOPENED,
    "file left out": Stop(by=Place.GUEST, says="is missing"),
    "file added": Stop(by=Place.GUEST, says="is in no manifest"),
    ROLLED_BACK: Stop(by=Place.GUEST, says="has been retired: the floor is"),
}
