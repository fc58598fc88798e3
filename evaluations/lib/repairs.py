"""What is tried to repair the worst class: class policies, weight averaging, and combinations of both, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import art_classwise as acw

P = acw.policies

Kind = Literal["published", "control", "plain", "ours"]


@dataclass(frozen=True)
class Length:
    """What a policy's parameters depend on.

    Attributes:
        weakest: The class that is weakest on validation examples without a policy.
        epochs: Of the training.
        n: Training examples.
        eps: Radius of the training attack.
        steps: The optimizer's in the whole training.
    """

    weakest: int
    epochs: int
    n: int
    eps: float
    steps: int


@dataclass(frozen=True)
class Repair:
    """A policy, or whatever else is added to a training.

    Attributes:
        policy: Returns it; None where there is none.
        kind: ``"published"``; ``"control"``, a part of another, to tell what that part does; ``"plain"``, a fixed
            weight or budget; or ``"ours"``, a combination that no paper has.
        fine_tune: Learning rate relative to the training's, of what starts from the network trained without a policy.
        few: Whether that takes two epochs, as published, in place of FRL's.
        options: Returns further options of the trainer.
        rescale: By what the policy divides the loss: a function of beta and the number of classes.
    """

    policy: Callable[[Length], Any] = field(default=lambda _: None)
    kind: Kind = "published"
    fine_tune: float | None = None
    few: bool = False
    options: Callable[[Length], dict[str, Any]] = field(default=lambda _: {})
    rescale: Callable[[float, int], float] = field(default=lambda beta, n_classes: 1.0)


def _averaging(length: Length) -> dict[str, Any]:
    """Average the weights over about a tenth of the training."""
    return {"ema_decay": 1 - 10 / max(length.steps, 20)}


def _twice(length: Length) -> Any:
    return P.Fixed(weights={length.weakest: 2.0})


def _both(length: Length) -> Any:
    return P.Combined([_twice(length), P.Spectral()])


def _cfa(length: Length) -> Any:
    return P.CFA(begin_after=max(1, round(length.epochs * 10 / 200)), fawa_start=max(1, length.epochs // 4))


def _fawa(length: Length) -> Any:
    return P.CFA(ccm=False, ccr=False, fawa_start=max(1, length.epochs // 4))


def _of_cfa(beta: float, n_classes: int) -> float:
    return 1 + beta


def _of_wat(beta: float, n_classes: int) -> float:
    return (n_classes + 1) / (2 * n_classes)


REPAIRS: dict[str, Repair] = {
    "weight 2": Repair(_twice, "plain"),
    "budget 1.25": Repair(lambda of: P.Fixed(budgets={of.weakest: 1.25 * of.eps}), "plain"),
    "CFA": Repair(_cfa, rescale=_of_cfa),
    "DAFA": Repair(lambda of: P.DAFA(warmup=max(1, round(of.epochs * 70 / 110)))),
    "FAWA": Repair(_fawa, "control", rescale=_of_cfa),
    "fine-tuning": Repair(kind="control", fine_tune=0.1),
    "FRL": Repair(lambda _: P.FRL(), fine_tune=0.1),
    "WAT": Repair(lambda of: P.WAT(eta=0.1 * 100 / of.epochs), rescale=_of_wat),
    "FAAL": Repair(lambda _: P.FAAL(), fine_tune=0.2, few=True),
    "CFOL": Repair(lambda of: P.CFOL(eta=2e-6 * 150 * 50_000 / (of.epochs * of.n))),
    "spectral": Repair(lambda _: P.Spectral(), fine_tune=0.1),
    "spectral throughout": Repair(lambda _: P.Spectral(), "control"),
    "TRIX": Repair(lambda of: P.TRIX(warmup=max(1, of.epochs // 5))),
    "FAIR-TAT": Repair(lambda _: P.FairTAT()),
    "Fair-ARD weights": Repair(lambda _: P.FairARD()),
    "averaging": Repair(kind="control", options=_averaging),
    "weight 2 + averaging": Repair(_twice, "ours", options=_averaging),
    "weight 2 + spectral": Repair(_both, "ours"),
    "weight 2 + spectral + averaging": Repair(_both, "ours", options=_averaging),
}
"""By name. Those that fine-tune start from the network that was trained without a policy. The combinations were fixed
before any of them was measured."""


@dataclass(frozen=True)
class Alone:
    """A method that is compared with another one, without a policy.

    Attributes:
        beside: Which.
        title: In tables.
        method: Of the trainer, where several share one; its name in the table of methods if absent.
        trainer: Of which method's record the trainer is, if not of this name.
        options: Of the trainer.
    """

    beside: str
    title: str
    method: str | None = None
    trainer: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def taught(self) -> bool:
        """Whether the network without a policy of ``beside``'s seed teaches it."""
        return self.trainer == "distillation"


ALONE: dict[str, Alone] = {
    "bat": Alone("trades", "BAT"),
    "ard": Alone("trades", "ARD", "ard", "distillation"),
    "rslad": Alone("trades", "RSLAD", "rslad", "distillation"),
    "fair-ard": Alone("ard", "Fair-ARD", "fair-ard", "distillation"),
    "absld": Alone("rslad", "ABSLD", "absld", "distillation"),
    "n-fgsm": Alone("standard", "N-FGSM", "n-fgsm", "fast"),
    "fgsm-rs": Alone("standard", "FGSM-RS", "fgsm-rs", "fast"),
    "fgsm": Alone("standard", "FGSM without noise", "fgsm-rs", "fast", {"noise": 0.0}),
}
"""Methods by name. Distillation's teacher is the network that TRADES trained from the same seed."""
