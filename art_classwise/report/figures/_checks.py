"""Whether a table is what a figure draws, and what of it there is to say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from art_classwise.errors import InputError
from art_classwise.metrics.chance import disparity_test
from art_classwise.report.figures._names import label

__all__ = ["chance", "check_class_table", "check_table", "some", "worst_classes"]

CLASS_TABLE = "result.class_table(model, attack)"


def check_table(table: Any, columns: Sequence[str], call: str, *, levels: int = 1) -> pd.DataFrame:
    """Check that a table is what a figure draws.

    Args:
        table: What was given.
        columns: Those it must have.
        call: What makes such a table.
        levels: Of its index.

    Raises:
        InputError: It isn't.
    """
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"The table must be a DataFrame, as {call} returns it, but got {table!r:.60}.")
    missing = [name for name in columns if name not in table]
    if missing:
        raise InputError(f"The table has no {', '.join(missing)}: give one as {call} returns it.")
    if table.index.nlevels != levels:
        of = ", ".join(map(str, table.index.names))
        raise InputError(f"The table is indexed by {of}: give one as {call} returns it.")
    return table


def check_class_table(table: Any) -> pd.DataFrame:
    """Return the classes of a class table that have examples, weakest first.

    Raises:
        InputError: It is another table, or no class has an example.
    """
    checked = check_table(table, ("n", "clean", "robust", "low", "high"), CLASS_TABLE)
    return some(checked[checked["n"] > 0]).sort_values("robust", kind="stable")


def some(rows: pd.DataFrame, what: str = "no class has an example") -> pd.DataFrame:
    """Return the rows, of which there must be one.

    Raises:
        InputError: There is none.
    """
    if len(rows) == 0:
        raise InputError(f"There is nothing to draw: {what}.")
    return rows


def worst_classes(accuracies: pd.Series[float]) -> str:
    """Say which class is the worst and how far it is from the best, of fractions with the weakest first."""
    lowest, highest = 100 * float(accuracies.iloc[0]), 100 * float(accuracies.iloc[-1])
    ties = int((accuracies == accuracies.iloc[0]).sum())
    if ties == len(accuracies) > 1:
        return f"all classes: {lowest:.1f} %"
    which = label(accuracies.index[0]) if ties == 1 else f"{ties} classes"
    gap = f", {highest - lowest:.1f} points below the best" if len(accuracies) > 1 else ""
    return f"worst: {which}, {lowest:.1f} %{gap}"


def chance(measured: pd.DataFrame) -> str:
    """Say so if the classes of a class table may well be equally robust: nothing, if they are not."""
    n = measured["n"].to_numpy().astype(np.int64)
    if len(n) < 2:
        return ""
    right = (measured["robust"].to_numpy() * n).round().astype(np.int64)
    number = np.arange(len(n))
    withstood = np.repeat(np.tile([True, False], len(n)), np.stack([right, n - right], axis=1).ravel())
    p = disparity_test(np.repeat(number, n), withstood, len(n), repeats=1000)["p"]
    return f"may be chance: equal classes would differ as much with p = {p:.2f}" if p > 0.05 else ""
