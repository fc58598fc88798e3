"""What all trainers share: ART's contract around the loop."""

from __future__ import annotations

import abc
import inspect
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from art.data_generators import DataGenerator
from art.defences.trainer import Trainer

from art_classwise import _estimator
from art_classwise._labels import check_labels
from art_classwise._state import evaluating
from art_classwise.errors import InputError, check_positive, check_seed, check_whole
from art_classwise.threat import ThreatModel
from art_classwise.trainers import _loop

__all__ = ["SearchTrainer"]


class SearchTrainer(Trainer, abc.ABC):
    """Adversarial training of an ART ``PyTorchClassifier``, with the optimizer it was made with.

    A subclass names its objective, and documents its parameters.
    """

    def __init__(
        self,
        classifier: Any,
        norm: float | str = np.inf,
        eps: float = 8 / 255,
        eps_step: float | None = None,
        max_iter: int = 10,
        seed: int = 0,
        verbose: bool = True,
    ) -> None:
        _estimator.check_classifier("The classifier", classifier)
        if classifier.optimizer is None:
            raise InputError(
                "The classifier has no optimizer: make it with one, as_classifier(..., optimizer=torch.optim.SGD(...))."
            )
        super().__init__(classifier)
        threat = ThreatModel.from_art(norm, eps)
        step = threat.eps / 4 if eps_step is None else eps_step
        check_positive("eps_step", step)
        check_whole("max_iter", max_iter, 1)
        check_seed(seed)
        self.inner = _loop.InnerSearch(threat, step, max_iter, self._start)
        self.seed = seed
        self.verbose = verbose

    _start = "uniform"

    @abc.abstractmethod
    def _objective(self) -> _loop.Objective:
        """Return what training descends."""

    def fit(
        self,
        x: npt.NDArray[Any],
        y: npt.NDArray[Any],
        validation_data: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None,
        batch_size: int = 128,
        nb_epochs: int = 20,
        scheduler: _loop.Stepper | None = None,
        **kwargs: Any,
    ) -> pd.DataFrame:
        """Train on arrays.

        Args:
            x: Images within the classifier's ``clip_values``, (n, C, H, W).
            y: Labels, indices (n,) or one-hot (n, C).
            validation_data: Images and labels to measure on after each epoch, per class, under the same attack.
            batch_size: Examples per step; the last batch may be smaller.
            nb_epochs: Number of epochs.
            scheduler: Anything with ``step``, called after each epoch.
            **kwargs: None are known.

        Returns:
            The history: see :func:`art_classwise.trainers._loop.train`.

        Raises:
            InputError: Images or labels are out of range or of different length; a parameter is out of range.
            DivergenceError: The loss became NaN or infinite.
        """
        _no_more(kwargs)
        check_whole("batch_size", batch_size, 1)
        images, labels = self._to_device(x, y)
        validation = None
        if validation_data is not None:
            if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
                raise InputError("`validation_data` must be a pair (x, y).")
            validation = _loop.in_order(*self._to_device(*validation_data), batch_size)
        batches = _loop.shuffled(images, labels, batch_size, self.seed)
        return self._train(batches, math.ceil(len(images) / batch_size), nb_epochs, scheduler, validation)

    def fit_generator(
        self, generator: Any, nb_epochs: int = 20, scheduler: _loop.Stepper | None = None, **kwargs: Any
    ) -> pd.DataFrame:
        """Train on an ART ``DataGenerator`` that knows its size; otherwise as :meth:`fit`."""
        _no_more(kwargs)
        if not isinstance(generator, DataGenerator) or generator.size is None:
            raise InputError(
                "The generator must be an ART DataGenerator that knows its size, such as "
                "art.data_generators.PyTorchDataGenerator(loader, size, batch_size)."
            )
        n_batches = math.ceil(generator.size / generator.batch_size)

        def batches(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            for _ in range(n_batches):
                yield self._to_device(*generator.get_batch())

        return self._train(batches, n_batches, nb_epochs, scheduler, None)

    def predict(self, x: npt.NDArray[Any], **kwargs: Any) -> npt.NDArray[np.float32]:
        """Return the classifier's logits (n, C); its mode stays as it was."""
        with evaluating(self._classifier.model):
            logits: npt.NDArray[np.float32] = self._classifier.predict(x, **kwargs)
        return logits

    def _to_device(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        images = np.ascontiguousarray(x, dtype=np.float32)
        _estimator.check_images(images, self._classifier, self.inner.threat)
        labels = check_labels(y, len(images), self._classifier.nb_classes)
        device = self._classifier.device
        return torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)

    def _train(
        self,
        batches: _loop.Batches,
        n_batches: int,
        nb_epochs: int,
        scheduler: _loop.Stepper | None,
        validation: _loop.Batches | None,
    ) -> pd.DataFrame:
        check_whole("nb_epochs", nb_epochs, 1)
        _check_scheduler(scheduler)
        low, high = _estimator.clip_bounds(self._classifier, self._classifier.device)
        return _loop.train(
            _estimator.logits_module(self._classifier),
            self._classifier.optimizer,
            self._objective(),
            batches,
            n_classes=self._classifier.nb_classes,
            nb_epochs=nb_epochs,
            n_batches=n_batches,
            low=low,
            high=high,
            seed=self.seed,
            scheduler=scheduler,
            validation=validation,
            verbose=self.verbose,
            name=type(self).__name__.removeprefix("AdversarialTrainer").removesuffix("PyTorch"),
        )


def _check_scheduler(scheduler: object) -> None:
    if scheduler is None:
        return
    step = getattr(scheduler, "step", None)
    if isinstance(scheduler, type) or not callable(step):
        raise InputError(f"`scheduler` must be an object with a method step(), but got {scheduler!r}.")
    needed = [
        p for p in inspect.signature(step).parameters.values() if p.default is p.empty and p.kind < p.VAR_POSITIONAL
    ]
    if needed:
        raise InputError(
            f"`scheduler.step()` is called without arguments after each epoch, but that of {type(scheduler).__name__} "
            f"needs {needed[0].name}: wrap it in an object whose step() takes none."
        )


def _no_more(kwargs: dict[str, Any]) -> None:
    if kwargs:
        raise InputError(
            f"Unknown argument {', '.join(kwargs)}: fit takes x, y, validation_data, batch_size, nb_epochs "
            "and scheduler; the attack is set when the trainer is made."
        )
