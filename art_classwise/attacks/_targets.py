"""Which classes an example may be moved into."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from art_classwise.errors import InputError, check_whole

__all__ = ["Targets", "allowed_targets", "check_classes", "check_targets"]

Targets: TypeAlias = str | int | Sequence[int] | npt.NDArray[Any]
"""``"all"``, a number of nearest classes, classes, or (C, C) bool: who may be sent where."""


def allowed_targets(y: Tensor, n_classes: int, targets: Targets, excluded: Sequence[int]) -> Tensor:
    """Return (m, C) bool: the classes that examples with labels y (m,) may be moved into.

    Raises:
        InputError: An example's label is one of its targets, or excluded.
    """
    allowed = torch.ones(len(y), n_classes, dtype=torch.bool, device=y.device)
    if not isinstance(targets, (str, numbers.Integral)):
        array = np.asarray(targets)
        if array.ndim == 2:
            allowed = torch.from_numpy(array.astype(bool)).to(y.device)[y]
        else:
            own = np.isin(y.cpu().numpy(), array)
            if own.any():
                label = int(y[int(own.argmax())])
                raise InputError(
                    f"Class {label} is a target, but also the label of an example: moving an example into its own "
                    "class would make the model look better, not worse. Leave those examples out, or give a (C, C) "
                    "boolean matrix of who may be sent where, its diagonal False."
                )
            allowed = torch.zeros_like(allowed)
            allowed[:, torch.from_numpy(array.astype(np.int64)).to(y.device)] = True
    if excluded:
        gone = torch.tensor([int(k) for k in excluded], device=y.device)
        if bool(torch.isin(y, gone).any()):
            raise InputError(
                f"Examples of the excluded class {int(y[torch.isin(y, gone)][0])} can't be attacked: a model "
                "without that class has no right answer for them. Leave them out of x."
            )
        allowed[:, gone] = False
    return allowed.scatter(1, y[:, None], False)


def check_targets(targets: Targets, excluded: list[int], n_classes: int) -> None:
    """Check that there are such targets, none of them excluded.

    Raises:
        InputError: They are none of the four forms, name what is no class, or send a class into itself.
    """
    if isinstance(targets, str):
        if targets != "all":
            raise InputError(f'`targets` must be "all", a number, classes or a matrix, but got {targets!r}.')
    elif isinstance(targets, numbers.Integral):
        check_whole("targets", targets, 1)
    else:
        try:
            array = np.asarray(targets)
        except ValueError:
            raise InputError(f"`targets` must be classes or a matrix, but its rows differ: {targets!r}.") from None
        _check_array(array, targets, excluded, n_classes)


def _check_array(array: npt.NDArray[Any], targets: Targets, excluded: list[int], n_classes: int) -> None:
    if array.ndim == 2:
        if array.shape != (n_classes, n_classes) or array.dtype != bool:
            raise InputError(
                f"`targets` as a matrix must be boolean of shape ({n_classes}, {n_classes}), row by true class, "
                f"but is {array.dtype} of shape {array.shape}."
            )
        own = array.diagonal()
        if own.any():
            raise InputError(
                f"`targets` sends class {int(own.argmax())} into itself, which would make the model look better, "
                "not worse: its diagonal must be False."
            )
        gone = [k for k in excluded if array[:, k].any()]
    else:
        gone = sorted(set(excluded) & set(check_classes("targets", targets, n_classes)))
        if array.size == 0:
            raise InputError("`targets` names no class: name at least one.")
    if gone:
        raise InputError(f"Class {gone[0]} is both a target and excluded.")


def check_classes(name: str, given: object, n_classes: int) -> list[int]:
    """Return class numbers as a list.

    Raises:
        InputError: They aren't class numbers, or one stands twice.
    """
    array = np.asarray(given)
    whole = array.ndim == 1 and (array.size == 0 or np.issubdtype(array.dtype, np.integer))
    if not whole or (array.size and (array.min() < 0 or array.max() >= n_classes)):
        raise InputError(f"`{name}` must be a list of classes from 0 to {n_classes - 1}, but got {given!r}.")
    repeated = sorted({int(k) for k in array if (array == k).sum() > 1})
    if repeated:
        raise InputError(f"`{name}` names class {repeated[0]} twice.")
    return [int(k) for k in array]
