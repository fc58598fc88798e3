"""CFOL: class focused online learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from art_classwise._core import distributed
from art_classwise.errors import check_number
from art_classwise.trainers.policies.policy import (
    Array,
    ClassPolicy,
    ClassWeights,
    PolicyContext,
    as_float64,
    as_given,
    sum_by_class,
)

__all__ = ["CFOL", "cfol_probabilities", "cfol_scores"]


def cfol_probabilities(scores: Array, gamma: float = 0.5) -> Any:
    """Return Exp3's distribution over classes, gamma / C + (1 - gamma) softmax(w) (Pethick et al. 2023, algorithm 1).

    Args:
        scores: (C,) w; -inf leaves a class out.
        gamma: Share of the uniform distribution.

    Returns:
        (C,) float64, as ``scores`` were given.

    Example:
        >>> cfol_probabilities([0.0, 0.0])
        array([0.5, 0.5])
    """
    w = as_float64(scores, "scores")
    present = ~w.isneginf()
    return as_given(torch.where(present, gamma / present.sum(dtype=w.dtype) + (1 - gamma) * w.softmax(0), 0.0), scores)


def cfol_scores(scores: Array, y: Array, losses: Array, drawn: Array, eta: float) -> Any:
    """Return Exp3's scores after examples were drawn: w_y + eta L / P(y) for each (Pethick et al. 2023, algorithm 1).

    Args:
        scores: (C,) w.
        y: (m,) the examples' classes.
        losses: (m,) their losses L, in [0, 1].
        drawn: (C,) the probabilities P that classes were drawn with.
        eta: Rate.

    Returns:
        (C,) float64, as ``scores`` were given.

    Example:
        >>> cfol_scores([0.0, 0.0], [1, 1], [1.0, 0.0], [0.5, 0.5], eta=0.1)
        array([0. , 0.2])
    """
    w, labels = as_float64(scores, "scores"), torch.as_tensor(y)
    steps = eta * as_float64(losses, "losses") / as_float64(drawn, "drawn")[labels]
    return as_given(w + sum_by_class(labels, steps[:, None], len(w))[:, 0], scores)


@dataclass
class CFOL(ClassPolicy):
    """CFOL: the Exp3 algorithm over classes, by the attack's successes while training.

    Pethick, Chrysos, Cevher, "Revisiting adversarial training for the worst-performing class", TMLR 2023 (arXiv
    2302.08872). They draw classes from :func:`cfol_probabilities`; here examples are weighted by C p_y, which has the
    same expectation where classes come equally often, and which their code has as a switch
    (``class_sampler_reweight``), with classes drawn evenly: the trainer's option ``class_balanced``. Without it
    examples come as they are in the data. P(y) in :func:`cfol_scores` is accordingly 1 / C, or the class's share of
    the training examples (equal shares, where a generator gives them). The loss is 1 where the attack
    succeeds, else 0. They train on attacked images alone, and hold out 20 % of the training images. Their attack takes
    7 steps of .00797 in a radius of .031, in eval mode, and keeps the best iterate; here it is the last one.

    Args:
        eta: Rate per example. The released code has three: 5e-6 where it generates the paper's runs, 1e-5 in its
            configuration, 1e-7 in its README. 2e-6 lies between. The largest score is about eta times the number of
            examples seen, 15 after 150 epochs of 50,000: enough for the distribution to single out classes. With
            fewer examples in all it must be larger by as much.
        gamma: Share of the uniform distribution.

    Raises:
        InputError: A number is out of range.
    """

    eta: float = 2e-6
    gamma: float = 0.5

    def _check(self) -> None:
        check_number("eta", self.eta, 0, 1000, above=True)
        check_number("gamma", self.gamma, 0, 1)

    def begin(self, context: PolicyContext) -> None:
        """See :class:`ClassPolicy`."""
        super().begin(context)
        self._drawn = context.shares.to(torch.float64)
        scores = torch.where(self._drawn > 0, self._zeros(context.n_classes), -torch.inf)
        self._state = {"scores": scores, "weights": self._weights(scores)}

    def weigh(self, y: Tensor, logits_adv: Tensor) -> ClassWeights:
        """See :class:`ClassPolicy`."""
        scores = self._state["scores"]
        self._state["weights"] = self._weights(scores)  # these examples were drawn before they are known
        wrong = logits_adv.argmax(1) != y
        zero = torch.zeros_like(scores)
        gained: Tensor = distributed.sum_(cfol_scores(zero, y, wrong, self._drawn, self.eta))
        self._state["scores"] = scores + gained
        return self._in_force()

    def _weights(self, scores: Tensor) -> Tensor:
        present = ~scores.isneginf()
        return torch.where(present, present.sum() * cfol_probabilities(scores, self.gamma), 1.0)

    def _in_force(self) -> ClassWeights:
        return ClassWeights(self._state["weights"], self._state["weights"])
