"""The one training loop: search, forward, step. Trainers differ in the objective they hand it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from art_classwise import losses
from art_classwise._estimator import check_logits
from art_classwise._state import evaluating, preserved, preserved_random_state
from art_classwise.attacks._search import search
from art_classwise.errors import DivergenceError, InputError
from art_classwise.threat import ThreatModel

__all__ = ["Batches", "InnerSearch", "Objective", "Stepper", "train"]

Batches = Callable[[int], Iterable[tuple[Tensor, Tensor]]]
"""Epoch, from 0 -> its batches of images and labels, on the device."""


class Stepper(Protocol):
    """Any learning-rate scheduler: what has a ``step``."""

    def step(self) -> object:
        """Go on by one epoch."""


@dataclass(frozen=True)
class InnerSearch:
    """The attack inside training: cross-entropy, ascended from a start near x.

    Attributes:
        threat: Norm and radius.
        eps_step: Length of a step.
        max_iter: Number of steps.
        start: ``"uniform"`` in the ball (Madry et al. 2018) or ``"gaussian"``, x + 0.001 N(0, 1) (TRADES, MART).
    """

    threat: ThreatModel
    eps_step: float
    max_iter: int
    start: str

    def __call__(
        self, module: nn.Module, x: Tensor, y: Tensor, low: Tensor, high: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return adversarial inputs (n, ...) for a batch; the module's mode is as before afterwards."""
        if self.start == "uniform":
            start = self.threat.random_start(x, lambda *shape: torch.rand(shape, generator=generator, device=x.device))
        else:
            start = x + 0.001 * torch.randn(x.shape, generator=generator, device=x.device)
        return search(
            module,
            x,
            y,
            self.threat,
            losses.cross_entropy,
            eps_step=self.eps_step,
            max_iter=self.max_iter,
            low=low,
            high=high,
            start=start,
        ).x_adv


@dataclass(frozen=True)
class Objective:
    """What training descends.

    Attributes:
        loss: (logits or None, logits under attack, labels) -> (n,).
        uses_clean: Whether ``loss`` needs the clean logits, a second forward pass.
        inner: The attack.
    """

    loss: Callable[[Tensor | None, Tensor, Tensor], Tensor]
    uses_clean: bool
    inner: InnerSearch


def train(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    batches: Batches,
    *,
    n_classes: int,
    nb_epochs: int,
    n_batches: int,
    low: Tensor,
    high: Tensor,
    seed: int,
    scheduler: Stepper | None = None,
    validation: Batches | None = None,
    verbose: bool = True,
    name: str = "training",
) -> pd.DataFrame:
    """Train and return the history, a row per epoch.

    The module's weights change; its mode, requires_grad flags, gradients and the global random state don't.

    Args:
        module: Maps images to logits.
        optimizer: Of the module's parameters.
        objective: What to descend, and the attack inside.
        batches: The training batches of each epoch.
        n_classes: Number of classes.
        nb_epochs: Number of epochs.
        n_batches: Number of batches in an epoch, for the progress bar.
        low: Lower bound of the box of images.
        high: Upper bound of the box of images.
        seed: Of starts, dropout and whatever else is random in the module.
        scheduler: Its ``step`` is called after each epoch.
        validation: Batches to measure on after each epoch.
        verbose: Show a progress bar.
        name: What the progress bar calls it.

    Returns:
        Columns ``epoch`` (from 1), ``loss``, ``robust`` (training examples under the inner attack),
        ``learning_rate``, ``images_per_second``; with validation ``val_clean``, ``val_robust``, ``val_worst``
        (the worst class's robust accuracy) and ``val_robust_<k>`` for each class k.

    Raises:
        DivergenceError: The loss became NaN or infinite.
        InputError: The module doesn't return logits (n, C).
    """
    device = next(module.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    rows: list[dict[str, float]] = []
    bar = tqdm(total=nb_epochs * n_batches, desc=name, unit="batch", disable=not verbose)
    with bar, preserved(module), preserved_random_state(seed):
        for epoch in range(nb_epochs):
            began = time.perf_counter()
            # Sums stay on the device; they are read once per epoch, so that no batch waits for the CPU.
            loss_sum = torch.zeros((), device=device, dtype=torch.float64)
            withstood = torch.zeros((), device=device, dtype=torch.int64)
            seen = 0
            for x, y in batches(epoch):
                module.train()
                x_adv = objective.inner(module, x, y, low, high, generator)
                optimizer.zero_grad()
                logits = check_logits(module(x), len(x), n_classes) if objective.uses_clean else None
                logits_adv = check_logits(module(x_adv), len(x), n_classes)
                loss = objective.loss(logits, logits_adv, y)
                loss.mean().backward()
                optimizer.step()
                with torch.no_grad():
                    loss_sum += loss.sum()
                    withstood += (logits_adv.argmax(1) == y).sum()
                seen += len(x)
                bar.update()
            if seen == 0:
                raise InputError("There is no batch to train on.")
            mean_loss = float(loss_sum) / seen  # the epoch's one wait for the device
            if not math.isfinite(mean_loss):
                raise DivergenceError(
                    f"The loss became {mean_loss} in epoch {epoch + 1}: lower the learning rate, or clip gradients."
                )
            row = {
                "epoch": epoch + 1,
                "loss": mean_loss,
                "robust": float(withstood) / seen,
                "learning_rate": optimizer.param_groups[0]["lr"],
                "images_per_second": seen / (time.perf_counter() - began),
            }
            if validation is not None:
                row |= _validate(module, validation(epoch), objective.inner, n_classes, low, high, seed)
            rows.append(row)
            bar.set_postfix(loss=f"{mean_loss:.3f}", robust=f"{row['robust']:.1%}")
            if scheduler is not None:
                scheduler.step()
        optimizer.zero_grad()
    return pd.DataFrame(rows).astype({"epoch": int})


def _validate(
    module: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    inner: InnerSearch,
    n_classes: int,
    low: Tensor,
    high: Tensor,
    seed: int,
) -> dict[str, float]:
    clean: list[Tensor] = []
    robust: list[Tensor] = []
    labels: list[Tensor] = []
    with evaluating(module):
        for x, y in batches:
            # A generator of its own, begun anew: measuring must not change the training that follows.
            generator = torch.Generator(x.device).manual_seed(seed)
            x_adv = inner(module, x, y, low, high, generator)
            with torch.no_grad():
                clean.append(module(x).argmax(1) == y)
                robust.append(module(x_adv).argmax(1) == y)
            labels.append(y)
    y_all, withstood = torch.cat(labels).cpu().numpy(), torch.cat(robust).cpu().numpy()
    n = np.bincount(y_all, minlength=n_classes)
    by_class = np.bincount(y_all, weights=withstood, minlength=n_classes) / np.where(n > 0, n, np.nan)
    return {
        "val_clean": float(torch.cat(clean).float().mean()),
        "val_robust": float(withstood.mean()),
        "val_worst": float(np.nanmin(by_class)),
        **{f"val_robust_{k}": float(a) for k, a in enumerate(by_class)},
    }


def shuffled(x: Tensor, y: Tensor, batch_size: int, seed: int) -> Batches:
    """Return batches in an order drawn from (seed, epoch) alone, the last one perhaps smaller."""

    def batches(epoch: int) -> Iterable[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(
            int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint32)[0])
        )
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for begin in range(0, len(x), batch_size):
            rows = order[begin : begin + batch_size]
            yield x[rows], y[rows]

    return batches


def in_order(x: Tensor, y: Tensor, batch_size: int) -> Batches:
    """Return batches as the examples stand."""

    def batches(epoch: int) -> Iterable[tuple[Tensor, Tensor]]:
        for begin in range(0, len(x), batch_size):
            yield x[begin : begin + batch_size], y[begin : begin + batch_size]

    return batches
