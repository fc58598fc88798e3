"""Any ART metric, class by class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from art_classwise._core.labels import check_labels, check_reads_true_labels, class_names
from art_classwise.errors import InputError, check_seed, first_line

__all__ = ["per_class"]


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
        examples, n_classes = np.asarray(x), int(classifier.nb_classes)
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
