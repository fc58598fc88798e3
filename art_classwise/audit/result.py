"""The outcomes of an audit, and the questions to ask of them: pure functions of one table."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from art_classwise import metrics
from art_classwise._files import written_aside
from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit._outcomes import cumulative, parts, table
from art_classwise.errors import InputError, unknown
from art_classwise.metrics.accuracy import class_counts
from art_classwise.threat import ThreatModel

__all__ = ["WORST_CASE", "AuditResult"]


@dataclass(frozen=True)
class AuditResult:
    """The outcomes of an audit.

    Attributes:
        outcomes: A row per (model, attack, example): ``model``, ``attack``, ``example`` (its number in the data
            set), ``label``, ``clean_prediction``, ``prediction`` (under attack), ``withstood``,
            ``clean_margin`` and ``margin`` (true logit minus the largest other one), ``perturbation`` (its
            norm), ``zero_gradient`` (whether the attack met one).
        classes: The class names.
        threat: The threat model.
        info: Data set, seed, whether broken examples leave (``worst_case``), fingerprints of the models, parameters of
            the attacks, versions and hardware of all processes (``environments``), command; of an audit read before
            its end, ``unfinished``.
    """

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

    def worst_case(self) -> AuditResult:
        """Return what an audit with ``worst_case=True`` would have found: broken examples leave.

        The outcomes of an attack become those of it and all before it, in the order of the audit: an example keeps the
        row of the attack that broke it first, and one that is misclassified without attack is not attacked. AutoAttack
        and attacks from outside of this package, whose random numbers belong to a batch, may find a little more or less
        when they are asked about fewer examples.
        """
        of = parts(self.outcomes)
        rows: dict[tuple[str, str], pd.DataFrame] = {}
        for model in self.models:
            tables = [of[model, attack] for attack in self.attacks if (model, attack) in of]
            if any(not tables[0]["example"].equals(t["example"]) for t in tables):
                raise InputError(
                    f"Attacks on {model!r} were tried on different examples: there is no worst case of them."
                )
            names = [attack for attack in self.attacks if (model, attack) in of]
            rows |= {(model, attack): one for attack, one in zip(names, cumulative(tables), strict=True)}
        return replace(self, outcomes=table(rows, self.models, self.attacks), info={**self.info, "worst_case": True})

    @cached_property
    def _worst_case(self) -> pd.DataFrame:
        # The row that broke the example, or came nearest to it.
        order = self.outcomes.sort_values(["withstood", "margin"], kind="stable")
        worst = order.drop_duplicates(["model", "example"]).sort_index()
        return worst.assign(attack=pd.Categorical([WORST_CASE] * len(worst), categories=[WORST_CASE]))

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
        rows = self._rows(model, attack)
        label = rows["label"].to_numpy().astype(np.int64)
        options: Any = {"classes": self.classes, "confidence": confidence}
        clean_correct = label == rows["clean_prediction"].to_numpy()
        clean = class_counts(label, clean_correct, len(self.classes), **options)
        robust = class_counts(label, rows["withstood"].to_numpy(), len(self.classes), **options)
        clean.columns = pd.Index(["n", "clean", "clean_low", "clean_high"])
        robust.columns = pd.Index(["n", "robust", "low", "high"])
        return pd.concat([clean, robust.drop(columns="n")], axis=1)

    def by_class(self, *, confidence: float = 0.95) -> pd.DataFrame:
        """Return every :meth:`class_table` of the audit in one, indexed by (model, attack, class).

        The attacks are followed by ``"all attacks"``.
        """
        attacks = (*self.attacks, WORST_CASE)
        tables = [self.class_table(m, a, confidence=confidence) for m in self.models for a in attacks]
        # Levels in the order given, not sorted by name: then the index is sorted, and look-ups are fast.
        codes = np.indices((len(self.models), len(attacks), len(self.classes))).reshape(3, -1)
        index = pd.MultiIndex(
            levels=[list(self.models), list(attacks), list(self.classes)],
            codes=list(codes),
            names=["model", "attack", "class"],
        )
        return pd.concat(tables).set_axis(index)

    def summary(self, attack: str = WORST_CASE) -> pd.DataFrame:
        """Return a row per model: what it reaches and how unequally.

        Args:
            attack: Name of an attack of the audit, or ``"all attacks"``.

        Returns:
            Columns ``clean`` (mean class accuracy), then of the class robust accuracies all measures of
            :func:`art_classwise.metrics.disparity`, and ``worst_class``, the name of the worst one.

        Raises:
            InputError: The audit has no such attack.
        """
        rows = {}
        for model in self.models:
            table = self.class_table(model, attack)
            rows[model] = {
                "clean": table["clean"].mean(),
                **metrics.disparity(table["robust"].to_numpy()),
                "worst_class": table["robust"].idxmin(),
            }
        frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
        first = ["clean", "mean", "worst", "worst_class"]
        return frame[first + [c for c in frame.columns if c not in first]]

    def confusion(self, model: str, attack: str, *, normalize: bool = True) -> pd.DataFrame:
        """Return the confusion matrix under attack, (C, C), a row per true class.

        Args:
            model: Name of a model.
            attack: Name of an attack, or ``"all attacks"``.
            normalize: Shares of each true class instead of counts.

        Raises:
            InputError: The audit has no such model or attack.
        """
        rows = self._rows(model, attack)
        return metrics.confusion(
            rows["label"], rows["prediction"], len(self.classes), classes=self.classes, normalize=normalize
        )

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the outcomes to a folder, from which :func:`art_classwise.read_audit` reads them.

        Args:
            folder: Made if missing.
            overwrite: Replace the audit that lies there, if one does.

        Raises:
            InputError: The folder holds an audit, and ``overwrite`` isn't asked for; or it can't be written.
        """
        from art_classwise.audit.saved import write_audit

        write_audit(self, folder, overwrite=overwrite)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`by_class` as a CSV file."""
        with written_aside(Path(path)) as aside:
            self.by_class().to_csv(aside)

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write the report, one HTML file that needs no other."""
        from art_classwise.report.page import render

        with written_aside(Path(path)) as aside:
            aside.write_text(render(self), encoding="utf-8")

    def _rows(self, model: str, attack: str) -> pd.DataFrame:
        if model not in self.models:
            raise unknown("model", model, self.models)
        if attack not in (*self.attacks, WORST_CASE):
            raise unknown("attack", attack, (*self.attacks, WORST_CASE))
        table = self._worst_case if attack == WORST_CASE else self.outcomes[self.outcomes["attack"] == attack]
        rows = table[table["model"] == model]
        if len(rows) == 0:
            raise InputError(f"The audit has no outcome of {attack!r} on {model!r}.")
        return rows
