"""What all attacks that run the search share: ART's contract around it."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from art.attacks.attack import EvasionAttack
from art.estimators.classification.classifier import ClassifierMixin
from art.estimators.estimator import BaseEstimator, LossGradientsMixin
from art.estimators.pytorch import PyTorchEstimator
from torch import Tensor, nn
from tqdm.auto import tqdm

from art_classwise import _estimator, losses
from art_classwise._labels import check_labels
from art_classwise._state import evaluating
from art_classwise.attacks._search import search
from art_classwise.errors import InputError, check_positive, check_seed, check_whole
from art_classwise.threat import ThreatModel

__all__ = ["SearchAttack"]


class SearchAttack(EvasionAttack, abc.ABC):
    """A gradient attack: the search, ascending the loss that a subclass names.

    Parameters bear ART's names. Random starts depend on ``seed``, the restart and the example's number
    alone, so neither the batch size nor the examples around it change what an example meets.

    Attributes:
        zero_gradient: (n,) bool after :meth:`generate`: whether the example's gradient was all zero or not
            finite in any step of any restart. Many of them are a sign of gradient masking.
    """

    attack_params: ClassVar[list[str]] = [
        *EvasionAttack.attack_params,
        "norm",
        "eps",
        "eps_step",
        "max_iter",
        "num_random_init",
        "targeted",
        "batch_size",
        "seed",
        "verbose",
    ]
    _estimator_requirements = (BaseEstimator, LossGradientsMixin, ClassifierMixin, PyTorchEstimator)

    def __init__(
        self,
        estimator: Any,
        *,
        norm: float | str,
        eps: float,
        eps_step: float | None,
        max_iter: int,
        num_random_init: int,
        targeted: bool,
        batch_size: int,
        seed: int,
        verbose: bool,
    ) -> None:
        super().__init__(estimator=estimator)
        self.norm = norm
        self.eps = eps
        self.eps_step = eps_step
        self.max_iter = max_iter
        self.num_random_init = num_random_init
        self._targeted = targeted
        self.batch_size = batch_size
        self.seed = seed
        self.verbose = verbose
        self.zero_gradient: npt.NDArray[np.bool_] = np.zeros(0, dtype=bool)

    @abc.abstractmethod
    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Return what an untargeted search ascends, (n,)."""

    def generate(
        self, x: npt.NDArray[Any], y: npt.NDArray[Any] | None = None, **kwargs: Any
    ) -> npt.NDArray[np.float32]:
        """Return adversarial examples: the last iterate, or of several restarts the most wrong one.

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
                empty, not finite or outside ``clip_values``; the mask doesn't broadcast; the radius covers
                the whole box.
        """
        mask = kwargs.pop("mask", None)
        ids = np.arange(len(x)) if (given := kwargs.pop("example_ids", None)) is None else np.asarray(given)
        if kwargs:
            raise InputError(f"generate() got {', '.join(kwargs)}; it takes x, y, mask and example_ids.")
        module, device = _estimator.logits_module(self.estimator), self.estimator.device
        low, high = _estimator.clip_bounds(self.estimator, device)
        images = np.ascontiguousarray(x, dtype=np.float32)
        _estimator.check_images(images, self.estimator, self.threat, tolerance=1e-6)
        labels = None if y is None else check_labels(y, len(x), self.estimator.nb_classes)
        if labels is None and self.targeted:
            raise InputError("A targeted attack needs the target labels: generate(x, y).")
        masks = None if mask is None else self._broadcast_mask(np.asarray(mask), images.shape)
        if len(ids) != len(images):
            raise InputError(f"example_ids must have one number per example: {len(images)}, not {len(ids)}.")

        found = np.empty_like(images)
        self.zero_gradient = np.zeros(len(images), dtype=bool)
        starts = range(0, len(images), self.batch_size)
        for begin in tqdm(starts, desc=type(self).__name__, leave=False, disable=not self.verbose):
            part = slice(begin, begin + self.batch_size)
            x_part = torch.from_numpy(images[part]).to(device)
            if labels is None:
                with evaluating(module):
                    y_part = _estimator.predict_logits(module, x_part, self.estimator.nb_classes).argmax(1)
            else:
                y_part = torch.from_numpy(labels[part]).to(device)
            mask_part = None if masks is None else torch.from_numpy(masks[part].copy()).to(device)
            x_adv, zero = self._attack_batch(module, x_part, y_part, ids[part], low, high, mask_part)
            found[part] = x_adv.cpu().numpy()
            self.zero_gradient[part] = zero.cpu().numpy()
        return found

    @property
    def threat(self) -> ThreatModel:
        """The threat model: the attack's norm and radius."""
        return ThreatModel.from_art(self.norm, self.eps)

    def _wrongness(self, module: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
        """Return what restarts compete for: above 0 if and only if the attack succeeded."""
        with evaluating(module):
            logits = _estimator.predict_logits(module, x_adv, self.estimator.nb_classes)
        margin = losses.margin(logits, y)
        return -margin if self.targeted else margin

    def _ascended(self, logits: Tensor, y: Tensor) -> Tensor:
        loss = self._loss(_estimator.check_logits(logits, len(y), self.estimator.nb_classes), y)
        return -loss if self.targeted else loss

    def _attack_batch(
        self,
        module: nn.Module,
        x: Tensor,
        y: Tensor,
        ids: npt.NDArray[Any],
        low: Tensor,
        high: Tensor,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        threat = self.threat
        best: Tensor | None = None
        best_value = torch.full((len(x),), -torch.inf, device=x.device)
        zero = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for restart in range(max(1, self.num_random_init)):
            result = search(
                module,
                x,
                y,
                threat,
                self._ascended,
                eps_step=threat.eps / 4 if self.eps_step is None else self.eps_step,
                max_iter=self.max_iter,
                low=low,
                high=high,
                start=self._random_start(x, ids, restart) if self.num_random_init else None,
                mask=mask,
            )
            zero |= result.zero_gradient
            if self.num_random_init <= 1:
                return result.x_adv, zero
            value = self._wrongness(module, result.x_adv, y)
            better = value > best_value
            best_value = torch.where(better, value, best_value)
            chosen = better.view(-1, *[1] * (x.dim() - 1))
            best = result.x_adv if best is None else torch.where(chosen, result.x_adv, best)
        assert best is not None
        return best, zero

    def _random_start(self, x: Tensor, ids: npt.NDArray[Any], restart: int) -> Tensor:
        # On the CPU, one stream per example: the same starts for any batch, device and order.
        generator, here = torch.Generator(), x.cpu()
        starts = torch.empty_like(here)
        for i, example in enumerate(ids):
            entropy = np.random.SeedSequence([self.seed, restart, int(example)])
            generator.manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1)))
            starts[i] = self.threat.random_start(here[i : i + 1], generator)[0]
        return starts.to(x.device)

    @staticmethod
    def _broadcast_mask(mask: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        try:
            return np.broadcast_to(mask.astype(np.float32), shape)
        except ValueError:
            raise InputError(f"A mask of shape {mask.shape} doesn't broadcast to x of shape {shape}.") from None

    def _check_params(self) -> None:
        super()._check_params()
        ThreatModel.from_art(self.norm, self.eps)  # checks both
        if self.eps_step is not None:
            check_positive("eps_step", self.eps_step)
        for name, least in (("max_iter", 1), ("num_random_init", 0), ("batch_size", 1)):
            check_whole(name, getattr(self, name), least)
        check_seed(self.seed)
        for name in ("targeted", "verbose"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"`{name}` must be True or False, but got {getattr(self, name)!r}.")
