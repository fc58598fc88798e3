"""What must hold of an audit's rows, whoever computed them: checks of one shard at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from art_classwise.audit.manifest import Manifest
from art_classwise.audit.outcomes import DISTANCE

__all__ = ["Columns", "attacked_differences", "clean_differences", "columns"]

Columns = Mapping[str, npt.NDArray[Any]]
"""A shard's columns by name."""

_ROUNDING = 1e-4  # of a perturbation's size, relative to the radius: sums of many float32 values


def columns(table: pa.Table) -> Columns:
    """Return a shard's columns as arrays."""
    return {name: table.column(name).to_numpy() for name in table.schema.names}


def clean_differences(rows: Columns, manifest: Manifest, shard: int) -> Iterator[str]:
    """Yield what is wrong with a shard without attack, as ends of sentences.

    Args:
        rows: The shard.
        manifest: The audit's.
        shard: Its number.
    """
    examples = manifest.examples
    size = min(manifest.shard_size, examples.n - shard * manifest.shard_size)
    if not examples.saved and len(rows["example"]) != size:
        yield f"has {len(rows['example'])} examples in place of {size}"
    if len(np.unique(rows["example"])) < len(rows["example"]):
        yield "has an example twice"
    if (rows["perturbation"] != 0).any():
        yield "has perturbed examples, though it is of no attack"
    yield from _common(rows, manifest)


def attacked_differences(
    rows: Columns, clean: Columns, manifest: Manifest, left: npt.NDArray[np.bool_], eps: float | None = None
) -> Iterator[str]:
    """Yield what is wrong with a shard under an attack.

    Args:
        rows: The shard.
        clean: The same examples without attack.
        manifest: The audit's.
        left: Which of them, (n,), the attack was to be tried on.
        eps: The radius that it may reach; the audit's if absent.
    """
    expected = clean["example"][left]
    if not np.array_equal(rows["example"], expected):
        why = "that withstood the attacks before" if manifest.worst_case else "that there are"
        yield f"is of {len(rows['example'])} other examples than the {len(expected)} {why}"
        return
    known = rows["label"] >= 0  # shards of 0.1.0 hold no labels
    if (rows["label"] != clean["label"][left])[known].any():
        yield "has other labels than the examples without attack"
    eps = manifest.threat.eps if eps is None else eps
    size = rows["perturbation"].astype(np.float64)
    if not (np.isfinite(size) & (size >= 0) & (size <= eps * (1 + _ROUNDING) + 1e-7)).all():
        yield f"has perturbations outside of the ball of radius {eps:g}: up to {np.max(size):g}"
    if DISTANCE in rows:
        yield from _distance_differences(rows, eps)
    yield from _common({**rows, "label": np.where(known, rows["label"], clean["label"][left])}, manifest)


def _distance_differences(rows: Columns, eps: float) -> Iterator[str]:
    """Yield where distances contradict the verdicts: within the radius an example is broken, and else it isn't."""
    distance, wrong = rows[DISTANCE].astype(np.float64), rows["prediction"] != rows["label"]
    known = ~np.isnan(distance)
    if (distance[known] < 0).any():
        yield "has negative distances"
    within = distance <= eps * (1 + _ROUNDING) + 1e-7
    other = known & np.where(wrong, ~within, distance < eps * (1 - _ROUNDING) - 1e-7) & (rows["label"] >= 0)
    if other.any():
        yield f"has {other.sum()} distances that contradict the verdict, first of example {rows['example'][other][0]}"


def _common(rows: Columns, manifest: Manifest) -> Iterator[str]:
    last, margin = len(manifest.classes) - 1, rows["margin"]
    for name in ("label", "prediction"):
        if len(rows[name]) and not (rows[name].min() >= 0 and rows[name].max() <= last):
            yield f"has {name}s outside of the {last + 1} classes"
    right = rows["prediction"] == rows["label"]
    known = ~np.isnan(margin) if manifest.examples.saved else np.ones(len(margin), bool)
    if not np.isfinite(margin[known]).all():
        yield "has margins that aren't finite"
    wrong = known & (np.where(right, margin < 0, margin > 0))
    if wrong.any():
        yield f"has {wrong.sum()} margins that contradict the prediction, first of example {rows['example'][wrong][0]}"
    for name in ("forwards", "backwards", "seconds"):
        if (rows[name] < 0).any():
            yield f"has negative {name}"
