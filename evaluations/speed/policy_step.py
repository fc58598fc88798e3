"""Time that class policies add to an epoch of training, for speed.py."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch

import art_classwise as acw

P = acw.policies
TABLES = ("policies",)
# Per size: network, images in an epoch, images in a step, how many times as many rounds as asked for.
SIZES = {
    "tiny": (("digits-cnn", 16, 8, 1),),
    "quick": (("digits-cnn", 512, 64, 2),),
    "long": (("resnet18", 128, 64, 1), ("digits-cnn", 1024, 64, 5)),
    "full": (("resnet18", 50_000, 128, 1), ("digits-cnn", 50_000, 128, 5)),
}


def measure(arguments: argparse.Namespace, only: str) -> pd.DataFrame:
    """Return the table that speed.py's command line asks for: :func:`time_policies` on the size's networks."""
    return pd.concat(
        time_policies(network, images, batch, times * arguments.rounds)
        for network, images, batch, times in SIZES[arguments.size]
    )


def time_policies(network: str, n_images: int, batch_size: int, rounds: int) -> pd.DataFrame:
    """Time epochs of TRADES with each policy in turn, validation included, and without one before each.

    Args:
        network: ``"resnet18"`` on random images of CIFAR's shape, or ``"digits-cnn"`` on some of the digits' shape.
        n_images: Images in an epoch; there are a fiftieth as many to validate on, but at least 20.
        batch_size: Images in a step.
        rounds: How often each is timed.

    Returns:
        A row per policy: ``epoch``, median seconds; ``added %``, the median over rounds of what it adds to the epoch
        without a policy just before, and the smallest and the largest; ``own %``, the share of the epoch that passes in
        the policy's own methods (on a CPU; on a GPU they only queue work).
    """
    rng, shape = np.random.default_rng(0), (3, 32, 32) if network == "resnet18" else (1, 8, 8)
    x = (rng.integers(0, 256, (n_images, *shape)) / 255).astype(np.float32)
    y = rng.integers(0, 10, n_images)
    policies = {
        "weights": P.Fixed(weights=[1.0] * 10),
        "budgets": P.Fixed(budgets=[0.031] * 10),
        "CFA": P.CFA(begin_after=1, fawa_start=0, threshold=0.0),
        "DAFA": P.DAFA(lamb=0.01, warmup=2),
        "FRL": P.FRL(),
        "WAT": P.WAT(),
        "FAAL": P.FAAL(),
        "CFOL": P.CFOL(),
        "FairARD": P.FairARD(),
        "Spectral": P.Spectral(),
        "TRIX": P.TRIX(),
        "FAIR-TAT": P.FairTAT(),
        "balanced softmax": P.BalancedSoftmax(),
    }
    added: dict[str, list[float]] = {name: [] for name in policies}
    seconds: dict[str, list[float]] = {name: [] for name in policies}
    own: dict[str, list[float]] = {name: [] for name in policies}
    for _ in range(rounds):
        for name, policy in policies.items():
            without, _ = _epoch(network, x, y, batch_size, None)
            took, inside = _epoch(network, x, y, batch_size, policy)
            added[name].append(100 * (took / without - 1))
            seconds[name].append(took)
            own[name].append(100 * inside / took)
    return pd.DataFrame(
        {
            "network": network,
            "n": n_images,
            "batch": batch_size,
            "policy": name,
            "rounds": rounds,
            "epoch": statistics.median(seconds[name]),
            "added %": statistics.median(added[name]),
            "least %": min(added[name]),
            "most %": max(added[name]),
            "own %": statistics.median(own[name]),
        }
        for name in policies
    )


class _Clock:
    """A schedule that changes nothing, and notes when epochs end, validation included."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def step(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def _epoch(network: str, x: np.ndarray, y: np.ndarray, batch_size: int, policy: Any) -> tuple[float, float]:
    """Return the seconds of the last of three epochs, and how many of an epoch's pass in the policy."""
    module = acw.build(network, x.shape[1:], 10, seed=0)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.001)
    classifier = acw.as_classifier(module, x.shape[1:], 10, optimizer=optimizer)
    clock, held, spent = _Clock(), max(20, len(x) // 50), [0.0]
    trainer = acw.AdversarialTrainerTRADESPyTorch(
        classifier, eps=0.031, eps_step=0.007, verbose=False, class_policy=policy
    )
    with ExitStack() as stack:
        if policy is not None:
            for name in ("weigh", "end_epoch", "columns", "see_validation", "see_steps", "term", "targets_of"):
                stack.enter_context(patch.object(type(policy), name, _timed(getattr(type(policy), name), spent)))
            budgets = property(_timed(type(policy).class_budgets.fget, spent))
            stack.enter_context(patch.object(type(policy), "class_budgets", budgets))
        trainer.fit(x, y, (x[:held], y[:held]), batch_size, 3, clock)
    return clock.times[-1] - clock.times[-2], spent[0] / 3


def _timed(method: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        began = time.perf_counter()
        result = method(*arguments)
        spent[0] += time.perf_counter() - began
        return result

    return timed
