"""GREAT Score by class: how far the predicted probability of the truth stands above the others, without an attack."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit, rel_entr, softmax

from art_classwise._core.labels import check_labels, class_names
from art_classwise.errors import InputError, check_number, check_positive

__all__ = ["great_score"]

_SCALE = math.sqrt(math.pi / 2)


def great_score(
    logits: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    activation: Literal["softmax", "sigmoid"] | None = "softmax",
    temperature: float = 1.0,
    classes: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return the mean GREAT Score of each class (Li et al., NeurIPS 2024, arXiv 2304.09875; by class: 2604.12757).

    An example scores sqrt(pi/2) max(p_y - max_{k != y} p_k, 0), with p the softmax or the sigmoid of z / T: 0 if it is
    misclassified, at most 1.25. The logits z of an ART classifier are ``classifier.predict(x)``, if its network
    returns logits.

    **What it certifies.** A class can't overtake the truth within this L2 distance, in units of the input, where the
    difference of their p is sqrt(2/pi)-Lipschitz. That holds of any network whose p are averaged over Gaussian noise
    of standard deviation 1 on the input (Salman et al. 2019, arXiv 1906.04584), and of few others. Of a network as it
    is, the score is no bound: it follows confidence, so a naturally trained one may score near 1.25 with no robustness
    at all, and a lower T raises it, though no decision changes. Calibrate T against attacks before reading it as a
    distance.

    The paper's examples are samples of a generator; those of a test set give the mean over its distribution. The
    interval is Chernoff's for means of bounded values (Hoeffding 1963, theorem 1): it holds for any number of
    independent examples, is never wider than the better known interval of Hoeffding, and has a width at both ends.

    Args:
        logits: z, finite, (n, C).
        y: True labels, indices (n,) or one-hot (n, C).
        activation: ``"softmax"`` or ``"sigmoid"``; None if ``logits`` are p already, in [0, 1].
        temperature: T, above 0; unused if there is no activation.
        classes: Names of the classes, the index of the result; the numbers 0 to C - 1 if absent.
        confidence: Coverage of the interval of each class.

    Returns:
        A row per class, in their order: ``n``, ``score``, ``low``, ``high``, from 0 to sqrt(pi/2). A class without
        examples has n = 0 and NaN.

    Raises:
        InputError: There is no example or a single class, a value is not finite or no probability, a label is no
            class, an option is out of range, or the names are of the wrong number.

    Example:
        >>> great_score([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]], [0, 1, 1])[["n", "score"]].round(3)
               n  score
        class
        0      1  0.955
        1      2  0.567
    """
    z = np.asarray(logits, dtype=np.float64)
    if z.ndim != 2 or z.shape[0] == 0 or z.shape[1] < 2:
        raise InputError(f"Logits must be of shape (n, C), of at least one example and two classes, but got {z.shape}.")
    if not np.isfinite(z).all():
        raise InputError(f"Logits must be finite, but those of example {int(np.isfinite(z).all(1).argmin())} are not.")
    check_number("confidence", confidence, 0, 1, above=True, below=True)
    labels = check_labels(y, len(z), z.shape[1], x_name="logits")
    names = class_names(classes, z.shape[1])
    p = _probabilities(z, activation, temperature)
    truth = np.arange(z.shape[1]) == labels[:, None]
    margin = np.maximum(p[truth] - np.where(truth, -np.inf, p).max(1), 0)
    n = np.bincount(labels, minlength=z.shape[1])
    mean = np.bincount(labels, weights=margin, minlength=z.shape[1]) / np.where(n > 0, n, np.nan)
    low, high = _bounded_mean(mean, n, confidence)
    return pd.DataFrame(
        {"n": n, "score": _SCALE * mean, "low": _SCALE * low, "high": _SCALE * high},
        index=pd.Index(names, name="class"),
    )


def _probabilities(z: npt.NDArray[np.float64], activation: str | None, temperature: float) -> npt.NDArray[np.float64]:
    """Return p (n, C) of logits (n, C)."""
    check_positive("temperature", temperature)
    are_probabilities = bool(((z >= 0) & (z <= 1)).all())
    if activation is None:
        if not are_probabilities:
            raise InputError("Without activation, probabilities in [0, 1] are needed: give the activation of logits.")
        return z
    if activation not in ("softmax", "sigmoid"):
        raise InputError(f'`activation` must be "softmax", "sigmoid" or None, but got {activation!r}.')
    if are_probabilities and np.allclose(z.sum(1), 1, atol=1e-4):
        warnings.warn("The logits seem to be probabilities: then give `activation=None`.", stacklevel=3)
    with np.errstate(over="ignore"):  # of a tiny temperature: at infinity both functions have their limits
        scaled = (z - z.max(1, keepdims=True) if activation == "softmax" else z) / temperature
    p: npt.NDArray[np.float64] = softmax(scaled, axis=1) if activation == "softmax" else expit(scaled)
    return p


def _bounded_mean(
    mean: npt.NDArray[np.float64], n: npt.NDArray[np.int64], confidence: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return Chernoff's interval of the means of n independent values in [0, 1]: the q with n KL(mean || q) small."""
    most = math.log(2 / (1 - confidence)) / np.where(n > 0, n, np.nan)

    def end(outermost: float) -> npt.NDArray[np.float64]:
        """Halve what lies between the mean and the outermost value; KL grows outwards."""
        inner, outer = mean, np.full_like(mean, outermost)
        for _ in range(60):
            middle = (inner + outer) / 2
            inside = rel_entr(mean, middle) + rel_entr(1 - mean, 1 - middle) <= most
            inner, outer = np.where(inside, middle, inner), np.where(inside, outer, middle)
        return np.where(n > 0, outer, np.nan)

    return end(0.0), end(1.0)
