"""Whether evidence without a time answers a challenge: 64 bytes that the guest chose are in the report."""

from __future__ import annotations

from jewelhouse.evidence.verdict import Finding


def check(
    bound: bytes, nonce: bytes | None, *, where: str, problems: list[Finding], checked: list[str]
) -> None:
    """`bound` must be the nonce, or begin with it and hold zeros behind, as a guest pads a short one."""
    if nonce is None:
        checked.append("freshness was not checked: no nonce was given")
    elif not nonce or nonce.ljust(len(bound), b"\0") != bound:
        problems.append(Finding(where, f"is {bound.hex()}, not the nonce {nonce.hex() or '(empty)'}"))
    else:
        checked.append(f"{where} is the nonce")
