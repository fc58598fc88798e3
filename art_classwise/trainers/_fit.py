"""How long to train and what to keep; and all that decides what a training ends with: resumed, it must be the same."""

from __future__ import annotations

import copy
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from art_classwise._core.plain_values import plain
from art_classwise.errors import InputError, check_whole, unknown
from art_classwise.trainers._loop import Keep
from art_classwise.trainers._schedule import Interval, Stepper, check_scheduler
from art_classwise.trainers.policies import ClassPolicy, Scene
from art_classwise.trainers.policies.policy import without_defaults

__all__ = ["Fit", "describe_training"]


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
            raise InputError(f'`keep="{self.keep}"` needs `validation_data` to choose the epoch.')
        if self.resume and self.checkpoint_dir is None:
            raise InputError("`resume=True` needs a `checkpoint_dir` to resume from.")
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
                f"The class policy {type(policy).__name__} needs the class accuracies on validation examples: give "
                "`validation_data`, some training examples that you hold out."
            )
        even = torch.full((n_classes,), 1 / n_classes)
        scene = Scene(n_classes, even, beta, eps, self.nb_epochs, torch.device("cpu"))
        copy.deepcopy(policy).begin(scene)  # it may say that so few epochs are too few


def describe_training(
    trainer: Any, method: dict[str, Any], asked: Fit, data: dict[str, Any], excluded: tuple[int, ...]
) -> dict[str, Any]:
    """Return all that decides what a training ends with.

    Args:
        trainer: A :class:`art_classwise.trainers.SearchTrainer`, whose options, classifier and optimizer they are.
        method: Parameters of its method.
        asked: For how long, and what to keep.
        data: What tells the training examples apart.
        excluded: Classes that are left out.

    Raises:
        InputError: The optimizer's state holds what a file can't hold safely.
    """
    attack: dict[str, Any]
    if trainer.options["attack"] is not None:
        attack = _attack(trainer.options["attack"])
    else:
        attack = {"name": "built-in", "threat": repr(trainer.threat)}
        attack |= {"eps_step": float(trainer.eps_step), "max_iter": trainer.options["max_iter"]}
    options, passes = trainer.options, {name: trainer.options[name] for name in ("passes", "attack_mode")}
    decisive = (
        *("crop_padding", "flip", "two_passes", "label_smoothing", "seed"),
        *("gradient_clip", "ema_decay", "awp_gamma", "awp_warmup", "precision", "compile"),
    )
    return {
        "trainer": type(trainer).__name__,
        **without_defaults(method, trainer._added),
        "attack": attack,
        **without_defaults(passes, {"passes": None, "attack_mode": "eval"}),
        **{name: options[name] for name in decisive},
        "class_policy": None if trainer.class_policy is None else trainer.class_policy.describe(),
        "excluded": list(excluded),
        "nb_epochs": asked.nb_epochs,
        "keep": asked.keep,
        "data": data,
        "optimizer": _optimizer(trainer.get_classifier().optimizer),
        "scheduler": _scheduler(asked.scheduler),
        "scheduler_interval": asked.scheduler_interval,
        "classifier": _classifier(trainer.get_classifier()),
    }


def _classifier(classifier: Any) -> dict[str, Any]:
    """Return the shapes of a classifier's weights, which are frozen, and what is done to images before."""
    bounds, state = classifier.clip_values, classifier.model.state_dict()
    return {
        "weights": {name: list(v.shape) for name, v in state.items() if isinstance(v, Tensor)},  # not an extra state
        "frozen": [name for name, p in classifier.model.named_parameters() if not p.requires_grad],
        "clip_values": None if bounds is None else [np.asarray(bound).tolist() for bound in bounds],
        "preprocessing": [_described(operation) for operation in classifier.preprocessing_operations],
    }


def _described(operation: Any) -> str:
    """Return a preprocessing step of ART's in words that differ where its parameters do."""
    names = [n for n in (*getattr(operation, "params", ()), "mean", "std") if hasattr(operation, n)]
    return f"{type(operation).__name__} { {n: np.asarray(getattr(operation, n)).tolist() for n in names} }"


def _attack(attack: Any) -> dict[str, Any]:
    """Return the name of an attack of ART, and those of its parameters that are plain values."""
    told: dict[str, Any] = {"name": type(attack).__name__}
    for name in attack.attack_params:
        value = getattr(attack, name, None)
        if isinstance(value, (str, int, float, bool, np.generic)):
            told[name] = value
        elif isinstance(value, np.ndarray):
            told[name] = value.tolist()
    unsaid = {"verbose", "summary_writer", "batch_size"} | getattr(attack, "untold", frozenset())
    return {k: v for k, v in told.items() if k not in unsaid}


def _optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return what an optimizer is, apart from where a schedule has taken it.

    Raises:
        InputError: Its state holds what a file can't hold safely.
    """
    try:
        plain(optimizer.state_dict())
    except TypeError as error:
        raise InputError(
            f"The state of the optimizer {type(optimizer).__name__} can't be kept: {error}. Train without "
            "`checkpoint_dir`, or with another optimizer."
        ) from error
    groups = []
    for group in optimizer.param_groups:
        told = {k: v for k, v in group.items() if k not in ("params", "lr", "initial_lr", "momentum", "betas")}
        if "lr" in group:
            told["lr"] = group.get("initial_lr", group["lr"])
        if "momentum" in group:
            told["momentum"] = group.get("base_momentum", group["momentum"])
        if "betas" in group:
            told["betas"] = [group.get("base_momentum", group["betas"][0]), *group["betas"][1:]]
        told = {k: v.item() if isinstance(v, Tensor) and v.numel() == 1 else v for k, v in told.items()}
        told["parameters"] = [list(p.shape) for p in group["params"]]
        groups.append({k: v for k, v in told.items() if isinstance(v, (str, int, float, bool, list, type(None)))})
    return {"name": type(optimizer).__name__, **{str(i): group for i, group in enumerate(groups)}}


_MOVING = frozenset(
    {
        *("last_epoch", "_step_count", "_last_lr", "_get_lr_called_within_step", "_is_initial"),
        *("best", "num_bad_epochs", "cooldown_counter", "T_cur", "T_i"),
    }
)


def _scheduler(scheduler: Any) -> dict[str, Any] | None:
    """Return what a schedule is, apart from where it stands; its name alone where it doesn't say more."""
    if scheduler is None:
        return None
    state = scheduler.state_dict() if hasattr(scheduler, "state_dict") else {}
    told: dict[str, Any] = {"name": type(scheduler).__name__}
    for key in state.keys() - _MOVING:
        with suppress(TypeError):  # a function, say
            told[str(key)] = plain(state[key], _MOVING)
    return told
