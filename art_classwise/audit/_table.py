"""The one table of outcomes, and what it is about: an audit's result, its checks and comparisons start from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from art_classwise._core.display import Shown, shown_as
from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit._accuracies import accuracies
from art_classwise.audit._outcomes import nearest
from art_classwise.errors import InputError, unknown
from art_classwise.threat import ThreatModel

__all__ = ["AuditTable"]


@dataclass(frozen=True, eq=False, repr=False)
class AuditTable(Shown):
    """The outcomes of an audit, without what is concluded from them: see :class:`art_classwise.AuditResult`."""

    outcomes: pd.DataFrame = field(repr=False)
    classes: tuple[str, ...]
    threat: ThreatModel
    info: dict[str, Any] = field(repr=False)

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models, in the order they were given."""
        return tuple(self.outcomes["model"].cat.categories)

    @property
    def attacks(self) -> tuple[str, ...]:
        """Names of the attacks, in the order they were given."""
        return tuple(self.outcomes["attack"].cat.categories)

    @cached_property
    def _nearest(self) -> pd.DataFrame:
        return nearest(self.outcomes, WORST_CASE)

    def rows(self, model: str, attack: str = WORST_CASE) -> pd.DataFrame:
        """Return the outcomes of one model under one attack: what any metric is a function of.

        Args:
            model: Name of a model.
            attack: Name of an attack, or ``"all attacks"``: of each example the row of the attack that broke it by the
                largest margin, or came nearest to breaking it.

        Returns:
            The columns of :attr:`outcomes`, a row per example, in their order.

        Raises:
            InputError: The audit has no such model or attack.
        """
        if model not in self.models:
            raise unknown("model", model, self.models)
        if attack not in (*self.attacks, WORST_CASE):
            raise unknown("attack", attack, (*self.attacks, WORST_CASE))
        table = self._nearest if attack == WORST_CASE else self.outcomes[self.outcomes["attack"] == attack]
        rows = table[table["model"] == model]
        if len(rows) == 0:
            raise InputError(f"The audit has no outcome of {attack!r} on {model!r}.")
        return rows

    def class_table(self, model: str, attack: str = WORST_CASE, *, confidence: float = 0.95) -> pd.DataFrame:
        """Return clean and robust accuracy per class of one model under one attack, with Wilson intervals.

        Args:
            model: Name of a model.
            attack: Name of an attack, or ``"all attacks"``, under which an example must withstand each of them.
            confidence: Coverage of the intervals.

        Returns:
            Indexed by class: ``n``, ``clean``, ``clean_low``, ``clean_high``, ``robust``, ``low``, ``high``, all
            but the first fractions; n = 0 and NaN for a class without examples.

        Raises:
            InputError: The audit has no such model or attack.
        """
        table = accuracies(self.rows(model, attack), self.classes, lambda label: label, confidence)
        return shown_as(table, "classes")
