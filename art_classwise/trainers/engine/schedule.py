"""The arguments of a training: when the learning rate changes, how long it takes, what is kept."""

from __future__ import annotations

import copy
import inspect
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, get_args

import torch

from art_classwise._core.plain_values import plain
from art_classwise.errors import InputError, check_whole, unknown
from art_classwise.trainers.policies.policy import ClassPolicy, PolicyContext, SoftLabels

__all__ = ["FitArguments", "Interval", "Keep", "Schedule", "Stepper", "check_scheduler", "required_arguments"]

Interval = Literal["epoch", "step"]
Keep = Literal["last", "robust", "robust+worst"]


class Stepper(Protocol):
    """Any learning-rate scheduler: what has a ``step``."""

    @property
    def step(self) -> Callable[..., object]:
        """Goes on by one epoch or step."""


@dataclass(frozen=True)
class Schedule:
    """A scheduler, and when it goes on.

    Attributes:
        scheduler: Anything with ``step``; none if the learning rate stays.
        interval: Whether it is called after each epoch or after each step.
    """

    scheduler: Stepper | None = None
    interval: Interval = "epoch"

    def after_step(self) -> None:
        """Go on after a step of the optimizer."""
        if self.scheduler is not None and self.interval == "step":
            self.scheduler.step()

    def after_epoch(self, row: Mapping[str, float]) -> None:
        """Go on after an epoch, of which the history has this row."""
        if self.scheduler is None or self.interval != "epoch":
            return
        needed = required_arguments(self.scheduler.step)
        if not needed:
            self.scheduler.step()
            return
        if "epoch" in needed[0]:
            self.scheduler.step(int(row["epoch"]))
            return
        # Such as ReduceLROnPlateau, which is told how the training goes.
        rising = getattr(self.scheduler, "mode", "min") == "max"
        robust = row.get("val_robust", row["robust"])
        accuracy = row["clean"] if math.isnan(robust) else robust  # natural training attacks nothing
        self.scheduler.step(accuracy if rising else row["loss"])

    def state(self) -> Any:
        """Return what a file needs to hold; None where the scheduler's state can't be told, or stored."""
        try:
            return plain(cast(Any, self.scheduler).state_dict()) if hasattr(self.scheduler, "load_state_dict") else None
        except TypeError:
            return None

    def load(self, state: Any, rows: Sequence[Mapping[str, float]], n_batches: int) -> None:
        """Bring the scheduler to where it was.

        Args:
            state: As :meth:`state` returned it; if None, the scheduler gets there by its own steps.
            rows: The history so far.
            n_batches: Number of batches in an epoch.
        """
        if self.scheduler is None:
            return
        if state is not None:
            cast(Any, self.scheduler).load_state_dict(state)
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, that the optimizer hasn't stepped before
            for row in rows:
                for _ in range(n_batches):
                    self.after_step()
                self.after_epoch(row)


def required_arguments(call: Callable[..., object]) -> list[str]:
    """Return the names of the arguments that a call can't do without."""
    various = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(call).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in various]


def check_scheduler(scheduler: Any, interval: object, optimizer: Any) -> None:
    """Check that a scheduler's step can be called after each epoch or step.

    Raises:
        InputError: It can't.
    """
    if interval not in get_args(Interval):
        raise unknown("scheduler_interval", interval, get_args(Interval))
    if scheduler is None:
        return
    if isinstance(scheduler, type) or not callable(getattr(scheduler, "step", None)):
        raise InputError(f"`scheduler` must be an object with a method step(), but got {scheduler!r}.")
    if getattr(scheduler, "optimizer", optimizer) is not optimizer:
        raise InputError(
            f"The {type(scheduler).__name__} is of another optimizer than the classifier's, and would never change its "
            "learning rate: make it of classifier.optimizer."
        )
    needed = required_arguments(scheduler.step)
    most = 1 if interval == "epoch" else 0  # a metric, which there is one of per epoch
    if len(needed) > most:
        raise InputError(
            f"`scheduler.step()` is called {'with a metric at most' if most else 'without arguments'} after each "
            f"{interval}, but that of {type(scheduler).__name__} needs {', '.join(needed)}: wrap it in an object whose "
            "step() takes none."
        )


@dataclass(frozen=True)
class FitArguments:
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
            raise InputError(f'`keep="{self.keep}"` needs `validation_data` to choose the epoch.')
        if self.resume and self.checkpoint_dir is None:
            raise InputError("`resume=True` needs a `checkpoint_dir` to resume from.")
        pair = isinstance(self.validation_data, (tuple, list)) and len(self.validation_data) == 2
        if self.validation_data is not None and not pair:
            raise InputError("`validation_data` must be a pair (x, y).")

    def check_policy(
        self, policy: ClassPolicy, n_classes: int, beta: float | None, eps: float, soft_labels: SoftLabels | None = None
    ) -> None:
        """Check that a class policy can be followed for so many epochs, with or without validation.

        Raises:
            InputError: It can't.
        """
        if policy.needs_validation and self.validation_data is None:
            raise InputError(
                f"The class policy {type(policy).__name__} needs the class accuracies on validation examples: give "
                "`validation_data`, some training examples that you hold out."
            )
        even = torch.full((n_classes,), 1 / n_classes)
        scene = PolicyContext(n_classes, even, beta, eps, self.nb_epochs, torch.device("cpu"), soft_labels)
        copy.deepcopy(policy).begin(scene)  # it may say that so few epochs are too few
