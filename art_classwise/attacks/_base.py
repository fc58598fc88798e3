"""What all attacks that run the search share: ART's contract around it."""

from __future__ import annotations

import abc
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from art.attacks.attack import EvasionAttack
from art.estimators.classification.classifier import ClassifierMixin
from art.estimators.estimator import BaseEstimator, LossGradientsMixin
from art.estimators.pytorch import PyTorchEstimator
from torch import Tensor, nn

from art_classwise import _estimator, losses
from art_classwise._labels import check_labels
from art_classwise._passes import Passes
from art_classwise._progress import progress
from art_classwise._state import evaluating, float32, preserved
from art_classwise.attacks import _budgets
from art_classwise.attacks._budgets import Budget
from art_classwise.attacks._fast import Precision, check_precision, fast_module
from art_classwise.attacks._random import ExampleUniform
from art_classwise.attacks._search import Loss, Observer, SearchResult, Solved, not_finite, search
from art_classwise.errors import GradientMaskingWarning, InputError, check_positive, check_seed, check_whole
from art_classwise.threat import ThreatModel, per_example

__all__ = ["Found", "LossAttack", "Problem", "SearchAttack", "check_finite", "warn_of_zero_gradients"]


@dataclass(frozen=True)
class Problem:
    """What one call of an attack is about, checked: the examples, and the network in two forms.

    Attributes:
        exact: The network; verdicts are its, in float32.
        fast: The network as it is searched on.
        images: (n, ...) float32.
        labels: (n,) int64, or nothing.
        ids: (n,) int64, the examples' numbers.
        mask: Broadcast to ``images``, or nothing.
        low: Lower bound of the box.
        high: Upper bound of the box.
        device: Where the network lies.
        n_classes: Number of logits.
        n_excluded: Number of classes that were taken out: their logits are minus infinity.
    """

    exact: nn.Module
    fast: nn.Module
    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64] | None
    ids: npt.NDArray[np.int64]
    mask: npt.NDArray[np.float32] | None
    low: Tensor
    high: Tensor
    device: torch.device
    n_classes: int
    n_excluded: int = 0

    def on_device(self, rows: Any, array: npt.NDArray[Any] | None = None) -> Tensor:
        """Return rows of an array, of the images if none is given, where the network lies."""
        return torch.from_numpy(np.ascontiguousarray((self.images if array is None else array)[rows])).to(self.device)

    def logits(self, x: Tensor) -> Tensor:
        """Return float32 logits (m, C) of points x (m, ...), for a verdict."""
        return _estimator.exact_logits(self.exact, x, self.n_classes)

    @torch.no_grad()
    def quick_logits(self, x: Tensor) -> Tensor:
        """Return the fast network's logits (m, C) of points x (m, ...)."""
        with evaluating(self.fast):
            return _estimator.check_logits(self.fast(x), len(x), self.n_classes)

    def label(self, rows: npt.NDArray[np.intp], x: Tensor) -> Tensor:
        """Return the labels (m,) of rows of the images, x; without labels, what the network takes them for."""
        return self.logits(x).argmax(1) if self.labels is None else self.on_device(rows, self.labels)


class SearchAttack(EvasionAttack, abc.ABC):
    """A gradient attack: the search behind ART's interface.

    Parameters bear ART's names. Random starts depend on ``seed``, the restart and the example's number
    alone, so neither the batch size nor the examples around it change what an example meets.

    Attributes:
        zero_gradient: (n,) bool, once it has run: whether the example's gradient was all zero or not
            finite in any step of any restart. Many of them are a sign of gradient masking, and warned of.
    """

    attack_params: ClassVar[list[str]] = [
        *EvasionAttack.attack_params,
        "norm",
        "eps",
        "eps_step",
        "max_iter",
        "num_random_init",
        "targeted",
        "momentum",
        "early_stop",
        "batch_size",
        "seed",
        "precision",
        "compile",
        "summary_writer",
        "verbose",
    ]
    _estimator_requirements: tuple[type, ...] = (BaseEstimator, LossGradientsMixin, ClassifierMixin, PyTorchEstimator)
    uses_example_ids = True

    def __init__(
        self,
        estimator: Any,
        *,
        norm: float | str,
        eps: Budget,
        eps_step: Budget | None,
        max_iter: int,
        num_random_init: int,
        targeted: bool,
        momentum: float,
        early_stop: bool,
        batch_size: int,
        seed: int,
        precision: Precision,
        compile: bool,
        summary_writer: Any,
        verbose: bool,
    ) -> None:
        super().__init__(estimator=estimator, summary_writer=summary_writer)
        self.norm = norm
        self.eps = eps
        self.eps_step = eps_step
        self.max_iter = max_iter
        self.num_random_init = num_random_init
        self._targeted = targeted
        self.momentum = momentum
        self.early_stop = early_stop
        self.batch_size = batch_size
        self.seed = seed
        self.precision = precision
        self.compile = compile
        self.verbose = verbose
        self.zero_gradient: npt.NDArray[np.bool_] = np.zeros(0, dtype=bool)

    @property
    def threat(self) -> ThreatModel:
        """The threat model: the attack's norm and largest radius."""
        return ThreatModel.from_art(self.norm, _budgets.largest(self.eps))

    def _problem(
        self,
        x: npt.NDArray[Any],
        y: npt.NDArray[Any] | None,
        kwargs: dict[str, Any],
        excluded: tuple[int, ...] = (),
        *,
        search: bool = True,
    ) -> Problem:
        estimator = self.estimator
        device = estimator.device if isinstance(estimator, PyTorchEstimator) else torch.device("cpu")
        given = {name: kwargs.pop(name, None) for name in ("mask", "example_ids")}
        if kwargs:
            raise InputError(f"generate() got {', '.join(kwargs)}; it takes x, y, mask and example_ids.")
        images = np.ascontiguousarray(x, dtype=np.float32)
        _estimator.check_images(images, estimator, self.threat, tolerance=1e-6)
        for name in ("eps", "eps_step"):
            if (budget := getattr(self, name)) is not None:
                _budgets.check_shape(name, budget, self.threat.norm, images.shape, estimator.nb_classes)
        ids = np.arange(len(images)) if given["example_ids"] is None else np.asarray(given["example_ids"])
        if len(ids) != len(images):
            raise InputError(f"example_ids must have one number per example: {len(images)}, not {len(ids)}.")
        low, high = _estimator.clip_bounds(estimator, device)
        exact = fast = Passes(_estimator.logits_module(estimator))
        if search:
            sample = torch.from_numpy(images[:2].copy()).to(device)
            model = fast_module(estimator.model, sample, self.precision, compile=self.compile)
            fast = exact if model is estimator.model else Passes(_estimator.logits_module(estimator, model))
        return Problem(
            exact=_Without(exact, excluded, device) if excluded else exact,
            fast=_Without(fast, excluded, device) if excluded else fast,
            images=images,
            labels=None if y is None else check_labels(y, len(images), estimator.nb_classes),
            ids=ids.astype(np.int64),
            mask=None if given["mask"] is None else _broadcast_mask(np.asarray(given["mask"]), images.shape),
            low=low,
            high=high,
            device=device,
            n_classes=estimator.nb_classes,
            n_excluded=len(excluded),
        )

    def _search(
        self,
        problem: Problem,
        rows: npt.NDArray[np.intp],
        x: Tensor,
        y: Tensor,
        compared: Tensor,
        loss: Loss,
        *,
        solved: Solved,
        early_stop: bool,
        judge: bool,
        restart: int,
    ) -> Found:
        """Search once, from one start for each of the rows.

        Args:
            problem: What the attack is about.
            rows: (m,) of its images, perhaps one several times.
            x: (m, ...) these images.
            y: (m,) labels, which budgets by class refer to.
            compared: (m, ...) what the loss compares logits with.
            loss: What to ascend.
            solved: Whose attack has succeeded.
            early_stop: Let those leave; who leaves by the fast network's logits goes on if the exact one's deny it.
            judge: Whether to return exact logits.
            restart: Number of the restart.
        """
        eps = self._budget("eps", rows, problem, y)
        step = eps / 4 if self.eps_step is None else self._budget("eps_step", rows, problem, y)
        mask = None if problem.mask is None else problem.on_device(rows, problem.mask)
        start = None
        if self.num_random_init:
            uniform = ExampleUniform(self.seed, restart, problem.on_device(rows, problem.ids))
            start = self.threat.random_start(x, uniform, eps if isinstance(eps, Tensor) else None)

        def run(module: nn.Module, these: Tensor, start: Tensor | None) -> SearchResult:
            return search(
                module,
                x[these],
                compared[these],
                self.threat,
                loss,
                eps_step=step[these] if isinstance(step, Tensor) else step,
                max_iter=self.max_iter,
                low=problem.low,
                high=problem.high,
                eps=eps[these] if isinstance(eps, Tensor) else None,
                start=start,
                mask=None if mask is None else mask[these],
                momentum=self.momentum,
                solved=lambda logits, left: solved(logits, these[left]),
                early_stop=early_stop,
                observe=self._observer(problem, rows, y, these, restart),
                n_excluded=problem.n_excluded,
            )

        everyone = torch.arange(len(x), device=x.device)
        result = run(problem.fast, everyone, start)
        check_finite(result.no_logits, problem.ids[rows])
        x_adv, zero = result.x_adv, result.zero_gradient
        logits = self._exact(problem, rows, x_adv, everyone) if judge else None
        if early_stop:
            (claimed,) = result.stopped.nonzero(as_tuple=True)  # the host waits, once
            judged = self._exact(problem, rows, x_adv, claimed) if logits is None else logits[claimed]
            denied = claimed[~solved(judged, claimed)]
            if len(denied):
                with float32(x.device.type):  # else it would claim at once what has just been denied
                    again = run(problem.exact, denied, x_adv[denied])
                x_adv[denied] = again.x_adv
                zero[denied] |= again.zero_gradient
                if logits is not None:
                    logits[denied] = self._exact(problem, rows, x_adv, denied)
        return Found(x_adv, zero, logits)

    @staticmethod
    def _exact(problem: Problem, rows: npt.NDArray[np.intp], points: Tensor, these: Tensor) -> Tensor:
        """Return exact logits of some of the points (m, ...) that belong to rows of the images (m,)."""
        if len(these) == 0:
            return points.new_zeros(0, problem.n_classes)  # many networks can't take an empty batch
        logits = problem.logits(points[these])
        check_finite(not_finite(logits, problem.n_excluded), problem.ids[rows[these.cpu().numpy()]])
        return logits

    def _budget(self, name: str, rows: npt.NDArray[np.intp], problem: Problem, y: Tensor) -> float | Tensor:
        return _budgets.of_batch(name, getattr(self, name), rows, problem.images.shape, y)

    def _observer(
        self, problem: Problem, rows: npt.NDArray[np.intp], y: Tensor, these: Tensor, restart: int
    ) -> Observer | None:
        writer = self.summary_writer
        if writer is None:
            return None

        def write(step: int, left: Tensor, x_adv: Tensor, gradient: Tensor) -> None:
            one_hot = nn.functional.one_hot(y[these[left]], problem.n_classes)
            writer.update(
                batch_id=int(rows[0]) // self.batch_size,
                global_step=restart * self.max_iter + step,
                grad=gradient.cpu().numpy(),
                estimator=self.estimator,
                x=x_adv.cpu().numpy(),
                y=one_hot.cpu().numpy(),
                targeted=self.targeted,
            )

        return write

    def _check_params(self) -> None:
        super()._check_params()
        ThreatModel.from_art(self.norm, 1.0)  # checks the norm
        _budgets.check_budget("eps", self.eps)
        if self.eps_step is not None:
            _budgets.check_budget("eps_step", self.eps_step)
        for name, least in (("max_iter", 1), ("num_random_init", 0), ("batch_size", 1)):
            check_whole(name, getattr(self, name), least)
        check_seed(self.seed)
        for name in ("targeted", "early_stop", "compile", "verbose"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"`{name}` must be True or False, but got {getattr(self, name)!r}.")
        if self.momentum != 0:
            check_positive("momentum", self.momentum)
        check_precision(self.precision)
        if self.targeted and (isinstance(self.eps, Mapping) or isinstance(self.eps_step, Mapping)):
            raise InputError(
                "Budgets by class refer to the true labels, which a targeted attack isn't given: "
                "give an array with one number per example."
            )


class LossAttack(SearchAttack):
    """One search per restart, ascending a loss of the labels, which a subclass names."""

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
                empty, not finite or outside ``clip_values``; the mask or a budget doesn't broadcast; the radius
                covers the whole box; the model doesn't return finite logits (n, C).
        """
        problem = self._problem(x, y, kwargs)
        if problem.labels is None and self.targeted:
            raise InputError("A targeted attack needs the target labels: generate(x, y).")
        found = np.empty_like(problem.images)
        self.zero_gradient = np.zeros(len(found), dtype=bool)
        begins = range(0, len(found), self.batch_size)
        with preserved(self.estimator.model):  # ART's summary writer changes its mode
            for begin in progress(begins, desc=type(self).__name__, leave=False, shown=self.verbose):
                rows = np.arange(begin, min(begin + self.batch_size, len(found)))
                batch = problem.on_device(rows)
                x_adv, zero = self._attack(problem, rows, batch, problem.label(rows, batch))
                found[rows], self.zero_gradient[rows] = x_adv.cpu().numpy(), zero.cpu().numpy()
        if self.summary_writer is not None:
            self.summary_writer.reset()
        warn_of_zero_gradients(self.zero_gradient)
        return found

    def _attack(self, problem: Problem, rows: npt.NDArray[np.intp], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Attack rows of the images, x (m, ...), away from y or towards it; return points, and zero gradients (m,)."""

        def ascended(logits: Tensor, compared: Tensor) -> Tensor:
            loss = self._loss(_estimator.check_logits(logits, len(compared), problem.n_classes), compared)
            return -loss if self.targeted else loss

        def solves(logits: Tensor, these: Tensor) -> Tensor:
            hit = logits.argmax(1) == y[these]
            return hit if self.targeted else ~hit

        def wrongness(logits: Tensor, these: Tensor) -> Tensor:
            """Return what restarts compete for: above 0 if and only if the attack succeeded."""
            margin = losses.margin(logits, y[these]) * (-1 if self.targeted else 1)
            # Equal logits make a margin of 0, whichever of them the prediction is.
            return torch.where(solves(logits, these), margin.clamp_min(_TINY), margin)

        left, compared = torch.arange(len(x), device=x.device), self._compared(problem, x, y)
        best, value = x.clone(), torch.full((len(x),), -torch.inf, device=x.device)
        zero = torch.zeros(len(x), dtype=torch.bool, device=x.device)
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
            if found.logits is None:
                best[left] = found.x_adv
                break
            new = wrongness(found.logits, left)
            better = new > value[left]
            best[left] = torch.where(per_example(better, x), found.x_adv, best[left])
            value[left] = torch.where(better, new, value[left])
            solved[left] = new > 0
        return best, zero


@dataclass(frozen=True)
class Found:
    """What one search found for m examples.

    Attributes:
        x_adv: (m, ...) points.
        zero_gradient: (m,) bool.
        logits: (m, C) exact logits of the points, if they were asked for.
    """

    x_adv: Tensor
    zero_gradient: Tensor
    logits: Tensor | None


_MANY_ZEROS = 0.05


_TINY = float(np.finfo(np.float32).tiny)


def _among(solves: Solved, left: Tensor, logits: Tensor, these: Tensor) -> Tensor:
    """Ask for rows counted among those left."""
    return solves(logits, left[these])


class _Without(nn.Module):
    """A network without some of its classes: their logits are -inf."""

    excluded: Tensor

    def __init__(self, module: nn.Module, excluded: tuple[int, ...], device: torch.device) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("excluded", torch.tensor(excluded, device=device))  # there, once, and not at each step

    def forward(self, x: Tensor) -> Any:
        logits = self.module(x)
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            return logits  # the search will say what it is
        return logits.index_fill(1, self.excluded, -torch.inf)


def warn_of_zero_gradients(zero_gradient: npt.NDArray[np.bool_]) -> None:
    """Warn if many of the examples attacked (m,) met a gradient that shows no way."""
    share = float(zero_gradient.mean()) if len(zero_gradient) else 0.0
    if share >= _MANY_ZEROS:
        warnings.warn(
            f"{share:.0%} of the examples met a gradient that was zero or not finite: a sign of masked gradients. "
            "The network may be weaker than it looks: see the attack's `zero_gradient`, try Square or a transfer.",
            GradientMaskingWarning,
            stacklevel=3,
        )


def check_finite(no_logits: Tensor, ids: npt.NDArray[Any]) -> None:
    """Check that no example of these numbers (m,) was given logits that aren't finite (m,).

    Raises:
        InputError: One was; the first is named.
    """
    if bool(no_logits.any()):  # the host waits, once per search
        first = int(ids[no_logits.cpu().numpy()].min())
        raise InputError(
            f"The model returns logits that are not finite, first for example {first}: "
            "look for a division or a logarithm in it that meets 0."
        )


def _broadcast_mask(mask: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    try:
        return np.broadcast_to(mask.astype(np.float32), shape)
    except ValueError:
        raise InputError(f"A mask of shape {mask.shape} doesn't broadcast to x of shape {shape}.") from None
