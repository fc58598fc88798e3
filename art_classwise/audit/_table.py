"""The one table of outcomes, what it is about, and its class accuracies: results, checks and comparisons start here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from art_classwise import metrics
from art_classwise._core.display import Shown, shown_as
from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit._outcomes import nearest
from art_classwise.audit.manifest import Manifest
from art_classwise.errors import InputError, unknown
from art_classwise.metrics.accuracy import class_counts
from art_classwise.threat import ThreatModel

__all__ = ["AuditTable", "Relabel", "accuracies", "stacked", "summarised"]

Relabel: TypeAlias = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.int64]]
"""What makes groups of classes: (n,) -> (n,)."""


def accuracies(rows: pd.DataFrame, names: Sequence[str], group: Relabel, confidence: float) -> pd.DataFrame:
    """Return clean and robust accuracy of each class, or group, with Wilson intervals.

    Args:
        rows: Outcomes of one model under one attack.
        names: Of the classes, or groups.
        group: Returns the group of each label.
        confidence: Coverage of the intervals.

    Returns:
        Indexed by name: ``n``, ``clean``, ``clean_low``, ``clean_high``, ``robust``, ``robust_low``, ``robust_high``.
    """
    truth = rows["label"].to_numpy().astype(np.int64)
    label = group(truth)
    options: dict[str, Any] = {"classes": names, "confidence": confidence}
    clean = class_counts(label, truth == rows["clean_prediction"].to_numpy(), len(names), **options)
    robust = class_counts(label, rows["withstood"].to_numpy(), len(names), **options)
    clean.columns = pd.Index(["n", "clean", "clean_low", "clean_high"])
    robust.columns = pd.Index(["n", "robust", "robust_low", "robust_high"])
    return pd.concat([clean, robust.drop(columns="n")], axis=1)


def stacked(
    tables: Sequence[pd.DataFrame], models: Sequence[str], attacks: Sequence[str], names: Sequence[str], kind: str
) -> pd.DataFrame:
    """Return :func:`accuracies` of each model under each attack as one table.

    Args:
        tables: Of the first model under each attack, then of the next.
        models: Their names.
        attacks: Their names.
        names: Of the classes, or groups.
        kind: What those are: the last level of the index, after ``model`` and ``attack``.
    """
    # Levels in the order given, not sorted by name: then the index is sorted, and look-ups are fast.
    codes = np.indices((len(models), len(attacks), len(names))).reshape(3, -1)
    levels = [list(models), list(attacks), list(names)]
    index = pd.MultiIndex(levels=levels, codes=list(codes), names=["model", "attack", kind])
    return pd.concat(tables).set_axis(index)


def summarised(rows: pd.DataFrame, classes: Sequence[str]) -> dict[str, Any]:
    """Return what one model reaches under one attack, and how unequally: see :meth:`AuditResult.summary`.

    Args:
        rows: Outcomes of the model under the attack.
        classes: The class names.
    """
    table = accuracies(rows, classes, lambda label: label, 0.95)
    label, withstood = rows["label"].to_numpy().astype(np.int64), rows["withstood"].to_numpy()
    right = label == rows["clean_prediction"].to_numpy()
    row: dict[str, Any] = {
        **metrics.mean_accuracy(label, right, len(classes)).add_prefix("clean_").rename({"clean_mean": "clean"}),
        **metrics.disparity(table["robust"].to_numpy()),
        **metrics.mean_accuracy(label, withstood, len(classes)).drop("mean").add_prefix("mean_"),
        "worst_class": table["robust"].idxmin(),
        **dict.fromkeys(("held_out", "worst_low", "worst_high", "p"), np.nan),
        "left_out": int(np.count_nonzero(table["n"] == 1)),
    }
    with suppress(InputError):  # no class has two examples
        worst = metrics.worst_class(label, withstood, len(classes))
        row |= {"held_out": worst["accuracy"], "worst_low": worst["low"], "worst_high": worst["high"]}
    with suppress(InputError):  # a single class has examples
        row["p"] = metrics.disparity_test(label, withstood, len(classes))["p"]
    return row


@dataclass(frozen=True, eq=False, repr=False)
class AuditTable(Shown):
    """The outcomes of an audit, without what is concluded from them: see :class:`art_classwise.AuditResult`."""

    outcomes: pd.DataFrame
    manifest: Manifest
    finished: bool = True

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names."""
        return self.manifest.classes

    @property
    def threat(self) -> ThreatModel:
        """The threat model."""
        return self.manifest.threat

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
            Indexed by class: ``n``, ``clean``, ``clean_low``, ``clean_high``, ``robust``, ``robust_low``,
            ``robust_high``, all but the first fractions; n = 0 and NaN for a class without examples.

        Raises:
            InputError: The audit has no such model or attack.
        """
        table = accuracies(self.rows(model, attack), self.classes, lambda label: label, confidence)
        return shown_as(table, "classes")
