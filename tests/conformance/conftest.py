"""The table that drives these tests: every attack of ours in every norm it has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from art_classwise import TemperaturePGD
from art_classwise.attacks import PGD, AutoAttack, ClassWiseAttack, TransferAttack
from art_classwise.attacks.pgd import LOSSES

EPS = {np.inf: 0.1, 2: 0.8, 1: 5.0}
NAMES = {np.inf: "Linf", 2: "L2", 1: "L1"}


def transfer(estimator, **options):
    return TransferAttack(estimator, PGD(estimator, **options))


@dataclass(frozen=True)
class Case:
    """One attack in one norm, cheap, with a radius that breaks some examples and not others.

    Attributes:
        name: Of the attack.
        make: From an estimator and options to the attack.
        norm: As ART writes it.
        options: What makes it this attack, and cheap.
        searches: Whether it is our own search, and takes masks, starts, budgets by example and by class.
        targeted: Whether there is a targeted form of it, which ``targeted=True`` asks for.
    """

    name: str
    make: Callable[..., Any]
    norm: float
    options: dict[str, Any] = field(default_factory=dict)
    searches: bool = True
    targeted: bool = False

    @property
    def eps(self) -> float:
        return EPS[self.norm]

    def __call__(self, estimator: Any, **options: Any) -> Any:
        given = {"norm": self.norm, "eps": self.eps, "verbose": False, **self.options, **options}
        return self.make(estimator, **given)

    def size(self, delta: np.ndarray) -> np.ndarray:
        """Return the norm of each perturbation, in float64."""
        return np.linalg.norm(delta.reshape(len(delta), -1).astype(np.float64), self.norm, axis=1)


_STEPS = {"max_iter": 4}
_ATTACKS: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, bool]]] = {
    "PGD": (PGD, _STEPS, {"targeted": True}),
    "PGD-early": (PGD, {**_STEPS, "early_stop": True, "momentum": 0.9}, {"targeted": True}),
    **{
        f"PGD-{loss}": (PGD, {**_STEPS, "loss": loss}, {"targeted": loss not in ("dlr", "kl")})
        for loss in LOSSES
        if loss != "cross_entropy"
    },
    "TemperaturePGD": (TemperaturePGD, _STEPS, {"targeted": True}),
    "ClassWiseAttack": (ClassWiseAttack, _STEPS, {}),
    "TransferAttack": (transfer, _STEPS, {"targeted": True}),
    "AutoAttack": (AutoAttack, {"attacks": "apgd-ce", "n_iter": 6}, {"searches": False}),
}
CASES = [
    Case(name, make, norm, options, **traits) for name, (make, options, traits) in _ATTACKS.items() for norm in EPS
]


def _fixture(chosen: list[Case]) -> Any:
    params = [pytest.param(c, id=f"{c.name}-{NAMES[c.norm]}") for c in chosen]

    @pytest.fixture(params=params)
    def case(request: pytest.FixtureRequest) -> Case:
        return request.param

    return case


case = _fixture(CASES)
linf = _fixture([c for c in CASES if c.norm == np.inf])
# One for each class and Linf and L2: where the loss makes no difference.
kind = _fixture([c for c in CASES if not c.name.startswith("PGD-") and c.norm != 1])
linf_kind = _fixture([c for c in CASES if not c.name.startswith("PGD-") and c.norm == np.inf])
kind_search = _fixture([c for c in CASES if c.searches and not c.name.startswith("PGD-") and c.norm != 1])
search = _fixture([c for c in CASES if c.searches])
linf_search = _fixture([c for c in CASES if c.searches and c.norm == np.inf])
ball_search = _fixture([c for c in CASES if c.searches and c.norm != np.inf])
# The gradient of the divergence from the prediction on x is zero at x itself, and warned of.
from_x = _fixture([c for c in CASES if c.searches and c.name != "PGD-kl"])
linf_from_x = _fixture([c for c in CASES if c.searches and c.name != "PGD-kl" and c.norm == np.inf])
targeted = _fixture([c for c in CASES if c.targeted])
