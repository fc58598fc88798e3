"""Options of a training method that have no option of the command of their own: --option NAME=VALUE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from art_classwise.errors import InputError, unknown
from art_classwise.trainers.catalog import METHODS, method_spec

__all__ = ["NAMES", "method_options"]

_SHARED = (
    *("attack_mode", "awp_warmup", "class_balanced", "crop_padding", "eps_step"),
    *("flip", "friendly_tau", "label_smoothing", "passes", "two_passes"),
)
_ELSEWHERE = {  # what is written otherwise
    "nb_epochs": "give --epochs",
    "batch_size": "give --batch-size",
    "teacher": "give --teacher",
    "on_collapse": "give --on-collapse",
    "method": "name it in place of the trainer, as in train ard",
}

NAMES = tuple(
    dict.fromkeys(name for spec in METHODS.values() for name in (*spec.options, *_SHARED) if name not in _ELSEWHERE)
)
"""All that --option may name, for one method or another."""


def method_options(given: Sequence[str], method: str) -> dict[str, Any]:
    """Read ``NAME=VALUE`` for each of a trainer's options.

    Args:
        given: As they were written.
        method: A name of ``METHODS``.

    Returns:
        Options for the trainer, which checks them: true and false, whole numbers, numbers, fractions, else text.

    Raises:
        InputError: One isn't written so, is given twice, or is no option of the method.

    Example:
        >>> method_options(["weighted=misclassified", "eps_step=2/255", "exact=true"], "mart")
        {'weighted': 'misclassified', 'eps_step': 0.00784313725490196, 'exact': True}
    """
    own = [*method_spec(method).options, *_SHARED]
    options: dict[str, Any] = {}
    for text in given:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise InputError(f"--option is written NAME=VALUE, such as weighted=misclassified, but got {text!r}.")
        name = name.replace("-", "_")
        if name in _ELSEWHERE:
            raise InputError(f"--option {text}: {_ELSEWHERE[name]}.")
        if name not in own:
            raise unknown(f"option of {method}", name, [n for n in own if n not in _ELSEWHERE])
        if name in options:
            raise InputError(f"--option {name} is given twice: give it once.")
        options[name] = _value(value)
    return options


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return int(text)
    except ValueError:
        pass
    numerator, slash, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        return text
