"""How long to train, and what to keep: what the trainers' two ways to fit share."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from typing import Any, get_args

import torch

from art_classwise.errors import InputError, check_whole, unknown
from art_classwise.trainers._checks import check_scheduler
from art_classwise.trainers._loop import Keep
from art_classwise.trainers._schedule import Interval, Stepper
from art_classwise.trainers.policies import ClassPolicy, Scene

__all__ = ["Fit"]


@dataclass(frozen=True)
class Fit:
    """The arguments of :meth:`art_classwise.trainers.SearchTrainer.fit` that aren't about the training examples."""

    validation_data: Any
    nb_epochs: int
    scheduler: Stepper | None
    scheduler_interval: Interval
    keep: Keep
    checkpoint_dir: str | os.PathLike[str] | None
    resume: bool

    def check(self, optimizer: Any) -> None:
        """Check what can be checked before any work is done.

        Raises:
            InputError: An argument is out of range, or needs another one.
        """
        check_whole("nb_epochs", self.nb_epochs, 1)
        check_scheduler(self.scheduler, self.scheduler_interval, optimizer)
        if self.keep not in get_args(Keep):
            raise unknown("rule to keep weights by", self.keep, get_args(Keep))
        if self.keep != "last" and self.validation_data is None:
            raise InputError(f'`keep="{self.keep}"` needs `validation_data` to choose by.')
        if self.resume and self.checkpoint_dir is None:
            raise InputError("`resume=True` needs a `checkpoint_dir` to go on from.")
        pair = isinstance(self.validation_data, (tuple, list)) and len(self.validation_data) == 2
        if self.validation_data is not None and not pair:
            raise InputError("`validation_data` must be a pair (x, y).")

    def check_policy(self, policy: ClassPolicy, n_classes: int, beta: float | None, eps: float) -> None:
        """Check that a class policy can be followed for so many epochs, with or without validation.

        Raises:
            InputError: It can't.
        """
        if policy.needs_validation and self.validation_data is None:
            raise InputError(
                f"The class policy {type(policy).__name__} goes by how classes fare on validation examples: give "
                "`validation_data`, some training examples that you hold out."
            )
        even = torch.full((n_classes,), 1 / n_classes)
        scene = Scene(n_classes, even, beta, eps, self.nb_epochs, torch.device("cpu"))
        copy.deepcopy(policy).begin(scene)  # it may say that so few epochs are too few
