"""Arrays in pickles, read without running what a pickle says."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from art_classwise._core.files import check_output_file, open_regular, output_file
from art_classwise.errors import InputError, first_line

__all__ = ["convert_pickle"]

_IMAGES, _LABELS = ("data", "x", "images"), ("extrapolated_targets", "y_pseudo", "pseudo_labels", "y", "labels")


def convert_pickle(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Convert a pickle of images and pseudo-labels to an ``.npz`` file that :func:`load_unlabeled` reads.

    Made for the 500,000 images of Carmon et al. 2019 (arXiv 1905.13736), ``ti_500K_pseudo_labeled.pickle``: a dict with
    ``data``, uint8 (m, 32, 32, 3), and ``extrapolated_targets`` (m,). A pickle can name any function to be run when it
    is read. Here it can't: arrays of plain numbers, numbers, texts and containers of these are made by functions of
    ours, and anything else is refused.

    Args:
        source: The pickle: a dict with ``data``, ``x`` or ``images``, and perhaps with ``extrapolated_targets``,
            ``y_pseudo``, ``pseudo_labels``, ``y`` or ``labels``.
        target: The ``.npz`` file to write, with ``x`` as it was and ``y_pseudo``, int64 (m,).

    Raises:
        InputError: The pickle can't be read, holds something else or damaged data, or the file can't be written.
    """
    path = Path(source)
    held = _read(path)
    if not isinstance(held, dict):
        raise InputError(f"{path} must hold a dict of arrays, but holds a {type(held).__name__}.")
    arrays = {
        key.decode("latin1") if isinstance(key, bytes) else str(key): value.array
        for key, value in held.items()
        if isinstance(value, _Array)
    }
    x, labels = (next((arrays[k] for k in names if k in arrays), None) for names in (_IMAGES, _LABELS))
    if x is None or x.ndim not in (3, 4) or len(x) == 0:
        shapes = ", ".join(f"{key} {array.shape}" for key, array in arrays.items())
        raise InputError(
            f"{path} must hold images (m, height, width, channels) as {' or '.join(_IMAGES)}, but its arrays are: "
            f"{shapes or 'none'}."
        )
    found = {"x": x}
    if labels is not None:
        if labels.shape != (len(x),) or labels.dtype.kind not in "iu" or labels.min() < 0:
            raise InputError(
                f"{path}: pseudo-labels must be {len(x):,} whole numbers from 0, one per image, but are {labels.dtype} "
                f"of shape {labels.shape}" + (f", from {labels.min()}." if labels.size else ".")
            )
        found["y_pseudo"] = labels.astype(np.int64)
    aim = check_output_file(target, "images.npz")
    if aim.suffix != ".npz":
        raise InputError(f"The file to write must end in .npz, but got {str(target)!r}.")
    with output_file(aim, "images.npz") as aside, aside.open("wb") as file:
        np.savez(file, **found)  # type: ignore[arg-type]  # NumPy takes its flags among them


def _read(path: Path) -> Any:
    try:
        with open_regular(path) as file:
            return _Arrays(file, encoding="latin1").load()
    except InputError as error:
        raise InputError(f"{path} is not read: {error}") from None
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}.") from error
    except Exception as error:  # a damaged pickle breaks its reader in many ways
        raise InputError(f"{path} is no pickle of arrays, or a damaged one: {first_line(error)}") from error


class _DType:
    """Stands for a ``numpy.dtype``, of plain numbers only."""

    def __init__(self, name: str, *_: Any) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[biuf][1248]", name):
            raise InputError(f"it holds an array of {name!r:.40}, and only plain numbers are taken.")
        self.value = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class _Array:
    """Stands for a ``numpy.ndarray``."""

    def __init__(self, array: npt.NDArray[Any] | None = None) -> None:
        self.array = np.zeros(0) if array is None else array

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # of Python 2
        self.array = _frombuffer(raw, dtype, shape, "F" if fortran else "C").array


def _frombuffer(raw: Any, dtype: _DType, shape: tuple[int, ...], order: Any = "C") -> _Array:
    return _Array(np.frombuffer(raw, dtype.value).reshape(shape, order="F" if order == "F" else "C"))


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")  # how pickles before protocol 3 hold bytes


def _scalar(dtype: _DType, raw: Any) -> Any:
    return np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, dtype.value)[0].item()


_STANDS_FOR: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): _Array,
    ("_codecs", "encode"): _encode,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")  # before NumPy 2, and since
        for module, name, function in (
            ("multiarray", "_reconstruct", lambda *_: _Array()),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
}


class _Arrays(pickle.Unpickler):
    """Reads arrays, numbers, texts and containers: of all that a pickle may name, it knows what NumPy's arrays need."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a function or a class, none of which is imported."""
        if (module, name) not in _STANDS_FOR:
            raise InputError(
                f"it asks for {module}.{name}, which a file of arrays doesn't need. Of torch tensors save the arrays, "
                "numpy.savez(path, x=images.numpy(), y_pseudo=labels.numpy())."
                if module.partition(".")[0] == "torch"
                else f"it asks to run {module}.{name}, which a file of arrays doesn't need."
            )
        return _STANDS_FOR[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Refuse what lies outside of the file."""
        raise InputError("it refers to data outside of it.")
