"""Attacks carried over: examples from a surrogate, and the same attack on another classifier."""

from __future__ import annotations

import inspect
from dataclasses import InitVar, dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from art.attacks.attack import EvasionAttack
from art.estimators.classification.classifier import ClassifierMixin
from art.estimators.estimator import BaseEstimator

from art_classwise._core.arrays import as_array
from art_classwise._core.labels import LabelRole, label_role
from art_classwise.attacks._base import Parameters
from art_classwise.errors import InputError, first_line

__all__ = ["TransferAttack", "rebind"]


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
            f"The {type(attack).__name__} can't be created for another classifier ({first_line(error)}): "
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


@dataclass(eq=False, repr=False)
class TransferAttack(Parameters):
    """Attack a surrogate, and hand what comes of it to the model (Papernot et al. 2016, arXiv 1605.07277).

    A black-box attack: the model is never asked for a gradient.

    Args:
        estimator: The ART classifier under attack.
        attack: An ART evasion attack on the surrogate, such as ``PGD(surrogate, eps=8 / 255)``. Without early
            stop: what barely fools the surrogate seldom fools another.

    Raises:
        art.exceptions.EstimatorError: The estimator is no classifier.
        InputError: ``attack`` is no evasion attack, or the surrogate takes other images or has other classes.
    """

    kind: ClassVar[str] = "TransferAttack"
    _estimator_requirements = (BaseEstimator, ClassifierMixin)

    estimator: InitVar[Any] = field()  # without one, ART's property would be its default
    attack: Any = field()

    def __post_init__(self, estimator: Any) -> None:
        self._start(estimator)
        self._check_params()

    @property
    def uses_example_ids(self) -> bool:
        """Whether :meth:`generate` takes ``example_ids``: where the surrogate's attack does."""
        return getattr(self.attack, "uses_example_ids", False)

    def generate(
        self, x: npt.NDArray[Any], y: npt.NDArray[Any] | None = None, **kwargs: Any
    ) -> npt.NDArray[np.float32]:
        """Return the surrogate's adversarial examples, clipped to the model's ``clip_values``.

        Args:
            x: (n, ...) examples.
            y: Labels, as the surrogate's attack takes them. If absent, what the model takes x for.
            **kwargs: Passed on to the surrogate's attack.

        Returns:
            float32, of the shape of x.
        """
        images = as_array(x, "x").astype(np.float32)
        if y is None and not self.targeted:
            y = self.estimator.predict(images).argmax(1)
        x_adv = np.asarray(self.attack.generate(images, y, **kwargs), dtype=np.float32)
        return x_adv if self.estimator.clip_values is None else np.clip(x_adv, *self.estimator.clip_values)

    @property
    def targeted(self) -> bool:
        """Whether the surrogate's attack takes y for targets."""
        return label_role(self.attack) is LabelRole.TARGET

    @property
    def zero_gradient(self) -> npt.NDArray[np.bool_]:
        """What the surrogate's attack says of its gradients, (n,) bool; empty if it says nothing."""
        return np.asarray(getattr(self.attack, "zero_gradient", []), dtype=bool)

    def _check_params(self) -> None:
        super()._check_params()
        if not isinstance(self.attack, EvasionAttack):
            raise InputError(
                "`attack` must be an ART evasion attack on the surrogate, such as PGD(surrogate, eps=8 / 255), "
                f"but got {self.attack!r}."
            )
        surrogate = self.attack.estimator
        shapes = tuple(surrogate.input_shape), tuple(self.estimator.input_shape)
        counts = surrogate.nb_classes, self.estimator.nb_classes
        for what, (theirs, ours) in (("images of shape", shapes), ("classes:", counts)):
            if theirs != ours:
                raise InputError(f"The surrogate has {what} {theirs}, but the model {ours}.")
