"""On which classes a stronger attack falls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from art_classwise._core.labels import class_names
from art_classwise.errors import check_seed
from art_classwise.metrics._inputs import paired_counts
from art_classwise.metrics.comparison import paired_accuracies

__all__ = ["attack_strength"]


def attack_strength(
    y: npt.ArrayLike,
    weak: npt.ArrayLike,
    strong: npt.ArrayLike,
    n_classes: int,
    *,
    classes: Sequence[str] | None = None,
    confidence: float = 0.95,
    split_seed: int | None = None,
) -> pd.DataFrame:
    """Return how much each class loses from a weaker attack to a stronger one, the weakest class first.

    Tian et al. 2021 (section 1, claim 3 of their analysis) find that the classes that were already weak lose most. The
    rank correlation of that is ``correlations(table["baseline"], table["drop"])``: negative, if they do.

    Beware: the drop is weak - strong, so the noise of the weak accuracy stands on both sides and correlates them
    positively where nothing is to be found. A floor does so, too: a class can't lose more than it has. The first goes
    away with ``split_seed``: half the examples of each class then tell how weak it is, the other half what it loses.

    Args:
        y: True labels, ints (n,).
        weak: Whether each example withstood the weaker attack, bool (n,).
        strong: Whether it withstood the stronger one, bool (n,).
        n_classes: Number of classes, C.
        classes: Names of the classes; the numbers 0 to C - 1 if absent.
        confidence: Coverage of the intervals.
        split_seed: Draws the half that tells how weak a class is; if absent, all examples do both.

    Returns:
        A row per class, by rising ``baseline``: the accuracy under the weaker attack that says how weak the class is.
        Of the examples that measure the loss: ``n``; ``weak``, ``strong``, the accuracies; ``drop``, weak - strong,
        with ``low``, ``high``, its paired interval (Newcombe 1998); ``relative``, drop / weak; ``share``, the class's
        part of the sum of all drops, in which each class counts the same; ``cumulated``, the part of the classes down
        to this one, which would be k / C if all lost alike. Shares are NaN if that sum isn't positive; a class without
        examples is last, with NaN.

    Raises:
        InputError: Labels out of range, arrays of different length, no examples, the wrong number of names, outcomes
            that aren't true or false, or an option out of range.

    Example:
        >>> y, weak, strong = [0, 0, 1, 1], [True, True, True, False], [True, True, False, False]
        >>> attack_strength(y, weak, strong, 2)[["weak", "strong", "drop", "share"]]
               weak  strong  drop  share
        class
        1       0.5     0.0   0.5    1.0
        0       1.0     1.0   0.0    0.0
    """
    counts = paired_counts(y, weak, strong, n_classes, names=("weak", "strong"))
    names = class_names(classes, n_classes)
    ranking = counts
    if split_seed is not None:
        check_seed(split_seed)
        ranking = _half(counts, np.random.default_rng(split_seed))
        counts = counts - ranking
    table = paired_accuracies(counts, confidence).set_axis(pd.Index(names, name="class"))
    table = table.rename(columns={"first": "weak", "second": "strong", "difference": "drop"})
    table.insert(0, "baseline", paired_accuracies(ranking, confidence)["first"].to_numpy())
    table["relative"] = table["drop"] / table["weak"].where(table["weak"] > 0)
    table = table.sort_values("baseline", kind="stable")
    total = table["drop"].sum()
    table["share"] = table["drop"] / (total if total > 0 else np.nan)
    table["cumulated"] = table["share"].cumsum()
    return table


def _half(counts: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return how many examples of each outcome are in a random half of each class, of n // 2: (C, 4)."""
    return np.stack([rng.multivariate_hypergeometric(of_class, of_class.sum() // 2) for of_class in counts])
