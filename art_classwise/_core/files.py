"""Folders that can be written, and files that are whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from art_classwise._core.memory import memory_size, size_text
from art_classwise.errors import InputError, WriteError, first_line

__all__ = [
    "check_output_file",
    "check_output_folder",
    "contents",
    "open_regular",
    "output_file",
    "read_regular",
    "remove_left_aside",
    "written_aside",
]

_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_DAY = 86_400.0  # seconds
_SMALL = 1 << 20  # bytes, which there always are
_BEGUN = time.time()


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading, if it is one: of a pipe or a device nobody knows when it ends.

    Raises:
        OSError: It can't be opened, or is none.
    """
    # A pipe that nobody writes to, or a device, would be waited for.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(kind):
            raise OSError(errno.EINVAL, "It is a pipe or a device, not a file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], most: int | None = None) -> bytes:
    """Return what a file holds.

    Args:
        path: The file.
        most: How many bytes it may have; as many as there are of memory, if absent.

    Raises:
        OSError: It can't be read, is none, or has more.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        # Asking the system takes longer than reading a small file.
        limit = most if most is not None else max(_SMALL, memory_size() if size > _SMALL else 0)
        if size > limit:
            raise OSError(errno.EFBIG, f"It has {size_text(size)}, and at most {size_text(limit)} are read", str(path))
        return file.read()


def check_output_folder(folder: str | os.PathLike[str]) -> Path:
    """Make the folder, and see that a file can be written there, before any work is done.

    Raises:
        InputError: It can't be made or written.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):  # nameless: a process killed here leaves nothing
            pass
    except OSError as error:
        raise InputError(
            f"The folder {path.absolute()} can't be written ({error.strerror}): choose another."
        ) from error
    return path


def check_output_file(file: str | os.PathLike[str], example: str) -> Path:
    """See that a file can be written, before any work is done; its folder is made.

    Args:
        file: The file.
        example: A name for it, should it be a folder.

    Raises:
        InputError: It is a folder, or its folder can't be made or written.
    """
    path = Path(file)
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file, such as {path / example}.")
    check_output_folder(path.absolute().parent)
    return path


@contextmanager
def output_file(file: str | os.PathLike[str], example: str) -> Iterator[Path]:
    """Yield a path to write a file to that the user asked for: see :func:`written_aside`.

    Args:
        file: The file; its folder is made.
        example: A name for it, should it be a folder.

    Raises:
        InputError: It is a folder.
        WriteError: It can't be written: on a full disk, say, or in a folder that is gone.
    """
    path = check_output_file(file, example)
    try:
        with written_aside(path) as aside:
            yield aside
    except OSError as error:
        raise WriteError(f"{path.absolute()} can't be written: {error.strerror or first_line(error)}.") from error


def contents(write: Mapping[str, Callable[[Path], None]]) -> dict[str, bytes]:
    """Return what functions write into files, by the files' names, for a folder that isn't on a disk.

    Args:
        write: By the file's name a function that writes it to a path.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, one in write.items():
            one(Path(folder, name))
        return {name: Path(folder, name).read_bytes() for name in write}


@contextmanager
def written_aside(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target`` to write to; it takes the target's place once the block ends without an error.

    Whoever reads ``target`` meanwhile, or after a crash, finds the old file whole.
    """
    aside = target.with_name(f".{target.name}.{_HOST}-{os.getpid()}-{uuid4().hex[:8]}.tmp")
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(target)
    finally:
        with suppress(OSError):  # what went wrong is more than what is left; the folder may be gone
            aside.unlink(missing_ok=True)


def remove_left_aside(folder: Path, target: str = "*") -> None:
    """Remove what killed processes left in :func:`written_aside`: those of this machine, and of any after a day.

    Args:
        folder: Where.
        target: Name of the file that was to be written, or a pattern of names.
    """
    for left in folder.glob(f".{target}.*.tmp"):
        host, _, rest = left.name.rsplit(".", 2)[1].rpartition("-")[0].rpartition("-")
        with suppress(OSError, ValueError):
            age = time.time() - left.stat().st_mtime
            if (host == _HOST and not _may_write(int(rest), age)) or age > _DAY:
                left.unlink(missing_ok=True)


def _may_write(process: int, age: float) -> bool:
    """Return whether a process of this machine runs that may have begun a file of a certain age."""
    if process == os.getpid():
        return age < time.time() - _BEGUN  # else an earlier process of this number
    if os.name == "nt":  # where asking with a signal would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
