"""The one training loop: search, forward, step. Trainers differ in the objective they hand it."""

from __future__ import annotations

import math
import time
import warnings
from contextlib import nullcontext

import pandas as pd
import torch
from torch import Tensor, nn

from art_classwise._core import distributed
from art_classwise._core.art_interface import exact_logits
from art_classwise._core.plain_values import plain
from art_classwise._core.progress import ProgressBar, progress_bar
from art_classwise._core.random_numbers import ExampleUniform, derive
from art_classwise._core.state import preserved_random_state
from art_classwise.errors import DivergenceError, InputError
from art_classwise.threat import ThreatModel
from art_classwise.trainers.engine.adversary import Adversary
from art_classwise.trainers.engine.batches import Source
from art_classwise.trainers.engine.checkpoint import TrainingFile, TrainingState, history_table
from art_classwise.trainers.engine.collapse import CollapseWatch
from art_classwise.trainers.engine.history import ClassCounts, EpochStatistics, Scalars
from art_classwise.trainers.engine.schedule import Keep, Schedule
from art_classwise.trainers.engine.step import Step
from art_classwise.trainers.engine.weights import WeightAverage, all_finite, share_buffers, snapshot
from art_classwise.trainers.policies import ClassPolicy, ClassWeights, PolicyContext

__all__ = ["Training"]

_LOSS_CHECK_INTERVAL = 50
"""Batches between two looks at the loss: each makes the CPU wait for the device."""


class Training:
    """A training: its network, what is made of it, and how far it is.

    Args:
        step: The step, and its network.
        schedule: When the learning rate changes.
        keep: Which epoch's weights the model has in the end.
        validation_adversary: The attack to validate under; needed where there are batches to measure on.
        threat: Norm and radius of the training attack; needed where there is a class policy.
        width: Width of the range of images.
        watch: What looks for catastrophic overfitting, where there are batches to measure on.

    Raises:
        InputError: The network can't be copied, but weights are to be averaged.
    """

    def __init__(
        self,
        step: Step,
        schedule: Schedule,
        keep: Keep = "last",
        *,
        validation_adversary: Adversary | None = None,
        threat: ThreatModel | None = None,
        width: float = 1.0,
        watch: CollapseWatch | None = None,
    ) -> None:
        self._watch = watch
        self._step, self._validation_adversary, self._threat = step, validation_adversary, threat
        self._model, self._optimizer, self._objective = step.model, step.optimizer, step.objective
        self._policy, self._options, self._n_classes = step.policy, step.options, step.n_classes
        self._schedule, self._keep, self._device = schedule, keep, step.sample.device
        self._largest = math.inf if threat is None else threat.diameter(width, step.sample[0].numel())
        ema_decay = step.options["ema_decay"]
        self._average = None if ema_decay is None else WeightAverage(step.model, ema_decay)
        self._fair_averaging = None if step.policy is None else step.policy.averaging
        if self._fair_averaging is not None:
            self._average = WeightAverage(step.model, self._fair_averaging.decay, warm_up=False)
        self._epoch = 0
        self._rows: list[dict[str, float]] = []
        self._kept: tuple[float, int, dict[str, Tensor]] | None = None  # score, epoch, weights
        self._validated: list[tuple[Tensor, Tensor]] = []  # labels and objective of the last validation, by batch

    def run(
        self,
        source: Source,
        validation: Source | None,
        nb_epochs: int,
        *,
        file: TrainingFile | None = None,
        resume: bool = False,
        shares: Tensor | None = None,
        scalars: Scalars,
        verbose: bool = True,
        name: str = "training",
    ) -> pd.DataFrame:
        """Train to the last epoch and return the history, a row per epoch.

        The model's weights change; its modes, requires_grad flags, gradients and the global random state don't.

        Args:
            source: The training batches.
            validation: Batches to measure on after each epoch.
            nb_epochs: Number of epochs.
            file: Where the state is kept after each epoch.
            resume: Whether to go on from what the file holds.
            shares: (C,) each class's share of the labelled examples; equal ones if absent.
            scalars: Where each row is written to.
            verbose: Show a progress bar; in a log, a line per epoch.
            name: What the progress bar calls it.

        Raises:
            DivergenceError: The loss or a weight became NaN or infinite. The model has the weights of the epoch before.
            InputError: The module doesn't return logits (n, C), the file can't be read or written, or the policy sets
                a class budget that there can't be.
        """
        if self._policy is not None:
            assert self._threat is not None
            even = torch.full((self._n_classes,), 1 / self._n_classes)
            shares = (even if shares is None else shares).to(self._device)
            beta = self._objective.beta
            soft_labels = self._objective.soft_labels
            self._policy.begin(
                PolicyContext(self._n_classes, shares, beta, self._threat.eps, nb_epochs, self._device, soft_labels)
            )
        if file is not None:
            state = distributed.from_main(lambda: file.read(resume))
            if state is not None:
                self._load(state, source)
            else:  # interrupted in its first epoch, it begins again from the same weights
                distributed.from_main(lambda: file.write(self._state()))
        total = nb_epochs * source.n_examples
        done = min(total, self._epoch * source.n_examples)
        shown = progress_bar(total=total, done=done, name=name, unit="img", shown=verbose)
        with shown as bar, nullcontext() if self._is_over(nb_epochs) else self._step.ready():
            bar.at(f"first batch{', compiling' if self._options['compile'] else ''}")
            while not self._is_over(nb_epochs):
                row = self._one_epoch(source, validation, nb_epochs, bar)
                scalars.write(row)
                if file is not None:
                    distributed.from_main(lambda: file.write(self._state()))
            self._optimizer.zero_grad()
        if self._evaluated() is not self._model:
            self._model.load_state_dict(self._evaluated().state_dict())
        kept_epoch = None
        if self._kept is not None:
            _, kept_epoch, weights = self._kept
            self._model.load_state_dict(weights)
        return history_table(self._rows, kept_epoch)

    def _is_over(self, nb_epochs: int) -> bool:
        return self._epoch >= nb_epochs or (self._watch is not None and self._watch.ends(self._rows))

    def _one_epoch(
        self, source: Source, validation: Source | None, nb_epochs: int, bar: ProgressBar
    ) -> dict[str, float]:
        """Train for an epoch, validate, move the schedule on, and choose what is kept; return the history's row."""
        good, seed = snapshot(self._evaluated()), self._options["seed"]
        try:
            self._step.begin_epoch()
            with preserved_random_state(derive(seed, "epoch", self._epoch)):
                row = self._descend(source, bar, f"epoch {self._epoch + 1}/{nb_epochs}")
        except DivergenceError:
            self._model.load_state_dict(good)
            self._optimizer.state.clear()  # a momentum that isn't finite would ruin the next attempt, too
            raise
        if self._policy is not None:
            row |= self._policy.columns()
        if validation is not None:
            with preserved_random_state(derive(seed, "validation")):
                row |= self._validate(validation, averaged=self._fair_averaging is None)
                row |= self._average_if_fair(row, validation)
                if self._policy is not None:
                    for y, values in self._validated:
                        self._policy.see_validation(y, values)
            if self._watch is not None:
                row |= self._watch.columns(row, self._rows)
        if self._policy is not None:
            self._policy.end_epoch(self._epoch + 1, row)
        self._schedule.after_epoch(row)
        self._epoch += 1
        self._rows.append(row)
        if self._keep != "last":
            score = row["val_robust"] + (row["val_worst"] if self._keep == "robust+worst" else 0.0)
            if self._kept is None or score > self._kept[0]:
                self._kept = (score, self._epoch, snapshot(self._evaluated()))
        if self._watch is not None:
            self._answer(self._watch, good)
        shares = {"robust": "robust", "val": "val_robust", "worst": "val_worst"}
        told = {word: row[column] for word, column in shares.items() if math.isfinite(row.get(column, math.nan))}
        bar.beside({"loss": f"{row['loss']:.2f}", **{word: f"{share:.0%}" for word, share in told.items()}})
        return row

    def _answer(self, watch: CollapseWatch, before: dict[str, Tensor]) -> None:
        """Keep the weights before the epoch of the first collapse, if that is the answer to it, and say of it."""
        chosen = None if self._kept is None else self._kept[1]
        if watch.answer == "restore" and watch.ends(self._rows) and chosen in (None, self._epoch):
            self._kept = (0.0, self._epoch - 1, before)
        message = watch.message(self._rows, self._epoch if self._kept is None else self._kept[1])
        if message is not None and distributed.is_main():
            warnings.warn(message, stacklevel=2)

    def _descend(self, source: Source, bar: ProgressBar, title: str) -> dict[str, float]:
        began, n_images, learning_rate = time.perf_counter(), 0, math.nan
        statistics = EpochStatistics(self._n_classes, source.n_batches, self._device)
        if self._policy is not None and self._threat is not None:
            _check_budgets(self._policy, self._threat, self._largest, self._epoch)
        for number, batch in enumerate(source.batches(self._epoch)):
            result = self._step(batch, self._epoch)
            if self._average is not None and self._fair_averaging is None:
                self._average.update(self._model)
            statistics.add(number, result.values, batch.y[: batch.n_labelled], result.logits, result.logits_adv)
            learning_rate = self._optimizer.param_groups[0].get("lr", math.nan)
            self._schedule.after_step()
            if number == 0:
                bar.at(title)
            bar.update(batch.size)
            n_images += batch.size
            if (number + 1) % _LOSS_CHECK_INTERVAL == 0:
                self._check_loss(statistics)
        self._check_loss(statistics)
        if not bool(all_finite(self._model)):
            raise self._diverged(f"A weight became NaN or infinite in epoch {self._epoch + 1}")
        for model in (self._model, self._evaluated()):
            share_buffers(model)
        row = {"epoch": float(self._epoch + 1), **statistics.row(), "learning_rate": float(learning_rate)}
        return row | {"images_per_second": n_images / (time.perf_counter() - began)}

    def _check_loss(self, statistics: EpochStatistics) -> None:
        """Look whether the loss is still finite, which waits for the device."""
        bad = statistics.bad_batch()
        if bad is not None:
            raise self._diverged(f"The loss was NaN or infinite in epoch {self._epoch + 1}, batch {bad}")

    def _average_if_fair(self, row: dict[str, float], validation: Source) -> dict[str, float]:
        """Take the weights into the average if they are fair enough; return what the row says then.

        ``row`` has the model's own validation. Once there is an average, it is what the history tells of.
        """
        if self._fair_averaging is None or self._average is None:
            return {}
        fair = self._epoch >= self._fair_averaging.start and row["val_worst"] >= self._fair_averaging.threshold
        if fair:
            self._average.update(self._model)
        if not self._average.n_averaged:
            return {"averaged": 0.0}
        return {**self._validate(validation, averaged=True), "averaged": float(fair)}

    def _validate(self, validation: Source, *, averaged: bool) -> dict[str, float]:
        """Return the row of a validation, of the average, if there is one, or of the model itself."""
        assert self._validation_adversary is not None
        self._validated = []  # of an average that is validated after the model, the policy sees what the history tells
        counts, of_one_step = (ClassCounts(self._n_classes, self._device) for _ in range(2))
        with self._average.in_place_of(self._model) if self._average and averaged else nullcontext():
            searched = self._step.searched()
            for batch in validation.batches(0):
                starts = ExampleUniform(derive(self._options["seed"], "validation"), 0, batch.ids)
                x_adv = self._validation_adversary(searched, batch.x, batch.y, starts)
                logits, logits_adv = (exact_logits(self._step.module, x, self._n_classes) for x in (batch.x, x_adv))
                if self._policy is not None:
                    views = logits_adv.repeat(self._objective.n_views, 1)
                    with torch.no_grad():
                        adjustment = self._policy.logit_adjustment
                        values = self._objective.values(logits, views, batch.y, ClassWeights(), adjustment)
                        self._validated.append((batch.y, values))
                # Withstood: right without the attack as well.
                right = logits.argmax(1, keepdim=True) == batch.y[:, None]
                counts.add(batch.y, logits, torch.where(right, logits_adv, logits))
                if self._watch is not None:
                    x_adv = self._watch.adversary(searched, batch.x, batch.y, starts)
                    logits_adv = exact_logits(self._step.module, x_adv, self._n_classes)
                    of_one_step.add(batch.y, logits, torch.where(right, logits_adv, logits))
        row = counts.row("val_")
        if self._watch is not None:
            single = of_one_step.row("val_")
            names = {name: name.replace("val_robust", "val_single") for name in single if "robust" in name}
            row |= {names[name]: single[name] for name in names}
        by_class = pd.Series([row[f"val_robust_{k}"] for k in range(self._n_classes)])
        return row | {"val_worst": float(by_class.min())}  # absent classes are NaN, which min passes over

    def _evaluated(self) -> nn.Module:
        """Return the network that counts: the average, once there is one."""
        return self._model if self._average is None or not self._average.n_averaged else self._average.module

    def _diverged(self, what: str) -> DivergenceError:
        again = f"from after epoch {self._epoch}" if self._epoch else "it came with"
        return DivergenceError(
            f"{what}: lower the learning rate, or clip gradients (`gradient_clip=1.0`), in a training with a "
            f"`checkpoint_dir` of its own. The classifier has the weights {again} again."
        )

    def _state(self) -> TrainingState:
        score, kept_epoch, kept = self._kept or (None, None, None)
        return TrainingState(
            epoch=self._epoch,
            weights=self._model.state_dict(),
            averages=None if self._average is None else self._average.module.state_dict(),
            n_averaged=0 if self._average is None else self._average.n_averaged,
            optimizer=plain(self._optimizer.state_dict()),
            scheduler=self._schedule.state(),
            history=self._rows,
            kept_score=score,
            kept_epoch=kept_epoch,
            kept_weights=kept,
            policy=None if self._policy is None else self._policy.state(),
        )

    def _load(self, state: TrainingState, source: Source) -> None:
        self._model.load_state_dict(state.weights)
        if self._average is not None and state.averages is not None:
            self._average.module.load_state_dict(state.averages)
            self._average.n_averaged = state.n_averaged
        self._schedule.load(state.scheduler, state.history, source.n_batches)
        self._optimizer.load_state_dict(state.optimizer)
        if self._policy is not None and state.policy is not None:
            self._policy.load(state.policy)
        for epoch in range(state.epoch):
            source.skip(epoch)
        self._epoch, self._rows = state.epoch, [dict(row) for row in state.history]
        if state.kept_weights is not None and state.kept_epoch is not None and state.kept_score is not None:
            weights = {k: v.to(self._device) if isinstance(v, Tensor) else v for k, v in state.kept_weights.items()}
            self._kept = (state.kept_score, state.kept_epoch, weights)


def _check_budgets(policy: ClassPolicy, threat: ThreatModel, largest: float, epoch: int) -> None:
    """Check the class budgets of the epoch to come: no radius is 0, or covers the whole range of images.

    Args:
        policy: What sets them.
        threat: Norm and radius of the training attack.
        largest: Radius that covers the whole range.
        epoch: Number of epochs done.

    Raises:
        InputError: One is, or does.
    """
    budgets = policy.class_budgets
    if budgets is None:
        return
    for k, radius in enumerate(threat.eps * scale for scale in budgets.radii.tolist()):
        if not 0 < radius <= largest:
            raise InputError(
                f"{type(policy).__name__} sets the class budget of class {k} to {radius:g} for epoch {epoch + 1}, but "
                f"budgets lie above 0 and at most at {largest:g}: choose parameters by which the policy changes less, "
                "in a training of its own; it may begin with these weights, which are those from after epoch "
                f"{epoch}."
            )
