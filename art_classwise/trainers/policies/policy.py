"""Class policies, rules that set class weights and class budgets while training; and the plainest, fixed ones."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from art_classwise._core import distributed
from art_classwise._core.arrays import as_array
from art_classwise.errors import InputError, shown
from art_classwise.threat import ThreatModel, Uniform

__all__ = [
    "Array",
    "ClassBudgets",
    "ClassMeans",
    "ClassPolicy",
    "ClassWeights",
    "FairAveraging",
    "Fixed",
    "PolicyContext",
    "SoftLabels",
    "as_confusion",
    "as_float64",
    "as_given",
    "check_by_class",
    "check_same_shape",
    "one_hot",
    "sum_by_class",
    "without_defaults",
]

Array = Tensor | npt.NDArray[Any]
"""What the policies' formulas take, and return as they were given."""


@dataclass(frozen=True)
class PolicyContext:
    """What a policy acts on.

    Attributes:
        n_classes: Number of classes, C.
        shares: (C,) each class's share of the labelled training examples, as they are drawn.
        beta: Weight of the objective's second term; None where it has none.
        eps: The training attack's radius.
        nb_epochs: Number of epochs.
        device: Where the training computes.
        soft_labels: The teacher's, where the network is distilled from one; None elsewhere.
    """

    n_classes: int
    shares: Tensor
    beta: float | None
    eps: float
    nb_epochs: int
    device: torch.device
    soft_labels: SoftLabels | None = None


class ClassWeights(NamedTuple):
    """Factors of an objective's two terms, (C,) each; None is 1 for all.

    Attributes:
        first: Of the first term, the classification's.
        second: Of the second, a divergence times beta.
    """

    first: Tensor | None = None
    second: Tensor | None = None


class ClassBudgets(NamedTuple):
    """What each class may be changed by while training, relative to the trainer's radius and step.

    Attributes:
        radii: (C,).
        steps: (C,).
    """

    radii: Tensor
    steps: Tensor


class FairAveraging(NamedTuple):
    """Averaging of weights over epochs that leaves out unfair ones: see :class:`art_classwise.policies.CFA`.

    Attributes:
        decay: How much of the average is kept.
        start: Epochs before it begins.
        threshold: What the worst validation class must reach for an epoch's weights to be taken in.
    """

    decay: float
    start: int
    threshold: float


class SoftLabels(Protocol):
    """Labels of a teacher, whose temperatures a policy may set.

    Attributes:
        temperatures: (C,) by class, of the labels under attack and of the clean ones; None is the trainer's for all.
    """

    temperatures: tuple[Tensor, Tensor] | None


class ClassPolicy(abc.ABC):
    """A rule that sets class weights and class budgets while training.

    It may also choose the targets of the training attack, shift the logits of the first term, add a term of its own, or
    set the temperatures of a teacher's labels. Its parameters are dataclass fields; what it remembers are tensors in
    ``_state``, kept in checkpoints. A training works on a copy. Whatever it computes stays on the device.
    """

    needs_validation = False
    counts_steps = False
    """Whether it wants to know how many of the training attack's iterates each example withstood."""
    _added: ClassVar[Mapping[str, Any]] = {}  # parameters that checkpoints of before don't name, with their defaults

    def __post_init__(self) -> None:
        self._state: dict[str, Tensor] = {}
        self._check()

    @abc.abstractmethod
    def _check(self) -> None:
        """Check the parameters.

        Raises:
            InputError: One is out of range.
        """

    def check_fit(self, n_classes: int, threat: ThreatModel, width: float) -> None:
        """Check the parameters against the classifier and the threat model.

        Args:
            n_classes: Number of classes.
            threat: The training attack's.
            width: Width of the range of images.

        Raises:
            InputError: They don't suit.
        """
        return

    def begin(self, context: PolicyContext) -> None:
        """Start anew.

        Raises:
            InputError: The policy would never take effect.
        """
        self._context = context

    @property
    def averaging(self) -> FairAveraging | None:
        """How weights are averaged, if the policy does that."""
        return None

    @property
    def sets_budgets(self) -> bool:
        """Whether the policy sets class budgets."""
        return False

    @property
    def class_budgets(self) -> ClassBudgets | None:
        """The class budgets of the batches to come; None leaves the threat model's."""
        return None

    @property
    def needs_own_attack(self) -> bool:
        """Whether the policy reaches into the built-in attack, and has no effect with another one, or without any."""
        return self.sets_budgets or self.counts_steps

    @property
    def logit_adjustment(self) -> Tensor | None:
        """What is added to the logits of each class (C,) in the objective's first term; None is nothing."""
        return None

    @property
    def weighs_perturbation(self) -> bool:
        """Whether the adversarial weight perturbation (AWP) goes along the gradient of the weighted objective.

        Class weights then follow from predictions before the perturbation; else from those under it.
        """
        return True

    def budgets_of(self, y: Tensor) -> ClassBudgets | None:
        """Return the budgets of a batch's examples, (m,) each, by their labels (m,): those of their classes."""
        budgets = self.class_budgets
        return None if budgets is None else ClassBudgets(budgets.radii[y], budgets.steps[y])

    def weigh(self, y: Tensor, logits_adv: Tensor) -> ClassWeights:
        """Return the class weights of a batch, and remember what is needed of it: nothing, unless a policy does.

        Args:
            y: (m,) this process's true labels of the batch.
            logits_adv: (m, C) logits under attack, detached.
        """
        return self._in_force()

    def targets_of(self, y: Tensor, uniform: Uniform) -> Tensor | None:
        """Return the classes that the training attack moves a batch's examples towards; None is none.

        Args:
            y: (m,) their labels.
            uniform: Draws uniform numbers that belong to the examples.

        Returns:
            int64 (m,), -1 for those to be moved away from their own class, wherever to.
        """
        return None

    def see_clean(self, y: Tensor, logits: Tensor) -> None:
        """Remember of the clean images what :meth:`weigh` remembers of those under attack, where they are classified.

        Args:
            y: (m,) this process's true labels of the batch.
            logits: (m, C), detached.
        """
        return

    def see_steps(self, y: Tensor, n_withstood: Tensor) -> None:
        """Remember how many iterates (m,) of the training attack examples with labels (m,) withstood.

        Counted are the points at which the attack computes a gradient: its start, and all iterates but the last.
        """
        return

    def term(self, y: Tensor, logits_adv: Tensor) -> Tensor | None:
        """Return a further term of the objective (m,), with its gradient; None is none.

        Args:
            y: (m,) this process's true labels of the batch.
            logits_adv: (m, C) logits under attack.
        """
        return None

    def see_validation(self, y: Tensor, values: Tensor) -> None:
        """Remember the objective's values (m,) of a batch of validation examples with labels (m,)."""
        return

    def end_epoch(self, epoch: int, row: Mapping[str, float]) -> None:
        """Set weights and budgets for the next epoch; they stay, unless a policy sets them by the epoch.

        Args:
            epoch: Number of the epoch that ended, from 1.
            row: Its row of the history.
        """
        return

    def columns(self) -> dict[str, float]:
        """Return the class weights and budgets in force, for the history: ``weight_<k>``, ``beta_<k>``, ``eps_<k>``.

        They are relative: 1 is the objective's own weight, the trainer's own radius.
        """
        weights, budgets = self._in_force(), self.class_budgets
        shown = {
            "weight": weights.first,
            "beta": None if self._context.beta is None else weights.second,
            "eps": None if budgets is None else budgets.radii,
        }
        return {
            f"{name}_{k}": value
            for name, values in shown.items()
            if values is not None
            for k, value in enumerate(values.tolist())
        }

    @abc.abstractmethod
    def _in_force(self) -> ClassWeights:
        """Return the class weights of the last batch, or of the next one before any."""

    def describe(self) -> dict[str, Any]:
        """Return the policy's name and parameters, as plain values."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return {"name": type(self).__name__, **without_defaults(values, self._added)}

    def state(self) -> dict[str, Tensor]:
        """Return what the policy remembers, for a checkpoint."""
        return {name: value.cpu() for name, value in self._state.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Remember what :meth:`state` returned."""
        self._state = {name: value.to(self._context.device) for name, value in state.items()}

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.float64, device=self._context.device)

    def _ones(self) -> Tensor:
        return self._zeros(self._context.n_classes) + 1

    def _by_class(self, row: Mapping[str, float], name: str) -> Tensor:
        """Return a column of the history by class (C,); NaN for classes without an example."""
        values = [row[f"{name}_{k}"] for k in range(self._context.n_classes)]
        return torch.tensor(values, dtype=torch.float64, device=self._context.device)


class ClassMeans:
    """Means by class of what is seen batch by batch, over all processes.

    Args:
        n_classes: Number of classes, C.
        size: How many values are averaged, k.
        device: Where the sums lie.
    """

    def __init__(self, n_classes: int, size: int, device: torch.device) -> None:
        self._sums = torch.zeros(n_classes, 1 + size, dtype=torch.float64, device=device)

    def add(self, y: Tensor, values: Tensor) -> None:
        """Add values (m, k) of examples with labels (m,)."""
        counted = torch.cat([torch.ones_like(values[:, :1]), values], 1)
        self._sums += sum_by_class(y, counted, len(self._sums))

    def take(self) -> Tensor:
        """Return the means (C, k), NaN for classes not seen, and begin anew."""
        sums = distributed.sum_(self._sums.clone())
        self._sums.zero_()
        return sums[:, 1:] / torch.where(sums[:, :1] > 0, sums[:, :1], torch.nan)


def sum_by_class(y: Tensor, values: Tensor, n_classes: int) -> Tensor:
    """Return the sums (C, k) float64 of values (m, k) by their labels (m,), added in one order: index_add has none."""
    of_class = torch.arange(n_classes, device=y.device)[:, None] == y
    return of_class.to(torch.float64) @ values.to(torch.float64)


def one_hot(y: Tensor, n_classes: int) -> Tensor:
    """Return whether labels (m,) are of each class, bool (m, C): torch's own reads them on a CPU."""
    return torch.arange(n_classes, device=y.device) == y[:, None]


def without_defaults(values: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """Return values without those that are the default of an option added later.

    A training begun before there was the option has no value for it, and goes on with the default.
    """
    return {name: value for name, value in values.items() if name not in added or value != added[name]}


def as_float64(given: Any, name: str, device: torch.device | None = None) -> Tensor:
    """Return numbers as a tensor float64: an array, a tensor, a list, a series or a frame.

    Args:
        given: The numbers.
        name: What to call them in messages.
        device: Where to; where they are, if absent.

    Raises:
        InputError: They are no numbers.
    """
    numbers = given if isinstance(given, Tensor) else torch.from_numpy(np.array(as_array(given, name), np.float64))
    return numbers.to(device=device, dtype=torch.float64)


def check_by_class(values: Tensor, name: str, *, unknown: bool = False) -> None:
    """Check numbers by class: (C,), finite and at least 0.

    Args:
        values: The numbers.
        name: What to call them in messages.
        unknown: Whether NaN may stand for classes without examples.

    Raises:
        InputError: They are others.
    """
    known = values[~values.isnan()] if unknown else values
    if values.dim() != 1 or len(values) == 0 or not bool(((known >= 0) & known.isfinite()).all()):
        raise InputError(
            f"The {name} must be numbers (C,), one per class, of at least 0 and finite"
            + ("; NaN for classes without examples." if unknown else ".")
        )


def check_same_shape(one: Tensor, other: Tensor, names: str) -> None:
    """Check that two formulas' arguments have one shape.

    Raises:
        InputError: They don't.
    """
    if one.shape != other.shape:
        raise InputError(f"The {names} must be of one shape, but have {tuple(one.shape)} and {tuple(other.shape)}.")


def as_confusion(given: Any) -> Tensor:
    """Return a confusion matrix (C, C) as float64, a row per true class; the row of a class without examples is 0.

    Args:
        given: Shares of the true class, or numbers; NaN in all of a row where the class has no example.

    Raises:
        InputError: It isn't square, or has negative entries or such as aren't finite.
    """
    matrix = as_float64(given, "confusion")
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) == 0:
        raise InputError(f"A confusion matrix must have shape (C, C), but has {tuple(matrix.shape)}.")
    matrix = matrix.masked_fill(matrix.isnan().all(1, keepdim=True), 0.0)
    if not bool(((matrix >= 0) & matrix.isfinite()).all()):
        raise InputError(
            "A confusion matrix must hold shares or numbers of at least 0; NaN, all of the row of a class without "
            "examples alone."
        )
    return matrix


def as_given(result: Tensor, given: Any) -> Any:
    """Return a result as an array where arrays were given."""
    return result if isinstance(given, Tensor) else np.asarray(result)


@dataclass
class Fixed(ClassPolicy):
    """Class weights and class budgets given once and for all.

    Class-weighted adversarial training in its plainest form, as Tian et al. 2021 (arXiv 2105.14240) suggest for the
    most vulnerable class.

    Args:
        weights: Factor of each class's loss: C numbers of at least 0, or a dict by class number, the others 1. They
            are taken as they are, not normalised.
        budgets: Radius of each class's training attack, in the units of the images: C numbers above 0, for Linf at most
            the width of the range of images, which is 1 for [0, 1]; or a dict by class number, the others the trainer's
            ``eps``. Steps are as much shorter or longer.

    Raises:
        InputError: Neither is given, or a number is out of range.
    """

    weights: Sequence[float] | Mapping[int, float] | None = None
    budgets: Sequence[float] | Mapping[int, float] | None = None

    def _check(self) -> None:
        self.weights, self.budgets = _plain("weights", self.weights), _plain("budgets", self.budgets)
        if self.weights is None and self.budgets is None:
            raise InputError("A fixed policy needs class `weights`, class `budgets`, or both.")
        for k, value in _items(self.weights):
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"Class weights must be finite and at least 0, but class {k} has {value:g}.")
        values = [value for _, value in _items(self.weights)]
        if isinstance(self.weights, list) and sum(values) == 0:
            raise InputError("The class weights sum to 0, so that nothing would be learnt: make one positive.")
        for k, value in _items(self.budgets):
            if not (math.isfinite(value) and value > 0):
                raise InputError(
                    f"Class budgets are finite radii above 0, in the units of the images, but class {k} has {value:g}: "
                    "take a small radius instead of 0."
                )

    def check_fit(self, n_classes: int, threat: ThreatModel, width: float) -> None:
        """See :class:`ClassPolicy`."""
        for name, given in (("weights", self.weights), ("budgets", self.budgets)):
            if isinstance(given, list) and len(given) != n_classes:
                raise InputError(f"There are {n_classes} classes, but {len(given)} class {name}.")
            if not _items(given) and given is not None:
                raise InputError(f"The dict of class {name} is empty: name a class, or leave it out.")
            outside = [k for k, _ in _items(given) if not 0 <= k < n_classes]
            if outside:
                raise InputError(f"Class {name} name class {outside[0]}, but the classes are 0 to {n_classes - 1}.")
        for k, value in _items(self.budgets):
            if threat.norm == "Linf" and value > width:
                raise InputError(
                    f"Class budgets are Linf radii above 0 and at most {width:g}, the width of the range of images, "
                    f"but class {k} has {value:g}."
                )
        if isinstance(self.weights, dict) and len(self.weights) == n_classes and not any(self.weights.values()):
            raise InputError("The class weights sum to 0, so that nothing would be learnt: make one positive.")

    def begin(self, context: PolicyContext) -> None:
        """See :class:`ClassPolicy`."""
        super().begin(context)
        for name, given, usual in (("weights", self.weights, 1.0), ("radii", self.budgets, context.eps)):
            if given is not None:
                values = [usual] * context.n_classes
                for k, value in _items(given):
                    values[k] = value
                self._state[name] = torch.tensor(values, dtype=torch.float64, device=context.device) / usual
        weights = self._state.get("weights")
        if weights is not None and not bool((weights * context.shares).sum() > 0):
            raise InputError(
                "The weights of all classes that there are training examples of are 0, so that nothing would be "
                "learnt: make one positive."
            )

    @property
    def sets_budgets(self) -> bool:
        """See :class:`ClassPolicy`."""
        return self.budgets is not None

    @property
    def class_budgets(self) -> ClassBudgets | None:
        """See :class:`ClassPolicy`."""
        radii = self._state.get("radii")
        return None if radii is None else ClassBudgets(radii, radii)

    def _in_force(self) -> ClassWeights:
        weights = self._state.get("weights")
        return ClassWeights(weights, weights)

    def describe(self) -> dict[str, Any]:
        """See :class:`ClassPolicy`."""
        told = {"weights": self.weights, "budgets": self.budgets}
        return {"name": "Fixed", **{n: {str(k): x for k, x in _items(v)} for n, v in told.items() if v is not None}}


def _plain(name: str, given: Any) -> Any:
    """Return numbers as a list or dict of Python's own.

    Raises:
        InputError: They aren't numbers.
    """
    if given is None:
        return None
    try:
        if isinstance(given, Mapping):
            if any(isinstance(k, bool) or int(k) != k for k in given) or _holds_bool(given.values()):
                raise ValueError
            if any(isinstance(value, str) for value in given.values()):
                raise ValueError
            return {int(k): float(value) for k, value in given.items()}
        if _holds_bool(given):
            raise ValueError
        if isinstance(given, (list, tuple)) and any(isinstance(value, str) for value in given):
            raise ValueError
        array = np.asarray(given, dtype=np.float64)
        if array.ndim != 1 or array.size == 0:
            raise ValueError
        return [float(value) for value in array]
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"Class {name} must be numbers, one per class, or a dict of numbers by class number, but got "
            f"{shown(given)}."
        ) from None


def _holds_bool(values: Any) -> bool:
    return any(isinstance(value, (bool, np.bool_)) for value in values)


def _items(given: Any) -> list[tuple[int, float]]:
    if given is None:
        return []
    return list(given.items()) if isinstance(given, dict) else list(enumerate(given))
