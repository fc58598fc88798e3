"""What an audit costs, before it is run: passes of attacks that nothing stops, times the seconds of a pass."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from art_classwise._core import art_interface
from art_classwise._core.forward import MicroBatches, counted, usual_batch_size
from art_classwise._core.state import preserved, preserved_random_state
from art_classwise.attacks.ladder import AttackFactory
from art_classwise.attacks.transfer import TransferAttack
from art_classwise.audit.plan import CLEAN_NAME
from art_classwise.datasets import Dataset
from art_classwise.zoo import as_classifier

__all__ = ["estimated"]

_FEW = 16
_SIDE = 8


def estimated(classifier: Any, factories: Mapping[str, AttackFactory], data: Dataset) -> dict[str, float]:
    """Return the most seconds that an example costs under each attack, and without, named ``"clean"``.

    The network's own passes are timed on a few examples. How many of them an attack takes, where an example withstands
    all of it, is counted on a tiny network that nothing can break; an attack that fails there is left out.

    Args:
        classifier: An ART ``PyTorchClassifier``.
        factories: The attacks, each a function from a classifier to one.
        data: The examples.
    """
    forward, backward = _seconds_of_passes(classifier, data)
    seconds = {CLEAN_NAME: forward}
    for name, make in factories.items():
        passes = _passes(make, classifier.nb_classes, classifier.input_shape)
        if passes is not None:
            seconds[name] = forward * (passes[0] + 1) + backward * passes[1]
    return seconds


def _seconds_of_passes(classifier: Any, data: Dataset) -> tuple[float, float]:
    """Return the seconds that an example takes forward, and then back to its gradient."""
    device = classifier.device
    most = usual_batch_size(device, classifier.input_shape) if device.type == "cuda" else _FEW
    few = np.asarray(data.take(np.arange(min(most, len(data)))).x)
    x = torch.from_numpy(few).to(device)
    module = MicroBatches(art_interface.logits_module(classifier))
    times: list[tuple[float, float]] = []
    with preserved(classifier.model), preserved_random_state(0):
        classifier.model.eval()
        for _ in range(2):  # the first warms up
            begun = _now(device)
            with torch.no_grad():
                module(x)
            forward = _now(device) - begun
            inputs = x.clone().requires_grad_()
            begun = _now(device)
            output = module(inputs)
            if output.requires_grad:
                torch.autograd.grad(output.sum(), inputs)
            times.append((forward, max(0.0, _now(device) - begun - forward)))
    n = max(len(x), _FEW if device.type == "cpu" else 1)
    return times[-1][0] / n, times[-1][1] / n


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _passes(make: AttackFactory, n_classes: int, input_shape: tuple[int, ...]) -> tuple[float, float] | None:
    """Return how many passes forward and back an example costs that withstands an attack."""
    shape = (input_shape[0], *(min(side, _SIDE) for side in input_shape[1:]))
    unbroken = as_classifier(_Unbroken(shape, n_classes), shape, n_classes, device="cpu")
    try:
        attack = make(unbroken)
        if isinstance(attack, TransferAttack):
            return (1.0, 0.0)  # its passes are the surrogate's
        generator = np.random.default_rng(0)
        x = generator.uniform(0.3, 0.7, (_FEW, *shape)).astype(np.float32)
        with preserved_random_state(0), counted(unbroken) as passes:
            attack.generate(x, np.zeros(_FEW, np.int64))
    except Exception:  # of the user's own attack: of any kind
        return None
    return passes.forwards / _FEW, passes.backwards / _FEW


class _Unbroken(nn.Module):
    """A network that takes everything for class 0, by far, and has a gradient all the same."""

    def __init__(self, shape: tuple[int, ...], n_classes: int) -> None:
        super().__init__()
        self.lead: Tensor
        weight = torch.randn(n_classes, int(np.prod(shape)), generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(weight / weight.norm(dim=1, keepdim=True))
        self.register_buffer("lead", torch.nn.functional.one_hot(torch.tensor(0), n_classes) * 1e3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = x.flatten(1) @ self.weight.T + self.lead
        return logits
