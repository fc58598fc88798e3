"""Policies as one writes them on a command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from art_classwise._core.labels import class_number
from art_classwise.errors import InputError, unknown
from art_classwise.trainers.policies.absld import ABSLD
from art_classwise.trainers.policies.balanced import BalancedSoftmax
from art_classwise.trainers.policies.cfa import CFA
from art_classwise.trainers.policies.cfol import CFOL
from art_classwise.trainers.policies.combined import Combined
from art_classwise.trainers.policies.dafa import DAFA
from art_classwise.trainers.policies.faal import FAAL
from art_classwise.trainers.policies.fair_ard import FairARD
from art_classwise.trainers.policies.frl import FRL
from art_classwise.trainers.policies.policy import ClassPolicy, Fixed
from art_classwise.trainers.policies.spectral import Spectral
from art_classwise.trainers.policies.targets import TRIX, FairTAT
from art_classwise.trainers.policies.wat import WAT

__all__ = ["POLICIES", "parse_policy"]

POLICIES: dict[str, type[ClassPolicy]] = {
    "absld": ABSLD,
    "balanced-softmax": BalancedSoftmax,
    "cfa": CFA,
    "cfol": CFOL,
    "dafa": DAFA,
    "faal": FAAL,
    "fair-ard": FairARD,
    "fair-tat": FairTAT,
    "frl": FRL,
    "spectral": Spectral,
    "trix": TRIX,
    "wat": WAT,
}
"""The published policies by name."""


def parse_policy(text: str, classes: Sequence[str]) -> ClassPolicy:
    """Read a policy: ``"dafa"``, ``"dafa:lamb=1.5,warmup=20"``, ``"weights:cat=2"`` or ``"budgets:cat=4/255"``.

    Args:
        text: A name of :data:`POLICIES` with values for its parameters; or weights or budgets by class name or number,
            where classes not named have weight 1, or the trainer's radius. Several, joined by " + ", are
            :class:`Combined`.
        classes: The class names.

    Raises:
        InputError: The policy, a parameter or a class is unknown, or a value can't be read.

    Example:
        >>> parse_policy("dafa:lamb=1.5", ["cat", "dog"])
        DAFA(lamb=1.5, warmup=70)
        >>> parse_policy("weights:dog=2", ["cat", "dog"])
        Fixed(weights={1: 2.0}, budgets=None)
    """
    parts = re.split(r"\s\+\s", text)
    if len(parts) > 1:
        return Combined([parse_policy(part, classes) for part in parts])
    name, _, rest = text.partition(":")
    pairs = [part.partition("=") for part in rest.split(",") if part.strip()]
    for key, equals, value in pairs:
        if not (key.strip() and equals and value.strip()):
            raise InputError(f"A class policy is written {_EXAMPLES}, but got {text!r}.")
    values = {key.strip(): _value(key.strip(), value.strip()) for key, _, value in pairs}
    if len(values) < len(pairs):
        raise InputError(f"A name appears twice in {text!r}: give each one value.")
    name = name.strip().lower()
    if name in ("weights", "budgets"):
        if not values:
            raise InputError(f"{name} by class are written {name}:{(*classes, 'cat')[0]}=..., but got {text!r}.")
        numbers: Any = {class_number(key, classes): value for key, value in values.items()}
        if len(numbers) < len(pairs):
            raise InputError(f"A class appears twice in {text!r}: give each one value.")
        return Fixed(**{name: numbers})
    if name not in POLICIES:
        raise unknown("class policy", name, [*POLICIES, "weights", "budgets"], hint=f"Write it {_EXAMPLES}.")
    known = [f.name for f in fields(POLICIES[name])]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise unknown(f"parameter of {name}", key, known)
    return POLICIES[name](**values)


_EXAMPLES = '"dafa", "dafa:lamb=1.5,warmup=20", "weights:cat=2", "budgets:cat=4/255" or "trix + weights:cat=2"'


def _value(key: str, text: str) -> Any:
    """Return a value as Python has it: a whole number, a number, a fraction, true or false."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text)
    except ValueError:
        pass
    try:
        numerator, slash, denominator = text.partition("/")
        return float(numerator) / float(denominator) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"`{key}` must be a number, a fraction, true or false, but got {text!r}.") from None
