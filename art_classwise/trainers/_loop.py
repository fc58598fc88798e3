"""The one training loop: search, forward, step. Trainers differ in the objective they hand it."""

from __future__ import annotations

import inspect
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from art_classwise import _ranks, losses
from art_classwise._estimator import check_logits, exact_logits
from art_classwise._progress import progress
from art_classwise._state import evaluating, preserved, preserved_random_state
from art_classwise.attacks._fast import FastCopy, Precision
from art_classwise.attacks._random import ExampleUniform, derive
from art_classwise.errors import DivergenceError, InputError
from art_classwise.threat import ThreatModel
from art_classwise.trainers._adversary import Adversary, Budgets
from art_classwise.trainers._checkpoint import TrainingFile, history_table, plain
from art_classwise.trainers._history import ClassCounts, EpochStatistics, Scalars
from art_classwise.trainers._sources import Batch, Source
from art_classwise.trainers._weights import (
    WeightAverage,
    WeightPerturbation,
    all_finite,
    share_buffers,
    snapshot,
    synchronised,
)
from art_classwise.trainers.policies import ClassPolicy, ClassWeights, Scene

__all__ = ["Interval", "Keep", "Objective", "Settings", "Stepper", "Terms", "Training", "natural_terms", "needs"]

Interval = Literal["epoch", "step"]
Keep = Literal["last", "robust", "robust+worst"]


class Stepper(Protocol):
    """Any learning-rate scheduler: what has a ``step``."""

    @property
    def step(self) -> Callable[..., object]:
        """Goes on by one epoch or step."""


Terms = Callable[[Tensor | None, Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""Logits or None, logits under attack, labels -> the two terms of a loss, (n,) each, of which one may be missing."""


def natural_terms(label_smoothing: float = 0.0) -> Terms:
    """Return the terms of natural training: cross-entropy on clean images alone."""

    def terms(logits: Tensor | None, logits_adv: Tensor, y: Tensor) -> tuple[Tensor, None]:
        assert logits is not None
        return losses.cross_entropy(logits, y, label_smoothing), None

    return terms


@dataclass(frozen=True)
class Objective:
    """What training descends: the first term plus beta times the second.

    Attributes:
        terms: The two terms.
        beta: Factor of the second; None where there is none.
        uses_clean: Whether the terms need the clean logits.
        adversary: The attack; None for natural training, whose logits "under attack" are the clean ones.
        n_views: How many adversarial inputs the attack returns for an image; those of the first view come first.
        two_passes: Whether clean and adversarial images are forward passes of their own, so that batch norm sees two
            batches, as in most published implementations; else one pass, of all.
    """

    terms: Terms
    beta: float | None
    uses_clean: bool
    adversary: Adversary | None
    n_views: int = 1
    two_passes: bool = False


@dataclass(frozen=True)
class Settings:
    """How to train, whatever the objective: see :class:`art_classwise.trainers.SearchTrainer`."""

    gradient_clip: float | None = None
    ema_decay: float | None = None
    awp_gamma: float = 0.0
    awp_warmup: int = 0
    precision: Precision = "auto"
    compile: bool = False
    seed: int = 0


_GLANCE = 50
"""Batches between two looks at the loss: each makes the CPU wait for the device."""


class Training:
    """A training: its network, what is made of it, and how far it is.

    Args:
        model: The network whose weights are trained, on its device.
        module: Maps images to logits by way of the model.
        optimizer: Of the model's parameters.
        objective: What to descend.
        settings: How.
        validation_adversary: The attack to validate under.
        threat: Norm and radius of the training attack.
        width: Width of the range of images.
        n_classes: Number of classes.
        sample: (n, ...) an image or two, on the device.
        policy: What sets class weights and budgets; changed as the training goes.
        gamma: Weight of examples with pseudo-labels.
        scheduler: Anything with ``step``.
        scheduler_interval: Whether it is called after each epoch or after each step.
        keep: Which epoch's weights the model has in the end.

    Raises:
        InputError: The network can't be copied, but weights are to be averaged.
    """

    def __init__(
        self,
        model: nn.Module,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        settings: Settings,
        validation_adversary: Adversary,
        threat: ThreatModel,
        width: float,
        n_classes: int,
        sample: Tensor,
        policy: ClassPolicy | None = None,
        gamma: float = 1.0,
        scheduler: Stepper | None = None,
        scheduler_interval: Interval = "epoch",
        keep: Keep = "last",
    ) -> None:
        self._model, self._module, self._optimizer = model, module, optimizer
        self._objective, self._settings, self._validation_adversary = objective, settings, validation_adversary
        self._n_classes, self._scheduler, self._interval, self._keep = n_classes, scheduler, scheduler_interval, keep
        self._threat, self._policy, self._gamma, self._width = threat, policy, gamma, width
        self._device = sample.device
        with torch.no_grad(), evaluating(module):
            check_logits(module(sample), len(sample), n_classes)
        self._fast = FastCopy(module, sample, settings.precision, compile=settings.compile, dynamic=False)
        self._average = None if settings.ema_decay is None else WeightAverage(model, settings.ema_decay)
        self._fair = None if policy is None else policy.averaging
        if self._fair is not None:
            self._average = WeightAverage(model, self._fair.decay, warm_up=False)
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._trained = [p for p in model.parameters() if p.requires_grad and id(p) in own]
        self._awp = WeightPerturbation(self._trained, settings.awp_gamma) if settings.awp_gamma else None
        self._sample = sample
        self._network = self._module  # run() puts it on many devices, and compiles it
        self._learning_rate: float | Tensor = 0.0  # of the last step
        self._epoch = 0
        self._rows: list[dict[str, float]] = []
        self._kept: tuple[float, int, dict[str, Tensor]] | None = None  # score, epoch, weights

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
            verbose: Show a progress bar.
            name: What the progress bar calls it.

        Raises:
            DivergenceError: The loss or a weight became NaN or infinite. The model has the weights of the epoch before.
            InputError: The module doesn't return logits (n, C), the file can't be read or written, or the policy sets
                a class budget that there can't be.
        """
        if self._policy is not None:
            even = torch.full((self._n_classes,), 1 / self._n_classes)
            shares = (even if shares is None else shares).to(self._device)
            beta = self._objective.beta
            self._policy.begin(Scene(self._n_classes, shares, beta, self._threat.eps, nb_epochs, self._device))
        if file is not None:
            state = _ranks.from_main(lambda: file.read(resume))
            if state is not None:
                self._load(state, source)
            else:  # interrupted in its first epoch, it begins again from the same weights
                _ranks.from_main(lambda: file.write(self._state()))
        total = nb_epochs * source.n_examples
        with ExitStack() as stack:
            bar = stack.enter_context(
                progress(
                    total=total,
                    initial=min(total, self._epoch * source.n_examples),
                    desc=f"{name}: first batch{' (compiling)' if self._settings.compile else ''}",
                    unit="img",
                    unit_scale=True,
                    shown=verbose,
                )
            )
            stack.enter_context(preserved(self._model))
            # What the optimizer doesn't hold needs no gradient.
            self._model.requires_grad_(False)
            for weight in self._trained:
                weight.requires_grad_()
            stack.enter_context(synchronised(self._model, self._device))
            self._lay_out(stack)
            while self._epoch < nb_epochs:
                row = self._one_epoch(source, validation, nb_epochs, bar, name)
                scalars.write(row)
                if file is not None:
                    _ranks.from_main(lambda: file.write(self._state()))
            self._optimizer.zero_grad()
        if self._evaluated() is not self._model:
            self._model.load_state_dict(self._evaluated().state_dict())
        kept_epoch = None
        if self._kept is not None:
            _, kept_epoch, weights = self._kept
            self._model.load_state_dict(weights)
        return history_table(self._rows, kept_epoch)

    def _lay_out(self, stack: ExitStack) -> None:
        """Make of the module what is trained: laid out channels last, on many devices, compiled."""
        if self._fast.channels_last:
            convolutions = [m.weight for m in self._model.modules() if isinstance(m, nn.Conv2d)]
            if all(w.is_contiguous() for w in convolutions):
                layout: Any = self._model.to
                layout(memory_format=torch.channels_last)
                stack.callback(layout, memory_format=torch.contiguous_format)
        network: nn.Module = self._module
        if _ranks.world() > 1:
            network = self._on_many_devices()
        if self._settings.compile:
            network = cast(nn.Module, torch.compile(network, dynamic=False))  # all batches but the last are of one size
        self._network = network

    def _on_many_devices(self) -> nn.Module:
        """Return the module with gradients averaged over all processes, which begin as the main one is."""
        with torch.enable_grad(), evaluating(self._module):
            gradients = torch.autograd.grad(self._module(self._sample).sum(), self._trained, allow_unused=True)
        # Buffers aren't shared at each pass: of two passes the second would overwrite what the first still needs.
        arguments = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in arguments else "broadcast_buffers"  # by torch's age
        options: dict[str, Any] = {name: False, "find_unused_parameters": any(g is None for g in gradients)}
        network = DistributedDataParallel(self._module, **options)
        share_buffers(self._model, as_main=True)
        return network

    def _one_epoch(
        self, source: Source, validation: Source | None, nb_epochs: int, bar: Any, name: str
    ) -> dict[str, float]:
        """Train for an epoch, validate, move the schedule on, and choose what is kept; return the history's row."""
        good = snapshot(self._evaluated())
        seed = self._settings.seed
        try:
            with preserved_random_state(derive(seed, "epoch", self._epoch)):
                row = self._descend(source, bar, f"{name} {self._epoch + 1}/{nb_epochs}")
        except DivergenceError:
            self._model.load_state_dict(good)
            self._optimizer.state.clear()  # a momentum that isn't finite would ruin the next attempt, too
            raise
        if self._policy is not None:
            row |= self._policy.columns()
        if validation is not None:
            with preserved_random_state(derive(seed, "validation")):
                row |= self._validate(validation, averaged=self._fair is None)
                row |= self._average_if_fair(row, validation)
        if self._policy is not None:
            self._policy.end_epoch(self._epoch + 1, row)
        if self._scheduler is not None and self._interval == "epoch":
            self._step_scheduler(row)
        self._epoch += 1
        self._rows.append(row)
        if self._keep != "last":
            score = row["val_robust"] + (row["val_worst"] if self._keep == "robust+worst" else 0.0)
            if self._kept is None or score > self._kept[0]:
                self._kept = (score, self._epoch, snapshot(self._evaluated()))
        bar.set_postfix({k: f"{row[k]:.3f}" for k in ("loss", "robust", "val_robust", "val_worst") if k in row})
        return row

    def _descend(self, source: Source, bar: Any, title: str) -> dict[str, float]:
        began, n_images = time.perf_counter(), 0
        statistics = EpochStatistics(self._n_classes, source.n_batches, self._device)
        self._check_budgets()
        for number, batch in enumerate(source.batches(self._epoch)):
            self._step(batch, number, statistics)
            if number == 0:
                bar.set_description(title)
            bar.update(batch.size)
            n_images += batch.size
            if (number + 1) % _GLANCE == 0:
                self._glance(statistics)
        self._glance(statistics)
        if not bool(all_finite(self._model)):
            raise self._diverged(f"A weight became NaN or infinite in epoch {self._epoch + 1}")
        for model in (self._model, self._evaluated()):
            share_buffers(model)
        row = {"epoch": float(self._epoch + 1), **statistics.row()}
        row["learning_rate"] = float(self._learning_rate)
        row["images_per_second"] = n_images / (time.perf_counter() - began)
        return row

    def _glance(self, statistics: EpochStatistics) -> None:
        """Look whether the loss is still finite, which waits for the device."""
        bad = statistics.bad_batch()
        if bad is not None:
            raise self._diverged(f"The loss was NaN or infinite in epoch {self._epoch + 1}, batch {bad}")

    def _check_budgets(self) -> None:
        """Check the class budgets of the epoch to come: no radius is 0, or covers the whole range of images."""
        budgets = None if self._policy is None else self._policy.class_budgets
        if budgets is None:
            return
        radii = [self._threat.eps * scale for scale in budgets.radii.tolist()]
        largest = self._threat.diameter(self._width, self._sample[0].numel())
        for k, radius in enumerate(radii):
            if not 0 < radius <= largest:
                raise InputError(
                    f"{type(self._policy).__name__} sets the class budget of class {k} to {radius:g} for epoch "
                    f"{self._epoch + 1}, but budgets lie above 0 and at most at {largest:g}: choose parameters by "
                    "which the policy changes less, in a training of its own; it may begin with these weights, which "
                    f"are those from after epoch {self._epoch}."
                )

    def _step(self, batch: Batch, number: int, statistics: EpochStatistics) -> None:
        """Attack a batch and take one step. Nothing of ours in here waits for the device."""
        x_adv, weights = self._attack(batch), ClassWeights()
        self._model.train()
        if self._awp is not None and self._epoch >= self._settings.awp_warmup:
            buffers = [b.clone() for b in self._model.buffers()]
            *_, weights = self._backward(batch, x_adv, None)
            for buffer, before in zip(self._model.buffers(), buffers, strict=True):
                buffer.copy_(before)  # batch norm has seen this batch once, as without the perturbation
            with self._awp.perturbed():
                values, logits, logits_adv, _ = self._backward(batch, x_adv, weights)
        else:
            values, logits, logits_adv, _ = self._backward(batch, x_adv, None)
        if self._settings.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self._trained, self._settings.gradient_clip)
        self._optimizer.step()
        if self._average is not None and self._fair is None:
            self._average.update(self._model)
        statistics.add(number, values.detach(), batch.y[: batch.n_labelled], logits, logits_adv)
        self._learning_rate = self._optimizer.param_groups[0].get("lr", float("nan"))
        if self._scheduler is not None and self._interval == "step":
            self._scheduler.step()

    def _attack(self, batch: Batch) -> Tensor | None:
        """Return the adversarial inputs of a batch, view after view; none in natural training."""
        if self._objective.adversary is None:
            return None
        starts = ExampleUniform(derive(self._settings.seed, "starts", self._epoch), 0, batch.ids)
        scales = None if self._policy is None else self._policy.class_budgets
        budgets = None
        if scales is not None:
            budgets = Budgets(scales.radii[batch.y].to(batch.x), scales.steps[batch.y].to(batch.x))
        return self._objective.adversary(self._fast.of(self._module), batch.x, batch.y, starts, budgets)

    def _backward(
        self, batch: Batch, x_adv: Tensor | None, weights: ClassWeights | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None, ClassWeights]:
        """Set the gradients.

        Args:
            batch: The batch.
            x_adv: Its adversarial inputs.
            weights: The class weights; the policy is asked if absent.

        Returns:
            Losses (m,) of all examples, the logits of the labelled ones, clean and under attack, and the weights.
        """
        self._optimizer.zero_grad()
        n, labelled, objective = len(batch.x), batch.n_labelled, self._objective
        clean, adversarial = self._forward(batch.x, x_adv)
        logits = None if clean is None else check_logits(clean, n, self._n_classes).float()
        if x_adv is None or adversarial is None:
            assert logits is not None
            seen = attacked = logits
        else:
            attacked = check_logits(adversarial, n * objective.n_views, self._n_classes).float()
            seen = attacked[:n]
        if weights is None:
            weights = ClassWeights()
            if self._policy is not None:
                with torch.no_grad():
                    weights = self._policy.weigh(batch.y[:labelled], seen[:labelled].detach())
        values = self._values(logits, attacked, batch.y, weights)
        if labelled < n:
            values = torch.cat([values[:labelled], self._gamma * values[labelled:]])
        # The mean over the whole batch: of the processes' gradients DDP takes the mean again.
        (values.sum() * (_ranks.world() / batch.size)).backward()
        logits_adv = None if x_adv is None else seen[:labelled]
        return values, None if logits is None else logits[:labelled], logits_adv, weights

    def _forward(self, x: Tensor, x_adv: Tensor | None) -> tuple[Any, Any]:
        """Return what the network gives for clean and for adversarial images, as far as they are needed."""
        objective, n = self._objective, len(x)
        with _two_or_more(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._fast.bf16):
            if x_adv is None:
                return self._network(x), None
            if not objective.uses_clean:
                return None, self._network(x_adv)
            if objective.two_passes:
                clean = self._network(x)
                parts = [self._network(view) for view in x_adv.chunk(objective.n_views)]
                return clean, parts[0] if len(parts) == 1 else torch.cat(parts)
            both = check_logits(self._network(torch.cat([x, x_adv])), n + len(x_adv), self._n_classes)
            return both[:n], both[n:]

    def _values(self, logits: Tensor | None, attacked: Tensor, y: Tensor, weights: ClassWeights) -> Tensor:
        """Return the objective of each example (n,), class weights included."""
        first, second = self._objective.terms(logits, attacked, y)
        if weights.first is not None:
            first = weights.first[y].to(first.dtype) * first
        if second is None:
            return first
        if weights.second is not None:
            second = weights.second[y].to(second.dtype) * second
        return first + (self._objective.beta or 0.0) * second

    def _average_if_fair(self, row: dict[str, float], validation: Source) -> dict[str, float]:
        """Take the weights into the average if they are fair enough; return what the row says then.

        ``row`` has the model's own validation. Once there is an average, it is what the history tells of.
        """
        if self._fair is None or self._average is None:
            return {}
        fair = self._epoch >= self._fair.start and row["val_worst"] >= self._fair.threshold
        if fair:
            self._average.update(self._model)
        if not self._average.n_averaged:
            return {"averaged": 0.0}
        return {**self._validate(validation, averaged=True), "averaged": float(fair)}

    def _validate(self, validation: Source, *, averaged: bool) -> dict[str, float]:
        """Return the row of a validation, of the average, if there is one, or of the model itself."""
        counts = ClassCounts(self._n_classes, self._device)
        with self._average_in_place() if averaged else nullcontext():
            searched = self._fast.of(self._module)
            for batch in validation.batches(0):
                starts = ExampleUniform(derive(self._settings.seed, "validation"), 0, batch.ids)
                x_adv = self._validation_adversary(searched, batch.x, batch.y, starts)
                logits, logits_adv = (exact_logits(self._module, x, self._n_classes) for x in (batch.x, x_adv))
                if self._policy is not None:
                    with torch.no_grad():
                        views = logits_adv.repeat(self._objective.n_views, 1)
                        self._policy.see_validation(batch.y, self._values(logits, views, batch.y, ClassWeights()))
                # Withstood: right without the attack as well.
                right = logits.argmax(1, keepdim=True) == batch.y[:, None]
                counts.add(batch.y, logits, torch.where(right, logits_adv, logits))
        row = counts.row("val_")
        by_class = pd.Series([row[f"val_robust_{k}"] for k in range(self._n_classes)])
        return row | {"val_worst": float(by_class.min())}  # absent classes are NaN, which min passes over

    @contextmanager
    def _average_in_place(self) -> Iterator[None]:
        """Let the averaged weights take the place of the model's, so that any attack on the model meets them."""
        if self._average is None or not self._average.n_averaged:
            yield
            return
        trained = snapshot(self._model)
        self._model.load_state_dict(self._average.module.state_dict())
        try:
            yield
        finally:
            self._model.load_state_dict(trained)

    def _evaluated(self) -> nn.Module:
        """Return the network that counts: the average, once there is one."""
        return self._model if self._average is None or not self._average.n_averaged else self._average.module

    def _step_scheduler(self, row: dict[str, float]) -> None:
        assert self._scheduler is not None
        needed = needs(self._scheduler.step)
        if not needed:
            self._scheduler.step()
            return
        if "epoch" in needed[0]:
            self._scheduler.step(int(row["epoch"]))
            return
        # Such as ReduceLROnPlateau, which is told how the training goes.
        rising = getattr(self._scheduler, "mode", "min") == "max"
        robust = row.get("val_robust", row["robust"])
        accuracy = row["clean"] if math.isnan(robust) else robust  # natural training attacks nothing
        self._scheduler.step(accuracy if rising else row["loss"])

    def _diverged(self, what: str) -> DivergenceError:
        again = f"from after epoch {self._epoch}" if self._epoch else "it came with"
        return DivergenceError(
            f"{what}: lower the learning rate, or clip gradients (gradient_clip=1.0), in a training with a "
            f"`checkpoint_dir` of its own. The classifier has the weights {again} again."
        )

    def _state(self) -> dict[str, Any]:
        """Return what a file needs to hold. No random state: each epoch's draws follow from (seed, epoch)."""
        score, kept_epoch, kept = self._kept or (None, None, None)
        return {
            "epoch": self._epoch,
            "weights": self._model.state_dict(),
            "averages": None if self._average is None else self._average.module.state_dict(),
            "n_averaged": 0 if self._average is None else self._average.n_averaged,
            "optimizer": plain(self._optimizer.state_dict()),
            "scheduler": self._scheduler_state(),
            "history": self._rows,
            "kept_score": score,
            "kept_epoch": kept_epoch,
            "kept_weights": kept,
            "policy": None if self._policy is None else self._policy.state(),
        }

    def _scheduler_state(self) -> Any:
        try:
            return (
                plain(cast(Any, self._scheduler).state_dict()) if hasattr(self._scheduler, "load_state_dict") else None
            )
        except TypeError:
            return None

    def _load(self, state: dict[str, Any], source: Source) -> None:
        self._model.load_state_dict(state["weights"])
        if self._average is not None:
            self._average.module.load_state_dict(state["averages"])
            self._average.n_averaged = state["n_averaged"]
        if self._scheduler is not None:
            if state["scheduler"] is not None:
                cast(Any, self._scheduler).load_state_dict(state["scheduler"])
            else:
                self._replay_scheduler(state["history"], source.n_batches)
        self._optimizer.load_state_dict(state["optimizer"])
        if self._policy is not None:
            self._policy.load(state["policy"])
        for epoch in range(state["epoch"]):
            source.skip(epoch)
        self._epoch, self._rows = state["epoch"], [dict(row) for row in state["history"]]
        if state["kept_weights"] is not None:
            weights = {k: v.to(self._device) for k, v in state["kept_weights"].items()}
            self._kept = (state["kept_score"], state["kept_epoch"], weights)

    def _replay_scheduler(self, rows: list[dict[str, float]], n_batches: int) -> None:
        """Bring a scheduler whose state can't be stored to where it was, by its own steps."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, that the optimizer hasn't stepped before
            for row in rows:
                for _ in range(n_batches if self._interval == "step" else 1):
                    if self._interval == "step":
                        cast(Stepper, self._scheduler).step()
                    else:
                        self._step_scheduler(row)


@contextmanager
def _two_or_more() -> Iterator[None]:
    """Say of a batch too small for batch norm what to do about it."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            "A batch of one example has no variance, which the network's batch norm divides by: take a larger "
            "`batch_size`, or more examples."
        ) from error


def needs(call: Callable[..., object]) -> list[str]:
    """Return the names of the arguments that a call can't do without."""
    various = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(call).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind not in various]
