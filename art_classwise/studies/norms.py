"""Audits of the same models and examples in several norms, and their union: what withstands all of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from art_classwise.attacks.ladder import WORST_CASE, Attacks
from art_classwise.audit import AuditResult, is_finished, read_audit
from art_classwise.audit.outcomes import accuracies, summarised
from art_classwise.errors import InputError
from art_classwise.studies.radii import (
    RadiusSweep,
    audit_each,
    parse_threats,
    radius_folders,
    read_sweep,
    table_of,
    threat_parts,
)
from art_classwise.threat import NORMS, ThreatModel

__all__ = ["ALL_NORMS", "NormUnion", "audit_over_norms", "parse_several", "read_several", "read_union"]

ALL_NORMS = "all norms"


@dataclass(frozen=True)
class NormUnion(RadiusSweep):
    """Audits that differ in their norm, and the union of their threat models (Tramer and Boneh 2019, arXiv 1904.13000).

    An example withstands ``"all norms"`` if it withstands the attacks in each: an adversary may choose the norm.

    Attributes:
        results: An audit per norm, in the order asked for.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        norms = [result.threat.norm for result in self.results]
        if len(set(norms)) < max(2, len(norms)):
            raise InputError(
                f"A union needs audits in two norms or more, each once, but got {', '.join(norms) or 'none'}."
            )
        first = self.results[0]
        for other in self.results[1:]:
            if (other.models, other.classes) != (first.models, first.classes):
                raise InputError(f"The audits at {first.threat} and at {other.threat} are of other models or classes.")
            for model in first.models:
                columns = ["example", "label", "clean_prediction"]
                if not np.array_equal(first.rows(model)[columns], other.rows(model)[columns]):
                    raise InputError(
                        f"The audits of {model!r} at {first.threat} and at {other.threat} have different examples, or "
                        "it isn't the same model: without attack, its predictions differ."
                    )

    def rows(self, model: str | None = None, attack: str = WORST_CASE) -> pd.DataFrame:
        """Return for each example whether it withstands.

        Args:
            model: Name of a model; the one that there is, if absent.
            attack: An attack that all audits have, or ``"all attacks"``.

        Returns:
            ``example``, ``label``, ``clean_prediction``, a column of truth values per threat model, such as
            ``"Linf:8/255"``, and ``"all norms"``; of ``"mean corruption"`` shares.

        Raises:
            InputError: An audit has no such model or attack.
        """
        of = [result.rows(model, attack) for result in self.results]
        table = of[0][["example", "label", "clean_prediction"]].reset_index(drop=True)
        each = {str(result.threat): rows["withstood"].to_numpy() for result, rows in zip(self.results, of, strict=True)}
        # Of shares, under the mean of corruptions, which are the same in each audit, the smallest.
        return table.assign(**each, **{ALL_NORMS: np.minimum.reduce(list(each.values()))})

    def table(self, attack: str = WORST_CASE) -> pd.DataFrame:
        """Return a row per model and norm, and one of all norms: robust accuracy and the worst class.

        Args:
            attack: An attack that all audits have, or ``"all attacks"``.

        Returns:
            As :meth:`RadiusSweep.table`; the row ``"all norms"`` has neither norm nor radius.

        Raises:
            InputError: An audit has no such attack.
        """
        tables = []
        for model in self.results[0].models:
            for result in self.results:
                tables.append(table_of(result, model, _row(result.summary(attack), model)))
            found = summarised(self._union(model, attack), self.results[0].classes)
            row = table_of(self.results[0], model, found)
            tables.append(row | {"threat": ALL_NORMS, "norm": "", "eps": np.nan})
        return pd.DataFrame(tables).set_index(["model", "threat"])

    def by_class(self, attack: str = WORST_CASE, *, confidence: float = 0.95) -> pd.DataFrame:
        """Return the robust accuracy of each class in each norm, and in all.

        Args:
            attack: An attack that all audits have, or ``"all attacks"``.
            confidence: Coverage of the Wilson intervals.

        Returns:
            Indexed by (model, threat, class): ``n``, ``clean``, ``robust``, with their intervals. Fractions; NaN for a
            class without examples.

        Raises:
            InputError: An audit has no such attack, or the confidence is out of range.
        """
        tables = {}
        for model in self.results[0].models:
            for result in self.results:
                tables[model, str(result.threat)] = result.class_table(model, attack, confidence=confidence)
            rows, classes = self._union(model, attack), self.results[0].classes
            tables[model, ALL_NORMS] = accuracies(rows, classes, lambda label: label, confidence)
        columns = [c for c in next(iter(tables.values())).columns if c == "n" or c.startswith(("clean", "robust"))]
        return pd.concat({key: table[columns] for key, table in tables.items()}, names=["model", "threat", "class"])

    def _union(self, model: str, attack: str) -> pd.DataFrame:
        withstood = self.rows(model, attack)[ALL_NORMS].to_numpy()
        return self.results[0].rows(model, attack).assign(withstood=withstood)


def audit_over_norms(
    models: Mapping[str, Any],
    data: Any,
    threats: str | Sequence[ThreatModel | str],
    attacks: Attacks = "quick",
    *,
    store: str | os.PathLike[str] | None = None,
    optional: Collection[str] = (),
    finished: Callable[[AuditResult, str | None], object] | None = None,
    **options: Any,
) -> NormUnion:
    """Audit models in several norms: who withstands all of them (Maini, Wong, Kolter 2020, arXiv 1909.04068).

    Args:
        models: As for :meth:`ClassWiseAudit.evaluate`.
        data: Likewise.
        threats: ``"Linf:8/255,L2:0.5,L1:12"``, or threat models, one of each norm.
        attacks: As for :class:`ClassWiseAudit`.
        store: As for :func:`audit_over_radii`: a folder per threat model.
        optional: As for :meth:`ClassWiseAudit.evaluate`.
        finished: Told of each result once it is there, and of its folder.
        **options: Of :class:`ClassWiseAudit`.

    Returns:
        The audits, and what withstands all of them.

    Raises:
        InputError: There are fewer than two norms, one stands twice, a radius covers the whole range [0, 1]; and as
            :class:`ClassWiseAudit`.

    Example:
        >>> import art_classwise as acw
        >>> data = acw.load_dataset("digits", "test").first(60)
        >>> network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
        >>> models = {"untrained": acw.as_classifier(network, (1, 8, 8), 10, device="cpu")}
        >>> union = audit_over_norms(models, data, "Linf:0.05,L2:0.5", "fgsm", checks=False, verbose=False)
        >>> union.table().index.get_level_values("threat").tolist()
        ['Linf:0.05', 'L2:0.5', 'all norms']
    """
    read = parse_several(threats)
    if len({threat.norm for threat in read}) < 2:
        raise InputError("A union needs two norms or more, such as Linf:8/255,L2:0.5,L1:12.")
    results = audit_each(models, data, read, attacks, store=store, optional=optional, finished=finished, **options)
    return NormUnion(results)


def parse_several(threats: str | Sequence[ThreatModel | str]) -> tuple[ThreatModel, ...]:
    """Return threat models: of one norm, the smallest radius first; or of several, one of each, as they come.

    Raises:
        InputError: One can't be read, or there are several norms and one of them twice.
    """
    parts = threat_parts(threats)
    norms = {str(part).partition(":")[0].strip().lower() for part in parts if ":" in str(part)}
    if len(norms) < 2:
        return parse_threats(threats)
    if len(norms) < len(parts):
        raise InputError(
            f"Several norms take one radius each, such as Linf:8/255,L2:0.5, but got {', '.join(map(str, parts))}: "
            "audit several radii of one norm by themselves."
        )
    return tuple(ThreatModel.parse(part.strip() if isinstance(part, str) else part) for part in parts)


def read_union(store: str | os.PathLike[str]) -> NormUnion:
    """Read what :func:`audit_over_norms` kept.

    Args:
        store: The folder, or its address.

    Raises:
        InputError: It holds no audits in several norms, or one of them isn't finished.
    """
    folders = radius_folders(store)
    if len({threat.norm for threat in folders}) < 2:
        raise InputError(f"{store} holds no audits in several norms.")
    unfinished = [str(threat) for threat, folder in folders.items() if not is_finished(folder)]
    if unfinished:
        raise InputError(
            f"The audit at {', '.join(unfinished)} isn't finished, so nothing is known of all norms: repeat it, which "
            "goes on."
        )
    ordered = sorted(folders, key=lambda threat: NORMS.index(threat.norm))
    return NormUnion(tuple(read_audit(folders[threat]) for threat in ordered))


def read_several(store: str | os.PathLike[str]) -> RadiusSweep:
    """Read audits at several radii, or in several norms."""
    several = len({threat.norm for threat in radius_folders(store)}) > 1
    return read_union(store) if several else read_sweep(store)


def _row(summary: pd.DataFrame, model: str) -> dict[str, Any]:
    row: dict[str, Any] = summary.loc[[model]].to_dict("records")[0]  # type: ignore[assignment]
    return row
