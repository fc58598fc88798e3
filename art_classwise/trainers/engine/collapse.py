"""Catastrophic overfitting, class by class: networks that withstand one step of an attack, but several no longer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from art_classwise.trainers.engine.adversary import Adversary

__all__ = ["CollapseWatch", "OnCollapse", "first_collapses"]

OnCollapse = Literal["stop", "restore"]


@dataclass(frozen=True)
class CollapseWatch:
    """Compares, on held-out images, what a class withstands of one step with what it withstands of several.

    Wong, Rice, Kolter 2020 (arXiv 2001.03994, section 5.4) call it catastrophic overfitting when robustness against
    several steps is lost within an epoch while that against one step is not. A class collapses in an epoch in which its
    accuracy under several steps is at most half of the best before, and at least ``gap`` below that under one step.

    Attributes:
        adversary: The attack of one step: from the image itself, as long as the radius (FGSM).
        answer: What is done about the first collapse.
        gap: The smallest difference of a collapse, from 0 to 1.
        n_classes: Number of classes.
    """

    adversary: Adversary
    answer: OnCollapse | None
    gap: float
    n_classes: int

    def columns(self, row: Mapping[str, float], before: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Return the history's columns of an epoch: ``val_gap``, ``val_gap_<k>``, and ``collapsed_<k>``, 0 or 1.

        Args:
            row: What the history has of the epoch, with ``val_single``, ``val_single_<k>``, ``val_robust_<k>``.
            before: Its rows of the epochs before.
        """
        added = {"val_gap": row["val_single"] - row["val_robust"]}
        for k in range(self.n_classes):
            robust = row[f"val_robust_{k}"]
            added[f"val_gap_{k}"] = row[f"val_single_{k}"] - robust
            best = max((earlier[f"val_robust_{k}"] for earlier in before), default=0.0)
            collapsed = best > 0 and robust <= best / 2 and added[f"val_gap_{k}"] >= self.gap
            added[f"collapsed_{k}"] = math.nan if math.isnan(robust) else float(collapsed)
        return added

    def ends(self, rows: Sequence[Mapping[str, float]]) -> bool:
        """Return whether training ends after the epochs of these rows."""
        return self.answer is not None and bool(first_collapses(rows[-1:]))

    def message(self, rows: Sequence[Mapping[str, float]], kept: int) -> str | None:
        """Return what is said of the last epoch: of the first in which a class collapses, else nothing.

        Args:
            rows: What the history has of the epochs so far.
            kept: The epoch whose weights the network has if training ends now.
        """
        now = first_collapses(rows[-1:])
        if not now or first_collapses(rows[:-1]):
            return None
        last, epoch = rows[-1], int(rows[-1]["epoch"])
        told = ", ".join(
            f"{k} ({last[f'val_single_{k}']:.0%} under one step, {last[f'val_robust_{k}']:.0%} under several)"
            for k in now
        )
        ends = f"Training ends here, with the weights from after epoch {kept}."
        does = {
            "stop": "Training ends here." if kept == epoch else ends,
            "restore": ends,
            None: 'Training goes on: `on_collapse="restore"` would end it with the weights from before.',
        }[self.answer]
        return f"Catastrophic overfitting in epoch {epoch} of class{'es' if len(now) > 1 else ''} {told}. {does}"


def first_collapses(rows: Sequence[Mapping[str, float]]) -> dict[int, int]:
    """Return the epoch in which each class collapsed first, of those that did, in the order in which they did."""
    first: dict[int, int] = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith("collapsed_") and value == 1:
                first.setdefault(int(name.removeprefix("collapsed_")), int(row["epoch"]))
    return first
