"""From a recipe to the file tree of an image: Debian packages, Python packages, the kit, own files.

Debian's maintainer scripts never run, so the few files that they would make are made here.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jinja2 import Environment, StrictUndefined, TemplateError

from jewelhouse import templates
from jewelhouse.errors import JewelhouseError, Problem
from jewelhouse.images import rootfs, wheels
from jewelhouse.images.recipe import InvalidRecipe, Recipe
from jewelhouse.images.tree import Entry, Kind, Tree, from_tar, tree
from jewelhouse.model import Platform

PACKAGE = Path(__file__).parents[1]
KIT = f"{wheels.PLACE}/jewelhouse"
# A first process cannot be a package's module when the packages lie in a later ramdisk.
INIT = PACKAGE / "guest" / "init.py"
FIRST = "usr/lib/jewelhouse/init.py"
MACHINES = (Platform.AWS_NITROTPM, Platform.AZURE_CVM, Platform.GCP_CVM)
NETWORK = ("/usr/bin/busybox", "udhcpc", "-n", "-t", "8", "-i", "eth0", "-s", "/usr/lib/jewelhouse/lease")
# What of the guest opens keys on each platform, by the names of its modules; it is loaded by its name.
GUEST_MODULES: Mapping[Platform, str] = {
    Platform.AWS_ENCLAVE: "nitro",
    Platform.AWS_NITROTPM: "nitrotpm",
    Platform.AZURE_CVM: "azure_cvm",
    Platform.AZURE_CONTAINER: "azure_container",
    Platform.GCP_CONFIDENTIAL_SPACE: "confidential_space",
    Platform.GCP_CVM: "gcp_cvm",
}
GUEST = ("/usr/bin/python3", "-m", "jewelhouse.guest")
# Where programs still look since /usr was merged (wiki.debian.org/UsrMerge).
MERGED = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
EMPTY = ("dev", "etc/jewelhouse", "proc", "run", "sys", "tmp", "var/tmp")
# What base-passwd, netbase and libc's scripts would write.
WRITTEN: Mapping[str, str] = {
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/passwd": (
        "root:x:0:0:root:/run:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/run:/usr/sbin/nologin\n"
    ),
}
CERTIFICATES = "usr/share/ca-certificates/mozilla/"
BUNDLE = "etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """The tree of one image, in layers that go one over the other, and what they were made of."""

    layers: tuple[Tree, ...]
    packages: tuple[rootfs.Package, ...]
    wheels: tuple[wheels.Wheel, ...]

    @property
    def whole(self) -> Tree:
        """All layers as one tree."""
        return tree(entry for layer in self.layers for entry in layer.values())


def assemble(
    recipe: Recipe,
    platform: Platform,
    *,
    cache: Path,
    trust: Mapping[str, object] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Assembled:
    """The image's files. `trust` takes the place of the recipe's own trust settings (a rehearsal's).

    Raises JewelhouseError for packages that are not to be had, InvalidRecipe for templates that fail.
    """
    settings = recipe.settings
    architecture = settings.targets[platform].architecture
    more = ("busybox-static",) if platform in MACHINES else ()
    base = rootfs.build(
        rootfs.Request(
            suite=settings.suite,
            packages=(*settings.packages, *more),
            architecture=architecture,
            epoch=recipe.epoch,
            archive=settings.archive,
        ),
        cache,
        report,
    )
    wanted = guest_requirements(platform, gpus=settings.trust.gpu is not None) if settings.guest else []
    if settings.requirements:
        wanted.append(recipe.sources[settings.requirements])
    installed = [
        wheels.install(data, suite=settings.suite, architecture=architecture, cache=cache, report=report)
        for data in wanted
    ]
    python = tree(entry for one in installed for entry in one.entries)
    below = from_tar(base.tar)
    return Assembled(
        layers=(tree([*below.values(), *_made(below)]), python, tree(_own(recipe, platform, trust))),
        packages=base.packages,
        wheels=_distinct(wheel for one in installed for wheel in one.wheels),
    )


def guest_requirements(platform: Platform, *, gpus: bool = False) -> list[bytes]:
    """Pinned requirements of the guest on a platform, and for GPUs where an image demands them."""
    names = [platform.cloud.value, *(["gpu"] if gpus else [])]
    return [(templates.directory() / "images" / "guest" / f"{name}.txt").read_bytes() for name in names]


def _distinct(found: Iterator[wheels.Wheel]) -> tuple[wheels.Wheel, ...]:
    by_name: dict[str, wheels.Wheel] = {}
    for wheel in found:
        other = by_name.setdefault(wheel.name, wheel)
        if other.version != wheel.version:
            raise JewelhouseError(
                f"{wheel.name} is wanted as {wheel.version} and, by the guest, as {other.version}",
                where="requirements",
                remedy=f"pin {wheel.name}=={other.version}",
            )
    return tuple(sorted(by_name.values(), key=lambda wheel: wheel.name))


def _made(below: Tree) -> Iterator[Entry]:
    """What the packages' scripts would have made."""
    for path, target in MERGED.items():
        if path not in below:
            yield Entry(path=path, kind=Kind.LINK, mode=0o777, target=target)
    for path in EMPTY:
        yield Entry(path=path, kind=Kind.DIRECTORY, mode=0o1777 if path.endswith("tmp") else 0o755)
    for path, text in WRITTEN.items():
        if path not in below:
            yield Entry(path=path, kind=Kind.FILE, mode=0o644, content=text.encode())
    certificates = [entry for path, entry in below.items() if path.startswith(CERTIFICATES)]
    if certificates:
        bundle = b"".join(b"".join(entry.chunks()) for entry in certificates if entry.kind is Kind.FILE)
        yield Entry(path=BUNDLE, kind=Kind.FILE, mode=0o644, content=bundle)


def _own(recipe: Recipe, platform: Platform, trust: Mapping[str, object] | None) -> Iterator[Entry]:
    settings = recipe.settings
    values = {"name": recipe.name, "platform": platform.value, "environment": settings.environment}
    problems = []
    for path, file in settings.files.items():
        try:
            data = _content(recipe, path, values)
        except TemplateError as error:
            problems.append((path, file.template, str(error)))
            continue
        yield Entry(path=path[1:], kind=Kind.FILE, mode=int(file.mode, 8), content=data)
    if problems:
        raise InvalidRecipe(_problem(recipe, *one) for one in problems)
    if platform in MACHINES:
        yield Entry(path=FIRST, kind=Kind.FILE, mode=0o644, content=INIT.read_bytes())
        lease = templates.render("images/lease.sh.j2")
        yield Entry(path=NETWORK[-1][1:], kind=Kind.FILE, mode=0o755, content=lease.encode())
        yield Entry(path="etc/resolv.conf", kind=Kind.LINK, mode=0o777, target="/run/resolv.conf")
    run = list(GUEST if settings.guest else settings.run)
    if settings.guest:
        yield from kit(platform, gpus=settings.trust.gpu is not None)
        said = json.dumps(dict(trust or recipe.trust()), indent=1, sort_keys=True)
        yield _text("etc/jewelhouse/trust.json", said + "\n")
    image = {
        "name": recipe.name,
        "platform": platform.value,
        "before": [list(NETWORK)] if platform in MACHINES else [],
        "run": run,
        "environment": settings.environment,
    }
    yield _text("etc/jewelhouse/image.json", json.dumps(image, indent=1, sort_keys=True) + "\n")


def _text(path: str, text: str) -> Entry:
    return Entry(path=path, kind=Kind.FILE, mode=0o644, content=text.encode())


def _content(recipe: Recipe, path: str, values: Mapping[str, object]) -> bytes:
    file = recipe.settings.files[path]
    if file.source is not None:
        return recipe.sources[file.source]
    if file.text is not None:
        return file.text.encode()
    assert file.template is not None
    environment = Environment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    text = recipe.sources[file.template].decode("utf-8", "strict")
    return environment.from_string(text).render(**values).encode()


def _problem(recipe: Recipe, path: str, template: str | None, said: str) -> Problem:
    return Problem(
        where=f"{recipe.directory / str(template)}: files.{path}",
        what=f"the template fails: {said}",
        remedy="it sees name, platform and environment",
    )


def kit(platform: Platform, *, gpus: bool = False) -> Iterator[Entry]:
    """The guest for a platform with the modules that it imports, no others: a key trusts each of them."""
    names = ["__main__", "init", GUEST_MODULES[platform], *(["gpu"] if gpus else [])]
    roots = [PACKAGE / "guest" / f"{name}.py" for name in names]
    for file in sorted(closure(one for one in roots if one.is_file())):
        relative = file.relative_to(PACKAGE).as_posix()
        yield Entry(path=f"{KIT}/{relative}", kind=Kind.FILE, mode=0o644, content=file.read_bytes())


def closure(roots: Iterable[Path]) -> set[Path]:
    """Files of the package that these modules import, themselves included."""
    waiting = list(roots)
    found: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        # Importing a module runs the packages around it.
        for parent in PurePosixPath(file.relative_to(PACKAGE).as_posix()).parents:
            package = PACKAGE / parent / "__init__.py"
            if package.is_file():
                waiting.append(package)
        for name in _imports(file):
            target = PACKAGE.joinpath(*name.split(".")[1:])
            waiting.extend(
                one for one in (target.with_suffix(".py"), target / "__init__.py") if one.is_file()
            )
    return found


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "jewelhouse")
