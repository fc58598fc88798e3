"""Adversarial training without some of the classes."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from art.defences.trainer import Trainer

from art_classwise.errors import InputError
from art_classwise.trainers._base import SearchTrainer
from art_classwise.trainers.catalog import METHODS, method_spec
from art_classwise.trainers.exclusion import check_excluded
from art_classwise.trainers.pseudo_labels import PseudoLabels

__all__ = ["AdversarialTrainerClassExcludedPyTorch"]


class AdversarialTrainerClassExcludedPyTorch(Trainer):
    """Training without some classes' examples and output units, with the numbering of classes as it is.

    The experiment of Tian et al. 2021 (arXiv 2105.14240, section 4): a class left out shows whose examples could be
    attacked into it alone. The network keeps an output for each class; those of the excluded ones are switched off in
    its last linear layer (weights 0, bias -10,000), so that they are never predicted and attacks, metrics, reports and
    checkpoints work unchanged. The loss sees the other outputs only. Another trainer would not switch them on again:
    their weights get no gradient.

    Args:
        classifier: An ART ``PyTorchClassifier`` with an optimizer, whose network ends in a linear layer with a bias.
        excluded: Numbers of the classes; two or more must be left.
        objective: A name of ``art_classwise.trainers.METHODS``, ``"mart"``, say; or a trainer's class.
        **options: As for that trainer.

    Raises:
        InputError: ``excluded`` or ``objective`` is none of these; and as that trainer.
    """

    def __init__(
        self, classifier: Any, excluded: Any, objective: str | type[SearchTrainer] = "standard", **options: Any
    ) -> None:
        if isinstance(objective, str):
            objective = method_spec(objective).trainer
        trainer = isinstance(objective, type) and issubclass(objective, SearchTrainer)
        if not trainer or inspect.isabstract(objective):
            raise InputError(
                f"`objective` must be one of {', '.join(METHODS)}, or the class of a trainer of art-classwise, but got "
                f"{objective!r}."
            )
        if excluded is None:
            check_excluded(excluded, 0)  # raises: trainers take None for no class
        self.trainer = objective(classifier, excluded=excluded, **options)
        super().__init__(classifier)
        self.excluded = self.trainer.excluded

    @property
    def pseudo_labels(self) -> PseudoLabels | None:
        """The pseudo-labels of the last training, if it had unlabelled images."""
        return self.trainer.pseudo_labels

    def fit(self, x: npt.NDArray[Any], y: npt.NDArray[Any], *arguments: Any, **options: Any) -> pd.DataFrame:
        """Train on the examples of the other classes; otherwise as :meth:`SearchTrainer.fit`.

        Args:
            x: Images (n, C, H, W), of all classes or of the others.
            y: Labels, indices (n,) or one-hot (n, C), in the numbering of all classes.
            *arguments: As for :meth:`SearchTrainer.fit`.
            **options: As for :meth:`SearchTrainer.fit`. Validation examples of excluded classes are left out, with a
                warning; examples whose pseudo-label is one, without.

        Returns:
            The history, as there; NaN for excluded classes.

        Raises:
            InputError: No example is left, or the network's last layer isn't linear with a bias; and as there.
        """
        return self.trainer.fit(x, y, *arguments, **options)

    def fit_generator(self, generator: Any, nb_epochs: int | None = None, **options: Any) -> pd.DataFrame:
        """Train on an ART ``DataGenerator`` as :meth:`SearchTrainer.fit_generator`, without those examples."""
        return self.trainer.fit_generator(generator, nb_epochs, **options)

    def predict(self, x: npt.NDArray[Any], **kwargs: Any) -> npt.NDArray[np.float32]:
        """Return the classifier's logits (n, C); its mode stays as it was."""
        return self.trainer.predict(x, **kwargs)
