"""What an audit costs, before it is run: passes of attacks that nothing stops, times the seconds of a pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from art_classwise._core import art_interface
from art_classwise._core.forward import MicroBatches, counted, usual_batch_size
from art_classwise._core.progress import about
from art_classwise._core.state import preserved, preserved_random_state
from art_classwise.attacks.corruption import Corruption
from art_classwise.attacks.ladder import AttackFactory
from art_classwise.attacks.transfer import TransferAttack
from art_classwise.audit.plan import CLEAN_NAME
from art_classwise.datasets import Dataset
from art_classwise.zoo import as_classifier

__all__ = ["Effort", "estimated"]

_FEW = 16
_SIDE = 8
_QUICK = 0.2  # seconds of a pass, over which warming up has no share worth another one
_SHORT = 10.0  # seconds, under which nobody wants to know how long it takes
_COUNTED = (
    60.0  # seconds that AutoAttack, the longest, must take for counting its passes, three seconds, to be worth it
)
_MOST_PASSES = 5_000


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
    return {CLEAN_NAME: forward, **_by_attack(forward, backward, _all_passes(factories, classifier))}


class Effort:
    """How long the parts of an audit take at most: for its bar, and for a sentence before it begins.

    Where nothing is known of a part, as before :meth:`measure`, or after it on an audit that is short whatever its
    attacks, all parts count alike.
    """

    def __init__(self) -> None:
        self._timed: dict[str, tuple[float, float]] = {}
        self._seconds: dict[str, dict[str, float]] = {}
        self._passes: dict[str, tuple[float, float]] | None = None

    def measure(
        self, models: Mapping[str, Any], make: Callable[[], Mapping[str, AttackFactory]], data: Dataset
    ) -> None:
        """Time the passes of models that are in memory on a few examples; count those of attacks, once.

        Args:
            models: ART classifiers by name. One that fails is left out: the audit will say why.
            make: Returns the attacks, each a function from a classifier to one.
            data: The examples.
        """
        for name, classifier in models.items():
            try:
                self._timed[name] = _seconds_of_passes(classifier, data)
            except Exception:  # of the model's own code: of any kind
                continue
            if self._passes is None:
                if sum(map(sum, self._timed.values())) * len(data) * _MOST_PASSES < _COUNTED:
                    continue
                self._passes = _all_passes(make(), classifier)
        if self._passes is not None:
            for name, (forward, backward) in self._timed.items():
                self._seconds[name] = {CLEAN_NAME: forward, **_by_attack(forward, backward, self._passes)}

    def of(self, model: str, attack: str | None) -> float:
        """Return what an example costs: seconds, the most of any where they aren't known; 1 where none are."""
        if not self._seconds:
            return 1.0
        seconds = self._seconds.get(model) or max(self._seconds.values(), key=lambda one: sum(one.values()))
        return seconds.get(CLEAN_NAME if attack is None else attack, max(seconds.values()))

    def sentence(self, left: float, models: Collection[str], attacks: Collection[str], n: int, *, on: str) -> str:
        """Say how long an audit takes; nothing if that is short, or isn't known.

        Args:
            left: What is to be done, summed from :meth:`of`.
            models: Names of the models.
            attacks: Names of the attacks.
            n: Number of examples.
            on: What computes it.
        """
        if left < _SHORT or not self.knows(models):
            return ""
        known = self._seconds[next(iter(models))]
        unknown = [name for name in attacks if name not in known]
        parts = (_number(len(models), "model"), _number(len(attacks), "attack"), _number(n, "example"))
        without = f"; the time of {', '.join(unknown)} isn't known" if unknown else ""
        return f"At most about {about(left)} {on}: {', '.join(parts)}{without}."

    def knows(self, models: Collection[str]) -> bool:
        """Return whether the seconds of all of some models are known."""
        return all(model in self._seconds for model in models)


def _number(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _all_passes(factories: Mapping[str, AttackFactory], classifier: Any) -> dict[str, tuple[float, float]]:
    """Return the passes of attacks by name, as far as they can be counted."""
    counted_ = {name: _passes(make, classifier.nb_classes, classifier.input_shape) for name, make in factories.items()}
    return {name: passes for name, passes in counted_.items() if passes is not None}


def _by_attack(forward: float, backward: float, passes: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    return {name: forward * (there + 1) + backward * back for name, (there, back) in passes.items()}


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
        for _ in range(2):  # the first warms up, which has no weight where passes are long
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
            if forward > _QUICK:
                break
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
        if isinstance(attack, Corruption):
            return (0.0, 0.0)
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
