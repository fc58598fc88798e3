"""What attacks say of networks whose gradients or logits are of no use."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from art_classwise._core import art_interface
from art_classwise._core.state import evaluating
from art_classwise.errors import GradientMaskingWarning, InputError

__all__ = ["Found", "Problem", "WithoutClasses", "broadcast_mask", "check_finite", "warn_of_zero_gradients"]

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


def check_finite(no_logits: Tensor, ids: npt.NDArray[Any]) -> None:
    """Check that no example of these numbers (m,) was given logits that aren't finite (m,).

    Raises:
        InputError: One was; the first is named.
    """
    if bool(no_logits.any()):  # the host waits, once per search
        first = int(ids[no_logits.cpu().numpy()].min())
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
class Found:
    """What one search found for m examples.

    Attributes:
        x_adv: (m, ...) points.
        zero_gradient: (m,) bool.
        logits: (m, C) exact logits of the points, if they were asked for.
    """

    x_adv: Tensor
    zero_gradient: Tensor
    logits: Tensor | None


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
