"""Where sealed files lie: a local directory, or whatever fsspec reaches (s3, gs, abfs, memory).

A store holds ciphertext and signed manifests and is trusted with nothing. Local directories are worked on by
plain system calls; object stores write an object as a whole or not at all.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from jewelhouse.errors import JewelhouseError

# URL scheme -> what installs its fsspec file system.
EXTRAS: Mapping[str, str] = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "az": "adlfs",
}

Read = Callable[[int, int], bytes]
_LIBC = ctypes.CDLL(None, use_errno=True)


class StoreError(JewelhouseError):
    """The store does not hold what it should, or cannot be reached."""


class Missing(StoreError):
    """There is no such object."""


class Store(Protocol):
    """Objects by names like `data/7-0f…/3a…`; names come from the kit and never from a file's path."""

    url: str

    def path(self, name: str) -> str | None:
        """The file of an object, where the store is a local directory."""
        ...

    def get(self, name: str, limit: int) -> bytes:
        """A whole object. Raises Missing; StoreError above `limit` bytes."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Writes or replaces an object: readers see the old one or the new one, never a part."""
        ...

    def put_file(self, name: str, file: Path) -> None:
        """Uploads a file of this machine, in parts where the store takes them."""
        ...

    def sync(self) -> None:
        """Returns when everything written so far will still be there after a loss of power."""
        ...

    def reader(self, name: str) -> Read:
        """Reads ranges of an object by (offset, length)."""
        ...

    def sizes(self, prefix: str) -> dict[str, int]:
        """Sizes in bytes of all objects below `prefix`, by full name."""
        ...

    def delete(self, name: str) -> None:
        """Removes an object, or everything below the name; nothing where there is none."""
        ...


def store(url: str | os.PathLike[str], **options: Any) -> Store:
    """The store at a path or fsspec URL; `options` go to the file system (credentials, endpoint).

    Raises StoreError for a scheme that is not known or whose library is not installed.
    """
    text = os.fspath(url)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return LocalStore(Path(text))
    if scheme in ("file", "local"):
        return LocalStore(Path(rest))
    return RemoteStore(text.rstrip("/"), file_system(text, **options))


def file_system(url: str, **options: Any) -> Any:
    """fsspec's file system for a URL. Raises StoreError."""
    import fsspec

    scheme = url.partition("://")[0]
    try:
        # No cached listings: what another process wrote or removed meanwhile has to be seen.
        return fsspec.filesystem(scheme, **{"use_listings_cache": False, **options})
    except ImportError as error:
        raise StoreError(
            f"{scheme} needs the library {EXTRAS.get(scheme, scheme)}",
            where=url,
            remedy="pip install 'jewelhouse[weights]'",
        ) from error
    except ValueError as error:
        raise StoreError(f"{scheme} is no file system that fsspec knows", where=url) from error


class LocalStore:
    """A directory of this machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def path(self, name: str) -> str:
        return f"{self.url}/{name}"

    def get(self, name: str, limit: int) -> bytes:
        try:
            with open(self.root / name, "rb") as file:
                data = file.read(limit + 1)
        except FileNotFoundError as error:
            raise Missing("is not there", where=str(self.root / name)) from error
        except OSError as error:
            raise StoreError(f"cannot be read: {error.strerror}", where=str(self.root / name)) from error
        return _within(data, limit, str(self.root / name))

    def put(self, name: str, data: bytes) -> None:
        self._replace(name, lambda out: out.write(data))

    def _replace(self, name: str, write: Callable[[IO[bytes]], object]) -> None:
        final = self.root / name
        temporary = final.with_name(f".{final.name}.{secrets.token_hex(8)}")
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, final)
            with _opened(final.parent) as directory:
                os.fsync(directory)
        except OSError as error:
            raise StoreError(f"cannot be written: {error.strerror}", where=str(final)) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def put_file(self, name: str, file: Path) -> None:
        with open(file, "rb") as content:
            self._replace(name, lambda out: shutil.copyfileobj(content, out))

    def sync(self) -> None:
        try:
            # One call for all files: ten thousand of one each would take minutes.
            with _opened(self.root) as directory:
                if _LIBC.syncfs(directory):
                    error = ctypes.get_errno()
                    raise OSError(error, os.strerror(error))
        except FileNotFoundError:
            # Nothing was written yet.
            return
        except OSError as error:
            raise StoreError(f"cannot be written to disk: {error.strerror}", where=self.url) from error

    def reader(self, name: str) -> Read:
        path = self.root / name

        def read(offset: int, length: int) -> bytes:
            try:
                with open(path, "rb", buffering=0) as file:
                    return os.pread(file.fileno(), length, offset)
            except FileNotFoundError as error:
                raise Missing("is not there", where=str(path)) from error
            except OSError as error:
                raise StoreError(f"cannot be read: {error.strerror}", where=str(path)) from error

        return read

    def sizes(self, prefix: str) -> dict[str, int]:
        found: dict[str, int] = {}
        waiting = [prefix.rstrip("/") or "."]
        while waiting:
            directory = waiting.pop()
            try:
                with os.scandir(self.root / directory) as entries:
                    for entry in entries:
                        name = entry.name if directory == "." else f"{directory}/{entry.name}"
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(name)
                        elif entry.is_file(follow_symlinks=False):
                            found[name] = entry.stat(follow_symlinks=False).st_size
                        else:
                            raise StoreError("is neither file nor directory", where=str(self.root / name))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreError(f"cannot be listed: {error.strerror}", where=directory) from error
        return found

    def delete(self, name: str) -> None:
        path = self.root / name
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot be removed: {error.strerror}", where=str(path)) from error


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield opened
    finally:
        os.close(opened)


class RemoteStore:
    """What fsspec reaches. Its file systems may be called from several threads."""

    def __init__(self, url: str, system: Any) -> None:
        self.url = url
        self.system = system
        self.root = str(system._strip_protocol(url)).rstrip("/")

    def path(self, name: str) -> None:
        return None

    def get(self, name: str, limit: int) -> bytes:
        with _told(self.url, name):
            size = self.system.info(self._full(name))["size"]
            if size is not None and size > limit:
                raise StoreError(f"is larger than {limit} bytes", where=f"{self.url}/{name}")
            return _within(self.system.cat_file(self._full(name)), limit, f"{self.url}/{name}")

    def put(self, name: str, data: bytes) -> None:
        with _told(self.url, name):
            self.system.pipe_file(self._full(name), data)

    def put_file(self, name: str, file: Path) -> None:
        with _told(self.url, name):
            self.system.put_file(str(file), self._full(name))

    def sync(self) -> None:
        """Object stores answer when an object is safe."""

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        """A file to write an object to from its beginning; what was written stays when an error ends it."""
        with _told(self.url, name), self.system.open(self._full(name), "wb") as out:
            yield out

    def reader(self, name: str) -> Read:
        def read(offset: int, length: int) -> bytes:
            with _told(self.url, name):
                return self.system.cat_file(self._full(name), start=offset, end=offset + length)

        return read

    def sizes(self, prefix: str) -> dict[str, int]:
        found = self.listing(prefix.rstrip("/"))
        return {name.removeprefix(self.root).lstrip("/"): one["size"] for name, one in found.items()}

    def listing(self, prefix: str = "") -> dict[str, dict[str, Any]]:
        """What the file system says about each object, by its full name; nothing where there is none."""
        with _told(self.url, prefix):
            self.system.invalidate_cache()
            try:
                return dict(self.system.find(self._full(prefix), detail=True))
            except FileNotFoundError:
                return {}

    def delete(self, name: str) -> None:
        with _told(self.url, name):
            try:
                self.system.rm(self._full(name), recursive=True)
            except FileNotFoundError:
                return

    def _full(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root


@contextlib.contextmanager
def _told(url: str, name: str) -> Iterator[None]:
    """Errors of the many libraries behind fsspec, by one name. Their text may hold no more than they say."""
    try:
        yield
    except FileNotFoundError as error:
        raise Missing("is not there", where=f"{url}/{name}") from error
    except JewelhouseError:
        raise
    except Exception as error:
        raise StoreError(f"{type(error).__name__}: {str(error)[:300]}", where=f"{url}/{name}") from error


def _within(data: bytes, limit: int, where: str) -> bytes:
    if len(data) > limit:
        raise StoreError(f"is larger than {limit} bytes", where=where)
    return data
