"""CFA: class-wise calibrated fair adversarial training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from art_classwise.errors import InputError, check_flag, check_number, check_whole
from art_classwise.threat import ThreatModel
from art_classwise.trainers.policies.policy import (
    Array,
    ClassBudgets,
    ClassPolicy,
    ClassWeights,
    FairAveraging,
    PolicyContext,
    as_float64,
    as_given,
)

__all__ = ["CFA", "cfa_budgets", "cfa_weights"]


def cfa_budgets(robust: Array, lambda1: float = 0.5) -> Any:
    """Return CFA's class budgets, relative to eps: lambda1 + t (Wei et al. 2023, section 4.1, CCM).

    Args:
        robust: (C,) class robust accuracies of the training examples, t, fractions.
        lambda1: The base.

    Returns:
        (C,), as ``robust`` was given.

    Example:
        >>> cfa_budgets([0.25, 0.75])
        array([0.75, 1.25])
    """
    return as_given(lambda1 + as_float64(robust, "robust"), robust)


def cfa_weights(robust: Array, beta: float, lambda2: float = 0.5) -> tuple[Any, Any]:
    """Return the factors of TRADES' terms: 1 / (1 + b) and (lambda2 + t) / (1 + b), where b = (lambda2 + t) beta.

    With them CE + beta KL becomes (CE + b KL) / (1 + b) (Wei et al. 2023, section 4.2, CCR).

    Args:
        robust: (C,) class robust accuracies of the training examples, t, fractions.
        beta: TRADES' weight of the KL term.
        lambda2: The base.

    Returns:
        (C,) of the first term and (C,) of the second, as ``robust`` was given.
    """
    scale = lambda2 + as_float64(robust, "robust")
    first = 1 / (1 + scale * beta)
    return as_given(first, robust), as_given(scale * first, robust)


@dataclass
class CFA(ClassPolicy):
    """CFA: radius and weight of the KL term follow each class's robust accuracy in the epoch before.

    Wei, Wang, Guo, Wang, "CFA: Class-wise Calibrated Fair Adversarial Training", CVPR 2023 (arXiv 2303.14460). CCM sets
    the radii, :func:`cfa_budgets`; CCR the weights, :func:`cfa_weights`, where the objective has a second term;
    FAWA averages the weights of epochs whose worst validation class reaches a threshold. A class absent from an
    epoch keeps its statistic. Steps stay as long as they are. Defaults are the paper's for PreActResNet-18 on
    CIFAR-10; their released code begins after 10 epochs.

    The released code takes lambda1 0.5 for TRADES, too; averages with a decay of .88 and a threshold of .24 (its README
    runs .2) from the first epoch that is fair; crops with reflected borders, which ``crop_padding`` doesn't; and counts
    t_k as C times the share that class k's withstanding examples are of all, which is the class's robust accuracy where
    classes are equally frequent. Here it is the accuracy itself. On standard adversarial training it attacks in train
    mode and classifies the clean batch after each step, ``attack_mode="train", passes="a|c"``; on TRADES
    ``passes="cac|c"``.

    Args:
        lambda1: CCM's base; 0.5, or 0.3 where the objective has a second term (TRADES), if absent.
        lambda2: CCR's base.
        begin_after: Epochs before CCM and CCR begin.
        ccm: Whether radii are calibrated.
        ccr: Whether weights are. Before CCR begins and without it the objective is (CE + beta KL) / (1 + beta), as in
            the released code.
        fawa: Whether weights are averaged. It needs validation data; the paper holds out 2 % of each class.
        decay: FAWA's share of the old average.
        fawa_start: Epochs before FAWA begins.
        threshold: FAWA's least robust accuracy of the worst validation class.

    Raises:
        InputError: A number is out of range, or all three parts are switched off.
    """

    lambda1: float | None = None
    lambda2: float = 0.5
    begin_after: int = 10
    ccm: bool = True
    ccr: bool = True
    fawa: bool = True
    decay: float = 0.85
    fawa_start: int = 50
    threshold: float = 0.2

    def _check(self) -> None:
        if self.lambda1 is not None:
            check_number("lambda1", self.lambda1, 0, 10, above=True)
        check_number("lambda2", self.lambda2, 0, 10)
        check_number("decay", self.decay, 0, 1)
        check_number("threshold", self.threshold, 0, 1)
        check_whole("begin_after", self.begin_after, 1)
        check_whole("fawa_start", self.fawa_start, 0)
        for name in ("ccm", "ccr", "fawa"):
            check_flag(name, getattr(self, name))
        if not (self.ccm or self.ccr or self.fawa):
            raise InputError("CFA has nothing to do without ccm, ccr and fawa: switch one of them on.")

    def check_fit(self, n_classes: int, threat: ThreatModel, width: float) -> None:
        """See :class:`ClassPolicy`."""
        largest = (1 + (0.5 if self.lambda1 is None else self.lambda1)) * threat.eps
        if self.ccm and threat.norm == "Linf" and largest > width:
            raise InputError(
                f"CFA would let class budgets grow to {largest:g}, beyond the range of images, {width:g}: take a "
                "smaller `lambda1` or a smaller radius."
            )

    def begin(self, context: PolicyContext) -> None:
        """See :class:`ClassPolicy`."""
        super().begin(context)
        starts = {"ccm": self.begin_after} if self.ccm else {}
        if self.ccr and context.beta is not None:
            starts["ccr"] = self.begin_after
        if self.fawa:
            starts["fawa"] = self.fawa_start
        if not starts:
            raise InputError("CFA's ccr is for objectives with a second term, such as TRADES: switch ccm or fawa on.")
        late = [name for name, start in starts.items() if context.nb_epochs <= start]
        if late:
            raise InputError(
                f"CFA's {late[0]} begins after {starts[late[0]]} epochs, but there are {context.nb_epochs}: train for "
                f"longer, take a smaller `{'fawa_start' if late[0] == 'fawa' else 'begin_after'}`, or switch "
                f"{late[0]} off."
            )
        self._state = {"robust": self._zeros(context.n_classes) + torch.nan, "done": self._zeros(1)}

    @property
    def needs_validation(self) -> bool:  # type: ignore[override]
        """See :class:`ClassPolicy`."""
        return self.fawa

    @property
    def averaging(self) -> FairAveraging | None:
        """See :class:`ClassPolicy`."""
        return FairAveraging(self.decay, self.fawa_start, self.threshold) if self.fawa else None

    @property
    def sets_budgets(self) -> bool:
        """See :class:`ClassPolicy`."""
        return self.ccm

    @property
    def class_budgets(self) -> ClassBudgets | None:
        """See :class:`ClassPolicy`."""
        if not self.ccm:
            return None
        lambda1 = self.lambda1 if self.lambda1 is not None else 0.5 if self._context.beta is None else 0.3
        return ClassBudgets(self._calibrated(cfa_budgets(self._state["robust"], lambda1)), self._ones())

    def end_epoch(self, epoch: int, row: Mapping[str, float]) -> None:
        """See :class:`ClassPolicy`."""
        robust = self._by_class(row, "robust")
        self._state["robust"] = torch.where(robust.isnan(), self._state["robust"], robust)
        self._state["done"] += 1

    def _in_force(self) -> ClassWeights:
        beta = self._context.beta
        if beta is None:
            return ClassWeights()
        uniform = 1 / (1 + beta)
        if not self.ccr:
            return ClassWeights(uniform * self._ones(), uniform * self._ones())
        first, second = cfa_weights(self._state["robust"], beta, self.lambda2)
        return ClassWeights(self._calibrated(first, uniform), self._calibrated(second, uniform))

    def _calibrated(self, values: Tensor, before: float = 1.0) -> Tensor:
        """Return values (C,), but what holds before: until CFA begins, and for classes not seen yet."""
        begun = self._state["done"] >= self.begin_after
        return torch.where(begun & ~values.isnan(), values, before)
