"""Who is compared: a model of an audit under an attack; and whether two such answer one question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from art_classwise.attacks.ladder import WORST_CASE
from art_classwise.audit._table import AuditTable
from art_classwise.errors import InputError, unknown

__all__ = ["Kind", "Side", "check_audit", "check_comparable", "is_same_network"]


Kind = Literal["robust", "clean"]
"""Whether an example counts as right that withstood, or that was classified rightly without attack."""


@dataclass(frozen=True)
class Side:
    """One of the two: a model of a result, under an attack or under none.

    Attributes:
        result: The audit.
        model: Name of a model of it.
        attack: Name of an attack, or ``"all attacks"``.
        name: What to call it.
    """

    result: AuditTable
    model: str
    attack: str
    name: str

    def __post_init__(self) -> None:
        if self.model not in self.result.models:
            raise unknown("model", self.model, self.result.models)
        if self.attack not in (*self.result.attacks, WORST_CASE):
            raise unknown("attack", self.attack, (*self.result.attacks, WORST_CASE))

    def outcomes(self) -> dict[str, pd.DataFrame]:
        """Return the model's outcomes under each attack that was tried on it, or under the one alone.

        Raises:
            InputError: There is none, or the attacks were tried on different examples.
        """
        rows = self.result.outcomes
        rows = rows[rows["model"] == self.model]
        asked = self.result.attacks if self.attack == WORST_CASE else (self.attack,)
        of = {a: part for a in asked if len(part := rows[rows["attack"] == a])}
        if not of:
            raise InputError(f"The audit has no outcome of {self.attack!r} on {self.model!r}.")
        examples = [part["example"].to_numpy() for part in of.values()]
        if not all(np.array_equal(e, examples[0]) for e in examples):
            raise InputError(f"Attacks on {self.model!r} were tried on different examples: name one of them.")
        return of

    def right(self, kind: Kind) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return the numbers of its examples, their labels, and which were right, each (n,)."""
        self.outcomes()  # of one set of examples
        rows = self.result.rows(self.model, self.attack)
        label = rows["label"].to_numpy().astype(np.int64)
        correct = rows["clean_prediction"].to_numpy() == label if kind == "clean" else rows["withstood"].to_numpy()
        return rows["example"].to_numpy().astype(np.int64), label, correct


def check_audit(which: str, value: object) -> None:
    """Check that what was given for an audit is one.

    Raises:
        InputError: It isn't: a folder, say.
    """
    if not isinstance(value, AuditTable):
        raise InputError(
            f"{which} must be an audit's result, but is {value!r:.60}: read a folder with read_audit(...)."
        )


def is_same_network(a: Side, b: Side) -> bool:
    """Return whether two audits' models have one fingerprint and gave the same answers without attack."""
    one, other = (side.result.info.get("models", {}).get(side.model) for side in (a, b))
    if one is None or one != other:
        return False
    margins = [next(iter(side.outcomes().values()))["clean_margin"].to_numpy() for side in (a, b)]
    return bool(np.array_equal(margins[0], margins[1]))


def check_comparable(a: Side, b: Side, kind: Kind) -> None:
    """Check that two sides answer one question about the same examples, in the same order.

    Raises:
        InputError: They don't; what differs is named.
    """
    if a.result is not b.result:
        _check_audits(a, b, kind)
    if kind == "robust" and a.attack == b.attack:
        _check_attacks(a, b)
    (ids, labels, _), (other_ids, other_labels, _) = a.right(kind), b.right(kind)
    if not np.array_equal(ids, other_ids):
        shorter = min(len(ids), len(other_ids))
        i = int(np.argmax(np.append(ids[:shorter] != other_ids[:shorter], True)))
        there, here = (f"{of[i]}" if i < len(of) else "none" for of in (ids, other_ids))
        shared = len(np.intersect1d(ids, other_ids))
        order = "the same examples in another order" if shared == len(ids) == len(other_ids) else "other examples"
        raise InputError(
            f"{a.name!r} and {b.name!r} were tried on {order}: of {len(ids)} and {len(other_ids)} they share {shared}, "
            f"and first differ at place {i}, example {there} and {here}. Audit both on the same data."
        )
    if not np.array_equal(labels, other_labels):
        i = int((labels != other_labels).argmax())
        wrong = int((labels != other_labels).sum())
        raise InputError(
            f"{a.name!r} and {b.name!r} were tried on other labels: {wrong} of {len(ids)} differ, the first of "
            f"example {ids[i]}, {a.result.classes[labels[i]]!r} and {b.result.classes[other_labels[i]]!r}."
        )
    one, other = a.result.info.get("data"), b.result.info.get("data")
    if one and other and one != other:
        raise InputError(
            f"{a.name!r} and {b.name!r} were tried on examples of the same numbers and labels, but other images (their "
            f"fingerprints are {one[:8]} and {other[:8]}): audit both on the same data."
        )


def _check_audits(a: Side, b: Side, kind: Kind) -> None:
    of = [f"{side.result.info.get('dataset')} ({side.result.info.get('split')})" for side in (a, b)]
    data = [side.result.info.get("data") for side in (a, b)]
    if of[0] != of[1] and not (data[0] and data[0] == data[1]):  # the same images may have two names
        raise InputError(f"{a.name!r} was tried on {of[0]} and {b.name!r} on {of[1]}: audit both on the same data.")
    one, other = a.result.classes, b.result.classes
    if one != other:
        differ = next((f"{x!r} and {y!r}" for x, y in zip(one, other, strict=False) if x != y), "none and more")
        raise InputError(
            f"{a.name!r} and {b.name!r} have other classes, {len(one)} and {len(other)}; the first that differ are "
            f"{differ}. Audit both on the same data."
        )
    if kind == "clean":
        return
    if a.result.threat != b.result.threat:
        raise InputError(
            f"{a.name!r} was attacked at {a.result.threat} and {b.name!r} at {b.result.threat}: audit both at one "
            "threat model, or compare clean accuracies."
        )
    left = [side.name for side in (a, b) if side.result.info.get("worst_case")]
    if len(left) == 1 and a.attack != WORST_CASE:
        raise InputError(
            f"In the audit of {left[0]!r} broken examples left (worst_case), in the other they didn't: only under all "
            f"attacks together, {WORST_CASE!r}, can they be compared."
        )


def _check_attacks(a: Side, b: Side) -> None:
    """Check that an attack of one name, or all attacks, means the same of both."""
    one, other = (list(side.outcomes()) for side in (a, b))
    before = a.result is not b.result and bool(a.result.info.get("worst_case")) and a.attack != WORST_CASE
    if before:  # each attack counts with those before it
        one, other = (list(s.result.attacks[: s.result.attacks.index(s.attack) + 1]) for s in (a, b))
    alone = [
        f"{side.name!r} alone has {', '.join(lacking)}"
        for side, lacking in ((a, [n for n in one if n not in other]), (b, [n for n in other if n not in one]))
        if lacking
    ]
    if alone or (before and one != other):
        why = "; ".join(alone) or f"their order is {', '.join(one)} and {', '.join(other)}"
        what = f"{a.attack!r} counts with the attacks before it, and these differ" if before else "All attacks differ"
        shared = [n for n in one if n in other] if not before else []
        advice = f"name one that both have, {', '.join(shared)}" if shared else "audit both with the same attacks"
        raise InputError(f"{what}: {why}. To compare, {advice}.")
    for name in one:
        then, now = (side.result.info.get("attacks", {}).get(name) for side in (a, b))
        keys = {**then, **now} if then and now else {}
        changed = [f"{k} {then.get(k)!r} and {now.get(k)!r}" for k in keys if then.get(k) != now.get(k)]
        if changed:
            raise InputError(
                f"The attack {name!r} on {a.name!r} and that on {b.name!r} differ: {'; '.join(changed[:3])}. Audit "
                "both with the same attack."
            )
