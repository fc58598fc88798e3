"""Labels and class names, as all that counts by class takes them; and what an attack takes labels for."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import numpy.typing as npt

from art_classwise._core.arrays import as_array
from art_classwise.errors import InputError, check_whole, shown, unknown

__all__ = [
    "LabelRole",
    "check_class_names",
    "check_differ",
    "check_labels",
    "check_reads_targets",
    "check_reads_true_labels",
    "class_names",
    "class_number",
    "label_role",
]


def check_labels(
    y: Any, n_examples: int, n_classes: int, *, x_name: str = "x", y_name: str = "y", kind: str = "Label"
) -> npt.NDArray[np.int64]:
    """Return labels as int64 (n,) from indices (n,), (n, 1) or one-hot (n, C); of soft ones the class of the largest.

    Args:
        y: The labels: an array, a tensor, a pandas series, a list.
        n_examples: n.
        n_classes: C.
        x_name: What to call the examples in messages.
        y_name: What to call ``y``.
        kind: What to call a label.

    Raises:
        InputError: The shape is none of these, the length isn't ``n_examples``, a label is no class, or a row has no
            single largest value; ``n_classes`` is no whole number of at least 1.
    """
    check_whole("n_classes", n_classes, 1)
    array = as_array(y, y_name, texts=True)
    if array.ndim == 0:
        raise InputError(f"{kind}s must be indices (n,) or one-hot (n, {n_classes}), but got {y!r}.")
    if len(array) != n_examples:
        raise InputError(f"{x_name} and {y_name} differ in length: {n_examples} examples, but {len(array)} labels.")
    if array.ndim == 2 and array.shape[1] == n_classes and n_classes > 1:
        array = _largest(array, kind)
    elif array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(f"{kind}s must be indices (n,) or one-hot (n, {n_classes}), but got shape {array.shape}.")
    if not np.issubdtype(array.dtype, np.integer):
        if not (np.issubdtype(array.dtype, np.number) and bool(np.all(array == np.floor(array)))):
            remedy = "; a Dataset takes class names" if array.dtype.kind in "US" else ""
            raise InputError(f"{kind}s must be whole numbers, but got {array.dtype} such as {array[0]!r}{remedy}.")
        array = array.astype(np.int64)
    outside = (array < 0) | (array >= n_classes)
    if outside.any():
        first = int(outside.argmax())
        raise InputError(
            f"{kind} {array[first]} of example {first} is outside the {n_classes} classes 0 to {n_classes - 1}."
        )
    return array.astype(np.int64)


def _largest(rows: npt.NDArray[Any], kind: str) -> npt.NDArray[np.int64]:
    """Return the column of the largest value of each row (n, C), of which there must be one."""
    if rows.dtype.kind not in "biuf":
        raise InputError(f"{kind}s must be indices (n,) or one-hot (n, {rows.shape[1]}), but are {rows.dtype}.")
    largest = rows.max(1, keepdims=True)
    clear = np.isfinite(largest[:, 0]) & ((rows == largest).sum(1) == 1)
    if not clear.all():
        first = int(clear.argmin())
        raise InputError(
            f"{kind}s must be indices (n,) or one-hot (n, {rows.shape[1]}), but that of example {first}, "
            f"{shown(rows[first].tolist(), 80)}, has no single largest value."
        )
    columns: npt.NDArray[np.int64] = rows.argmax(1)
    return columns


def class_names(classes: Sequence[str] | None, n_classes: int) -> list[str] | list[int]:
    """Return the names of the classes; their numbers if there are no names.

    Raises:
        InputError: There are names, but not as many as classes; or they are one text.
    """
    if classes is None:
        return list(range(n_classes))
    check_class_names(classes)
    if len(classes) != n_classes:
        raise InputError(f"There are {n_classes} classes, but {len(classes)} class names.")
    check_differ(classes)
    return list(classes)


def check_differ(classes: Sequence[str]) -> None:
    """Check that class names don't repeat: tables are asked by them.

    Raises:
        InputError: One does.
    """
    if len(set(classes)) < len(classes):
        repeated = next(c for i, c in enumerate(classes) if c in classes[:i])
        raise InputError(f"Class names must differ, but {repeated!r} appears twice.")


def check_class_names(classes: Any) -> None:
    """Check that class names are several, in an order: not one text, whose letters would be taken for names.

    Raises:
        InputError: They are one, or nothing that holds names, or a set or dict, whose order isn't that of the classes.
    """
    if isinstance(classes, (str, bytes)) or not isinstance(classes, Iterable):
        raise InputError(f'`classes` must be a list of names, e.g. ["cat", "dog"], but got {shown(classes)}.')
    if isinstance(classes, (Set, Mapping)):
        raise InputError(
            "`classes` must be a list of names, that of class 0 first, but got "
            f"{shown(classes)}, a {type(classes).__name__}, whose order may be another."
        )


def class_number(name: str | int, classes: Sequence[str]) -> int:
    """Return the number of a class given by name or number; a name goes before a number.

    Raises:
        InputError: There is no such class.
    """
    text = str(name)
    if text in classes:
        return list(classes).index(text)
    if text.isascii() and text.isdecimal() and int(text) < len(classes):
        return int(text)
    raise unknown("class", name, classes)


class LabelRole(enum.Enum):
    """What an attack does with ``y``."""

    TRUE = "true labels"
    TARGET = "targets"
    UNREAD = "unread"
    OTHER = "neither"


# By the names of ART's classes, so that nothing of ART is imported for it; subclasses are like their bases. Everything
# else in ART 1.20.1 does as its flag `targeted` says.
_ROLES = {
    **dict.fromkeys(("AutoAttack", "CompositeAdversarialAttackPyTorch", "LaserAttack", "SquareAttack"), LabelRole.TRUE),
    **dict.fromkeys(
        ("SaliencyMapMethod", "ShadowAttack", "LowProFool", "TargetedUniversalPerturbation", "DecisionTreeAttack"),
        LabelRole.TARGET,
    ),
    **dict.fromkeys(("GRAPHITEBlackbox", "GRAPHITEWhiteboxPyTorch"), LabelRole.TARGET),
    **dict.fromkeys(
        ("DeepFool", "NewtonFool", "VirtualAdversarialMethod", "SpatialTransformation", "HighConfidenceLowUncertainty"),
        LabelRole.UNREAD,
    ),
}
_OTHER = {
    **dict.fromkeys(
        ("FeatureAdversariesNumpy", "FeatureAdversariesPyTorch"), "it takes y for images, whose features it imitates"
    ),
    **dict.fromkeys(
        ("AdversarialPatch", "AdversarialPatchNumpy", "AdversarialPatchPyTorch"),
        "it returns a patch and its mask, and no adversarial images",
    ),
}
_ROLES |= dict.fromkeys(_OTHER, LabelRole.OTHER)


def label_role(attack: Any) -> LabelRole:
    """Return what an attack takes ``y`` for, by what it does, whatever its flag says.

    Attacks of ours that hold another one say it themselves, by a class attribute ``label_role``.
    """
    told = getattr(type(attack), "label_role", None) or next((_ROLES[name] for name in _arts(attack)), None)
    if told is not None:
        return LabelRole(told)
    inner = _inner(attack)
    if inner is not None:
        return label_role(inner)
    if getattr(attack, "attacker_params", None) is not None or isinstance(getattr(attack, "attacker", None), str):
        # ART's universal perturbation hands the true labels to an attack that it makes from a name.
        aimed = attack.attacker == "jsma" or bool((attack.attacker_params or {}).get("targeted", False))
        return LabelRole.TARGET if aimed else LabelRole.TRUE
    return LabelRole.TARGET if getattr(attack, "targeted", False) else LabelRole.TRUE


def _arts(attack: Any) -> list[str]:
    """Return the names of the classes of ART that an attack is of, as far as the table has them."""
    kinds = (kind for kind in type(attack).__mro__ if kind.__module__.startswith("art.attacks."))
    return [kind.__name__ for kind in kinds if kind.__name__ in _ROLES]


def _inner(attack: Any) -> Any:
    """Return the attack that does the work: a transfer's, a frame saliency attack's, the one behind ART's PGD."""
    held = (getattr(attack, name, None) for name in ("attack", "attacker", "_attack"))
    return next((a for a in held if hasattr(a, "generate") and hasattr(a, "attack_params")), None)


def check_reads_true_labels(what: str, attack: Any) -> None:
    """Check that an attack can be given the true labels: that it moves examples away from them.

    Args:
        what: What to call the attack in a message, such as ``"The attack 'mine'"``.
        attack: An evasion attack.

    Raises:
        InputError: It takes y for targets, or for something else than labels.
    """
    role = label_role(attack)
    if role is LabelRole.OTHER:
        raise InputError(f"{what} can't be used here: {_why_other(attack)}.")
    if role is LabelRole.TARGET:
        searched = _inner(attack) or attack
        always = _arts(searched) or not getattr(searched, "targeted", False)
        advice = (
            f"A {type(searched).__name__} made like this takes y for targets, always: take another attack"
            if always
            else "Make it with targeted=False"
        )
        raise InputError(
            f"{what} is targeted: it would drive each example towards its true label. {advice}, or let "
            "ClassWiseAttack(classifier, attack=...) aim it at the other classes."
        )


def check_reads_targets(what: str, attack: Any) -> None:
    """Check that an attack can be aimed: that it moves examples into the classes it is given as y.

    Raises:
        InputError: It takes y for the true labels, doesn't read it, or takes it for something else.
    """
    role = label_role(attack)
    if role is LabelRole.TARGET:
        return
    if role is LabelRole.OTHER:
        reason = _why_other(attack)
    elif role is LabelRole.UNREAD:
        reason = "it doesn't read y, and moves examples anywhere"
    elif getattr(attack, "targeted", False):
        reason = (
            "it takes y for the true labels, whatever its flag `targeted` says, and would move away from the target"
        )
    else:
        reason = "it moves examples away from y; most attacks are aimed by targeted=True"
    raise InputError(f"{what} must be a targeted ART evasion attack, but a {type(attack).__name__} isn't: {reason}.")


def _why_other(attack: Any) -> str:
    return next(_OTHER[name] for name in _arts(attack) if name in _OTHER)
