"""Several policies at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from art_classwise.errors import InputError
from art_classwise.threat import ThreatModel, Uniform
from art_classwise.trainers.policies.policy import (
    ClassBudgets,
    ClassPolicy,
    ClassWeights,
    FairAveraging,
    PolicyContext,
)

__all__ = ["Combined"]


@dataclass
class Combined(ClassPolicy):
    """Several policies at once: their weights and budgets are multiplied, their shifts of logits and terms added.

    Where several set targets the first one's apply, and to examples without one those of the next. The history shows
    the products, and what else each of them shows.

    Args:
        policies: Two or more, of different kinds; one of them at most averages weights (CFA).

    Raises:
        InputError: They are fewer, no policies, or don't go together.
    """

    policies: Sequence[ClassPolicy]

    def _check(self) -> None:
        given = list(self.policies) if isinstance(self.policies, Iterable) else []
        if len(given) < 2 or not all(isinstance(policy, ClassPolicy) for policy in given):
            raise InputError(
                "`policies` must be two or more class policies, such as [DAFA(warmup=20), BalancedSoftmax()], but got "
                f"{self.policies!r}."
            )
        kinds = [type(policy).__name__ for policy in given]
        twice = next((kind for i, kind in enumerate(kinds) if kind in kinds[:i]), None)
        if twice is not None or "Combined" in kinds:
            raise InputError(
                f"A combination takes policies of different kinds, each once, but {twice or 'another Combined'} is "
                f"among {', '.join(kinds)}: give one of them."
            )
        averaging = [type(policy).__name__ for policy in given if policy.averaging is not None]
        if len(averaging) > 1:
            raise InputError(f"Both {' and '.join(averaging)} average weights: switch that off in all but one.")
        self.policies = given
        self.needs_validation = any(policy.needs_validation for policy in given)
        self.counts_steps = any(policy.counts_steps for policy in given)

    def check_fit(self, n_classes: int, threat: ThreatModel, width: float) -> None:
        """See :class:`ClassPolicy`."""
        for policy in self.policies:
            policy.check_fit(n_classes, threat, width)

    def begin(self, context: PolicyContext) -> None:
        """See :class:`ClassPolicy`."""
        super().begin(context)
        for policy in self.policies:
            policy.begin(context)

    @property
    def averaging(self) -> FairAveraging | None:
        """See :class:`ClassPolicy`."""
        return next((policy.averaging for policy in self.policies if policy.averaging is not None), None)

    @property
    def sets_budgets(self) -> bool:
        """See :class:`ClassPolicy`."""
        return any(policy.sets_budgets for policy in self.policies)

    @property
    def needs_own_attack(self) -> bool:
        """See :class:`ClassPolicy`."""
        return any(policy.needs_own_attack for policy in self.policies)

    @property
    def weighs_perturbation(self) -> bool:
        """See :class:`ClassPolicy`."""
        return all(policy.weighs_perturbation for policy in self.policies)

    @property
    def class_budgets(self) -> ClassBudgets | None:
        """See :class:`ClassPolicy`."""
        return _budgets(policy.class_budgets for policy in self.policies)

    def budgets_of(self, y: Tensor) -> ClassBudgets | None:
        """See :class:`ClassPolicy`."""
        return _budgets(policy.budgets_of(y) for policy in self.policies)

    @property
    def logit_adjustment(self) -> Tensor | None:
        """See :class:`ClassPolicy`."""
        return _sum(policy.logit_adjustment for policy in self.policies)

    def targets_of(self, y: Tensor, uniform: Uniform) -> Tensor | None:
        """See :class:`ClassPolicy`."""
        chosen: Tensor | None = None
        for policy in self.policies:
            targets = policy.targets_of(y, uniform)
            if targets is not None:
                chosen = targets if chosen is None else torch.where(chosen >= 0, chosen, targets)
        return chosen

    def weigh(self, y: Tensor, logits_adv: Tensor) -> ClassWeights:
        """See :class:`ClassPolicy`."""
        return _weights(policy.weigh(y, logits_adv) for policy in self.policies)

    def see_clean(self, y: Tensor, logits: Tensor) -> None:
        """See :class:`ClassPolicy`."""
        for policy in self.policies:
            policy.see_clean(y, logits)

    def see_steps(self, y: Tensor, n_withstood: Tensor) -> None:
        """See :class:`ClassPolicy`."""
        for policy in self.policies:
            policy.see_steps(y, n_withstood)

    def term(self, y: Tensor, logits_adv: Tensor) -> Tensor | None:
        """See :class:`ClassPolicy`."""
        return _sum(policy.term(y, logits_adv) for policy in self.policies)

    def see_validation(self, y: Tensor, values: Tensor) -> None:
        """See :class:`ClassPolicy`."""
        for policy in self.policies:
            policy.see_validation(y, values)

    def end_epoch(self, epoch: int, row: Mapping[str, float]) -> None:
        """See :class:`ClassPolicy`."""
        for policy in self.policies:
            policy.end_epoch(epoch, row)

    def columns(self) -> dict[str, float]:
        """See :class:`ClassPolicy`."""
        shown = super().columns()
        for policy in self.policies:
            own = policy.columns().items()
            shown |= {name: value for name, value in own if not name.startswith(("weight_", "beta_", "eps_"))}
        return shown

    def _in_force(self) -> ClassWeights:
        return _weights(policy._in_force() for policy in self.policies)

    def describe(self) -> dict[str, Any]:
        """See :class:`ClassPolicy`."""
        return {"name": "Combined", "policies": [policy.describe() for policy in self.policies]}

    def state(self) -> dict[str, Tensor]:
        """See :class:`ClassPolicy`."""
        named = ((type(policy).__name__, policy.state()) for policy in self.policies)
        return {f"{kind}.{name}": value for kind, state in named for name, value in state.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See :class:`ClassPolicy`."""
        for policy in self.policies:
            kind = f"{type(policy).__name__}."
            policy.load({n.removeprefix(kind): value for n, value in state.items() if n.startswith(kind)})


def _sum(values: Iterable[Tensor | None]) -> Tensor | None:
    given = [value for value in values if value is not None]
    return torch.stack(given).sum(0) if given else None


def _product(values: Iterable[Tensor | None]) -> Tensor | None:
    given = [value for value in values if value is not None]
    return torch.stack(given).prod(0) if given else None


def _weights(each: Iterable[ClassWeights]) -> ClassWeights:
    weights = list(each)
    return ClassWeights(_product(w.first for w in weights), _product(w.second for w in weights))


def _budgets(each: Iterable[ClassBudgets | None]) -> ClassBudgets | None:
    budgets = [b for b in each if b is not None]
    radii, steps = _product(b.radii for b in budgets), _product(b.steps for b in budgets)
    return None if radii is None or steps is None else ClassBudgets(radii, steps)
