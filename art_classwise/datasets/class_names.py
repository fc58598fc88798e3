"""Names of the classes that labels are of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from art_classwise._core.labels import check_class_names
from art_classwise.datasets.catalog import DATASETS
from art_classwise.errors import InputError, unknown

__all__ = ["check_given_names", "class_names", "classes_of", "folder_classes"]


def classes_of(y: npt.NDArray[Any], source: str) -> list[str]:
    """Return the names of the classes that labels are of: the labels' own, if they are texts, else numbers from 0.

    Args:
        y: Texts (n,), class numbers (n,) or (n, 1), or one-hot (n, C).
        source: What to call the data in messages.

    Raises:
        InputError: There are none, they aren't labels, or start at 1.
    """
    if y.size == 0:
        raise InputError("The data set is empty: it needs at least one example.")
    if y.dtype.kind in "US":
        return sorted(
            {label.decode(errors="replace") if isinstance(label, bytes) else str(label) for label in y.ravel()}
        )
    if y.ndim == 2 and y.shape[1] > 1:
        return [str(k) for k in range(y.shape[1])]
    if not np.issubdtype(y.dtype, np.number) or not np.isfinite(y).all():
        raise InputError(f"{source}: labels must be whole numbers or names, but got {y.dtype} such as {y.flat[0]!r}.")
    smallest, largest = int(y.min()), int(y.max())
    if largest >= 10_000:  # no set has as many; a wrapped -1 or a wrong column has
        raise InputError(f"{source}: label {largest} of example {int(y.argmax())} can't be a class number.")
    if smallest == 1 and largest > 1:
        raise InputError(
            f"{source}: the labels start at 1 (they go to {largest}), but classes are numbered from 0: give y - 1, or "
            "the names of all classes, that of 0 included."
        )
    return [str(k) for k in range(max(0, largest) + 1)]


def class_names(given: str | Sequence[str] | None, found: Sequence[str], n_classes: int) -> tuple[str, ...]:
    """Return the class names that were given, or those that were found.

    Args:
        given: Names, or the name of the data set whose names they are.
        found: Those in the data.
        n_classes: Number of classes that the labels have.

    Raises:
        InputError: There are fewer than classes, or no such data set.
    """
    if given is None:
        return tuple(found)
    given = _given(given)
    if len(given) < n_classes:
        raise InputError(f"The labels have {n_classes} classes, but {len(given)} class names were given.")
    return given


def check_given_names(given: str | Sequence[str] | None, dataset: str) -> None:
    """Check class names that were given, before the data are read.

    Args:
        given: As for :func:`class_names`.
        dataset: The data set's name, or the path of the data.

    Raises:
        InputError: The data set has its own names, or there is no data set whose names were asked for.
    """
    if given is not None and dataset in DATASETS:
        raise InputError(f"{dataset} has its own class names: they can't be given.")
    if given is not None:
        _given(given)


def folder_classes(
    given: str | Sequence[str] | None, folders: Sequence[str], source: str
) -> tuple[tuple[str, ...], list[int]]:
    """Return the class names of a folder of images, and the class of each of its subfolders.

    Names that were given may be the subfolders' own, in any order and with others among them, in capitals or not; or
    subfolders may be called by the classes' numbers. Names of other kinds are as many, in the subfolders' sorted
    order.

    Args:
        given: As for :func:`class_names`.
        folders: Names of the subfolders, sorted.
        source: What to call the folder in messages.

    Raises:
        InputError: As :func:`class_names`; some subfolders, but not all, are called as classes are; a number is that of
            no class; or other names are fewer or more than subfolders.
    """
    if given is None:
        return tuple(folders), list(range(len(folders)))
    names = _given(given)
    told = f"{', '.join(map(str, names[:5]))}{', ...' if len(names) > 5 else ''}"
    number_of = {str(name).casefold(): k for k, name in enumerate(names)}
    if len(number_of) < len(names):  # they differ by capitals alone
        number_of = {str(name): k for k, name in enumerate(names)}
    numbers = [number_of.get(folder, number_of.get(folder.casefold())) for folder in folders]
    found = [k for k in numbers if k is not None]
    if len({*found}) == len(folders):
        return names, found
    if found:
        other = next(folder for folder, k in zip(folders, numbers, strict=True) if k is None or numbers.count(k) > 1)
        raise InputError(
            f"{source} has subfolders that are called as classes are, such as that of {names[found[0]]!r}, but "
            f"{other!r} is none of the class names that were given ({told}), or there twice: rename it, name it, too, "
            "or leave the names out."
        )
    if all(folder.isascii() and folder.isdecimal() for folder in folders):
        found = [int(folder) for folder in folders]  # 0, 1, 10, 11, 2 as texts
        if max(found) >= len(names) or len({*found}) < len(found):
            raise InputError(
                f"{source} has subfolders that are called by numbers, up to {max(found)}: they must be different "
                f"numbers of the {len(names)} classes whose names were given, 0 to {len(names) - 1}."
            )
        return names, found
    if len(names) != len(folders):
        raise InputError(
            f"{source} has {len(folders)} subfolders ({', '.join(folders[:5])}{', ...' if len(folders) > 5 else ''}), "
            f"but {len(names)} class names were given ({told}): as many are needed where subfolders aren't called as "
            "classes are."
        )
    return names, list(range(len(folders)))


def _given(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return class names that were given, or those of a data set that was."""
    if not isinstance(names, str):
        check_class_names(names)
        return tuple(names)
    known = {name: spec.class_names for name, spec in DATASETS.items() if spec.class_names}
    if names not in known:
        raise unknown("set of class names", names, known, hint="Or give a list of names.")
    return known[names]
