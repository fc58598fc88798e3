"""Measures of single examples, class by class: ART's, and the GREAT score."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit, rel_entr, softmax

from art_classwise._core.arrays import as_array
from art_classwise._core.labels import check_labels, check_reads_true_labels, class_names
from art_classwise.errors import InputError, check_number, check_positive, check_seed, first_line

__all__ = ["great_score", "per_class"]


def per_class(
    metric: Callable[..., Any], *, each: bool = False, seed: int = 0, **fixed: Any
) -> Callable[..., pd.DataFrame]:
    """Return a function that computes a metric over the examples of each class.

    The metric is one of ``art.metrics``, a function ``f(classifier, x, ...)`` of yours, or an evaluation of ART, like
    ``GreatScorePyTorch``, which is built of the classifier and its other arguments. One with a parameter ``y`` gets
    the labels: ART's own one-hot, yours as indices. Of a tuple, the first is the value. ART's ``adversarial_accuracy``
    attacks what the model predicts; here its attack gets the true labels, as does any ``attack_crafter``.

    Each class is computed by itself, from the same random state, in eval mode. The model's mode and gradients and
    the global random state are put back.

    Args:
        metric: The metric.
        each: Whether it takes one example, without batch axis, like ``clever_u``: the value is the mean over the
            class's examples.
        seed: Of the global random state that each class starts from; ART's HopSkipJump draws from elsewhere.
        fixed: Other arguments of the metric, by name.

    Returns:
        A function ``(classifier, x, y, *, classes=None, **arguments)``: of an ART classifier, examples (n, ...), true
        labels (indices or one-hot), class names and more arguments of the metric, those that go before ``fixed``.
        It returns a row per class, in their order: ``n``, ``value``, and ``reason``, why the value is NaN, or "".
        It raises an InputError if there is no example, a label is no class, or the metric fails on every class.

    Raises:
        InputError: The metric can't be called or has no signature, or the seed is no seed.

    Example:
        ```python
        per_class(loss_sensitivity)(classifier, data.x, data.y, classes=data.classes)
        per_class(clever_u, each=True, nb_batches=10, batch_size=32, radius=2.0, norm=2)(classifier, data.x, data.y)
        ```
    """
    if not callable(metric):
        raise InputError(f"The metric must be a function or an evaluation of ART, but is a {type(metric).__name__}.")
    check_seed(seed)
    if isinstance(metric, partial) and not metric.args:  # as if its arguments were given here
        fixed = {**metric.keywords, **fixed}
        metric = metric.func
    any_metric: Any = metric
    evaluation = inspect.isclass(metric) and hasattr(metric, "evaluate")
    of_art = str(getattr(metric, "__module__", "")).split(".")[0] == "art"
    name = getattr(metric, "__name__", type(metric).__name__)
    try:
        accepted = inspect.signature(any_metric.evaluate if evaluation else metric).parameters
    except (TypeError, ValueError):  # some functions written in C
        raise InputError(f"{name} doesn't say which arguments it takes: wrap it in a function of yours.") from None

    def compute(classifier: Any, x: Any, y: npt.NDArray[np.int64], arguments: dict[str, Any]) -> float:
        labels = {}
        if "y" in accepted:
            labels["y"] = np.eye(classifier.nb_classes, dtype=np.float32)[y] if of_art else y
        if "verbose" in accepted:
            arguments = {"verbose": False, **arguments}
        if "attack_crafter" in accepted:
            arguments = _attacking_labels(classifier, y, arguments)
        if evaluation:
            return _number(any_metric(classifier, **arguments).evaluate(x, **labels))
        return _number(metric(classifier, x, **labels, **arguments))

    def over_class(classifier: Any, x: npt.NDArray[Any], y: npt.NDArray[np.int64], arguments: dict[str, Any]) -> float:
        if each:
            return float(np.mean([compute(classifier, x[i], y[i], arguments) for i in range(len(x))]))
        return compute(classifier, x, y, arguments)

    def by_class(
        classifier: Any, x: npt.ArrayLike, y: npt.ArrayLike, *, classes: Sequence[str] | None = None, **arguments: Any
    ) -> pd.DataFrame:
        if not hasattr(classifier, "nb_classes"):
            raise InputError(f"The classifier must be one of ART, but is a {type(classifier).__name__}.")
        examples, n_classes = as_array(x, "x"), int(classifier.nb_classes)
        if examples.ndim == 0 or len(examples) == 0:
            raise InputError("There are no examples: a metric needs at least one.")
        labels = check_labels(y, len(examples), n_classes)
        names = class_names(classes, n_classes)
        rows, failed = [], []
        for c in range(n_classes):
            chosen = labels == c
            value, reason = np.nan, "" if chosen.any() else "no examples"
            if chosen.any():
                with _computing(classifier, seed):
                    try:
                        value = over_class(classifier, examples[chosen], labels[chosen], {**fixed, **arguments})
                        reason = f"{name} is NaN" if np.isnan(value) else ""
                    except Exception as error:  # of others' code: of any kind
                        reason = first_line(error)
                        failed.append(error)
            rows.append({"n": int(chosen.sum()), "value": value, "reason": reason})
        if len(failed) == len(np.unique(labels)):
            raise InputError(f"The metric {name} fails on every class: {first_line(failed[0])}") from failed[0]
        return pd.DataFrame(rows, index=pd.Index(names, name="class"))

    return by_class


@contextmanager
def _computing(classifier: Any, seed: int) -> Iterator[None]:
    """Compute in eval mode, from one random state; put back the model and the global random state."""
    from torch import nn  # a second, which the other metrics needn't wait

    from art_classwise._core.state import preserved, preserved_random_state

    model: Any = getattr(classifier, "model", None)
    is_module = isinstance(model, nn.Module)
    with (
        preserved(model) if is_module else nullcontext(),
        preserved_random_state(seed),
        np.errstate(divide="ignore", invalid="ignore"),  # a mean of nothing is NaN, which is said
    ):
        if is_module:
            model.eval()
        yield


def _number(result: Any) -> float:
    value = np.asarray(result[0] if isinstance(result, tuple) and result else result)
    if value.size != 1 or not np.issubdtype(value.dtype, np.number) or np.iscomplexobj(value):
        raise InputError(f"The metric must return a number, but returned {result!r:.60}.")
    return float(value.item())


class _AttackingLabels:
    """An ART attack that is given the true labels, where the caller gives it examples alone."""

    def __init__(self, attack: Any, y: npt.NDArray[np.int64]) -> None:
        self._attack, self._y = attack, y

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attack, name)

    def generate(self, x: npt.NDArray[Any], y: Any = None, **kwargs: Any) -> Any:
        return self._attack.generate(x, np.atleast_1d(self._y) if y is None else y, **kwargs)


def _attacking_labels(classifier: Any, y: npt.NDArray[np.int64], arguments: dict[str, Any]) -> dict[str, Any]:
    """Return a metric's arguments with an attack on the true labels; that of ``attack_name``, if it is named."""
    attack, name = arguments.get("attack_crafter"), arguments.get("attack_name")
    if attack is None and name is not None:
        from art.metrics.metrics import get_crafter  # seconds

        params = arguments.get("attack_params") or {}
        attack = get_crafter(classifier, name, params)
        # As ART does, it looks for the smallest perturbation up to eps.
        wanted = {"verbose": False, **params, "minimal": True}
        attack.set_params(**{key: value for key, value in wanted.items() if key in attack.attack_params})
    if attack is None:
        return arguments
    check_reads_true_labels("The attack", attack)
    return {**arguments, "attack_crafter": _AttackingLabels(attack, y)}


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
