"""AutoAttack: its standard members behind ART's interface, searching fast and judged exactly."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import InitVar, dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from art.attacks.attack import EvasionAttack
from art.estimators.classification.classifier import ClassifierMixin
from art.estimators.estimator import BaseEstimator, LossGradientsMixin
from art.estimators.pytorch import PyTorchEstimator
from torch import Tensor

from art_classwise._core import art_interface
from art_classwise._core.arrays import as_array
from art_classwise._core.forward import check_predicts_logits, in_passes
from art_classwise._core.labels import check_labels, check_reads_true_labels
from art_classwise._core.options import option, optional, whole
from art_classwise._core.progress import progress
from art_classwise._core.state import evaluating, float32, frozen, no_seed_for_cuda, preserved, preserved_random_state
from art_classwise.attacks._apgd import APGD, Loss
from art_classwise.attacks._autoattack_members import FABAttack_PT, SquareAttack, Unit
from art_classwise.attacks._base import Parameters
from art_classwise.attacks._problem import warn_of_zero_gradients
from art_classwise.attacks.fast_copy import Precision, check_precision, fast_network
from art_classwise.attacks.search import is_degenerate
from art_classwise.attacks.target_order import TargetOrder, check_target_order, malt_order
from art_classwise.errors import GradientMaskingWarning, InputError, check_flag, check_seed, check_whole, unknown
from art_classwise.threat import ThreatModel, per_example

__all__ = ["MEMBERS", "AutoAttack", "members_left_out", "members_of", "needs_gradients"]

_STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")
MEMBERS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")

# These search in float32 always. Square leaves an example once its margin is 0, and in bfloat16 two logits are soon
# equal; FAB walks along the boundary, which in bfloat16 lies elsewhere. Of 92 test images of CIFAR-10 that CNN-A has
# right, Square alone broke 2 in bfloat16 and 8 in float32, FAB-T 10 and 16 (Linf 2/255), with denied ones run again.
_FULL_PRECISION = ("fab", "fab-t", "square")

_LOSSES: dict[str, Loss] = {"apgd-ce": "ce", "apgd-dlr": "dlr", "apgd-t": "dlr-targeted"}
_COMPARED = {"apgd-t": 4, "apgd-dlr": 3}  # as many classes as the denominators of DLR name
_NO_GRADIENT = "needs gradients, and none goes through the network"


@dataclass(eq=False, repr=False)
class AutoAttack(Parameters):
    """The attacks of AutoAttack, one after the other, each on the examples that withstood those before it.

    Croce and Hein 2020 (arXiv 2003.01690); for L1, Croce and Hein 2021 (arXiv 2103.01208). The members are those of
    pyautoattack's standard version, with its parameters, made faster: from APGD, examples leave once they are broken;
    FAB's and Square's steps are cheaper. They search on a fast copy of the network; whether an example is broken is
    decided in float32 on the network itself, at the very point that is returned. What the copy took for a success
    wrongly is attacked again on the network itself.

    With the same ``seed`` and ``batch_size`` it breaks what ``pyautoattack.AutoAttack`` breaks. As there, random
    numbers belong to a batch: another batch size gives another, equally strong, attack.

    Args:
        estimator: An ART ``PyTorchClassifier`` with logits and scalar ``clip_values``. Inputs are images (C, H, W) or
            of any other shape: vectors are searched as one row of pixels, and of more axes all but the last two as
            channels.
        norm: ``np.inf``, 2 or 1.
        eps: Radius, in the units of x, one for all examples.
        attacks: ``"standard"`` (apgd-ce, apgd-t, fab-t, square), or one or several of ``"apgd-ce"``, ``"apgd-dlr"``,
            ``"apgd-t"``, ``"fab"``, ``"fab-t"``, ``"square"``, in the order in which they are to run.
            ``"standard"`` leaves out apgd-t with fewer than four classes, which its loss compares. The memory of fab
            grows with the classes. None is ``"standard"``, as in ART's. Attacks of ART may stand in the list, too, on
            any classifier with the same classes: they run last, each on what withstood all before it.
        batch_size: Examples attacked at once.
        n_iter: Steps of APGD and FAB, per restart and target class.
        n_queries: Steps of Square.
        seed: Of each member.
        precision: ``"fp32"``, ``"bf16"``, or ``"auto"``: bf16 for networks of a million weights or more on hardware
            that multiplies it. It is for APGD: FAB and Square search in float32; on CUDA, unless ``"fp32"`` is asked
            for, in TF32, as pyautoattack's do on recent GPUs. What TF32 breaks wrongly is attacked again in float32.
        micro_batch_size: Examples per pass through the network; none means all of the batch. It is for memory's sake,
            and changes no outcome.
        target_order: Which classes apgd-t and fab-t try first, of which they try nine: those with the largest
            ``"logits"``, as the standard version does; or ``"malt"``, those whose boundary is nearest to first order
            (Melamed et al. 2024, NeurIPS, MALT; fab-t in L1 keeps the logits' order). It isn't the standard version
            then: audits name it ``autoattack-malt``.
        n_target_classes: How many classes apgd-t and fab-t try at most; None as the standard version does: nine, of
            apgd-t in L1 five.
        verbose: Show a progress bar.

    Attributes:
        zero_gradient: (n,) bool after :meth:`generate`: whether the margin's gradient at x is all zero or not
            finite, for the examples that were attacked. Many of them are a sign of masked gradients, and warned of.
        left_out: After :meth:`generate`, the members that did not run, and why; warned of, too. Where no gradient goes
            through the network for any example, all but Square are left out.

    Raises:
        art.exceptions.EstimatorError: The estimator isn't a PyTorch classifier with loss gradients.
        InputError: A parameter is out of range, or a member named can't attack this classifier.
    """

    kind: ClassVar[str] = "AutoAttack"
    _estimator_requirements = (BaseEstimator, LossGradientsMixin, ClassifierMixin, PyTorchEstimator)

    estimator: InitVar[Any] = field()  # without one, ART's property would be its default
    norm: float | str = option(np.inf)
    eps: float = option(8 / 255)
    attacks: str | Sequence[str | EvasionAttack] = option(
        "standard", lambda _, given: "standard" if given is None else given
    )
    batch_size: int = option(250, whole(1))
    n_iter: int = option(100, whole(1))
    n_queries: int = option(5000, whole(1))
    seed: int = option(0, lambda _, seed: check_seed(seed))
    precision: Precision = option("auto", check_precision)
    micro_batch_size: int | None = option(None, optional(whole(1)))
    verbose: bool = option(True, check_flag)
    target_order: TargetOrder = option("logits", check_target_order)
    n_target_classes: int | None = option(None, optional(whole(1)))

    @property
    def redundant_params(self) -> frozenset[str]:
        """See :class:`art_classwise.attacks._base.Parameters`."""
        unchanged = {"target_order": self.target_order == "logits", "n_target_classes": self.n_target_classes is None}
        return frozenset(name for name, is_so in unchanged.items() if is_so)

    def __post_init__(self, estimator: Any) -> None:
        self._start(estimator)
        self.zero_gradient: npt.NDArray[np.bool_] = np.zeros(0, dtype=bool)
        self.left_out: dict[str, str] = {}
        self._check_params()

    @property
    def threat(self) -> ThreatModel:
        """The threat model: the attack's norm and radius."""
        return ThreatModel.from_art(self.norm, self.eps)

    @property
    def members(self) -> tuple[str, ...]:
        """Names of the attacks that run, in order, where gradients go through the network."""
        return members_of(self.attacks, self.estimator.nb_classes)

    def generate(
        self, x: npt.NDArray[Any], y: npt.NDArray[Any] | None = None, **kwargs: Any
    ) -> npt.NDArray[np.float32]:
        """Return adversarial examples; x itself where the model is wrong already, or where no member succeeds.

        Args:
            x: (n, ...) images within the estimator's ``clip_values``.
            y: True labels: indices (n,) or one-hot (n, C). If absent, the model's own predictions.
            **kwargs: None; masks are refused.

        Returns:
            float32, of the shape of x.

        Raises:
            InputError: Labels are out of range or of another length; x is empty, not finite or outside
                ``clip_values``; or the model doesn't return finite logits (n, C).
        """
        images = self._checked(x, kwargs)
        labels = None if y is None else check_labels(y, len(images), self.estimator.nb_classes)
        found, predicted = images.copy(), np.empty(len(images), dtype=np.int64)
        self.zero_gradient = np.zeros(len(images), dtype=bool)
        model = self.estimator.model
        with preserved_random_state(self.seed), no_seed_for_cuda(), preserved(model), evaluating(model), frozen(model):
            exact = Unit(self.estimator, model, self.micro_batch_size)
            for rows in self._batches(np.arange(len(images))):
                predicted[rows] = exact.verdict(self._on_device(images[rows]), rows).cpu().numpy()
            labels = predicted if labels is None else labels
            robust = predicted == labels
            attacked = np.flatnonzero(robust)
            lost = []  # of each batch, whether no gradient goes through
            at_once = min(self.batch_size, self.micro_batch_size or self.batch_size)
            for rows in self._batches(attacked, at_once):
                gradient = exact.margin_gradient(self._on_device(images[rows]), self._on_device(labels[rows]))
                self.zero_gradient[rows] = True if gradient is None else is_degenerate(gradient).cpu().numpy()
                lost.append(gradient is None)
            self.left_out = self._left_out(no_gradient=bool(lost) and all(lost))
            for name in (name for name in self.members if name not in self.left_out):
                precision: Precision = "fp32" if name in _FULL_PRECISION else self.precision
                tf32 = name in _FULL_PRECISION and self.precision != "fp32"
                fast = fast_network(self.estimator, images, precision)
                searched = exact if fast is model else Unit(self.estimator, fast, self.micro_batch_size)
                batches = self._batches(np.flatnonzero(robust))
                for rows in progress(batches, desc=f"AutoAttack {name}", leave=False, shown=self.verbose):
                    x_batch, y_batch = self._on_device(images[rows]), self._on_device(labels[rows])
                    points, broken = self._attack(name, searched, exact, rows, x_batch, y_batch, tf32=tf32)
                    hit = broken.cpu().numpy()  # the host waits, once per batch: it must know who is left
                    found[rows[hit]], robust[rows[hit]] = points[broken].cpu().numpy(), False
            self._run_others(exact, images, labels, robust, found)
        self._warn(attacked)
        return found

    def _left_out(self, *, no_gradient: bool) -> dict[str, str]:
        left = members_left_out(self.attacks, self.estimator.nb_classes)
        if no_gradient:
            left |= {name: _NO_GRADIENT for name in self.members if needs_gradients(name)}
        return left

    def _warn(self, attacked: npt.NDArray[np.intp]) -> None:
        masked = [name for name, why in self.left_out.items() if why == _NO_GRADIENT]
        if masked:
            others = [name for name in self.members if name not in self.left_out]
            warnings.warn(
                f"No gradient goes through the network: AutoAttack ran without {', '.join(masked)}, so with "
                f"{', '.join(others) or 'no member at all'}. The network may be weaker than it looks: see the attack's "
                "`zero_gradient` and `left_out`, try Square or a transfer.",
                GradientMaskingWarning,
                stacklevel=3,
            )
        else:
            warn_of_zero_gradients(self.zero_gradient[attacked])
        for name, why in self.left_out.items():
            if name not in masked:
                warnings.warn(f'AutoAttack ran without "{name}", which {why}.', UserWarning, stacklevel=3)

    def _attack(
        self, name: str, searched: Unit, exact: Unit, rows: npt.NDArray[np.intp], x: Tensor, y: Tensor, *, tf32: bool
    ) -> tuple[Tensor, Tensor]:
        """Run a member on images x (m, ...) of these rows; return points, and who is broken there (m,)."""
        unit = ((x - exact.low) / exact.width).clamp(0, 1).view(len(x), *exact.seen_shape)
        with torch.no_grad():
            # Where nothing is rounded on purpose, nothing shall be: verdicts would deny it, and none would search on.
            exactly = name in _FULL_PRECISION or searched is exact
            with float32(x.device.type, tf32=tf32) if exactly else nullcontext():
                adversarial = self._member(name, searched).perturb(unit, y)
            # A member leaves x as it is unless it succeeds, or unless the network it searches is wrong there.
            moved = (adversarial != unit).flatten(1).any(1)
            claimed = moved | (searched(unit).argmax(1) != y)
            searched.check_finite(rows)
            points = torch.add(exact.low, adversarial, alpha=exact.width).view_as(x)
            points = self.threat.project(points, x, exact.low, exact.high)
            usable = moved & points.isfinite().flatten(1).all(1)  # NaN gradients make points of NaN, "misclassified"
            points = torch.where(per_example(usable, x), points, x)
        broken = exact.verdict(points, rows) != y
        denied = claimed & ~broken
        if (searched is not exact or (tf32 and x.is_cuda)) and bool(denied.any()):
            again = self._attack(name, exact, exact, rows[denied.cpu().numpy()], x[denied], y[denied], tf32=False)
            points[denied], broken[denied] = again
        return points, broken

    def _run_others(
        self,
        exact: Unit,
        images: npt.NDArray[np.float32],
        labels: npt.NDArray[np.int64],
        robust: npt.NDArray[np.bool_],
        found: npt.NDArray[np.float32],
    ) -> None:
        """Let the attacks of ART run, each on the images that are robust still, and note what they find."""
        one_hot = np.eye(self.estimator.nb_classes, dtype=np.float32)
        others = [] if isinstance(self.attacks, str) else [a for a in self.attacks if isinstance(a, EvasionAttack)]
        for attack in others:
            for rows in self._batches(np.flatnonzero(robust)):
                extra = {"example_ids": rows} if getattr(attack, "uses_example_ids", False) else {}
                given = np.asarray(attack.generate(images[rows], one_hot[labels[rows]], **extra), dtype=np.float32)
                if given.shape != images[rows].shape or not np.isfinite(given).all():
                    raise InputError(
                        f"The {type(attack).__name__} among `attacks` must return finite images of shape "
                        f"{images[rows].shape}."
                    )
                x = self._on_device(images[rows])
                points = self.threat.project(self._on_device(given), x, exact.low, exact.high)
                broken = (exact.verdict(points, rows) != self._on_device(labels[rows])).cpu().numpy()
                found[rows[broken]], robust[rows[broken]] = points.cpu().numpy()[broken], False

    def _on_device(self, array: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.estimator.device)

    def _member(self, name: str, module: Unit) -> APGD | FABAttack_PT | SquareAttack:
        """Return one of AutoAttack's attacks on a module over [0, 1], set as its standard version sets it."""
        norm, others = self.threat.norm, self.estimator.nb_classes - 1
        eps = float(self.eps) / module.width  # pyautoattack takes no NumPy numbers

        def by_malt(x: Tensor, y: Tensor) -> Tensor:
            (targets,) = in_passes(
                lambda x, y: (malt_order(module, x, y, norm, lambda logits: logits),), self.micro_batch_size, x, y
            )
            return targets

        order = by_malt if self.target_order == "malt" else None
        if name.startswith("apgd"):
            return APGD(
                module=module,
                norm=norm,
                eps=eps,
                n_iter=self.n_iter,
                loss=_LOSSES[name],
                n_restarts=5 if norm == "L1" and name != "apgd-t" else 1,
                n_target_classes=min(self.n_target_classes or (5 if norm == "L1" else 9), others),
                order=order,
                seed=self.seed,
                micro_batch_size=self.micro_batch_size,
            )
        shared: dict[str, Any] = {"norm": norm, "eps": eps, "seed": self.seed, "device": self.estimator.device}
        if name == "square":
            shape = self.estimator.input_shape
            shared["to_the_edge"] = len(shape) != 3 or min(shape[1:]) < 5
            return SquareAttack(module, p_init=0.8, n_queries=self.n_queries, resc_schedule=False, **shared)
        fab = FABAttack_PT(
            module,
            targeted=name == "fab-t",
            n_target_classes=min(self.n_target_classes or 9, others),
            n_iter=self.n_iter,
            **shared,
        )
        fab.order, fab.micro_batch_size = order, self.micro_batch_size
        return fab

    def _batches(self, rows: npt.NDArray[np.intp], size: int | None = None) -> list[npt.NDArray[np.intp]]:
        size = self.batch_size if size is None else size
        return [rows[begin : begin + size] for begin in range(0, len(rows), size)]

    def _checked(self, x: npt.NDArray[Any], kwargs: dict[str, Any]) -> npt.NDArray[np.float32]:
        if kwargs.pop("mask", None) is not None:
            raise InputError("AutoAttack changes whole images and takes no mask: PGD and TemperaturePGD do.")
        if kwargs:
            raise InputError(f"generate() got {', '.join(kwargs)}; it takes x and y.")
        images = np.array(as_array(x, "x"), dtype=np.float32, order="C")
        art_interface.check_images(images, self.estimator, self.threat, tolerance=1e-6, wide_radius=True)
        low, high = self.estimator.clip_values
        return images.clip(low, high, out=images)  # what missed them by a rounding

    def _check_params(self) -> None:
        super()._check_params()
        check_predicts_logits("The estimator", self.estimator)
        if self.threat.norm == "L1":  # its schedule cuts the steps in three
            check_whole("n_iter", self.n_iter, 3)
        bounds = self.estimator.clip_values
        if np.shape(bounds) != (2,) or not np.isfinite(bounds).all():
            came = "are absent" if bounds is None else "are infinite or arrays"
            raise InputError(f"AutoAttack needs clip_values of two finite numbers, such as (0, 1), but they {came}.")
        if not isinstance(self.attacks, (str, Sequence)) or len(self.attacks) == 0:
            raise InputError(
                f'`attacks` must be "standard", names of members or attacks of ART, but got {self.attacks!r}.'
            )
        for attack in self.attacks:
            if isinstance(attack, EvasionAttack):
                check_reads_true_labels(f"The {type(attack).__name__} among `attacks`", attack)
        for name in (names := self.members):
            if name not in MEMBERS:
                raise unknown("member of AutoAttack", name, MEMBERS, hint='"standard" stands for four of them.')
            if names.count(name) > 1:
                raise InputError(f"`attacks` names {name!r} twice.")
            if (obstacle := _obstacle(name, self.estimator.nb_classes)) is not None:
                raise InputError(f'The member "{name}" {obstacle}: take "apgd-ce" or "fab-t".')


def members_of(attacks: str | Sequence[Any], n_classes: int) -> tuple[str, ...]:
    """Return the members that run on a model of so many classes, in order.

    Args:
        attacks: As for :class:`AutoAttack`.
        n_classes: Of the model.
    """
    if attacks == "standard":
        return tuple(name for name in _STANDARD if _obstacle(name, n_classes) is None)
    given = (attacks,) if isinstance(attacks, str) else attacks
    return tuple(name for name in given if not isinstance(name, EvasionAttack))


def members_left_out(attacks: str | Sequence[str], n_classes: int) -> dict[str, str]:
    """Return which members AutoAttack leaves out with so many classes, and why: ``"apgd-t"``, ``"compares ..."``.

    Args:
        attacks: As for :class:`AutoAttack`; members that are named are not left out, but refused.
        n_classes: Of the model.
    """
    if attacks != "standard":
        return {}
    return {name: why for name in _STANDARD if (why := _obstacle(name, n_classes)) is not None}


def needs_gradients(name: str) -> bool:
    """Return whether a member goes by the network's gradients."""
    return name != "square"


def _obstacle(name: str, n_classes: int) -> str | None:
    """Return why a member can't attack a model of so many classes; nothing if it can."""
    compared = _COMPARED.get(name, 2)
    return f"compares {compared} classes, and the model has {n_classes}" if n_classes < compared else None
