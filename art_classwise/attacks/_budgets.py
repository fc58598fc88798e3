"""Radii and step lengths: one for all, an array, or one per class."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from art_classwise.errors import InputError
from art_classwise.threat import Norm

__all__ = ["Budget", "check_budget", "check_shape", "largest", "of_batch"]

Budget: TypeAlias = float | npt.NDArray[Any] | Mapping[int, float]
"""A number; an array that broadcasts to x, or (n,) with one number per example; or numbers by class."""


def check_budget(name: str, budget: Any) -> Any:
    """Return a budget, as it is, if it is a number above 0, or an array or dict of numbers of which none is negative.

    Raises:
        InputError: It isn't.
    """
    if isinstance(budget, Mapping):
        wrong = [k for k in budget if isinstance(k, bool) or not isinstance(k, numbers.Integral) or int(k) < 0]
        if wrong or not budget:
            raise InputError(f"`{name}` by class must be a dict of class numbers, but has {wrong or 'no'} key.")
        values = np.asarray(list(budget.values()))
    elif isinstance(budget, (np.ndarray, list, tuple, Tensor)):
        values = np.asarray(budget)
    else:
        if isinstance(budget, bool) or not isinstance(budget, numbers.Real) or not 0 < float(budget) < math.inf:
            raise InputError(f"`{name}` must be a finite number above 0, an array or a dict, but got {budget!r}.")
        return budget
    if not np.issubdtype(values.dtype, np.number) or values.size == 0 or not np.isfinite(values).all():
        raise InputError(f"`{name}` must hold finite numbers, but got {budget!r}.")
    if values.min() < 0 or values.max() == 0:
        raise InputError(f"`{name}` must hold numbers of at least 0, one of them above it, but got {budget!r}.")
    return budget


def largest(budget: Budget) -> float:
    """Return the largest number of a budget."""
    values = list(budget.values()) if isinstance(budget, Mapping) else budget
    return float(np.max(np.asarray(values)))


def check_shape(name: str, budget: Budget, norm: Norm, shape: tuple[int, ...], n_classes: int) -> None:
    """Check that a budget suits examples of a shape (n, ...).

    Raises:
        InputError: An array neither broadcasts to the shape nor has one number per example, or does both with
            different meanings; it differs within an example where the norm has one radius per example; a dict names
            a class that there isn't.
    """
    if isinstance(budget, Mapping):
        outside = [k for k in budget if k >= n_classes]
        if outside:
            raise InputError(f"`{name}` names class {outside[0]}, but the classes are 0 to {n_classes - 1}.")
    elif not isinstance(budget, numbers.Real):
        array = np.asarray(budget)
        shaped = _shaped(name, array, shape)
        one_per_example = shaped.ndim == len(shape) and shaped[0].size == 1
        if norm != "Linf" and array.size > 1 and not one_per_example:
            raise InputError(
                f"An {norm} ball has one radius, so `{name}` must have one number per example, such as shape "
                f"{(shape[0], *[1] * (len(shape) - 1))}, but has shape {array.shape}."
            )


def of_batch(
    name: str, budget: Budget, rows: npt.NDArray[np.intp], shape: tuple[int, ...], y: Tensor
) -> float | Tensor:
    """Return a budget for rows of examples of a shape (n, ...) with labels y (m,).

    Returns:
        A number, or a tensor whose first side is m and that broadcasts to the examples (m, ...).

    Raises:
        InputError: A dict has no number for a label.
    """
    if isinstance(budget, numbers.Real):
        return float(budget)
    ones = [1] * (len(shape) - 1)
    if isinstance(budget, Mapping):
        size = max(int(y.max()), *budget) + 1  # the host waits, once per batch
        table = torch.full((size,), math.nan, dtype=torch.float32)
        for k, value in budget.items():
            table[k] = value
        values = table.to(y.device)[y]
        missing = values.isnan()
        if bool(missing.any()):
            raise InputError(
                f"`{name}` has no number for class {int(y[missing][0])}: give one for each class, "
                f"{name}={{0: 8 / 255, 1: 4 / 255, ...}}."
            )
        return values.view(-1, *ones)
    array = _shaped(name, np.asarray(budget, dtype=np.float32), shape)
    array = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
    part = array[rows] if len(array) == shape[0] else np.repeat(array, len(rows), axis=0)
    return torch.from_numpy(part).to(y.device)


def _shaped(name: str, array: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Give an array of one number per example the axes of the examples; check that others broadcast."""
    per_example = array.shape == shape[:1] and array.size > 1
    try:
        broadcasts = np.broadcast_shapes(array.shape, shape) == shape
    except ValueError:
        broadcasts = False
    reshaped = (shape[0], *[1] * (len(shape) - 1))
    if per_example and broadcasts and len(shape) > 1:
        raise InputError(
            f"`{name}` of shape {array.shape} may mean the examples or the last axis of x {shape}: "
            f"reshape it to {reshaped} or {(*[1] * (len(shape) - 1), shape[-1])}."
        )
    if per_example:
        return array.reshape(reshaped)
    if not broadcasts:
        raise InputError(
            f"`{name}` of shape {array.shape} doesn't broadcast to x of shape {shape}: give a number, an array of "
            f"shape {reshaped} or {shape}, or a dict of numbers by class."
        )
    return array
