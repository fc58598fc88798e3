"""ABSLD's class temperatures: softer labels for strong classes, sharper ones for weak ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from art_classwise import losses
from art_classwise.errors import InputError, check_flag, check_number
from art_classwise.trainers.policies.policy import (
    Array,
    ClassMeans,
    ClassPolicy,
    ClassWeights,
    PolicyContext,
    as_float64,
    as_given,
    check_by_class,
    check_same_shape,
)

__all__ = ["ABSLD", "absld_temperatures"]


def absld_temperatures(
    temperatures: Array, risks: Array, rate: float = 0.1, lowest: float = 0.5, highest: float = 5.0
) -> Any:
    """Return temperatures after a step against the class risks (Zhao et al. 2024, eq. 8).

    T - rate (R - mean R) / max |R - mean R|, clipped: a class of higher risk than the mean gets sharper labels.

    Args:
        temperatures: (C,) those before.
        risks: (C,) class risks, R; NaN, of a class without examples, leaves its temperature and isn't counted.
        rate: Length of the longest step.
        lowest: Where temperatures are clipped, above 0.
        highest: Likewise.

    Returns:
        (C,) float64, as ``temperatures`` were given.

    Raises:
        InputError: They aren't of one shape, or one is negative or infinite.

    Example:
        >>> absld_temperatures([1.0, 1.0, 1.0], [3.0, 2.0, 1.0])
        array([0.9, 1. , 1.1])
    """
    before = as_float64(temperatures, "temperatures")
    r = as_float64(risks, "risks", before.device)
    check_same_shape(before, r, "temperatures and risks")
    check_by_class(before, "temperatures")
    check_by_class(r, "risks", unknown=True)
    gaps = (r - r.nanmean()).nan_to_num(0.0)
    step = rate * gaps / gaps.abs().amax().clamp_min(torch.finfo(gaps.dtype).tiny)
    return as_given((before - step).clamp(lowest, highest), temperatures)


@dataclass
class ABSLD(ClassPolicy):
    """ABSLD: a temperature for each class's soft labels, moved against its risk.

    Zhao, Duan, Wang, Wei, "Improving Adversarial Robust Fairness via Anti-Bias Soft Label Distillation", NeurIPS 2024
    (arXiv 2312.05508). A class's risk is the mean cross-entropy of its training examples, under attack and, apart from
    that, on clean images; after each epoch both kinds of temperatures take a step, :func:`absld_temperatures`. It is
    for distillation, ``AdversarialTrainerDistillationPyTorch(..., method="absld")``. The history shows the temperatures
    as ``temperature_<k>`` and, of the clean labels, ``clean_temperature_<k>``.

    The released code sums a class's losses, as if classes were equally frequent, and makes ``rate`` ten times smaller
    at each decay of the learning rate. It keeps the epoch that is best on the test images; ``fit`` chooses on
    validation data.

    Args:
        rate: Length of the longest step.
        lowest: The lowest temperature, from 0.001 to 1: the logits are divided by it.
        highest: The highest, from 1 to 1,000.
        exact: Divide the logits by both temperatures in both terms, as the released code does, where the two kinds
            of labels share their memory.

    Raises:
        InputError: A number is out of range.
    """

    rate: float = 0.1
    lowest: float = 0.5
    highest: float = 5.0
    exact: bool = False

    def _check(self) -> None:
        check_number("rate", self.rate, 0, 100)
        try:
            check_number("lowest", self.lowest, losses.SHARPEST, 1)
        except InputError as error:
            raise InputError(
                f"{error} Logits are divided by a class's temperature, so that it may not reach 0."
            ) from None
        check_number("highest", self.highest, 1, losses.SOFTEST)
        check_flag("exact", self.exact)

    def begin(self, context: PolicyContext) -> None:
        """See :class:`ClassPolicy`."""
        super().begin(context)
        if context.soft_labels is None:
            raise InputError(
                "ABSLD sets the temperatures of a teacher's labels, of which this training has none: take "
                "AdversarialTrainerDistillationPyTorch (on the command line, the method absld), or another policy."
            )
        self._means = {name: ClassMeans(context.n_classes, 1, context.device) for name in ("adversarial", "clean")}
        self._state = {name: self._ones() for name in self._means}
        self._set()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See :class:`ClassPolicy`."""
        super().load(state)
        self._set()

    def _set(self) -> None:
        adversarial, clean = self._state["adversarial"], self._state["clean"]
        both = (adversarial * clean,) * 2 if self.exact else (adversarial, clean)
        assert self._context.soft_labels is not None
        self._context.soft_labels.temperatures = both

    def weigh(self, y: Tensor, logits_adv: Tensor) -> ClassWeights:
        """See :class:`ClassPolicy`."""
        self._means["adversarial"].add(y, losses.cross_entropy(logits_adv, y)[:, None])
        return self._in_force()

    def see_clean(self, y: Tensor, logits: Tensor) -> None:
        """See :class:`ClassPolicy`."""
        self._means["clean"].add(y, losses.cross_entropy(logits, y)[:, None])

    def end_epoch(self, epoch: int, row: Mapping[str, float]) -> None:
        """See :class:`ClassPolicy`."""
        for name, means in self._means.items():
            risks = means.take()[:, 0]
            self._state[name] = absld_temperatures(self._state[name], risks, self.rate, self.lowest, self.highest)
        self._set()

    def columns(self) -> dict[str, float]:
        """See :class:`ClassPolicy`."""
        names = {"temperature": "adversarial", "clean_temperature": "clean"}
        return {
            f"{name}_{k}": value for name, key in names.items() for k, value in enumerate(self._state[key].tolist())
        }

    def _in_force(self) -> ClassWeights:
        return ClassWeights()
