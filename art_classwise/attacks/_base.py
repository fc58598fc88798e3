"""What all attacks that run the search share: ART's interface around it."""

from __future__ import annotations

import abc
from dataclasses import KW_ONLY, InitVar, dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from art.attacks.attack import EvasionAttack
from art.estimators.classification.classifier import ClassifierMixin
from art.estimators.estimator import BaseEstimator, LossGradientsMixin
from art.estimators.pytorch import PyTorchEstimator
from art.summary_writer import SummaryWriter, SummaryWriterDefault
from torch import Tensor, nn

from art_classwise._core import art_interface
from art_classwise._core.arrays import as_array
from art_classwise._core.forward import MicroBatches, check_predicts_logits
from art_classwise._core.labels import check_labels
from art_classwise._core.options import check_options, number, option, optional, whole
from art_classwise._core.random_numbers import ExampleUniform
from art_classwise._core.state import float32
from art_classwise.attacks._problem import (
    Budget,
    Candidates,
    Problem,
    WithoutClasses,
    broadcast_mask,
    budget_of_batch,
    check_budget,
    check_budget_shape,
    check_finite,
    largest_budget,
)
from art_classwise.attacks.fast_copy import Compile, Precision, check_compile, check_precision, fast_network
from art_classwise.attacks.search import Loss, Observer, SearchResult, Solved, not_finite, of_rows, search
from art_classwise.errors import InputError, check_flag, check_seed, unknown
from art_classwise.threat import ThreatModel

__all__ = ["Parameters", "SearchAttack", "TensorAttack", "check_norm"]


_REQUIREMENTS: tuple[type, ...] = (BaseEstimator, LossGradientsMixin, ClassifierMixin, PyTorchEstimator)


def check_norm(_: str, norm: Any) -> Any:
    ThreatModel.from_art(norm, 1.0)
    return norm


class Parameters(EvasionAttack, abc.ABC):
    """An attack whose parameters change together or not at all.

    A subclass that is a dataclass, ``@dataclass(eq=False, repr=False, kw_only=True)``, declares each of its parameters
    once, as a field made by :func:`art_classwise._core.options.option`: with it the parameter is in the constructor, in
    ``attack_params`` and among the checks.
    """

    attack_params: ClassVar[list[str]] = [*EvasionAttack.attack_params]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "attack_params" not in vars(cls):
            own = vars(cls).get("__annotations__", {}).items()
            names = [name for name, kind in own if "ClassVar" not in str(kind) and name not in ("estimator", "_")]
            cls.attack_params = [*dict.fromkeys([*cls.attack_params, *names])]

    def _start(self, estimator: Any) -> None:
        """Let ART's constructor take the estimator."""
        if isinstance(estimator, nn.Module):
            raise InputError(
                f"{type(self).__name__} takes an ART classifier, not a {type(estimator).__name__}: give "
                "as_classifier(module, input_shape, n_classes)."
            )
        super().__init__(estimator=estimator)

    @property
    def redundant_params(self) -> frozenset[str]:
        """Those of ``attack_params`` that don't tell one attack from another: they say nothing, or it twice."""
        return frozenset()

    def set_params(self, **kwargs: Any) -> None:
        """Change parameters by their names, and check them as the constructor does.

        Args:
            **kwargs: New values of names in ``attack_params``.

        Raises:
            InputError: There is no such parameter, or one is out of range; all of them are as they were then.
        """
        before = dict(vars(self))
        try:
            for name in kwargs:
                if name not in self.attack_params:
                    raise unknown("parameter", name, self.attack_params)
            super().set_params(**kwargs)
            self._open_summary_writer()
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    summary_writer: Any = False
    """ART's ``SummaryWriter``, if there is one."""

    def _open_summary_writer(self) -> None:
        """Make a writer of True or of a folder's name: last, since it makes a folder."""
        given = self.summary_writer
        made = SummaryWriterDefault(given) if given and not isinstance(given, SummaryWriter) else given
        self.summary_writer = made or None

    def _check_params(self) -> None:
        super()._check_params()
        if is_dataclass(self):
            check_options(self)
        check_summary_writer("summary_writer", self.summary_writer)


def check_summary_writer(name: str, value: object) -> object:
    """Return a value that can be a summary writer.

    Raises:
        InputError: It can't.
    """
    if not (value is None or isinstance(value, (bool, str, SummaryWriter))):
        raise InputError(f"`{name}` must be True, False, a folder or an ART SummaryWriter, not {value!r}.")
    return value


class TensorAttack(Parameters):
    """An attack that searches over tensors: it poses the problem, and asks the network itself for verdicts."""

    _estimator_requirements = _REQUIREMENTS
    uses_example_ids = True
    _budgets: ClassVar[tuple[str, ...]] = ()
    """Names of the parameters that are budgets: numbers, arrays or dicts."""

    if TYPE_CHECKING:  # fields of the subclasses, in their order
        batch_size: int
        precision: Precision
        compile: Compile

    @property
    @abc.abstractmethod
    def threat(self) -> ThreatModel:
        """The threat model: norm and radius."""

    @property
    def _asked_radius(self) -> ThreatModel | None:
        """The threat model, unless its radius is none that anybody asked for."""
        return self.threat

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
        images = np.ascontiguousarray(as_array(x, "x"), dtype=np.float32)
        art_interface.check_images(images, estimator, self._asked_radius, tolerance=1e-6, wide_radius=True)
        for name in self._budgets:
            if (budget := getattr(self, name)) is not None:
                check_budget_shape(name, budget, self.threat.norm, images.shape, estimator.nb_classes)
        ids = np.arange(len(images)) if given["example_ids"] is None else np.asarray(given["example_ids"])
        if len(ids) != len(images):
            raise InputError(f"example_ids must have one number per example: {len(images)}, not {len(ids)}.")
        low, high = art_interface.clip_bounds(estimator, device)
        exact = fast = MicroBatches(art_interface.logits_module(estimator), self.batch_size)
        if search:
            most = min(len(images), self.batch_size)
            model = fast_network(estimator, images, self.precision, compile=self.compile, most=most)
            if model is not estimator.model:
                fast = MicroBatches(art_interface.logits_module(estimator, model), self.batch_size)
        return Problem(
            exact=WithoutClasses(exact, excluded, device) if excluded else exact,
            fast=WithoutClasses(fast, excluded, device) if excluded else fast,
            images=images,
            labels=None if y is None else check_labels(y, len(images), estimator.nb_classes),
            ids=ids.astype(np.int64),
            mask=None if given["mask"] is None else broadcast_mask(np.asarray(given["mask"]), images.shape),
            low=low,
            high=high,
            device=device,
            n_classes=estimator.nb_classes,
            n_excluded=len(excluded),
        )

    @staticmethod
    def _exact(problem: Problem, rows: npt.NDArray[np.intp], points: Tensor, these: Tensor) -> Tensor:
        """Return exact logits of some of the points (m, ...) that belong to rows of the images (m,)."""
        if len(these) == 0:
            return points.new_zeros(0, problem.n_classes)  # many networks can't take an empty batch
        logits = problem.logits(points[these])
        check_finite(not_finite(logits, problem.n_excluded), problem.ids[rows[these.cpu().numpy()]])
        return logits


@dataclass(eq=False, repr=False)
class SearchAttack(TensorAttack):
    """A gradient attack: the search behind ART's interface.

    Random starts depend on ``seed``, the restart and the example's number alone, so neither the batch size nor the
    examples around it change what an example meets.

    Args:
        estimator: An ART ``PyTorchClassifier`` that returns logits.
        norm: ``np.inf``, 2 or 1.
        eps: Radius, in the units of x: a number; an array that broadcasts to x (for L2 and L1 one number per
            example); or a dict with a number for each class, by true label.
        eps_step: Length of a step, likewise; ``eps / 4`` (2/255 at 8/255) if absent.
        max_iter: Number of steps.
        num_random_init: Number of random starts in the ball; 0 starts at x itself. Of several results the most
            wrong is kept.
        momentum: How much of the past steps' direction is kept (Dong et al. 2018); 0 is none.
        batch_size: Examples attacked at once.
        seed: Of the random starts.
        precision: ``"fp32"``, ``"bf16"``, or ``"auto"``: bf16 for networks of a million weights or more on hardware
            that multiplies it. What counts as success is decided in float32 always.
        compile: Compile the network with ``torch.compile``, at each call: for long attacks. ``"reduce-overhead"`` makes
            CUDA graphs of its passes, one for each size of batch: for small networks, without early stop.
        summary_writer: As for all attacks of ART: True, a folder or an ART ``SummaryWriter``; needs tensorboardX.
        verbose: Show a progress bar.

    Attributes:
        zero_gradient: (n,) bool, once it has run: whether the example's gradient was all zero or not
            finite in any step of any restart. Many of them are a sign of gradient masking, and warned of.

    Raises:
        art.exceptions.EstimatorError: The estimator isn't a PyTorch classifier with loss gradients.
        InputError: A parameter is out of range.
    """

    _budgets: ClassVar[tuple[str, ...]] = ("eps", "eps_step")

    estimator: InitVar[Any] = field()  # without one, ART's property would be its default
    norm: float | str = option(np.inf, check_norm)
    eps: Budget = option(8 / 255, check_budget)
    eps_step: Budget | None = option(None, optional(check_budget))
    max_iter: int = option(20, whole(1))
    _: KW_ONLY
    num_random_init: int = option(1, whole(0))
    momentum: float = option(0.0, number(0, np.inf, below=True, words="of at least 0"))
    batch_size: int = option(128, whole(1))
    seed: int = option(0, lambda _, value: check_seed(value))
    precision: Precision = option("auto", check_precision)
    compile: Compile = option(False, check_compile)
    summary_writer: Any = option(False, check_summary_writer)
    verbose: bool = option(True, check_flag)

    def __post_init__(self, estimator: Any) -> None:
        self._start(estimator)
        self.zero_gradient: npt.NDArray[np.bool_] = np.zeros(0, dtype=bool)
        self._check_params()
        self._open_summary_writer()

    @property
    def threat(self) -> ThreatModel:
        """The threat model: the attack's norm and largest radius."""
        return ThreatModel.from_art(self.norm, largest_budget(self.eps))

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
    ) -> Candidates:
        """Search once, from one start for each of the rows.

        Args:
            problem: What the attack is about.
            rows: (m,) of its images, perhaps one several times; more than a batch only with ``early_stop``.
            x: (m, ...) these images.
            y: (m,) labels, which budgets by class refer to.
            compared: (m, ...) what the loss compares logits with.
            loss: What to ascend.
            solved: Whose attack has succeeded.
            early_stop: Let those leave; who leaves by the fast network's logits goes on if the exact one's deny it.
            judge: Whether to return exact logits.
            restart: Number of the restart.
        """
        eps, step = self._lengths(problem, rows, x, y)
        mask = None if problem.mask is None else problem.on_device(rows, problem.mask)
        start = self._random_starts(problem, rows, x, eps, restart) if self.num_random_init else None

        def run(module: nn.Module, these: Tensor, start: Tensor | None) -> SearchResult:
            return search(
                module,
                of_rows(x, these),
                of_rows(compared, these),
                self.threat,
                loss,
                eps_step=of_rows(step, these) if isinstance(step, Tensor) else step,
                max_iter=self.max_iter,
                low=problem.low,
                high=problem.high,
                eps=of_rows(eps, these) if isinstance(eps, Tensor) else None,
                start=start,
                mask=None if mask is None else of_rows(mask, these),
                momentum=self.momentum,
                solved=lambda logits, left: solved(logits, of_rows(these, left)),
                early_stop=early_stop,
                observe=self._observer(problem, rows, y, these, restart),
                n_excluded=problem.n_excluded,
                at_once=self.batch_size,
            )

        everyone = torch.arange(len(x), device=x.device)
        result = run(problem.fast, everyone, start)
        x_adv, zero, no_logits = result.x_adv, result.zero_gradient, result.no_logits
        logits = problem.logits(x_adv) if judge else None
        if logits is not None:
            no_logits = no_logits | not_finite(logits, problem.n_excluded)
        if early_stop:
            check_finite(no_logits, problem.ids[rows])
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
        return Candidates(x_adv, zero, logits, None if early_stop else no_logits)

    def _random_starts(
        self, problem: Problem, rows: npt.NDArray[np.intp], x: Tensor, eps: float | Tensor, restart: int
    ) -> Tensor:
        starts = []
        for begin in range(0, len(x), self.batch_size):  # hashing takes many times the memory of what it makes
            some = slice(begin, begin + self.batch_size)
            uniform = ExampleUniform(self.seed, restart, problem.on_device(rows[some], problem.ids))
            radii = eps[some] if isinstance(eps, Tensor) else None
            starts.append(self.threat.random_start(x[some], uniform, radii))
        return starts[0] if len(starts) == 1 else torch.cat(starts)

    def _budget(self, name: str, rows: npt.NDArray[np.intp], problem: Problem, y: Tensor) -> float | Tensor:
        return budget_of_batch(name, getattr(self, name), rows, problem.images.shape, y, problem.labels)

    def _lengths(
        self, problem: Problem, rows: npt.NDArray[np.intp], x: Tensor, y: Tensor
    ) -> tuple[float | Tensor, float | Tensor]:
        """Return the radii and the steps of a batch, numbers or tensors that broadcast to it."""
        eps = self._budget("eps", rows, problem, y)
        step = eps / 4 if self.eps_step is None else self._budget("eps_step", rows, problem, y)
        share = self._share_of_radius(problem, rows, x)
        return (eps, step) if share is None else (share * eps, share * step)

    def _share_of_radius(self, problem: Problem, rows: npt.NDArray[np.intp], x: Tensor) -> Tensor | None:
        """Return what share of its radius and step each example gets, (m, 1, ...); None is all of it."""
        return None

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
        check_predicts_logits("The estimator", self.estimator)
