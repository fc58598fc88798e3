"""The class-wise attack: a targeted search towards each class that an example may be moved into."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

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
from art_classwise.attacks._base import SearchAttack
from art_classwise.attacks._problem import Candidates, Problem, budget_of_batch, check_finite, warn_of_zero_gradients
from art_classwise.attacks.search import not_finite, of_rows
from art_classwise.attacks.target_order import TargetOrder, check_target_order, malt_order
from art_classwise.attacks.transfer import rebind
from art_classwise.errors import InputError, check_whole, unknown

__all__ = ["ClassWiseAttack", "Targets"]

Targets: TypeAlias = str | int | Sequence[int] | npt.NDArray[Any]
"""``"all"``, a number of nearest classes, classes, or (C, C) bool: who may be sent where."""


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
        targets: ``"all"``; k, to search towards the first k classes in ``order``; a list of classes;
            or a (C, C) boolean matrix whose row i says where examples of class i may be sent.
        excluded: Classes to leave out as if the model did not have them: their logits are masked.
        loss: The ``"margin"`` of the target over all other classes, its ``"cross_entropy"``, or ``"dlr"`` (Croce and
            Hein 2020, eq. 7; for 4 classes or more).
        order: Which targets come first, and with ``targets=k`` count: those with the largest ``"logits"``; or
            ``"malt"``, those whose boundary is nearest to first order, the logits' difference over the dual norm of its
            gradient (Melamed et al. 2024, NeurIPS, MALT). It takes a pass back for each class, of at most 100.
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
    order: TargetOrder = option("logits", check_target_order)

    @property
    def redundant_params(self) -> frozenset[str]:
        """See :class:`art_classwise.attacks._base.Parameters`."""
        return frozenset({"order"} if self.order == "logits" else ())

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

        def check(logits: Tensor) -> Tensor:
            return check_logits(logits, len(logits), problem.n_classes)

        kept = preserved(self.estimator.model) if isinstance(self.estimator, PyTorchEstimator) else nullcontext()
        with kept:
            for begin in progress(begins, desc=type(self).__name__, leave=False, shown=self.verbose):
                rows = np.arange(begin, min(begin + self.batch_size, len(found)))
                queue = TargetQueue(problem, rows, self.targets, self.excluded)
                if self.order == "malt":
                    queue.sort(malt_order(problem.exact, queue.x, queue.y, self.threat.norm, check, queue.allowed))
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
    ) -> Candidates:
        """Search once for each pair of an example of the queue and a target, (m,) each."""
        allowed, ascended = queue.allowed[examples], _LOSSES[self.loss]

        def loss(logits: Tensor, pairs: Tensor) -> Tensor:
            return ascended(check_logits(logits, len(pairs), problem.n_classes), pairs)

        def solved(logits: Tensor, these: Tensor) -> Tensor:
            prediction = logits.argmax(1)
            return (
                prediction == of_rows(targets, these) if every_target else column(of_rows(allowed, these), prediction)
            )

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

    def _replaced(
        self, problem: Problem, queue: TargetQueue, examples: Tensor, targets: Tensor, attack: Any
    ) -> Candidates:
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
        eps = budget_of_batch("eps", self.eps, rows, problem.images.shape, queue.y[examples])
        radii = eps if isinstance(eps, Tensor) else None
        points = self.threat.project(torch.from_numpy(x_adv).to(x.device), x, problem.low, problem.high, radii)
        if problem.mask is not None:
            points = torch.where(problem.on_device(rows, problem.mask) == 0, x, points)
        return Candidates(points, torch.zeros(len(x), dtype=torch.bool, device=x.device), problem.logits(points))

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


def allowed_targets(y: Tensor, n_classes: int, targets: Targets, excluded: Sequence[int]) -> Tensor:
    """Return (m, C) bool: the classes that examples with labels y (m,) may be moved into.

    Raises:
        InputError: An example's label is one of its targets, or excluded.
    """
    allowed = torch.ones(len(y), n_classes, dtype=torch.bool, device=y.device)
    if not isinstance(targets, (str, numbers.Integral)):
        array = np.asarray(targets)
        if array.ndim == 2:
            allowed = torch.from_numpy(array.astype(bool)).to(y.device)[y]
        else:
            own = np.isin(y.cpu().numpy(), array)
            if own.any():
                label = int(y[int(own.argmax())])
                raise InputError(
                    f"Class {label} is a target, but also the label of an example: pushing an example into its own "
                    "class would make the model look better, not worse. Leave those examples out, or give a (C, C) "
                    "boolean matrix of the allowed targets of each class, its diagonal False."
                )
            allowed = torch.zeros_like(allowed)
            allowed[:, torch.from_numpy(array.astype(np.int64)).to(y.device)] = True
    if excluded:
        gone = torch.tensor([int(k) for k in excluded], device=y.device)
        if bool(torch.isin(y, gone).any()):
            raise InputError(
                f"Examples of the excluded class {int(y[torch.isin(y, gone)][0])} can't be attacked: a model "
                "without that class has no right answer for them. Leave them out of x."
            )
        allowed[:, gone] = False
    return allowed.scatter(1, y[:, None], False)


def check_targets(targets: Targets, excluded: list[int], n_classes: int) -> None:
    """Check that there are such targets, none of them excluded.

    Raises:
        InputError: They are none of the four forms, name what is no class, or send a class into itself.
    """
    if isinstance(targets, str):
        if targets != "all":
            raise InputError(f'`targets` must be "all", a number, classes or a matrix, but got {targets!r}.')
    elif isinstance(targets, numbers.Integral):
        check_whole("targets", targets, 1)
    else:
        try:
            array = np.asarray(targets)
        except ValueError:
            raise InputError(f"`targets` must be classes or a matrix, but its rows differ: {targets!r}.") from None
        _check_array(array, targets, excluded, n_classes)


def _check_array(array: npt.NDArray[Any], targets: Targets, excluded: list[int], n_classes: int) -> None:
    if array.ndim == 2:
        if array.shape != (n_classes, n_classes) or array.dtype != bool:
            raise InputError(
                f"`targets` as a matrix must be boolean of shape ({n_classes}, {n_classes}), row by true class, "
                f"but is {array.dtype} of shape {array.shape}."
            )
        own = array.diagonal()
        if own.any():
            raise InputError(
                f"`targets` sends class {int(own.argmax())} into itself, which would make the model look better, "
                "not worse: its diagonal must be False."
            )
        gone = [k for k in excluded if array[:, k].any()]
    else:
        gone = sorted(set(excluded) & set(check_classes("targets", targets, n_classes)))
        if array.size == 0:
            raise InputError("`targets` names no class: name at least one.")
    if gone:
        raise InputError(f"Class {gone[0]} is both a target and excluded.")


def check_classes(name: str, given: object, n_classes: int) -> list[int]:
    """Return class numbers as a list.

    Raises:
        InputError: They aren't class numbers, or one stands twice.
    """
    array = np.asarray(given)
    whole = array.ndim == 1 and (array.size == 0 or np.issubdtype(array.dtype, np.integer))
    if not whole or (array.size and (array.min() < 0 or array.max() >= n_classes)):
        raise InputError(f"`{name}` must be a list of classes from 0 to {n_classes - 1}, but got {given!r}.")
    repeated = sorted({int(k) for k in array if (array == k).sum() > 1})
    if repeated:
        raise InputError(f"`{name}` names class {repeated[0]} twice.")
    return [int(k) for k in array]


class TargetQueue:
    """A batch of examples, and what has been found for them so far.

    Attributes:
        rows: (m,) of the problem's images.
        x: (m, ...) these.
        y: (m,) their labels.
        allowed: (m, C) bool, where they may be moved.
        reached: (m, C) bool, where they have been moved.
        best: (m, ...) the points that come nearest to a target.
        zero_gradient: (m,) bool.
    """

    def __init__(self, problem: Problem, rows: npt.NDArray[np.intp], targets: Targets, excluded: Sequence[int]) -> None:
        self.rows = rows
        self.x = problem.on_device(rows)
        self.clean = problem.logits(self.x)
        self._ranked: Tensor | None = None
        self._targets, self._ids, self._n_excluded = targets, problem.ids[rows], problem.n_excluded
        self.y = self.clean.argmax(1) if problem.labels is None else problem.on_device(rows, problem.labels)
        self.allowed = allowed_targets(self.y, problem.n_classes, targets, excluded)
        self.reached = torch.zeros_like(self.allowed)
        self.best = self.x.clone()
        self.zero_gradient = torch.zeros_like(self.y, dtype=torch.bool)
        self._nearness = torch.full_like(self.y, -torch.inf, dtype=torch.float32)
        self.add(torch.arange(len(rows), device=self.y.device), Candidates(self.x, self.zero_gradient, self.clean))

    def sort(self, ranked: Tensor) -> None:
        """Try targets in another order than that of their logits.

        Args:
            ranked: (m, C) classes; those allowed first.
        """
        self._ranked = ranked

    def jobs(self, batch_size: int, *, every_target: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Give batches of (examples, targets) still to be searched for, nearest targets first.

        Args:
            batch_size: Pairs per batch.
            every_target: Whether an example goes on with its other targets once it has reached one.
        """
        count = int(self.allowed.sum(1).max())
        count = min(count, int(self._targets)) if isinstance(self._targets, numbers.Integral) else count
        if self._ranked is None:
            ranked = self.clean.masked_fill(~self.allowed, -torch.inf).topk(count, dim=1).indices
        else:
            ranked = self._ranked[:, :count]
        real = self.allowed.gather(1, ranked).T.cpu().numpy()
        examples = np.broadcast_to(np.arange(len(self.rows)), real.shape)[real]
        classes = ranked.T.cpu().numpy()[real]
        at = 0
        while at < len(examples):
            reached = self.reached.cpu().numpy()  # the host waits, once per batch: who is done makes room for others
            done = reached[examples, classes] if every_target else reached[examples].any(axis=1)
            chosen = at + np.flatnonzero(~done[at:])[:batch_size]
            if len(chosen) == 0:
                return
            at = int(chosen[-1]) + 1
            device = self.y.device
            yield torch.from_numpy(examples[chosen]).to(device), torch.from_numpy(classes[chosen]).to(device)

    def add(self, examples: Tensor, found: Candidates) -> None:
        """Take note of points found for examples (k,), one of them perhaps several times."""
        assert found.logits is not None
        check_finite(not_finite(found.logits, self._n_excluded), self._ids[examples.cpu().numpy()])
        allowed, prediction = self.allowed[examples], found.logits.argmax(1)
        hit, was_reached = column(allowed, prediction), self.reached.any(1)
        self.zero_gradient[examples[found.zero_gradient]] = True
        towards = found.logits.masked_fill(~allowed, -torch.inf).amax(1)
        nearness = towards - found.logits.masked_fill(allowed, -torch.inf).amax(1)
        # The first that reached a target stands, in the order of the jobs, whatever the batches they came in.
        order = torch.arange(len(examples), device=examples.device)
        rank = torch.where(hit, torch.inf, nearness)
        nearest = self._nearness.scatter_reduce(0, examples, rank, "amax")
        level = (rank == nearest[examples]) & (rank > self._nearness[examples]) & ~was_reached[examples]
        late = torch.full_like(self.y, len(examples))
        first = late.scatter_reduce(0, examples, torch.where(level, order, len(examples)), "amin")
        chosen = level & (order == first[examples])
        self.best[examples[chosen]] = found.x_adv[chosen]
        self._nearness = nearest
        self.reached[examples[hit], prediction[hit]] = True


def column(values: Tensor, columns: Tensor) -> Tensor:
    """Return of each row (m, C) the value in its column (m,)."""
    return values.gather(1, columns[:, None])[:, 0]
