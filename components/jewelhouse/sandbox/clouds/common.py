"""What the stand-in clouds have in common."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jewelhouse.sandbox.schema import Schema
from jewelhouse.sandbox.world import Thing, World

DAY = 24 * 3600.0


class Refused(Exception):
    """The cloud says no, in its own words where they are known."""


@dataclass(frozen=True)
class Autoname:
    """The property that the provider names by itself when the program does not."""

    property: str
    random_digits: int
    limit: int = 64
    separator: str = "-"
    forbidden: str = ""

    def make(self, name: str, rng: random.Random) -> str:
        """The resource's name and random hex digits, as the real provider makes it."""
        suffix = "".join(rng.choice("0123456789abcdef") for _ in range(self.random_digits))
        stem = re.sub(self.forbidden, "", name) if self.forbidden else name
        stem = stem.lower()[: self.limit - self.random_digits - len(self.separator)].rstrip("-")
        return f"{stem}{self.separator}{suffix}"


@dataclass(frozen=True)
class Request:
    """One operation on a resource: plain inputs, the account it goes to, and what was there before."""

    type: str
    name: str
    inputs: Mapping[str, Any]
    scope: Mapping[str, str]
    schema: Schema
    id: str
    previous: Thing | None

    def get(self, path: str, default: Any = None) -> Any:
        """A nested input: `osDisk.managedDisk.id`; lists are entered at their first item."""
        value: Any = self.inputs
        for part in path.split("."):
            if isinstance(value, list):
                value = value[0] if value else None
            if not isinstance(value, Mapping) or part not in value:
                return default
            value = value[part]
        return value


Rule = Callable[[Request, World], Iterator[str]]
Make = Callable[[Request, World], Mapping[str, Any]]
# What a function (`aws.kms.get_public_key`) answers to its arguments, asked in an account.
Answer = Callable[[Mapping[str, Any], Mapping[str, str], World], Mapping[str, Any]]


@dataclass(frozen=True)
class Name:
    """A name that must be free in a space: `{bucket}` in `s3`, kept for `held` seconds when deleted."""

    space: str
    name: str
    taken: str
    soft_deleted: str = ""
    held: float = 0.0


class Cloud:
    """Base of the stand-in clouds; the tables of a cloud say what its types do."""

    autonames: Mapping[str, Autoname | None] = {}
    names: Mapping[str, Name] = {}
    rules: Mapping[str, Sequence[Rule]] = {}
    update_rules: Mapping[str, Sequence[Rule]] = {}
    delete_rules: Mapping[str, Sequence[Rule]] = {}
    outputs: Mapping[str, Make] = {}
    fixed: Mapping[str, frozenset[str]] = {}
    create_only: Mapping[str, str] = {}
    # Rules for every type but the one that holds all others; they know ids that follow from the inputs.
    common_rules: Sequence[Rule] = ()
    root = ""
    named_by_inputs = False
    answers: Mapping[str, Answer] = {}

    def __init__(self, world: World) -> None:
        self.world = world

    def scope(self, configuration: Mapping[str, Any]) -> dict[str, str]:
        raise NotImplementedError

    def autoname(self, kind: str, schema: Schema) -> Autoname | None:
        raise NotImplementedError

    def identity(self, what: Request) -> str:
        raise NotImplementedError

    def defaults(self, what: Request, identity: str) -> Mapping[str, Any]:
        raise NotImplementedError

    def reshaped(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Inputs that the service gives back in another shape; None where that is not known yet."""
        return {}

    def limits(self, kind: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        yield from ()

    def existing(self, what: Request, identity: str) -> str | None:
        """Why a resource cannot be made under an id that one of its type already has; None where it can."""
        return None

    def immutable(self, schema: Schema, inputs: Mapping[str, Any]) -> frozenset[str]:
        """Properties (or paths inside them) whose change replaces the resource."""
        return self.fixed.get(schema.token, frozenset())

    def refuse(self, what: Request) -> None:
        """Raises Refused with everything that the cloud has against creating a resource."""
        what = replace(what, id=self.identity(what)) if self.named_by_inputs else what
        rules = (*self.rules.get(what.type, ()), *(self.common_rules if what.type != self.root else ()))
        problems = [problem for rule in rules for problem in rule(what, self.world)]
        if problems:
            raise Refused(f"creating {what.type} {what.name}: " + "; ".join(problems))
        rule = self.names.get(what.type)
        if rule:
            space, name = self.named(rule, what)
            held = self.world.holder(space, name)
            if held is not None:
                words = rule.soft_deleted if held[1] and rule.soft_deleted else rule.taken
                raise Refused(f"creating {what.type} {what.name}: {words.format(name=name)}")

    def create(self, what: Request) -> tuple[str, Mapping[str, Any]]:
        identity = self.identity(what)
        taken = self.existing(what, identity)
        if taken:
            raise Refused(f"creating {what.type} {what.name}: {taken}")
        rule = self.names.get(what.type)
        if rule:
            space, name = self.named(rule, what)
            if not self.world.take(space, name, identity):
                raise Refused(f"creating {what.type} {what.name}: {rule.taken.format(name=name)}")
        return identity, self._computed(replace(what, id=identity), identity)

    def refuse_update(self, what: Request) -> None:
        if what.previous is None:
            raise Refused(f"updating {what.type} {what.name}: {what.id} was not found; refresh the stack")
        if what.type in self.create_only:
            raise Refused(f"updating {what.type} {what.name}: {self.create_only[what.type]}")
        rules = (*self.rules.get(what.type, ()), *self.update_rules.get(what.type, ()))
        problems = [problem for rule in rules for problem in rule(what, self.world)]
        if problems:
            raise Refused(f"updating {what.type} {what.name}: " + "; ".join(problems))

    def update(self, what: Request) -> Mapping[str, Any]:
        return self._computed(what, what.id)

    def delete(self, what: Request) -> None:
        problems = [
            problem for rule in self.delete_rules.get(what.type, ()) for problem in rule(what, self.world)
        ]
        if problems:
            raise Refused(f"deleting {what.type} {what.name}: " + "; ".join(problems))
        rule = self.names.get(what.type)
        if rule and rule.held != float("inf"):
            space, name = self.named(rule, what)
            self.world.give_back(space, name, after=rule.held)

    def _computed(self, what: Request, identity: str) -> Mapping[str, Any]:
        made = self.outputs.get(what.type)
        values = {
            **self.defaults(what, identity),
            **self.reshaped(what.inputs),
            **(made(what, self.world) if made else {}),
        }
        return {name: value for name, value in values.items() if name in what.schema.outputs}

    def named(self, rule: Name, what: Request) -> tuple[str, str]:
        values = {
            **what.scope,
            **{key: value for key, value in what.inputs.items() if isinstance(value, str)},
        }
        return rule.space.format_map(_Lenient(values)), rule.name.format_map(_Lenient(values))


class _Lenient(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return ""


def digits(*parts: str, length: int = 17) -> str:
    """Hex digits that look made up but are the same for the same parts."""
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:length]


def fresh(what: Request, length: int = 17) -> str:
    """Hex digits for an id that no other resource has, also not a later one of the same name."""
    return digits(
        what.type, what.name, what.scope["name"], str(random.SystemRandom().getrandbits(64)), length=length
    )


def guid(*parts: str) -> str:
    """A GUID (version 4) that is the same for the same parts."""
    text = digits(*parts, length=32)
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-8{text[17:20]}-{text[20:32]}"


def strings(value: Any) -> Iterator[str]:
    """Every string inside plain data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def public_key(world: World, identity: str, bits: int = 4096) -> str:
    """PEM of a real RSA public key that belongs to a stand-in key for good; no two keys share one.

    Its private half is dropped at once: the sandbox shows who could open what, and opens nothing. Keys take
    seconds to make, so the cache keeps them for the next world.
    """
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    path = world.cache / "public-keys" / str(bits) / f"{world.number(f'public key {bits}', identity)}.pem"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        key = rsa.generate_private_key(public_exponent=65537, key_size=bits).public_key()
        draft = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        draft.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        # Whoever was first wins: a key that somebody has seen does not change.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    return path.read_text(encoding="ascii")
