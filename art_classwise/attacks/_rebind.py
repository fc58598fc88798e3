"""The same attack on another classifier."""

from __future__ import annotations

import inspect
from typing import Any

from art.attacks.attack import EvasionAttack

from art_classwise.errors import InputError, first_line

__all__ = ["rebind"]


def rebind(attack: Any, estimator: Any) -> Any:
    """Return an ART attack with the parameters of ``attack`` on ``estimator``; ``attack`` itself if it is on it.

    Raises:
        InputError: The attack can't be made anew from its ``attack_params``, or not on this estimator.
    """
    if attack.estimator is estimator:
        return attack
    known = _parameters(type(attack))
    values = {
        name: _within(getattr(attack, name), attack.estimator, estimator)
        for name in attack.attack_params
        if name in known and hasattr(attack, name)
    }
    if values.get("summary_writer", False) is None:
        values["summary_writer"] = False  # what the constructor takes where the attribute says None
    try:
        return type(attack)(estimator, **values)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The {type(attack).__name__} can't be made anew on another classifier ({first_line(error)}): "
            "give a function from a classifier to the attack on it, by name, "
            f'such as {{"mine": lambda c: {type(attack).__name__}(c, ...)}}.'
        ) from error


def _parameters(kind: type) -> set[str]:
    """Return what a class's constructor takes by name after the estimator; its bases', too, where it hands on more."""
    names: set[str] = set()
    for base in kind.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(vars(base)["__init__"]).parameters
        names.update(list(parameters)[2:])  # without self and the estimator
        if all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
            break
    return names


def _within(value: Any, old: Any, new: Any) -> Any:
    """Rebind what attacks a parameter holds, such as those of ART's AutoAttack; a surrogate's stay where they are."""
    if value is old:  # ART's AutoAttack holds the classifier by whose predictions it chooses examples
        return new
    if isinstance(value, EvasionAttack):
        return rebind(value, new) if value.estimator is old else value
    if isinstance(value, (list, tuple)):
        return type(value)(_within(v, old, new) for v in value)
    return value
