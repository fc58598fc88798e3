"""Trainings and audits that stop when a budget says so, and go on from there in the next call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

import art_classwise as acw
from art_classwise._core.files import written_aside
from art_classwise.trainers import METHODS, trained_weights, training_history
from art_classwise.trainers.engine.batches import ShuffledOrder
from art_classwise.trainers.recipes import Recipe
from lib.budget import Budget, OutOfTimeError
from lib.machine import moved, placed_by_art

TRIAL = 20
"""Steps after which the time of an epoch is known, where none was measured; twice too long shows before."""
STATE = "training.pt"


class PacedSchedule:
    """A schedule by steps that ends the training at an epoch's end, if the budget has no time for another epoch.

    An epoch is on disk before the first step of the next. There the training is ended, by an error, so that of its work
    one step is lost. An epoch that takes longer than it was reckoned with is ended where the budget ends, and is lost.

    Args:
        scheduler: Of torch, which steps with the optimizer.
        budget: What there is, beside ``kept``.
        step: Name of an epoch's time in the budget.
        n_batches: Steps in an epoch.
        kept: Seconds to be left for what follows.
    """

    def __init__(self, scheduler: Any, budget: Budget, step: str, n_batches: int, kept: float = 0.0) -> None:
        self.optimizer = scheduler.optimizer
        self._scheduler, self._budget, self._name = scheduler, budget, step
        self._n_batches, self._kept, self._done = n_batches, kept, 0
        self._began = budget.clock()

    def state_dict(self) -> dict[str, Any]:
        """Return the schedule's own state, which is that of a training without a limit."""
        return self._scheduler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it."""
        self._scheduler.load_state_dict(state)

    def step(self) -> None:
        """Go on by a step.

        Raises:
            OutOfTimeError: There is no time for more.
        """
        self._scheduler.step()
        self._done += 1
        budget, epochs, place = self._budget, *divmod(self._done - 1, self._n_batches)
        if epochs and place == 0:  # an epoch has been validated and written, and another one begun
            now = budget.clock()
            budget.times[self._name] = now - self._began
            self._began = now
            if not budget.fits(self._name, beside=self._kept):
                raise OutOfTimeError("there is no time for another epoch")
        elif not epochs and self._done <= TRIAL and self._name not in budget.times:
            self._estimate()
        elif budget.left < 0:
            raise OutOfTimeError(f"epoch {epochs + 1} of this call took longer than it was reckoned with, and is lost")

    def _estimate(self) -> None:
        """End the training if its first epoch, by the steps so far, can't end in time.

        A step launches thousands of kernels, so that the host is never far ahead of a GPU.
        """
        budget, now = self._budget, self._budget.clock()
        if self._done == 1:
            self._first = now  # the first step warms up
            return
        epoch = 1.1 * (now - self._first) / (self._done - 1) * self._n_batches  # with the validation
        surely = self._done == min(TRIAL, self._n_batches)
        if (epoch if surely else epoch / 2) - (now - self._began) + self._kept > budget.left:
            budget.times[self._name] = epoch
            raise OutOfTimeError(f"an epoch would take about {epoch:.0f} s")


@dataclass(frozen=True)
class Subject:
    """What is trained.

    Attributes:
        network: Makes the network, with fresh weights.
        train: Training examples.
        validation: Examples to choose the epoch by, which are none of the former.
        device: Where to train.
    """

    network: Callable[[], nn.Module]
    train: acw.Dataset
    validation: acw.Dataset
    device: str

    def classifier(self, weights: Mapping[str, torch.Tensor] | None = None) -> Any:
        """Return the network as an ART classifier on its device, with these weights, if any are given."""
        module = self.network()
        if weights is not None:
            module.load_state_dict(weights)
            module.eval()
        shape, n_classes = self.train.input_shape, len(self.train.classes)
        return moved(acw.as_classifier(module, shape, n_classes, device=placed_by_art(self.device)), self.device)


def by_steps(recipe: Recipe, n_examples: int) -> Recipe:
    """Return the same recipe, its schedule by steps; a cosine becomes one by steps only if it is one-cycle already."""
    if recipe.schedule != "decay" or recipe.decay_unit == "step":
        return recipe
    n = n_batches(recipe, n_examples)
    return replace(recipe, decay=tuple(((first - 1) * n + 1, f) for first, f in recipe.decay), decay_unit="step")


def n_batches(recipe: Recipe, n_examples: int) -> int:
    """Return the number of steps in an epoch."""
    return len(ShuffledOrder(n_examples, recipe.batch_size, None).sizes)


def train(
    recipe: Recipe,
    what: Subject,
    folder: Path,
    budget: Budget,
    *,
    step: str,
    kept: float = 0.0,
    seed: int = 0,
    verbose: bool = True,
) -> str:
    """Train, or go on with a training, for as many whole epochs as there is time for.

    Args:
        recipe: How, for how many epochs in all.
        what: Network, data and device.
        folder: Where the state is kept, after each epoch.
        budget: What there is.
        step: Name of an epoch's time in the budget.
        kept: Seconds to be left for what follows.
        seed: Of the training.
        verbose: Show progress.

    Returns:
        Why it stopped; empty if it is finished.

    Raises:
        InputError: The folder holds another training.
    """
    classifier = what.classifier()
    optimizer = classifier._optimizer = recipe.optimizer(classifier.model)
    n = len(what.train)
    options = by_steps(recipe, n).fit_options(optimizer, n)
    if options["scheduler_interval"] != "step":
        raise acw.InputError(f"The schedule {recipe.schedule!r} goes by epochs: choose a decay or one-cycle.")
    options["scheduler"] = PacedSchedule(options["scheduler"], budget, step, n_batches(recipe, n), kept)
    trainer = METHODS[recipe.method].trainer(
        classifier, **recipe.trainer_options(classifier.model), seed=seed, verbose=verbose
    )
    try:
        trainer.fit(
            what.train.x,
            what.train.y,
            validation_data=(what.validation.x, what.validation.y),
            **options,
            keep="robust",
            checkpoint_dir=folder,
            resume=True,
        )
        why = ""
    except OutOfTimeError as error:
        why = str(error)
    budget.end()
    return why


def epochs_of(folder: Path) -> int:
    """Return how many epochs of a training are on disk."""
    return len(training_history(folder)) if (folder / STATE).is_file() else 0


def trained(what: Subject, folder: Path) -> tuple[Any, int]:
    """Return the network of the best epoch so far, as an ART classifier, and the epoch's number."""
    return what.classifier(trained_weights(folder)), int(training_history(folder).attrs["kept_epoch"])


def validation_table(folder: Path, classes: Sequence[str]) -> pd.DataFrame:
    """Return validation accuracy in per cent, a row per epoch and class: ``epoch``, ``class``, ``clean``, ``robust``.

    The row of the class ``"all"`` is that of all validation examples, with the epoch's ``seconds``' rate beside it:
    ``images / s`` of training.
    """
    rows = []
    for row in training_history(folder).to_dict("records"):
        shares = {"all": (row["val_clean"], row["val_robust"])}
        shares |= {name: (row[f"val_clean_{k}"], row[f"val_robust_{k}"]) for k, name in enumerate(classes)}
        for name, (clean, robust) in shares.items():
            one = {"epoch": int(row["epoch"]), "class": name, "clean %": 100 * clean, "robust %": 100 * robust}
            rows.append({**one, "images / s": row["images_per_second"] if name == "all" else np.nan})
    return pd.DataFrame(rows)


def balanced(data: acw.Dataset) -> acw.Dataset:
    """Return the examples in an order in which each beginning has as many of each class as it can."""
    place = np.empty(len(data))
    for k in range(len(data.classes)):
        rows = np.flatnonzero(data.y == k)
        place[rows] = (np.arange(len(rows)) + 0.5) / max(1, len(rows))
    return data.take(np.argsort(place, kind="stable"))


def audit(
    classifier: Any,
    data: acw.Dataset,
    threat: str,
    attacks: Any,
    folder: Path,
    budget: Budget,
    *,
    step: str,
    portion: int,
    guess: float,
    done: Callable[[], object] = lambda: None,
) -> bool:
    """Audit a network by portions of the examples, as many as there is time for; those that are there stay.

    Args:
        classifier: The network.
        data: The examples; each portion has all classes in the same shares.
        threat: Norm and radius.
        attacks: As of :class:`art_classwise.ClassWiseAudit`.
        folder: Of the outcomes, a file for each portion.
        budget: What there is.
        step: Name of a portion's time in the budget.
        portion: Examples at once.
        guess: Seconds for a portion, where none was measured.
        done: Called after each portion.

    Returns:
        Whether all are done.
    """
    data, whole = balanced(data), True
    for i in range(math.ceil(len(data) / portion)):
        path = folder / f"{i:03d}.csv"
        if path.is_file():
            continue
        told = f"{folder.name}: examples {i * portion + 1:,} to {min((i + 1) * portion, len(data)):,} of {len(data):,}"
        if not budget.begin(step, told, guess):
            whole = False
            break
        part = data.take(np.arange(i * portion, min((i + 1) * portion, len(data))))
        with budget.measured(step):
            result = acw.ClassWiseAudit(threat, attacks, checks=False, verbose=False).evaluate({"it": classifier}, part)
        columns = ["attack", "example", "label", "clean_prediction", "prediction", "withstood"]
        write_table(path, result.outcomes[columns])
        print(f"{told}: {budget.times[step]:.1f} s", flush=True)
        done()
    return whole


def audited(folder: Path) -> pd.DataFrame:
    """Return the outcomes of all portions that are there; empty if there is none."""
    parts = [pd.read_csv(path) for path in sorted(folder.glob("*.csv"))]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def class_table(outcomes: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Return accuracies by class in per cent with their 95 % intervals.

    Args:
        outcomes: As :func:`audited` returns them.
        classes: Names of the classes.

    Returns:
        A row per attack (``clean``: none; ``worst case``: all) and class (``all``: all of them): ``n``, ``accuracy %``,
        ``low %``, ``high %`` (Wilson's).
    """
    first = outcomes[outcomes["attack"] == outcomes["attack"].iloc[0]]
    labels = first.set_index("example")["label"]
    right = {"clean": first.set_index("example")["clean_prediction"] == labels}
    for attack, rows in outcomes.groupby("attack", sort=False):
        right[str(attack)] = rows.set_index("example")["withstood"].reindex(labels.index)
    right["worst case"] = outcomes.groupby("example")["withstood"].all().reindex(labels.index)
    tables = []
    for attack, verdicts in right.items():
        v, y = verdicts.to_numpy(dtype=bool), labels.to_numpy()
        groups = [("all", np.full(len(y), True)), *((name, y == k) for k, name in enumerate(classes))]
        n, k = (np.array([a[g].sum() for _, g in groups]) for a in (np.full(len(y), True), v))
        low, high = acw.metrics.wilson(k, n)
        with np.errstate(invalid="ignore"):
            shares = {"accuracy %": 100 * (k / n), "low %": 100 * low, "high %": 100 * high}
        tables.append(pd.DataFrame({"attack": attack, "class": [name for name, _ in groups], "n": n, **shares}))
    return pd.concat(tables, ignore_index=True)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV; one that is there stays until the new one is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        table.to_csv(aside, index=False, float_format="%.6g")
