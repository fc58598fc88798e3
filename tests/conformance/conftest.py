"""The table that drives these tests: every attack of ours, in the norms in which a rule may differ."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from art_classwise import TemperaturePGD, attacks
from art_classwise.attacks import PGD, AutoAttack, ClassWiseAttack, MinimumNormAttack, TransferAttack
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
    "MinimumNormAttack": (MinimumNormAttack, {"max_iter": 12}, {"searches": False, "targeted": True}),
    "AutoAttack": (AutoAttack, {"attacks": "apgd-ce", "n_iter": 6}, {"searches": False}),
}
# An attack that only has another loss needs no line.
_ATTACKS |= {
    kind.__name__: (kind, _STEPS, {"targeted": True})
    for kind in (getattr(attacks, name) for name in attacks.__all__)
    if hasattr(kind, "attack_params") and issubclass(kind, attacks.LossAttack) and not inspect.isabstract(kind)
    if all(kind is not made for made, *_ in _ATTACKS.values())
}
_LOSSES = [f"PGD-{loss}" for loss in LOSSES if loss != "cross_entropy"]


def _cases(name: str, *norms: float) -> list[Case]:
    make, options, traits = _ATTACKS[name]
    return [Case(name, make, norm, options, **traits) for norm in norms]


def _in_turn(names: list[str]) -> list[Case]:
    """Each attack in one norm, in another than the one before it."""
    return [_cases(name, list(EPS)[i % 3])[0] for i, name in enumerate(names)]


# Every way to search in every norm. The losses share PGD's: each in one norm.
_WAYS = [name for name in _ATTACKS if name not in _LOSSES]
CASES = [c for name in _WAYS for c in _cases(name, *EPS)] + _in_turn(_LOSSES)
# One of each: for what is decided before the norm matters.
EACH = _in_turn(list(_ATTACKS))
# One of each class.
KINDS = [name for name in _WAYS if name != "PGD-early"]


def _fixture(chosen: list[Case]) -> Any:
    params = [pytest.param(c, id=f"{c.name}-{NAMES[c.norm]}") for c in chosen]

    @pytest.fixture(params=params)
    def case(request: pytest.FixtureRequest) -> Case:
        return request.param

    return case


LINF = [c for name in _ATTACKS for c in _cases(name, np.inf)]
case = _fixture(CASES)
each = _fixture(EACH)
linf = _fixture(LINF)
search = _fixture([c for c in CASES if c.searches])
each_search = _fixture([c for c in EACH if c.searches])
linf_search = _fixture([c for c in LINF if c.searches])
linf_way = _fixture([c for c in LINF if c.searches and c.name in _WAYS])
ball_search = _fixture([c for c in CASES if c.searches and c.norm != np.inf])
targeted = _fixture([c for c in CASES if c.targeted])
targeted_search = _fixture([c for c in CASES if c.targeted and c.searches])
kind = _fixture([c for name in KINDS for c in _cases(name, np.inf, 2)])
each_kind = _fixture(_in_turn(KINDS))
linf_kind = _fixture([c for c in LINF if c.name in KINDS])
kind_search = _fixture([c for name in KINDS for c in _cases(name, np.inf, 2) if c.searches])
# The gradient of the divergence from the prediction on x is zero at x itself, and warned of.
from_x = _fixture([c for c in CASES if c.searches and c.name != "PGD-kl"])
linf_from_x = _fixture([c for c in LINF if c.searches and c.name != "PGD-kl"])
