"""Linf radii from bounds on a network's logits: ART's intervals and zonotopes."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from art_classwise._core.state import preserved
from art_classwise.errors import InputError, first_line

__all__ = ["HALVINGS", "Bounds", "bounding", "bounds_of"]

HALVINGS = 12
"""Rounds of bisection: radii are found to 1/4096 of the largest that is tried."""

Holds = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Bounds:
    """How far bounds are followed.

    Attributes:
        method: ``"interval"`` or ``"zonotope"``.
        reach: The largest radius that is tried.
    """

    norm: ClassVar[Literal["Linf"]] = "Linf"

    method: str
    reach: float

    def certify(
        self, classifier: Any, images: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return the predictions of images (n, ...), and the largest radii found at which their bounds hold, (n,) each.

        A radius that is returned has been tried itself: what was certified there is certified at any smaller one.
        """
        with _bounding(classifier):
            if self.method == "interval":
                limits = None if classifier.clip_values is None else _clip(classifier)
                predicted = classifier.predict_intervals(images, bounds=0.0, limits=limits)[:, 0].argmax(1)

                def holds(radii: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
                    side = _no_less(radii).reshape(-1, *[1] * images.ndim)  # (n, 1, ...), as ART has it
                    found = classifier.predict_intervals(images, bounds=np.stack([side, side]), limits=limits)
                    return np.asarray(classifier.certify(found, predicted))

            else:
                centres = [_zonotope(classifier, image, 0.0) for image in images]
                predicted = np.array([int(_centre(classifier, *one).argmax()) for one in centres])

                def holds(radii: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
                    zonotopes = (_zonotope(classifier, image, r) for image, r in zip(images, radii, strict=True))
                    return np.array(
                        [
                            bool(classifier.certify(cent=cent, eps=eps, prediction=int(k)))
                            for (cent, eps), k in zip(zonotopes, predicted, strict=True)
                        ]
                    )

            return predicted.astype(np.int64), _largest(holds, len(images), self.reach)


def _no_less(radii: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return the smallest float32 of at least these radii: what is tried mustn't be less than what is claimed."""
    rounded = radii.astype(np.float32)
    above: npt.NDArray[np.float32] = np.where(rounded < radii, np.nextafter(rounded, np.float32(np.inf)), rounded)
    return above


def _largest(holds: Holds, n: int, reach: float) -> npt.NDArray[np.float64]:
    """Return the largest radius found at which each of n certificates holds: all of the reach, or by bisection."""
    whole = holds(np.full(n, reach))
    low, high = np.where(whole, reach, 0.0), np.full(n, reach)
    for _ in range(0 if whole.all() else HALVINGS):
        middle = (low + high) / 2
        held = holds(middle)
        low, high = np.where(held, middle, low), np.where(held, high, middle)
    return np.where(whole, reach, low)


def bounds_of(classifier: Any) -> str | None:
    """Return by what an ART estimator bounds its logits, ``"interval"`` or ``"zonotope"``; None of others.

    Raises:
        InputError: It has preprocessing, after which its radii would be in other units than images.
    """
    found = next((name for name, kind in _kinds().items() if isinstance(classifier, kind)), None)
    if found is not None:
        _check_plain(classifier)
    return found


def bounding(classifier: Any, method: str) -> Any:
    """Return an ART estimator that bounds a classifier's logits by a method: itself, if it does.

    Args:
        classifier: An ART ``PyTorchClassifier``; its network is copied.
        method: ``"interval"`` or ``"zonotope"``.

    Raises:
        InputError: It has preprocessing, or ART can't bound its network.
    """
    if bounds_of(classifier) == method:
        return classifier
    _check_plain(classifier)
    options = {"clip_values": classifier.clip_values, "channels_first": classifier.channels_first}
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):  # ART says which layers it found
        warnings.simplefilter("ignore")
        try:
            return _kinds()[method](
                copy.deepcopy(classifier.model),
                nn.CrossEntropyLoss(),
                classifier.input_shape,
                classifier.nb_classes,
                device_type="cpu" if torch.device(classifier.device).type == "cpu" else "gpu",
                **options,
            )
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise InputError(f"ART can't bound this network by {method}s: {first_line(error)}") from error


def _kinds() -> dict[str, Any]:
    from art.estimators.certification.deep_z.pytorch import PytorchDeepZ
    from art.estimators.certification.interval.pytorch import PyTorchIBPClassifier

    return {"interval": PyTorchIBPClassifier, "zonotope": PytorchDeepZ}


def _check_plain(classifier: Any) -> None:
    from art_classwise._core.art_interface import logits_module

    if logits_module(classifier)._estimator is not None or classifier.postprocessing_defences:
        raise InputError(
            f"The classifier, a {type(classifier).__name__}, has preprocessing or postprocessing, before which ART's "
            "bounds would begin: make the normalisation the network's first layer, and certify that."
        )


def _clip(classifier: Any) -> tuple[float, float]:
    low, high = classifier.clip_values
    return float(np.min(low)), float(np.max(high))


def _zonotope(classifier: Any, image: npt.NDArray[np.float32], radius: float) -> tuple[Any, Any]:
    """Return centre (1, ...) and error terms (d, ...) of all images within a radius, and within clip_values."""
    if classifier.concrete_to_zonotope is not None:
        cent, eps = classifier.concrete_to_zonotope(image, radius)
        return cent, eps
    # ART's own pre_process, which does the same in [0, 1], fails with NumPy 2.4.
    low, high = (-np.inf, np.inf) if classifier.clip_values is None else _clip(classifier)
    least, most = np.maximum(image - radius, low), np.minimum(image + radius, high)
    error_terms = np.diag(((most - least) / 2).ravel()).reshape(-1, *image.shape)
    return ((least + most) / 2)[None], error_terms


def _centre(classifier: Any, cent: Any, eps: Any) -> npt.NDArray[np.float32]:
    logits: npt.NDArray[np.float32] = classifier.model.forward(cent=cent, eps=eps)[0].cpu().numpy()
    return logits


@contextmanager
def _bounding(classifier: Any) -> Iterator[None]:
    """Let ART's network compute bounds, in eval mode and without gradients; put back how it computed before."""
    model = classifier.model
    before = model.forward_mode
    with preserved(model), torch.no_grad():
        model.eval()
        model.set_forward_mode("abstract")
        try:
            yield
        except (RuntimeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"ART can't bound this network on these images: {first_line(error)}") from error
        finally:
            model.forward_mode = before
