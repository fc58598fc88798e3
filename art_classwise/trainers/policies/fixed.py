"""Class weights and class budgets that stay as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from art_classwise.errors import InputError
from art_classwise.threat import ThreatModel
from art_classwise.trainers.policies.policy import ClassBudgets, ClassPolicy, ClassWeights, Scene

__all__ = ["Fixed"]


@dataclass
class Fixed(ClassPolicy):
    """Class weights and class budgets given once and for all.

    Class-weighted adversarial training in its plainest form, as Tian et al. 2021 (arXiv 2105.14240) suggest for the
    most vulnerable class.

    Args:
        weights: Factor of each class's loss: C numbers of at least 0, or a dict by class number, the others 1. They
            are taken as they are, not normalised.
        budgets: Radius of each class's training attack, in the units of the images: C numbers above 0, for Linf at most
            the width of the range of images, which is 1 for [0, 1]; or a dict by class number, the others the trainer's
            ``eps``. Steps are as much shorter or longer.

    Raises:
        InputError: Neither is given, or a number is out of range.
    """

    weights: Sequence[float] | Mapping[int, float] | None = None
    budgets: Sequence[float] | Mapping[int, float] | None = None

    def _check(self) -> None:
        self.weights, self.budgets = _plain("weights", self.weights), _plain("budgets", self.budgets)
        if self.weights is None and self.budgets is None:
            raise InputError("A fixed policy needs class `weights`, class `budgets`, or both.")
        for k, value in _items(self.weights):
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"Class weights must be finite and at least 0, but class {k} has {value:g}.")
        values = [value for _, value in _items(self.weights)]
        if isinstance(self.weights, list) and sum(values) == 0:
            raise InputError("The class weights sum to 0, so that nothing would be learnt: make one positive.")
        for k, value in _items(self.budgets):
            if not (math.isfinite(value) and value > 0):
                raise InputError(
                    f"Class budgets are finite radii above 0, in the units of the images, but class {k} has {value:g}: "
                    "take a small radius instead of 0."
                )

    def check_fit(self, n_classes: int, threat: ThreatModel, width: float) -> None:
        """See :class:`ClassPolicy`."""
        for name, given in (("weights", self.weights), ("budgets", self.budgets)):
            if isinstance(given, list) and len(given) != n_classes:
                raise InputError(f"There are {n_classes} classes, but {len(given)} class {name}.")
            if not _items(given) and given is not None:
                raise InputError(f"The dict of class {name} is empty: name a class, or leave it out.")
            outside = [k for k, _ in _items(given) if not 0 <= k < n_classes]
            if outside:
                raise InputError(f"Class {name} name class {outside[0]}, but the classes are 0 to {n_classes - 1}.")
        for k, value in _items(self.budgets):
            if threat.norm == "Linf" and value > width:
                raise InputError(
                    f"Class budgets are Linf radii above 0 and at most {width:g}, the width of the range of images, "
                    f"but class {k} has {value:g}."
                )
        if isinstance(self.weights, dict) and len(self.weights) == n_classes and not any(self.weights.values()):
            raise InputError("The class weights sum to 0, so that nothing would be learnt: make one positive.")

    def begin(self, scene: Scene) -> None:
        """See :class:`ClassPolicy`."""
        super().begin(scene)
        for name, given, usual in (("weights", self.weights, 1.0), ("radii", self.budgets, scene.eps)):
            if given is not None:
                values = [usual] * scene.n_classes
                for k, value in _items(given):
                    values[k] = value
                self._state[name] = torch.tensor(values, dtype=torch.float64, device=scene.device) / usual
        weights = self._state.get("weights")
        if weights is not None and not bool((weights * scene.shares).sum() > 0):
            raise InputError(
                "The weights of all classes that there are training examples of are 0, so that nothing would be "
                "learnt: make one positive."
            )

    @property
    def sets_budgets(self) -> bool:
        """See :class:`ClassPolicy`."""
        return self.budgets is not None

    @property
    def class_budgets(self) -> ClassBudgets | None:
        """See :class:`ClassPolicy`."""
        radii = self._state.get("radii")
        return None if radii is None else ClassBudgets(radii, radii)

    def _in_force(self) -> ClassWeights:
        weights = self._state.get("weights")
        return ClassWeights(weights, weights)

    def describe(self) -> dict[str, Any]:
        """See :class:`ClassPolicy`."""
        told = {"weights": self.weights, "budgets": self.budgets}
        return {"name": "Fixed", **{n: {str(k): x for k, x in _items(v)} for n, v in told.items() if v is not None}}


def _plain(name: str, given: Any) -> Any:
    """Return numbers as a list or dict of Python's own.

    Raises:
        InputError: They aren't numbers.
    """
    if given is None:
        return None
    try:
        if isinstance(given, Mapping):
            if any(isinstance(k, bool) or int(k) != k for k in given) or _holds_bool(given.values()):
                raise ValueError
            return {int(k): float(value) for k, value in given.items()}
        if _holds_bool(given):
            raise ValueError
        array = np.asarray(given, dtype=np.float64)
        if array.ndim != 1 or array.size == 0:
            raise ValueError
        return [float(value) for value in array]
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"Class {name} must be numbers, one per class, or a dict of numbers by class number, but got {given!r}."
        ) from None


def _holds_bool(values: Any) -> bool:
    return any(isinstance(value, (bool, np.bool_)) for value in values)


def _items(given: Any) -> list[tuple[int, float]]:
    if given is None:
        return []
    return list(given.items()) if isinstance(given, dict) else list(enumerate(given))
