"""What one call of an attack is about, checked: examples, budgets, masks and the network in two forms."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from art_classwise._core import art_interface
from art_classwise._core.state import evaluating
from art_classwise.errors import LARGEST, GradientMaskingWarning, InputError, as_float, shown, too_large
from art_classwise.threat import Norm

__all__ = [
    "Budget",
    "Candidates",
    "Problem",
    "WithoutClasses",
    "broadcast_mask",
    "budget_of_batch",
    "check_budget",
    "check_budget_shape",
    "check_finite",
    "largest_budget",
    "to_host",
    "warn_of_zero_gradients",
]

_MANY_ZEROS = 0.05


def warn_of_zero_gradients(zero_gradient: npt.NDArray[np.bool_]) -> None:
    """Warn if many of the examples attacked (m,) met a gradient that shows no way."""
    share = float(zero_gradient.mean()) if len(zero_gradient) else 0.0
    if share >= _MANY_ZEROS:
        warnings.warn(
            f"{share:.0%} of the examples met a gradient that was zero or not finite: a sign of masked gradients. "
            "The network may be weaker than it looks: see the attack's `zero_gradient`, try Square or a transfer.",
            GradientMaskingWarning,
            stacklevel=3,
        )


def to_host(points: Tensor, *flags: Tensor) -> tuple[npt.NDArray[Any], ...]:
    """Return points (m, ...) and flags (m,) bool as arrays: by one copy, for which the host waits once."""
    if points.device.type == "cpu":
        return tuple(t.numpy() for t in (points, *flags))
    together = torch.cat([points.flatten(1), torch.stack(flags, 1).to(points.dtype)], 1).cpu().numpy()
    values, columns = np.split(together, [-len(flags)], axis=1)
    return values.reshape(points.shape), *(columns.T != 0)


def check_finite(no_logits: Tensor | npt.NDArray[np.bool_], ids: npt.NDArray[Any]) -> None:
    """Check that no example of these numbers (m,) was given logits that aren't finite (m,).

    Raises:
        InputError: One was; the first is named.
    """
    if bool(no_logits.any()):  # for a tensor the host waits
        first = int(ids[no_logits.cpu().numpy() if isinstance(no_logits, Tensor) else no_logits].min())
        raise InputError(
            f"The model returns logits that are not finite, first for example {first}: "
            "look for a division or a logarithm in it that meets 0."
        )


@dataclass(frozen=True)
class Problem:
    """What one call of an attack is about, checked: the examples, and the network in two forms.

    Attributes:
        exact: The network; verdicts are its, in float32.
        fast: The network as it is searched on.
        images: (n, ...) float32.
        labels: (n,) int64, or nothing.
        ids: (n,) int64, the examples' numbers.
        mask: Broadcast to ``images``, or nothing.
        low: Lower bound of the box.
        high: Upper bound of the box.
        device: Where the network lies.
        n_classes: Number of logits.
        n_excluded: Number of classes that were taken out: their logits are minus infinity.
    """

    exact: nn.Module
    fast: nn.Module
    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64] | None
    ids: npt.NDArray[np.int64]
    mask: npt.NDArray[np.float32] | None
    low: Tensor
    high: Tensor
    device: torch.device
    n_classes: int
    n_excluded: int = 0

    def on_device(self, rows: Any, array: npt.NDArray[Any] | None = None) -> Tensor:
        """Return rows of an array, of the images if none is given, where the network lies."""
        return torch.from_numpy(np.ascontiguousarray((self.images if array is None else array)[rows])).to(self.device)

    def logits(self, x: Tensor) -> Tensor:
        """Return float32 logits (m, C) of points x (m, ...), for a verdict."""
        return art_interface.exact_logits(self.exact, x, self.n_classes)

    @torch.no_grad()
    def quick_logits(self, x: Tensor) -> Tensor:
        """Return the fast network's logits (m, C) of points x (m, ...)."""
        with evaluating(self.fast):
            return art_interface.check_logits(self.fast(x), len(x), self.n_classes)

    def label(self, rows: npt.NDArray[np.intp], x: Tensor) -> Tensor:
        """Return the labels (m,) of rows of the images, x; without labels, what the network takes them for."""
        return self.logits(x).argmax(1) if self.labels is None else self.on_device(rows, self.labels)


@dataclass(frozen=True)
class Candidates:
    """What one search found for m examples: candidates for adversarial examples.

    Attributes:
        x_adv: (m, ...) points.
        zero_gradient: (m,) bool.
        logits: (m, C) exact logits of the points, if they were asked for.
        no_logits: (m,) bool, where logits weren't finite, which the caller is to check; None where that is done.
    """

    x_adv: Tensor
    zero_gradient: Tensor
    logits: Tensor | None
    no_logits: Tensor | None = None


class WithoutClasses(nn.Module):
    """A network without some of its classes: their logits are -inf."""

    excluded: Tensor

    def __init__(self, module: nn.Module, excluded: tuple[int, ...], device: torch.device) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("excluded", torch.tensor(excluded, device=device))  # there, once, and not at each step

    def forward(self, x: Tensor) -> Any:
        logits = self.module(x)
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            return logits  # the search will say what it is
        return logits.index_fill(1, self.excluded, -torch.inf)


def broadcast_mask(mask: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return a mask of the images' shape.

    Raises:
        InputError: It doesn't broadcast to it.
    """
    try:
        return np.broadcast_to(mask.astype(np.float32), shape)
    except ValueError:
        raise InputError(f"A mask of shape {mask.shape} doesn't broadcast to x of shape {shape}.") from None


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
        if not 0 < as_float(budget) <= LARGEST:
            allowed = f"a finite number above 0{too_large(as_float(budget))}, an array or a dict"
            raise InputError(f"`{name}` must be {allowed}, but got {shown(budget)}.")
        return budget
    if not np.issubdtype(values.dtype, np.number) or values.size == 0 or not (np.abs(values) <= LARGEST).all():
        raise InputError(f"`{name}` must hold finite numbers, of at most {LARGEST:g}, but got {shown(budget)}.")
    if values.min() < 0 or values.max() == 0:
        raise InputError(f"`{name}` must hold numbers of at least 0, one of them above it, but got {shown(budget)}.")
    return budget


def largest_budget(budget: Budget) -> float:
    """Return the largest number of a budget."""
    values = list(budget.values()) if isinstance(budget, Mapping) else budget
    return float(np.max(np.asarray(values)))


def check_budget_shape(name: str, budget: Budget, norm: Norm, shape: tuple[int, ...], n_classes: int) -> None:
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


def budget_of_batch(
    name: str,
    budget: Budget,
    rows: npt.NDArray[np.intp],
    shape: tuple[int, ...],
    y: Tensor,
    labels: npt.NDArray[np.int64] | None = None,
) -> float | Tensor:
    """Return a budget for rows of examples of a shape (n, ...) with labels y (m,).

    Args:
        name: Of the budget.
        budget: What it is.
        rows: (m,) of the examples.
        shape: Of all examples.
        y: Where they lie, the budget is to lie, too.
        labels: (n,) of all examples, where they are known: a GPU needn't be asked for them.

    Returns:
        A number, or a tensor whose first side is m and that broadcasts to the examples (m, ...).

    Raises:
        InputError: A dict has no number for a label.
    """
    if isinstance(budget, numbers.Real):
        return float(budget)
    ones = [1] * (len(shape) - 1)
    if isinstance(budget, Mapping):
        of = y.cpu().numpy() if labels is None else labels[rows]
        if missing := [int(k) for k in np.unique(of) if int(k) not in budget]:
            raise InputError(
                f"`{name}` has no number for class {missing[0]}: give one for each class, "
                f"{name}={{0: 8 / 255, 1: 4 / 255, ...}}."
            )
        values = torch.tensor([budget[int(k)] for k in of], dtype=torch.float32)
        return values.to(y.device).view(-1, *ones)
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
