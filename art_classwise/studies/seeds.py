"""One recipe trained with several seeds: how much of a number is the seed's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

from art_classwise import metrics
from art_classwise._core.display import Shown
from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.comparison import Side, check_audit, check_comparable, is_same_network
from art_classwise.audit.result import AuditResult
from art_classwise.errors import InputError, check_number
from art_classwise.metrics.disparity import UNBOUNDED

__all__ = ["SeedSpread", "spread_over_seeds"]


@dataclass(frozen=True, eq=False, repr=False)
class SeedSpread(Shown):
    """Mean and spread over networks that one recipe gave with several training seeds.

    What varies is the training seed; the test examples are the same for all. So ``low`` and ``high`` hold for the mean
    over all seeds *on these examples*: what other examples would change is not in them, and they are not Wilson
    intervals.

    Attributes:
        models: Names of the networks.
        attack: The attack, or ``"all attacks"``.
        by_class: Indexed by (``kind``, ``class``), kind ``"clean"`` or ``"robust"``: ``n_seeds``; ``mean``; ``sd``, of
            a sample; ``low`` and ``high``, Student's t interval of the mean over seeds, cut to what the measure can be;
            ``min``, ``max``. Fractions; NaN for a class without examples.
        summary: The same columns, a row per measure: ``clean``, the mean class accuracy without attack, then those of
            :func:`art_classwise.metrics.disparity` of the class robust accuracies.
    """

    models: tuple[str, ...]
    attack: str
    by_class: pd.DataFrame = field(repr=False)
    summary: pd.DataFrame = field(repr=False)


def spread_over_seeds(
    results: AuditResult | Sequence[AuditResult],
    models: Sequence[str] | None = None,
    *,
    attack: str = WORST_CASE,
    confidence: float = 0.95,
) -> SeedSpread:
    """Return mean and spread of every measure over networks trained by one recipe with different seeds.

    That they were is the caller's word: audits don't know how a network was trained.

    Args:
        results: One audit of all networks, or one audit each, of the same examples under the same attacks.
        models: Of one audit: which of its networks; all if absent. Of several: the network of each, in their order;
            absent where each has but one.
        attack: An attack, or ``"all attacks"``.
        confidence: Coverage of the t intervals.

    Returns:
        The spread.

    Raises:
        InputError: There are fewer than two networks, one stands twice, or their audits can't be compared.
    """
    check_number("confidence", confidence, 0, 1, above=True, below=True)
    sides = _sides(results, models, attack)
    if len(sides) < 2:
        raise InputError(f"A spread over seeds needs at least two networks, but got {len(sides)}.")
    for one, other in combinations(sides, 2):
        if is_same_network(one, other):
            raise InputError(f"{one.name!r} and {other.name!r} are the same network: every seed counts once.")
    for side in sides[1:]:
        check_comparable(sides[0], side, "robust")
    tables = [side.result.class_table(side.model, side.attack) for side in sides]
    per_class = np.stack([table[["clean", "robust"]].to_numpy().T.ravel() for table in tables])
    classes = list(sides[0].result.classes)
    measures = [{"clean": t["clean"].mean(), **metrics.disparity(t["robust"].to_numpy())} for t in tables]
    summary = pd.DataFrame(measures)
    kinds = pd.MultiIndex.from_product([["clean", "robust"], classes], names=["kind", "class"])
    return SeedSpread(
        models=tuple(side.name for side in sides),
        attack=attack,
        by_class=_spread(per_class, kinds, confidence),
        summary=_spread(summary.to_numpy(), pd.Index(summary.columns, name="measure"), confidence),
    )


def _sides(results: AuditResult | Sequence[AuditResult], models: Sequence[str] | None, attack: str) -> list[Side]:
    if isinstance(models, str):
        raise InputError(f"`models` must be several names, but got {models!r}.")
    if isinstance(results, AuditResult):
        names = results.models if models is None else tuple(models)
        if len(set(names)) < len(names):
            raise InputError(f"A network appears twice in {', '.join(names)}, but every seed counts once.")
        return [Side(results, name, attack, name) for name in names]
    several = results if isinstance(results, Sequence) and not isinstance(results, str) else [results]
    for i, result in enumerate(several):
        check_audit(f"Audit {i}", result)
    if models is None:
        many = [i for i, result in enumerate(results) if len(result.models) > 1]
        if many:
            raise InputError(
                f"Audit {many[0]} has {len(results[many[0]].models)} models: name one of each in `models`."
            )
        models = [result.models[0] for result in results]
    if len(models) != len(results):
        raise InputError(f"There are {len(results)} audits, but {len(models)} names: name one model of each.")
    pairs = [(id(result), name) for result, name in zip(results, models, strict=True)]
    if len(set(pairs)) < len(pairs):
        raise InputError("An audit appears twice with the same network, but every seed counts once.")
    named = [f"{name} ({i})" if list(models).count(name) > 1 else name for i, name in enumerate(models)]
    return [Side(result, m, attack, name) for result, m, name in zip(results, models, named, strict=True)]


def _spread(values: npt.NDArray[np.float64], index: pd.Index[Any], confidence: float) -> pd.DataFrame:
    """Return mean and spread of each column of (seeds, measures)."""
    frame = pd.DataFrame(values, columns=index)
    n, mean, sd = frame.count(), frame.mean(), frame.std(ddof=1)
    half = stdtrit(np.maximum(n - 1, 1), 0.5 + confidence / 2) * sd / np.sqrt(n.where(n > 0))
    most = np.array([np.inf if name in UNBOUNDED else 1.0 for name in index])
    columns = {
        **{"n_seeds": n, "mean": mean, "sd": sd},
        **{"low": (mean - half).clip(lower=0.0), "high": np.minimum(mean + half, most)},
        **{"min": frame.min(), "max": frame.max()},
    }
    return pd.DataFrame(columns, index=index)
