"""The outcomes of an audit, and the questions to ask of them: pure functions of one table."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from art_classwise import metrics
from art_classwise._core import display
from art_classwise._core.display import shown_as
from art_classwise._core.files import output_file
from art_classwise._core.fingerprints import digest
from art_classwise.attacks.ladder import WORST_CASE, Attacks
from art_classwise.audit.attacked_images import AttackedImage, attack_images
from art_classwise.audit.comparison import Comparison, Kind, best_worst_class, compare_with_best, compare_within
from art_classwise.audit.corrupted import ALL_CORRUPTIONS, MEAN_CORRUPTION
from art_classwise.audit.distances import distances_of
from art_classwise.audit.findings.attack_checks import is_strongly_attacked
from art_classwise.audit.findings.registry import CheckResult, Findings, checks_table, evidences, run_checks
from art_classwise.audit.image_file import image_files, read_images
from art_classwise.audit.manifest import ModelSource
from art_classwise.audit.outcomes import (
    COSTS,
    AuditTable,
    Relabel,
    accuracies,
    cumulative,
    kept,
    parts,
    stacked,
    summarised,
    table,
)
from art_classwise.audit.requirements.grammar import Requirement
from art_classwise.audit.requirements.verdicts import Verdicts, judge_models
from art_classwise.audit.saved import read_stored, write_audit
from art_classwise.audit.store import Store
from art_classwise.datasets import as_dataset
from art_classwise.errors import InputError
from art_classwise.metrics.accuracy import Groups
from art_classwise.metrics.best import Measure
from art_classwise.metrics.distances import check_radii
from art_classwise.metrics.shares import worst_share

__all__ = ["WORST_CASE", "AuditResult", "read_audit"]


@dataclass(frozen=True, eq=False, repr=False)
class AuditResult(AuditTable):
    """The outcomes of an audit.

    Attributes:
        outcomes: A copy of the one table: what you write into it changes nothing here; to change a result, make another
            one, ``dataclasses.replace(result, outcomes=changed)``. A row per (model, attack, example): ``model``,
            ``attack``, ``example`` (its number in the data set), ``label``, ``clean_prediction``, ``prediction`` (under
            attack), ``withstood``, ``clean_margin`` and ``margin`` (true logit minus the largest other one),
            ``perturbation`` (its norm), ``zero_gradient`` (whether the attack met one). And ``distance``, if an attack
            looks for the smallest perturbations: the norm of the smallest that was found, within the radius or beyond,
            0 where the model is wrong without one, infinite where there is none; NaN for other attacks, and where
            nobody looked.
        manifest: What was audited, how and where: see :class:`art_classwise.audit.Manifest`. Outcomes that no audit
            made get one from :meth:`art_classwise.audit.Manifest.of_table`.
        missing: Of an audit that was read before its end, sentences that say what isn't there yet.
        costs: What attacks cost, a row per ``model`` and ``attack``, ``"clean"`` for none: ``n``, how many examples
            were attacked; and of one of them on average ``forwards`` and ``backwards``, passes through the network
            with those that filled up batches, and ``seconds``. NaN where it isn't known.
        finished: Whether all that was asked for is there.
        images: A few attacked images of each class, if :meth:`with_images` made some: page and explorer show them.
        sealed: The text of the manifest of the folder that the outcomes were read from, or written to, which lists
            every file with its SHA-256; of outcomes put together by hand the texts of several, or none.
    """

    images: tuple[AttackedImage, ...] = field(default=(), kw_only=True)
    sealed: tuple[str, ...] = field(default=(), kw_only=True)

    @cached_property
    def roots(self) -> tuple[str, ...]:
        """The root digests of the audits that the outcomes are from: of each the SHA-256 of its ``manifest.json``.

        Who knows it can check, with :func:`art_classwise.verify`, ``art-classwise verify`` or ``sha256sum``, that
        outcomes, settings and versions are those that the audit wrote. None where outcomes are in no folder, the audit
        is unfinished or of an earlier release, or its files aren't those that were listed.
        """
        return tuple(digest(text.encode()) for text in self.sealed)

    @cached_property
    def check_results(self) -> tuple[CheckResult, ...]:
        """What came of each check of each model: see :class:`art_classwise.audit.findings.CheckResult`."""
        return tuple(run_checks(self))

    @property
    def findings(self) -> Findings:
        """What looks wrong, in the order it was looked for; empty, if nothing does.

        A check that chance may set off is held to a level that allows for the number of models and of such checks:
        together they raise a false alarm in at most one audit in a hundred.
        """
        return Findings(finding for one in self.check_results for finding in one.findings)

    @property
    def checks(self) -> pd.DataFrame:
        """Every check with its result.

        A row per model and check: ``model`` (None for the audit as a whole), ``check``, ``looks_for``; ``result``,
        ``"found"``, ``"nothing found"`` or ``"not run"``; ``tried``, on how many examples it ran; ``detectable``, the
        smallest share of them that would have shown with a probability of 97.5 % (Clopper and Pearson's upper bound),
        NaN where the check isn't about a share; and ``explanation``, what was seen, why it didn't run, or what it could
        have missed.
        """
        return checks_table(self.check_results)

    @cached_property
    def strongly_attacked(self) -> tuple[str, ...]:
        """Names of the models on which a strong attack was run; of others, robust accuracy is an upper bound.

        Corruptions are no attack, whose accuracies would be bounds: where there are only these, it is all models.

        Strong is standard AutoAttack within the threat model, or a search of a hundred steps and restarts or more
        together that found at most 1 % more than one of less effort, where no other attack found 1 % more either. One
        that met no gradient on any example isn't strong.
        """
        return tuple(one.name for one in evidences(self) if not one.adversaries or is_strongly_attacked(one))

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Names of the models that weren't looked at themselves: their findings come from outcomes alone."""
        return tuple(name for name in self.models if name not in self.manifest.probes)

    def worst_case(self) -> AuditResult:
        """Return what an audit with ``worst_case=True`` would have found: broken examples leave.

        The outcomes of an attack become those of it and all before it, in the order of the audit: an example keeps the
        row of the attack that broke it first, and one that is misclassified without attack is not attacked. AutoAttack
        and attacks from outside of this package, whose random numbers belong to a batch, may find a little more or less
        when they are asked about fewer examples.

        It is computed once: asked again, the same result comes back.

        Raises:
            InputError: Attacks were tried on different examples.
        """
        return self._worst_case

    @cached_property
    def _worst_case(self) -> AuditResult:
        of = parts(kept(self))
        rows: dict[tuple[str, str], pd.DataFrame] = {}
        if not self.adversaries:
            raise InputError("Corruptions are no adversaries, of which an audit could have a worst case.")
        for model in self.models:
            tables = [of[model, attack] for attack in self.adversaries if (model, attack) in of]
            if any(not tables[0]["example"].equals(t["example"]) for t in tables):
                raise InputError(
                    f"Attacks on {model!r} were tried on different examples, so they have no common worst case."
                )
            names = [attack for attack in self.adversaries if (model, attack) in of]
            rows |= {(model, attack): one for attack, one in zip(names, cumulative(tables), strict=True)}
        manifest = self.manifest.part(self.models, self.adversaries) if self.corruptions else self.manifest
        manifest = manifest.updated(worst_case=True)
        return replace(self, outcomes=table(rows, self.models, self.adversaries), manifest=manifest)

    def by_class(self, *, confidence: float = 0.95) -> pd.DataFrame:
        """Return every :meth:`class_table` of the audit in one, indexed by (model, attack, class).

        The attacks are followed by ``"all attacks"``, and by ``"mean corruption"`` where there are corruptions.
        """
        return self._tables(self.classes, "class", lambda label: label, confidence)

    def by_attack(self, model: str | None = None) -> pd.DataFrame:
        """Return a model's accuracy per class without attack, under each attack and under all of them.

        Args:
            model: Name of a model; the one that there is, if absent.

        Returns:
            Indexed by class: ``clean``, a column per attack in the order of the audit, ``"all attacks"`` and
            ``"mean corruption"``, as far as there are such; fractions, NaN for a class without examples.

        Raises:
            InputError: The audit has no such model.
        """
        tables = [self.class_table(model, attack) for attack in (*self.attacks, *self.together)]
        columns = [tables[-1]["clean"], *(table["robust"] for table in tables)]
        names = pd.Index(["clean", *self.attacks, *self.together], name="attack")
        table = pd.concat(columns, axis=1).set_axis(names, axis=1)
        if self.is_quick_estimate:
            table.attrs["quick_estimate"] = True
        return self._told(table)

    def by_corruption(self, model: str | None = None) -> pd.DataFrame:
        """Return a model's accuracy per class under each corruption, the mean over its severities.

        Args:
            model: Name of a model; the one that there is, if absent.

        Returns:
            Indexed by class: ``clean``, a column per corruption in the order of the audit, and ``"mean corruption"``,
            their mean, in which each corruption counts alike. Fractions, NaN for a class without examples.

        Raises:
            InputError: The audit has no such model, or no corruptions.
        """
        if not self.corruptions:
            raise InputError('The audit has no corruptions: ask for some, ClassWiseAudit(..., corruptions="all").')
        together = self.class_table(model, MEAN_CORRUPTION)
        columns = {
            kind: pd.concat([self.class_table(model, name)["robust"] for name in names], axis=1).mean(axis=1)
            for kind, names in self._kinds.items()
        }
        table = pd.DataFrame({"clean": together["clean"], **columns, MEAN_CORRUPTION: together["robust"]})
        return self._told(table.rename_axis("corruption", axis=1))

    def corruption_summary(self) -> pd.DataFrame:
        """Return a row per model: what it reaches under corruptions, and where it is weakest.

        Returns:
            Columns ``clean``, and ``mean``, the mean corruption accuracy, the mean over classes, corruptions and
            severities, both with an interval; ``worst_class``, the class of the lowest mean corruption accuracy, and
            ``worst``, that; ``held_out``, its accuracy on examples it wasn't chosen on, and ``worst_low`` and
            ``worst_high`` (:func:`art_classwise.metrics.worst_share`); ``worst_corruption``, the corruption of the
            lowest mean over classes and severities, and ``worst_corruption_accuracy``; ``weakest_class`` and
            ``weakest_corruption``, the pair of the lowest accuracy, and ``weakest``, that. Intervals allow for each
            image being there under all corruptions.

        Raises:
            InputError: The audit has no corruptions.
        """
        rows = {}
        for model in self.models:
            table = self.by_corruption(model).drop(columns=["clean", MEAN_CORRUPTION])
            means, cells = table.mean().to_numpy(), table.to_numpy()
            row, column = divmod(int(np.nanargmin(cells)), cells.shape[1])
            rows[model] = {
                "worst_corruption": table.columns[int(means.argmin())],
                "worst_corruption_accuracy": float(means.min()),
                "weakest_class": table.index[row],
                "weakest_corruption": table.columns[column],
                "weakest": float(cells[row, column]),
            }
        first = ["clean", "clean_low", "clean_high", "mean", "mean_low", "mean_high"]
        first += ["worst_class", "worst", "held_out", "worst_low", "worst_high"]
        found = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
        return self._told(pd.concat([self.summary(MEAN_CORRUPTION)[first], found], axis=1))

    def by_group(self, groups: Groups, *, confidence: float = 0.95) -> pd.DataFrame:
        """Return what :meth:`by_class` does for groups of classes: where single classes have few examples.

        Args:
            groups: As :func:`art_classwise.metrics.class_groups` takes them: a mapping from class to group, or
                ``"cifar100"``, ``"imagenet"``, ``"imagenet-coarse"`` or ``"transport-animal"``.
            confidence: Coverage of the intervals.

        Returns:
            Indexed by (model, attack, group), groups sorted by name. An example counts as correct if its class is.

        Raises:
            InputError: The groups don't fit the classes.
        """
        names = metrics.group_labels([0], groups, self.classes)[1]
        return self._tables(names, "group", lambda y: metrics.group_labels(y, groups, self.classes)[0], confidence)

    def summary(self, attack: str = WORST_CASE) -> pd.DataFrame:
        """Return a row per model: what it reaches and how unequally.

        Args:
            attack: Name of an attack of the audit, ``"all attacks"``, or ``"mean corruption"``, of which
                :meth:`corruption_summary` says more.

        Returns:
            Columns ``clean``, the mean of the class accuracies without attack, and ``mean``, of the robust ones, both
            with an interval, ``_low`` and ``_high`` (:func:`art_classwise.metrics.mean_accuracy`); ``worst``, the
            plain minimum over classes, and ``worst_class``, its name; ``held_out``, the accuracy of the worst class on
            the half of the examples it wasn't chosen on, which isn't too low as a minimum is, but can be up to 8 points
            too high with 100 classes close together, and ``worst_low`` and ``worst_high``, the interval of the worst
            class's accuracy, which holds (:func:`art_classwise.metrics.worst_class`); ``left_out``, the number of
            classes with a single example, which these three leave out; ``p``, of equal accuracy in all classes
            (:func:`art_classwise.metrics.disparity_test`), NaN where only one class has examples; then the other
            measures of :func:`art_classwise.metrics.disparity`, of which :meth:`disparity` has intervals.

        Raises:
            InputError: The audit has no such attack.
        """
        if attack not in self._summaries:
            rows = {model: summarised(self.rows(model, attack), self.classes) for model in self.models}
            self._summaries[attack] = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
        frame = self._summaries[attack]
        first = ["clean", "clean_low", "clean_high", "mean", "mean_low", "mean_high"]
        first += ["worst", "worst_class", "held_out", "worst_low", "worst_high", "left_out", "p"]
        return shown_as(self._told(frame[first + [c for c in frame.columns if c not in first]]), "models")

    @cached_property
    def _summaries(self) -> dict[str, pd.DataFrame]:
        return {}  # by attack, as they are asked for

    def robust_at(
        self,
        eps: float | Sequence[float],
        model: str | None = None,
        attack: str = WORST_CASE,
        *,
        confidence: float = 0.95,
    ) -> pd.DataFrame:
        """Return the robust accuracy of each class at each radius: :func:`art_classwise.metrics.robust_at`.

        It takes an attack that looks for the smallest perturbations, such as ``"fmn"``. At the audit's own radius it is
        the robust accuracy of :meth:`class_table`, even where the attack has a limit below.

        Args:
            eps: Radii of at least 0, rising.
            model: Name of a model; the one that there is, if absent.
            attack: Name of such an attack, or ``"all attacks"``, of which the others looked at the audit's radius only.
            confidence: Coverage of the intervals.

        Returns:
            Indexed by ``eps`` and ``class``: ``n``, ``robust``, ``low``, ``high``, and ``unknown``: why they are NaN,
            beyond what was looked for, say; empty where they aren't.

        Raises:
            InputError: The radii aren't numbers of at least 0 that rise, the audit has no such model or attack, or none
                of its attacks looks for the smallest perturbations.
        """
        of = distances_of(self, model, attack)
        options: dict[str, Any] = {"classes": self.classes, "confidence": confidence}
        tables = []
        for radius in check_radii(eps):
            known: dict[str, Any] = {"searched": of.searched_at(radius), "smallest": of.smallest_at(radius)}
            tables.append(metrics.robust_at(of.label, of.distance, len(self.classes), radius, **known, **options))
        return self._told(pd.concat(tables))

    def distances(
        self, model: str | None = None, attack: str = WORST_CASE, *, confidence: float = 0.95
    ) -> pd.DataFrame:
        """Return how far away from misclassification each class is: :func:`art_classwise.metrics.class_distances`.

        Args:
            model: Name of a model; the one that there is, if absent.
            attack: As for :meth:`robust_at`.
            confidence: Coverage of the intervals.

        Returns:
            Indexed by class: ``n``, ``right``; ``median``, of the distances of examples that are right without attack,
            with ``low`` and ``high``; ``half``, the radius at which the class's robust accuracy falls to one half, with
            ``half_low`` and ``half_high``. In an audit that skipped broken examples, of those that others broke before
            the radius stands for the distance.

        Raises:
            InputError: As :meth:`robust_at`.
        """
        of = distances_of(self, model, attack)
        options: dict[str, Any] = {"classes": self.classes, "confidence": confidence, "searched": of.searched}
        return self._told(metrics.class_distances(of.label, of.distance, len(self.classes), **options))

    def disparity(self, model: str | None = None, attack: str = WORST_CASE, **options: Any) -> pd.DataFrame:
        """Return how unequal the class robust accuracies are: :func:`art_classwise.metrics.disparity_intervals`.

        Args:
            model: Name of a model; the one that there is, if absent.
            attack: Name of an attack, or ``"all attacks"``.
            options: Of the function: ``ddof``, ``repeats``, ``confidence``, ``seed``.

        Returns:
            A row per measure: ``value``, as papers print it; ``corrected`` for few examples; ``low``, ``high``.

        Raises:
            InputError: The audit has no such model or attack, or no class has two examples.
        """
        return metrics.disparity_intervals(*self._verdicts(model, attack), len(self.classes), **options)

    def confusion(self, model: str | None = None, attack: str = WORST_CASE, *, normalize: bool = True) -> pd.DataFrame:
        """Return the confusion matrix under attack, (C, C), a row per true class.

        It counts predictions under attack: an example that is wrong without attack and right under it stands on the
        diagonal, though it hasn't withstood. So the diagonal can lie above the robust accuracies.

        Args:
            model: Name of a model; the one that there is, if absent.
            attack: Name of an attack, or ``"all attacks"``.
            normalize: Shares of each true class instead of counts.

        Raises:
            InputError: The audit has no such model or attack.
        """
        rows = self._predictions(model, attack)
        matrix = metrics.confusion(
            rows["label"], rows["prediction"], len(self.classes), classes=self.classes, normalize=normalize
        )
        return self._told(matrix)

    def confusion_pairs(
        self, model: str | None = None, attack: str = WORST_CASE, *, groups: Groups | None = None
    ) -> pd.DataFrame:
        """Return which class is taken for which under attack: :func:`art_classwise.metrics.confusion_pairs`.

        An example that is wrong without attack and right under it is in no pair, though it hasn't withstood.

        Args:
            model: Name of a model; the one that there is, if absent.
            attack: Name of an attack, or ``"all attacks"``.
            groups: Groups of classes, to say which pairs stay within one.

        Raises:
            InputError: The audit has no such model or attack, or the groups don't fit the classes.
        """
        rows, n_classes = self._predictions(model, attack), len(self.classes)
        options: dict[str, Any] = {"classes": self.classes, "groups": groups}
        return metrics.confusion_pairs(rows["label"], rows["prediction"], n_classes, **options)

    def within_groups(
        self, model: str | Groups | None = None, groups: Groups | None = None, attack: str = WORST_CASE
    ) -> pd.DataFrame:
        """Return which share of errors stays within groups: :func:`art_classwise.metrics.within_groups`.

        Errors are wrong predictions under attack: an example that is wrong without attack and right under it is none,
        though it hasn't withstood.

        Args:
            model: Name of a model. The one that there is may be left out: ``within_groups(groups)``.
            groups: As for :meth:`by_group`.
            attack: Name of an attack, or ``"all attacks"``.

        Raises:
            InputError: The audit has no such model or attack, or the groups don't fit the classes.
        """
        name, of = _model_and_groups(model, groups)
        rows = self._predictions(name, attack)
        return metrics.within_groups(rows["label"], rows["prediction"], of, self.classes)

    def risks(self, model: str | None = None, attack: str = WORST_CASE, *, pooled: bool = False) -> pd.DataFrame:
        """Return natural, boundary and robust risk of each class: :func:`art_classwise.metrics.risks`.

        Args:
            model: Name of a model; the one that there is, if absent.
            attack: Name of an attack, or ``"all attacks"``.
            pooled: One row over all examples instead.

        Raises:
            InputError: The audit has no such model or attack.
        """
        rows = self.rows(model, attack)
        right = rows["label"] == rows["clean_prediction"]
        if attack in (*self.corruptions, MEAN_CORRUPTION, ALL_CORRUPTIONS) or not self.adversaries:
            raise InputError(
                "Boundary risk is what an adversary adds to natural risk, but a corruption may also mend what is wrong "
                "without it: take class_table(), summary() or by_corruption()."
            )
        options: dict[str, Any] = {"classes": self.classes, "pooled": pooled}
        return metrics.risks(rows["label"], right, rows["withstood"], len(self.classes), **options)

    def worst_class(
        self, model: str | None = None, attack: str = WORST_CASE, *, confidence: float = 0.95
    ) -> pd.Series[Any]:
        """Return the worst class and an estimate of its accuracy: :func:`art_classwise.metrics.worst_class`.

        Args:
            model: Name of a model; the one that there is, if absent.
            attack: Name of an attack, or ``"all attacks"``.
            confidence: Coverage of the interval.

        Raises:
            InputError: The audit has no such model or attack, or no class has two examples.
        """
        rows = self.rows(model, attack)
        label, withstood = rows["label"].to_numpy().astype(np.int64), rows["withstood"].to_numpy()
        options: dict[str, Any] = {"classes": self.classes, "confidence": confidence}
        if withstood.dtype != bool:
            return worst_share(label, withstood, len(self.classes), **options)
        return metrics.worst_class(label, withstood, len(self.classes), **options)

    def worst_group(
        self,
        model: str | Groups | None = None,
        groups: Groups | None = None,
        attack: str = WORST_CASE,
        *,
        confidence: float = 0.95,
    ) -> pd.Series[Any]:
        """Return the worst group of classes and an estimate of its accuracy: where single classes have few examples.

        Args:
            model: Name of a model. The one that there is may be left out: ``worst_group(groups)``.
            groups: As for :meth:`by_group`.
            attack: Name of an attack, or ``"all attacks"``.
            confidence: Coverage of the interval.

        Returns:
            As :func:`art_classwise.metrics.worst_class`, of groups: an example counts as correct if its class is.

        Raises:
            InputError: The audit has no such model or attack, the groups don't fit the classes, or none has two
                examples.
        """
        name, groups = _model_and_groups(model, groups)
        label, withstood = self._verdicts(name, attack)
        of, names = metrics.group_labels(label, groups, self.classes)
        return metrics.worst_class(of, withstood, len(names), classes=names, confidence=confidence)

    def disparity_test(self, model: str | None = None, attack: str = WORST_CASE, **options: Any) -> pd.Series[float]:
        """Return whether classes differ by more than chance: :func:`art_classwise.metrics.disparity_test`.

        Args:
            model: Name of a model; the one that there is, if absent.
            attack: Name of an attack, or ``"all attacks"``.
            options: Of the function: ``method``, ``repeats``, ``seed``.

        Raises:
            InputError: The audit has no such model or attack, or examples of one class only.
        """
        return metrics.disparity_test(*self._verdicts(model, attack), len(self.classes), **options)

    def attack_strength(
        self,
        model: str | None = None,
        weak: str | None = None,
        strong: str | None = None,
        *,
        split_seed: int | None = None,
    ) -> pd.DataFrame:
        """Return on which classes a stronger attack falls: :func:`art_classwise.metrics.attack_strength`.

        Args:
            model: Name of a model. The one that there is may be left out: ``attack_strength(weak, strong)``.
            weak: Name of the weaker attack.
            strong: Name of the stronger one, or ``"all attacks"``.
            split_seed: See there.

        Raises:
            InputError: The audit has no such model or attack, or the two were tried on different examples.
        """
        given = [name for name in (model, weak, strong) if name is not None]
        if len(given) < 2:
            raise InputError(
                "attack_strength() takes a weaker and a stronger attack, in this order, but got "
                f"{' and '.join(given) or 'none'}: the audit has {', '.join((*self.attacks, WORST_CASE))}."
            )
        weak, strong = given[-2:]
        model = given[0] if len(given) == 3 else self.rows(None)["model"].iloc[0]
        label, first, second = self._paired((model, weak), (model, strong))
        options: dict[str, Any] = {"classes": self.classes, "split_seed": split_seed}
        return metrics.attack_strength(label, first, second, len(self.classes), **options)

    def rank_agreement(self, *, model: str | None = None, attack: str | None = None, **options: Any) -> pd.DataFrame:
        """Return how far attacks, or models, agree on which classes are weak.

        Args:
            model: Compare the attacks on this model, each with each.
            attack: Compare the models under this attack, each with each; ``"all attacks"`` if neither is given.
            options: Of :func:`art_classwise.metrics.rank_agreement`: ``repeats``, ``confidence``, ``seed``.

        Returns:
            Indexed by (first, second): Kendall's ``tau``, ``low``, ``high``, ``p``, ``resolved``, ``n_classes``.

        Raises:
            InputError: Both are given, the audit has no such model or attack, there is nothing to compare, two were
                tried on different examples, or attacks are asked about of which each counts with those before it.
        """
        if model is not None and attack is not None:
            raise InputError("Give `model`, to compare the attacks on it, or `attack`, to compare models under it.")
        if model is not None and self.manifest.worst_case:
            raise InputError(
                "This audit skipped broken examples (worst_case), so each attack's result includes those before it and "
                "they agree anyway. Use an audit without worst_case."
            )
        under = attack or WORST_CASE
        cells = [(m, under) for m in self.models] if model is None else [(model, a) for a in self.attacks]
        if len(cells) < 2:
            what = "model: compare attacks on it, `model`" if model is None else "attack: compare models, `attack`"
            raise InputError(f"There is nothing to compare: the audit has one {what}")
        n_classes = len(self.classes)
        rows = {
            (one[model is not None], other[model is not None]): metrics.rank_agreement(
                *self._paired(one, other), n_classes, **options
            )
            for one, other in combinations(cells, 2)
        }
        table = pd.DataFrame.from_dict(rows, orient="index")
        return table.set_axis(pd.MultiIndex.from_tuples(rows, names=["first", "second"])).astype({"n_classes": int})

    def compare(
        self,
        first: str,
        second: str,
        *,
        attack: str | None = None,
        model: str | None = None,
        kind: Kind = "robust",
        eps: float | None = None,
        confidence: float = 0.95,
    ) -> Comparison:
        """Compare two models of the audit, or two of its attacks on a model, example by example.

        Models of two audits: :func:`art_classwise.compare`.

        Args:
            first: Name of a model, or of an attack.
            second: Name of another.
            attack: Of two models: the attack under which they are compared; all attacks if absent.
            model: Of two attacks: the model they are compared on; not needed where there is but one.
            kind: Of two models: ``"robust"``, or ``"clean"`` for accuracy without attack.
            eps: A radius other than the audit's, for attacks that look for the smallest perturbations, as
                :meth:`robust_at` does.
            confidence: Coverage of the intervals.

        Raises:
            InputError: There is no such model or attack, both are the same, their examples differ, or the names are
                those of models and of attacks, and neither ``model`` nor ``attack`` says what is meant.
        """
        options: dict[str, Any] = {"kind": kind, "eps": eps, "confidence": confidence}
        return compare_within(self, first, second, attack=attack, model=model, **options)

    def compare_with_best(
        self,
        models: Sequence[str] | None = None,
        *,
        attack: str | None = None,
        measure: Measure = "mean",
        kind: Kind = "robust",
        eps: float | None = None,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Compare each model with the best of the others, all at once: :func:`art_classwise.metrics.compare_with_best`.

        Which model is the best is known from these examples alone. This allows for it: intervals, p values and ranks
        hold for all models at once. :meth:`compare` is for two that were named before looking.

        Args:
            models: Names of models; all if absent.
            attack: Name of an attack; all attacks if absent.
            measure: ``"mean"`` of the class accuracies, or that of the ``"worst"`` class, each model's own.
            kind: ``"robust"``, or ``"clean"`` for accuracy without attack.
            eps: A radius in place of the audit's, as for :meth:`compare`.
            confidence: Coverage of the intervals.
            seed: Of the draws behind the intervals of means.

        Returns:
            A row per model, the best first: ``accuracy``, ``difference`` from the best of the others, each with
            ``_low`` and ``_high``; ``p_adjusted``, of being one of the best; ``rank``, with ``rank_low`` and
            ``rank_high`` of this model alone and ``all_ranks_low`` and ``all_ranks_high`` of all models at once.

        Raises:
            InputError: There are fewer than two models, no such model, attack or measure, their examples differ, or
                the radius is beyond what the attack looked for.
        """
        options: dict[str, Any] = {"measure": measure, "kind": kind, "eps": eps, "confidence": confidence, "seed": seed}
        return compare_with_best(self, models=models, attack=attack, **options)

    def best_worst_class(
        self,
        attack: str | None = None,
        *,
        kind: Kind = "robust",
        eps: float | None = None,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> pd.Series[Any]:
        """Return the worst class of the model that has the best one: :func:`art_classwise.metrics.best_worst_class`.

        Args:
            attack: Name of an attack; all attacks if absent.
            kind: ``"robust"``, or ``"clean"`` for accuracy without attack.
            eps: A radius in place of the audit's, as for :meth:`compare`.
            confidence: Coverage of the interval, which allows for the choice of model and class.
            seed: Of the splits behind the estimate.

        Raises:
            InputError: There is no such attack, models' examples differ, or no class has two of them.
        """
        return best_worst_class(self, attack=attack, kind=kind, eps=eps, confidence=confidence, seed=seed)

    def check(
        self, requirements: Requirement | str | Iterable[Requirement | str], *, confidence: float = 0.95
    ) -> Verdicts:
        """Judge whether the models meet requirements, such as ``"worst >= 0.30"``.

        Of an accuracy the low end of its interval is held against a lower bound, and the high end against an upper
        bound: that of :func:`art_classwise.metrics.worst_class` for the worst class, which allows for choosing it, of
        :func:`art_classwise.metrics.mean_accuracy` for the mean, Wilson's for a class and for all examples, and of
        :func:`art_classwise.metrics.disparity_intervals` for the other measures. Requirements that all have to be met
        need no correction for their number. A requirement isn't met if it can't be judged: where classes have too few
        examples, a number is divided by zero, or the audit isn't finished.

        Args:
            requirements: As :meth:`art_classwise.audit.Requirement.parse` takes them. One that names no model is judged
                for each.
            confidence: Coverage of the intervals.

        Returns:
            A verdict for each requirement and model; ``.met`` says whether all are met.

        Raises:
            InputError: A requirement has another form, is about a difference, or names no model, attack, class or check
                of the audit.

        Example:
            ```python
            verdicts = result.check(["worst >= 0.30", "class:cat >= 25%", "findings == 0"])
            assert verdicts.met, verdicts
            ```
        """
        return judge_models(self, self.check_results, requirements, confidence=confidence)

    def attack_costs(self) -> pd.DataFrame:
        """Return what each attack broke, and at what cost.

        Returns:
            Indexed by (``model``, ``attack``): ``n``, how many examples were attacked; ``broken``, how many of those
            that were right without attack it broke, in the worst case those that withstood the attacks before it;
            ``forwards``, ``backwards`` and ``seconds`` per attacked example, on average (see :attr:`costs`);
            ``total_seconds``; and ``broken_per_second``. NaN where a cost isn't known: of audits of earlier releases.
        """
        rows, costs = {}, self.costs.to_dict("index")
        for model in self.models:
            broken_before = 0
            for attack in self.attacks:
                of = self.rows(model, attack)
                right = of["label"] == of["clean_prediction"]
                broken = int((right & ~of["withstood"]).sum())
                key = (model, attack)
                known = costs.get(key, {})
                n = int(known.get("n", len(of)))
                seconds = float(known.get("seconds", np.nan))
                fresh = broken - broken_before if self.manifest.worst_case else broken
                rows[key] = {
                    "n": n,
                    "broken": fresh,
                    **{name: known.get(name, np.nan) for name in COSTS},
                    "total_seconds": seconds * n if n else 0.0,
                    "broken_per_second": fresh / (seconds * n) if n and seconds > 0 else np.nan,
                }
                broken_before = broken
        index = pd.MultiIndex.from_tuples(rows, names=["model", "attack"])
        return pd.DataFrame([*rows.values()], index=index)

    def with_images(
        self,
        models: Mapping[str, Any],
        data: Any,
        *,
        attacks: Attacks | None = None,
        per_class: int = 3,
        verbose: bool = False,
    ) -> AuditResult:
        """Return the same result with a few attacked images of each class, for :meth:`to_html` and :meth:`explore`.

        An audit keeps outcomes, not images: a few examples are attacked once more. What is shown is what the network
        judged: images of 8 bits, attacked within the ball, that the network itself takes for their class without the
        attack and for another under it. Examples are drawn at random from those that an attack broke. There are 36 at
        most, and fewer large ones: of many classes, the weakest are shown. The manifest then says of which files and
        architectures the models are, too.

        Args:
            models: ART ``PyTorchClassifier`` s by the names they have in the audit.
            data: The examples of the audit, in any form that :meth:`ClassWiseAudit.evaluate` takes.
            attacks: Attacks that were given to the audit as objects or functions, as they were given to it; those that
                it knew by name need not be given.
            per_class: Images of each class, at most.
            verbose: Show a progress bar.

        Raises:
            InputError: The models, the examples or the attacks aren't those of the audit.
        """
        dataset = as_dataset(data, n_classes=len(self.classes))
        options: dict[str, Any] = {"attacks": attacks, "per_class": per_class, "verbose": verbose}
        images = attack_images(self, models, dataset, **options)
        sources = {name: ModelSource.of(model) for name, model in models.items() if name in self.models}
        manifest = self.manifest.updated(sources=self.manifest.sources | sources)
        return replace(self, images=images, manifest=manifest)

    def explore(self, classes: Sequence[str] | None = None) -> Any:
        """Show each class by itself at the end of a notebook's cell: a class opens when it is clicked.

        It holds each model's accuracy on the class with its interval, what its examples are most often taken for under
        attack, and, after :meth:`with_images`, attacked images. It needs neither widgets nor scripts.

        Args:
            classes: Names of the classes to show; if absent, all, or the 100 weakest of more.

        Returns:
            What a notebook shows as HTML and a Python shell as text.

        Raises:
            InputError: A name is no class, or none of them has an example.
        """
        return display.explorer(self, classes)

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the outcomes to a folder, from which :func:`art_classwise.read_audit` reads them.

        Args:
            folder: Made if missing.
            overwrite: Replace the audit that lies there, if one does.

        Raises:
            InputError: The folder holds an audit, and ``overwrite`` isn't asked for; or it can't be written.
        """
        write_audit(self, folder, overwrite=overwrite, extra=partial(image_files, self.images), roots=self.roots)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`by_class` as a CSV file; its folder is made if missing.

        The last column, ``root``, is the root digest: see :attr:`roots`.

        Raises:
            InputError: It can't be written.
        """
        with output_file(path, "by_class.csv") as aside:
            self.by_class().assign(root=" ".join(self.roots)).to_csv(aside)

    def to_html(self, path: str | os.PathLike[str], *, certificates: Mapping[str, Any] | None = None) -> None:
        """Write the report, one HTML file that needs no other; its folder is made if missing.

        Args:
            path: The file.
            certificates: What :func:`art_classwise.certify` returned of models on the same examples, by the models'
                names, to be shown, too; :func:`art_classwise.certification.read_certificates` reads those in the
                audit's folder, which the page of the command line shows.

        Raises:
            InputError: It can't be written, or a certificate is of other examples or of no model of the audit.
        """
        with output_file(path, "report.html") as aside:
            aside.write_text(display.page(self, certificates), encoding="utf-8")

    def to_latex(self) -> str:
        r"""Return the tables for LaTeX, with booktabs: a row per model, and of each model a row per class.

        All rows and columns are there, names are in full and escaped, and the weakest class is bold. A document needs
        ``\usepackage{booktabs,longtable}``; tables of more than 40 rows are long ones.
        """
        return display.latex(self)

    def _tables(self, names: Sequence[str], kind: str, group: Relabel, confidence: float) -> pd.DataFrame:
        attacks = (*self.attacks, *self.together)
        tables = [accuracies(self.rows(m, a), names, group, confidence) for m in self.models for a in attacks]
        return shown_as(self._told(stacked(tables, self.models, attacks, names, kind)), "classes")

    def _told(self, table: pd.DataFrame) -> pd.DataFrame:
        """Write the root digests on a table, for the files that are made of it."""
        table.attrs["roots"] = list(self.roots)
        return table

    def _paired(
        self, first: tuple[str, str], second: tuple[str, str]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Return labels and who withstood each of two attacks, or on each of two models, (n,) each.

        Raises:
            InputError: They were tried on different examples.
        """
        one, other = self.rows(*first), self.rows(*second)
        for rows, (_, attack) in ((one, first), (other, second)):
            _check_verdicts(rows, attack)
        if not np.array_equal(one[["example", "label"]], other[["example", "label"]]):
            raise InputError(f"{' under '.join(first)} and {' under '.join(second)} are of different examples.")
        return one["label"].to_numpy().astype(np.int64), one["withstood"].to_numpy(), other["withstood"].to_numpy()

    def _predictions(self, model: str | None, attack: str) -> pd.DataFrame:
        """Return rows whose predictions count: under the mean of corruptions, those under each of them."""
        rows = self.rows(model, attack)
        if rows["withstood"].dtype == bool:
            return rows
        of = kept(self)
        found: pd.DataFrame = of[(of["model"] == rows["model"].iloc[0]) & of["attack"].isin(self.corruptions)]
        return found

    def _verdicts(self, model: str | None, attack: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return labels and who withstood, (n,) each.

        Raises:
            InputError: It is the mean of corruptions that is asked about, of which examples withstand a share.
        """
        rows = self.rows(model, attack)
        _check_verdicts(rows, attack)
        return rows["label"].to_numpy().astype(np.int64), rows["withstood"].to_numpy()


def _check_verdicts(rows: pd.DataFrame, attack: str) -> None:
    if rows["withstood"].dtype != bool:
        raise InputError(
            f"This is asked of one attack, but {attack!r} is the mean of several corruptions here: name one, such as "
            f'"fog:3", or {ALL_CORRUPTIONS!r}, which an example withstands that withstands each.'
        )


def _model_and_groups(model: str | Groups | None, groups: Groups | None) -> tuple[Any, Any]:
    """Return what is asked about: where one thing is given, it is the groups, which have to be."""
    return (None, model) if groups is None else (model, groups)


def read_audit(
    folder: str | os.PathLike[str],
    *,
    partial: bool = False,
    models: Sequence[str] | None = None,
    attacks: Sequence[str] | None = None,
) -> AuditResult:
    """Read the outcomes that :meth:`AuditResult.save` or an audit with a ``store`` wrote.

    Args:
        folder: The folder: a path, or an address such as ``"s3://bucket/audit"``.
        partial: Of an unfinished audit read what is finished: of the attacks and the examples as many as have been
            tried on one another. :attr:`AuditResult.missing` says what isn't there.
        models: Names of the models to read; all if absent.
        attacks: Names of the attacks to read, in the worst case the first ones; all if absent.

    Raises:
        InputError: There are none, they are damaged or of another schema, the audit is unfinished, or it has no such
            model or attack.
    """
    found = read_stored(folder, partial=partial, models=models, attacks=attacks)
    try:
        images = read_images(Store(folder), found.outcomes)
    except InputError as error:  # outcomes don't depend on them
        warnings.warn(str(error), stacklevel=2)
        images = ()
    sealed = () if found.sealed is None else (found.sealed,)
    return AuditResult(found.outcomes, found.manifest, found.missing, found.costs, images=images, sealed=sealed)
