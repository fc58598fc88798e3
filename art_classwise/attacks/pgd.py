"""Projected gradient descent on a loss: what such attacks share, a choice of losses, temperature-scaled logits."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from art_classwise import losses
from art_classwise._core import art_interface
from art_classwise._core.art_interface import check_logits
from art_classwise._core.options import number, option, positive
from art_classwise._core.progress import progress
from art_classwise._core.random_numbers import ExampleUniform, derive
from art_classwise._core.state import preserved
from art_classwise.attacks._base import SearchAttack
from art_classwise.attacks._problem import Candidates, Problem, check_finite, to_host, warn_of_zero_gradients
from art_classwise.attacks.search import Solved, of_rows, search
from art_classwise.errors import InputError, check_flag, unknown
from art_classwise.threat import per_example

__all__ = ["LOSSES", "PGD", "LossAttack", "TemperaturePGD"]

_TINY = float(np.finfo(np.float32).tiny)
_BATCHES_TOGETHER = 8  # whose images lie on the device together, where the few that withstand are to fill batches


@dataclass(eq=False, repr=False, kw_only=True)
class LossAttack(SearchAttack):
    """One search per restart, ascending a loss of the labels, which a subclass names.

    Args:
        targeted: Whether ``y`` names the classes to move into.
        early_stop: Let an example leave once it succeeds: quicker, for verdicts; not for training or transfer.
    """

    targeted: bool = option(False, check_flag)
    early_stop: bool = option(False, check_flag)

    def _check_params(self) -> None:
        super()._check_params()
        if self.targeted and (isinstance(self.eps, Mapping) or isinstance(self.eps_step, Mapping)):
            raise InputError(
                "Budgets by class refer to the true labels, which a targeted attack isn't given: "
                "give an array with one number per example."
            )

    @property
    def _makes_room(self) -> bool:
        """Whether examples that are done leave their place to others; a summary writer is told of batches."""
        return self.early_stop and self.summary_writer is None

    @abc.abstractmethod
    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return what an untargeted search ascends, (n,)."""

    def _compared(self, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
        """Return what the loss compares logits with, (n, ...): the labels, unless a subclass says otherwise."""
        return y

    def generate(
        self, x: npt.NDArray[Any], y: npt.NDArray[Any] | None = None, **kwargs: Any
    ) -> npt.NDArray[np.float32]:
        """Return adversarial examples: the last iterate, or of several restarts the most wrong one.

        With ``early_stop`` the first iterate that succeeds, x itself before all.

        Args:
            x: (n, ...) examples within the estimator's ``clip_values``.
            y: True labels, or target labels if ``targeted``: indices (n,) or one-hot (n, C). If absent, an
                untargeted attack moves away from the model's own predictions.
            **kwargs: ``mask``, broadcastable to x: where it is 0 an example stays as it is.
                ``example_ids``, (n,) ints: numbers of the examples in a larger set, for their random starts.

        Returns:
            float32, of the shape of x.

        Raises:
            InputError: Labels are missing for a targeted attack, or out of range, or of another length; x is
                empty, not finite or outside ``clip_values``; the mask or a budget doesn't broadcast; or the model
                doesn't return finite logits (n, C).
        """
        problem = self._problem(x, y, kwargs)
        if problem.labels is None and self.targeted:
            raise InputError("A targeted attack needs the target labels: generate(x, y).")
        found = np.empty_like(problem.images)
        self.zero_gradient = np.zeros(len(found), dtype=bool)
        together = self.batch_size * (_BATCHES_TOGETHER if self._makes_room else 1)
        begins = range(0, len(found), together)
        with preserved(self.estimator.model):  # ART's summary writer changes its mode
            for begin in progress(begins, desc=type(self).__name__, leave=False, shown=self.verbose):
                rows = np.arange(begin, min(begin + together, len(found)))
                batch = problem.on_device(rows)
                candidates = self._attack(problem, rows, batch, problem.label(rows, batch))
                flags = (candidates.zero_gradient, candidates.no_logits)
                found[rows], self.zero_gradient[rows], *no_logits = to_host(
                    candidates.x_adv, *(flag for flag in flags if flag is not None)
                )  # the host waits, once per batch without early stop
                if no_logits:
                    check_finite(no_logits[0], problem.ids[rows])
        if self.summary_writer is not None:
            self.summary_writer.reset()
        warn_of_zero_gradients(self.zero_gradient)
        return found

    def _attack(self, problem: Problem, rows: npt.NDArray[np.intp], x: Tensor, y: Tensor) -> Candidates:
        """Attack rows of the images, x (m, ...), away from y or towards it."""

        def ascended(logits: Tensor, compared: Tensor) -> Tensor:
            loss = self._loss(art_interface.check_logits(logits, len(compared), problem.n_classes), compared)
            return -loss if self.targeted else loss

        def solves(logits: Tensor, these: Tensor) -> Tensor:
            hit = logits.argmax(1) == of_rows(y, these)
            return hit if self.targeted else ~hit

        def wrongness(logits: Tensor, these: Tensor) -> Tensor:
            """Return what restarts compete for: above 0 if and only if the attack succeeded."""
            margin = losses.margin(logits, y[these]) * (-1 if self.targeted else 1)
            # Equal logits make a margin of 0, whichever of them the prediction is.
            return torch.where(solves(logits, these), margin.clamp_min(_TINY), margin)

        left, compared = torch.arange(len(x), device=x.device), self._compared(problem, x, y)
        best, value = x.clone(), torch.full((len(x),), -torch.inf, device=x.device)
        zero, no_logits = torch.zeros(2, len(x), dtype=torch.bool, device=x.device)
        restarts = max(1, self.num_random_init)
        solved = zero.clone()
        if self.early_stop:
            # What is wrong already stays as it is; a fast network says whose turn it is to be looked at exactly.
            claimed = left
            if problem.fast is not problem.exact:
                (claimed,) = solves(problem.quick_logits(x), left).nonzero(as_tuple=True)
            solved[claimed] = solves(self._exact(problem, rows, x, claimed), claimed)
        for restart in range(restarts):
            if self.early_stop:
                (left,) = (~solved).nonzero(as_tuple=True)  # the host waits, once per restart, to attack no others
                if len(left) == 0:
                    break
            found = self._search(
                problem,
                rows[left.cpu().numpy()] if self.early_stop else rows,
                x[left],
                y[left],
                compared[left],
                ascended,
                solved=partial(_among, solves, left),
                early_stop=self.early_stop,
                judge=restarts > 1,
                restart=restart,
            )
            zero[left] |= found.zero_gradient
            if found.no_logits is not None:
                no_logits |= found.no_logits
            if found.logits is None:
                best[left] = found.x_adv
                break
            new = wrongness(found.logits, left)
            better = new > value[left]
            best[left] = torch.where(per_example(better, x), found.x_adv, best[left])
            value[left] = torch.where(better, new, value[left])
            solved[left] = new > 0
        return Candidates(best, zero, None, no_logits)


def _among(solves: Solved, left: Tensor, logits: Tensor, these: Tensor) -> Tensor:
    """Ask for rows counted among those left."""
    return solves(logits, of_rows(left, these))


# The soft margin at temperature 1 has the cross-entropy's direction, and its gradient doesn't underflow.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": losses.soft_margin,
    "margin": losses.margin,
    "dlr": losses.dlr,
    "pma": losses.scaled_probability_margin,
    "kl": lambda logits, clean: losses.kl(clean, logits),
}


_check_decay = number(0, np.inf, below=True, words="of at least 0")


@dataclass(eq=False, repr=False, kw_only=True)
class PGD(LossAttack):
    """Projected gradient descent within a ball (Madry et al. 2018, arXiv 1706.06083).

    With ``max_iter=1``, ``eps_step=eps`` and ``num_random_init=0`` it is FGSM (Goodfellow et al. 2015). ``norm``,
    ``eps``, ``eps_step``, ``max_iter``, ``num_random_init``, ``momentum``, ``batch_size``, ``seed``, ``precision``,
    ``compile``, ``summary_writer`` and ``verbose`` are as for all searches:
    :class:`art_classwise.attacks.SearchAttack`.

    Args:
        estimator: An ART ``PyTorchClassifier`` that returns logits.
        loss: What to ascend: ``"cross_entropy"``; ``"margin"``, Carlini and Wagner's loss (CW-inf by PGD); ``"dlr"``,
            the difference of logits ratio (Croce and Hein 2020); ``"pma"``, the margin of probabilities (Xie et al.
            2024, arXiv 2411.15210); ``"kl"``, the divergence from the prediction on x
            (TRADES' inner search), whatever the labels. A targeted attack descends the loss of its target.
        targeted: Whether ``y`` names the classes to move into.
        early_stop: Let an example leave once it succeeds: quicker, for verdicts; not for training or transfer.
        decay: ART's name for ``momentum``.
        random_eps: Draw each example's radius from a normal distribution of deviation eps / 2, truncated to [0, eps],
            steps in proportion (Kurakin et al. 2017, arXiv 1611.01236): for training, not for measuring.
        minimal: The smallest of the steps ``eps_step``, 2 ``eps_step``, ... up to ``eps`` along the gradient at x that
            succeeds, for each example; the last one where none does. It is FGSM's: with ``max_iter=1`` and
            ``num_random_init=0``.

    Raises:
        art.exceptions.EstimatorError: The estimator isn't a PyTorch classifier with loss gradients.
        InputError: A parameter is out of range.
    """

    kind: ClassVar[str] = "PGD"

    loss: str = option("cross_entropy")
    decay: InitVar[float | None] = None
    random_eps: bool = option(False, check_flag)
    minimal: bool = option(False, check_flag)

    def __post_init__(self, estimator: Any, decay: float | None) -> None:
        if decay is not None:
            if self.momentum not in (0, decay):
                raise InputError(
                    f"`decay` is ART's name for `momentum`, but is {decay!r}, and the latter {self.momentum!r}."
                )
            self.momentum = _check_decay("decay", decay)
        super().__post_init__(estimator)

    @property
    def redundant_params(self) -> frozenset[str]:
        """See :class:`art_classwise.attacks._base.Parameters`."""
        flags = (name for name in ("random_eps", "minimal") if not getattr(self, name))
        return frozenset({"decay", *flags})

    @property
    def _makes_room(self) -> bool:
        return super()._makes_room and not self.minimal

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return LOSSES[self.loss](logits, y)

    def _compared(self, problem: Problem, x: Tensor, y: Tensor) -> Tensor:
        return problem.logits(x) if self.loss == "kl" else y

    def _share_of_radius(self, problem: Problem, rows: npt.NDArray[np.intp], x: Tensor) -> Tensor | None:
        if not self.random_eps:
            return None
        ids = problem.on_device(rows, problem.ids)
        u = ExampleUniform(derive(self.seed, "radii"), 0, ids)(len(rows))
        # The quantile of |N(0, 1/2)|, given that it is at most 1.
        below_2 = torch.special.ndtr(torch.tensor(2.0, device=u.device))
        return per_example(torch.special.ndtri(0.5 + u * (below_2 - 0.5)) / 2, x)

    def _attack(self, problem: Problem, rows: npt.NDArray[np.intp], x: Tensor, y: Tensor) -> Candidates:
        return self._smallest(problem, rows, x, y) if self.minimal else super()._attack(problem, rows, x, y)

    def _smallest(self, problem: Problem, rows: npt.NDArray[np.intp], x: Tensor, y: Tensor) -> Candidates:
        """Go along the gradient at x, step by step, until the network itself is fooled."""
        gradients: list[Tensor] = []
        shown = self._observer(problem, rows, y, torch.arange(len(x), device=x.device), 0)

        def observe(step: int, left: Tensor, x_adv: Tensor, gradient: Tensor) -> None:
            gradients.append(gradient)
            if shown is not None:
                shown(step, left, x_adv, gradient)

        def ascended(logits: Tensor, compared: Tensor) -> Tensor:
            loss = self._loss(check_logits(logits, len(compared), problem.n_classes), compared)
            return -loss if self.targeted else loss

        result = search(
            problem.exact,
            x,
            self._compared(problem, x, y),
            self.threat,
            ascended,
            eps_step=self.threat.eps,
            max_iter=1,
            low=problem.low,
            high=problem.high,
            observe=observe,
        )
        check_finite(result.no_logits, problem.ids[rows])
        (gradient,) = gradients
        gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
        if problem.mask is not None:
            gradient = torch.where(problem.on_device(rows, problem.mask) == 0, 0.0, gradient)
        direction = self.threat.steepest(gradient)
        eps, step = self._lengths(problem, rows, x, y)
        most = (x.new_ones(x.shape) * eps / step + 1e-5).nan_to_num(0.0).floor().flatten(1).amin(1)
        found, left = x.clone(), torch.arange(len(x), device=x.device)
        for k in range(1, int(most.max()) + 1):
            left = left[k <= most[left]]
            if len(left) == 0:
                break
            found[left] = (x[left] + k * (step * direction)[left]).clamp(problem.low, problem.high)
            hit = self._exact(problem, rows, found, left).argmax(1) == y[left]
            left = left[~hit if self.targeted else hit]
        return Candidates(found, result.zero_gradient, None)

    def _check_params(self) -> None:
        super()._check_params()
        if self.minimal and (self.max_iter != 1 or self.num_random_init):
            raise InputError(
                "`minimal` looks for the smallest step along one gradient, as FGSM does: set `max_iter=1` and "
                f"`num_random_init=0`, which are {self.max_iter} and {self.num_random_init}."
            )
        if self.loss not in LOSSES:
            raise unknown("loss", self.loss, LOSSES)
        if self.loss == "dlr" and self.estimator.nb_classes < 3:
            raise InputError('The loss "dlr" compares three classes, and the model has two: take "margin".')
        if self.loss == "dlr" and self.targeted:
            raise InputError(
                'The loss "dlr" is constant where the target has the third largest logit; its targeted form names the '
                'label, too: take ClassWiseAttack(..., loss="dlr"), or "margin".'
            )
        if self.loss == "kl" and self.targeted:
            raise InputError('The loss "kl" moves away from the prediction on x: it has no targeted form.')
        if self.loss == "kl" and self.num_random_init == 0:
            raise InputError('The gradient of the loss "kl" is zero at x itself: set num_random_init to 1 or more.')


def _decay(attack: PGD) -> float | None:
    """ART's name for ``momentum``; None is none."""
    return attack.momentum or None


def _set_decay(attack: PGD, given: float | None) -> None:
    attack.momentum = 0.0 if given is None else _check_decay("decay", given)


PGD.decay = property(_decay, _set_decay)  # now, since a dataclass leaves a field's default in its place


@dataclass(eq=False, repr=False, kw_only=True)
class TemperaturePGD(LossAttack):
    """PGD on sharpened confidences, softmax(logits / T) (Tian et al. 2021, arXiv 2105.14240).

    The sign (or normalised) step removes the factor 1/T from the gradient, so the temperature sets the
    relative weights of the wrong classes only: ``inverse_temperature=1`` is PGD (Madry et al. 2018),
    ``float("inf")`` follows the margin (Carlini and Wagner's loss), values near 0 the mean of the wrong
    classes. It ascends :func:`art_classwise.losses.soft_margin`, which has the direction of the temperature
    cross-entropy without its float32 underflow on confident networks. All options but ``inverse_temperature`` are as
    for :class:`art_classwise.PGD`.

    Args:
        estimator: An ART ``PyTorchClassifier`` that returns logits.
        inverse_temperature: 1/T, above 0.

    Raises:
        art.exceptions.EstimatorError: The estimator isn't a PyTorch classifier with loss gradients.
        InputError: A parameter is out of range.
    """

    kind: ClassVar[str] = "TemperaturePGD"

    inverse_temperature: float = option(5.0, positive(finite=False))

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return losses.soft_margin(logits, y, self.inverse_temperature)
