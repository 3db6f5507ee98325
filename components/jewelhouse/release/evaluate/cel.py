"""Runs CEL expressions with Google's own library, and takes nothing but a value for a value.

A runtime error comes out of that library as a value like any other, truthy and with its message as `value()`.
Here it is a `Failure`. The library is young: its versions are pinned by the `evidence` extra.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cel_expr_python import cel

from jewelhouse.release.gcp_facts import LIMITS

# The library walks claims on the stack of the process; at 10,000 levels it takes the process with it.
DEPTH = 100
CACHED = 1024


@dataclass(frozen=True)
class Failure:
    """An expression without a value: why it does not compile, or what went wrong as it ran."""

    what: str
    compiles: bool = True


def extract(value: str, template: str) -> str:
    """IAM's `extract`: the part of `value` where the one `{name}` of the template stands.

    Empty if the template does not fit. Raises ValueError for a template without exactly one name. Source:
    docs.cloud.google.com/iam/docs/conditions-attribute-reference, "extract", 2026-04.
    """
    before, opened, rest = template.partition("{")
    name, closed, after = rest.partition("}")
    if not (opened and closed) or "{" in name + after or "}" in before + after:
        raise ValueError("extract() takes a template with one {name}")
    _, start, tail = value.partition(before) if before else ("", "x", value)
    if not start:
        return ""
    inner, end, _ = tail.partition(after) if after else (tail, "x", "")
    return inner if end else ""


def _environment(variables: Mapping[str, Any]) -> cel.Env:
    text = cel.Type.STRING
    overload = cel.Overload("extract_string", text, [text, text], True, extract)
    return cel.NewEnv(variables=variables, functions=[cel.FunctionDecl("extract", [overload])])


# What the expressions of a provider may name (IAM API v1, attributeCondition), and those of a binding
# (docs.cloud.google.com/iam/docs/conditions-attribute-reference, 2026-04; resource types of Cloud KMS).
PROVIDER = _environment(dict.fromkeys(("assertion", "google", "attribute"), cel.Type.DYN))
BINDING = _environment(
    {
        "request.time": cel.Type.TIMESTAMP,
        "resource.name": cel.Type.STRING,
        "resource.type": cel.Type.STRING,
        "resource.service": cel.Type.STRING,
    }
)


@lru_cache(maxsize=CACHED)
def compiled(environment: cel.Env, expression: str) -> Callable[..., cel.Value] | Failure:
    """The expression ready to run, or why it will not compile; kept for the next time."""
    if len(expression) > LIMITS["binding"]:
        return Failure(f"{len(expression)} characters", compiles=False)
    try:
        return environment.compile(expression).eval
    except (RuntimeError, ValueError, TypeError) as error:
        # The first line says what, the others draw an arrow.
        lines = str(error).removeprefix("INVALID_ARGUMENT: ").splitlines() or ["it does not compile"]
        return Failure(lines[0].removeprefix("ERROR: <input>:"), compiles=False)


def activation(environment: cel.Env, data: Mapping[str, Any]) -> cel.Activation | Failure:
    """Values for one or more expressions."""
    if not _shallow(data):
        return Failure(f"claims nested deeper than {DEPTH}")
    try:
        return environment.Activation(data=data)
    except (RuntimeError, ValueError, TypeError) as error:
        return Failure(str(error))


def run(
    program: Callable[..., cel.Value] | Failure, values: cel.Activation | Failure | dict[str, Any]
) -> Any:
    """The value of an expression as Python has it, or a Failure. Only `is True` is a yes.

    `values`: an activation for claims of somebody else; a plain dict for what the caller made itself.
    """
    if isinstance(program, Failure):
        return program
    if isinstance(values, Failure):
        return values
    try:
        value = program(data=values) if values.__class__ is dict else program(activation=values)
        found = value.plain_value()
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        return Failure(str(error))
    # An error has its message for a value, so that only texts need a second look.
    if found.__class__ is str and value.type() != cel.Type.STRING:
        return Failure(str(found))
    return found


def _shallow(data: Mapping[str, Any]) -> bool:
    level: list[Any] = [data]
    for _ in range(DEPTH):
        below = []
        for one in level:
            for inner in one if one.__class__ is list else one.values():
                kind = inner.__class__
                if kind is dict or kind is list:
                    below.append(inner)
        if not below:
            return True
        level = below
    return False
