"""The state of a training on disk: written aside and renamed, so that a killed one goes on where it stopped."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor

from art_classwise._core.display import shown_as
from art_classwise._core.files import check_output_folder, remove_left_aside, written_aside
from art_classwise._core.plain_values import differences, plain
from art_classwise._core.records import Record, parse
from art_classwise.errors import InputError, first_line
from art_classwise.trainers.engine.collapse import first_collapses
from art_classwise.trainers.engine.schedule import FitArguments
from art_classwise.trainers.policies.policy import without_defaults
from art_classwise.zoo.weights_files import StateDict, load_weights

__all__ = [
    "TrainingFile",
    "TrainingState",
    "describe_training",
    "finished_epochs",
    "has_finished_epoch",
    "history_table",
    "trained_weights",
    "training_history",
]

_FORMAT, _VERSION = "art-classwise training", 1
_NAME, _BEFORE = "training.pt", "training.previous.pt"
_ADVICE = "It is written by a training that keeps its state."


class TrainingState(Record):
    """A training after an epoch. No random state: each epoch's draws follow from (seed, epoch).

    Attributes:
        epoch: Number of epochs done.
        weights: The model's, as its ``state_dict``.
        averages: Those of the average, if weights are averaged.
        n_averaged: How often weights were taken into it.
        optimizer: The optimizer's ``state_dict``, as plain values.
        scheduler: Likewise; None if there is none, or it can't be stored.
        history: A row per epoch.
        kept_score: The score of the weights chosen so far, where the last ones aren't kept.
        kept_epoch: Their epoch.
        kept_weights: Those weights.
        policy: What the class policy remembers, if there is one.
    """

    model_config = ConfigDict(extra="ignore", allow_inf_nan=True)

    epoch: int = Field(ge=0)
    weights: StateDict
    averages: StateDict | None
    n_averaged: int = Field(ge=0)
    optimizer: dict[str, Any]
    scheduler: Any
    history: list[dict[str, float]]
    kept_score: float | None
    kept_epoch: int | None
    kept_weights: StateDict | None
    policy: dict[str, Any] | None

    @model_validator(mode="after")
    def _fits_together(self) -> TrainingState:
        if len(self.history) != self.epoch:
            raise ValueError(f"it says {self.epoch} epochs, but its history has {len(self.history)} rows")
        if self.n_averaged and self.averages is None:
            raise ValueError("it lacks the average of its weights")
        if (self.kept_weights is None) != (self.kept_epoch is None):
            raise ValueError("of the epoch that is kept and its weights one is missing")
        return self


class StoredTraining(TrainingState):
    """The state with the recipe: all that decides what the training ends with."""

    recipe: dict[str, Any]


class TrainingFile:
    """The file of a training's state.

    Args:
        folder: Where it lies; made if missing.
        recipe: All that decides what the training ends with: plain values, nested.

    Raises:
        InputError: The folder can't be written.
    """

    def __init__(self, folder: str | os.PathLike[str], recipe: Mapping[str, Any]) -> None:
        self.path = check_output_folder(folder) / _NAME
        self._recipe = dict(recipe)
        self._is_whole = True  # the file that is there

    def read(self, resume: bool) -> TrainingState | None:
        """Return the state saved last, or none if there is none yet; if it is damaged, the one before, with a warning.

        Raises:
            InputError: There is one but ``resume`` isn't fit for; or it is damaged and none was before, or of another
                recipe.
        """
        for name in (_NAME, _BEFORE):
            remove_left_aside(self.path.parent, name)
        if not self.path.exists():
            return None
        state, self._is_whole = _newest(self.path)
        if state.epoch == 0 and not resume:
            return None  # nothing has been trained that could be lost
        if not resume:
            raise _begun(self.path, state.epoch)
        other = differences(state.recipe, self._recipe)
        if other:
            raise InputError(
                f"{self.path} is of another recipe and can't be resumed with this one: {'; '.join(other[:3])}"
                f"{f'; and {len(other) - 3} more' if len(other) > 3 else ''}. Use the same recipe, or choose "
                "another `checkpoint_dir`."
            )
        return state

    def write(self, state: TrainingState) -> None:
        """Replace the file once the new one is whole; the old one stays beside it.

        Raises:
            InputError: It can't be written, on a full disk, say; the old file is as it was.
        """
        content = {"format": _FORMAT, "version": _VERSION, "recipe": self._recipe, **dict(state)}
        try:
            with written_aside(self.path) as aside:
                with aside.open("wb") as file:
                    torch.save(content, file)
                self._keep_before()
            self._is_whole = True
        except (OSError, RuntimeError) as raised:
            # Closing its archive, torch raises a RuntimeError in place of what the system said.
            error = raised.__context__ if isinstance(raised.__context__, OSError) else raised
            why = getattr(error, "strerror", None) or first_line(error)
            before = f"The one of epoch {state.epoch - 1} is intact" if self.path.exists() else "There was none before"
            raise InputError(
                f"The training's state after epoch {state.epoch} can't be written to {self.path.absolute()}: {why}. "
                f"{before}: make room, and continue with `resume=True`."
            ) from error

    def _keep_before(self) -> None:
        """Let the file that is about to be replaced be the state before, should the new one be damaged some day."""
        before = self.path.with_name(_BEFORE)
        if not self._is_whole:
            return  # what is there is older, and whole
        if not self.path.exists():
            before.unlink(missing_ok=True)  # of a training that was there once
            return
        with suppress(OSError), written_aside(before) as aside:  # without it, training goes on all the same
            try:
                os.link(self.path, aside)  # takes no time and no room
            except OSError:  # on file systems without links
                shutil.copyfile(self.path, aside)


def has_finished_epoch(folder: str | os.PathLike[str], resume: bool) -> bool:
    """Return whether a folder holds a training that has done an epoch.

    Raises:
        InputError: It does, but ``resume`` isn't fit for; or its file is damaged.
    """
    path = Path(folder) / _NAME
    done = _newest(path)[0].epoch if path.exists() else 0
    if done and not resume:
        raise _begun(path, done)
    return bool(done)


def finished_epochs(folder: str | os.PathLike[str]) -> int:
    """Return how many epochs a training has done whose state a folder holds.

    Raises:
        InputError: The folder holds no training, or it is damaged.
    """
    return _newest(Path(folder) / _NAME)[0].epoch


def _begun(path: Path, epoch: int) -> InputError:
    return InputError(
        f"{path} holds a training after epoch {epoch}: continue it with `resume=True`, or choose another "
        "`checkpoint_dir`."
    )


def trained_weights(
    checkpoint_dir: str | os.PathLike[str], which: Literal["last", "kept"] = "kept"
) -> dict[str, Tensor]:
    """Return weights from the folder of a training, running or finished, for ``module.load_state_dict``.

    Args:
        checkpoint_dir: The folder given to ``fit``.
        which: ``"kept"``, those of the epoch that ``keep`` chose so far; ``"last"``, those of the last epoch. Both
            are averages, where the training averages weights.

    Returns:
        A state dict, on the CPU.

    Raises:
        InputError: The folder holds no training, or it is damaged.
    """
    if which not in ("last", "kept"):
        raise InputError(f'`which` must be "last" or "kept", but got {which!r}.')
    state = _newest(Path(checkpoint_dir) / _NAME)[0]
    kept: dict[str, Tensor] | None = state.kept_weights if which == "kept" else None
    last = state.averages if state.n_averaged and state.averages is not None else state.weights
    return last if kept is None else kept


def training_history(checkpoint_dir: str | os.PathLike[str]) -> pd.DataFrame:
    """Return the history so far from the folder of a training, running or finished.

    Args:
        checkpoint_dir: The folder given to ``fit``.

    Returns:
        As ``fit`` does; ``attrs["kept_epoch"]`` is the epoch that would be kept if it ended now.

    Raises:
        InputError: The folder holds no training, or it is damaged.
    """
    state = _newest(Path(checkpoint_dir) / _NAME)[0]
    return history_table(state.history, state.kept_epoch)


def history_table(rows: Sequence[Mapping[str, float]], kept_epoch: int | None) -> pd.DataFrame:
    """Return the rows as ``fit`` returns them; if none is chosen, the last epoch is kept."""
    history = pd.DataFrame(list(rows), columns=None if rows else ["epoch"]).astype({"epoch": int})
    history.attrs["kept_epoch"] = len(history) if kept_epoch is None else kept_epoch
    if any(name.startswith("collapsed_") for row in rows[:1] for name in row):
        history.attrs["collapsed"] = first_collapses(rows)
    return shown_as(history, "history")


def _newest(path: Path) -> tuple[StoredTraining, bool]:
    """Return the state in a file, or else the one before it, with a warning; and whether it is the former."""
    try:
        return _read(path), True
    except InputError as damaged:
        before = path.with_name(_BEFORE)
        try:
            state = _read(before)
        except InputError:
            raise damaged from damaged.__cause__
        warnings.warn(
            f"{damaged} The state before it, after epoch {state.epoch}, is taken from {before}.", stacklevel=3
        )
        return state, False


def _read(path: Path) -> StoredTraining:
    content = load_weights(path, _ADVICE)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InputError(f"{path.absolute()} does not hold the state of a training. {_ADVICE}")
    if content.get("version") != _VERSION:
        raise InputError(
            f"{path.absolute()} is of version {content.get('version')}; this release reads version {_VERSION}."
        )
    return parse(StoredTraining, content, str(path.absolute()), _ADVICE)


def describe_training(
    trainer: Any, method: dict[str, Any], fit: FitArguments, data: dict[str, Any], excluded: tuple[int, ...]
) -> dict[str, Any]:
    """Return all that decides what a training ends with.

    Args:
        trainer: A :class:`art_classwise.trainers.SearchTrainer`, whose options, classifier and optimizer they are.
        method: Parameters of its method.
        fit: For how long, and what to keep.
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
    options = trainer.options
    decisive = (
        *("crop_padding", "flip", "two_passes", "label_smoothing", "seed"),
        *("gradient_clip", "ema_decay", "awp_gamma", "awp_warmup", "precision", "compile"),
    )
    return {
        "trainer": type(trainer).__name__,
        **without_defaults(method, trainer._added),
        "attack": attack,
        **without_defaults({name: options[name] for name in _ADDED}, _ADDED),
        **{name: options[name] for name in decisive},
        "class_policy": None if trainer.class_policy is None else trainer.class_policy.describe(),
        "excluded": list(excluded),
        "nb_epochs": fit.nb_epochs,
        "keep": fit.keep,
        "data": data,
        "optimizer": _optimizer(trainer.get_classifier().optimizer),
        "scheduler": _scheduler(fit.scheduler),
        "scheduler_interval": fit.scheduler_interval,
        "classifier": _classifier(trainer.get_classifier()),
    }


_ADDED: dict[str, Any] = {"passes": None, "attack_mode": "eval", "friendly_tau": None, "class_balanced": False}
"""Options that trainings of before don't name, with their defaults."""


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
    described: dict[str, Any] = {"name": type(attack).__name__}
    for name in attack.attack_params:
        value = getattr(attack, name, None)
        if isinstance(value, (str, int, float, bool, np.generic)):
            described[name] = value
        elif isinstance(value, np.ndarray):
            described[name] = value.tolist()
    ignored = {"verbose", "summary_writer", "batch_size"} | getattr(attack, "redundant_params", frozenset())
    return {k: v for k, v in described.items() if k not in ignored}


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
        described = {k: v for k, v in group.items() if k not in ("params", "lr", "initial_lr", "momentum", "betas")}
        if "lr" in group:
            described["lr"] = group.get("initial_lr", group["lr"])
        if "momentum" in group:
            described["momentum"] = group.get("base_momentum", group["momentum"])
        if "betas" in group:
            described["betas"] = [group.get("base_momentum", group["betas"][0]), *group["betas"][1:]]
        described = {k: v.item() if isinstance(v, Tensor) and v.numel() == 1 else v for k, v in described.items()}
        described["parameters"] = [list(p.shape) for p in group["params"]]
        groups.append({k: v for k, v in described.items() if isinstance(v, (str, int, float, bool, list, type(None)))})
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
    described: dict[str, Any] = {"name": type(scheduler).__name__}
    for key in state.keys() - _MOVING:
        with suppress(TypeError):  # a function, say
            described[str(key)] = plain(state[key], _MOVING)
    return described
