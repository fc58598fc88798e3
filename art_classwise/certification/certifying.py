"""Certify a classifier on examples: the entry point, whatever the method."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from art_classwise._core.art_interface import check_classifier, check_images, logits_module
from art_classwise._core.forward import MicroBatches, usual_batch_size
from art_classwise._core.plain_values import differences
from art_classwise._core.progress import progress_bar
from art_classwise._core.state import preserved
from art_classwise.audit.provenance import (
    Environment,
    data_fingerprint,
    environment,
    model_fingerprint,
    weights_fingerprint,
)
from art_classwise.certification.bounds import Bounds, bounds_of
from art_classwise.certification.result import FILE, Certificate, CertifiedResult, read_stored
from art_classwise.certification.smoothing import Smoothing, smoothing
from art_classwise.datasets import Dataset, as_dataset
from art_classwise.errors import InputError, as_float, check_flag, check_positive, check_seed, check_whole
from art_classwise.metrics.distances import check_radius

__all__ = ["certified_accuracy", "certify"]

_BLOCK, _SECONDS = 16, 10.0  # examples between two looks at the clock; seconds between two writes

Rows = Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]]
_Rows = Callable[[Any, Any, Dataset, int, int | None], Rows]


def certify(
    classifier: Any,
    data: Any,
    *,
    noise: float | None = None,
    n: int | None = None,
    n_selection: int | None = None,
    alpha: float | None = None,
    max_radius: float | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    store: str | os.PathLike[str] | None = None,
    verbose: bool = True,
) -> CertifiedResult:
    """Return predictions and radii within which no perturbation changes them.

    Which method it is follows from the classifier:

    - A ``PyTorchClassifier`` with ``noise``, or ART's ``PyTorchRandomizedSmoothing``, which says its own: **randomised
      smoothing** (Cohen, Rosenfeld, Kolter 2019, arXiv 1902.02918, algorithm CERTIFY). What is certified, in L2, is the
      class that the network predicts most often under Gaussian noise; train it under such noise.
    - ART's ``PyTorchIBPClassifier``: **interval bounds** (Gowal et al. 2018, arXiv 1810.12715), in Linf.
    - ART's ``PytorchDeepZ``: **zonotopes** (Singh et al. 2018), in Linf; tighter, and slower.

    Results depend on the seed and the example's number, not on the batch size. Bounds are computed in float32, as ART
    does, without allowance for rounding.

    Args:
        classifier: One of these.
        data: A data set, as for :meth:`art_classwise.ClassWiseAudit.evaluate`: a ``Dataset``, (x, y), or a torch one.
        noise: Standard deviation of the Gaussian noise, in the units of images: 0.25 is usual. It must be given, unless
            the classifier says it.
        n: Noisy samples per example for its radius; 1,000 if absent. Cohen et al. use 100,000, which certifies larger
            radii: with n samples all of one class, noise times the normal quantile of ``alpha ** (1 / n)``.
        n_selection: Samples that choose the class before; 100 if absent.
        alpha: Probability at most that an example's radius is wrong, at least 1e-9; the classifier's, or 0.001.
        max_radius: For bounds: the largest radius to try, 0.3 if absent. Radii are found by bisection, to 1/4096 of it.
        seed: Of the noise; 0 if absent.
        batch_size: Images per forward pass.
        store: A folder that results are kept in while they come, and that an interrupted call goes on from;
            :func:`art_classwise.read_certificate` reads it.
        verbose: Whether to show progress.

    Returns:
        The radii, and what they say class by class.

    Raises:
        InputError: There is no noise level, or one that isn't the classifier's; an option is out of range or for
            another method; ``n`` is so small that nothing can be certified at ``alpha``; the classifier is none of
            these, or its bounds aren't in the units of images; images don't fit; or the folder holds a certificate of
            something else.

    Example:
        >>> import art_classwise as acw
        >>> data = acw.load_dataset("digits", "test").first(4)
        >>> network = acw.build("digits-cnn", (1, 8, 8), 10, seed=0)
        >>> classifier = acw.as_classifier(network, (1, 8, 8), 10, device="cpu")
        >>> certified = acw.certify(classifier, data, noise=0.25, n=100, verbose=False)
        >>> certified.certificate.norm, round(certified.certificate.reach, 3)
        ('L2', 0.375)
    """
    if seed is not None:
        check_seed(seed)
    check_flag("verbose", verbose)
    if batch_size is not None:
        check_whole("batch_size", batch_size, 1)
    method: Smoothing | Bounds
    check = _checked_bounds(classifier)
    if check is not None:
        given = {"noise": noise, "n": n, "n_selection": n_selection, "alpha": alpha, "seed": seed}
        wrong = [f"`{name}`" for name, value in given.items() if value is not None]
        if wrong:
            raise InputError(
                f"{' and '.join(wrong)} {'are' if len(wrong) > 1 else 'is'} for randomised smoothing, but the "
                f"classifier, a {type(classifier).__name__}, is certified by its bounds, on which "
                f"{'they have' if len(wrong) > 1 else 'it has'} no effect: leave {'them' if len(wrong) > 1 else 'it'} "
                "out."
            )
        method = Bounds(check, float(check_positive("max_radius", 0.3 if max_radius is None else max_radius)))
    else:
        if max_radius is not None:
            raise InputError(
                "`max_radius` is for bounds: of smoothing, `n`, `noise` and `alpha` decide how far it goes."
            )
        method = _smoothing(classifier, noise, n, n_selection, alpha, seed)
    examples = as_dataset(data, n_classes=int(classifier.nb_classes))
    if len(examples.classes) != classifier.nb_classes:
        raise InputError(
            f"The classifier has {classifier.nb_classes} classes, but the data set has {len(examples.classes)}."
        )
    if len(np.unique(examples.ids)) < len(examples) or examples.ids.min() < 0:
        raise InputError("Examples' ids must be whole numbers of at least 0 that don't repeat: noise goes by them.")
    certificate = _certificate(method, classifier, examples)
    done, environments = _stored(store, certificate)
    if len(done) < len(examples) and (here := environment()) not in environments:
        environments += (here,)
    rows: _Rows = _by_smoothing if isinstance(method, Smoothing) else _by_bounds
    parts, last = [done], time.monotonic()
    total = len(examples)

    def so_far() -> CertifiedResult:
        return CertifiedResult(pd.concat(parts, ignore_index=True), certificate, environments)

    with progress_bar(total=total, name="certify", unit="img", shown=verbose, done=len(done)) as bar:
        begin = len(done)
        for predictions, radii in rows(method, classifier, examples, begin, batch_size):
            end = begin + len(predictions)
            of = {"example": examples.ids[begin:end], "label": examples.y[begin:end]}
            parts.append(pd.DataFrame({**of, "prediction": predictions, "radius": radii}))
            bar.update(end - begin)
            begin = end
            if store is not None and (end == total or time.monotonic() - last > _SECONDS):
                so_far().save(store)
                last = time.monotonic()
    return so_far()


def certified_accuracy(classifier: Any, x: npt.ArrayLike, y: npt.ArrayLike, *, radius: float, **options: Any) -> float:
    """Return the share of examples that are right and certified at a radius, a metric for ``per_class``.

    Args:
        classifier: As for :func:`certify`.
        x: Images, float32 (n, C, H, W) in [0, 1].
        y: True labels, indices (n,) or one-hot.
        radius: At least 0, in the units of images.
        **options: Of :func:`certify`.

    Returns:
        A fraction; NaN beyond what could be certified.

    Raises:
        InputError: As :func:`certify`, or the radius isn't one number of at least 0.

    Example:
        ```python
        per_class(certified_accuracy, radius=0.25, noise=0.25)(classifier, data.x, data.y, classes=data.classes)
        ```
    """
    asked = check_radius(radius)
    _checked_bounds(classifier)  # before it is asked for its number of classes
    classes = [str(k) for k in range(int(classifier.nb_classes))]
    found = certify(classifier, Dataset(x, y, classes), **{"verbose": False, **options})  # type: ignore[arg-type]
    table = found.certified_at(asked)
    return float((table["certified"] * table["n"]).sum(min_count=1) / table["n"].sum())


def _checked_bounds(classifier: Any) -> str | None:
    if not hasattr(classifier, "nb_classes"):
        raise InputError(
            f"The classifier must be an ART PyTorchClassifier, but is a {type(classifier).__name__}; as_classifier() "
            "makes one of any torch module."
        )
    return bounds_of(classifier)


def _smoothing(
    classifier: Any,
    noise: float | None,
    n: int | None,
    n_selection: int | None,
    alpha: float | None,
    seed: int | None,
) -> Smoothing:
    """Return how a classifier is smoothed: as it says, or as is asked for."""
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

    if isinstance(classifier, PyTorchRandomizedSmoothing):
        if noise is not None and as_float(noise) != classifier.scale:
            raise InputError(
                f"The classifier is smoothed with noise {classifier.scale:g}, but `noise` is {noise!r}: leave it out."
            )
        noise, alpha = classifier.scale, classifier.alpha if alpha is None else alpha
    else:
        check_classifier("The classifier", classifier)
    if noise is None:
        raise InputError(
            "There is no certificate without noise: give its standard deviation, `noise=0.25`, say, that the network "
            "was trained under. Without noise, ART's PyTorchIBPClassifier and PytorchDeepZ are certified, by bounds."
        )
    return smoothing(
        noise,
        1000 if n is None else n,
        n_selection=100 if n_selection is None else n_selection,
        alpha=0.001 if alpha is None else alpha,
        seed=0 if seed is None else int(seed),
    )


def _certificate(method: Smoothing | Bounds, classifier: Any, data: Dataset) -> Certificate:
    of: dict[str, Any] = {"method": "smoothing", "alpha": 0.0}
    if isinstance(method, Smoothing):
        of |= {name: getattr(method, name) for name in ("alpha", "noise", "n", "n_selection", "seed")}
    else:
        of["method"] = method.method
    return Certificate(
        **of,
        norm=method.norm,
        reach=method.reach,
        classes=tuple(data.classes),
        dataset=data.name,
        split=data.split,
        n_examples=len(data),
        examples=data_fingerprint(data),
        model=model_fingerprint(classifier),
        weights=weights_fingerprint(classifier.model),
    )


def _stored(store: str | os.PathLike[str] | None, asked: Certificate) -> tuple[pd.DataFrame, tuple[Environment, ...]]:
    """Return the rows that are there already, and where they were computed."""
    found = None if store is None else read_stored(store)
    if found is None:
        types = {"example": np.int64, "label": np.int64, "prediction": np.int64, "radius": np.float64}
        return pd.DataFrame({name: np.empty(0, kind) for name, kind in types.items()}), ()
    other = differences(found.certificate.model_dump(), asked.model_dump())
    if other:
        raise InputError(
            f"{FILE} in {store} is another certificate: {'; '.join(other[:3])}. Choose another folder, or remove it."
        )
    return found.examples, found.environments


def _by_smoothing(method: Smoothing, classifier: Any, data: Dataset, begin: int, batch_size: int | None) -> Rows:
    device = torch.device(classifier.device)
    module = MicroBatches(logits_module(classifier))
    most = batch_size or usual_batch_size(device, data.input_shape)
    for block in range(begin, len(data), _BLOCK):
        images = np.asarray(data.x[block : block + _BLOCK], dtype=np.float32)
        check_images(images, classifier, None)
        with preserved(module):
            found = [
                method.certify(module, torch.from_numpy(image).to(device), int(i), len(data.classes), most)
                for image, i in zip(images, data.ids[block : block + _BLOCK], strict=True)
            ]
        predictions, radii = zip(*found, strict=True)
        yield np.array(predictions, dtype=np.int64), np.array(radii, dtype=np.float64)


def _by_bounds(method: Bounds, classifier: Any, data: Dataset, begin: int, batch_size: int | None) -> Rows:
    for block in range(begin, len(data), batch_size or _BLOCK):
        images = np.asarray(data.x[block : block + (batch_size or _BLOCK)], dtype=np.float32)
        check_images(images, classifier, None)
        yield method.certify(classifier, images)
