"""What a classifier's own loss asks of a training, whose objective is the trainer's."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from art_classwise.errors import InputError
from art_classwise.trainers.policies import Fixed, Scene

__all__ = ["LossWeights", "loss_options"]

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
