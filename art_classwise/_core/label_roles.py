"""What an ART attack takes ``y`` for: the true labels, or the classes to move into."""

from __future__ import annotations

import enum
from typing import Any

from art_classwise.errors import InputError

__all__ = ["LabelRole", "check_reads_targets", "check_reads_true_labels", "label_role"]


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
