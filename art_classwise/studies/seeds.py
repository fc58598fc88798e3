"""One recipe trained with several seeds: how much of a number is the seed's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

from art_classwise import metrics
from art_classwise._core.display import Shown
from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit.comparison import Kind, Side, check_audit, check_comparable, is_same_network
from art_classwise.audit.result import AuditResult
from art_classwise.errors import InputError, check_number
from art_classwise.metrics.disparity import UNBOUNDED, disparity_rows
from art_classwise.metrics.seeds import MEAN

__all__ = ["SeedSpread", "compare_over_seeds", "spread_over_seeds"]

_KINDS: tuple[Kind, ...] = ("clean", "robust")


@dataclass(frozen=True, eq=False, repr=False)
class SeedSpread(Shown):
    """Mean and spread over networks that one recipe gave with several training seeds.

    ``low`` and ``high`` hold for the mean over all seeds and all examples of the kind: both are drawn, seeds crossed
    with examples (:func:`art_classwise.metrics.accuracy_over_seeds`). ``sd``, ``min`` and ``max`` are of these networks
    on these examples.

    Attributes:
        models: Names of the networks.
        attack: The attack, or ``"all attacks"``.
        by_class: Indexed by (``kind``, ``class``), kind ``"clean"`` or ``"robust"``: ``n_seeds``; ``mean``; ``sd``, of
            a sample; ``low`` and ``high``; ``min``, ``max``. Fractions; NaN for a class without examples.
        summary: The same columns, a row per measure: ``clean``, the mean class accuracy without attack, then those of
            :func:`art_classwise.metrics.disparity` of the class robust accuracies. Of measures other than the means,
            ``low`` and ``high`` are Student's t interval of what as many examples give on average, examples drawn anew
            within each class for its part in the variance, and cut to what the measure can be.
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
        confidence: Coverage of the intervals.

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
    y = sides[0].right("robust")[1]
    classes = list(sides[0].result.classes)
    right = {kind: np.stack([side.right(kind)[2] for side in sides]) for kind in _KINDS}
    parts = {kind: _spread(y, of, classes, confidence) for kind, of in right.items()}
    by_class = pd.concat({kind: part.drop(index=MEAN) for kind, part in parts.items()}, names=["kind", "class"])
    means = pd.DataFrame([parts["clean"].loc[MEAN], parts["robust"].loc[MEAN]], index=["clean", "mean"])
    measures = _measured(y, right["robust"], len(classes), confidence)
    summary = pd.concat([means, measures.drop(index="mean")]).rename_axis("measure")
    return SeedSpread(
        models=tuple(side.name for side in sides),
        attack=attack,
        by_class=by_class,
        summary=summary.astype({"n_seeds": int}),
    )


def compare_over_seeds(
    result: AuditResult,
    first: Sequence[str],
    second: Sequence[str],
    *,
    attack: str = WORST_CASE,
    kind: Kind = "robust",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Compare two recipes, each trained with the same seeds, over seeds and examples.

    Args:
        result: An audit of all networks.
        first: The first recipe's networks, one per seed.
        second: The second's, in the same order of seeds.
        attack: An attack, or ``"all attacks"``.
        kind: ``"robust"``, or ``"clean"`` for accuracy without attack.
        confidence: Coverage of the intervals.

    Returns:
        A row per class and one of the mean over classes: see :func:`art_classwise.metrics.difference_over_seeds`.

    Raises:
        InputError: The recipes differ in the number of seeds or have fewer than two, a network stands twice, there is
            no such model or attack, or networks' examples differ.
    """
    check_audit("The audit", result)
    sides = [_sides(result, names, attack) for names in (first, second)]
    for a, b in combinations([side for recipe in sides for side in recipe], 2):
        if a.model == b.model or is_same_network(a, b):
            raise InputError(f"{a.name!r} and {b.name!r} are the same network: every seed counts once.")
        check_comparable(a, b, kind)
    if not (sides[0] and sides[1]):
        raise InputError("A recipe has no networks: name those of both, one per seed.")
    one, other = (np.stack([side.right(kind)[2] for side in recipe]) for recipe in sides)
    y, classes = sides[0][0].right(kind)[1], result.classes
    return metrics.difference_over_seeds(y, one, other, len(classes), classes=classes, confidence=confidence)


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


def _spread(
    y: npt.NDArray[np.int64], right: npt.NDArray[np.bool_], classes: Sequence[str], confidence: float
) -> pd.DataFrame:
    """Return mean and spread of each class's accuracy, and of the mean over classes, from (seeds, examples)."""
    found = metrics.accuracy_over_seeds(y, right, len(classes), classes=classes, confidence=confidence)
    n = np.bincount(y, minlength=len(classes))
    accuracy = np.stack([np.bincount(y[of], minlength=len(classes)) for of in right]) / np.where(n > 0, n, np.nan)
    frame = pd.DataFrame(accuracy, columns=list(classes)).assign(**{MEAN: np.nanmean(accuracy, axis=1)})
    return _columns(frame, found["low"], found["high"])


def _measured(
    y: npt.NDArray[np.int64], right: npt.NDArray[np.bool_], n_classes: int, confidence: float, repeats: int = 200
) -> pd.DataFrame:
    """Return mean and spread of each measure of disparity, over seeds and examples."""
    rng, m = np.random.default_rng(0), len(right)
    n = np.bincount(y, minlength=n_classes)
    there = np.flatnonzero(n)
    plain = np.stack([right[:, y == c].mean(1) for c in there], 1)
    drawn = np.empty((repeats, m, len(there)))
    for i, c in enumerate(there):
        times = rng.multinomial(n[c], np.full(n[c], 1 / n[c]), size=repeats)  # how often each example is drawn
        drawn[:, :, i] = times @ right[:, y == c].T / n[c]
    names = metrics.disparity(plain[0]).index
    frame = pd.DataFrame([metrics.disparity(of).to_numpy() for of in plain], columns=names)
    measures = disparity_rows(drawn.reshape(-1, len(there)), 0).reshape(repeats, m, len(names))
    seeds, examples = frame.var(ddof=1) / m, measures.mean(1).var(0)
    variance = seeds + examples
    free = variance**2 / (seeds**2 / (m - 1) + examples**2 / repeats)
    half = stdtrit(free.where(variance > 0, 1), 0.5 + confidence / 2) * np.sqrt(variance)
    most = np.array([np.inf if name in UNBOUNDED else 1.0 for name in names])
    mean = frame.mean()
    return _columns(frame, (mean - half).clip(lower=0.0), np.minimum(mean + half, most))


def _columns(frame: pd.DataFrame, low: pd.Series[float], high: pd.Series[float]) -> pd.DataFrame:
    columns = {
        **{"n_seeds": frame.count(), "mean": frame.mean(), "sd": frame.std(ddof=1)},
        **{"low": low, "high": high, "min": frame.min(), "max": frame.max()},
    }
    return pd.DataFrame(columns)
