"""The border to ART: its estimators as plain torch modules, and what they take."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from art_classwise._core.forward import ONE_OUTPUT, check_predicts_logits, count_pass, is_out_of_memory
from art_classwise._core.state import evaluating, float32
from art_classwise.errors import GradientMaskingWarning, InputError, first_line
from art_classwise.threat import ThreatModel

__all__ = [
    "Border",
    "check_classifier",
    "check_images",
    "check_logits",
    "clip_bounds",
    "exact_logits",
    "logits_module",
    "noise",
    "operations",
    "trial_images",
]


def logits_module(estimator: Any, model: nn.Module | None = None) -> Border:
    """Return the estimator as a module from images to logits, ART's preprocessing included.

    Where a preprocessing defence is written in NumPy, its gradient is ART's estimate of it, for most the identity
    (BPDA; Athalye et al. 2018, arXiv 1802.00420).

    Args:
        estimator: An ART ``PyTorchClassifier``; of other classifiers the module predicts without gradients.
        model: Stands in for the estimator's model, if given.
    """
    from art.estimators.pytorch import PyTorchEstimator  # seconds, as in check_classifier

    if not isinstance(estimator, PyTorchEstimator):
        return Border(_Predictions(estimator))
    inner = cast(nn.Module, estimator.model) if model is None else model
    plain = all(_is_identity(p) for p in estimator.preprocessing_operations)
    return Border(inner, None if plain else estimator)


class _Predictions(nn.Module):
    def __init__(self, estimator: Any) -> None:
        super().__init__()
        self._estimator = estimator

    def forward(self, x: Tensor) -> Tensor:
        images = x.detach().cpu().numpy().copy()  # whatever it does to them
        return torch.from_numpy(np.asarray(self._estimator.predict(images), dtype=np.float32))


class Border(nn.Module):
    """A network as this package asks it: float32 images in, float32 logits out, in memory that nobody shares.

    A network may write into its input, compute in another type, or leave PyTorch on the way. So each time it is given
    images of its own; in its own type, where it takes no float32; and without a gradient, where it can't be run with
    one, as with NumPy inside. Which of these it needs is found out when it is first asked.

    Args:
        model: Maps images to logits.
        estimator: The ART estimator whose preprocessing comes first, if it has any.

    Raises:
        InputError: The network can't take such images at all.
    """

    def __init__(self, model: nn.Module, estimator: Any = None) -> None:
        super().__init__()
        self.model = model
        self._estimator = estimator
        self._type: torch.dtype | None = None  # that it takes, once it has been asked
        self._differentiable: bool | None = None  # whether it runs on images that require a gradient
        self._checkpointed = False  # whether it computes parts of itself anew for the gradient, by reentrant passes

    @property
    def own_type(self) -> torch.dtype:
        """The type of images that the network takes, once it has been asked."""
        return torch.float32 if self._type is None else self._type

    @property
    def alone(self) -> nn.Module | None:
        """The network, if nothing comes before it."""
        return self.model if self._estimator is None else None

    def __deepcopy__(self, memo: dict[int, Any]) -> Border:
        """Copy the model alone: ART's estimators, copied, write files and move to the first GPU."""
        return self.around(copy.deepcopy(self.model, memo))

    def around(self, model: nn.Module) -> Border:
        """Return the same border around another network."""
        return Border(model, self._estimator)

    def forward(self, x: Tensor) -> Any:
        """Return logits (n, C) of images (n, ...); what isn't a tensor, as it came."""
        images = x if self._estimator is None else self._preprocessed(x)
        asked = self._type is None or (self._differentiable is None and images.requires_grad)
        output = self._first_asked(images) if asked else self._asked(images, cast(torch.dtype, self._type))
        if not isinstance(output, Tensor) or output.is_complex():
            return output
        # A network may write its next output over this one, as CUDA graphs do.
        logits = output.clone() if output.dtype == torch.float32 else output.float()
        count_pass(len(x), logits)
        return logits

    def _asked(self, images: Tensor, dtype: torch.dtype) -> Any:
        if self._checkpointed:
            with patch.object(CheckpointFunction, "apply", _computed_at_once):
                return self._computed(images, dtype)
        return self._computed(images, dtype)

    def _computed(self, images: Tensor, dtype: torch.dtype) -> Any:
        if self._differentiable is False and images.requires_grad:
            with torch.no_grad():
                return self.model(images.detach().to(dtype, copy=True))
        return self.model(images.to(dtype, copy=True, memory_format=torch.contiguous_format))

    def _first_asked(self, images: Tensor) -> Any:
        """Find out what the network takes, and return its output."""
        own = {p.dtype for p in self.model.parameters() if p.is_floating_point()} - {images.dtype}
        types = [images.dtype, *sorted(own, key=str)] if self._type is None else [self._type]
        said: Exception | None = None
        for differentiable in (True, False) if images.requires_grad else (None,):
            self._differentiable = self._differentiable if differentiable is None else differentiable
            for dtype in types:
                try:
                    with warnings.catch_warnings():
                        # torch.compile looks for the gradient of each input that it traces, and warns of itself.
                        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
                        output = self._asked(images, dtype)
                except Exception as error:  # of the network's own code: of any kind
                    if isinstance(error, InputError) or is_out_of_memory(error):
                        self._differentiable = None
                        raise
                    if "Inference tensors cannot be saved for backward" in str(error):
                        self._differentiable = None
                        raise InputError(
                            "The network's weights were made under torch.inference_mode(), and no gradient goes "
                            "through them: build and load the network outside of it."
                        ) from error
                    said = said or error
                    continue
                self._type = dtype
                if differentiable and isinstance(output, Tensor) and _is_checkpointed(output):
                    self._checkpointed = True
                    return self._asked(images, dtype)
                if differentiable is False and said is not None:
                    warnings.warn(
                        "The network can't be run on images that require a gradient, which is taken to be zero: "
                        f"{first_line(said)}",
                        GradientMaskingWarning,
                        stacklevel=2,
                    )
                return output
        self._differentiable = None
        assert said is not None
        raise InputError(
            f"The network can't classify {len(images)} images of shape {tuple(images.shape[1:])}, float32 on "
            f"{images.device}: {first_line(said)}"
        ) from said

    def _preprocessed(self, x: Tensor) -> Tensor:
        if self._estimator.all_framework_preprocessing:
            preprocessed, _ = self._estimator._apply_preprocessing(x.clone(), y=None, fit=False, no_grad=False)
            return cast(Tensor, preprocessed)
        return cast(Tensor, cast(Any, _NumpyPreprocessing).apply(x, self._estimator))


def operations(value: Tensor) -> Counter[str]:
    """Count the operations of the autograd graph behind a value, by their names."""
    counts: Counter[str] = Counter()
    seen, left = set(), [value.grad_fn]
    while left:
        node = left.pop()
        if node is not None and node not in seen:
            seen.add(node)
            counts[type(node).__name__] += 1
            left += [following for following, _ in node.next_functions]
    return counts


def _is_checkpointed(output: Tensor) -> bool:
    """Return whether reentrant checkpointing is among what gradients go through: torch.autograd.grad refuses it."""
    return "CheckpointFunctionBackward" in operations(output)


def _computed_at_once(run: Any, preserve: bool, *arguments: Any) -> Any:
    """Stand in for ``CheckpointFunction.apply``: the same gradient, for more memory."""
    return run(*arguments)


class _NumpyPreprocessing(torch.autograd.Function):
    """ART's preprocessing on arrays. It waits for the device, forth and back: it computes on the CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, estimator: Any) -> Tensor:
        ctx.images, ctx.estimator = x.detach().cpu().numpy().copy(), estimator
        preprocessed, _ = estimator._apply_preprocessing(ctx.images.copy(), y=None, fit=False)
        return torch.from_numpy(np.asarray(preprocessed, dtype=np.float32)).to(x.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        with torch.enable_grad():  # a defence written in PyTorch among them runs backward by itself
            array = ctx.estimator._apply_preprocessing_gradient(ctx.images, gradient.cpu().numpy())
        return torch.from_numpy(np.asarray(array, dtype=np.float32)).to(gradient.device), None


def _is_identity(operation: Any) -> bool:
    """ART adds a standardisation with mean 0 and deviation 1 to classifiers that asked for none."""
    if not type(operation).__name__.startswith("StandardisationMeanStd"):
        return False
    return bool(np.all(np.asarray(operation.mean) == 0) and np.all(np.asarray(operation.std) == 1))


def noise(estimator: Any) -> Tensor:
    """Return two images to try a network on: noise, since images that are all alike would hide differences."""
    low, high = clip_bounds(estimator, torch.device("cpu"))
    drawn = torch.rand(2, *estimator.input_shape, generator=torch.Generator().manual_seed(0))
    bounded = bool(low.isfinite().all() and high.isfinite().all())
    return (low + (high - low) * drawn if bounded else drawn).to(estimator.device)


def trial_images(estimator: Any, images: npt.NDArray[np.float32] | None = None) -> Tensor:
    """Return four images to try a network on: the first two of those given, and two of noise.

    What a network does may depend on what it sees: noise alone, or natural images alone, might hide it.
    """
    drawn = noise(estimator)
    if images is None:
        return drawn
    return torch.cat([torch.from_numpy(np.array(images[:2], dtype=np.float32)).to(drawn.device), drawn])


def clip_bounds(estimator: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the estimator's ``clip_values`` as tensors; the whole line where it has none."""
    low, high = estimator.clip_values if estimator.clip_values is not None else (-np.inf, np.inf)
    return (
        torch.as_tensor(low, dtype=torch.float32, device=device),
        torch.as_tensor(high, dtype=torch.float32, device=device),
    )


def check_classifier(what: str, classifier: Any) -> None:
    """Check that something is an ART ``PyTorchClassifier``.

    Raises:
        InputError: It isn't.
    """
    from art.estimators.classification import PyTorchClassifier  # seconds, which building a network needn't wait

    if not isinstance(classifier, PyTorchClassifier):
        raise InputError(
            f"{what} must be an ART PyTorchClassifier, but is a {type(classifier).__name__}; "
            "as_classifier() makes one of any torch module."
        )
    check_predicts_logits(what, classifier, postprocessed=True)


def check_images(
    images: npt.NDArray[np.float32],
    estimator: Any,
    threat: ThreatModel | None,
    *,
    tolerance: float = 0.0,
    name: str = "x",
    wide_radius: bool = False,
) -> None:
    """Check that images (n, ...) are what the estimator takes, and that the radius suits their range.

    Args:
        images: The images.
        estimator: An ART classifier.
        threat: The threat model they are to be attacked within; None for any radius.
        tolerance: By how much a value may miss ``clip_values``: rounding, in images that were computed.
        name: What to call them in messages.
        wide_radius: Whether a radius that covers the whole range is warned of, and not refused.

    Raises:
        InputError: There is none; they are of another shape, not finite or outside ``clip_values``; or the radius
            covers the whole range.
    """
    if len(images) == 0:
        raise InputError(f"There is no example: {name} is empty.")
    if images.shape[1:] != tuple(estimator.input_shape):
        raise InputError(
            f"The classifier takes images of shape {tuple(estimator.input_shape)}, but {name} holds images of shape "
            f"{images.shape[1:]}: is the channel the first axis of an image?"
        )
    finite = np.isfinite(images).reshape(len(images), -1).all(1)
    if not finite.all():
        raise InputError(f"Example {int(finite.argmin())} has a value that is not finite: {name} must be finite.")
    if estimator.clip_values is None:
        return
    low, high = (np.asarray(bound, dtype=np.float32) for bound in estimator.clip_values)
    inside = ((images >= low - tolerance) & (images <= high + tolerance)).reshape(len(images), -1).all(1)
    if not inside.all():
        first = int(inside.argmin())
        raise InputError(
            f"{name} must lie within the classifier's clip_values [{low.min():g}, {high.max():g}], but goes from "
            f"{images.min():g} to {images.max():g}. Example {first} has values from {images[first].min():g} to "
            f"{images[first].max():g}, outside of it: scale the images."
        )
    if threat is not None and np.isfinite(low).all() and np.isfinite(high).all():
        bottom, top = float(low.min()), float(high.max())
        try:
            threat.check_radius(bottom, top, images[0].size)
        except InputError as error:
            if not wide_radius:
                raise
            said = str(error).replace("it must stay below", "usual radii stay well below")
            warnings.warn(f"{said} Any image may become any other.", stacklevel=5)


def check_logits(logits: Any, n_examples: int, n_classes: int) -> Tensor:
    """Return what a model gave for a batch if it is (n, C) logits.

    Raises:
        InputError: It is a tuple or another type, or of another shape.
    """
    if not isinstance(logits, Tensor):
        raise InputError(
            f"The model must return a tensor of logits, but returned {type(logits).__name__}: "
            "wrap it in a module that returns the logits alone."
        )
    if logits.shape != (n_examples, n_classes):
        one = n_classes == 2 and logits.shape in ((n_examples,), (n_examples, 1))
        raise InputError(
            f"The model must return logits of shape ({n_examples}, {n_classes}) for {n_examples} examples of "
            f"{n_classes} classes, but returned {tuple(logits.shape)}.{' ' + ONE_OUTPUT if one else ''}"
        )
    return logits


@torch.no_grad()
def exact_logits(module: nn.Module, x: Tensor, n_classes: int) -> Tensor:
    """Return the logits (n, C) of one batch as a verdict needs them: in eval mode and float32."""
    with evaluating(module), float32(x.device.type):
        return check_logits(module(x), len(x), n_classes).float()
