"""What a careful reviewer would try on a network before believing its robustness: cheap, on a few examples."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from art_classwise._core import art_interface
from art_classwise._core.forward import is_out_of_memory
from art_classwise._core.records import Record
from art_classwise._core.state import evaluating, float32, preserved, preserved_random_state
from art_classwise.attacks.pgd import PGD
from art_classwise.datasets import Dataset
from art_classwise.errors import GradientMaskingWarning, InputError, first_line
from art_classwise.threat import ThreatModel

__all__ = ["CHANNELS", "Alternative", "Probe", "attacked_rows", "probe", "spread_over"]

_EXAMPLES = 64
_ATTACKED, _MOST_ATTACKED = 32, 256
_GRADIENTS = 16
_APART = 16
_STEPS = 40
_FAR_STEPS = 20


Rows: TypeAlias = npt.NDArray[np.intp]
Count = Annotated[int, Field(ge=0, le=2**53)]
Change = Annotated[float, Field(ge=0)]

CHANNELS = "with channels in reverse order"
"""The alternative that tells BGR from RGB."""

_ALTERNATIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "standardised channel by channel": lambda x: _standardised(x),
    "multiplied by 255": lambda x: 255 * x,
    "scaled to [-1, 1]": lambda x: 2 * x - 1,
    CHANNELS: lambda x: x.flip(1),
}


_OF_0_1_0 = {
    *("n", "right", "random_flips", "random_change", "batch_flips", "batch_change", "batch_error", "training"),
    *("attacked", "far_eps", "far_withstood", "reference", "broken", "zero_gradient"),
}
"""What 0.1.0 wrote of a probe, and this release reads as it is."""


class Alternative(Record):
    """What became of the predictions on images that were changed.

    Attributes:
        gained: How many became correct.
        lost: How many no longer are.
    """

    gained: Count
    lost: Count


class Probe(Record):
    """What a network did on a few examples, beside the audit's attacks.

    Attributes:
        n: Number of examples.
        right: How many of them it classifies correctly.
        constant: Of how many all logits are equal; None, as for other counts, where the release that made the audit
            didn't try it.
        probabilities: Of how many the outputs lie in [0, 1] and sum to 1.
        random_flips: Of how many the prediction changed when asked again, the random state being another.
        random_change: The largest change of a logit then, divided by the spread of the logits.
        batch_flips: Of how many of at most 16 the prediction changed when each was asked about alone.
        batch_change: The largest change of a logit then, divided by the spread of the logits.
        batch_error: What the network said when it failed on one image alone.
        training: Names of layers that are in training mode after ``eval()``, the first three.
        alternatives_tried: On how many images others in their place were tried, those left out that have constant
            logits.
        alternatives_right: How many of these are classified correctly as they are.
        unlikely_labels: Of how many of the others the label's logit is in the lower half of all.
        alternatives: What was gained and lost with images that are standardised, multiplied by 255, ...
        gradients_tried: On how many images the gradient of the margin was compared with its finite difference.
        gradients_wrong: On how many of them the two differ by more than a factor of two, or the gradient is zero
            where the margin changes.
        derivative_ratio: Median of the finite difference divided by the derivative.
        attacked: Numbers (``ids``) of correctly classified examples that were attacked, if possible of those that
            withstood the audit's attacks.
        far_eps: A radius within which any image can become a grey one.
        far_attacked: How many of them were attacked within it, by 20 steps of margin PGD.
        far_withstood: How many of these withstood.
        reference: How many steps of margin PGD within the threat model the reference attack had; 0 if it failed.
        broken: Numbers of the attacked ones that the reference attack broke.
        zero_gradient: Of how many of the attacked ones a gradient was zero, or not finite, in the reference attack.
    """

    n: Count
    right: Count
    constant: Count | None
    probabilities: Count | None
    random_flips: Count
    random_change: Change
    batch_flips: Count
    batch_change: Change
    batch_error: str
    training: tuple[str, ...]
    alternatives_tried: Count
    alternatives_right: Count
    unlikely_labels: Count | None
    alternatives: dict[str, Alternative]
    gradients_tried: Count
    gradients_wrong: Count
    derivative_ratio: float
    attacked: tuple[int, ...]
    far_eps: Change
    far_attacked: Count
    far_withstood: Count
    reference: Count
    broken: tuple[int, ...]
    zero_gradient: Count

    @property
    def is_complete(self) -> bool:
        """Whether all was tried that this release tries."""
        return None not in (self.constant, self.probabilities, self.unlikely_labels)

    @staticmethod
    def completed(plain: dict[str, Any]) -> dict[str, Any] | None:
        """Return what a file holds of a probe as this release writes it; None if neither it nor 0.1.0 wrote it.

        0.1.0 tried less, and kept of other normalisations only how many more predictions were correct.
        """
        if plain.keys() == Probe.model_fields.keys():
            return plain
        own = {*_OF_0_1_0, "standardised_gain", "scaled_gain"}
        if plain.keys() != own or not all(isinstance(plain[key], int) for key in own - _OF_0_1_0):
            return None
        gains = {"standardised channel by channel": "standardised_gain", "multiplied by 255": "scaled_gain"}
        return {
            **{name: plain[name] for name in _OF_0_1_0},
            **dict.fromkeys(("constant", "probabilities", "unlikely_labels")),
            "alternatives_tried": plain["n"],
            "alternatives_right": plain["right"],
            "alternatives": {
                way: {"gained": max(0, plain[key]), "lost": max(0, -plain[key])} for way, key in gains.items()
            },
            **dict.fromkeys(("gradients_tried", "gradients_wrong", "derivative_ratio"), 0),
            "far_attacked": len(plain["attacked"]) if isinstance(plain["attacked"], list) else 0,
        }

    @model_validator(mode="after")
    def _counts_fit(self) -> Probe:
        limits = {
            **dict.fromkeys(("right", "constant", "probabilities", "random_flips", "batch_flips"), self.n),
            **dict.fromkeys(("far_attacked", "zero_gradient"), len(self.attacked)),
            **{"gradients_wrong": self.gradients_tried, "far_withstood": self.far_attacked},
            "alternatives_right": self.alternatives_tried,
            "unlikely_labels": self.alternatives_tried - self.alternatives_right,
        }
        for name, most in limits.items():
            if (getattr(self, name) or 0) > most:
                raise InputError(f"`{name}` must be at most {most}, but is {getattr(self, name):.3g}")
        for way, counts in self.alternatives.items():
            if counts.lost > self.alternatives_right or counts.gained > self.alternatives_tried:
                raise InputError(f"more images changed {way!r:.60} than there are")
        if not {*self.broken} <= {*self.attacked}:
            raise InputError("the examples in `broken` must be among those in `attacked`")
        return self


def spread_over(n_examples: int, most: int = _EXAMPLES) -> Rows:
    """Return which of n examples are tried: at most so many, evenly spaced, since a set may be sorted by class."""
    return np.unique(np.linspace(0, n_examples - 1, min(n_examples, most)).astype(np.intp))


def attacked_rows(withstood: npt.NDArray[np.bool_], right: npt.NDArray[np.bool_]) -> Rows:
    """Return which examples the reference attack is tried on: those that withstood, a quarter of all at most.

    Where none did, of those that are classified correctly. It is 32 examples at least, if there are as many, and 256 at
    most: at 60 % robust accuracy, an overstatement by 11 points shows in 95 of 100 audits.
    """
    candidates = np.flatnonzero(withstood if withstood.any() else right)
    return candidates[spread_over(len(candidates), min(_MOST_ATTACKED, max(_ATTACKED, len(right) // 4)))]


def probe(
    classifier: Any,
    data: Dataset,
    attacked: Dataset | None,
    more: Dataset,
    threat: ThreatModel,
    *,
    most: int,
    seed: int,
) -> Probe:
    """Try a network on a few examples.

    Asks the network itself, in batches of the sizes said: nothing is filled up.

    Args:
        classifier: An ART ``PyTorchClassifier``.
        data: The few examples.
        attacked: The examples for the reference attack, if there are any; misclassified ones are left out.
        more: Examples on which changed images are tried.
        threat: The audit's threat model.
        most: Examples computed at once.
        seed: Of the attacks.
    """
    module, device = art_interface.logits_module(classifier), classifier.device
    x, y = torch.from_numpy(np.asarray(data.x)), torch.from_numpy(data.y)

    def logits(images: Tensor, size: int = most, state: int = 0) -> Tensor:
        with preserved_random_state(state), float32(device.type), evaluating(module), torch.no_grad():
            parts = [module(part.to(device)).float().cpu() for part in images.split(size)]
        return torch.cat(parts)

    with preserved(classifier.model):
        first = logits(x)
        again = logits(x, state=1)
        right = first.argmax(1) == y
        together = first[:_APART] if most > 1 else logits(x[:_APART], 2)
        batch_error = ""
        try:
            apart = logits(x[:_APART], 1)
        except Exception as error:  # of the module's own code: of any kind
            if is_out_of_memory(error):
                raise
            apart, batch_error = together, _storable(first_line(error)[:200])
        # Of each class by itself: a logit that is masked out lies far from the others.
        spread = float((first - first.mean(0)).std(0).median()) if len(x) > 1 else 1.0
        alternatives = _alternatives(logits, more)
        compared = (right & ~_constant(first)).nonzero()[:_GRADIENTS, 0]
        ratios = _derivative_ratios(module, device, x[compared], y[compared], spread, most)
        with evaluating(module):
            training = [name or type(m).__name__ for name, m in classifier.model.named_modules() if _trains(m)]
        some = attacked
        if some is not None:
            correct = logits(torch.from_numpy(np.asarray(some.x))).argmax(1).numpy() == some.y
            some = some.take(np.flatnonzero(correct)) if correct.any() else None
    far = _whole_box(threat, x[0].numel()) if threat.is_ball else threat  # of corruptions none is attacked
    few = None if some is None else some.take(np.arange(min(len(some), _ATTACKED)))
    withstood_far, _ = _attacked(classifier, few, far, _FAR_STEPS, most, seed)
    withstood, zero = _attacked(classifier, some, threat, _STEPS, most, seed)
    return Probe(
        n=len(x),
        right=int(right.sum()),
        constant=int(_constant(first).sum()),
        probabilities=int(((first >= 0).all(1) & ((first.sum(1) - 1).abs() <= 1e-4)).sum()),
        random_flips=int((again.argmax(1) != first.argmax(1)).sum()),
        random_change=_change(first, again, spread),
        batch_flips=int((apart.argmax(1) != together.argmax(1)).sum()),
        batch_change=_change(together, apart, spread),
        batch_error=batch_error,
        training=tuple(map(_storable, training[:3])),
        alternatives_tried=alternatives[0],
        alternatives_right=alternatives[1],
        unlikely_labels=alternatives[2],
        alternatives=alternatives[3],
        gradients_tried=len(ratios),
        gradients_wrong=int((~((ratios > 0.5) & (ratios < 2))).sum()),
        derivative_ratio=float(ratios.median().clamp(-1e9, 1e9)) if len(ratios) else 1.0,
        attacked=() if some is None else tuple(some.ids.tolist()),
        far_eps=far.eps,
        far_attacked=0 if few is None or withstood_far is None else len(few),
        far_withstood=int(withstood_far.sum()) if withstood_far is not None else 0,
        reference=_STEPS if withstood is not None else 0,
        broken=() if some is None or withstood is None else tuple(some.ids[~withstood].tolist()),
        zero_gradient=int(zero.sum()),
    )


def _constant(logits: Tensor) -> Tensor:
    return logits.amax(1) == logits.amin(1)


def _alternatives(logits: Callable[[Tensor], Tensor], data: Dataset) -> tuple[int, int, int, dict[str, Alternative]]:
    """Try other images in the place of these.

    Returns:
        How many were tried; how many are right as they are; of how many others the label is unlikely; what was gained
        and lost with changed ones.
    """
    x, y = torch.from_numpy(np.asarray(data.x)), torch.from_numpy(data.y)
    unchanged = logits(x)
    answered = ~_constant(unchanged)  # a network that rejects an image may not reject a brighter one
    right = (unchanged.argmax(1) == y)[answered]
    above = (unchanged > unchanged.gather(1, y[:, None])).sum(1)[answered]
    unlikely = ~right & (2 * above >= unchanged.shape[1])
    counts = {}
    for way, changed in _ALTERNATIVES.items():
        if way == CHANNELS and x.shape[1] != 3:
            continue
        try:
            then = (logits(changed(x)).argmax(1) == y)[answered]
        except Exception as error:  # a network may refuse images outside [0, 1]
            if is_out_of_memory(error):
                raise
            continue
        counts[way] = Alternative(gained=int((then & ~right).sum()), lost=int((right & ~then).sum()))
    return len(right), int(right.sum()), int(unlikely.sum()), counts


def _standardised(x: Tensor) -> Tensor:
    deviation, mean = torch.std_mean(x, dim=(0, 2, 3), keepdim=True)
    return (x - mean) / deviation.clamp_min(1e-3)


def _derivative_ratios(
    module: nn.Module, device: torch.device, x: Tensor, y: Tensor, spread: float, most: int
) -> Tensor:
    """Return the finite difference of each margin along the sign of its gradient, divided by the derivative.

    1 for a backward pass that is the derivative of the forward pass, up to curvature. The step is so short that the
    margin should change by 3 % of the logits' spread, and at most a 64th: central differences from a point that far
    within the box. Where the gradient is zero, 1 if the margin doesn't change in a random direction either, else 0.
    """
    ratios: list[Tensor] = []
    if len(x) == 0:
        return torch.zeros(0)
    with float32(device.type), evaluating(module):
        for some, labels in zip(x.split(most), y.split(most), strict=True):
            images, truth = some.to(device), labels.to(device)
            with preserved_random_state(0), torch.no_grad():
                others = module(images).float().scatter(1, truth[:, None], -torch.inf).argmax(1)

            def margin(points: Tensor, truth: Tensor = truth, others: Tensor = others) -> Tensor:
                with preserved_random_state(0):
                    logits = module(points).float()
                difference: Tensor = (logits.gather(1, truth[:, None]) - logits.gather(1, others[:, None]))[:, 0]
                return difference

            def gradient(points: Tensor, margin: Callable[[Tensor], Tensor] = margin) -> Tensor:
                points = points.detach().requires_grad_()
                with torch.enable_grad():
                    value = margin(points).sum()
                    if not value.requires_grad:
                        return torch.zeros_like(points)
                    (derivative,) = torch.autograd.grad(value, points, allow_unused=True)
                filled: Tensor = torch.zeros_like(points) if derivative is None else derivative.nan_to_num(0, 0, 0)
                return filled

            def length(derivative: Tensor) -> Tensor:
                return derivative.abs().flatten(1).sum(1)

            sides = (len(images),) + (1,) * (images.dim() - 1)
            step = (0.03 * spread / length(gradient(images)).clamp_min(1e-12)).clamp_max(1 / 64).view(sides)
            inside = torch.maximum(torch.minimum(images, 1 - step), step)
            derivative = gradient(inside)
            flat = length(derivative) == 0
            signs = torch.rand(inside[:1].shape, generator=torch.Generator().manual_seed(0)).sub(0.5).sign().to(device)
            direction = torch.where(flat.view(sides), signs, derivative.sign())
            with torch.no_grad():
                change = margin(inside + step * direction) - margin(inside - step * direction)
            ratio = change / (2 * step.flatten() * length(derivative)).clamp_min(1e-30)
            # Where the network is constant, a zero gradient is right.
            constant = change.abs() <= 1e-3 * spread
            ratio = torch.where(flat, constant.float(), ratio)
            ratios.append(ratio.nan_to_num(0, 1e9, -1e9).cpu())
    return torch.cat(ratios)


def _storable(text: str) -> str:
    """Return a text that can be written as UTF-8."""
    return text.encode(errors="backslashreplace").decode()


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
