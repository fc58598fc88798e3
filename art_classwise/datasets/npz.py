"""Arrays in .npz files: how large they are is read first, then the rows that are needed."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from art_classwise._core.archives import checked_directory
from art_classwise._core.files import open_regular
from art_classwise._core.memory import check_memory
from art_classwise.errors import InputError, first_line, printable

__all__ = ["NpzArrays", "open_npz"]

_AT_ONCE = 1 << 24  # bytes

_OTHER_NAMES = {
    "x": ("x", "images", "image", "imgs", "data", "inputs", "arr_0"),
    "y": ("y", "labels", "label", "targets", "target", "arr_1"),
}
"""What arrays of images and labels are called, the likeliest first."""


@dataclass(frozen=True)
class _Entry:
    """An array in a file: where it lies, and what its header says."""

    zipped: zipfile.ZipInfo
    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[Any]

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class NpzArrays:
    """Arrays of an .npz file by the names they are asked for: see :func:`open_npz`.

    Args:
        path: The file.
        entries: Those of its arrays that were asked for.
        names: The names of all, as they are in the file.
    """

    def __init__(self, path: Path, entries: dict[str, _Entry], names: Sequence[str]) -> None:
        self._path, self._entries, self.names = path, entries, tuple(names)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """Return an array's shape, by its header."""
        return self._entries[name].shape

    def n_bytes(self, name: str) -> int:
        """Return how many bytes an array has, by its header."""
        return self._entries[name].n_bytes

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """Return an array.

        Raises:
            InputError: It is larger than the memory, or damaged.
        """
        entry = self._entries[name]
        what = f"{self._path}: {entry.zipped.filename} of {entry.dtype} {entry.shape}"
        check_memory(entry.n_bytes, what, "Ask for fewer examples (`n_examples`), or split the file.")
        with self._opened(entry) as content:
            array: npt.NDArray[Any] = np.lib.format.read_array(content, allow_pickle=False)
            if content.read(1):  # also: the checksum is compared at the end
                raise ValueError("more follows its values")
            return array

    def get(self, name: str) -> npt.NDArray[Any] | None:
        """Return an array, if it is there: see :meth:`__getitem__`."""
        return self[name] if name in self._entries else None

    def has_rows(self, name: str) -> bool:
        """Return whether an array can be read row by row: of numbers, not empty, and its rows follow one another."""
        entry = self._entries[name]
        return entry.dtype.kind in "biuf" and entry.n_bytes > 0 and len(entry.shape) > 1 and not entry.fortran_order

    def rows(self, name: str, chosen: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """Return rows of an array, and the two with its smallest and its largest value, which tell how it is scaled.

        All of it is read, since no checksum could be compared otherwise, but no more than these are kept.

        Args:
            name: Of an array of which :meth:`has_rows`.
            chosen: Numbers of rows, rising.

        Returns:
            The rows, and their numbers: those chosen, and behind them the two.

        Raises:
            InputError: A value isn't finite, or the file is damaged.
        """
        entry = self._entries[name]
        row_bytes = entry.n_bytes // entry.shape[0]
        what = f"{self._path}: {len(chosen) + 2} rows of {entry.zipped.filename}"
        check_memory(row_bytes * (len(chosen) + 2), what, "Ask for fewer examples (`n_examples`).")
        step = max(1, _AT_ONCE // row_bytes)
        kept = np.empty((len(chosen) + 2, *entry.shape[1:]), entry.dtype)
        numbers = np.concatenate([chosen, [0, 0]]).astype(np.int64)
        low, high = None, None
        with self._opened(entry) as content:
            _read_header(content)
            for begin in range(0, entry.shape[0], step):
                n = min(step, entry.shape[0] - begin)
                raw = content.read(n * row_bytes)
                if len(raw) != n * row_bytes:
                    raise ValueError("it is cut short")
                part = np.frombuffer(raw, entry.dtype).reshape(n, *entry.shape[1:])
                first, last = np.searchsorted(chosen, (begin, begin + n))
                kept[first:last] = part[chosen[first:last] - begin]
                flat = part.reshape(n, -1)
                if entry.dtype.kind == "f" and not np.isfinite(flat).all():
                    bad = begin + int((~np.isfinite(flat)).any(1).argmax())
                    raise InputError(f"Example {bad} of x has a pixel that is not finite.")
                lows, highs = flat.min(1), flat.max(1)
                if low is None or lows.min() < low:
                    low, at = lows.min(), int(lows.argmin())
                    kept[-2], numbers[-2] = part[at], begin + at
                if high is None or highs.max() > high:
                    high, at = highs.max(), int(highs.argmax())
                    kept[-1], numbers[-1] = part[at], begin + at
            if content.read(1):
                raise ValueError("more follows its values")
        return kept, numbers

    @contextmanager
    def _opened(self, entry: _Entry) -> Iterator[IO[bytes]]:
        with (
            _refusing_damage(self._path),
            open_regular(self._path) as file,
            zipfile.ZipFile(file) as archive,
            archive.open(entry.zipped) as content,
        ):
            yield content


def open_npz(path: Path, needed: Sequence[str], optional: Sequence[str] = (), split: str = "test") -> NpzArrays:
    """Return the arrays of an .npz file by name, of which only the headers are read.

    Args:
        path: The file.
        needed: Names that must be among them, or others that mean the same: ``images`` for x, ``labels`` for y, with
            the split before or behind them, as in ``x_test`` or ``train_images``, and in any case.
        optional: Names that may be.
        split: Which arrays to take, where there are several.

    Raises:
        InputError: The file is missing or damaged, or lacks one of them.
    """
    how = ", ".join(f"{name}={'images' if name == 'x' else 'labels'}" for name in needed)
    if not path.is_file():
        raise InputError(f"There is no file {path.absolute()}.")
    with _refusing_damage(path), open_regular(path) as file:
        if file.read(2) != b"PK":
            raise InputError(f"{path} is not an .npz file: write it with numpy.savez(path, {how}).")
        try:
            zipped = {entry.filename.removesuffix(".npy"): entry for entry in checked_directory(file, packed=True)}
        except ValueError as error:
            raise InputError(f"{path} is a damaged .npz file: it {error}") from error
        named = {name: _key(name, list(zipped), split) for name in needed}
        if None in named.values():
            raise InputError(
                f"{path} must hold arrays named {' and '.join(needed)}, but it holds "
                f"{printable(', '.join(zipped)[:200]) or 'nothing'}: write it with numpy.savez(path, {how})."
            )
        keys = {name: str(key) for name, key in named.items()} | {name: name for name in optional if name in zipped}
        with zipfile.ZipFile(file) as archive:
            entries = {name: _entry(archive, zipped[key], path) for name, key in keys.items()}
        return NpzArrays(path, entries, [*zipped])


def _entry(archive: zipfile.ZipFile, zipped: zipfile.ZipInfo, path: Path) -> _Entry:
    with archive.open(zipped) as content:
        shape, fortran_order, dtype = _read_header(content)
        begin = content.tell()
    if dtype.hasobject:
        raise InputError(f"{path} holds Python objects, which are not loaded: save plain arrays.")
    if any(side < 0 for side in shape):
        raise ValueError(f"{zipped.filename} is of shape {shape}")
    entry = _Entry(zipped, shape, fortran_order, dtype)
    if begin + entry.n_bytes != zipped.file_size:
        raise ValueError(
            f"{zipped.filename} says that it holds {dtype} {shape}, {entry.n_bytes:,} bytes, but has "
            f"{zipped.file_size - begin:,}"
        )
    return entry


def _read_header(content: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(content)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(content)


@contextmanager
def _refusing_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{path} doesn't fit into memory: {first_line(error)}.") from error
    except Exception as error:  # a damaged file breaks NumPy's reader in many ways
        if "allow_pickle" in str(error):
            raise InputError(f"{path} holds Python objects, which are not loaded: save plain arrays.") from error
        raise InputError(f"{path} is a damaged .npz file: {first_line(error)}") from error


def _key(name: str, keys: Sequence[str], split: str) -> str | None:
    """Return the key of the array that is meant by a name."""
    lowered = {key.lower(): key for key in reversed(keys)}
    splits = (split, "val", "valid") if split == "test" else (split,)
    for other in _OTHER_NAMES.get(name, (name,)):
        for key in (other, *(f"{other}_{s}" for s in splits), *(f"{s}_{other}" for s in splits)):
            if key in lowered:
                return lowered[key]
    return None
