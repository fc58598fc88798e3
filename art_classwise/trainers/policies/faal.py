"""FAAL: fairness-aware adversarial learning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from art_classwise._core import distributed
from art_classwise.errors import InputError, check_number
from art_classwise.trainers.policies.policy import (
    Array,
    ClassMeans,
    ClassPolicy,
    ClassWeights,
    PolicyContext,
    as_float64,
    as_given,
    sum_by_class,
)

__all__ = ["FAAL", "faal_probabilities"]


def faal_probabilities(margins: Array, radius: float = 0.5) -> Any:
    """Return the p of the simplex with the largest sum_c p_c m_c where KL(U || p) <= radius (Zhang et al. 2024, eq. 8).

    The Karush-Kuhn-Tucker conditions give p_c proportional to 1 / (nu - m_c) with one nu above all m_c, and
    KL(U || p) falls as nu rises: nu is found by narrowing down, to about 1e-9 of its logarithm.

    Args:
        margins: (C,) class margins, m; NaN, of a class never seen, leaves it out of p and of the uniform U.
        radius: How far p may be from the uniform distribution.

    Returns:
        (C,) float64, as ``margins`` were given; 0 for NaN.

    Raises:
        InputError: ``margins`` isn't a vector, or is empty.

    Example:
        >>> faal_probabilities([0.0, 0.0, 0.0, 0.0])
        array([0.25, 0.25, 0.25, 0.25])
    """
    m = as_float64(margins, "margins")
    if m.dim() != 1 or len(m) == 0:
        raise InputError(f"Class margins must have shape (C,), but have {tuple(m.shape)}.")
    present = ~m.isnan()
    highest = torch.where(present, m, -torch.inf).amax()
    gaps = torch.where(present, highest - m, 0.0)
    gaps = gaps / gaps.amax().clamp_min(torch.finfo(m.dtype).tiny)  # from 0 to 1: the solution doesn't change
    low, high = m.new_full((1,), -60.0), m.new_full((1,), 30.0)  # of log(nu - highest)
    steps = torch.linspace(0, 1, _POINTS, dtype=m.dtype, device=m.device)
    for _ in range(_ROUNDS):  # many points in few rounds: each operation on few numbers costs the same
        points = low + (high - low) * steps
        far = (_divergence(gaps, present, points) > radius).sum()  # how many of them lie too far from uniform
        # Indexed by tensors of one entry: one of no dimension would be read, and the host would wait.
        high, low = points[far.clamp_max(_POINTS - 1)[None]], points[(far - 1).clamp_min(0)[None]]
    return as_given(_solution(gaps, present, high)[0], margins)


_POINTS, _ROUNDS = 65, 6  # 90 / 64^6 is 1e-9


def _solution(gaps: Tensor, present: Tensor, points: Tensor) -> Tensor:
    """Return the distributions (k, C) for points (k,)."""
    odds = torch.where(present, 1 / (points.exp()[:, None] + gaps), 0.0)
    return odds / odds.sum(1, keepdim=True)


def _divergence(gaps: Tensor, present: Tensor, points: Tensor) -> Tensor:
    """Return KL(U || p) (k,) of the distributions for points (k,)."""
    n = present.sum(dtype=gaps.dtype)  # no whole number, whose logarithm would be float32
    log_p = torch.where(present, _solution(gaps, present, points), 1.0).log()
    return -n.log() - log_p.sum(1) / n


@dataclass
class FAAL(ClassPolicy):
    """FAAL: each batch weighted by the worst distribution over classes that is near the uniform one.

    Zhang, Zhang, Mu, Huang, Ruan, "Towards Fairness-Aware Adversarial Learning", CVPR 2024 (arXiv 2402.17729). A
    class's margin is the mean of max_{k != y} p_k - p_y over its attacked examples in the batch; a class absent from a
    batch keeps its margin. Weights are C :func:`faal_probabilities`. It fine-tunes a robust network, theirs for 2
    epochs with learning rate .01, .001 in the second, and weight decay 5e-4. The released code classifies attacked
    images first, then clean ones, also where the loss doesn't need these: ``passes="ac"``. It keeps the epoch that is
    best on the test images; ``fit`` chooses on validation data. Its variant of MART takes TRADES' attack, and beta 6.

    Args:
        radius: Largest divergence from the uniform distribution.
        exact: Follow the released code to the letter: what p makes largest is the sum of p_y m_y over the batch's
            examples, sum_c n_c p_c m_c with n_c of class c, in which absent classes count 0; and the adversarial weight
            perturbation (``awp_gamma``) goes along the gradient of the unweighted objective, while weights follow from
            the predictions under it. Without, n_c is left out, and both gradients have the weights that follow from the
            predictions before it.

    Raises:
        InputError: One of these is out of range.
    """

    radius: float = 0.5
    exact: bool = False
    _added: ClassVar[Mapping[str, Any]] = {"exact": False}

    def _check(self) -> None:
        check_number("radius", self.radius, 0, 100, above=True)
        if not isinstance(self.exact, bool):
            raise InputError(f"`exact` must be True or False, but got {self.exact!r}.")

    @property
    def weighs_perturbation(self) -> bool:
        """See :class:`ClassPolicy`."""
        return not self.exact

    def begin(self, context: PolicyContext) -> None:
        """See :class:`ClassPolicy`."""
        super().begin(context)
        self._means = ClassMeans(context.n_classes, 1, context.device)
        self._state = {"margins": self._zeros(context.n_classes) + torch.nan, "weights": self._ones()}

    def weigh(self, y: Tensor, logits_adv: Tensor) -> ClassWeights:
        """See :class:`ClassPolicy`."""
        p = logits_adv.softmax(1)
        own = p.gather(1, y[:, None])
        others = p.scatter(1, y[:, None], -1.0).amax(1, keepdim=True)
        self._means.add(y, others - own)
        margins, state = self._means.take()[:, 0], self._state
        if self.exact:
            counts = distributed.sum_(sum_by_class(y, torch.ones_like(own), len(margins))[:, 0])
            margins = torch.where(self._context.shares > 0, (counts * margins).nan_to_num(0.0), torch.nan)
        state["margins"] = torch.where(margins.isnan(), state["margins"], margins)
        present = ~state["margins"].isnan()
        state["weights"] = torch.where(present, present.sum() * faal_probabilities(state["margins"], self.radius), 1.0)
        return self._in_force()

    def _in_force(self) -> ClassWeights:
        return ClassWeights(self._state["weights"], self._state["weights"])
