"""From what pydantic found to problems with a YAML path, in words a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from jewelhouse.errors import Problem


def kebab(name: str) -> str:
    return name.replace("_", "-")


class Settings(BaseModel):
    """A part of a configuration file: kebab-case keys, nothing unknown, values never coerced by guess."""

    model_config = ConfigDict(
        alias_generator=kebab,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        regex_engine="python-re",
        hide_input_in_errors=True,
    )


SettingsT = TypeVar("SettingsT", bound=Settings)


def validated(model: type[SettingsT], value: Any, where: str, problems: list[Problem]) -> SettingsT | None:
    """`value` as `model`, or None with everything that is wrong appended to `problems`."""
    if not isinstance(value, dict):
        problems.append(
            Problem(where=where, what=f"must be a mapping, found {_kind(value)}", remedy=_keys(model))
        )
        return None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems.extend(_problems(error, model, where))
        return None


def _problems(error: ValidationError, model: type[BaseModel], where: str) -> Iterable[Problem]:
    for entry in error.errors(include_url=False):
        path = join(where, [part for part in entry["loc"] if part != "__root__"])
        last = str(entry["loc"][-1]) if entry["loc"] else ""
        kind = entry["type"]
        context = entry.get("ctx", {})
        if kind == "extra_forbidden":
            known = _known_keys(model, entry["loc"][:-1])
            close = difflib.get_close_matches(last, known, n=1)
            yield Problem(
                where=path,
                what="is not a known setting",
                remedy=f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}",
            )
        elif kind == "missing":
            yield Problem(where=path, what="is missing", remedy=_description(model, entry["loc"]))
        elif kind == "enum":
            expected = str(context.get("expected", "")).replace("'", "")
            found = str(entry["input"])
            close = difflib.get_close_matches(found, expected.replace(" or ", ", ").split(", "), n=1)
            yield Problem(
                where=path,
                what=f"{found} is not one of {expected}",
                remedy=f"did you mean {close[0]}?" if close else "",
            )
        elif kind == "string_type" and isinstance(entry["input"], int | float):
            yield Problem(
                where=path,
                what=f"must be text, found the number {entry['input']}",
                remedy="put it in quotes: YAML drops leading zeros of numbers",
            )
        elif kind == "value_error":
            yield Problem(where=path, what=str(context["error"]))
        elif kind == "string_pattern_mismatch":
            yield Problem(
                where=path,
                what=f"{entry['input']!r} has not the form {context['pattern']}",
                remedy=_description(model, entry["loc"]),
            )
        else:
            message = entry["msg"]
            yield Problem(
                where=path,
                what=f"{message[:1].lower()}{message[1:]}, found {_kind(entry['input'])}",
                remedy=_description(model, entry["loc"]),
            )


def join(where: str, parts: Sequence[int | str]) -> str:
    """A YAML path: `stages.train.opens[0]`."""
    path = where
    for part in parts:
        path = f"{path}[{part}]" if isinstance(part, int) else f"{path}.{part}" if path else str(part)
    return path


def suggestion(found: str, known: Iterable[str]) -> str:
    """`did you mean x?` for a name close to a known one, else the known names."""
    names = sorted(known)
    close = difflib.get_close_matches(found, names, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(names)}" if names else ""


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool | int | float | str):
        return repr(value)
    return "a list" if isinstance(value, list) else "a mapping"


def _model_at(model: type[BaseModel], path: Sequence[int | str]) -> type[BaseModel] | None:
    for part in path:
        for name, info in model.model_fields.items():
            if part in (info.alias, name):
                candidates = [info.annotation, *getattr(info.annotation, "__args__", ())]
                nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
                if not nested:
                    return None
                model = nested[0]
                break
        else:
            return None
    return model


def _known_keys(model: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    inner = _model_at(model, path)
    return sorted(info.alias or name for name, info in inner.model_fields.items()) if inner else []


def _keys(model: type[BaseModel]) -> str:
    return f"known here: {', '.join(_known_keys(model, ()))}"


def _description(model: type[BaseModel], path: Sequence[int | str]) -> str:
    if not path:
        return ""
    inner = _model_at(model, path[:-1])
    if inner is None:
        return ""
    for name, info in inner.model_fields.items():
        if path[-1] in (info.alias, name):
            return info.description or ""
    return ""
