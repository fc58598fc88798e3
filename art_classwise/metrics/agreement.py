"""Whether class accuracies agree: between attacks or models, and with the norms of the last layer's weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtri

from art_classwise.errors import InputError, check_number, check_seed, check_whole
from art_classwise.metrics._inputs import paired_counts

__all__ = ["correlations", "head_weight_norms", "rank_agreement"]


def rank_agreement(
    y: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    n_classes: int,
    *,
    repeats: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.Series[float]:
    """Return how far two outcomes on the same examples agree in the order of the classes, as Kendall's tau-b.

    The interval says what the examples tell of the tau of the true class accuracies. Examples are drawn anew within
    each class, both outcomes of an example together. A pair of classes is resolved if both outcomes order it alike, or
    if they order it in opposite ways, in all but (1 - ``confidence``) / 2 of the repeats. Each other pair may count for
    or against: the interval reaches from the tau with all of them against to the tau with all of them for. It also
    allows for pairs resolved by chance: of those that aren't in all repeats, 1 - ``confidence`` times the unresolved.

    The usual bootstrap intervals of tau don't hold here: noise in the accuracies pulls tau towards 0, and drawing anew
    adds as much noise again. Simulated were 10 classes of 5 to 1,000 examples, far apart, close together or near 0. Of
    the 95 % intervals, percentile, basic and bias-corrected ones covered the true tau in as few as 0, 2 and 0 % of the
    data sets; these in 98 % or more (of 300 each) where the true orders are equal, similar or unrelated, and in 96 % or
    more where they are opposite and the classes differ. Opposite orders of classes that are all within 8 points, on
    outcomes of which most are the same both times, look alike: covered were 92 % at phi 0.7, 77 % at phi 0.98, and 61 %
    within 0.4 points at phi 0.995; of 100 classes of 100, 58 % of 40 data sets. The intervals are wide in return, and
    [-1, 1] where no pair is resolved.

    Args:
        y: True labels, ints (n,).
        first: Whether each example withstood the first time (one attack, or one model), bool (n,).
        second: Whether it did the second time (another), bool (n,).
        n_classes: Number of classes, C.
        repeats: How often examples are drawn.
        confidence: Coverage aimed at.
        seed: Of the drawing.

    Returns:
        ``tau``, ``low``, ``high``; ``p``, of the hypothesis that the orders have nothing to do with each other, for
        which the classes are the sample, not the examples; ``resolved``, the share of pairs of classes that are;
        ``n_classes``, those with examples. NaN with fewer than two of them; where all accuracies of an outcome are
        equal there is no tau: NaN, too, but ``resolved`` is 0.

    Raises:
        InputError: Labels out of range, arrays of different length, no examples, outcomes that aren't true or false, or
            an option out of range.

    Example:
        >>> y, withstood = [0] * 50 + [1] * 50 + [2] * 50, [True] * 60 + [False] * 90
        >>> rank_agreement(y, withstood, withstood, 3).round(2)[["tau", "low", "high", "resolved"]].to_dict()
        {'tau': 1.0, 'low': 1.0, 'high': 1.0, 'resolved': 1.0}
    """
    from scipy.stats import kendalltau  # half a second, which the other metrics needn't wait

    check_whole("repeats", repeats, 1)
    check_number("confidence", confidence, 0, 1, above=True, below=True)
    check_seed(seed)
    counts = paired_counts(y, first, second, n_classes)
    n = counts.sum(1)
    counts, n = counts[n > 0], n[n > 0]
    a, b = (counts[:, 0] + counts[:, 1]) / n, (counts[:, 0] + counts[:, 2]) / n
    result = dict.fromkeys(("tau", "low", "high", "p", "resolved"), math.nan) | {"n_classes": float(len(n))}
    if len(n) > 1:
        result["resolved"] = 0.0
    if len(n) > 1 and np.ptp(a) > 0 and np.ptp(b) > 0:
        tau = kendalltau(a, b)
        result |= {"tau": float(tau.statistic), "p": float(tau.pvalue)}
        alike, opposite = _orders(counts, repeats, np.random.default_rng(seed))
        chance = 0.5 - confidence / 2
        enough = repeats * (1 - chance)
        concordant, discordant = (alike >= enough).mean(), (opposite >= enough).mean()
        unresolved = 1 - concordant - discordant
        by_chance = 2 * chance * unresolved
        low = concordant - discordant - unresolved - 2 * min(by_chance, concordant - (alike == repeats).mean())
        high = concordant - discordant + unresolved + 2 * min(by_chance, discordant - (opposite == repeats).mean())
        # Ties make tau-b differ from what the pairs count.
        result["low"], result["high"] = min(float(low), result["tau"]), max(float(high), result["tau"])
        result["resolved"] = float(concordant + discordant)
    return pd.Series(result)


def correlations(a: npt.ArrayLike, b: npt.ArrayLike, *, confidence: float = 0.95) -> pd.DataFrame:
    """Return the correlations of two measures of the classes, say of weight norms with robust accuracies.

    The intervals are Fisher's z with standard errors of 1 / sqrt(n - 3) for Pearson's, and, after Fieller, Hartley and
    Pearson 1957 (Biometrika 44, 470-481), sqrt(1.06 / (n - 3)) for Spearman's and sqrt(0.437 / (n - 4)) for Kendall's,
    which they found good up to 0.8. They and p take the classes for a sample; that each value is an estimate from
    examples isn't in them, and pulls the correlation towards 0, unless the same examples stand on both sides.

    Args:
        a: A value per class, (C,); NaN where there is none.
        b: Another, (C,). Classes with NaN in either are left out.
        confidence: Coverage of the intervals.

    Returns:
        Rows ``pearson``, ``spearman``, ``kendall`` (tau-b); columns ``value``, ``low``, ``high``, ``p`` (two-sided, as
        SciPy's), ``n`` (classes). NaN where the n is below 3, or all values of a measure are equal; ``low`` and
        ``high`` also where the n is too small for the standard error, or the value is 1 or -1, of which z is infinite.

    Raises:
        InputError: The measures aren't (C,), differ in length or are infinite, or the confidence is out of range.

    Example:
        >>> correlations([1, 2, 3, 4, 5, 6], [1, 3, 2, 5, 4, 6]).round(2)
                  value   low  high     p  n
        pearson    0.89  0.26  0.99  0.02  6
        spearman   0.89  0.23  0.99  0.02  6
        kendall    0.73  0.02  0.95  0.06  6
    """
    from scipy.stats import kendalltau, pearsonr, spearmanr  # half a second, which the other metrics needn't wait

    check_number("confidence", confidence, 0, 1, above=True, below=True)
    x, z = _measure(a), _measure(b)
    if len(x) != len(z):
        raise InputError(f"The two measures differ in length: {len(x)} classes, but {len(z)}.")
    known = ~(np.isnan(x) | np.isnan(z))
    x, z = x[known], z[known]
    n = len(x)
    varied = n >= 3 and all(np.ptp(v) > 1e-12 * np.abs(v).max() for v in (x, z))  # less is rounding
    quantile = float(ndtri(0.5 + confidence / 2))
    rows = {}
    for name, function, variance, lost in (
        ("pearson", pearsonr, 1.0, 3),
        ("spearman", spearmanr, 1.06, 3),
        ("kendall", kendalltau, 0.437, 4),
    ):
        found = function(x, z) if varied else None
        value, p = (float(found.statistic), float(found.pvalue)) if found is not None else (math.nan, math.nan)
        low = high = math.nan
        if n > lost and abs(value) < 1 - 1e-12:  # NaN isn't
            half = quantile * math.sqrt(variance / (n - lost))
            low, high = math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half)
        rows[name] = {"value": value, "low": low, "high": high, "p": p, "n": n}
    return pd.DataFrame.from_dict(rows, orient="index")


def _orders(
    counts: npt.NDArray[np.int64], repeats: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return in how many repeats two outcomes order each pair of classes alike, and in how many in opposite ways.

    A pair that is tied in both is ordered alike.

    Args:
        counts: (C, 4), of :func:`paired_counts`, all classes with examples.
        repeats: How often examples are drawn within each class.
        rng: What draws.

    Returns:
        Two arrays of counts, (C (C - 1) / 2,).
    """
    n = counts.sum(1)
    # One example more in each class, spread over all four outcomes: few that are all alike prove little.
    likely = (counts + 0.25) / (n + 1)[:, None]
    drawn = rng.multinomial(n, likely, size=(repeats, len(n))).transpose(2, 1, 0)
    a, b = (drawn[0] + drawn[1]) / n[:, None], (drawn[0] + drawn[2]) / n[:, None]
    alike, opposite = [], []
    for i in range(len(n) - 1):  # all pairs at once would be gigabytes with 1,000 classes
        a_above, a_below, b_above, b_below = a[i] > a[i + 1 :], a[i] < a[i + 1 :], b[i] > b[i + 1 :], b[i] < b[i + 1 :]
        alike.append(np.count_nonzero((a_above == b_above) & (a_below == b_below), axis=1))
        opposite.append(np.count_nonzero((a_above & b_below) | (a_below & b_above), axis=1))
    return np.concatenate(alike), np.concatenate(opposite)


def _measure(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise InputError(f"A measure must hold a value per class, (C,), but has shape {array.shape}.")
    if np.isinf(array).any():
        raise InputError("A measure must be finite, or NaN for a class without a value.")
    return array


def head_weight_norms(model: Any, n_classes: int | None = None) -> npt.NDArray[np.float64]:
    """Return the L2 norm of each class's row in the last linear layer of a network.

    Tian et al. 2021 (arXiv 2105.14240) find that classes with larger norms are more robust: that is
    ``correlations(head_weight_norms(model), accuracies)``.

    Args:
        model: An ART ``PyTorchClassifier``, or a torch module.
        n_classes: Number of the network's outputs, to find the layer by: it is the last linear one that was added (with
            so many outputs, if given). A classifier knows its own.

    Returns:
        (C,). 0 for a class that was excluded in training.

    Raises:
        InputError: It is neither, or the network has no such layer.

    Example:
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Linear(2, 2))
        >>> _ = network[0].weight.data.copy_(network[0].weight.new_tensor([[3.0, 4.0], [0.0, 1.0]]))
        >>> head_weight_norms(network)
        array([5., 1.])
    """
    from torch import nn  # seconds, which the other metrics needn't wait

    from art_classwise._core.art_interface import check_classifier
    from art_classwise._core.state import evaluating
    from art_classwise.head import find_head

    if isinstance(model, nn.Module):
        module = model
    else:
        check_classifier("`model`", model)
        module, n_classes = model.model, model.nb_classes
    with evaluating(module):  # in training mode, a spectral norm goes on with each look at it
        weight = find_head(module, n_classes).weight.detach().double().cpu().numpy()
    norms: npt.NDArray[np.float64] = np.linalg.norm(weight, axis=1)
    return norms
