"""What a careful reviewer would try on a network before believing its robustness: cheap, on a few examples."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from art_classwise._core import art_interface
from art_classwise._core.passes import is_out_of_memory
from art_classwise._core.records import Record
from art_classwise._core.state import evaluating, float32, preserved, preserved_random_state
from art_classwise.attacks.pgd import PGD
from art_classwise.datasets import Dataset
from art_classwise.errors import GradientMaskingWarning, InputError, first_line
from art_classwise.threat import ThreatModel

__all__ = ["Probe", "chosen", "probe"]

_EXAMPLES = 64
_ATTACKED = 32
_APART = 16
_STEPS = 40
_FAR_STEPS = 20


Count = Annotated[int, Field(ge=0, le=2**53)]
Change = Annotated[float, Field(ge=0)]


class Probe(Record):
    """What a network did on a few examples, beside the audit's attacks.

    Attributes:
        n: Number of examples.
        right: How many of them it classifies correctly.
        random_flips: Of how many the prediction changed when asked again, the random state being another.
        random_change: The largest change of a logit then, divided by the spread of the logits.
        batch_flips: Of how many of at most 16 the prediction changed when each was asked about alone.
        batch_change: The largest change of a logit then, divided by the spread of the logits.
        batch_error: What the network said when it failed on one image alone.
        training: Names of layers that are in training mode after ``eval()``, the first three.
        standardised_gain: How many more are classified correctly if images are standardised, channel by channel; tried
            where fewer than half are.
        scaled_gain: Likewise, if they are multiplied by 255.
        attacked: Numbers (``ids``) of at most 32 of the correctly classified, which were attacked.
        far_eps: A radius within which any image can become a grey one.
        far_withstood: How many of the attacked ones withstood 20 steps of margin PGD within it.
        reference: How many steps of margin PGD within the threat model the reference attack had; 0 if it failed.
        broken: Numbers of the attacked ones that the reference attack broke.
        zero_gradient: Of how many of the attacked ones a gradient was zero, or not finite, in the reference attack.
    """

    n: Count
    right: Count
    random_flips: Count
    random_change: Change
    batch_flips: Count
    batch_change: Change
    batch_error: str
    training: tuple[str, ...]
    standardised_gain: int
    scaled_gain: int
    attacked: tuple[int, ...]
    far_eps: Change
    far_withstood: Count
    reference: Count
    broken: tuple[int, ...]
    zero_gradient: Count

    @model_validator(mode="after")
    def _counts_fit(self) -> Probe:
        limits = {
            **dict.fromkeys(("right", "random_flips", "batch_flips", "standardised_gain", "scaled_gain"), self.n),
            **dict.fromkeys(("far_withstood", "zero_gradient"), len(self.attacked)),
        }
        for name, most in limits.items():
            if abs(getattr(self, name)) > most:
                raise InputError(f"`{name}` must be at most {most}, but is {getattr(self, name):.3g}")
        if not {*self.broken} <= {*self.attacked}:
            raise InputError("the examples in `broken` must be among those in `attacked`")
        return self


def chosen(n_examples: int) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Return which of n examples are tried: at most 64, evenly spaced, since a set may be sorted by class."""
    return np.unique(np.linspace(0, n_examples - 1, min(n_examples, _EXAMPLES)).astype(np.intp))


def probe(classifier: Any, data: Dataset, threat: ThreatModel, *, most: int, seed: int) -> Probe:
    """Try a network on a few examples.

    Asks the network itself, in batches of the sizes said: nothing is filled up.

    Args:
        classifier: An ART ``PyTorchClassifier``.
        data: The few examples.
        threat: The audit's threat model.
        most: Examples computed at once.
        seed: Of the attacks.
    """
    module, device = art_interface.logits_module(classifier), classifier.device
    x, y = torch.from_numpy(np.asarray(data.x)), torch.from_numpy(data.y)

    def logits(images: Tensor, size: int, state: int = 0) -> Tensor:
        with preserved_random_state(state), float32(device.type), evaluating(module), torch.no_grad():
            parts = [module(part.to(device)).float().cpu() for part in images.split(size)]
        return torch.cat(parts)

    with preserved(classifier.model):
        first = logits(x, most)
        again = logits(x, most, state=1)
        right = first.argmax(1) == y
        together = first[:_APART] if most > 1 else logits(x[:_APART], 2)
        said = ""
        try:
            apart = logits(x[:_APART], 1)
        except Exception as error:  # of the module's own code: of any kind
            if is_out_of_memory(error):
                raise
            apart, said = together, _storable(first_line(error)[:200])
        weak = 2 * int(right.sum()) < len(x)
        gains = _gains(lambda images: logits(images, most), x, y, int(right.sum())) if weak else (0, 0)
        with evaluating(module):
            training = [name or type(m).__name__ for name, m in classifier.model.named_modules() if _trains(m)]
    far = _whole_box(threat, x[0].numel())
    some = data.take(right.nonzero()[:_ATTACKED, 0].numpy()) if right.any() else None
    withstood_far, _ = _attacked(classifier, some, far, _FAR_STEPS, most, seed)
    withstood, zero = _attacked(classifier, some, threat, _STEPS, most, seed)
    # Of each class by itself: a logit that is masked out lies far from the others.
    spread = float((first - first.mean(0)).std(0).median()) if len(x) > 1 else 1.0
    return Probe(
        n=len(x),
        right=int(right.sum()),
        random_flips=int((again.argmax(1) != first.argmax(1)).sum()),
        random_change=_change(first, again, spread),
        batch_flips=int((apart.argmax(1) != together.argmax(1)).sum()),
        batch_change=_change(together, apart, spread),
        batch_error=said,
        training=tuple(map(_storable, training[:3])),
        standardised_gain=gains[0],
        scaled_gain=gains[1],
        attacked=() if some is None else tuple(some.ids.tolist()),
        far_eps=far.eps,
        far_withstood=int(withstood_far.sum()) if withstood_far is not None else 0,
        reference=_STEPS if withstood is not None else 0,
        broken=() if some is None or withstood is None else tuple(some.ids[~withstood].tolist()),
        zero_gradient=int(zero.sum()),
    )


def _storable(text: str) -> str:
    """Return a text that can be written as UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def _gains(logits: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, before: int) -> tuple[int, int]:
    """Return how many more are classified correctly if images are standardised, and if they are multiplied by 255."""
    deviation, mean = torch.std_mean(x, dim=(0, 2, 3), keepdim=True)
    gains = []
    for images in ((x - mean) / deviation.clamp_min(1e-3), 255 * x):
        try:
            gains.append(int((logits(images).argmax(1) == y).sum()) - before)
        except Exception:  # a network may refuse images outside [0, 1]
            gains.append(0)
    return gains[0], gains[1]


def _trains(module: nn.Module) -> bool:
    """Return whether a layer goes on as in training, in eval mode: by its own mode, or by its batch's statistics."""
    batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
    return module.training or (batch_norm and not module.track_running_stats)


def _change(first: Tensor, second: Tensor, spread: float) -> float:
    change = float((first - second).abs().max()) / (spread or 1.0)
    return change if math.isfinite(change) else sys.float_info.max


def _whole_box(threat: ThreatModel, d: int) -> ThreatModel:
    """Return the ball in which every image of [0, 1] can become grey: then nothing is left to recognise it by."""
    return ThreatModel(threat.norm, {"Linf": 0.5, "L2": 0.5 * d**0.5, "L1": 0.5 * d}[threat.norm])


_Flags = np.ndarray[Any, np.dtype[np.bool_]]


def _attacked(
    classifier: Any, data: Dataset | None, threat: ThreatModel, steps: int, most: int, seed: int
) -> tuple[_Flags | None, _Flags]:
    """Return which examples withstand margin PGD, whose gradient no confidence makes vanish, and who met a zero one.

    None in place of the former, if the network gives no logits there.
    """
    if data is None:
        return np.zeros(0, bool), np.zeros(0, bool)
    options: dict[str, Any] = {"loss": "margin", "early_stop": True, "precision": "fp32", "verbose": False}
    attack = PGD(classifier, threat.art_norm, threat.eps, max_iter=steps, batch_size=most, seed=seed, **options)
    with preserved(classifier.model), preserved_random_state(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore", GradientMaskingWarning)  # the findings say it
        try:
            x_adv = torch.from_numpy(attack.generate(np.asarray(data.x), data.y, example_ids=data.ids))
        except InputError:
            return None, np.zeros(len(data), bool)
        module = art_interface.logits_module(classifier)
        parts = [
            art_interface.exact_logits(module, part.to(classifier.device), classifier.nb_classes).cpu()
            for part in x_adv.split(most)
        ]
    return torch.cat(parts).argmax(1).numpy() == data.y, attack.zero_gradient
