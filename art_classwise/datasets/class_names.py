"""Names of the classes that labels are of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from art_classwise.datasets.catalog import DATASETS
from art_classwise.errors import InputError, unknown

__all__ = ["check_given_names", "class_names", "classes_of"]


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
    if isinstance(given, str):
        given = _names_of(given)
    if len(given) < n_classes:
        raise InputError(f"The labels have {n_classes} classes, but {len(given)} class names were given.")
    return tuple(given)


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
    if isinstance(given, str):
        _names_of(given)


def _names_of(dataset: str) -> tuple[str, ...]:
    known = {name: spec.class_names for name, spec in DATASETS.items() if spec.class_names}
    if dataset not in known:
        raise unknown("set of class names", dataset, known, hint="Or give a list of names.")
    return known[dataset]
