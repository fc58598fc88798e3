"""What a classifier's own loss asks of a training, whose objective is the trainer's."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from art_classwise import losses
from art_classwise.attacks.fast_copy import Precision
from art_classwise.errors import InputError
from art_classwise.trainers._adversary import Adversary
from art_classwise.trainers.policies import ClassWeights, Fixed, Scene

__all__ = ["LossWeights", "Objective", "PassOrder", "Settings", "Terms", "loss_options", "natural_terms"]

# Losses that are the cross-entropy: of logits, or of log-probabilities, for which it is the same.
_CROSS_ENTROPIES = (nn.CrossEntropyLoss, nn.NLLLoss)
_FUNCTIONS = (nn.functional.cross_entropy, nn.functional.nll_loss)


@dataclass
class LossWeights(Fixed):
    """Class weights of ``torch.nn.CrossEntropyLoss(weight=...)``: their mean over the training examples is 1.

    Torch divides by the sum of the weights of a batch; here it is that of the training examples, so that no batch
    counts more than another.
    """

    def begin(self, scene: Scene) -> None:
        """See :class:`art_classwise.policies.ClassPolicy`."""
        super().begin(scene)
        weights = self._state["weights"]
        self._state["weights"] = weights / (weights * scene.shares.to(weights)).sum()

    def describe(self) -> dict[str, Any]:
        """See :class:`art_classwise.policies.ClassPolicy`."""
        return {**super().describe(), "name": "weights of the loss"}


def loss_options(loss: Any, n_classes: int) -> tuple[LossWeights | None, float]:
    """Return the class weights and the label smoothing that a classifier's loss has.

    Args:
        loss: What the classifier was made with, or nothing.
        n_classes: Number of classes.

    Raises:
        InputError: It is another loss, or it has options that trainers don't follow.
    """
    if loss is None or loss in _FUNCTIONS:
        return None, 0.0
    if type(loss) not in _CROSS_ENTROPIES:
        name = getattr(loss, "__name__", type(loss).__name__)
        raise InputError(
            f"The classifier's loss is {name}, which trainers would not descend: each has an objective of its own, "
            "made of cross-entropies and divergences. Make the classifier with loss=torch.nn.CrossEntropyLoss(), and "
            "choose the trainer for its objective."
        )
    if 0 <= loss.ignore_index < n_classes:
        raise InputError(
            f"The classifier's loss leaves out class {loss.ignore_index} (ignore_index), which trainers would not do: "
            "leave its examples out, or take AdversarialTrainerClassExcludedPyTorch."
        )
    if loss.reduction == "sum":
        warnings.warn(
            'The classifier\'s loss is a sum (reduction="sum"), but trainers descend the mean over the batch: for '
            "steps as long as before multiply the learning rate by the batch size.",
            stacklevel=4,
        )
    weight = loss.weight
    even = weight is None or bool((weight == weight[0]).all())  # of which torch's mean is that without weights
    if weight is not None and (weight.shape != (n_classes,) or (even and not float(weight[0]) > 0)):
        raise InputError(
            f"The weights of the classifier's loss must be {n_classes} numbers, one per class and not all 0, but are "
            f"{weight.tolist()}."
        )
    weights = None if even else LossWeights(weights=weight.detach().to("cpu", torch.float64).tolist())
    return weights, float(getattr(loss, "label_smoothing", 0.0))


Terms = Callable[[Tensor | None, Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""Logits or None, logits under attack, labels -> the two terms of a loss, (n,) each, of which one may be missing."""


def natural_terms(label_smoothing: float = 0.0) -> Terms:
    """Return the terms of natural training: cross-entropy on clean images alone."""

    def terms(logits: Tensor | None, logits_adv: Tensor, y: Tensor) -> tuple[Tensor, None]:
        assert logits is not None
        return losses.cross_entropy(logits, y, label_smoothing), None

    return terms


class PassOrder(NamedTuple):
    """The forward passes of a step in train mode, by the letters of the views.

    Of a view that is classified again, or that the objective doesn't need, batch norm alone takes notice.

    Attributes:
        before: Those before the optimizer's step.
        after: Those after it.
    """

    before: str
    after: str = ""


@dataclass(frozen=True)
class Objective:
    """What training descends: the first term plus beta times the second.

    Attributes:
        terms: The two terms.
        beta: Factor of the second; None where there is none.
        uses_clean: Whether the terms need the clean logits.
        adversary: The attack; None for natural training, whose logits "under attack" are the clean ones.
        n_views: How many adversarial inputs the attack returns for an image; those of the first view come first.
        two_passes: Whether clean and adversarial images are forward passes of their own, so that batch norm sees two
            batches, as in most published implementations; else one pass, of all.
        views: A letter for each view: c, the clean images, and those under attack, in the order in which the attack
            returns them.
        passes: The forward passes one by one, by these letters: see :class:`PassOrder`. None leaves it to
            ``two_passes``.
    """

    terms: Terms
    beta: float | None
    uses_clean: bool
    adversary: Adversary | None
    n_views: int = 1
    two_passes: bool = False
    views: str = "ca"
    passes: PassOrder | None = None

    def values(self, logits: Tensor | None, logits_adv: Tensor, y: Tensor, weights: ClassWeights) -> Tensor:
        """Return the objective of each example (n,), class weights included."""
        first, second = self.terms(logits, logits_adv, y)
        if weights.first is not None:
            first = weights.first[y].to(first.dtype) * first
        if second is None:
            return first
        if weights.second is not None:
            second = weights.second[y].to(second.dtype) * second
        return first + (self.beta or 0.0) * second


@dataclass(frozen=True)
class Settings:
    """How to train, whatever the objective: see :class:`art_classwise.trainers.SearchTrainer`."""

    gradient_clip: float | None = None
    ema_decay: float | None = None
    awp_gamma: float = 0.0
    awp_warmup: int = 0
    precision: Precision = "auto"
    compile: bool = False
    seed: int = 0
    attack_mode: Literal["eval", "train"] = "eval"
