"""Losses, as pure functions of logits and labels with one value per example.

What an attack ascends and what training descends are the same vocabulary; a class weight is then a
multiplication. Throughout: ``logits`` and ``logits_adv`` float (n, C), ``y`` int64 (n,), result (n,).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from art_classwise.errors import InputError, check_flag, check_number, check_positive, unknown

__all__ = [
    "ard",
    "ard_terms",
    "bat",
    "bat_terms",
    "cross_entropy",
    "dlr",
    "dlr_targeted",
    "kl",
    "margin",
    "mart",
    "mart_terms",
    "probability_margin",
    "rslad",
    "rslad_terms",
    "scaled_probability_margin",
    "soft_margin",
    "standard",
    "temperature",
    "trades",
    "trades_terms",
]


SOFTEST, SHARPEST = 1000.0, 0.001
"""Temperatures of distillation that float32 can compute with: beyond, divergences lose all digits, or overflow."""


def cross_entropy(logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return -log p_y, with p the softmax of the logits.

    ``label_smoothing`` s in [0, 1] makes it (1 - s) (-log p_y) + s mean_k(-log p_k) (Szegedy et al. 2016).

    Raises:
        InputError: ``label_smoothing`` is no number from 0 to 1.
    """
    if not 0 <= label_smoothing <= 1:
        raise InputError(f"`label_smoothing` must be from 0 to 1, but got {label_smoothing!r}.")
    return functional.cross_entropy(logits, y, reduction="none", label_smoothing=label_smoothing)


def temperature(logits: Tensor, y: Tensor, inverse_temperature: float) -> Tensor:
    """Return the cross-entropy of sharpened confidences, -log softmax(logits / T)_y.

    Tian et al. 2021 (arXiv 2105.14240), Temperature-PGD; ``inverse_temperature`` is their 1/T > 1.

    In float32 the gradient of this loss is exactly zero once the network is confident enough.
    :func:`soft_margin` rises in the same direction and keeps its gradient: attacks ascend that one.

    Raises:
        InputError: ``inverse_temperature`` is no finite number above 0.
    """
    check_positive("inverse_temperature", inverse_temperature)
    return cross_entropy(logits * inverse_temperature, y)


def soft_margin(logits: Tensor, y: Tensor, inverse_temperature: float = 1.0) -> Tensor:
    """Return T log sum_{k != y} exp(z_k / T) - z_y: what the temperature cross-entropy is a function of.

    With m this value and s = 1/T, the cross-entropy of softmax(s z) is log(1 + exp(s m)). It rises with m,
    so both have the same gradient up to a positive factor per example, s p(not y). That factor is what
    underflows in float32 for a confident network; here it is absent. s -> infinity gives :func:`margin`
    (the CW direction), s = 1 plain PGD, s -> 0 the mean of the other logits.

    Raises:
        InputError: ``inverse_temperature`` is no number above 0.
    """
    check_positive("inverse_temperature", inverse_temperature, finite=False)
    if inverse_temperature > 1e30:  # the product would overflow, and the limit is reached long before
        return margin(logits, y)
    others = _without(logits * inverse_temperature, y).logsumexp(1) / inverse_temperature
    return others - _of(logits, y)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return max_{k != y} z_k - z_y (Carlini and Wagner 2017): above 0 if and only if misclassified."""
    return _without(logits, y).amax(1) - _of(logits, y)


def probability_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return max_{k != y} p_k - p_y, with p the softmax of the logits: from -1 to 1, above 0 if misclassified.

    Xie et al. 2024 (arXiv 2411.15210), the loss of their probability margin attack, PMA. In float32 its gradient
    vanishes once the network is confident: attacks ascend :func:`scaled_probability_margin`.
    """
    p = logits.softmax(1)
    return _without(p, y).amax(1) - _of(p, y)


def scaled_probability_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return what rises in the direction of :func:`probability_margin`, and keeps its gradient.

    With m the soft margin at T = 1, so that 1 - p_y = sigmoid(m), and q the largest softmax of the logits without y, it
    is (1 + q) sigmoid(m) - 1. Its gradient is sigmoid(m) times that of q + (1 + q) p_y m where the factors of m are
    constants; here that is the value. sigmoid(m) is what underflows for a confident network.
    """
    m = soft_margin(logits, y)
    q = _without(logits, y).softmax(1).amax(1)
    wrong = (
        (-m.detach()).double().sigmoid().to(m.dtype)
    )  # in float32 a CPU's last digit depends on the place in a batch
    return q + ((1 + q) * wrong).detach() * m


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return the difference of logits ratio, (max_{k != y} z_k - z_y) / (z_(1) - z_(3)).

    Croce and Hein 2020 (arXiv 2003.01690), eq. 6, with z_(i) the i-th largest logit: a margin that scaling the
    logits doesn't change.

    Raises:
        InputError: There are fewer than 3 classes.
    """
    _check_classes(logits, 3)
    largest = logits.topk(3, dim=1).values
    return margin(logits, y) / (largest[:, 0] - largest[:, 2] + 1e-12)


def dlr_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return (z_t - z_y) / (z_(1) - (z_(3) + z_(4)) / 2), for a target class t (n,).

    Croce and Hein 2020 (arXiv 2003.01690), eq. 7.

    Raises:
        InputError: There are fewer than 4 classes.
    """
    _check_classes(logits, 4)
    largest = logits.topk(4, dim=1).values
    scale = largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2
    return (_of(logits, target) - _of(logits, y)) / (scale + 1e-12)


def kl(logits: Tensor, logits_adv: Tensor) -> Tensor:
    """Return KL(p || p') between the clean prediction p and the prediction under attack p'."""
    log_p, log_p_adv = logits.log_softmax(1), logits_adv.log_softmax(1)
    return (log_p.exp() * (log_p - log_p_adv)).sum(1)


_kl = kl  # `mart` has a switch of that name


def standard(logits_adv: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return standard adversarial training's loss, CE(p', y) (Madry et al. 2018)."""
    return cross_entropy(logits_adv, y, label_smoothing)


def trades(logits: Tensor, logits_adv: Tensor, y: Tensor, beta: float = 6.0, label_smoothing: float = 0.0) -> Tensor:
    """Return CE(p, y) + beta KL(p || p') (Zhang et al. 2019, TRADES, eq. 5 with 1/lambda = beta).

    ``label_smoothing`` is that of the cross-entropy.
    """
    first, second = trades_terms(logits, logits_adv, y, label_smoothing)
    return first + beta * second


def trades_terms(logits: Tensor, logits_adv: Tensor, y: Tensor, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return CE(p, y) and KL(p || p'), of which :func:`trades` is the sum with the weight beta."""
    return cross_entropy(logits, y, label_smoothing), kl(logits, logits_adv)


def mart(
    logits: Tensor | None,
    logits_adv: Tensor,
    y: Tensor,
    beta: float = 5.0,
    *,
    boosted: bool = True,
    on: str = "adversarial",
    kl: bool = True,
    weighted: bool | str = True,
    exact: bool = False,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return BCE(p', y) + beta KL(p || p') (1 - p_y) (Wang et al. 2020, MART, section 3).

    BCE is the boosted cross-entropy -log p'_y - log(1 - max_{k != y} p'_k). Gradients flow through p and through
    the weight 1 - p_y, as in the published implementation. The switches are the paper's ablations.

    Args:
        logits: Of the clean inputs; may be None where neither the KL term nor ``on`` asks for them.
        logits_adv: Of the inputs under attack.
        y: The labels.
        beta: Factor of the KL term.
        boosted: BCE as the first term; otherwise plain cross-entropy.
        on: What the first term sees: the ``"adversarial"`` or the ``"clean"`` logits.
        kl: Whether there is a KL term.
        weighted: Whether its weight is 1 - p_y; otherwise 1. ``"misclassified"`` and ``"correct"`` split hard in place
            of that: 1 for examples that the clean logits get wrong, or right, and 0 for the others.
        exact: Use the constants by which the published implementation keeps its logarithms finite:
            -log(1.0001 - p'_k + 1e-12) in BCE, so at most 9.21; log(p' + 1e-12) in KL; 1.0000001 - p_y as its
            weight. Otherwise the loss is the formula itself, computed from log-softmax.
        label_smoothing: Of the cross-entropy, which is BCE's first part; its second part stays as it is.

    Raises:
        InputError: ``on`` is neither of the two, ``weighted`` is another word, ``label_smoothing`` is out of range, or
            the clean logits are needed and None.
    """
    first, second = mart_terms(
        logits,
        logits_adv,
        y,
        boosted=boosted,
        on=on,
        kl=kl,
        weighted=weighted,
        exact=exact,
        label_smoothing=label_smoothing,
    )
    return first if second is None else first + beta * second


def mart_terms(
    logits: Tensor | None,
    logits_adv: Tensor,
    y: Tensor,
    *,
    boosted: bool = True,
    on: str = "adversarial",
    kl: bool = True,
    weighted: bool | str = True,
    exact: bool = False,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor | None]:
    """Return BCE(p', y) and KL(p || p') (1 - p_y), of which :func:`mart` is the sum with the weight beta.

    Args and errors are those of :func:`mart`; without the KL term the second is None.
    """
    if on not in ("adversarial", "clean"):
        raise unknown("value of `on`", on, ("adversarial", "clean"))
    weighted = check_weighted(weighted)
    if logits is None:
        if kl or on == "clean":
            raise InputError('MART needs the clean logits unless `kl=False` and `on="adversarial"`: pass `logits`.')
        logits = logits_adv  # nothing below reads it
    seen = logits if on == "clean" else logits_adv
    first = cross_entropy(seen, y, label_smoothing)
    if boosted:
        first = first - _log_not_runner_up(seen, y, exact)
    if not kl:
        return first, None
    p = logits.softmax(1)
    if exact:
        # p log p from log-softmax: the gradient of log(p) alone is NaN where p underflows.
        divergence = (p * (logits.log_softmax(1) - (logits_adv.softmax(1) + 1e-12).log())).sum(1)
    else:
        divergence = _kl(logits, logits_adv)
    if isinstance(weighted, str):
        wrong = logits.argmax(1) != y
        divergence = torch.where(wrong if weighted == "misclassified" else ~wrong, divergence, 0.0)
    elif weighted:
        divergence = divergence * ((1.0000001 if exact else 1.0) - _of(p, y))
    return first, divergence


_PARTS: tuple[Literal["misclassified"], Literal["correct"]] = ("misclassified", "correct")


def check_weighted(weighted: object) -> bool | Literal["misclassified", "correct"]:
    """Return :func:`mart`'s ``weighted`` if it is one of its values.

    Raises:
        InputError: It isn't.
    """
    for part in _PARTS:
        if isinstance(weighted, str) and weighted == part:
            return part
    try:
        return check_flag("weighted", weighted)
    except InputError:
        raise unknown("value of `weighted`", weighted, _PARTS, hint="Or give True or False.") from None


def bat(logits: Tensor, logits_first: Tensor, logits_last: Tensor, y: Tensor, beta: float = 6.0) -> Tensor:
    """Return CE(p_l, y) + KL(p_l || U) + KL(p_f || U) + beta KL(p || p_f) (Sun et al. 2023, BAT).

    U is the uniform distribution. Sun et al., "Improving Robust Fairness via Balance Adversarial Training", AAAI 2023
    (arXiv 2209.07534).

    Args:
        logits: Of the clean inputs.
        logits_first: Of the first iterate of the attack that is misclassified, p_f.
        logits_last: Of the last iterate before it, still classified correctly, p_l.
        y: The labels.
        beta: Factor of the last term.
    """
    first, second = bat_terms(logits, logits_first, logits_last, y)
    return first + beta * second


def bat_terms(
    logits: Tensor, logits_first: Tensor, logits_last: Tensor, y: Tensor, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return CE(p_l, y) + KL(p_l || U) + KL(p_f || U), and KL(p || p_f): see :func:`bat`."""
    first = cross_entropy(logits_last, y, label_smoothing) + _above_uniform(logits_last) + _above_uniform(logits_first)
    return first, kl(logits, logits_first)


def ard(
    logits: Tensor | None,
    logits_adv: Tensor,
    teacher: Tensor,
    y: Tensor,
    alpha: float = 1.0,
    temperature: float = 30.0,
) -> Tensor:
    """Return (1 - alpha) CE(p, y) + alpha T^2 KL(t || p') of softened predictions (Goldblum et al. 2020, ARD, eq. 4).

    t is the softmax of the teacher's logits over T, p' that of the network's under attack over T, and p the clean
    prediction, of T = 1 as in the released code. Goldblum et al., "Adversarially Robust Distillation", AAAI 2020 (arXiv
    1905.09747).

    Args:
        logits: Of the clean inputs; may be None where alpha is 1.
        logits_adv: Of the inputs under attack.
        teacher: The teacher's, of the clean inputs.
        y: The labels.
        alpha: Share of the distillation, from 0 to 1.
        temperature: T, from 0.001 to 1,000.

    Raises:
        InputError: ``alpha`` or ``temperature`` is out of range, or the clean logits are needed and None.
    """
    check_number("alpha", alpha, 0, 1)
    first, second = ard_terms(logits, logits_adv, teacher, y, temperature, classify=alpha < 1)
    return alpha * second if first is None else (1 - alpha) * first + alpha * second


def ard_terms(
    logits: Tensor | None,
    logits_adv: Tensor,
    teacher: Tensor,
    y: Tensor,
    temperature: float = 30.0,
    label_smoothing: float = 0.0,
    *,
    classify: bool = True,
) -> tuple[Tensor | None, Tensor]:
    """Return CE(p, y), None unless ``classify``, and T^2 KL(t || p'): see :func:`ard`."""
    check_number("temperature", temperature, SHARPEST, SOFTEST)
    divergence = temperature**2 * kl(teacher / temperature, logits_adv / temperature)
    if not classify:
        return None, divergence
    if logits is None:
        raise InputError("ARD needs the clean logits unless alpha is 1: pass `logits`.")
    return cross_entropy(logits, y, label_smoothing), divergence


def rslad(
    logits: Tensor,
    logits_adv: Tensor,
    teacher: Tensor,
    teacher_adv: Tensor | None = None,
    alpha: float = 5 / 6,
) -> Tensor:
    """Return (1 - alpha) KL(t || p) + alpha KL(t' || p') (Zi et al. 2021, RSLAD, eq. 7).

    The labels t and t' are both the teacher's prediction of the clean input. Zi et al., "Revisiting Adversarial
    Robustness Distillation", ICCV 2021 (arXiv 2108.07969). ABSLD (Zhao et al. 2024, arXiv 2312.05508, eq. 7) divides
    the teacher's logits by temperatures of the classes, of which those of t and t' differ.

    Args:
        logits: Of the clean inputs.
        logits_adv: Of the inputs under attack.
        teacher: The teacher's, of the clean inputs.
        teacher_adv: What the prediction under attack is compared with; ``teacher`` if absent.
        alpha: Share of the second term, from 0 to 1.

    Raises:
        InputError: ``alpha`` is out of range.
    """
    check_number("alpha", alpha, 0, 1)
    first, second = rslad_terms(logits, logits_adv, teacher, teacher_adv)
    return (1 - alpha) * first + alpha * second


def rslad_terms(
    logits: Tensor, logits_adv: Tensor, teacher: Tensor, teacher_adv: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return KL(t || p) and KL(t' || p'): see :func:`rslad`."""
    return kl(teacher, logits), kl(teacher if teacher_adv is None else teacher_adv, logits_adv)


def _above_uniform(logits: Tensor) -> Tensor:
    """Return KL(p || U) (n,), from 0 to log C."""
    log_p = logits.log_softmax(1)
    return (log_p.exp() * log_p).sum(1) + math.log(logits.shape[1])


def _log_not_runner_up(logits: Tensor, y: Tensor, exact: bool) -> Tensor:
    """Return log(1 - p_k) (n,), with k the likeliest class but y."""
    runner_up = _without(logits, y).argmax(1)
    if exact:
        return (1.0001 - _of(logits.softmax(1), runner_up) + 1e-12).log()
    # As a sum over the other classes: 1 - p_k itself loses all digits where p_k is near 1.
    return _without(logits.log_softmax(1), runner_up).logsumexp(1)


def _check_classes(logits: Tensor, least: int) -> None:
    if logits.shape[1] < least:
        raise InputError(
            f"The difference of logits ratio compares {least} classes here, but there are {logits.shape[1]}: take "
            "margin() or cross_entropy()."
        )


def _of(logits: Tensor, y: Tensor) -> Tensor:
    return logits.gather(1, y[:, None])[:, 0]


def _without(logits: Tensor, y: Tensor) -> Tensor:
    """Set column y to -inf, out of reach of max and logsumexp."""
    return logits.scatter(1, y[:, None], -torch.inf)
