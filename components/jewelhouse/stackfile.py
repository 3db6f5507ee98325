"""A lifecycle from a stack file on disk, read as Pulumi would read it but without an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import lock
from jewelhouse.model import Lifecycle
from jewelhouse.settings import parse
from jewelhouse.yamlpath import suggestion

CONFIG_KEY = "jewelhouse:lifecycle"


def project_directory(start: Path | None = None) -> Path:
    """The nearest directory upwards from `start` (default: here) with a Pulumi.yaml.

    Raises JewelhouseError when there is none.
    """
    here = (start or Path.cwd()).resolve()
    for directory in (here, *here.parents):
        if (directory / "Pulumi.yaml").is_file():
            return directory
    raise JewelhouseError(
        "there is no Pulumi.yaml here or above",
        where=str(here),
        remedy="change into the project, or use --file",
    )


def stacks_directory(project: Path) -> Path:
    """Where the project keeps its stack files (`stackConfigDir`)."""
    settings = yaml.safe_load((project / "Pulumi.yaml").read_text(encoding="utf-8"))
    return project / settings.get("stackConfigDir", ".")


def stack_names(project: Path) -> list[str]:
    files = stacks_directory(project).glob("Pulumi.*.yaml")
    return sorted(path.name.removeprefix("Pulumi.").removesuffix(".yaml") for path in files)


def path_of(stack: str, project: Path | None = None) -> Path:
    """The file of a stack. Raises JewelhouseError naming the stacks there are."""
    project = project or project_directory()
    path = stacks_directory(project) / f"Pulumi.{stack}.yaml"
    if not path.is_file():
        raise JewelhouseError(
            f"there is no stack {stack}", where=str(path), remedy=suggestion(stack, stack_names(project))
        )
    return path


def read(path: Path) -> Lifecycle:
    """The lifecycle in a stack file, with the lock file beside it.

    Raises JewelhouseError for an unreadable file, InvalidLifecycle or InvalidImages for what is in it.
    """
    return parse(configuration(path), lock.load(path.parent / "images.lock.yaml"))


def configuration(path: Path) -> Any:
    """The raw value of `jewelhouse:lifecycle` in a stack file."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise JewelhouseError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise JewelhouseError(f"is not YAML: {' '.join(str(error).split())}", where=str(path)) from error
    config = content.get("config") if isinstance(content, dict) else None
    if not isinstance(config, dict) or CONFIG_KEY not in config:
        raise JewelhouseError(
            f"has no {CONFIG_KEY} under config",
            where=str(path),
            remedy="docs/configuration.md shows one; `jewelhouse lifecycle schema` helps an editor",
        )
    return config[CONFIG_KEY]
