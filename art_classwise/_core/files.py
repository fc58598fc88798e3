"""Folders that can be written, and files that are whole or not there."""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from art_classwise.errors import InputError

__all__ = ["check_output_file", "check_output_folder", "remove_left_aside", "written_aside"]

_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_DAY = 86_400.0  # seconds
_BEGUN = time.time()


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
        if aside.parent.is_dir():
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
