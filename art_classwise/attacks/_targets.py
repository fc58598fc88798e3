"""Which classes an example is searched towards, and in what order."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from art_classwise.attacks._problem import Found, Problem, check_finite
from art_classwise.attacks.search import not_finite
from art_classwise.errors import InputError, check_whole

__all__ = ["TargetQueue", "Targets", "allowed_targets", "check_classes", "check_targets", "column"]

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
                    f"Class {label} is a target, but also the label of an example: pushing an example into its own "
                    "class would make the model look better, not worse. Leave those examples out, or give a (C, C) "
                    "boolean matrix of the allowed targets of each class, its diagonal False."
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


class TargetQueue:
    """A batch of examples, and what has been found for them so far.

    Attributes:
        rows: (m,) of the problem's images.
        x: (m, ...) these.
        y: (m,) their labels.
        allowed: (m, C) bool, where they may be moved.
        reached: (m, C) bool, where they have been moved.
        best: (m, ...) the points that come nearest to a target.
        zero_gradient: (m,) bool.
    """

    def __init__(self, problem: Problem, rows: npt.NDArray[np.intp], targets: Targets, excluded: Sequence[int]) -> None:
        self.rows = rows
        self.x = problem.on_device(rows)
        self.clean = problem.logits(self.x)
        self._targets, self._ids, self._n_excluded = targets, problem.ids[rows], problem.n_excluded
        self.y = self.clean.argmax(1) if problem.labels is None else problem.on_device(rows, problem.labels)
        self.allowed = allowed_targets(self.y, problem.n_classes, targets, excluded)
        self.reached = torch.zeros_like(self.allowed)
        self.best = self.x.clone()
        self.zero_gradient = torch.zeros_like(self.y, dtype=torch.bool)
        self._nearness = torch.full_like(self.y, -torch.inf, dtype=torch.float32)
        self.add(torch.arange(len(rows), device=self.y.device), Found(self.x, self.zero_gradient, self.clean))

    def jobs(self, batch_size: int, *, every_target: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Give batches of (examples, targets) still to be searched for, nearest targets first.

        Args:
            batch_size: Pairs per batch.
            every_target: Whether an example goes on with its other targets once it has reached one.
        """
        count = int(self.allowed.sum(1).max())
        count = min(count, int(self._targets)) if isinstance(self._targets, numbers.Integral) else count
        ranked = self.clean.masked_fill(~self.allowed, -torch.inf).topk(count, dim=1).indices
        real = self.allowed.gather(1, ranked).T.cpu().numpy()
        examples = np.broadcast_to(np.arange(len(self.rows)), real.shape)[real]
        classes = ranked.T.cpu().numpy()[real]
        at = 0
        while at < len(examples):
            reached = self.reached.cpu().numpy()  # the host waits, once per batch: who is done makes room for others
            done = reached[examples, classes] if every_target else reached[examples].any(axis=1)
            chosen = at + np.flatnonzero(~done[at:])[:batch_size]
            if len(chosen) == 0:
                return
            at = int(chosen[-1]) + 1
            device = self.y.device
            yield torch.from_numpy(examples[chosen]).to(device), torch.from_numpy(classes[chosen]).to(device)

    def add(self, examples: Tensor, found: Found) -> None:
        """Take note of points found for examples (k,), one of them perhaps several times."""
        assert found.logits is not None
        check_finite(not_finite(found.logits, self._n_excluded), self._ids[examples.cpu().numpy()])
        allowed, prediction = self.allowed[examples], found.logits.argmax(1)
        hit, was_reached = column(allowed, prediction), self.reached.any(1)
        self.zero_gradient[examples[found.zero_gradient]] = True
        towards = found.logits.masked_fill(~allowed, -torch.inf).amax(1)
        nearness = towards - found.logits.masked_fill(allowed, -torch.inf).amax(1)
        # The first that reached a target stands, in the order of the jobs, whatever the batches they came in.
        order = torch.arange(len(examples), device=examples.device)
        rank = torch.where(hit, torch.inf, nearness)
        nearest = self._nearness.scatter_reduce(0, examples, rank, "amax")
        level = (rank == nearest[examples]) & (rank > self._nearness[examples]) & ~was_reached[examples]
        late = torch.full_like(self.y, len(examples))
        first = late.scatter_reduce(0, examples, torch.where(level, order, len(examples)), "amin")
        chosen = level & (order == first[examples])
        self.best[examples[chosen]] = found.x_adv[chosen]
        self._nearness = nearest
        self.reached[examples[hit], prediction[hit]] = True


def column(values: Tensor, columns: Tensor) -> Tensor:
    """Return of each row (m, C) the value in its column (m,)."""
    return values.gather(1, columns[:, None])[:, 0]
