"""The class-wise attack: a targeted search towards each class that an example may be moved into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from art.attacks.attack import EvasionAttack
from art.estimators.classification import PyTorchClassifier
from art.estimators.classification.classifier import ClassifierMixin
from art.estimators.estimator import BaseEstimator
from art.estimators.pytorch import PyTorchEstimator
from torch import Tensor, nn

from art_classwise import losses
from art_classwise._core.art_interface import check_logits
from art_classwise._core.labels import LabelRole, check_reads_targets
from art_classwise._core.options import option
from art_classwise._core.progress import progress
from art_classwise._core.state import preserved, preserved_random_state
from art_classwise.attacks import _budgets
from art_classwise.attacks._base import SearchAttack
from art_classwise.attacks._problem import Found, Problem, warn_of_zero_gradients
from art_classwise.attacks._targets import TargetQueue, Targets, check_classes, check_targets, column
from art_classwise.attacks.transfer import rebind
from art_classwise.errors import InputError, unknown

__all__ = ["ClassWiseAttack"]


_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": lambda logits, pair: -losses.soft_margin(logits, pair[:, 1]),
    "margin": lambda logits, pair: -losses.margin(logits, pair[:, 1]),
    "dlr": lambda logits, pair: losses.dlr_targeted(logits, pair[:, 0], pair[:, 1]),
}


@dataclass(eq=False, repr=False, kw_only=True)
class ClassWiseAttack(SearchAttack):
    """Attack each example once towards each class it may be moved into.

    :meth:`generate` is an untargeted attack, stronger than one untargeted search (the multi-targeted attack of Gowal
    et al. 2019, arXiv 1910.09338); :meth:`reach` says which classes an example can be moved into, which class
    exclusion and homing (Tian et al. 2021) are about. An example that is solved leaves; the others fill the batches.
    The options not named here are those of :class:`art_classwise.attacks.SearchAttack`.

    Args:
        estimator: An ART ``PyTorchClassifier`` that returns logits; with ``attack``, any ART classifier.
        max_iter: Number of steps towards a class.
        targets: ``"all"``; k, to search towards the k classes whose logits on x are the largest; a list of classes;
            or a (C, C) boolean matrix whose row i says where examples of class i may be sent.
        excluded: Classes to leave out as if the model did not have them: their logits are masked.
        loss: The ``"margin"`` of the target over all other classes, its ``"cross_entropy"``, or ``"dlr"`` (Croce and
            Hein 2020, eq. 7; for 4 classes or more).
        attack: A targeted ART attack to use in place of the search, black-box ones too: one that moves examples into
            the classes it is given. Its result is brought into the ball of ``eps`` and the box; the parameters of the
            search are then without meaning.
        batch_size: Searches run at once, each an example and a class; memory grows with it, not with the classes.
        seed: Of the random starts; with ``attack``, of the global random state during it.

    Raises:
        art.exceptions.EstimatorError: The estimator isn't a PyTorch classifier with loss gradients.
        InputError: A parameter is out of range.
    """

    label_role: ClassVar[LabelRole] = LabelRole.TRUE  # whatever the attack that it aims takes y for
    kind: ClassVar[str] = "ClassWiseAttack"

    targets: Targets = option("all")
    excluded: Sequence[int] = option(())
    loss: Literal["cross_entropy", "margin", "dlr"] = option("margin")
    attack: Any = option(None)

    def __post_init__(self, estimator: Any) -> None:
        if self.attack is not None:
            self._estimator_requirements = (BaseEstimator, ClassifierMixin)
        super().__post_init__(estimator)

    def generate(
        self, x: npt.NDArray[Any], y: npt.NDArray[Any] | None = None, **kwargs: Any
    ) -> npt.NDArray[np.float32]:
        """Return for each example a point that the model takes for one of its targets, or the nearest to it found.

        The nearest is the one where the largest logit of a target falls least short of the largest of the other
        classes. An example that is taken for a target already stays as it is.

        Args:
            x: (n, ...) examples within the estimator's ``clip_values``.
            y: True labels: indices (n,) or one-hot (n, C). If absent, the model's own predictions.
            **kwargs: ``mask``, broadcastable to x: where it is 0 an example stays as it is.
                ``example_ids``, (n,) ints: numbers of the examples in a larger set, for their random starts.

        Returns:
            float32, of the shape of x.

        Raises:
            InputError: As for all attacks; or an example's label is one of its targets, or excluded.
        """
        return self._run(x, y, kwargs, every_target=False)[0]

    def reach(self, x: npt.NDArray[Any], y: npt.NDArray[Any] | None = None, **kwargs: Any) -> npt.NDArray[np.bool_]:
        """Return which classes each example can be moved into within the ball.

        Args:
            x: As for :meth:`generate`.
            y: As for :meth:`generate`.
            **kwargs: As for :meth:`generate`.

        Returns:
            (n, C) bool. The column of an example's own label is never True, so that ``reach.any(1)`` says who can be
            moved at all; a misclassified example has reached its class. Of a list or a matrix only targets
            can be True; with a number of nearest classes, others that a search came upon, too.

        Raises:
            InputError: As for :meth:`generate`.
        """
        return self._run(x, y, kwargs, every_target=True)[1]

    def _run(
        self, x: npt.NDArray[Any], y: npt.NDArray[Any] | None, kwargs: dict[str, Any], *, every_target: bool
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        problem = self._problem(x, y, kwargs, tuple(int(k) for k in self.excluded), search=self.attack is None)
        attack = None if self.attack is None else self._replacement(problem)
        found = np.empty_like(problem.images)
        reached = np.zeros((len(found), problem.n_classes), dtype=bool)
        self.zero_gradient = np.zeros(len(found), dtype=bool)
        begins = range(0, len(found), self.batch_size)
        kept = preserved(self.estimator.model) if isinstance(self.estimator, PyTorchEstimator) else nullcontext()
        with kept:
            for begin in progress(begins, desc=type(self).__name__, leave=False, shown=self.verbose):
                rows = np.arange(begin, min(begin + self.batch_size, len(found)))
                queue = TargetQueue(problem, rows, self.targets, self.excluded)
                for restart in range(max(1, self.num_random_init) if attack is None else 1):
                    for examples, targets in queue.jobs(self.batch_size, every_target=every_target):
                        if attack is None:
                            moved = self._moved(problem, queue, examples, targets, restart, every_target=every_target)
                        else:
                            moved = self._replaced(problem, queue, examples, targets, attack)
                        queue.add(examples, moved)
                found[rows], reached[rows] = queue.best.cpu().numpy(), queue.reached.cpu().numpy()
                self.zero_gradient[rows] = queue.zero_gradient.cpu().numpy()
        if self.summary_writer is not None:
            self.summary_writer.reset()
        warn_of_zero_gradients(self.zero_gradient)
        return found, reached

    def _moved(
        self,
        problem: Problem,
        queue: TargetQueue,
        examples: Tensor,
        targets: Tensor,
        restart: int,
        *,
        every_target: bool,
    ) -> Found:
        """Search once for each pair of an example of the queue and a target, (m,) each."""
        allowed, ascended = queue.allowed[examples], _LOSSES[self.loss]

        def loss(logits: Tensor, pairs: Tensor) -> Tensor:
            return ascended(check_logits(logits, len(pairs), problem.n_classes), pairs)

        def solved(logits: Tensor, these: Tensor) -> Tensor:
            prediction = logits.argmax(1)
            return prediction == targets[these] if every_target else column(allowed[these], prediction)

        y = queue.y[examples]
        return self._search(
            problem,
            queue.rows[examples.cpu().numpy()],
            queue.x[examples],
            y,
            torch.stack([y, targets], 1),
            loss,
            solved=solved,
            early_stop=True,
            judge=True,
            restart=restart,
        )

    def _replaced(self, problem: Problem, queue: TargetQueue, examples: Tensor, targets: Tensor, attack: Any) -> Found:
        """Let the attack that was given do it, and bring what it returns into ball, box and mask."""
        rows, x = queue.rows[examples.cpu().numpy()], queue.x[examples]
        one_hot = np.eye(problem.n_classes, dtype=np.float32)[targets.cpu().numpy()]
        extra: dict[str, Any] = {} if problem.mask is None else {"mask": problem.mask[rows]}
        if getattr(attack, "uses_example_ids", False):
            extra["example_ids"] = problem.ids[rows]
        with preserved_random_state(self.seed):
            x_adv = np.asarray(attack.generate(problem.images[rows], one_hot, **extra), dtype=np.float32)
        if x_adv.shape != x.shape or not np.isfinite(x_adv).all():
            raise InputError(f"The {type(attack).__name__} must return finite images of shape {tuple(x.shape)}.")
        eps = _budgets.of_batch("eps", self.eps, rows, problem.images.shape, queue.y[examples])
        radii = eps if isinstance(eps, Tensor) else None
        points = self.threat.project(torch.from_numpy(x_adv).to(x.device), x, problem.low, problem.high, radii)
        if problem.mask is not None:
            points = torch.where(problem.on_device(rows, problem.mask) == 0, x, points)
        return Found(points, torch.zeros(len(x), dtype=torch.bool, device=x.device), problem.logits(points))

    def _replacement(self, problem: Problem) -> Any:
        if not self.excluded:
            return rebind(self.attack, self.estimator)
        if not isinstance(self.estimator, PyTorchEstimator):
            raise InputError("`excluded` masks logits of a PyTorch model: with `attack`, give a PyTorchClassifier.")
        masked = PyTorchClassifier(
            _Finite(problem.exact),
            nn.CrossEntropyLoss(),
            self.estimator.input_shape,
            problem.n_classes,
            clip_values=self.estimator.clip_values,
            device_type=problem.device.type,
        )
        return rebind(self.attack, masked)

    def _check_params(self) -> None:
        super()._check_params()
        n_classes = self.estimator.nb_classes
        if self.loss not in _LOSSES:
            raise unknown("loss", self.loss, _LOSSES)
        if self.attack is not None:
            if not isinstance(self.attack, EvasionAttack):
                raise InputError(
                    "`attack` must be a targeted ART evasion attack, made with targeted=True, "
                    f"but got {type(self.attack).__name__}."
                )
            check_reads_targets("`attack`", self.attack)
        excluded = check_classes("excluded", self.excluded, n_classes)
        if self.loss == "dlr" and n_classes - len(excluded) < 4:
            raise InputError('The loss "dlr" compares four classes: with fewer take "cross_entropy" or "margin".')
        if n_classes - len(excluded) < 2:
            raise InputError("`excluded` leaves fewer than two classes, so examples have no target class.")
        check_targets(self.targets, excluded, n_classes)


class _Finite(nn.Module):
    """A network whose masked logits are low, but finite: other attacks multiply them by zero."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return torch.nan_to_num(self.module(x), nan=torch.nan, posinf=torch.inf, neginf=-1e4)
