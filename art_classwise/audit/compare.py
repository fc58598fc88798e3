"""Two models, or two attacks, compared example by example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit._table import AuditTable
from art_classwise.audit.comparability import Side, check_audit, check_comparable, is_same_network
from art_classwise.audit.comparison import Comparison, Kind
from art_classwise.errors import InputError, unknown
from art_classwise.metrics.comparison import holm, mean_difference, paired_comparison, worst_class_difference

__all__ = ["compare", "compare_within", "comparison_table"]


def compare(
    first: AuditTable,
    second: AuditTable,
    *,
    models: Sequence[str] | None = None,
    attack: str = WORST_CASE,
    kind: Kind = "robust",
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare a model of one audit with a model of another, on the same examples.

    Args:
        first: An audit.
        second: Another audit, of the same examples in the same order, under whatever name if the data's fingerprints
            are known; of robust accuracies, also of the same threat model and, as far as it is asked about them, the
            same attacks.
        models: A model of each; absent where each audit has but one.
        attack: An attack that both audits have, or ``"all attacks"``, which must then be the same ones.
        kind: ``"robust"``, or ``"clean"`` for accuracy without attack.
        confidence: Coverage of the intervals.
        seed: Of the draws behind the worst class's interval.

    Returns:
        The comparison, differences first minus second.

    Raises:
        InputError: There is no such model or attack, or the outcomes can't be compared; the reason is named.
    """
    check_audit("The first", first)
    check_audit("The second", second)
    if models is None:
        for which, result in (("first", first), ("second", second)):
            if len(result.models) > 1:
                raise InputError(
                    f"The {which} audit has {len(result.models)} models ({', '.join(result.models)}): "
                    "name one of each, models=(..., ...)."
                )
        models = first.models[0], second.models[0]
    if isinstance(models, str) or len(models) != 2:
        raise InputError(f"`models` must be two names, a model of each audit, but got {models!r}.")
    a, b = models
    names = (a, b) if a != b else (f"{a} (first)", f"{b} (second)")
    sides = Side(first, a, attack, names[0]), Side(second, b, attack, names[1])
    if is_same_network(*sides):
        raise InputError(
            f"{a!r} of the first audit and {b!r} of the second are the same network: there is nothing to "
            "compare. Name two models, or two attacks of one audit."
        )
    return _compared(*sides, kind, confidence, seed)


def compare_within(
    result: AuditTable,
    first: str,
    second: str,
    *,
    attack: str | None = None,
    model: str | None = None,
    kind: Kind = "robust",
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two models of an audit, or two of its attacks on a model: see :meth:`AuditResult.compare`.

    Raises:
        InputError: There is no such model or attack, both are the same, their examples differ, or the names are those
            of models and of attacks, and neither ``model`` nor ``attack`` says what is meant.
    """
    attacks = (*result.attacks, WORST_CASE)
    for name in (first, second):
        if name not in (*result.models, *attacks):
            raise unknown("model or attack", name, (*result.models, *attacks))
    are_models, are_attacks = ({first, second} <= {*names} for names in (result.models, attacks))
    if are_models and are_attacks and model is None and attack is None and kind == "robust":
        raise InputError(
            f"{first!r} and {second!r} are both models and attacks: say on which model the attacks are compared, "
            f"model=..., or under which attack the models, attack={WORST_CASE!r}, say."
        )
    if first == second:
        raise InputError(f"{first!r} can't be compared with itself: name two models, or two attacks.")
    if are_models and not (are_attacks and model is not None):
        if model is not None:
            raise InputError(f"Models are compared, {first!r} and {second!r}: `model` is for two attacks.")
        under = WORST_CASE if attack is None else attack
        return _compared(Side(result, first, under, first), Side(result, second, under, second), kind, confidence, seed)
    if not are_attacks:
        a, b = (first, second) if first in result.models else (second, first)
        raise InputError(f"{a!r} is a model and {b!r} an attack: name two models, or two attacks.")
    if attack is not None or kind != "robust":
        raise InputError(f"Attacks are compared, {first!r} and {second!r}: `attack` and `kind` are for two models.")
    if model is None and len(result.models) > 1:
        raise InputError(f"There are {len(result.models)} models: say on which, model={result.models[0]!r}, say.")
    on = result.models[0] if model is None else model
    return _compared(Side(result, on, first, first), Side(result, on, second, second), kind, confidence, seed)


def comparison_table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Return a row per comparison.

    Returns:
        Indexed by (``first``, ``second``), the names: ``n``; over all examples ``first_accuracy``,
        ``second_accuracy``, ``difference``, ``low``, ``high``, ``p`` and ``p_adjusted``, by Holm over the rows: it
        holds for all of them at once, intervals don't; over classes ``mean_difference``, ``mean_low``, ``mean_high``;
        of the worst classes ``first_worst_class``, ``first_worst``, ``second_worst_class``, ``second_worst``,
        ``worst_difference``, ``worst_low``, ``worst_high``.

    Raises:
        InputError: There is no comparison.
    """
    if not comparisons:
        raise InputError("There is no comparison to make a table of.")
    rows = []
    for one in comparisons:
        row: dict[str, object] = {"first": one.first, "second": one.second, "n": one.n}
        row |= {"first_accuracy": one.overall["first"], "second_accuracy": one.overall["second"]}
        row |= {key: one.overall[key] for key in ("difference", "low", "high", "p")}
        row |= {f"mean_{key}": one.mean[key] for key in ("difference", "low", "high")}
        for side in ("first", "second"):
            row |= {f"{side}_worst_class": one.worst_class[f"{side}_class"], f"{side}_worst": one.worst_class[side]}
        rows.append(row | {f"worst_{key}": one.worst_class[key] for key in ("difference", "low", "high")})
    table = pd.DataFrame(rows).set_index(["first", "second"])
    table.insert(list(table).index("p") + 1, "p_adjusted", holm(table["p"].to_numpy()))
    return table


def _compared(a: Side, b: Side, kind: Kind, confidence: float, seed: int) -> Comparison:
    if kind not in ("robust", "clean"):
        raise unknown("kind of accuracy", kind, ("robust", "clean"))
    check_comparable(a, b, kind)
    (_, y, first), (_, _, second) = a.right(kind), b.right(kind)
    classes, pair = a.result.classes, (first, second)
    options: Any = {"confidence": confidence}
    overall = paired_comparison(np.zeros_like(y), *pair, 1, **options).iloc[0].drop(["n", "p_adjusted"])
    attacks = a.attack != b.attack
    return Comparison(
        first=a.name,
        second=b.name,
        kind=kind,
        model=a.model if attacks else None,
        attack=None if attacks or kind == "clean" else a.attack,
        threat=a.result.threat if kind == "robust" else None,
        worst_case=bool(a.result.info.get("worst_case")),
        n=len(y),
        confidence=confidence,
        by_class=paired_comparison(y, *pair, len(classes), classes=classes, **options),
        overall=overall.rename(None),
        mean=mean_difference(y, *pair, len(classes), **options),
        worst_class=worst_class_difference(y, *pair, len(classes), classes=classes, seed=seed, **options),
    )
