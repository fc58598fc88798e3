"""Adversarial training with attacks of a single step: FGSM-RS and N-FGSM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from torch import Tensor

from art_classwise import losses
from art_classwise._core import art_interface
from art_classwise.errors import InputError, check_number, unknown
from art_classwise.trainers._base import SearchTrainer
from art_classwise.trainers.engine.adversary import Adversary, InnerSearch
from art_classwise.trainers.engine.collapse import CollapseWatch, OnCollapse
from art_classwise.trainers.engine.options import TrainingOptions
from art_classwise.trainers.engine.schedule import FitArguments
from art_classwise.trainers.engine.step import Objective

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["AdversarialTrainerFastPyTorch", "FastMethod"]

FastMethod = Literal["n-fgsm", "fgsm-rs"]


class _Kind(NamedTuple):
    """What makes a method: lengths are relative to the radius."""

    noise: float
    step: float
    clipped: bool


_KINDS = {"n-fgsm": _Kind(2.0, 1.0, clipped=False), "fgsm-rs": _Kind(1.0, 1.25, clipped=True)}


class AdversarialTrainerFastPyTorch(SearchTrainer):
    """Fast adversarial training: cross-entropy under an attack of one step, watched for catastrophic overfitting.

    The methods are:

    * ``"n-fgsm"``: uniform noise of twice the radius and a step as long as the radius, neither of which is brought back
      into the ball; only the range of images bounds them (de Jorge et al. 2022, arXiv 2202.01181, algorithm 1).
    * ``"fgsm-rs"``: a uniform start in the ball, and a step of 1.25 times the radius, brought back into it (Wong, Rice,
      Kolter 2020, arXiv 2001.03994, algorithm 3).

    Noise, steps and clipping were read in the authors' code: pdejorge/N-FGSM, ``train.py``, and
    locuslab/fast_adversarial, ``CIFAR10/train_fgsm.py``. Both attack in train mode, ``attack_mode="train"``, and train
    a PreAct-ResNet-18 in batches of 128 with weight decay 5e-4 and a cyclic schedule that rises to 0.2 and falls to 0,
    for 30 epochs (N-FGSM) and 15 (FGSM-RS). What they do beside that isn't done here: on SVHN, N-FGSM's peaks at 0.05
    and lets the radius grow over the first 5 epochs; FGSM-RS's computes in half precision. Neither was run, so that
    their papers' accuracies aren't verified. ART has FGSM-RS as ``AdversarialTrainerFBFPyTorch``.

    Such training may fail within an epoch: the network withstands the one step it is trained with, but several no
    longer. With ``validation_data`` the history tells so class by class: ``val_single_<k>`` is the accuracy under one
    step from the image itself, as long as the radius (FGSM), ``val_robust_<k>`` that under ``max_iter`` steps of a
    quarter of the radius (PGD), ``val_gap_<k>`` their difference. A class has collapsed, ``collapsed_<k>`` is 1, in an
    epoch in which the latter is at most half of its best before, and at least ``collapse_gap`` below the former.
    ``attrs["collapsed"]`` is a dict of the classes that did and the epochs in which they did first, in that order.

    Args:
        classifier: An ART ``PyTorchClassifier`` with an optimizer.
        method: One of these.
        noise: Radius of the uniform start, relative to the ball's; 2 for N-FGSM, 1 for FGSM-RS if absent, 0 is none.
        on_collapse: What is done in the first epoch in which a class collapses: ``"stop"`` ends training there,
            ``"restore"`` ends it with the weights from after the epoch before. None only tells. Both need
            ``validation_data``. Where ``keep`` chose another epoch before, its weights stay chosen.
        collapse_gap: The smallest difference of the two accuracies of a collapse, from 0 to 1.
        **options: As for all trainers, :class:`art_classwise.trainers.TrainingOptions`, but for ``attack`` and
            ``friendly_tau``. ``eps_step`` is the length of the one step, the method's if absent; ``max_iter`` is the
            number of steps of the attack on validation examples.

    Raises:
        InputError: One of these is out of range, there is an ``attack``, or nothing to validate on where
            ``on_collapse`` needs it; and as :class:`SearchTrainer`.
    """

    _own_attack_only = "Fast adversarial training is defined by its own attack of one step: leave `attack` out."

    def __init__(
        self,
        classifier: Any,
        method: FastMethod = "n-fgsm",
        *,
        noise: float | None = None,
        on_collapse: OnCollapse | None = None,
        collapse_gap: float = 0.25,
        **options: Unpack[TrainingOptions],
    ) -> None:
        if method not in _KINDS:
            raise unknown("method of fast adversarial training", method, get_args(FastMethod))
        if options.get("attack") is not None:
            raise InputError(self._own_attack_only)
        if options.get("friendly_tau") is not None:
            raise InputError(
                "Fast adversarial training attacks in one step, so `friendly_tau` has no effect: leave it out."
            )
        super().__init__(classifier, **options)
        kind = _KINDS[method]
        self.method, self._clipped = method, kind.clipped
        self.noise = kind.noise if noise is None else noise
        check_number("noise", self.noise, 0, np.inf, below=True, words="of at least 0, and finite")
        if self.options["eps_step"] is None:
            self.eps_step = kind.step * self.threat.eps
        if on_collapse not in (None, *get_args(OnCollapse)):
            raise unknown("answer to a collapse, `on_collapse`,", on_collapse, get_args(OnCollapse))
        self.on_collapse = on_collapse
        self.collapse_gap = check_number("collapse_gap", collapse_gap, 0, 1, above=True)

    def _adversary(self, **options: Any) -> Adversary:
        low, high = art_interface.clip_bounds(self._classifier, self._classifier.device)
        if options:
            options |= {"noise": float(self.noise), "clipped": self._clipped}
            return InnerSearch(self.threat, self.eps_step, 1, low, high, **options)
        return InnerSearch(self.threat, self.threat.eps / 4, self.options["max_iter"], low, high)

    def _watch(self) -> CollapseWatch:
        low, high = art_interface.clip_bounds(self._classifier, self._classifier.device)
        single = InnerSearch(self.threat, self.threat.eps, 1, low, high, start="clean")
        return CollapseWatch(single, self.on_collapse, float(self.collapse_gap), self._classifier.nb_classes)

    def _checked(self, validation_data: Any, nb_epochs: int | None, *others: Any) -> FitArguments:
        if self.on_collapse is not None and validation_data is None:
            raise InputError(
                f'`on_collapse="{self.on_collapse}"` needs `validation_data`, held-out images on which a collapse '
                "is seen."
            )
        return super()._checked(validation_data, nb_epochs, *others)

    def _objective(self, adversary: Adversary) -> Objective:
        def terms(logits: Tensor | None, logits_adv: Tensor, y: Tensor) -> tuple[Tensor, None]:
            return losses.standard(logits_adv, y, self.options["label_smoothing"]), None

        return Objective(terms, None, uses_clean=False, adversary=adversary)

    def _parameters(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "noise": float(self.noise),
            "on_collapse": self.on_collapse,
            "collapse_gap": float(self.collapse_gap),
        }
