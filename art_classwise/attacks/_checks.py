"""What attacks say of networks whose gradients or logits are of no use."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from art_classwise.errors import GradientMaskingWarning, InputError

__all__ = ["check_finite", "warn_of_zero_gradients"]

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
