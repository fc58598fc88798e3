"""Adversarial distillation: ARD, RSLAD, Fair-ARD and ABSLD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from art.estimators.classification import ClassifierMixin
from torch import Tensor, nn

from art_classwise import losses
from art_classwise._core import art_interface
from art_classwise._core.forward import check_predicts_logits, warn_of_probabilities
from art_classwise.errors import InputError, check_flag, check_number, unknown
from art_classwise.threat import Uniform
from art_classwise.trainers._base import SearchTrainer
from art_classwise.trainers.engine.adversary import Adversary, Budgets
from art_classwise.trainers.engine.options import TrainingOptions
from art_classwise.trainers.engine.soft_labels import TeacherLabels
from art_classwise.trainers.engine.step import Objective
from art_classwise.trainers.policies import ABSLD, ClassPolicy, FairARD

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["AdversarialTrainerDistillationPyTorch", "DistillationMethod"]

DistillationMethod = Literal["ard", "rslad", "fair-ard", "absld"]

_POLICIES: dict[str, type[ClassPolicy]] = {"fair-ard": FairARD, "absld": ABSLD}
"""The policies that make two of the methods what they are."""


class AdversarialTrainerDistillationPyTorch(SearchTrainer):
    """Distillation of a teacher into a robust network: ARD, RSLAD, Fair-ARD, ABSLD.

    The teacher predicts each batch's clean images, in eval mode; its modes, flags, gradients and weights stay as they
    are. The methods are:

    * ``"ard"`` descends :func:`art_classwise.losses.ard`; the attack ascends cross-entropy from a uniform start
      (Goldblum et al. 2020, arXiv 1905.09747, algorithm 1).
    * ``"rslad"`` descends :func:`art_classwise.losses.rslad`; the attack ascends the KL divergence from the teacher's
      clean prediction, from x + 0.001 N(0, 1) (Zi et al. 2021, arXiv 2108.07969, eq. 7).
    * ``"fair-ard"`` is ARD with class weights by :class:`art_classwise.policies.FairARD` (Yue et al., NeurIPS 2023).
    * ``"absld"`` is RSLAD with class temperatures by :class:`art_classwise.policies.ABSLD` (Zhao et al., NeurIPS 2024,
      arXiv 2312.05508).

    The released codes of RSLAD and ABSLD classify attacked images first, then clean ones, and train for 300 epochs with
    learning rate .1, decays at 215, 260 and 285, and weight decay 2e-4: ``passes="ac"``. Fair-ARD's, which is ARD's,
    takes Nesterov momentum, the same weight decay and decays at 100 and 150 of 200 epochs, and attacks in train mode:
    ``attack_mode="train", passes="ac"``.

    Args:
        classifier: An ART ``PyTorchClassifier`` with an optimizer: the student.
        teacher: An ART classifier with the same classes, of images of the same shape and range; of PyTorch, or one that
            predicts logits.
        method: One of these.
        alpha: Share of the term under attack, from 0 to 1: of ARD's distillation, which is 1 by default, so that no
            clean image is classified; of RSLAD's second term, 5/6 by default.
        temperature: What both networks' logits are divided by in ARD's divergence, from 0.001 to 1,000; 30 if absent.
        exact: Divide the divergences by the number of classes, as the released codes do.
        **options: As for all trainers: :class:`art_classwise.trainers.TrainingOptions`. A ``class_policy`` acts on the
            two terms; of ``"fair-ard"`` and ``"absld"`` it is their own, perhaps with other parameters.

    Raises:
        InputError: The teacher isn't such a classifier, or is the student itself, or shares weights with it that are
            trained; another parameter is out of range; and as :class:`SearchTrainer`.
    """

    def __init__(
        self,
        classifier: Any,
        teacher: Any = None,
        method: DistillationMethod = "rslad",
        *,
        alpha: float | None = None,
        temperature: float | None = None,
        exact: bool = False,
        **options: Unpack[TrainingOptions],
    ) -> None:
        if method not in get_args(DistillationMethod):
            raise unknown("method of distillation", method, get_args(DistillationMethod))
        if method in _POLICIES:
            own = _POLICIES[method]
            policy, plain = options.get("class_policy") or own(), "ard" if method == "fair-ard" else "rslad"
            if not any(isinstance(one, own) for one in getattr(policy, "policies", (policy,))):
                raise InputError(
                    f'The method "{method}" sets its own class policy, {own.__name__}: leave `class_policy` out, '
                    f'combine the two, or take the method "{plain}" with another one.'
                )
            options["class_policy"] = policy
        super().__init__(classifier, **options)
        _check_teacher(teacher, classifier)
        self.teacher, self.method, self._softens = teacher, method, method in ("ard", "fair-ard")
        if temperature is not None and not self._softens:
            raise InputError(
                f'`temperature` is a parameter of the methods "ard" and "fair-ard", but the method is "{method}"'
                + (": set it class by class, `class_policy=ABSLD(...)`." if method == "absld" else ", whose is 1.")
            )
        self.alpha = (1.0 if self._softens else 5 / 6) if alpha is None else alpha
        self.temperature = 30.0 if temperature is None else temperature
        check_number("alpha", self.alpha, 0, 1)
        check_number("temperature", self.temperature, losses.SHARPEST, losses.SOFTEST)
        self.exact = check_flag("exact", exact)
        if options.get("label_smoothing") and not (self._softens and self.alpha < 1):
            raise InputError(
                '`label_smoothing` is that of a cross-entropy, which distillation has only by the methods "ard" and '
                '"fair-ard" with `alpha` below 1: leave it out.'
            )
        self._labels = TeacherLabels(teacher, classifier.nb_classes)
        if not self._softens:
            self._start, self._ascended = "gaussian", "kl"

    def _adversary(self, **options: Any) -> Adversary:
        if options and not self._softens:
            options["reference"] = self._labels
        return _Taught(super()._adversary(**options), self._labels, self.excluded)

    def _objective(self, adversary: Adversary) -> Objective:
        kept = [k for k in range(self._classifier.nb_classes) if k not in self.excluded]
        scale = 1 / self._classifier.nb_classes if self.exact else 1.0
        two_terms = self.alpha < 1

        def terms(logits: Tensor | None, logits_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
            teacher, teacher_adv = (_columns(z, kept) for z in (self._labels.logits, self._labels.logits_adv))
            first: Tensor | None
            if self._softens:
                smoothing = self.options["label_smoothing"]
                first, second = losses.ard_terms(
                    *(logits, logits_adv, teacher_adv, y, self.temperature, smoothing), classify=two_terms
                )
            else:
                first, second = None, losses.kl(teacher_adv, logits_adv)
                if two_terms:
                    assert logits is not None  # uses_clean asks for them
                    first, second = losses.rslad_terms(logits, logits_adv, teacher, teacher_adv)
                    first = scale * first
            second = self.alpha * scale * second
            return (second, None) if first is None else ((1 - self.alpha) * first, second)

        return Objective(
            terms,
            1.0 if two_terms else None,
            uses_clean=two_terms,
            adversary=adversary,
            soft_labels=self._labels,
        )

    def _parameters(self) -> dict[str, Any]:
        own = {"temperature": float(self.temperature)} if self._softens else {}
        given = {"method": self.method, "alpha": float(self.alpha), "exact": self.exact, **own}
        return {**given, **self._labels.describe()}

    def _train(self, *arguments: Any) -> pd.DataFrame:
        model = getattr(self.teacher, "model", None)
        sample = art_interface.trial_images(self._classifier)
        self._labels.see(sample, torch.zeros(len(sample), dtype=torch.int64, device=sample.device))
        if not bool(self._labels.logits.isfinite().all()):
            raise InputError(
                "The teacher's logits aren't finite: they are to be learnt, and a loss of them would be NaN. Look for "
                "a division or a logarithm in it that meets 0, or for weights that aren't numbers."
            )
        if isinstance(model, nn.Module):
            consequence = "Distillation applies the softmax itself, and of the teacher's labels little is left"
            warn_of_probabilities(self._labels.logits, model, consequence, stacklevel=4)
        return super()._train(*arguments)


@dataclass(frozen=True)
class _Taught:
    """An attack on a batch of which the teacher is asked first."""

    adversary: Adversary
    labels: TeacherLabels
    excluded: tuple[int, ...]

    def __call__(
        self, module: nn.Module, x: Tensor, y: Tensor, uniform: Uniform, budgets: Budgets | None = None
    ) -> Tensor:
        """See :class:`Adversary`."""
        self.labels.see(x, y, self.excluded)
        return self.adversary(module, x, y, uniform, budgets)


def _columns(logits: Tensor, kept: Sequence[int]) -> Tensor:
    return logits if len(kept) == logits.shape[1] else logits[:, kept]


def _check_teacher(teacher: Any, classifier: Any) -> None:
    """Check that a teacher can teach a classifier.

    Raises:
        InputError: It can't.
    """
    if teacher is None:
        raise InputError(
            "Distillation needs a `teacher`: an ART classifier of the same classes, such as load_checkpoint(...) or "
            "load_robustbench(...)."
        )
    if not isinstance(teacher, ClassifierMixin):
        raise InputError(
            f"`teacher` must be an ART classifier, but is a {type(teacher).__name__}; as_classifier() makes one of any "
            "torch module."
        )
    check_predicts_logits("The teacher", teacher)
    if teacher is classifier or getattr(teacher, "model", teacher) is classifier.model:
        raise InputError("The teacher is the network that is trained: give another one, or a copy of its weights.")
    shared = _shared_weight(getattr(teacher, "model", None), classifier.model)
    if shared is not None:
        raise InputError(
            f"The teacher shares weights with the network that is trained, {shared}, and would change with it: give it "
            "its own, copy.deepcopy(network)."
        )
    if teacher.nb_classes != classifier.nb_classes:
        raise InputError(
            f"The teacher has {teacher.nb_classes} classes, but the classifier has {classifier.nb_classes}: they must "
            "be the same, in the same order."
        )
    if tuple(teacher.input_shape) != tuple(classifier.input_shape):
        raise InputError(
            f"The teacher takes images of shape {tuple(teacher.input_shape)}, but the classifier takes "
            f"{tuple(classifier.input_shape)}: they must be the same."
        )
    ranges = [None if c.clip_values is None else np.asarray(c.clip_values, np.float64) for c in (teacher, classifier)]
    if ranges[0] is not None and ranges[1] is not None and not _same(*ranges):
        raise InputError(
            f"The teacher takes images within {teacher.clip_values}, but the classifier takes them within "
            f"{classifier.clip_values}: they must be the same."
        )


def _shared_weight(teacher: Any, student: nn.Module) -> str | None:
    """Return the name of one of a teacher's weights or buffers that training its student changes; None of none."""
    if not isinstance(teacher, nn.Module):
        return None
    trained = [*(p for p in student.parameters() if p.requires_grad), *student.buffers()]
    places = {*map(_place, trained)}
    own = [*teacher.named_parameters(), *teacher.named_buffers()]
    return next((name for name, t in own if _place(t) in places), None)


def _place(tensor: Tensor) -> int:
    """Return where a tensor's memory begins; where that isn't told, or there is none yet, what tells the tensor."""
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (RuntimeError, NotImplementedError):  # of tensors that are no plain memory
        return id(tensor)


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(np.allclose(one, other))
    except ValueError:  # of shapes that don't fit each other
        return False
