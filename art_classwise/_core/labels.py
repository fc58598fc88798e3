"""Labels and class names, as all that counts by class takes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from art_classwise.errors import InputError, unknown

__all__ = ["check_labels", "class_names", "class_number"]


def check_labels(
    y: npt.ArrayLike, n_examples: int, n_classes: int, *, x_name: str = "x", y_name: str = "y", kind: str = "Label"
) -> npt.NDArray[np.int64]:
    """Return labels as int64 (n,) from indices (n,), (n, 1) or one-hot (n, C).

    Args:
        y: The labels.
        n_examples: n.
        n_classes: C.
        x_name: What to call the examples in messages.
        y_name: What to call ``y``.
        kind: What to call a label.

    Raises:
        InputError: The shape is none of these, the length isn't ``n_examples``, or a label is no class.
    """
    array = np.asarray(y)
    if array.ndim == 0:
        raise InputError(f"{kind}s must be indices (n,) or one-hot (n, {n_classes}), but got {y!r}.")
    if len(array) != n_examples:
        raise InputError(f"{x_name} and {y_name} differ in length: {n_examples} examples, but {len(array)} labels.")
    if array.ndim == 2 and array.shape[1] == n_classes and n_classes > 1:
        array = array.argmax(1)
    elif array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(f"{kind}s must be indices (n,) or one-hot (n, {n_classes}), but got shape {array.shape}.")
    if not np.issubdtype(array.dtype, np.integer):
        if not (np.issubdtype(array.dtype, np.number) and bool(np.all(array == np.floor(array)))):
            raise InputError(f"{kind}s must be whole numbers, but got {array.dtype} such as {array[0]!r}.")
        array = array.astype(np.int64)
    outside = (array < 0) | (array >= n_classes)
    if outside.any():
        first = int(outside.argmax())
        raise InputError(
            f"{kind} {array[first]} of example {first} is outside the {n_classes} classes 0 to {n_classes - 1}."
        )
    return array.astype(np.int64)


def class_names(classes: Sequence[str] | None, n_classes: int) -> list[str] | list[int]:
    """Return the names of the classes; their numbers if there are no names.

    Raises:
        InputError: There are names, but not as many as classes.
    """
    if classes is None:
        return list(range(n_classes))
    if len(classes) != n_classes:
        raise InputError(f"There are {n_classes} classes, but {len(classes)} class names.")
    return list(classes)


def class_number(name: str | int, classes: Sequence[str]) -> int:
    """Return the number of a class given by name or number; a name goes before a number.

    Raises:
        InputError: There is no such class.
    """
    text = str(name)
    if text in classes:
        return list(classes).index(text)
    if text.isascii() and text.isdecimal() and int(text) < len(classes):
        return int(text)
    raise unknown("class", name, classes)
