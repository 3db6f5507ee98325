"""Jinja2 templates of the kit: user data, units, allow-lists, reports."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def directory() -> Path:
    """The template directory: inside an installed wheel, else `templates/` of the checkout."""
    inside = Path(__file__).parent / "templates"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "templates"


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(directory()),
        undefined=StrictUndefined,
        autoescape=False,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(name: str, /, **values: Any) -> str:
    """The template `name` (`aws/enclave-user-data.sh.j2`) with `values`.

    Raises jinja2.UndefinedError when the template uses a value that was not given.
    """
    return _environment().get_template(name).render(**values)
