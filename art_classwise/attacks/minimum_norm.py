"""The smallest perturbation that changes an example's class: the Fast Minimum-Norm attack."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, InitVar, dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from art_classwise import losses
from art_classwise._core.art_interface import check_logits
from art_classwise._core.options import number, option, optional, positive, whole
from art_classwise._core.progress import progress
from art_classwise._core.state import evaluating, float32, frozen, preserved
from art_classwise.attacks._base import TensorAttack, check_norm
from art_classwise.attacks._problem import Problem, check_finite, warn_of_zero_gradients
from art_classwise.attacks.fast_copy import Compile, Precision, check_compile, check_precision
from art_classwise.attacks.search import input_gradient, is_degenerate, not_finite
from art_classwise.attacks.target_order import malt_order
from art_classwise.errors import InputError, check_flag
from art_classwise.threat import ThreatModel, dual_norm, per_example

__all__ = ["MinimumNormAttack"]

_LAST_STEP, _LAST_GAMMA = 0.01, 0.001
_FAR = 1e9  # where there is no box: an infinite step along a gradient of zero would be NaN
_TINY = torch.finfo(torch.float32).tiny

_OUTWARD = (1.0003, 1.001, 1.003, 1.01, 1.03)
"""By how much a perturbation is scaled up, at first, where the network itself denies what the fast copy claims."""


@dataclass(eq=False, repr=False)
class MinimumNormAttack(TensorAttack):
    """The Fast Minimum-Norm attack, FMN (Pintor et al. 2021, arXiv 2102.12827, Algorithm 1).

    It looks for the smallest perturbation that changes each example's class, so that one run tells robust accuracy at
    every radius: an example is broken at eps if its ``distance`` is at most eps. Each step ascends the margin
    along its gradient and projects onto a ball around x whose radius adapts: until the example is misclassified for the
    first time, it is the distance of the boundary to first order, and 0.1 % more, since rounding decides on which side
    of a boundary a point on it lies; then it shrinks by a factor of 1 - gamma where the
    example is misclassified, and grows by 1 + gamma where it isn't. Steps and gamma fall on a cosine. The projection is
    onto ball and box together (L2: as :meth:`art_classwise.ThreatModel.project`), where the paper's clips to the
    box what it has projected onto the ball. The paper's steps have an L2 length that suits one network and not another
    (``eps_step``); without one, a step is a share of the ball's radius, half of it at first, and for Linf it goes along
    the gradient's sign. On the MNIST network of TRADES the paper's steps lead 45 % further away than that.

    A distance is an upper bound of the true one, as the robust accuracy that any attack measures is.

    Args:
        estimator: An ART ``PyTorchClassifier`` that returns logits.
        norm: ``np.inf``, 2 or 1: in which the perturbation is small.
        eps: The largest perturbation to look for, in the units of x; None for any within the box.
        max_iter: Number of points that are looked at, at least 2: the first is x itself.
        targeted: Whether ``y`` names the classes to move into.
        eps_step: L2 length of the first step in every norm, as a multiple of the range of a pixel, the paper's alpha;
            if absent, half the radius of the ball at each step. The last step is a hundredth of the first.
        gamma: By how much the radius changes at first, as a share of it; at last by 0.001.
        targets: Also walk towards so many classes, those whose boundary is nearest to first order (MALT's order, see
            :class:`art_classwise.ClassWiseAttack`), and keep the nearest point of all. Each costs as much as the attack
            itself, which goes to the likeliest class; 0, as published, is none.
        batch_size: Examples attacked at once.
        precision: As for :class:`art_classwise.attacks.SearchAttack`; a distance is that of a point which the network
            itself misclassifies in float32.
        compile: As for :class:`art_classwise.attacks.SearchAttack`.
        verbose: Show a progress bar.

    Attributes:
        distance: (n,) float32, once it has run: the norm of each perturbation; 0 where the model is wrong without one,
            infinite where none was found.
        zero_gradient: (n,) bool, once it has run: whether the gradient was all zero or not finite in any step in which
            the example wasn't misclassified.

    Raises:
        art.exceptions.EstimatorError: The estimator isn't a PyTorch classifier with loss gradients.
        InputError: A parameter is out of range.
    """

    kind: ClassVar[str] = "MinimumNormAttack"
    measures_distance: ClassVar[bool] = True
    """Audits note how far away its points are, beyond their radius, too."""

    estimator: InitVar[Any] = field()  # without one, ART's property would be its default
    norm: float | str = option(np.inf, check_norm)
    eps: float | None = option(None, optional(positive()))
    max_iter: int = option(100, whole(2))
    _: KW_ONLY
    targeted: bool = option(False, check_flag)
    eps_step: float | None = option(None, optional(positive()))
    gamma: float = option(0.05, number(0, 1, above=True, below=True))
    targets: int = option(0, whole(0))
    batch_size: int = option(128, whole(1))
    precision: Precision = option("auto", check_precision)
    compile: Compile = option(False, check_compile)
    verbose: bool = option(True, check_flag)

    @property
    def redundant_params(self) -> frozenset[str]:
        """See :class:`art_classwise.attacks._base.Parameters`."""
        return frozenset({"targets"} if self.targets == 0 else ())

    def __post_init__(self, estimator: Any) -> None:
        self._start(estimator)
        self.zero_gradient: npt.NDArray[np.bool_] = np.zeros(0, dtype=bool)
        self.distance: npt.NDArray[np.float32] = np.zeros(0, dtype=np.float32)
        self._check_params()

    @property
    def threat(self) -> ThreatModel:
        """The norm, and as radius the largest perturbation to look for; the whole box if there is no limit."""
        if self.eps is not None:
            return ThreatModel.from_art(self.norm, self.eps)
        whole = ThreatModel.from_art(self.norm, 1.0)
        radius = whole.diameter(self._width(), math.prod(self.estimator.input_shape))
        return ThreatModel(whole.norm, radius)

    @property
    def _largest(self) -> float:
        """The largest perturbation there can be: without a box, and if none is asked for, any."""
        return _FAR if self.eps is None and self.estimator.clip_values is None else self.threat.eps

    @property
    def _asked_radius(self) -> ThreatModel | None:
        return None if self.eps is None else self.threat

    def _check_params(self) -> None:
        super()._check_params()
        if self.targeted and self.targets:
            raise InputError(
                "`targets` is for attacks without a target: a targeted one walks towards the class that `y` names."
            )

    def _width(self) -> float:
        """Return the range of a pixel; 1 where there are no ``clip_values``."""
        if self.estimator.clip_values is None:
            return 1.0
        low, high = self.estimator.clip_values
        return float(np.max(np.asarray(high) - np.asarray(low)))

    def generate(
        self, x: npt.NDArray[Any], y: npt.NDArray[Any] | None = None, **kwargs: Any
    ) -> npt.NDArray[np.float32]:
        """Return for each example the nearest point found that the model misclassifies.

        It is x itself where the model is wrong without a perturbation, and where none was found: see ``distance``.

        Args:
            x: (n, ...) examples within the estimator's ``clip_values``.
            y: True labels, or target labels if ``targeted``: indices (n,) or one-hot (n, C). If absent, an
                untargeted attack moves away from the model's own predictions.
            **kwargs: ``mask``, broadcastable to x: where it is 0 an example stays as it is. ``example_ids``, (n,) ints,
                which messages name.

        Returns:
            float32, of the shape of x.

        Raises:
            InputError: Labels are missing for a targeted attack, or out of range, or of another length; x is
                empty, not finite or outside ``clip_values``; the mask doesn't broadcast; or the model doesn't return
                finite logits (n, C).
        """
        problem = self._problem(x, y, kwargs)
        if problem.labels is None and self.targeted:
            raise InputError("A targeted attack needs the target labels: generate(x, y).")
        found, n = problem.images.copy(), len(problem.images)
        self.zero_gradient = np.zeros(n, dtype=bool)
        self.distance = np.zeros(n, dtype=np.float32)
        with preserved(self.estimator.model):
            labels, solved = self._without_attack(problem)
            left = np.flatnonzero(~solved)
            begins = range(0, len(left), self.batch_size)
            for begin in progress(begins, desc=type(self).__name__, leave=False, shown=self.verbose):
                rows = left[begin : begin + self.batch_size]
                batch = problem.on_device(rows)
                best = self._nearest(problem, rows, batch, torch.from_numpy(labels[rows]).to(problem.device))
                found[rows] = best.x_adv.cpu().numpy()
                self.distance[rows] = best.size.cpu().numpy()
                self.zero_gradient[rows] = best.zero_gradient.cpu().numpy()
        warn_of_zero_gradients(self.zero_gradient)
        return found

    def _without_attack(self, problem: Problem) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return the labels of all images (n,), and which of them need no perturbation."""
        n = len(problem.images)
        predicted = np.empty(n, dtype=np.int64)
        for begin in range(0, n, self.batch_size):
            rows = np.arange(begin, min(begin + self.batch_size, n))
            every = torch.arange(len(rows), device=problem.device)
            logits = self._exact(problem, rows, problem.on_device(rows), every)
            predicted[rows] = logits.argmax(1).cpu().numpy()
        labels = predicted if problem.labels is None else problem.labels
        return labels, (predicted == labels) if self.targeted else (predicted != labels)

    def _nearest(self, problem: Problem, rows: npt.NDArray[np.intp], x: Tensor, y: Tensor) -> _Best:
        """Return the nearest points to x (m, ...), these rows of the images, that the network itself misclassifies."""
        mask = None if problem.mask is None else problem.on_device(rows, problem.mask)

        def run(module: nn.Module, these: Tensor) -> _Best:
            held = None if mask is None else mask[these] == 0
            of = (module, problem, rows[these.cpu().numpy()], x[these], y[these], held)
            best = self._walk(*of)
            for target in self._targets(problem, x[these], y[these]):
                best.keep_nearer(self._walk(*of, target))
            return best

        best = run(problem.fast, torch.arange(len(x), device=x.device))
        denied = self._denied(problem, rows, x, y, best)
        if len(denied) and problem.fast is not problem.exact:
            with float32(x.device.type):
                again = run(problem.exact, denied)
            best.put(denied, again)
            denied = self._denied(problem, rows, x, y, best)
        best.x_adv[denied], best.size[denied] = x[denied], torch.inf
        lost = (~best.size.isfinite()).nonzero()[:, 0]
        best.x_adv[lost] = x[lost]
        return best

    def _targets(self, problem: Problem, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """Return the classes to walk towards, one (m,) after the other."""
        k = min(self.targets, problem.n_classes - 1)
        if k == 0:
            return ()

        def check(logits: Tensor) -> Tensor:
            return check_logits(logits, len(x), problem.n_classes)

        return malt_order(problem.exact, x, y, self.threat.norm, check)[:, :k].unbind(1)

    def _denied(self, problem: Problem, rows: npt.NDArray[np.intp], x: Tensor, y: Tensor, best: _Best) -> Tensor:
        """Return whose points the network itself denies, a little further away, too; move the others there."""
        (left,) = best.size.isfinite().nonzero(as_tuple=True)  # the host waits, once per batch
        left = left[~self._hits(self._exact(problem, rows, best.x_adv, left), y[left])]
        delta = best.x_adv[left] - x[left]
        for factor in _OUTWARD:
            if len(left) == 0:
                break
            radii = per_example(x.new_full((len(left),), self._largest), x)
            points = self.threat.project(x[left] + factor * delta, x[left], problem.low, problem.high, radii)
            hit = self._hits(self._exact(problem, rows[left.cpu().numpy()], points, _every(points)), y[left])
            best.x_adv[left[hit]] = points[hit]
            best.size[left[hit]] = self.threat.size(points[hit] - x[left[hit]])
            left, delta = left[~hit], delta[~hit]
        return left

    def _hits(self, logits: Tensor, y: Tensor) -> Tensor:
        hit = logits.argmax(1) == y
        return hit if self.targeted else ~hit

    def _walk(
        self,
        module: nn.Module,
        problem: Problem,
        rows: npt.NDArray[np.intp],
        x: Tensor,
        y: Tensor,
        held: Tensor | None,
        towards: Tensor | None = None,
    ) -> _Best:
        """Run Algorithm 1 on a module from x (m, ...), whose entries ``held`` (m, ...) stay as they are.

        With ``towards`` (m,), it ascends the logits of these classes less that of the label, whatever class is reached.
        """
        threat, low, high, width = self.threat, problem.low, problem.high, self._width()
        limit = self._largest
        sign = -1 if self.targeted else 1
        best, best_size = x.clone(), torch.full((len(x),), torch.inf, device=x.device)
        eps = best_size.clone()
        zero_gradient, no_logits = torch.zeros(2, len(x), dtype=torch.bool, device=x.device)
        x_adv = x
        with evaluating(module), frozen(module):
            for step in range(self.max_iter):
                share = (1 + math.cos(math.pi * step / self.max_iter)) / 2
                gamma = _LAST_GAMMA + (self.gamma - _LAST_GAMMA) * share
                with torch.enable_grad():
                    x_adv = x_adv.detach().requires_grad_()
                    logits = check_logits(module(x_adv), len(x), problem.n_classes)
                    if towards is None:
                        margin = sign * losses.margin(logits, y)
                    else:
                        margin = (logits.gather(1, towards[:, None]) - logits.gather(1, y[:, None]))[:, 0]
                    gradient = input_gradient(margin.sum(), x_adv)
                with torch.no_grad():
                    x_adv, margin = x_adv.detach(), margin.detach()
                    no_logits |= not_finite(logits)
                    hit, size = self._hits(logits, y), threat.size(x_adv - x)
                    zero_gradient |= is_degenerate(gradient) & ~hit
                    gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
                    if held is not None:
                        gradient = torch.where(held, 0.0, gradient)
                    nearer = hit & (size < best_size)
                    torch.where(per_example(nearer, x), x_adv, best, out=best)
                    best_size = torch.where(nearer, size, best_size)
                    # Scaled by the largest entry: squares of gradients below 1e-23 vanish in float32.
                    largest = gradient.flatten(1).abs().amax(1).clamp_min(_TINY)
                    way = gradient / per_example(largest, x)
                    slope = (largest * dual_norm(way, threat.norm)).clamp_min(_TINY)
                    inside = torch.where(
                        best_size.isfinite(), eps * (1 + gamma), (1 + _LAST_GAMMA) * (size - margin / slope)
                    )
                    eps = torch.where(hit, torch.minimum(eps * (1 - gamma), best_size), inside).clamp_max(limit)
                    if threat.norm == "Linf" and self.eps_step is None:
                        way.sign_()
                    else:
                        flat = way.flatten(1)
                        way /= per_example(torch.linalg.vector_norm(flat, dim=1).clamp_min(0.5), x)  # 0, or >= 1
                    length = eps / 2 if self.eps_step is None else torch.full_like(eps, width * self.eps_step)
                    moved = way.mul_(per_example(length * (_LAST_STEP + (1 - _LAST_STEP) * share), x)).add_(x_adv)
                    out = None if threat.norm == "L1" else moved
                    x_adv = threat.project(moved, x, low, high, per_example(eps, x), out=out)
        check_finite(no_logits, problem.ids[rows])
        return _Best(best, best_size, zero_gradient)


class _Best(NamedTuple):
    """The nearest points found (m, ...), their distance (m,), infinite for none, and who met a zero gradient (m,)."""

    x_adv: Tensor
    size: Tensor
    zero_gradient: Tensor

    def keep_nearer(self, others: _Best) -> None:
        """Take the points of another walk where they are nearer."""
        nearer = others.size < self.size
        self.x_adv[nearer], self.size[nearer] = others.x_adv[nearer], others.size[nearer]
        self.zero_gradient[:] |= others.zero_gradient

    def put(self, rows: Tensor, others: _Best) -> None:
        """Replace rows."""
        self.x_adv[rows], self.size[rows] = others.x_adv, others.size
        self.zero_gradient[rows] |= others.zero_gradient


def _every(points: Tensor) -> Tensor:
    return torch.arange(len(points), device=points.device)
