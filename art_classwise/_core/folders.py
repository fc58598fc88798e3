"""Folders on disks, in buckets and in memory: by their address, through fsspec; files there are whole or not there."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from uuid import uuid4

import fsspec

from art_classwise._core.files import check_output_folder, read_regular, remove_left_aside, written_aside
from art_classwise.errors import InputError, first_line

__all__ = ["SCHEMES", "DiskFolder", "Folder", "MemoryFolder", "RemoteFolder", "is_remote", "open_folder"]

SCHEMES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "memory": None,
}
"""Addresses that are taken beside paths, and the package that each needs."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/{0,2})")  # two letters or more: C:\ is a disk


class Folder(Protocol):
    """A folder that files are read from and written to, by names with ``/`` between: ``"outcomes/a.parquet"``."""

    @property
    def address(self) -> str:
        """What a person calls it."""

    def read(self, name: str) -> bytes:
        """Return what a file holds.

        Raises:
            FileNotFoundError: There is none.
            OSError: It can't be read.
        """

    def write(self, name: str, content: bytes) -> None:
        """Write a file: whoever reads it meanwhile, or after a crash, finds the old one whole, or the new one.

        Raises:
            OSError: It can't be written.
        """

    def files(self, name: str) -> list[str]:
        """Return names of the files directly in a folder below this one, sorted; none where there is no such folder."""

    def folders(self, name: str) -> list[str]:
        """Return names of the folders directly in a folder below this one, sorted."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def exists(self, name: str) -> bool:
        """Return whether there is such a file."""

    def state(self, name: str) -> object:
        """Return what changes when a file is written or replaced; None where that isn't known.

        Raises:
            FileNotFoundError: There is none.
        """

    def size(self, name: str) -> int:
        """Return how many bytes a file has.

        Raises:
            FileNotFoundError: There is none.
        """

    def where(self, name: str = "") -> str:
        """Return the address of a file, as a person would open it."""

    def check_writable(self) -> None:
        """Make the folder and see that a file can be written there, before any work is done.

        Raises:
            InputError: It can't.
        """


class DiskFolder:
    """A folder on a disk. What is written is written aside, flushed and renamed; links out of it are refused.

    Args:
        path: The folder; it may be missing.

    Raises:
        InputError: It is a symbolic link.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        _refuse_link(self.path)

    @property
    def address(self) -> str:
        """Its path."""
        return str(self.path)

    def read(self, name: str) -> bytes:
        """See :meth:`Folder.read`."""
        return read_regular(self._at(name))

    def write(self, name: str, content: bytes) -> None:
        """See :meth:`Folder.write`."""
        path = self._at(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside:
            aside.write_bytes(content)

    def files(self, name: str) -> list[str]:
        """See :meth:`Folder.files`."""
        return [entry.name for entry in self._entries(name) if not entry.is_dir(follow_symlinks=False)]

    def folders(self, name: str) -> list[str]:
        """See :meth:`Folder.folders`."""
        return [entry.name for entry in self._entries(name) if entry.is_dir(follow_symlinks=False)]

    def remove(self, name: str) -> None:
        """See :meth:`Folder.remove`."""
        self._at(name).unlink(missing_ok=True)

    def exists(self, name: str) -> bool:
        """See :meth:`Folder.exists`."""
        return self._at(name).exists()

    def state(self, name: str) -> object:
        """See :meth:`Folder.state`."""
        status = self._at(name).stat()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def size(self, name: str) -> int:
        """See :meth:`Folder.size`."""
        return self._at(name).stat().st_size

    def where(self, name: str = "") -> str:
        """See :meth:`Folder.where`."""
        return str(self.path / name)

    def check_writable(self) -> None:
        """See :meth:`Folder.check_writable`."""
        check_output_folder(self.path)

    def remove_left_aside(self, name: str) -> None:
        """Remove what killed processes left half written: see :func:`art_classwise._core.files.remove_left_aside`."""
        remove_left_aside(self._at(name))

    def _at(self, name: str) -> Path:
        path = str(self.path)
        for part in PurePosixPath(name).parts:
            path = os.path.join(path, part)
            _refuse_link(path)
        return Path(path)

    def _entries(self, name: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self._at(name)) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            return []


class RemoteFolder:
    """A folder in an object store, or in memory: a file there is put whole, or it isn't.

    Args:
        address: E.g. ``"s3://bucket/audits/one"``.

    Raises:
        InputError: What the address needs isn't installed, or credentials are absent.
    """

    def __init__(self, address: str) -> None:
        scheme = address.partition(":")[0].lower()
        self.address = address.rstrip("/")
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.address, use_listings_cache=False)
        except ImportError as error:
            package = SCHEMES[scheme]
            raise InputError(
                f"{self.address} needs the package {package}: pip install {package}, or name a folder on a disk."
            ) from error
        except Exception as error:  # of the store's own kind
            raise self._failed(error) from error
        self._root = self._root.rstrip("/")

    def read(self, name: str) -> bytes:
        """See :meth:`Folder.read`."""
        with self._answered():
            content: bytes = self._files.cat_file(self._at(name))
            return content

    def write(self, name: str, content: bytes) -> None:
        """See :meth:`Folder.write`."""
        with self._answered():
            self._files.pipe_file(self._at(name), content)

    def files(self, name: str) -> list[str]:
        """See :meth:`Folder.files`."""
        return self._listed(name, "file")

    def folders(self, name: str) -> list[str]:
        """See :meth:`Folder.folders`."""
        return self._listed(name, "directory")

    def remove(self, name: str) -> None:
        """See :meth:`Folder.remove`."""
        try:
            with self._answered():
                self._files.rm_file(self._at(name))
        except FileNotFoundError:
            return

    def exists(self, name: str) -> bool:
        """See :meth:`Folder.exists`."""
        with self._answered():
            there: bool = self._files.exists(self._at(name))
            return there

    def state(self, name: str) -> object:
        """See :meth:`Folder.state`."""
        with self._answered():
            told = self._files.info(self._at(name))
        return told.get("ETag") or told.get("etag")

    def size(self, name: str) -> int:
        """See :meth:`Folder.size`."""
        with self._answered():
            return int(self._files.size(self._at(name)))

    def where(self, name: str = "") -> str:
        """See :meth:`Folder.where`."""
        return f"{self.address}/{name}" if name else self.address

    def check_writable(self) -> None:
        """See :meth:`Folder.check_writable`."""
        trial = f".writable-{uuid4().hex}"
        try:
            self.write(trial, b"")
            self.remove(trial)
        except OSError as error:
            raise InputError(f"{self.address} can't be written ({first_line(error)}): choose another place.") from error

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _listed(self, name: str, kind: str) -> list[str]:
        try:
            with self._answered():
                self._files.invalidate_cache()
                entries: list[dict[str, Any]] = self._files.ls(self._at(name), detail=True)
        except FileNotFoundError:
            return []
        own = self._at(name).rstrip("/")
        names = (str(e["name"]).rstrip("/") for e in entries if e["type"] == kind)
        return sorted(one.rpartition("/")[2] for one in names if one.lstrip("/") != own.lstrip("/"))

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """Turn what a store's own libraries raise into an OSError, and absent credentials into a sentence."""
        try:
            yield
        except (OSError, InputError) as error:
            if isinstance(error, FileNotFoundError) or not _lacks_credentials(error):
                raise
            raise self._failed(error) from error
        except Exception as error:  # of the store's own kind: botocore's don't inherit OSError
            if _lacks_credentials(error):
                raise self._failed(error) from error
            raise OSError(first_line(error)) from error

    def _failed(self, error: Exception) -> InputError:
        return InputError(
            f"{self.address} can't be opened: {first_line(error)}. Credentials come from where the store's own tools "
            "look for them: environment variables or configuration files."
        )


class MemoryFolder:
    """A folder in this process's memory, gone with the object: what isn't kept leaves nothing, however it ends."""

    def __init__(self) -> None:
        self.address = "memory"
        self._content: dict[str, bytes] = {}

    def read(self, name: str) -> bytes:
        """See :meth:`Folder.read`."""
        try:
            return self._content[name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.where(name)) from None

    def write(self, name: str, content: bytes) -> None:
        """See :meth:`Folder.write`."""
        self._content[name] = content

    def files(self, name: str) -> list[str]:
        """See :meth:`Folder.files`."""
        return sorted(rest for rest in self._below(name) if "/" not in rest)

    def folders(self, name: str) -> list[str]:
        """See :meth:`Folder.folders`."""
        return sorted({rest.partition("/")[0] for rest in self._below(name) if "/" in rest})

    def remove(self, name: str) -> None:
        """See :meth:`Folder.remove`."""
        self._content.pop(name, None)

    def exists(self, name: str) -> bool:
        """See :meth:`Folder.exists`."""
        return name in self._content

    def state(self, name: str) -> object:
        """See :meth:`Folder.state`."""
        return self.read(name)

    def size(self, name: str) -> int:
        """See :meth:`Folder.size`."""
        return len(self.read(name))

    def where(self, name: str = "") -> str:
        """See :meth:`Folder.where`."""
        return f"{self.address}/{name}" if name else self.address

    def check_writable(self) -> None:
        """See :meth:`Folder.check_writable`."""

    def _below(self, name: str) -> list[str]:
        begin = f"{name}/" if name else ""
        return [one[len(begin) :] for one in list(self._content) if one.startswith(begin)]


def is_remote(place: str | os.PathLike[str]) -> bool:
    """Return whether a place is named by an address such as ``s3://bucket/folder``.

    Raises:
        InputError: It is one of another scheme, or isn't written as one.
    """
    text = os.fspath(place)
    match = _SCHEME.match(text)
    if match is None or match[1].lower() == "file":
        return False
    if match[1].lower() not in SCHEMES:
        if match[2] != "//":
            return False  # a path with a colon
        taken = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise InputError(f"{text} can't be used: addresses begin with {taken} or file://, all else is a path.")
    if match[2] != "//" or not isinstance(place, str):  # Path("s3://a") is "s3:/a", a folder on the disk
        raise InputError(f"{text} can't be used: write an address as a text, {match[1].lower()}://FOLDER.")
    return True


def open_folder(place: str | os.PathLike[str]) -> Folder:
    """Return a folder by its path or address.

    Args:
        place: A path, ``file://...``, or an address with one of :data:`SCHEMES`.

    Raises:
        InputError: The scheme is another, its package isn't installed, credentials are absent, or a path is a symbolic
            link.
    """
    if is_remote(place):
        return RemoteFolder(str(place))
    if isinstance(place, str) and place.lower().startswith("file:"):
        return DiskFolder(fsspec.core.url_to_fs(place)[1])
    return DiskFolder(place)


_CREDENTIALS = ("credential", "unauthorized", "access denied", "accessdenied", "forbidden", "invalidaccesskeyid")


def _lacks_credentials(error: Exception) -> bool:
    said = f"{type(error).__name__} {error}".lower()
    return isinstance(error, PermissionError) or any(words in said for words in _CREDENTIALS)


def _refuse_link(path: str | Path) -> None:
    if os.path.islink(path):
        path = Path(path)
        raise InputError(
            f"{path.absolute()} is a symbolic link, and an audit writes into no folder or file that another may have "
            f"chosen: name the folder itself, {path.resolve()}, or remove the link."
        )
