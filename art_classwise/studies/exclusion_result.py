"""What class exclusion did: who has become robust."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pandas as pd

from art_classwise import metrics
from art_classwise._core.display import Shown
from art_classwise._core.files import check_output_file, written_aside
from art_classwise.audit.result import AuditResult

__all__ = ["ALL", "ExclusionResult", "without"]

ALL = "all classes"
"""Name of the network that was trained on all classes."""


def without(excluded: str) -> str:
    """Return the name of the network that was trained without a class."""
    return f"without {excluded}"


@dataclass(frozen=True, repr=False)
class ExclusionResult(Shown):
    """What class exclusion did.

    Attributes:
        audit: The outcomes of the attack on each network, ``"all classes"`` and ``"without <class>"``; each on the
            examples of its classes.
        excluded: The names of the classes that were excluded, in turn, because they were asked for.
        control: The name of the class that was excluded as a control, if one was given or chosen for all.
        histories: The history of each training, by the names of the networks.
    """

    audit: AuditResult
    excluded: tuple[str, ...]
    control: str | None
    histories: dict[str, pd.DataFrame] = field(repr=False)

    def homing(self, *, pooled: bool = False, clean_correct: bool = False, confidence: float = 0.95) -> pd.DataFrame:
        """Return the homing table, with its control and intervals: see :func:`art_classwise.metrics.homing`.

        Args:
            pooled: A row per excluded class instead of a row per pair.
            clean_correct: Count only examples that the network of all classes gets right without the attack.
            confidence: Coverage of the intervals.
        """
        classes, attack = self.audit.classes, self.audit.attacks[0]
        outcomes = self.audit.outcomes
        tables = {name: rows.set_index("example") for name, rows in outcomes.groupby("model", observed=True)}
        full = tables[ALL]
        confusion = self.audit.confusion(ALL, attack).to_numpy()
        if clean_correct:
            full = full[full["clean_prediction"] == full["label"]]
        withstood = {
            k: tables[without(c)]["withstood"].reindex(full.index, fill_value=False).to_numpy()
            for k, c in enumerate(classes)
            if without(c) in tables
        }
        table = metrics.homing(
            full["label"].to_numpy(),
            full["prediction"].to_numpy(),
            withstood,
            confusion,
            controls=None if self.control is None else [classes.index(self.control)],
            pooled=pooled,
            classes=classes,
            confidence=confidence,
        )
        return table[table.index.get_level_values("excluded").isin(self.excluded)]

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`homing` as a CSV file; its folder is made if missing.

        Raises:
            InputError: It can't be written.
        """
        with written_aside(check_output_file(path, "homing.csv")) as aside:
            self.homing().to_csv(aside)
