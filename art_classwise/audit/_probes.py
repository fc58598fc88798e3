"""What a careful reviewer would try on a network before believing its robustness: cheap, on a few examples."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from art_classwise import _estimator
from art_classwise._state import evaluating, float32, preserved, preserved_random_state
from art_classwise.attacks.pgd import PGD
from art_classwise.datasets import Dataset
from art_classwise.errors import GradientMaskingWarning, InputError, check_number, check_whole, first_line
from art_classwise.threat import ThreatModel

__all__ = ["Probe", "chosen", "probe"]

_EXAMPLES = 64
_STEPS = 40
_FAR_STEPS = 20


@dataclass(frozen=True)
class Probe:
    """What a network did on a few examples, beside the audit's attacks.

    Attributes:
        n: Number of examples.
        right: Numbers (``ids``) of those that it classifies correctly.
        random_flips: Of how many the prediction changed when asked again, the random state being another.
        random_change: The largest change of a logit then, divided by the spread of the logits.
        batch_flips: Of how many of at most 16 the prediction changed in a batch of two; -1 where the network failed.
        batch_change: The largest change of a logit then, divided by the spread of the logits.
        batch_error: What the network said when it failed on a batch of two.
        training: Names of layers that are in training mode after ``eval()``, the first three.
        standardised_gain: How many more are classified correctly if images are standardised, channel by channel.
        scaled_gain: Likewise, if they are multiplied by 255.
        far_eps: A radius within which any image can become a grey one.
        far_withstood: How many of the ``right`` ones withstood 20 steps of margin PGD within it.
        reference: How many steps of margin PGD within the threat model the reference attack has.
        broken: Numbers of the ``right`` ones that the reference attack broke.
    """

    n: int
    right: tuple[int, ...]
    random_flips: int
    random_change: float
    batch_flips: int
    batch_change: float
    batch_error: str
    training: tuple[str, ...]
    standardised_gain: int
    scaled_gain: int
    far_eps: float
    far_withstood: int
    reference: int
    broken: tuple[int, ...]

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> Probe:
        """Read it from values that may come from anyone.

        Raises:
            InputError: They aren't what :meth:`plain` returns.
        """
        names = {field.name for field in fields(cls)}
        if set(content) != names:
            raise InputError(f"a probe must have {', '.join(sorted(names))}")
        for name in ("n", "random_flips", "far_withstood", "reference"):
            check_whole(name, content[name], 0)
        for name in ("batch_flips", "standardised_gain", "scaled_gain"):
            check_whole(name, content[name], -(2**31))
        for name in ("random_change", "batch_change", "far_eps"):
            check_number(name, content[name], 0, float("inf"))
        if not isinstance(content["batch_error"], str):
            raise InputError("a probe's batch_error must be a text")
        for name, kind in (("training", str), ("right", int), ("broken", int)):
            if not isinstance(content[name], (list, tuple)) or not all(type(i) is kind for i in content[name]):
                raise InputError(f"a probe's {name} must be a list of {kind.__name__}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in content.items()}
        return cls(**values)


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
    module, device = _estimator.logits_module(classifier), classifier.device
    x, y = torch.from_numpy(np.asarray(data.x)), torch.from_numpy(data.y)

    def logits(images: Tensor, size: int, state: int = 0) -> Tensor:
        with preserved_random_state(state), float32(device.type), evaluating(module), torch.no_grad():
            parts = [module(part.to(device)).float().cpu() for part in images.split(size)]
        return torch.cat(parts)

    with preserved(classifier.model):
        first = logits(x, most)
        spread = float(first.std()) or 1.0
        again = logits(x, most, state=1)
        pairs = x[: 2 * min(8, len(x) // 2)]
        try:
            apart: Tensor | str = logits(pairs, 2)
        except Exception as error:  # of the module's own code: of any kind
            apart = first_line(error)[:200]
        right = first.argmax(1) == y
        deviation, mean = torch.std_mean(x, dim=(0, 2, 3), keepdim=True)
        otherwise = ((x - mean) / deviation.clamp_min(1e-3), 255 * x)
        standardised, scaled = (int((logits(images, most).argmax(1) == y).sum()) for images in otherwise)
        with evaluating(module):
            training = [name or type(m).__name__ for name, m in module.named_modules() if _trains(m)]
    far = _whole_box(threat, x[0].numel())
    rows = right.nonzero()[:, 0].numpy()
    try:
        withstood_far = int(_withstood(classifier, data, rows, far, _FAR_STEPS, most, seed).sum())
    except InputError:  # no logits so far from all images
        withstood_far = 0
    withstood = _withstood(classifier, data, rows, threat, _STEPS, most, seed)
    together = first[: len(pairs)]
    return Probe(
        n=len(x),
        right=tuple(data.ids[rows].tolist()),
        random_flips=int((again.argmax(1) != first.argmax(1)).sum()),
        random_change=_change(first, again, spread),
        batch_flips=-1 if isinstance(apart, str) else int((apart.argmax(1) != together.argmax(1)).sum()),
        batch_change=0.0 if isinstance(apart, str) else _change(together, apart, spread),
        batch_error=apart if isinstance(apart, str) else "",
        training=tuple(training[:3]),
        standardised_gain=standardised - len(rows),
        scaled_gain=scaled - len(rows),
        far_eps=far.eps,
        far_withstood=withstood_far,
        reference=_STEPS,
        broken=tuple(data.ids[rows[~withstood]].tolist()),
    )


def _trains(module: nn.Module) -> bool:
    """Return whether a layer goes on as in training, in eval mode: by its own mode, or by its batch's statistics."""
    batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
    return module.training or (batch_norm and not module.track_running_stats)


def _change(first: Tensor, second: Tensor, spread: float) -> float:
    return float((first - second).abs().max()) / spread if len(first) else 0.0


def _whole_box(threat: ThreatModel, d: int) -> ThreatModel:
    """Return the ball in which every image of [0, 1] can become grey: then nothing is left to recognise it by."""
    return ThreatModel(threat.norm, {"Linf": 0.5, "L2": 0.5 * d**0.5, "L1": 0.5 * d}[threat.norm])


def _withstood(
    classifier: Any,
    data: Dataset,
    rows: np.ndarray[Any, np.dtype[np.intp]],
    threat: ThreatModel,
    steps: int,
    most: int,
    seed: int,
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which of some examples withstand margin PGD, whose gradient no confidence makes vanish."""
    if len(rows) == 0:
        return np.zeros(0, bool)
    options: dict[str, Any] = {"loss": "margin", "early_stop": True, "precision": "fp32", "verbose": False}
    attack = PGD(classifier, threat.art_norm, threat.eps, max_iter=steps, batch_size=most, seed=seed, **options)
    x, y = np.asarray(data.x)[rows], data.y[rows]
    with preserved(classifier.model), preserved_random_state(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore", GradientMaskingWarning)  # the findings say it
        x_adv = torch.from_numpy(attack.generate(x, y, example_ids=data.ids[rows]))
        module = _estimator.logits_module(classifier)
        parts = [
            _estimator.exact_logits(module, part.to(classifier.device), classifier.nb_classes).cpu()
            for part in x_adv.split(most)
        ]
    held: np.ndarray[Any, np.dtype[np.bool_]] = torch.cat(parts).argmax(1).numpy() == y
    return held
