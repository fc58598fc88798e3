"""Options of a training method that have no option of the command of their own: --option NAME=VALUE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from art_classwise.errors import InputError, unknown
from art_classwise.trainers.catalog import METHODS, method_spec

if TYPE_CHECKING:
    from art_classwise.trainers.recipes import Recipe

__all__ = ["NAMES", "check_options", "method_options"]

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


def check_options(recipe: Recipe, own: Mapping[str, Any]) -> None:
    """Check the values of a trainer's options, before data are read: a trainer of two pixels and two classes does it.

    Args:
        recipe: The recipe, with all that was given besides.
        own: What :func:`method_options` returned.

    Raises:
        InputError: A value isn't allowed, or doesn't fit another.
    """
    from torch import nn

    from art_classwise._core.state import preserved_random_state
    from art_classwise.zoo import as_classifier

    spec = method_spec(recipe.method)
    with preserved_random_state(0):  # that of the training is as if these had never been
        network, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(2, 2)) for _ in range(2))
    classifier = as_classifier(network, (1, 1, 2), 2, optimizer=recipe.optimizer(network), device="cpu")
    given: dict[str, Any] = recipe.override(precision="fp32", compile=False).trainer_options(network) | {
        "gradient_clip": recipe.gradient_clip,
        "ema_decay": recipe.ema_decay,
        "awp_gamma": recipe.awp_gamma,
        "class_policy": None,  # of other classes
        "verbose": False,
    }
    if "teacher" in spec.options:
        given["teacher"] = as_classifier(teacher, (1, 1, 2), 2, device="cpu")
    given |= {} if spec.method is None else {"method": spec.method}
    spec.trainer(classifier, **given | dict(own))
