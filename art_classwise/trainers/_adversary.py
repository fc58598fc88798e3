"""The attack inside training."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from art_classwise import losses
from art_classwise._state import evaluating, preserved
from art_classwise.attacks._random import gaussian
from art_classwise.attacks._search import search
from art_classwise.errors import InputError
from art_classwise.threat import ThreatModel, Uniform, per_example

__all__ = ["Adversary", "ArtAdversary", "Attacked", "InnerSearch"]

Attacked = Literal["all", "correct", "misclassified"]


class Adversary(Protocol):
    """What makes the adversarial inputs of a batch."""

    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, uniform: Uniform) -> Tensor:
        """Return adversarial inputs (m, ...).

        Args:
            module: Maps images to logits; it is as before afterwards.
            x: (m, ...) images.
            y: (m,) labels.
            uniform: Draws uniform numbers that belong to the examples.
        """


@dataclass(frozen=True)
class InnerSearch:
    """Projected gradient ascent, in eval mode and with frozen weights, on the device.

    Attributes:
        threat: Norm and radius.
        eps_step: Length of a step.
        max_iter: Number of steps.
        low: Lower bound of the box of images.
        high: Upper bound of the box of images.
        start: ``"uniform"`` in the ball (Madry et al. 2018) or ``"gaussian"``, x + 0.001 N(0, 1) (TRADES, MART).
        loss: What is ascended: ``"cross_entropy"``, or ``"kl"``, the divergence from the clean prediction (TRADES).
        attacked: Which examples: all, or those that the network gets right, or wrong; the others stay as they are.
    """

    threat: ThreatModel
    eps_step: float
    max_iter: int
    low: Tensor
    high: Tensor
    start: Literal["uniform", "gaussian"] = "uniform"
    loss: Literal["cross_entropy", "kl"] = "cross_entropy"
    attacked: Attacked = "all"

    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, uniform: Uniform) -> Tensor:
        """See :class:`Adversary`."""
        if self.start == "uniform":
            start = self.threat.random_start(x, uniform)
        else:
            start = x + 0.001 * gaussian(uniform, *x.shape)
        compared, clean = y, None
        if self.loss == "kl" or self.attacked != "all":
            with torch.no_grad(), evaluating(module):
                clean = module(x)
        if self.loss == "kl" and clean is not None:
            compared = clean
        x_adv = search(
            module,
            x,
            compared,
            self.threat,
            _from_clean if self.loss == "kl" else losses.cross_entropy,
            eps_step=self.eps_step,
            max_iter=self.max_iter,
            low=self.low,
            high=self.high,
            start=start,
        ).x_adv
        if clean is None or self.attacked == "all":
            return x_adv
        chosen = (clean.argmax(1) == y) == (self.attacked == "correct")
        return torch.where(per_example(chosen, x), x_adv, x)


def _from_clean(logits: Tensor, clean: Tensor) -> Tensor:
    return losses.kl(clean, logits)


@dataclass(frozen=True)
class ArtAdversary:
    """Any evasion attack of ART, by way of arrays on the CPU.

    Attributes:
        attack: The attack, on the classifier that is trained.
        n_classes: Number of classes.
    """

    attack: Any
    n_classes: int

    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, uniform: Uniform) -> Tensor:
        """See :class:`Adversary`. The attack draws from the global random state."""
        model = self.attack.estimator.model  # what it attacks, whatever the module is
        one_hot = np.eye(self.n_classes, dtype=np.float32)[y.cpu().numpy()]
        quiet = patch.object(self.attack, "verbose", False) if hasattr(self.attack, "verbose") else nullcontext()
        with preserved(model), evaluating(model), quiet:  # a bar of its own for each batch would drown the training's
            x_adv = np.asarray(self.attack.generate(x.cpu().numpy(), one_hot), dtype=np.float32)
        if x_adv.shape != x.shape:
            raise InputError(
                f"The {type(self.attack).__name__} returned images of shape {x_adv.shape} for images of shape "
                f"{tuple(x.shape)}: training needs one adversarial input for each."
            )
        return torch.from_numpy(x_adv).to(x.device)
