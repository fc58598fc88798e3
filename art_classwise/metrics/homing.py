"""Homing: who becomes robust once the class it was attacked into is gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from art_classwise._core.labels import class_names
from art_classwise.errors import InputError
from art_classwise.metrics.intervals import paired_difference, wilson

__all__ = ["homing", "unrelated_class"]


def unrelated_class(confusion: npt.ArrayLike, c: int, among: Sequence[int]) -> int | None:
    """Return the class that is least confused with a class under attack, as a control for class exclusion.

    Args:
        confusion: (C, C) shares of each true class by prediction under attack, rows: truth.
        c: The class.
        among: The classes to choose from; ``c`` itself is passed over.

    Returns:
        The one with the smallest R[c, u] + R[u, c], of equals the first; None if there is none to choose from.
    """
    shares = np.nan_to_num(np.asarray(confusion, dtype=np.float64))
    others = [u for u in among if u != c]
    return min(others, key=lambda u: (shares[c, u] + shares[u, c], u)) if others else None


def homing(
    y: npt.ArrayLike,
    attacked: npt.ArrayLike,
    withstood: Mapping[int, npt.ArrayLike],
    confusion: npt.ArrayLike,
    *,
    controls: Sequence[int] | None = None,
    pooled: bool = False,
    classes: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return P(robust without c' | attacked c -> c' with all classes), beside a control (Tian et al. 2021, section 4).

    For each excluded class c' and each other class c: of the examples of c that the attack moved to c' in the network
    of all classes, the share that withstands the attack in the network trained without c'; and, of the same examples,
    the share that does in a network trained without an unrelated class u: of those excluded (or of ``controls``)
    the one least confused with c, other than c'.

    Args:
        y: True labels, ints (n,).
        attacked: Predictions under attack in the network of all classes, ints (n,).
        withstood: Of each excluded class, whether each example withstood in the network without it, bool (n,).
        confusion: (C, C) confusion under attack in the network of all classes, shares of each row.
        controls: The classes among which u is chosen; those of ``withstood`` if absent.
        pooled: A row per c', over all c, instead of a row per pair.
        classes: Names of the classes; their numbers if absent.
        confidence: Coverage of the intervals.

    Returns:
        Indexed by (``class``, ``excluded``), or by ``excluded`` if pooled: ``n``, the number of examples moved;
        ``homed``, ``low``, ``high``, the share and its Wilson interval; ``control``, the class u, or the classes if
        pooled; ``control_homed``, ``control_low``, ``control_high``; ``difference``, ``difference_low``,
        ``difference_high``, paired (Newcombe 1998), of the examples that have a control. Pairs without an example are
        left out. Where there is no u, the control's columns are NaN.

    Raises:
        InputError: The arrays differ in length.
    """
    shares = np.asarray(confusion)
    if shares.ndim != 2 or shares.shape[0] != shares.shape[1]:
        raise InputError(f"The confusion must be a matrix (C, C), but has shape {shares.shape}.")
    n_classes = len(shares)
    truth, moved_to = np.asarray(y), np.asarray(attacked)
    for k in (*withstood, *np.unique(truth), *np.unique(moved_to)):
        if not 0 <= k < n_classes:
            raise InputError(f"There are {n_classes} classes, 0 to {n_classes - 1}, but got class {k}.")
    for k in controls or ():
        if k not in withstood:
            raise InputError(f"There are no outcomes of a network without the control {k}: give them in `withstood`.")
    names = class_names(classes, n_classes)
    robust = {k: np.asarray(values, dtype=bool) for k, values in withstood.items()}
    for values in (moved_to, *robust.values()):
        if len(values) != len(truth):
            raise InputError(f"There are {len(truth)} labels, but {len(values)} outcomes.")
    candidates = [k for k in (robust if controls is None else controls) if k in robust]
    rows = []
    for excluded in robust:
        of_class = []
        for c in range(n_classes):
            moved = (truth == c) & (moved_to == excluded) & (c != excluded)
            if moved.any():
                control = unrelated_class(confusion, c, [k for k in candidates if k != excluded])
                of_class.append(
                    (c, control, robust[excluded][moved], None if control is None else robust[control][moved])
                )
        groups = [of_class] if pooled and of_class else [[one] for one in of_class]
        for group in groups:
            compared = [one for one in group if one[3] is not None]
            row = _row(group, compared, confidence)
            row["excluded"] = names[excluded]
            row["class"] = names[group[0][0]]
            row["control"] = ", ".join(sorted({str(names[one[1]]) for one in compared if one[1] is not None})) or None
            rows.append(row)
    columns = ["n", "homed", "low", "high", "control", *_CONTROL]
    index = ["excluded"] if pooled else ["class", "excluded"]
    return pd.DataFrame(rows, columns=[*index, *columns]).set_index(index)


_CONTROL = (
    *("control_homed", "control_low", "control_high"),
    *("difference", "difference_low", "difference_high"),
)

_Moved = tuple[int, int | None, npt.NDArray[np.bool_], "npt.NDArray[np.bool_] | None"]
"""A class, its control, and whether its moved examples withstood without c' and without the control."""


def _row(group: Sequence[_Moved], compared: Sequence[_Moved], confidence: float) -> dict[str, object]:
    homed = np.concatenate([one[2] for one in group])
    low, high = wilson(homed.sum(), len(homed), confidence)
    row: dict[str, object] = {"n": len(homed), "homed": homed.mean(), "low": float(low), "high": float(high)}
    if not compared:
        return row | dict.fromkeys(_CONTROL, np.nan)
    first = np.concatenate([one[2] for one in compared])
    second = np.concatenate([one[3] for one in compared if one[3] is not None])
    control_low, control_high = wilson(second.sum(), len(second), confidence)
    counts = [np.sum(first & second), np.sum(first & ~second), np.sum(~first & second), np.sum(~first & ~second)]
    paired = paired_difference(counts[0], counts[1], counts[2], counts[3], confidence)
    return row | dict(zip(_CONTROL, (second.mean(), *map(float, (control_low, control_high, *paired))), strict=True))
