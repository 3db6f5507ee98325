"""What lint finds in the ways through a key policy that need evidence, but evidence that proves too little.

The table with ids, severities, reasons and sources is in `release.lint.aws`. Each finding asks the evaluator
with a document of another image that has just the registers which are pinned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from jewelhouse.model import Platform
from jewelhouse.release.aws_conditions import platforms
from jewelhouse.release.aws_facts import Way
from jewelhouse.release.aws_keys import ONE_RAMDISK, REGISTERS, SECURE_BOOT_OFF, ZERO
from jewelhouse.release.aws_statements import account_of, is_root
from jewelhouse.release.documents import Document
from jewelhouse.release.lint.aws_reading import pinned, reading
from jewelhouse.release.lint.rules import Hit

ENCLAVE, TPM = Platform.AWS_ENCLAVE, Platform.AWS_NITROTPM
Pins = Mapping[str, frozenset[str]]
# One of these follows from another: PCR0 covers what PCR1 and PCR2 cover.
OF_ONE_IMAGE = {"PCR0", "PCR1", "PCR2"}


def any_image(document: Document) -> Iterator[Hit]:
    for way, platform, pins in _attested(document):
        if platform is ENCLAVE:
            covered = {"PCR3", "PCR4"} >= set(pins) != set() or _one_ramdisk_only(pins)
            fixed = {"PCR0"} <= set(pins) or {"PCR1", "PCR2"} <= set(pins) or "PCR8" in pins
        else:
            covered, fixed = False, bool({"PCR4", "PCR7"} & set(pins))
        if not fixed and not covered:
            yield _hit(document, way, platform, f"{_names(pins)} of {platform} does not fix the image")


def parent_registers_only(document: Document) -> Iterator[Hit]:
    for way, platform, pins in _attested(document):
        if platform is ENCLAVE and set(pins) and set(pins) <= {"PCR3", "PCR4"}:
            yield _hit(
                document, way, platform, f"{_names(pins)} alone, which a debug enclave keeps", debug=True
            )


def one_ramdisk(document: Document) -> Iterator[Hit]:
    for way, platform, pins in _attested(document):
        if platform is ENCLAVE and _one_ramdisk_only(pins):
            yield _hit(document, way, platform, "PCR2 is the value of every image with one ramdisk")


def debug_zeroes(document: Document) -> Iterator[Hit]:
    for way, platform, pins in _attested(document):
        zero = [name for name in ("PCR0", "PCR1", "PCR2", "PCR8") if ZERO in pins.get(name, ())]
        if platform is ENCLAVE and zero:
            yield _hit(document, way, platform, f"{', '.join(zero)} of zeros is a debug enclave", debug=True)


def any_image_of_the_signer(document: Document) -> Iterator[Hit]:
    for way, platform, pins in _attested(document):
        names = set(pins)
        if platform is ENCLAVE and "PCR8" in names and not ("PCR0" in names or {"PCR1", "PCR2"} <= names):
            yield _hit(document, way, platform, "PCR8 admits every image of its signing certificate")


def never_extended(document: Document) -> Iterator[Hit]:
    for way, platform, pins in _attested(document):
        zero = [name for name in ("PCR4", "PCR7") if ZERO in pins.get(name, ())]
        if platform is TPM and zero:
            yield Hit(where=way.where, what=f"{', '.join(zero)} of zeros: no instance boots to that")


def secure_boot_off(document: Document) -> Iterator[Hit]:
    for way, platform, pins in _attested(document):
        if platform is TPM and SECURE_BOOT_OFF in pins.get("PCR7", ()) and not _boot_fixed(pins):
            yield _hit(
                document,
                way,
                platform,
                "PCR7 is the value of every instance with Secure Boot off",
                registers={"PCR7": SECURE_BOOT_OFF},
            )


def command_line_open(document: Document) -> Iterator[Hit]:
    for way, platform, pins in _attested(document):
        if platform is TPM and "PCR4" in pins and "PCR12" not in pins and not _signed(pins):
            yield _hit(
                document, way, platform, "PCR4 without PCR12: a command line can be added from outside"
            )


def command_line_added(document: Document) -> Iterator[Hit]:
    for way, platform, pins in _attested(document):
        if platform is TPM and not pins.get("PCR12", frozenset()) <= {ZERO} and not _signed(pins):
            yield _hit(
                document, way, platform, "PCR12 other than zeros: a command line was added from outside"
            )


def signer_of_boot_only(document: Document) -> Iterator[Hit]:
    for way, platform, pins in _attested(document):
        if platform is TPM and _signed(pins) and "PCR4" not in pins:
            yield Hit(where=way.where, what="PCR7 alone admits every image that its Secure Boot keys signed")


def mixed_images(document: Document) -> Iterator[Hit]:
    yield from _mixed(document, lambda platform, lists: platform is TPM or not _of_one_image(lists))


def listed_together(document: Document) -> Iterator[Hit]:
    yield from _mixed(document, lambda platform, lists: platform is ENCLAVE and _of_one_image(lists))


def any_principal(document: Document) -> Iterator[Hit]:
    for way in reading(document).attested:
        if (way.principal == "*" or is_root(way.principal)) and "aws:PrincipalArn" not in way.term:
            who = "everybody" if way.principal == "*" else f"all of account {account_of(way.principal)}"
            yield Hit(where=way.where, what=f"names no role: {who} may ask with such a document")


def _attested(document: Document) -> Iterator[tuple[Way, Platform, Pins]]:
    seen: set[tuple[str, Platform, tuple[tuple[str, frozenset[str]], ...]]] = set()
    for way in reading(document).attested:
        (platform,) = platforms(way.term)
        pins = pinned(way.term, platform)
        key = (way.where, platform, tuple(pins.items()))
        if key not in seen:
            seen.add(key)
            yield way, platform, pins


def _one_ramdisk_only(pins: Pins) -> bool:
    return ONE_RAMDISK in pins.get("PCR2", ()) and not {"PCR0", "PCR1", "PCR8"} & set(pins)


def _boot_fixed(pins: Pins) -> bool:
    return "PCR4" in pins and pins.get("PCR12") == {ZERO}


def _signed(pins: Pins) -> bool:
    """PCR7 under Secure Boot: it then covers who signed the boot image with its command line."""
    return bool(pins.get("PCR7")) and not pins["PCR7"] & {ZERO, SECURE_BOOT_OFF}


def _of_one_image(lists: Pins) -> bool:
    return "PCR0" in lists and set(lists) <= OF_ONE_IMAGE


def _mixed(document: Document, wanted: Callable[[Platform, Pins], bool]) -> Iterator[Hit]:
    for way, platform, pins in _attested(document):
        lists = {name: values for name, values in pins.items() if len(values) > 1}
        if len(lists) > 1 and wanted(platform, lists):
            ends = _old_with_new(document, way, platform, lists)
            yield _hit(
                document,
                way,
                platform,
                f"lists for {_names(lists)} admit every mix of them, old with new",
                registers=ends,
            )


def _old_with_new(document: Document, way: Way, platform: Platform, lists: Pins) -> dict[str, str]:
    """The first value of the first list with the last ones of the others, in the order as written: lists of
    old and new values run in parallel, so nobody meant these together."""
    written = {
        REGISTERS[clause.key][1]: [value.lower() for value in clause.values]
        for statement in reading(document).statements
        for clause in statement.clauses
        if statement.where == way.where and REGISTERS.get(clause.key, (None,))[0] is platform
    }
    ordered = {
        name: [value for value in written.get(name, sorted(values)) if value in values]
        for name, values in lists.items()
    }
    return {name: values[-1] if index else values[0] for index, (name, values) in enumerate(ordered.items())}


def _names(pins: Pins) -> str:
    return ", ".join(sorted(pins, key=lambda name: int(name.removeprefix("PCR")))) or "a document"


def _hit(
    document: Document,
    way: Way,
    platform: Platform,
    what: str,
    *,
    debug: bool = False,
    registers: Mapping[str, str] | None = None,
) -> Hit:
    """A hit with a document of another image that has just the registers which are pinned."""
    # The evaluator is loaded only for a policy that has a hole.
    from jewelhouse.release.lint import aws_counterexamples as counterexamples

    pins = pinned(way.term, platform)
    # The least value is that of zeros, where it is among them.
    chosen = {name: min(values) for name, values in pins.items()}
    request = counterexamples.request_of(way)
    verdict = counterexamples.document_of(platform, {**chosen, **(registers or {})}, request.at, debug=debug)
    return Hit(
        where=way.where, what=what, counterexample=counterexamples.released(document, verdict, request)
    )
