"""Training without some of the classes: without their examples, and without their output units."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from art_classwise.errors import InputError
from art_classwise.head import check_last, find_head, switch_off
from art_classwise.trainers.engine.arrays import ImageRows
from art_classwise.trainers.engine.step import Terms

__all__ = ["check_excluded", "excluded_units", "leave_out", "without_classes"]


def check_excluded(excluded: Any, n_classes: int) -> tuple[int, ...]:
    """Return classes to exclude, sorted.

    Raises:
        InputError: There is none, one is no class, or fewer than two classes would be left.
    """
    given = [excluded] if isinstance(excluded, (int, np.integer)) else excluded
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise InputError(f"`excluded` must be class numbers, such as [3, 5], but got {excluded!r}.")
    numbers = list(np.atleast_1d(given) if isinstance(given, np.ndarray) else given)
    for k in numbers:
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 0 <= k < n_classes:
            raise InputError(f"`excluded` must hold class numbers from 0 to {n_classes - 1}, but holds {k!r}.")
    classes = tuple(sorted({int(k) for k in numbers}))
    if not classes:
        raise InputError("`excluded` names no class: give one or more, or train without this trainer.")
    if n_classes - len(classes) < 2:
        left = "all classes are" if len(classes) == n_classes else "all classes but one are"
        raise InputError(f"`excluded` must leave two classes or more, but {left} excluded.")
    return classes


def leave_out(
    x: Any, y: npt.NDArray[np.int64], excluded: tuple[int, ...], what: str, *, warn: bool = False
) -> tuple[Any, npt.NDArray[np.int64]]:
    """Return images and labels without those of the excluded classes.

    Args:
        x: Images: an array, or anything that gives such by rows.
        y: (n,) their labels.
        excluded: The classes.
        what: What the examples are, for messages.
        warn: Whether a warning says how many are left out.

    Raises:
        InputError: None is left.
    """
    kept = ~np.isin(y, excluded)
    if kept.all():
        return x, y
    if not kept.any():
        raise InputError(f"All {len(y)} {what} are of the excluded classes {list(excluded)}: none is left.")
    if warn:
        warnings.warn(
            f"{int((~kept).sum())} of {len(y)} {what} are of the excluded classes {list(excluded)} and left out.",
            stacklevel=_levels_to_caller(),
        )
    rows = np.flatnonzero(kept)
    return x[rows] if isinstance(x, np.ndarray) else ImageRows(x, rows), y[rows]


def without_classes(terms: Terms, excluded: tuple[int, ...], n_classes: int, device: torch.device) -> Terms:
    """Return an objective's terms as functions of the logits of the other classes alone."""
    if not excluded:
        return terms
    kept = torch.tensor([k for k in range(n_classes) if k not in excluded], device=device)
    place = torch.zeros(n_classes, dtype=torch.int64, device=device)
    place[kept] = torch.arange(len(kept), device=device)

    def among_the_others(logits: Tensor | None, logits_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
        return terms(None if logits is None else logits[:, kept], logits_adv[:, kept], place[y])

    return among_the_others


def _levels_to_caller() -> int:
    """Return the stack level, as warnings count it, of whoever called this package."""
    levels, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith("art_classwise."):
        levels, frame = levels + 1, frame.f_back
    return levels


@contextmanager
def excluded_units(
    model: nn.Module,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    excluded: tuple[int, ...],
    n_classes: int,
    sample: Tensor,
) -> Iterator[None]:
    """Switch the output units of classes off for good, and keep the optimizer from moving them within the block.

    Raises:
        InputError: The network's last layer isn't linear with a bias.
    """
    if not excluded:
        yield
        return
    head = find_head(model, n_classes)
    if head.bias is None:
        raise InputError(
            "The network's last linear layer has no bias, by which a class's output unit is switched off: make it with "
            "bias=True."
        )
    check_last(module, head, sample)
    before = head.weight.detach().clone(), head.bias.detach().clone()
    switch_off(head, excluded)
    others = [k for k in range(n_classes) if k not in excluded]
    # Their gradients are zero, but weight decay would move the bias.
    hook = optimizer.register_step_post_hook(lambda *_: switch_off(head, excluded))
    try:
        yield
    except BaseException:
        if torch.equal(head.weight[others], before[0][others]) and torch.equal(head.bias[others], before[1][others]):
            with torch.no_grad():  # nothing has been trained: the network is as it came
                head.weight.copy_(before[0])
                head.bias.copy_(before[1])
        raise
    finally:
        hook.remove()
