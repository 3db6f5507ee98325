"""What lint looks for in the openings of a Google document: what each of them leaves unsaid of the token."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from jewelhouse.release.documents import Document
from jewelhouse.release.facts import Opening
from jewelhouse.release.lint.gcp_reading import (
    ACCOUNTS,
    DEBUG,
    DIGEST,
    GPU,
    HARDWARE,
    NUMBER,
    OVERRIDES,
    PROJECT,
    REFERENCE,
    SUPPORT,
    reading,
)
from jewelhouse.release.lint.hostile_gcp import counterexample
from jewelhouse.release.lint.rules import Check, Hit

# What every alternative should pin if one of them does.
PINNED = ("assertion.swname", DEBUG, HARDWARE, DIGEST, PROJECT, f"{SUPPORT} (has)")
Test = Callable[[Opening], bool]


def _lacking(test: Test, what: str, *names: str, vm: bool = False) -> Check:
    """A check that fires for openings that `test` is true of, once a document.

    names: hostile evidence that shows the hole. vm: openings for plain Confidential VMs count too.
    """

    def check(document: Document) -> Iterator[Hit]:
        read = reading(document)
        found = [where for where, opening in (read.all() if vm else read.space()) if test(opening)]
        if found:
            more = f" (and {len(found) - 1} more openings)" if len(found) > 1 else ""
            shown = counterexample(document, *names) if names else None
            yield Hit(where=found[0], what=what + more, counterexample=shown)

    return check


def _support(opening: Opening) -> set[str]:
    """The support attributes that an opening asks for."""
    found = {str(opening.claims.get(f"{SUPPORT} (has)", ""))} - {""}
    for path in opening.claims:
        one = re.fullmatch(rf"'(\w+)' in {re.escape(SUPPORT)}", path)
        if one:
            found.add(one[1])
    return found


def _unset(path: str) -> Test:
    return lambda one: one.claims.get(path) is None


def _by_reference(one: Opening) -> bool:
    if one.claims.get(DIGEST) is not None:
        return False
    reference = one.claims.get(REFERENCE)
    return "@sha256:" not in reference if reference else any(REFERENCE in path for path in one.claims)


debug_passes = _lacking(
    lambda one: one.claims.get(DEBUG) is None and not _support(one),
    "a debug image passes",
    "the debug image",
    "the debug image with a confidential GPU",
    "the debug image with support attributes",
)
debug_meant = _lacking(
    lambda one: one.claims.get(DEBUG) == "enabled", "debug images are meant to pass", "the debug image"
)
debug_by_support_only = _lacking(
    lambda one: one.claims.get(DEBUG) is None and bool(_support(one)),
    "only the support attributes keep debug images out",
    "the debug image with support attributes",
)
support_unsaid = _lacking(
    lambda one: not _support(one),
    "images out of support and experimental ones pass",
    "an image out of support",
    "an experimental image",
)
support_latest = _lacking(lambda one: "LATEST" in _support(one), "LATEST is asked for")
support_experimental = _lacking(
    lambda one: "EXPERIMENTAL" in _support(one),
    "experimental images are meant to pass",
    "an experimental image",
)
hardware = _lacking(_unset(HARDWARE), "hwmodel is not pinned", "hardware that is not confidential", vm=True)
shielded = _lacking(
    lambda one: one.claims.get(HARDWARE) == "GCP_SHIELDED_VM",
    "GCP_SHIELDED_VM is not confidential hardware",
    "hardware that is not confidential",
    vm=True,
)
image = _lacking(_unset(DIGEST), "image_digest is not pinned", "another image")
image_by_reference = _lacking(_by_reference, "the image is known by its name", "another image")
project = _lacking(
    lambda one: one.claims.get(PROJECT) is None and one.claims.get(NUMBER) is None,
    "neither project_id nor project_number is pinned",
    "another project with the same service account",
    "another project",
    vm=True,
)
project_number = _lacking(
    lambda one: one.claims.get(PROJECT) is not None and one.claims.get(NUMBER) is None,
    "project_id is pinned without project_number",
    vm=True,
)
account = _lacking(
    _unset(f"{ACCOUNTS} (has)"), "no service account is asked for", "another service account", vm=True
)
secure_boot = _lacking(
    lambda one: one.claims.get("assertion.secboot") != "true",
    "secboot is not pinned",
    "secure boot off",
    vm=True,
)
software = _lacking(_unset("assertion.swname"), "swname is not pinned", "a plain Confidential VM")
gpu_without_mode = _lacking(
    lambda one: any(path.startswith(GPU) for path in one.claims) and f"{GPU}.cc_mode" not in one.claims,
    "a GPU is asked for, and not its cc_mode",
    "a GPU in developer mode",
    "a GPU with its mode off",
)


def overrides(document: Document) -> Iterator[Hit]:
    for path, shown in OVERRIDES.items():
        closed = {f"{path} (empty)", f"!has({path})", f"size({path}) (number)", path}
        yield from _lacking(
            lambda one, closed=closed: not closed & set(one.claims),
            f"{path.rpartition('.')[2]} is not refused",
            shown,
        )(document)


def nothing_opens(document: Document) -> Iterator[Hit]:
    read = reading(document)
    if not read.facts.openings and not read.facts.undecided:
        yield Hit(where="condition", what="no token at all opens the key")


def undecided(document: Document) -> Iterator[Hit]:
    for what in reading(document).facts.undecided:
        if what.endswith(" alternatives"):
            where, _, why = what.partition(": ")
            yield Hit(where=where, what=why)


def negated(document: Document) -> Iterator[Hit]:
    """Clauses that say what a claim is not. Those that the mapping adds are no mistake: a token with several
    accounts falls to the first that is asked for."""
    tree = reading(document).condition
    if tree is None:
        return
    body = {**document.body, "mapping": {"google.subject": "assertion.iss"}, "bindings": [EVERY_TOKEN]}
    alone = reading(Document(name=document.name, cloud=document.cloud, body=body))
    for where, opening in alone.all():
        for path in opening.claims:
            if " != " in path or path.startswith("!("):
                yield Hit(where=where, what=path)
                return


EVERY_TOKEN = {"role": "roles/cloudkms.cryptoKeyDecrypter", "members": ["*"]}


def unequal(document: Document) -> Iterator[Hit]:
    """An alternative that leaves out what another one pins."""
    openings = list(reading(document).space())
    for path in PINNED:
        without = [where for where, one in openings if path not in one.claims]
        if without and len(without) < len(openings):
            yield Hit(where=without[0], what=f"{path} is pinned elsewhere, not here")


def plain_vm(document: Document) -> Iterator[Hit]:
    for where, opening in reading(document).all():
        if opening.claims.get("assertion.swname") == "GCE":
            yield Hit(where=where, what="tokens of a plain Confidential VM name no image and no debug state")
            return
