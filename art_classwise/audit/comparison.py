"""What a comparison says: two models, or two attacks, example by example."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd

from art_classwise._core.display import Shown
from art_classwise._core.files import check_output_file, written_aside
from art_classwise.threat import ThreatModel

__all__ = ["Comparison", "Kind"]

Kind = Literal["robust", "clean"]
"""Whether an example counts as right that withstood, or that was classified rightly without attack."""


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Shown):
    """How two models, or two attacks on one model, differ on the same examples.

    Every difference is the first's accuracy minus the second's; all values but counts and names are fractions.

    Attributes:
        first: Name of the first.
        second: Name of the second.
        kind: ``"robust"`` or ``"clean"`` accuracy.
        model: The model on which two attacks were compared; None where models were.
        attack: The attack under which two models were compared; None where attacks were, or clean accuracies.
        threat: The threat model; None of clean accuracies.
        worst_case: Whether broken examples left the audit: then an attack counts with those before it.
        n: Number of examples.
        confidence: Coverage of the intervals, each for itself.
        by_class: A row per class: see :func:`art_classwise.metrics.comparison.paired_comparison`. Its ``p_adjusted``
            holds for all classes at once; its intervals don't.
        overall: Over all examples, each counting alike: ``first``, ``second``, ``difference``, ``low``, ``high``
            (Newcombe 1998), ``p`` (McNemar's exact test).
        mean: Over classes, each counting alike: ``first``, ``second``, ``difference``, ``low``, ``high`` (of a
            stratified sample: see :func:`art_classwise.metrics.comparison.mean_difference`).
        worst_class: ``first_class``, ``second_class``, the worst class of each; ``first``, ``second``, their
            accuracies; ``difference``, ``low``, ``high`` (takes account of choosing the classes, and where it falls
            short: see :func:`art_classwise.metrics.comparison.worst_class_difference`).
    """

    first: str
    second: str
    kind: Kind
    model: str | None
    attack: str | None
    threat: ThreatModel | None
    worst_case: bool
    n: int
    confidence: float
    by_class: pd.DataFrame = field(repr=False)
    overall: pd.Series[float] = field(repr=False)
    mean: pd.Series[float] = field(repr=False)
    worst_class: pd.Series[Any] = field(repr=False)

    @property
    def about(self) -> str:
        """What is compared, in words."""
        of = "" if self.model is None else f" of {self.model}"
        under = "" if self.attack is None else f" under {self.attack}"
        return f"{self.kind} accuracy{of}{under}{'' if self.threat is None else f' at {self.threat}'}"

    def table(self) -> pd.DataFrame:
        """Return all of it in one table.

        Returns:
            The columns of :attr:`by_class`, indexed by (``of``, ``class``): a row per class (``of`` is ``"class"``),
            then ``"all examples"``, ``"mean over classes"`` and ``"worst class"``, whose class is empty, of the worst
            class ``first / second`` where the two differ.
        """
        a, b = self.worst_class[["first_class", "second_class"]]
        rest = pd.DataFrame([self.overall, self.mean, self.worst_class]).assign(n=[self.n] * 3)
        whole = pd.concat([self.by_class, rest.reindex(columns=self.by_class.columns).astype(self.by_class.dtypes)])
        of = ["class"] * len(self.by_class) + ["all examples", "mean over classes", "worst class"]
        names = [*self.by_class.index, "", "", a if a == b else f"{a} / {b}"]
        return whole.set_axis(pd.MultiIndex.from_arrays([of, names], names=["of", "class"]))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`table` as a CSV file, the names of the two and what is compared in each row.

        Raises:
            InputError: It can't be written.
        """
        table = self.table()
        for name, value in (("about", self.about), ("second_name", self.second), ("first_name", self.first)):
            table.insert(0, name, value)
        with written_aside(check_output_file(path, "comparison.csv")) as aside:
            table.to_csv(aside)
